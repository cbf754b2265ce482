//! The NATS JetStream backend.
//!
//! * `blobs`: an object store bucket;
//! * `client`: the connection, appends, last messages, purges;
//! * `publish`: one message into a stream, through elections and reconnects;
//! * `availability`: whether the streams have leaders that answer;
//! * `records`: keyed records over a KV bucket's stream;
//! * `watch`: following keyed records;
//! * `reader`: reading a subject in order from one's own position;
//! * `provision`: streams and buckets, and whether they keep what we promise;
//! * `monitor`: what only the server's monitoring port tells.

mod availability;
mod backoff;
mod blobs;
mod client;
mod monitor;
mod provision;
mod publish;
mod reader;
mod records;
mod watch;

use std::path::PathBuf;

pub(crate) use client::Client;
pub use provision::{DurabilityGap, ProvisionConfig, Provisioned, StreamSpec, WhenFull};
pub(crate) use reader::{PREFETCH_MESSAGES, Reader};
pub(crate) use watch::Watch;

/// How to reach NATS.
#[derive(Debug, Clone, Default)]
pub struct NatsConfig {
    /// Servers, `nats://host:port` or `tls://host:port`. More are learned from the first that answers.
    pub urls: Vec<String>,
    /// Credentials file (JWT and seed).
    pub creds_file: Option<PathBuf>,
    /// Certificate authorities for TLS, PEM.
    pub ca_file: Option<PathBuf>,
    /// The servers' monitoring addresses, `http://host:8222`: only there can be read whether they sync every write.
    pub monitor_urls: Vec<String>,
    /// Name of this client in the server's listings.
    pub name: String,
}

/// Oldest server that will do: the oldest supported line, with protection against disk errors and Raft overruns.
const SERVER_FLOOR: &str = "2.14.0";
/// Everything of ours begins with this, so that a server may be shared.
const PREFIX: &str = "inflection";

fn stream_name(stream: &str) -> String {
    format!("{}_{}", PREFIX.to_uppercase(), stream.to_uppercase())
}

fn bucket_name() -> String {
    format!("{PREFIX}_records")
}

fn blobs_bucket() -> String {
    format!("{PREFIX}_blobs")
}

fn blobs_stream() -> String {
    format!("OBJ_{}", blobs_bucket())
}

fn bucket_stream() -> String {
    format!("KV_{}", bucket_name())
}
