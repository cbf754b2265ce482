//! The events of a body as texts, before anything of them is built.
//!
//! A value in memory takes many times the bytes it has as text: `{"a":1}` about eighty times. So events are counted while
//! they are text, and built one at a time, each bounded by how many values it has.

use serde_json::Value as Json;

use super::adapter::EVENTS_MAX;
use crate::answer::Code;
use crate::fact::Rejection;
use crate::json::{Fault, Reader};

/// Most values of one event, those inside other values included. Events have some hundreds; so many are about 10 MiB while
/// an event is read, and nothing after.
pub(crate) const VALUES_MAX: usize = 16 * 1024;

/// The elements of an array. `None` when the text is none, or has more than [`EVENTS_MAX`].
pub(crate) fn array(text: &str) -> Option<Vec<&str>> {
    let (mut reader, mut found) = (Reader::of(text), Vec::new());
    let walked: Result<(), Fault> = reader.array(|reader| {
        reader.peek();
        let start = reader.position();
        step(reader)?;
        found.push(reader.since(start));
        if found.len() > EVENTS_MAX { Err(Fault::Syntax) } else { Ok(()) }
    });
    walked.ok()?;
    reader.end().ok().map(|()| found)
}

/// One object, or the elements of an array.
pub(crate) fn one_or_many(text: &str) -> Option<Vec<&str>> {
    if text.trim_ascii_start().starts_with('[') { array(text) } else { object(text).map(|event| vec![event]) }
}

/// One object, and nothing else.
pub(crate) fn object(text: &str) -> Option<&str> {
    let mut reader = Reader::of(text);
    let object = (reader.peek() == Some(b'{')).then(|| reader.skim().ok())??;
    reader.end().ok().map(|()| object)
}

/// Steps over a value. What is wrong inside of one event is no matter of the others.
fn step(reader: &mut Reader<'_>) -> Result<(), Fault> {
    match reader.peek() {
        Some(b'{' | b'[') => reader.skim().map(drop),
        _ => reader.value(1).map(drop),
    }
}

/// Builds one event.
pub(crate) fn build(text: &str) -> Result<Json, Rejection> {
    if values_in(text) > VALUES_MAX {
        return Err(Rejection::new(Code::EventTooLarge, format!("an event may have {VALUES_MAX} values")));
    }
    serde_json::from_str(text).map_err(|_fault| Rejection::new(Code::BadJson, "the event is not JSON"))
}

/// At least as many as there are values: one, and one more for each comma and for each bracket that opens.
fn values_in(text: &str) -> usize {
    let (mut values, mut quoted, mut bytes) = (1, false, text.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if quoted => drop(bytes.next()),
            b'"' => quoted = !quoted,
            b'{' | b'[' | b',' if !quoted => values += 1,
            _ => {}
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart_as_texts() {
        assert_eq!(array(" [ {\"a\":\"]\\\"\"} ,1,[2] ] ").unwrap(), ["{\"a\":\"]\\\"\"}", "1", "[2]"]);
        assert_eq!(one_or_many(" {\"a\":1}\n").unwrap(), ["{\"a\":1}"]);
        assert_eq!(one_or_many("[]").unwrap(), [""; 0]);
        for text in ["", "1", "{", "[", "[1", "[1,]", "[] x", "{} {}", "\"{}\""] {
            assert_eq!(one_or_many(text), None, "{text}");
        }
        assert_eq!(array("{}"), None);
    }

    #[test]
    fn events_and_their_values_are_bounded_before_they_are_built() {
        let of = |count: usize| format!("[{}]", vec!["{\"a\":1}"; count].join(","));
        assert_eq!(array(&of(EVENTS_MAX)).unwrap().len(), EVENTS_MAX);
        assert_eq!(array(&of(EVENTS_MAX + 1)), None);
        // The array itself, and each object twice: its bracket, and the value in it for the comma before it.
        let most = (VALUES_MAX - 1) / 2;
        assert!(build(&of(most)).is_ok());
        assert_eq!(build(&of(most + 1)).unwrap_err().code, Code::EventTooLarge);
        // Text is as large in memory as it is here.
        assert!(build(&format!("{{\"a\":\"{}\"}}", ",".repeat(2 * VALUES_MAX))).is_ok());
        assert_eq!(build("{\"a\":}").unwrap_err().code, Code::BadJson);
    }
}
