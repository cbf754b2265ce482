//! One call, rendered, or refused for a reason Segment itself would name.

use crate::json::Object;
use crate::limits;

/// Which call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Something happened.
    Track {
        /// The event's name.
        event: &'a str,
    },
    /// Who somebody is.
    Identify,
    /// A page was seen.
    Page {
        /// The page's name.
        name: Option<&'a str>,
        /// The page's category.
        category: Option<&'a str>,
    },
    /// A screen of an app was seen.
    Screen {
        /// The screen's name.
        name: Option<&'a str>,
        /// The screen's category.
        category: Option<&'a str>,
    },
    /// Somebody belongs to a group.
    Group {
        /// The group.
        group_id: &'a str,
    },
}

/// One call on its way to Segment. `properties`, `traits` and `context` are written by the caller.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Which call.
    pub kind: Kind<'a>,
    /// The idempotency key.
    pub message_id: &'a str,
    /// When it happened, RFC 3339 with zone.
    pub timestamp: &'a str,
    /// The customer's id of the user.
    pub user_id: Option<&'a str>,
    /// A stable id while the user is unknown; both, on an identify that links them.
    pub anonymous_id: Option<&'a str>,
    /// Which destinations get it: the members of `integrations`, as JSON without braces. Empty: all of them.
    pub integrations: &'a str,
}

/// Why Segment would accept an item with 200 and then drop it. `Display` is Segment's own code where it has one, so that
/// the word can be looked up in its documentation ("Delivery overview, discards").
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Neither id is there, or only a placeholder.
    #[error("no_user_anon_id")]
    NoId,
    /// A track without a name.
    #[error("event_not_defined")]
    NoEvent,
    /// A name no warehouse could hold.
    #[error("event_name_too_long")]
    EventTooLong,
    /// A group call without a group, or with one that Unify drops.
    #[error("group_id_invalid")]
    GroupId,
    /// Not 1 to 99 printable ASCII characters.
    #[error("message_id_invalid")]
    MessageId,
    /// Larger than an item may be.
    #[error("item_too_large")]
    TooLarge,
}

