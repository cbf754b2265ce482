//! Reading a request body: the envelope, and where each item begins and ends.
//!
//! The limits count an item's raw bytes and the views show them, so every item keeps its own slice of the body. The JSON
//! reader offers no such thing by itself; walking the two outer levels here and handing it one value at a time does.

use serde::Deserialize;

use crate::kind::{CALL_BYTES_MAX, Endpoint, Kind};
use crate::scan::{Head, Scanned, Shape, mix};

/// Most items of a batch that Segment takes; it answers 200 and discards the rest.
pub(crate) const BATCH_ITEMS_MAX: usize = 2_500;

/// A body that could be read.
#[derive(Debug, Default)]
pub(crate) struct Body<'a> {
    pub(crate) write_key: Shape<'a>,
    pub(crate) sent_at: Shape<'a>,
    /// The envelope's `context`, if it is an object: merged into each item.
    pub(crate) context: Option<&'a str>,
    /// The envelope's `integrations`, likewise.
    pub(crate) integrations: Option<&'a str>,
    pub(crate) items: Vec<Item<'a>>,
}

/// One call as it stands in the body.
#[derive(Debug)]
pub(crate) struct Item<'a> {
    pub(crate) raw: &'a str,
    /// The call's type; for a single call, that of the path.
    pub(crate) kind: Option<Kind>,
    /// Absent when the item is no object.
    pub(crate) head: Option<Head<'a>>,
    /// The hash of its content with the envelope's share, `sentAt` aside.
    pub(crate) content: u64,
}

/// Why a body was refused with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    MalformedJson,
    BodyTooLarge,
    ItemTooLarge,
    BadEncoding,
    MissingWriteKey,
}

impl Refusal {
    /// The `message` of the answer.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed JSON",
            Self::BodyTooLarge => "body too large",
            Self::ItemTooLarge => "item too large",
            Self::BadEncoding => "unreadable content encoding",
            Self::MissingWriteKey => "missing write key",
        }
    }
}

/// Reads a whole body.
pub(crate) fn parse(endpoint: Endpoint, text: &str) -> Result<Body<'_>, Refusal> {
    if text.len() > endpoint.bytes_max() {
        return Err(Refusal::BodyTooLarge);
    }
    match endpoint {
        Endpoint::Single(kind) => parse_single(kind, text),
        Endpoint::Batch { .. } => parse_batch(text),
    }
}

fn parse_single(kind: Kind, text: &str) -> Result<Body<'_>, Refusal> {
    let mut head: Head<'_> = serde_json::from_str(text).map_err(|_malformed| Refusal::MalformedJson)?;
    let write_key = std::mem::take(&mut head.write_key);
    let sent_at = std::mem::take(&mut head.sent_at);
    let item = Item { raw: text, kind: Some(kind), content: head.content, head: Some(head) };
    Ok(Body { write_key, sent_at, items: vec![item], ..Body::default() })
}

fn parse_batch(text: &str) -> Result<Body<'_>, Refusal> {
    let mut cursor = Cursor { text, at: 0 };
    let mut body = Body::default();
    let mut envelope_hash = 0;
    cursor.expect(b'{')?;
    let mut more = !cursor.take(b'}');
    while more {
        let key = cursor.value::<Scanned<'_>>()?;
        let name = key.value.shape.text().ok_or(Refusal::MalformedJson)?;
        cursor.expect(b':')?;
        if name == "batch" && cursor.take(b'[') {
            body.items = cursor.items()?;
        } else {
            let Spanned { value, raw } = cursor.value::<Scanned<'_>>()?;
            match name {
                "writeKey" => body.write_key = value.shape,
                "sentAt" => body.sent_at = value.shape,
                "context" if value.shape == Shape::Object => {
                    body.context = Some(raw);
                    envelope_hash = mix(envelope_hash, value.hash);
                }
                "integrations" if value.shape == Shape::Object => {
                    body.integrations = Some(raw);
                    envelope_hash = mix(envelope_hash, value.hash);
                }
                _ => {}
            }
        }
        more = cursor.take(b',');
        if !more {
            cursor.expect(b'}')?;
        }
    }
    cursor.end()?;
    if envelope_hash != 0 {
        body.items.iter_mut().for_each(|item| item.content = mix(item.content, envelope_hash));
    }
    Ok(body)
}

/// A place in the text, always between two values.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

