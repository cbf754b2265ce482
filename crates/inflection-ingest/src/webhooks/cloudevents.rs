//! CloudEvents 1.0 over HTTP: structured, batched and binary, in our own vocabulary.
//!
//! Sources: cloudevents/spec, HTTP protocol binding and HTTP webhook 1.0.

use std::borrow::Cow;
use std::fmt::Write as _;

use axum::http::header::CONTENT_TYPE;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use inflection_domain::Hash128;
use serde_json::Value as Json;

use super::adapter::{Adapter, Delivery, Events, Proof, Reading, array};
use super::canonical::{kind_of, report};
use super::elements;
use super::proof::credentials;
use super::values::word;
use crate::answer::{Code, Refusal};

/// Attributes of an event that binary mode carries in headers and that are read here.
const ATTRIBUTES: [(&str, &str); 6] = [
    ("specversion", "ce-specversion"),
    ("id", "ce-id"),
    ("source", "ce-source"),
    ("type", "ce-type"),
    ("time", "ce-time"),
    ("subject", "ce-subject"),
];

pub(crate) static ADAPTER: Adapter = Adapter { headers: &[], certificate: None, verify, events, read };

/// How a request carries its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Structured,
    Batched,
    /// The body is the data; the rest stands in headers.
    Binary,
}

fn mode(delivery: &Delivery<'_>) -> Option<Mode> {
    let media = delivery.header(CONTENT_TYPE.as_str()).and_then(|text| text.split(';').next()).unwrap_or_default();
    match media.trim().to_ascii_lowercase().as_str() {
        "application/cloudevents+json" => Some(Mode::Structured),
        "application/cloudevents-batch+json" => Some(Mode::Batched),
        "application/json" if delivery.headers.contains_key("ce-specversion") => Some(Mode::Binary),
        _ => None,
    }
}

/// Credentials; and a content type that says how the events are carried.
fn verify(delivery: &Delivery<'_>) -> Result<Proof, Refusal> {
    let proof = credentials(delivery)?;
    let unsupported = || {
        let message = "send application/cloudevents+json, application/cloudevents-batch+json, or JSON with ce- headers";
        Refusal::new(Code::UnsupportedMediaType, message)
    };
    mode(delivery).map(|_| proof).ok_or_else(unsupported)
}

fn events<'d>(delivery: &Delivery<'d>) -> Option<Events<'d>> {
    let one = || elements::object(delivery.text()?);
    match mode(delivery)? {
        Mode::Structured => Some(vec![Cow::Borrowed(one()?)]),
        Mode::Batched => array(delivery),
        Mode::Binary => {
            let mut event = String::from("{");
            for (name, header) in ATTRIBUTES {
                if let Some(value) = delivery.header(header) {
                    let _infallible = write!(event, "\"{name}\":{},", Json::from(decoded(value)));
                }
            }
            let _infallible = write!(event, "\"data\":{}}}", one()?);
            Some(vec![Cow::Owned(event)])
        }
    }
}

fn read(event: &Json, delivery: &Delivery<'_>) -> Vec<Reading> {
    let attribute = |name: &str| word(event, &[name]).filter(|value| !value.is_empty());
    let (Some("1.0"), Some(id), Some(source), Some(name)) =
        (attribute("specversion"), attribute("id"), attribute("source"), attribute("type"))
    else {
        return vec![Reading::Malformed("id, source, type and specversion 1.0 are required of a CloudEvent")];
    };
    let Some(kind) = kind_of(name) else { return vec![Reading::Ignored("other")] };
    // Source and id together are unique; written one behind the other, two pairs could be one text.
    let id = Some(Hash128::of("cloudevents id", &[source.as_bytes(), id.as_bytes()]).to_string());
    match attribute("data_base64") {
        None => vec![report(kind, id, event, delivery)],
        Some(text) => {
            let Some(data) = encoded(text) else { return vec![Reading::Malformed("data_base64 is no JSON")] };
            let mut event = event.clone();
            event.as_object_mut().map(|members| members.insert("data".to_owned(), data));
            vec![report(kind, id, &event, delivery)]
        }
    }
}