impl Call<'_> {
    /// Checks the call and appends it to `out` as one item. `context` and `body` write what goes into `context` and into
    /// `properties` (track, page, screen) or `traits` (identify, group). On an error `out` is as it was.
    ///
    /// # Errors
    /// [`Invalid`] when Segment would drop the item.
    pub fn render(
        &self,
        out: &mut Vec<u8>,
        context: impl FnOnce(&mut Object<'_>),
        body: impl FnOnce(&mut Object<'_>),
    ) -> Result<(), Invalid> {
        self.check()?;
        let start = out.len();
        let mut item = Object::open(out);
        let body_key = match self.kind {
            Kind::Track { event } => {
                item.text("type", "track");
                item.text("event", event);
                "properties"
            }
            Kind::Identify => {
                item.text("type", "identify");
                "traits"
            }
            Kind::Page { name, category } | Kind::Screen { name, category } => {
                item.text("type", if matches!(self.kind, Kind::Page { .. }) { "page" } else { "screen" });
                item.text_if("name", name);
                item.text_if("category", category);
                "properties"
            }
            Kind::Group { group_id } => {
                item.text("type", "group");
                item.text("groupId", group_id);
                "traits"
            }
        };
        item.text("messageId", self.message_id);
        item.text("timestamp", self.timestamp);
        item.text_if("userId", self.user_id);
        item.text_if("anonymousId", self.anonymous_id);
        item.object("context", context);
        if !self.integrations.is_empty() {
            item.object("integrations", |integrations| integrations.members(self.integrations));
        }
        item.object(body_key, body);
        item.close();
        if out.len() - start > limits::ITEM_BYTES_MAX {
            out.truncate(start);
            return Err(Invalid::TooLarge);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Invalid> {
        let usable = |id: Option<&str>| id.is_some_and(|id| !is_blank(id));
        if !usable(self.user_id) && !usable(self.anonymous_id) {
            return Err(Invalid::NoId);
        }
        let printable = self.message_id.bytes().fold(true, |all, byte| all & byte.is_ascii_graphic());
        if self.message_id.is_empty() || self.message_id.len() > limits::MESSAGE_ID_CHARS_MAX || !printable {
            return Err(Invalid::MessageId);
        }
        match self.kind {
            Kind::Track { event } if is_blank(event) => Err(Invalid::NoEvent),
            Kind::Track { event } if event.len() > limits::EVENT_NAME_BYTES_MAX => Err(Invalid::EventTooLong),
            Kind::Group { group_id } if is_blank(group_id) || group_id.len() > limits::GROUP_ID_BYTES_MAX => {
                Err(Invalid::GroupId)
            }
            Kind::Track { .. } | Kind::Group { .. } | Kind::Identify | Kind::Page { .. } | Kind::Screen { .. } => {
                Ok(())
            }
        }
    }
}

/// Whether a text is nothing but white space. Most begin with something else.
fn is_blank(text: &str) -> bool {
    !text.as_bytes().first().is_some_and(u8::is_ascii_graphic) && text.trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call<'static> {
        let (message_id, timestamp) = ("infl_1", "2026-11-23T10:00:00.000Z");
        Call {
            kind: Kind::Track { event: "Email Opened" },
            message_id,
            timestamp,
            user_id: Some("u"),
            anonymous_id: None,
            integrations: "",
        }
    }

    #[test]
    fn an_item_has_what_segment_asks_for() {
        let mut out = Vec::new();
        call().render(&mut out, |context| context.text("a", "b"), |body| body.bool("is_unique_open", true)).unwrap();
        let expected = concat!(
            r#"{"type":"track","event":"Email Opened","messageId":"infl_1","timestamp":"2026-11-23T10:00:00.000Z","#,
            r#""userId":"u","context":{"a":"b"},"properties":{"is_unique_open":true}}"#
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_screen_has_what_a_page_has_and_the_senders_switches() {
        let (name, category) = (Some("Cart"), Some("Shop"));
        for (kind, word) in [(Kind::Page { name, category }, "page"), (Kind::Screen { name, category }, "screen")] {
            let mut out = Vec::new();
            Call { kind, integrations: r#""All":false"#, ..call() }.render(&mut out, |_| {}, |_| {}).unwrap();
            let expected = format!(
                concat!(
                    r#"{{"type":"{}","name":"Cart","category":"Shop","messageId":"infl_1","#,
                    r#""timestamp":"2026-11-23T10:00:00.000Z","userId":"u","context":{{}},"#,
                    r#""integrations":{{"All":false}},"properties":{{}}}}"#
                ),
                word
            );
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn what_segment_would_drop_is_refused() {
        let long = "x".repeat(600);
        for (call, expected) in [
            (Call { user_id: None, ..call() }, Invalid::NoId),
            (Call { user_id: Some(" "), anonymous_id: Some(""), ..call() }, Invalid::NoId),
            (Call { message_id: "", ..call() }, Invalid::MessageId),
            (Call { message_id: &long, ..call() }, Invalid::MessageId),
            (Call { message_id: "a b", ..call() }, Invalid::MessageId),
            (Call { kind: Kind::Track { event: " " }, ..call() }, Invalid::NoEvent),
            (Call { kind: Kind::Track { event: &long }, ..call() }, Invalid::EventTooLong),
            (Call { kind: Kind::Group { group_id: "" }, ..call() }, Invalid::GroupId),
            (Call { kind: Kind::Group { group_id: &long }, ..call() }, Invalid::GroupId),
        ] {
            let mut out = b"before".to_vec();
            assert_eq!(call.render(&mut out, |_| {}, |_| {}), Err(expected));
            assert_eq!(out, b"before");
        }
        let mut out = b"before".to_vec();
        let huge = "x".repeat(limits::ITEM_BYTES_MAX);
        assert_eq!(call().render(&mut out, |_| {}, |body| body.text("a", &huge)), Err(Invalid::TooLarge));
        assert_eq!(out, b"before");
    }
}
