//! What can go wrong, by operation.

use std::path::PathBuf;

use crate::Sequence;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a bus cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the store open.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// The directory cannot be read or written.
    #[error("{path} cannot be used")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A journal is damaged where it had been written completely: not a crash, but a broken disk or a foreign hand.
    #[error("{path} is damaged at byte {offset}; restore it from a backup, or move it away and lose what it holds")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where reading stopped.
        offset: u64,
    },
    /// No NATS server answers, or it refuses us.
    #[error("NATS at {urls} cannot be used")]
    Connect {
        /// The servers, without credentials.
        urls: String,
        /// What the client says.
        source: Source,
    },
    /// The server is older than we can rely on.
    #[error("nats-server {found} is too old: {floor} or newer is needed")]
    ServerTooOld {
        /// Its version.
        found: String,
        /// The oldest that will do.
        floor: &'static str,
    },
    /// A stream or bucket does not exist.
    #[error("stream {0} does not exist on the bus: run `inflection-source provision` first")]
    NotProvisioned(String),
    /// A stream exists, but nobody says how it is: its servers have no majority, or cannot be reached.
    #[error("stream {stream} has no leader that answers")]
    NoLeader {
        /// The stream.
        stream: String,
        /// What the server, or the client, says.
        source: Source,
    },
    /// Fewer servers than replicas.
    #[error(
        "{replicas} replicas need as many servers with JetStream in one cluster, and there are fewer ({why}): give the \
         addresses of a cluster of three with --nats-url, or use what is there with --replicas 1 --allow-degraded"
    )]
    TooFewServers {
        /// Replicas that were asked for.
        replicas: usize,
        /// What the server says.
        why: String,
    },
    /// The server refuses an administrative request.
    #[error("the server refused to {what}")]
    Refused {
        /// What was asked for.
        what: String,
        /// What it answered.
        source: Source,
    },
}

/// Why an append or purge did not happen.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The log's last sequence is another one: somebody else has written. Nothing was stored.
    #[error("the log has moved on: expected last sequence {expected}")]
    Fenced {
        /// What the caller expected.
        expected: Sequence,
    },
    /// The stream or disk is full and keeps what it has. Nothing was stored.
    #[error("the bus is full: {0}")]
    Full(String),
    /// The payload is larger than a message may be. Nothing was stored.
    #[error("a message of {bytes} bytes is larger than the bus takes ({max})")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The bus does not answer, or has failed. The message may or may not have been stored.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bus does not answer.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
    /// A stored message fails its checksum.
    #[error("message {sequence} of {log} is damaged on disk")]
    Damaged {
        /// The log.
        log: String,
        /// The message.
        sequence: Sequence,
    },
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The record is not what the writer expected.
    #[error("the record was changed by somebody else")]
    Conflict,
    /// The key has characters that keys may not have.
    #[error("not a record key")]
    InvalidKey,
    /// The store has no room.
    #[error("the bus is full: {0}")]
    Full(String),
    /// The bus does not answer. A write may or may not have happened.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
}

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The name has characters that names may not have.
    #[error("not a blob's name")]
    InvalidName,
    /// The bus does not answer, or the disk refuses.
    #[error("blobs are unavailable: {0}")]
    Unavailable(String),
    /// The bus answers, but what it has is not what was stored. Waiting does not help.
    #[error("the blob is damaged on the bus: {0}")]
    Damaged(String),
}
