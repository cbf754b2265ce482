//! One call as an SDK wrote it. SDKs write `null` for what they do not know, so it counts as absent everywhere.

use crate::answer::Code;
use crate::fact::{Rejection, text};
use crate::json::{Fault, Keys, Reader, Value};

/// Segment's six calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Track,
    Identify,
    Page,
    Screen,
    Group,
    Alias,
}

impl Call {
    const ALL: [Self; 6] = [Self::Track, Self::Identify, Self::Page, Self::Screen, Self::Group, Self::Alias];

    /// The call of a `type`, or of the last part of a path.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|call| call.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Group => "group",
            Self::Alias => "alias",
        }
    }
}

/// An item of a batch, or the body of a single call. What is not listed is ignored.
#[derive(Debug, Default)]
pub(super) struct Item<'a> {
    pub(super) kind: Option<Value<'a>>,
    pub(super) message_id: Option<Value<'a>>,
    pub(super) user_id: Option<Value<'a>>,
    pub(super) anonymous_id: Option<Value<'a>>,
    pub(super) timestamp: Option<Value<'a>>,
    pub(super) original_timestamp: Option<Value<'a>>,
    pub(super) sent_at: Option<Value<'a>>,
    pub(super) event: Option<Value<'a>>,
    pub(super) name: Option<Value<'a>>,
    pub(super) category: Option<Value<'a>>,
    pub(super) group_id: Option<Value<'a>>,
    pub(super) properties: Option<Value<'a>>,
    pub(super) traits: Option<Value<'a>>,
    pub(super) context: Option<Value<'a>>,
    pub(super) integrations: Option<Value<'a>>,
    pub(super) write_key: Option<Value<'a>>,
    /// The whole item as written.
    pub(super) written: &'a str,
}

impl<'a> Item<'a> {
    /// Reads the text of one object.
    pub(super) fn read(written: &'a str) -> Result<Self, Fault> {
        let mut item = Self { written, ..Self::default() };
        let (mut reader, mut keys) = (Reader::of(written).with_negative_zeros(), Keys::default());
        reader.object(|key, reader| {
            let value = reader.value(2)?;
            if let Some(slot) = item.slot(&key).filter(|_| value != Value::Null) {
                *slot = Some(value);
            }
            keys.insert(key)
        })?;
        reader.end()?;
        Ok(item)
    }

    fn slot(&mut self, key: &str) -> Option<&mut Option<Value<'a>>> {
        Some(match key {
            "type" => &mut self.kind,
            "messageId" => &mut self.message_id,
            "userId" => &mut self.user_id,
            "anonymousId" => &mut self.anonymous_id,
            "timestamp" => &mut self.timestamp,
            "originalTimestamp" => &mut self.original_timestamp,
            "sentAt" => &mut self.sent_at,
            "event" => &mut self.event,
            "name" => &mut self.name,
            "category" => &mut self.category,
            "groupId" => &mut self.group_id,
            "properties" => &mut self.properties,
            "traits" => &mut self.traits,
            "context" => &mut self.context,
            "integrations" => &mut self.integrations,
            "writeKey" => &mut self.write_key,
            _ => return None,
        })
    }

    /// Which call it is, where its path does not say so.
    pub(super) fn call(&self) -> Result<Call, Rejection> {
        match text("type", self.kind.clone())? {
            None => Err(Rejection::new(Code::MissingField, "type is missing")),
            Some(name) => Call::from_name(&name).ok_or_else(|| {
                Rejection::new(Code::UnknownEvent, "type is none of track, identify, page, screen, group, alias")
            }),
        }
    }
}
