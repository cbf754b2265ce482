//! A call kept for the views, as text until somebody looks at it.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::record::{Outcome, ReceivedCall};

/// A call that arrived. Parsing waits until it is shown: most calls of a busy sandbox never are.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) arrival: u64,
    pub(crate) received_at_ms: i64,
    pub(crate) request: u64,
    pub(crate) write_key: Arc<str>,
    pub(crate) kind: Box<str>,
    pub(crate) message_id: Box<str>,
    pub(crate) raw: Box<str>,
    pub(crate) envelope: Option<Arc<KeptEnvelope>>,
    pub(crate) sent_at: Option<Arc<str>>,
    pub(crate) outcome: Outcome,
}

/// The envelope's share of its items, as text.
#[derive(Debug, Default)]
pub(crate) struct KeptEnvelope {
    pub(crate) context: Option<Box<str>>,
    pub(crate) integrations: Option<Box<str>>,
}

impl Kept {
    /// Bytes it holds, near enough for a budget.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.raw.len() + self.message_id.len()
    }

    /// The call as it is shown.
    pub(crate) fn call(&self) -> ReceivedCall {
        let (context, integrations) = match &self.envelope {
            Some(envelope) => (envelope.context.as_deref(), envelope.integrations.as_deref()),
            None => (None, None),
        };
        ReceivedCall {
            arrival: self.arrival,
            received_at_ms: self.received_at_ms,
            request: self.request,
            write_key: self.write_key.as_ref().to_owned(),
            kind: self.kind.as_ref().to_owned(),
            message_id: self.message_id.as_ref().to_owned(),
            body: merge(&self.raw, context, integrations),
            sent_at: self.sent_at.as_deref().map(ToOwned::to_owned),
            outcome: self.outcome,
        }
    }
}

/// The item with the envelope's `context` and `integrations` under its own, and without the fields of an envelope (a single
/// call is its own). What the item says itself wins.
pub(crate) fn merge(raw: &str, context: Option<&str>, integrations: Option<&str>) -> Value {
    // Whatever is merged here was read as JSON before.
    let mut item: Value = serde_json::from_str(raw).unwrap_or_default();
    if let Value::Object(fields) = &mut item {
        fields.remove("writeKey");
        fields.remove("sentAt");
        merge_under(fields, "context", context);
        merge_under(fields, "integrations", integrations);
    }
    item
}

fn merge_under(fields: &mut Map<String, Value>, name: &str, envelope: Option<&str>) {
    let Some(Ok(Value::Object(shared))) = envelope.map(serde_json::from_str) else {
        return;
    };
    let own = fields.entry(name).or_insert(Value::Null);
    if own.is_null() {
        *own = Value::Object(shared);
    } else if let Value::Object(own) = own {
        for (key, value) in shared {
            own.entry(key).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw: &str, context: Option<&str>, expected: &str) {
        let expected: Value = serde_json::from_str(expected).unwrap();
        assert_eq!(merge(raw, context, None), expected);
    }

    #[test]
    fn the_envelope_lies_under_the_item() {
        let shared = Some(r#"{"ip":"x","os":"y"}"#);
        check(r#"{"event":"A"}"#, None, r#"{"event":"A"}"#);
        check(r#"{"event":"A"}"#, shared, r#"{"event":"A","context":{"ip":"x","os":"y"}}"#);
        check(r#"{"context":{"ip":"z"}}"#, shared, r#"{"context":{"ip":"z","os":"y"}}"#);
        check(r#"{"context":null}"#, shared, r#"{"context":{"ip":"x","os":"y"}}"#);
        check(r#"{"context":[]}"#, shared, r#"{"context":[]}"#);
        check("7", shared, "7");
        check(r#"{"event":"A","writeKey":"k","sentAt":"t"}"#, None, r#"{"event":"A"}"#);
    }
}
