//! One call as Segment received it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::fact::parse_rfc3339;

/// A call, taken out of the request it came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrived {
    /// When it was received, wall clock.
    pub received_at_ms: i64,
    /// The write key of its request.
    pub write_key: String,
    /// `track`, `identify`, `page` or `group`.
    pub kind: String,
    /// Its messageId; empty if it had none.
    pub message_id: String,
    /// The item as it stood in the batch, without `sentAt`.
    pub body: Value,
    /// `sentAt` of the item or of its request.
    pub sent_at_ms: Option<i64>,
    /// Why Segment would have thrown it away in spite of its 200.
    pub dropped: Option<String>,
}

impl Arrived {
    /// Name of the event, of a track.
    pub fn event(&self) -> Option<&str> {
        self.text("event")
    }

    /// Top-level `userId`.
    pub fn user_id(&self) -> Option<&str> {
        self.text("userId")
    }

    /// Top-level `anonymousId`.
    pub fn anonymous_id(&self) -> Option<&str> {
        self.text("anonymousId")
    }

    /// The time of the fact it comes from.
    pub fn timestamp_ms(&self) -> Option<i64> {
        self.text("timestamp").and_then(parse_rfc3339)
    }

    /// A property that is a text.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties().get(name).and_then(Value::as_str)
    }

    /// Whether a property is there and `true`.
    pub fn flag(&self, name: &str) -> bool {
        self.properties().get(name) == Some(&Value::Bool(true))
    }

    /// `properties`, or `Null`.
    pub fn properties(&self) -> &Value {
        self.body.get("properties").unwrap_or(&Value::Null)
    }

    /// Kind, event and link: what tells the calls of one fact apart.
    pub fn label(&self) -> String {
        let link = self.property("email_link_url").unwrap_or_default();
        format!("{} {} {link}", self.kind, self.event().unwrap_or_default())
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.body.get(field).and_then(Value::as_str)
    }
}

/// Panics when a messageId stands for two contents.
#[track_caller]
pub fn assert_one_content(calls: &[Arrived]) {
    let mut content = BTreeMap::new();
    for call in calls {
        let first = *content.entry(call.message_id.as_str()).or_insert(&call.body);
        assert_eq!(first, &call.body, "{} stands for two contents", call.message_id);
    }
}

/// The calls without repeats: the first arrival of every messageId, in order.
pub fn first_arrivals(calls: Vec<Arrived>) -> Vec<Arrived> {
    let mut seen = BTreeSet::new();
    calls.into_iter().filter(|call| seen.insert(call.message_id.clone())).collect()
}

/// The calls whose messageId had arrived before, in order.
pub fn repeats(calls: &[Arrived]) -> Vec<&Arrived> {
    let mut seen = BTreeSet::new();
    calls.iter().filter(|call| !seen.insert(call.message_id.as_str())).collect()
}
