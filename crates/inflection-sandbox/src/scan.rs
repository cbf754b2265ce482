//! One borrowed pass over a call: the few fields the rules need, and a hash of everything else.
//!
//! A load test sends hundreds of thousands of calls a second through here, so nothing is copied unless a string has escapes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What stands at a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape<'a> {
    #[default]
    Absent,
    Null,
    Text(Cow<'a, str>),
    Object,
    /// A number, a boolean or an array.
    Other,
}

impl Shape<'_> {
    /// The string, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Absent | Self::Null | Self::Object | Self::Other => None,
        }
    }

    /// Whether the sender left it out; `null` says the same.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent | Self::Null)
    }
}

/// Any JSON value: its shape and its content hash.
///
/// The hash does not depend on the order of an object's keys nor on white space, because a sender that repeats a call may
/// serialize it anew. It is not keyed: it tells mistakes apart, not attacks.
#[derive(Debug)]
pub(crate) struct Scanned<'a> {
    pub(crate) shape: Shape<'a>,
    pub(crate) hash: u64,
}

impl<'de> Deserialize<'de> for Scanned<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Scanned<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scanned { hash: hash_text(text), shape: Shape::Text(Cow::Borrowed(text)) })
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scanned { hash: hash_text(text), shape: Shape::Text(Cow::Owned(text.to_owned())) })
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scanned { hash: mix(TAG_BOOLEAN, u64::from(value)), shape: Shape::Other })
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Scanned { hash: mix(TAG_POSITIVE, value), shape: Shape::Other })
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Scanned { hash: mix(TAG_NEGATIVE, value.unsigned_abs()), shape: Shape::Other })
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Scanned { hash: mix(TAG_FLOAT, value.to_bits()), shape: Shape::Other })
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scanned { hash: TAG_NULL, shape: Shape::Null })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut hash = TAG_ARRAY;
        while let Some(item) = items.next_element::<Scanned<'de>>()? {
            hash = mix(hash, item.hash);
        }
        Ok(Scanned { hash, shape: Shape::Other })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut hash = TAG_OBJECT;
        while let Some((key, value)) = entries.next_entry::<Scanned<'de>, Scanned<'de>>()? {
            hash = hash.wrapping_add(hash_entry(key.hash, value.hash));
        }
        Ok(Scanned { hash, shape: Shape::Object })
    }
}

/// The fields of a call that decide what becomes of it, and the hash of its content without the envelope's fields.
#[derive(Debug, Default)]
pub(crate) struct Head<'a> {
    pub(crate) kind: Shape<'a>,
    pub(crate) message_id: Shape<'a>,
    pub(crate) user_id: Shape<'a>,
    pub(crate) anonymous_id: Shape<'a>,
    pub(crate) previous_id: Shape<'a>,
    pub(crate) group_id: Shape<'a>,
    pub(crate) event: Shape<'a>,
    pub(crate) name: Shape<'a>,
    pub(crate) category: Shape<'a>,
    pub(crate) properties: Shape<'a>,
    pub(crate) traits: Shape<'a>,
    pub(crate) context: Shape<'a>,
    pub(crate) integrations: Shape<'a>,
    pub(crate) sent_at: Shape<'a>,
    pub(crate) write_key: Shape<'a>,
    pub(crate) content: u64,
}

impl<'de> Deserialize<'de> for Head<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadVisitor)
    }
}

struct HeadVisitor;

impl<'de> Visitor<'de> for HeadVisitor {
    type Value = Head<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a call")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Head<'de>, A::Error> {
        let mut head = Head::default();
        while let Some(key) = entries.next_key::<Scanned<'de>>()? {
            let Some(name) = key.shape.text() else {
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = entries.next_value::<Scanned<'de>>()?;
            if !matches!(name, "sentAt" | "writeKey") {
                head.content = head.content.wrapping_add(hash_entry(key.hash, value.hash));
            }
            head.set(name, value.shape);
        }
        Ok(head)
    }
}

