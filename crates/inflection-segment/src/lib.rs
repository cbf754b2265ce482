//! A typed client of Segment's Tracking API: calls, batches, limits, answers. Knows nothing of Inflection.
//!
//! * [`Call`] renders one item and refuses every item that Segment would accept with 200 and then drop;
//! * [`batch_body`] puts rendered items into an envelope;
//! * [`Endpoint`] is where to: Segment itself, or an address that a customer chose, which may not lead inwards;
//! * [`Client`] sends it, to public addresses only; [`Answer`] says what the answer means;
//! * [`limits`] holds the numbers, with their sources.
//!
//! There is deliberately no queue and no retry here: who sends decides when to send again.

mod address;
mod answer;
mod batch;
mod call;
mod client;
mod endpoint;
pub mod json;
pub mod limits;
mod resolve;

pub use answer::{Answer, retry_after};
pub use batch::batch_body;
pub use call::{Call, Invalid, Kind};
pub use client::{Client, ClientError, Outcome, SendError};
pub use endpoint::{Endpoint, InvalidEndpoint, Region};
pub use resolve::ForbiddenAddress;
