//! Accepts events over HTTP, checks them and stores them before it answers.
//!
//! Data walks one way: bytes (`body`) → JSON (`json`) → what the sender claims (`input`) → a fact of the domain (`fact`, and
//! `machine` for who did it) → its person, where only an address says whose it is (`aliases`) → its partition's writer
//! (`writer`) → the bus; then, and only then, the answer (`answer`). `server` is the HTTP edge,
//! `framing` its guard against ambiguous requests, `senders` who may send, `limits` how much, `room` how much at once, `trace`
//! what of a request is traced, `webhooks` the door for email service providers, `segment` the door for Segment's own SDKs.
//!
//! But for that, nothing is decided here about identity, uniqueness or duplicates: that is the identity stage's.

mod aliases;
mod answer;
mod answers;
mod auth;
mod body;
#[cfg(test)]
mod desk;
mod events;
mod fact;
mod framing;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod input;
mod json;
mod limits;
mod line;
mod machine;
mod metrics;
mod priority;
mod rejected;
mod request;
mod room;
mod segment;
mod senders;
mod server;
mod service;
mod trace;
mod webhooks;
mod writer;

pub use input::EVENT_FIELDS;
pub use line::{LINES_BYTES_MAX, LINES_EVENTS_MAX, LineCheck, RefusedLine};
pub use metrics::IngestMetrics;
pub use priority::{BACKGROUND, PRIORITY_HEADER};
pub use rejected::REJECTED_RECORDS;
pub use server::{IngestConfig, IngestError, run};
pub use webhooks::SignatureClock;
