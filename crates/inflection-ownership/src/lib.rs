//! Shares a stage's partitions out among its workers.
//!
//! * `assign`: who should have which partition; pure;
//! * `view`: what one worker knows and does about it: claim, serve, stop, release; a pure state machine;
//! * `task`: the records on the bus around it.
//!
//! This is for spreading work, and for handing it over without a pause. It does not make anything safe: two workers may
//! for a moment both think that a partition is theirs. Safe are the stages themselves, each by the fence of what it
//! writes (the decision log, the progress record).

mod assign;
mod task;
mod view;

pub use assign::assign;
pub use task::{Change, Identity, OwnershipError, Shares, StopWait, join};
pub use view::{Action, Claim, Ownership, WorkerId};
