//! Translates decisions to Segment calls and sees each one to an end.
//!
//! * `translate`: from a decision to rendered items, under a connection's settings; pure;
//! * `dispatcher`: a connection's lanes, batches, retries and bisection; a pure state machine;
//! * `window`: what of a partition is under way, and how far it is finished; pure;
//! * `partition` and `connection`: the tasks around them, which read, send, wait and store;
//! * `dead_letters`: calls that will not be sent, and how they come back.
//!
//! Whose event it is and whether it is unique was decided before and is never looked at again here.

mod connection;
mod dead_letters;
mod dispatcher;
mod metrics;
mod partition;
mod progress;
mod service;
mod translate;
mod window;

pub use connection::{ConnectionState, ConnectionStatus};
pub use dead_letters::{DeadLetterError, StoredLetter, dead_letter_log, drop_letter, list};
pub use dispatcher::{Action, BatchId, Dispatcher, Fate, Finished, Item, LaneId, Limits, Pause, Response, Ticket};
pub use metrics::DeliveryMetrics;
pub use partition::PartitionError;
pub use progress::{ProgressError, load_progress, progress_key};
pub use service::{DeliveryConfig, DeliveryError, DeliveryHandle, ReplayError, start};
pub use translate::{Rendered, Translation, translate};
