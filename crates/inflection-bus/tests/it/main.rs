//! One conformance suite for both backends, and what only a real crash or a real disk can show.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test helpers outside #[test] functions"
)]

mod backends;
mod blobs;
mod cluster;
mod conformance;
mod crash;
mod disk;
