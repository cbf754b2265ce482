//! A local stand-in for Segment's Tracking API.
//!
//! [`Sandbox`] answers as Segment does, keeps what arrived so that people and tests can look at it, and fails on demand
//! ([`Faults`]) so that a sender can be proven against lost answers, resets, push-back and poisoned batches. Beside the
//! sender's endpoints (`POST /v1/batch` and its kin) it serves JSON views and one page that shows what arrived.
//!
//! It mirrors what Segment documents and what its own clients rely on: limits, silent drops behind a 200, deduplication by
//! messageId for 24 hours, warehouse tables. Deliberately **not** here: identity resolution (Unify), billing counts and
//! tracking plans; and TLS, because it belongs on loopback.

mod answer;
mod auth;
mod body;
mod config;
mod dates;
mod decode;
mod faults;
mod flatten;
mod kept;
mod kind;
mod message_ids;
mod record;
mod rules;
mod sandbox;
mod scan;
mod senders;
mod server;
mod snake;
mod state;
mod tables;
mod tally;
mod views;

pub use config::{Mode, SandboxConfig};
pub use faults::{Fault, FaultRule, Faults};
pub use record::{Outcome, ReceivedCall, ReceivedRequest, Summary};
pub use sandbox::Sandbox;