/// What stands in `data_base64`: a value of its own, bounded like an event.
fn encoded(text: &str) -> Option<Json> {
    let bytes = STANDARD.decode(text).ok()?;
    elements::build(std::str::from_utf8(&bytes).ok()?).ok()
}

/// A header's value, in which what is not plain ASCII is escaped like `%C3%A9`. What is no escape stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.split_at_checked(2).filter(|_| *first == b'%').and_then(|(digits, after)| {
            let digits =
                std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            Some((u8::from_str_radix(digits?, 16).ok()?, after))
        });
        let (byte, after) = escaped.unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use inflection_control::Provider::Cloudevents;

    use super::*;
    use crate::webhooks::testing::{NOW, at, check_day, parsed, verified, webhook};

    #[test]
    fn a_day_of_events() {
        check_day(Cloudevents);
    }

    #[test]
    fn the_content_type_says_how() {
        let check = |media: &str, more: &[(&'static str, &str)]| {
            let pairs = [&[("content-type", media)], more].concat();
            verified(&webhook(Cloudevents, &[]), &pairs, b"{}", at(NOW))
        };
        assert_eq!(check("application/cloudevents+json; charset=utf-8", &[]), Ok(Proof::Whole));
        assert_eq!(check("Application/CloudEvents-Batch+JSON", &[]), Ok(Proof::Whole));
        assert_eq!(check("application/json", &[("ce-specversion", "1.0")]), Ok(Proof::Whole));
        assert_eq!(check("application/json", &[]), Err(Code::UnsupportedMediaType));
        assert_eq!(check("text/plain", &[("ce-specversion", "1.0")]), Err(Code::UnsupportedMediaType));
        // Who may not send learns nothing else.
        let stranger = verified(&webhook(Cloudevents, &["secret"]), &[("content-type", "text/plain")], b"{}", at(NOW));
        assert_eq!(stranger, Err(Code::SignatureInvalid));
    }

    #[test]
    fn source_and_id_are_two_texts() {
        let id = |source: &str, id: &str| {
            let event = format!(
                r#"{{"specversion":"1.0","id":"{id}","source":"{source}","type":"email.opened","data":{{"person_id":"p"}}}}"#
            );
            let pairs = [("content-type", "application/cloudevents+json")];
            let mut facts = parsed(&webhook(Cloudevents, &[]), &pairs, event.as_bytes()).unwrap().facts;
            facts.remove(0).body.event_id.as_str().to_owned()
        };
        assert_eq!(id("/a", "b c"), id("/a", "b c"));
        assert_ne!(id("/a b", "c"), id("/a", "b c"));
    }

    #[test]
    fn encoded_data_is_bounded_like_an_event() {
        let read = |values: usize| {
            let data = format!(r#"{{"person_id":"p","more":[{}]}}"#, vec!["0"; values].join(","));
            let event = format!(
                r#"{{"specversion":"1.0","id":"1","source":"/a","type":"email.opened","data_base64":"{}"}}"#,
                STANDARD.encode(data)
            );
            let pairs = [("content-type", "application/cloudevents+json")];
            let parsed = parsed(&webhook(Cloudevents, &[]), &pairs, event.as_bytes()).unwrap();
            (parsed.facts.len(), parsed.rejected.len())
        };
        // Beside the values of the list: the object, its second member, and the list.
        assert_eq!(read(elements::VALUES_MAX - 3), (1, 0));
        assert_eq!(read(elements::VALUES_MAX - 2), (0, 1));
    }

    #[test]
    fn header_values_are_decoded() {
        assert_eq!(decoded("a%20b%C3%A9%"), "a b\u{e9}%");
        assert_eq!(decoded("100%zz%4"), "100%zz%4");
    }
}
