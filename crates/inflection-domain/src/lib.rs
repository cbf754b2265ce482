//! What an engagement is, whose it is, and whether it is the first of its kind: values and pure functions.
//!
//! The centre is [`PartitionState::fold`]: *(state, fact) → (state′, decision)*. Everything here is told what it needs
//! (state, fact, policy, log time) and answers with what should happen. There is deliberately no clock, no randomness
//! and no I/O in this crate (its `clippy.toml` forbids them), no protobuf (that is `inflection-wire`) and nothing of
//! Segment's API beyond the names of the calls (that is `inflection-segment`).

mod address;
mod alias;
mod call;
mod fact;
mod fold;
mod hash;
mod ids;
mod machine;
pub mod members;
mod partition;
mod state;
mod suppression;
mod timestamp;

pub use address::{EmailAddress, InvalidAddress};
pub use alias::{Alias, AliasUse};
pub use call::{Call, CallKey, CallKind, MessageId, OUR_PROPERTIES, OpenSource};
pub use fact::{Body, BounceClass, Fact, FactKind, Head, LinkKind, LinkRef, MailRef};
pub use fold::{ClickPerOpen, Decision, Policy, Released, Verdict};
pub use hash::Hash128;
pub use ids::{
    ConnectionId, EventId, InstallationId, InstallationKey, InvalidId, PersonId, UserId, WorkspaceId,
    is_blocked_user_id, is_placeholder,
};
pub use machine::{
    CLASSIFIER_VERSION, Engaged, Judgement, KnownMachines, MachineCheck, MachinePolicy, MachineRules, MachineSignal,
    MachineTimes, MachineTiming, Networks, Traces,
};
pub use partition::{Partition, PartitionCount};
pub use state::{Changes, Delivery, HeldClick, LinkClick, PartitionState, PendingLink, Person, RecentClicks, Restore};
pub use suppression::{OrderKind, PersonOrder, Tombstone};
pub use timestamp::{InvalidTimestamp, Timestamp};
