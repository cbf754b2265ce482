//! Translates decisions to Segment calls and sees each one to an end.
//!
//! * `translate`: from a decision to rendered items, under a connection's settings; pure;
//! * `pages`: the memory that rendered items of a message take; pure;
//! * `dispatcher`: a connection's lanes, batches, retries, bisection and breaker; a pure state machine;
//! * `park`: how a lane leaves memory for the parked log and comes back; pure;
//! * `books`: what of a partition is under way, and how far each connection has come; pure;
//! * `room`: how connections share memory;
//! * `partition` and `connection`: the tasks around them, which read, send, wait and store;
//! * `suppression`: whose calls are not sent;
//! * `trace`: the spans of traced calls;
//! * `hub`: which connections there are; `control`: what all workers know of them; `handle`: looking in and steering;
//! * `dead_letters`: calls that will not be sent, and how they come back; `journal`: what was tried.
//!
//! Whose event it is and whether it is unique was decided before and is never looked at again here.

mod books;
mod check;
mod connection;
mod control;
mod dead_letters;
mod dispatcher;
mod handle;
mod hub;
mod journal;
mod metrics;
mod pages;
mod park;
mod partition;
mod progress;
mod room;
mod service;
mod suppression;
mod trace;
mod translate;

pub use books::ConnectionKey;
pub use check::{CHECK_EVENT, Check, Level};
pub use connection::{ConnectionState, ConnectionStatus, Failure, ParkedError, parked_log};
pub use control::HoldError;
pub use dead_letters::{DeadLetterError, LetterCounts, Standings, StoredLetter, dead_letter_log, drop_letter, visit};
pub use dispatcher::{
    Action, Appetite, BatchId, Dispatcher, Fate, Finished, Item, LaneId, Limits, Response, Ticket, Trouble,
};
pub use handle::{ConnectionView, ControlError, DeliveryHandle};
pub use journal::Attempt;
pub use metrics::DeliveryMetrics;
pub use partition::PartitionError;
pub use progress::{ProgressError, load_progress};
pub use service::{DeliveryConfig, DeliveryError, start};
pub use suppression::{SUPPRESSION_LEASE, Suppressed};
pub use trace::CallTrace;
pub use translate::{Rendered, Translation, translate};
