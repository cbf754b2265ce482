//! The harness of the end-to-end checks: it starts the built binary as a process, talks to it as a sender, an operator
//! and Segment would, and stops or kills it.
//!
//! Deliberately not here: any use of the product's own crates (but the Segment stand-in), any asynchronous client. A
//! check is a plain function that blocks; what it waits for it states through [`wait::eventually`].
//!
//! | module | for |
//! |---|---|
//! | [`install`] | one install, standalone or fleet, behind one face |
//! | [`nats`], [`cluster`] | the bus of a fleet: one nats-server, or three that lose each other |
//! | [`segment`] | the stand-in for Segment: what arrived, and faults on demand |
//! | [`collector`] | a collector of traces |
//! | [`fact`] | events as a sender writes them |
//! | [`sender`], [`load`] | sending one by one, and load that keeps a history |
//! | [`checker`] | judges such a history by the invariants of `reference/reliability.md` 2 |

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a harness reports by panicking: every panic here is a failed check with its reason"
)]

pub mod admin;
pub mod announce;
pub mod arrived;
pub mod binary;
pub mod checker;
pub mod cluster;
pub mod collector;
pub mod config;
pub mod fact;
pub mod fleet;
pub mod http;
pub mod install;
pub mod load;
pub mod nats;
pub mod ports;
pub mod process;
pub mod random;
pub mod segment;
pub mod sender;
pub mod sendgrid;
pub mod settings;
pub mod standalone;
pub mod wait;
