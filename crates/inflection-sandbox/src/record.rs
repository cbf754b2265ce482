//! What the sandbox tells about the things that reached it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One call that arrived, whatever became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReceivedCall {
    /// Its place in the order of arrival, from 1.
    pub arrival: u64,
    /// When its request was read, in Unix milliseconds.
    pub received_at_ms: i64,
    /// The number of its request, from 1.
    pub request: u64,
    /// The write key it came under.
    pub write_key: String,
    /// Its `type`; for a single call, that of the path.
    pub kind: String,
    /// Its messageId; assigned by the sandbox when the sender gave none.
    pub message_id: String,
    /// The item after the envelope merge, without the envelope.
    pub body: Value,
    /// The `sentAt` of its envelope (or its own).
    pub sent_at: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a call behind the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Outcome {
    /// Taken, and seen for the first time.
    Accepted,
    /// Its messageId was taken within the last 24 hours.
    Duplicate {
        /// The arrival that was accepted.
        first: u64,
        /// Whether its content, `sentAt` aside, equals that of the first.
        same_content: bool,
    },
    /// Silently discarded, as Segment does.
    Dropped {
        /// Segment's discard code where it has one.
        reason: &'static str,
    },
}

/// One request to a sender's endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReceivedRequest {
    /// Its number, from 1.
    pub request: u64,
    /// When it was read, in Unix milliseconds.
    pub at_ms: i64,
    /// The last part of its path.
    pub endpoint: &'static str,
    /// The write key it came under; empty when it gave none.
    pub write_key: String,
    /// The status answered; absent when a fault let the sender go without one.
    pub status: Option<u16>,
    /// Calls in it; zero when it could not be read.
    pub items: usize,
    /// Its body's size after decoding, in bytes.
    pub bytes: usize,
    /// Its body's size as it came over the wire, in bytes.
    pub wire_bytes: usize,
    /// The kind of the fault applied to it.
    pub fault: Option<&'static str>,
    /// The messageId of its first call.
    pub first_message_id: Option<String>,
}

/// Counts since the sandbox was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests to the sender's endpoints.
    pub requests: u64,
    /// Calls that arrived: accepted, duplicate and dropped.
    pub calls: u64,
    /// Calls taken for the first time.
    pub accepted: u64,
    /// Calls whose messageId was known.
    pub duplicates: u64,
    /// Duplicates whose content differed from the first.
    pub duplicates_with_other_content: u64,
    /// Calls silently discarded, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Accepted tracks by event name.
    pub by_event: BTreeMap<String, u64>,
    /// Accepted tracks whose event name came after the table of names was full.
    pub events_not_listed: u64,
    /// Accepted calls by type.
    pub by_type: BTreeMap<String, u64>,
    /// Requests by status answered; `none` for those without an answer.
    pub by_status: BTreeMap<String, u64>,
    /// Requests that suffered a fault, by its kind.
    pub by_fault: BTreeMap<String, u64>,
    /// Accepted identifies that carry both a userId and an anonymousId.
    pub identity_links: u64,
    /// Decoded bytes received.
    pub bytes: u64,
    /// MessageIds forgotten before 24 hours were over, because there were too many.
    pub message_ids_forgotten: u64,
}