impl<'a> Head<'a> {
    fn set(&mut self, name: &str, shape: Shape<'a>) {
        let field = match name {
            "type" => &mut self.kind,
            "messageId" => &mut self.message_id,
            "userId" => &mut self.user_id,
            "anonymousId" => &mut self.anonymous_id,
            "previousId" => &mut self.previous_id,
            "groupId" => &mut self.group_id,
            "event" => &mut self.event,
            "name" => &mut self.name,
            "category" => &mut self.category,
            "properties" => &mut self.properties,
            "traits" => &mut self.traits,
            "context" => &mut self.context,
            "integrations" => &mut self.integrations,
            "sentAt" => &mut self.sent_at,
            "writeKey" => &mut self.write_key,
            _ => return,
        };
        *field = shape;
    }
}

// Arbitrary odd constants: values of different types with equal bits must not look equal.
const TAG_TEXT: u64 = 0x9e37_79b9_7f4a_7c15;
const TAG_BOOLEAN: u64 = 0xbf58_476d_1ce4_e5b9;
const TAG_POSITIVE: u64 = 0x94d0_49bb_1331_11eb;
const TAG_NEGATIVE: u64 = 0xd6e8_feb8_6659_fd93;
const TAG_FLOAT: u64 = 0xa076_1d64_78bd_642f;
const TAG_NULL: u64 = 0xe703_7ed1_a0b4_28db;
const TAG_ARRAY: u64 = 0x8ebc_6af0_9c88_c6e3;
const TAG_OBJECT: u64 = 0x5899_65cc_7537_4cc3;

/// One step of a multiply-and-fold hash.
pub(crate) fn mix(state: u64, word: u64) -> u64 {
    let product = (state.rotate_left(23) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    product ^ (product >> 32)
}

/// Entries of an object are added up, so each must be well mixed on its own.
fn hash_entry(key: u64, value: u64) -> u64 {
    mix(mix(key, value), TAG_OBJECT)
}

fn hash_text(text: &str) -> u64 {
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    let mut hash = mix(TAG_TEXT, u64::try_from(text.len()).unwrap_or(u64::MAX));
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    for (slot, byte) in last.iter_mut().zip(rest) {
        *slot = *byte;
    }
    mix(hash, u64::from_le_bytes(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(json: &str) -> u64 {
        serde_json::from_str::<Head<'_>>(json).unwrap().content
    }

    #[track_caller]
    fn check(one: &str, other: &str, equal: bool) {
        assert_eq!(content(one) == content(other), equal, "{one} against {other}");
    }

    #[test]
    fn the_content_is_what_the_call_says() {
        check(r#"{"a":1,"b":{"c":"x","d":[1,2]}}"#, r#"{ "b":{"d":[1, 2],"c":"x"}, "a":1 }"#, true);
        check(r#"{"a":"x"}"#, r#"{"a":"\u0078"}"#, true);
        check(r#"{"a":1,"sentAt":"1","writeKey":"k"}"#, r#"{"a":1,"sentAt":"2"}"#, true);
        check(r#"{"a":{"sentAt":"1"}}"#, r#"{"a":{"sentAt":"2"}}"#, false);
    }

    #[test]
    fn different_values_differ() {
        let values =
            ["1", "-1", "1.0", "\"1\"", "true", "false", "null", "[]", "{}", "[1]", "[[1]]", "\"\"", "\"1\\u0000\""];
        for (at, one) in values.iter().enumerate() {
            for other in values.iter().skip(at + 1) {
                check(&format!("{{\"a\":{one}}}"), &format!("{{\"a\":{other}}}"), false);
            }
        }
        check(r#"{"a":"x","b":"y"}"#, r#"{"a":"y","b":"x"}"#, false);
        check(r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#, false);
        check(r#"{"a":"12345678"}"#, r#"{"a":"123456789"}"#, false);
    }

    #[test]
    fn plain_strings_are_borrowed() {
        let head: Head<'_> = serde_json::from_str(r#"{"event":"Email Opened","userId":"a\"b","groupId":7}"#).unwrap();
        assert!(matches!(head.event, Shape::Text(Cow::Borrowed("Email Opened"))));
        assert_eq!(head.user_id.text(), Some("a\"b"));
        assert_eq!((head.group_id, head.traits), (Shape::Other, Shape::Absent));
    }
}