struct Spanned<'a, T> {
    value: T,
    raw: &'a str,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_white_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    /// Steps over one byte if it comes next.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_white_space();
        let next = self.text.as_bytes().get(self.at) == Some(&byte);
        if next {
            self.at += 1;
        }
        next
    }

    fn expect(&mut self, byte: u8) -> Result<(), Refusal> {
        if self.take(byte) { Ok(()) } else { Err(Refusal::MalformedJson) }
    }

    fn end(&mut self) -> Result<(), Refusal> {
        self.skip_white_space();
        if self.rest().is_empty() { Ok(()) } else { Err(Refusal::MalformedJson) }
    }

    /// Reads the next value, whatever it is.
    fn value<T: Deserialize<'a>>(&mut self) -> Result<Spanned<'a, T>, Refusal> {
        self.skip_white_space();
        let rest = self.rest();
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<T>();
        let value = values.next().and_then(Result::ok).ok_or(Refusal::MalformedJson)?;
        let raw = rest.get(..values.byte_offset()).ok_or(Refusal::MalformedJson)?;
        self.at += raw.len();
        Ok(Spanned { value, raw })
    }

    /// Reads the items up to and including the closing bracket.
    fn items(&mut self) -> Result<Vec<Item<'a>>, Refusal> {
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(items);
        }
        loop {
            let item = self.item()?;
            if item.raw.len() > CALL_BYTES_MAX {
                return Err(Refusal::ItemTooLarge);
            }
            items.push(item);
            if !self.take(b',') {
                self.expect(b']')?;
                return Ok(items);
            }
        }
    }

    fn item(&mut self) -> Result<Item<'a>, Refusal> {
        self.skip_white_space();
        if !self.rest().starts_with('{') {
            let Spanned { value, raw } = self.value::<Scanned<'a>>()?;
            return Ok(Item { raw, kind: None, head: None, content: value.hash });
        }
        let Spanned { value: head, raw } = self.value::<Head<'a>>()?;
        let kind = head.kind.text().and_then(Kind::from_name);
        Ok(Item { raw, kind, content: head.content, head: Some(head) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Endpoint = Endpoint::Batch { name: "batch" };
    const TRACK: Endpoint = Endpoint::Single(Kind::Track);

    #[track_caller]
    fn refused(endpoint: Endpoint, text: &str, expected: Refusal) {
        assert_eq!(parse(endpoint, text).err(), Some(expected), "{:.60}", text);
    }

    #[test]
    fn a_batch_is_read_with_its_envelope_and_its_slices() {
        let text = r#" {"context": {"ip":"x"}, "batch":[ {"type":"track","event":"A"} , {"type":"page"},7 ],
            "sentAt":"2026-01-01T00:00:00Z","other":[1,{"a":null}],"writeKey":"k"} "#;
        let body = parse(BATCH, text).unwrap();
        let raw: Vec<_> = body.items.iter().map(|item| item.raw).collect();
        assert_eq!(raw, [r#"{"type":"track","event":"A"}"#, r#"{"type":"page"}"#, "7"]);
        assert_eq!(body.write_key.text(), Some("k"));
        assert_eq!(body.sent_at.text(), Some("2026-01-01T00:00:00Z"));
        assert_eq!(body.context, Some(r#"{"ip":"x"}"#));
        assert_eq!(
            body.items.iter().map(|item| item.kind).collect::<Vec<_>>(),
            [Some(Kind::Track), Some(Kind::Page), None]
        );
    }

    #[test]
    fn a_single_call_takes_its_type_from_the_path() {
        let body = parse(TRACK, r#"{"event":"A","writeKey":"k","sentAt":"t"}"#).unwrap();
        assert_eq!((body.write_key.text(), body.sent_at.text()), (Some("k"), Some("t")));
        assert_eq!(body.items.first().and_then(|item| item.kind), Some(Kind::Track));
    }

    #[test]
    fn broken_json_is_refused() {
        for text in ["", "x", "{", "[]", "7", r#"{"batch":[}"#, r#"{"batch":[{}]"#, r#"{"batch":[{},]}"#, "{} {}"] {
            refused(BATCH, text, Refusal::MalformedJson);
        }
        for text in [r#"{"batch":[]"batch":[]}"#, r#"{"batch":[{"a":1,}]}"#, r#"{"a" 1}"#, r#"{"a":tru}"#, r#"{1:2}"#] {
            refused(BATCH, text, Refusal::MalformedJson);
        }
        for text in ["", "[]", r#"{"event":"A"} x"#, r#"{"event":}"#] {
            refused(TRACK, text, Refusal::MalformedJson);
        }
        let deep = format!("{{\"batch\":[{{\"properties\":{}{}}}]}}", "[".repeat(200), "]".repeat(200));
        refused(BATCH, &deep, Refusal::MalformedJson);
    }

    #[test]
    fn sizes_are_counted_in_bytes() {
        let item = |bytes: usize| format!(r#"{{"event":"{}"}}"#, "é".repeat((bytes - 12) / 2));
        let whole = |item: &str| format!(r#"{{"batch":[{item}]}}"#);
        assert_eq!(item(32_768).len(), 32_768);
        assert!(parse(BATCH, &whole(&item(32_768))).is_ok());
        refused(BATCH, &whole(&item(32_770)), Refusal::ItemTooLarge);
        assert!(parse(TRACK, &item(32_768)).is_ok());
        refused(TRACK, &item(32_770), Refusal::BodyTooLarge);
        let padded = |bytes: usize| format!(r#"{{"batch":[]{}}}"#, " ".repeat(bytes - 12));
        assert!(parse(BATCH, &padded(512_000)).is_ok());
        refused(BATCH, &padded(512_001), Refusal::BodyTooLarge);
    }

    #[test]
    fn the_envelope_counts_as_content_but_not_when_it_was_sent() {
        let content = |text: &str| parse(BATCH, text).unwrap().items.first().map(|item| item.content);
        let plain = content(r#"{"batch":[{"a":1}],"sentAt":"1"}"#);
        assert_eq!(plain, content(r#"{"sentAt":"2","batch":[{"a":1}]}"#));
        assert_ne!(plain, content(r#"{"batch":[{"a":1}],"context":{"ip":"x"}}"#));
    }
}
