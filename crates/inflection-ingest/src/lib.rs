//! Accepts events over HTTP, checks them and stores them before it answers.
//!
//! Data walks one way: bytes (`body`) → JSON (`json`) → what the sender claims (`input`) → a fact of the domain (`fact`)
//! → its partition's writer (`writer`) → the bus; then, and only then, the answer (`answer`). `server` is the HTTP edge,
//! `framing` its guard against ambiguous requests, `senders` who may send, `trace` what of a request is traced,
//! `webhooks` the door for email service providers, `segment` the door for Segment's own SDKs.
//!
//! Nothing is decided here about identity, uniqueness or duplicates: that is the identity stage's.

mod answer;
mod auth;
mod body;
#[cfg(test)]
mod desk;
mod events;
mod fact;
mod framing;
mod input;
mod json;
mod metrics;
mod rejected;
mod request;
mod segment;
mod senders;
mod server;
mod service;
mod trace;
mod webhooks;
mod writer;

pub use metrics::IngestMetrics;
pub use rejected::REJECTED_RECORDS;
pub use server::{IngestConfig, IngestError, run};
pub use webhooks::SignatureClock;
