//! Why Segment discards a call behind a 200, in its own codes (Segment docs, Delivery Overview, discards).

use crate::kind::Kind;
use crate::scan::{Head, Shape};

/// Longest messageId Segment takes, in characters.
const MESSAGE_ID_CHARS_MAX: usize = 100;

/// A batch with no items.
pub(crate) const EMPTY_BATCH: &str = "empty_batch";
/// The write key belongs to no source.
pub(crate) const UNKNOWN_SOURCE: &str = "unknown_source";
/// Items beyond the 2,500th. Segment gives this no code.
pub(crate) const BATCH_OVER_LIMIT: &str = "batch_over_2500";
/// No call at all: not an object, an unknown type, or a field of the wrong kind that has no code of its own.
pub(crate) const BAD_REQUEST: &str = "bad_request";
/// Over 100 characters. Segment gives this no code.
const MESSAGE_ID_TOO_LONG: &str = "message_id_too_long";

/// The reason to discard a call, if there is one.
pub(crate) fn drop_reason(kind: Option<Kind>, head: Option<&Head<'_>>) -> Option<&'static str> {
    let (Some(kind), Some(head)) = (kind, head) else {
        return Some(BAD_REQUEST);
    };
    wrong_message_id(&head.message_id)
        .or_else(|| wrong_ids(kind, head))
        .or_else(|| wrong_fields(kind, head))
        .or_else(|| not_object(&head.properties, "properties_not_object"))
        .or_else(|| not_object(&head.traits, "traits_not_object"))
        .or_else(|| not_object_or_null(&head.context))
        .or_else(|| not_object_or_null(&head.integrations))
}

fn wrong_message_id(message_id: &Shape<'_>) -> Option<&'static str> {
    match message_id {
        Shape::Absent | Shape::Null => None,
        Shape::Text(id) => (id.chars().count() > MESSAGE_ID_CHARS_MAX).then_some(MESSAGE_ID_TOO_LONG),
        Shape::Object | Shape::Other => Some(BAD_REQUEST),
    }
}

fn wrong_ids(kind: Kind, head: &Head<'_>) -> Option<&'static str> {
    let not_string = |id: &Shape<'_>| !id.is_absent() && id.text().is_none_or(|text| text.trim().is_empty());
    if [&head.user_id, &head.anonymous_id, &head.group_id, &head.previous_id].into_iter().any(not_string) {
        return Some("id_not_string");
    }
    match kind {
        Kind::Alias => (head.previous_id.is_absent() || head.user_id.is_absent()).then_some("id_required"),
        Kind::Track | Kind::Identify | Kind::Page | Kind::Screen | Kind::Group => {
            if head.user_id.is_absent() && head.anonymous_id.is_absent() {
                Some("no_user_anon_id")
            } else {
                (kind == Kind::Group && head.group_id.is_absent()).then_some("id_required")
            }
        }
    }
}

fn wrong_fields(kind: Kind, head: &Head<'_>) -> Option<&'static str> {
    match kind {
        Kind::Track => match &head.event {
            Shape::Absent | Shape::Null => Some("event_not_defined"),
            Shape::Text(event) if event.trim().is_empty() => Some("event_not_defined"),
            Shape::Text(_) => None,
            Shape::Object | Shape::Other => Some("event_not_string"),
        },
        Kind::Page | Kind::Screen => {
            empty_text(&head.name, "name_not_string").or_else(|| empty_text(&head.category, "category_not_string"))
        }
        Kind::Identify | Kind::Group | Kind::Alias => None,
    }
}

fn empty_text(field: &Shape<'_>, reason: &'static str) -> Option<&'static str> {
    (!field.is_absent() && field.text().is_none_or(str::is_empty)).then_some(reason)
}

fn not_object(field: &Shape<'_>, reason: &'static str) -> Option<&'static str> {
    (!matches!(field, Shape::Absent | Shape::Object)).then_some(reason)
}

fn not_object_or_null(field: &Shape<'_>) -> Option<&'static str> {
    (!matches!(field, Shape::Absent | Shape::Null | Shape::Object)).then_some(BAD_REQUEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: Option<&str>) {
        let head: Head<'_> = serde_json::from_str(json).unwrap();
        let kind = head.kind.text().and_then(Kind::from_name);
        assert_eq!(drop_reason(kind, Some(&head)), expected, "{json}");
    }

    #[test]
    fn sound_calls_are_kept() {
        check(r#"{"type":"track","userId":"u","event":"A"}"#, None);
        check(r#"{"type":"track","anonymousId":"a","userId":null,"event":"A","properties":{},"context":null}"#, None);
        check(r#"{"type":"identify","userId":"u","traits":{"a":null}}"#, None);
        check(r#"{"type":"page","anonymousId":"a"}"#, None);
        check(r#"{"type":"screen","anonymousId":"a","name":"n","category":"c"}"#, None);
        check(r#"{"type":"group","anonymousId":"a","groupId":"g"}"#, None);
        check(r#"{"type":"alias","previousId":"p","userId":"u"}"#, None);
    }

    #[test]
    fn ids() {
        check(r#"{"type":"track","event":"A"}"#, Some("no_user_anon_id"));
        check(r#"{"type":"track","event":"A","userId":null}"#, Some("no_user_anon_id"));
        check(r#"{"type":"track","event":"A","userId":""}"#, Some("id_not_string"));
        check(r#"{"type":"track","event":"A","userId":" ","anonymousId":"a"}"#, Some("id_not_string"));
        check(r#"{"type":"track","event":"A","userId":7}"#, Some("id_not_string"));
        check(r#"{"type":"group","userId":"u"}"#, Some("id_required"));
        check(r#"{"type":"group","userId":"u","groupId":""}"#, Some("id_not_string"));
        check(r#"{"type":"alias","userId":"u"}"#, Some("id_required"));
    }

    #[test]
    fn fields() {
        check(r#"{"type":"track","userId":"u"}"#, Some("event_not_defined"));
        check(r#"{"type":"track","userId":"u","event":""}"#, Some("event_not_defined"));
        check(r#"{"type":"track","userId":"u","event":7}"#, Some("event_not_string"));
        check(r#"{"type":"track","userId":"u","event":"A","properties":[]}"#, Some("properties_not_object"));
        check(r#"{"type":"track","userId":"u","event":"A","properties":null}"#, Some("properties_not_object"));
        check(r#"{"type":"identify","userId":"u","traits":"x"}"#, Some("traits_not_object"));
        check(r#"{"type":"page","userId":"u","name":""}"#, Some("name_not_string"));
        check(r#"{"type":"screen","userId":"u","name":"n","category":1}"#, Some("category_not_string"));
        check(r#"{"type":"track","userId":"u","event":"A","context":[]}"#, Some("bad_request"));
        check(r#"{"type":"nonsense","userId":"u"}"#, Some("bad_request"));
        check(r#"{"userId":"u"}"#, Some("bad_request"));
        assert_eq!(drop_reason(None, None), Some("bad_request"));
    }

    #[test]
    fn message_ids() {
        let with_id = |id: &str| format!(r#"{{"type":"track","userId":"u","event":"A","messageId":{id}}}"#);
        check(&with_id(&format!("\"{}\"", "é".repeat(100))), None);
        check(&with_id(&format!("\"{}\"", "x".repeat(101))), Some("message_id_too_long"));
        check(&with_id("7"), Some("bad_request"));
        check(&with_id("null"), None);
    }
}
