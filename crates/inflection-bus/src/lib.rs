//! Partitioned logs, keyed records and blobs over two backends: NATS JetStream, and a store embedded in the process.
//!
//! [`Bus`] is the whole surface. It carries bytes and knows no event. Both backends pass one conformance suite
//! (`tests/it`); the embedded one is a real store, durable and crash-tested, for one process.
//!
//! Who reads keeps its own position: a [`Reader`] starts after a sequence that its owner stored next to the effect of
//! reading. There are deliberately no acknowledgements and no redelivery here; ARCHITECTURE.md says why.

mod embedded;
mod error;
mod log;
mod nats;
mod reader;
mod usage;
mod watch;

use std::time::Duration;

use bytes::Bytes;

pub use embedded::EmbeddedConfig;
pub use error::{AppendError, BlobError, OpenError, ReadError, RecordError};
pub use log::{InvalidName, Log, Sequence};
pub use nats::{DurabilityGap, NatsConfig, ProvisionConfig, Provisioned, StreamSpec, WhenFull};
pub use reader::{Message, Reader};
pub use usage::Usage;
pub use watch::{RecordChange, Watch};

/// A handle to the bus. Clones share one connection or one store.
#[derive(Debug, Clone)]
pub struct Bus(Backend);

#[derive(Debug, Clone)]
enum Backend {
    Nats(Box<nats::Client>),
    Embedded(embedded::Store),
}

/// A keyed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its value.
    pub value: Bytes,
    /// Changes with every write; 0 is never a revision.
    pub revision: u64,
}

/// What a write of a record expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Anything: the last write wins.
    Anything,
    /// Nothing: the key must not exist.
    Absent,
    /// This revision.
    Revision(u64),
}

impl Bus {
    /// Opens the embedded store in a directory, recovering what an earlier process left. One process at a time.
    ///
    /// # Errors
    /// [`OpenError`] when the directory is in use, cannot be written, or holds a damaged journal.
    pub async fn open_embedded(config: EmbeddedConfig) -> Result<Self, OpenError> {
        embedded::Store::open(config).await.map(|store| Self(Backend::Embedded(store)))
    }

    /// Connects to NATS.
    ///
    /// # Errors
    /// [`OpenError`] when no server answers or the server is older than the floor.
    pub async fn connect_nats(config: NatsConfig) -> Result<Self, OpenError> {
        nats::Client::connect(config).await.map(|client| Self(Backend::Nats(Box::new(client))))
    }

    /// Creates or checks streams, consumers and buckets on NATS; the embedded store needs none.
    ///
    /// # Errors
    /// [`OpenError`] when the server refuses. Gaps in durability are not errors here: the caller decides.
    pub async fn provision(&self, config: &ProvisionConfig) -> Result<Provisioned, OpenError> {
        match &self.0 {
            Backend::Nats(client) => client.provision(config).await,
            Backend::Embedded(_) => Ok(Provisioned::default()),
        }
    }

    /// What of the durability policy the bus does not meet, without changing anything.
    ///
    /// # Errors
    /// [`OpenError`] when a stream does not exist or the server does not answer.
    pub async fn durability_gaps(&self, config: &ProvisionConfig) -> Result<Vec<DurabilityGap>, OpenError> {
        match &self.0 {
            Backend::Nats(client) => client.check(config).await,
            Backend::Embedded(_) => Ok(Vec::new()),
        }
    }

    /// Appends one message and returns its sequence once it is durable. With `fence`, only if the log's last sequence is
    /// still that one (0 for an empty log). An append whose answer is lost is settled before this returns, if the bus
    /// comes back in time.
    ///
    /// # Errors
    /// [`AppendError`]; only [`AppendError::Unavailable`] leaves open whether the message was stored.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have appended.
    pub async fn append(&self, log: &Log, fence: Option<Sequence>, payload: Bytes) -> Result<Sequence, AppendError> {
        match &self.0 {
            Backend::Nats(client) => client.append(log, fence, payload).await,
            Backend::Embedded(store) => store.append(log, fence, payload).await,
        }
    }

    /// Reads a log from the message after `after`, for ever: the reader waits at the end for more, and for a bus that is
    /// away.
    #[must_use]
    pub fn read(&self, log: &Log, after: Sequence) -> Reader {
        self.read_with(log, after, nats::PREFETCH_MESSAGES)
    }

    /// The same with so many messages fetched ahead of the caller, at most; the embedded store fetches nothing ahead.
    #[must_use]
    pub fn read_with(&self, log: &Log, after: Sequence, prefetch_messages: usize) -> Reader {
        match &self.0 {
            Backend::Nats(client) => Reader::nats(client.read(log, after, prefetch_messages)),
            Backend::Embedded(store) => Reader::embedded(store.read(log, after)),
        }
    }

    /// The last message of a log, if it has any. Strictly consistent: what was acknowledged is seen.
    ///
    /// # Errors
    /// [`ReadError`] when the bus does not answer.
    pub async fn last(&self, log: &Log) -> Result<Option<Message>, ReadError> {
        match &self.0 {
            Backend::Nats(client) => client.last(log).await,
            Backend::Embedded(store) => store.last(log).await,
        }
    }

    /// The first message of a log after a sequence, if there is one: a look, where [`Bus::read`] would wait.
    ///
    /// # Errors
    /// [`ReadError`] when the bus does not answer.
    pub async fn first(&self, log: &Log, after: Sequence) -> Result<Option<Message>, ReadError> {
        match &self.0 {
            Backend::Nats(client) => client.first(log, after).await,
            Backend::Embedded(store) => store.first(log, after).await,
        }
    }

    /// How full the stores of these streams are. On NATS each stream has its own; the embedded store has one for all, called
    /// `journal`.
    ///
    /// # Errors
    /// [`ReadError`] when the bus does not answer.
    pub async fn usage(&self, streams: &[&'static str]) -> Result<Vec<Usage>, ReadError> {
        match &self.0 {
            Backend::Nats(client) => client.usage(streams).await,
            Backend::Embedded(store) => Ok(vec![store.usage()]),
        }
    }

    /// How many connections to the bus were made so far: more than one is a lost one. The embedded store has the one that it
    /// was opened with.
    #[must_use]
    pub fn connections(&self) -> u64 {
        match &self.0 {
            Backend::Nats(client) => client.connections(),
            Backend::Embedded(_) => 1,
        }
    }

    /// The logs of a stream (`parked`: all logs whose name begins with `parked.`) that hold messages.
    ///
    /// # Errors
    /// [`ReadError`] when the bus does not answer.
    pub async fn logs(&self, stream: &str) -> Result<Vec<Log>, ReadError> {
        match &self.0 {
            Backend::Nats(client) => client.logs(stream).await,
            Backend::Embedded(store) => Ok(store.logs(stream)),
        }
    }

    /// Deletes the messages of a log up to and including a sequence.
    ///
    /// # Errors
    /// [`AppendError`] when the bus does not answer.
    pub async fn purge(&self, log: &Log, through: Sequence) -> Result<(), AppendError> {
        match &self.0 {
            Backend::Nats(client) => client.purge(log, through).await,
            Backend::Embedded(store) => store.purge(log, through).await,
        }
    }

    /// Reads a keyed record. Strictly consistent.
    ///
    /// # Errors
    /// [`RecordError`] when the bus does not answer.
    pub async fn get_record(&self, key: &str) -> Result<Option<Record>, RecordError> {
        match &self.0 {
            Backend::Nats(client) => client.get_record(key).await,
            Backend::Embedded(store) => Ok(store.get_record(key)),
        }
    }

    /// Writes a keyed record and returns its revision once it is durable.
    ///
    /// # Errors
    /// [`RecordError::Conflict`] when `expected` does not hold.
    pub async fn put_record(&self, key: &str, expected: Expected, value: Bytes) -> Result<u64, RecordError> {
        match &self.0 {
            Backend::Nats(client) => client.put_record(key, expected, value).await,
            Backend::Embedded(store) => store.put_record(key, expected, Some(value)).await,
        }
    }

    /// Deletes a keyed record, whatever it holds. Deleting what is not there is no error.
    ///
    /// # Errors
    /// [`RecordError`] when the bus does not answer.
    pub async fn delete_record(&self, key: &str) -> Result<(), RecordError> {
        match &self.0 {
            Backend::Nats(client) => client.delete_record(key).await,
            Backend::Embedded(store) => store.put_record(key, Expected::Anything, None).await.map(drop),
        }
    }

    /// Follows the records whose key begins with `prefix` and a dot: what they hold now, and then every change, also by
    /// other processes. Of several quick changes of one key only the last may be seen.
    #[must_use]
    pub fn watch(&self, prefix: &str) -> Watch {
        match &self.0 {
            Backend::Nats(client) => Watch::nats(client.watch(prefix)),
            Backend::Embedded(store) => Watch::embedded(store.watch(prefix)),
        }
    }

    /// Stores a blob under a name, in place of what was there; whole or not at all. For snapshots: a blob is held in
    /// memory, and should stay below some hundred MiB.
    ///
    /// # Errors
    /// [`BlobError`] when it cannot be stored.
    pub async fn put_blob(&self, name: &str, blob: Bytes) -> Result<(), BlobError> {
        match &self.0 {
            Backend::Nats(client) => client.put_blob(name, &blob).await,
            Backend::Embedded(store) => store.put_blob(name, blob).await,
        }
    }

    /// Reads a blob, if there is one.
    ///
    /// # Errors
    /// [`BlobError`] when it cannot be read.
    pub async fn get_blob(&self, name: &str) -> Result<Option<Bytes>, BlobError> {
        match &self.0 {
            Backend::Nats(client) => client.get_blob(name).await,
            Backend::Embedded(store) => store.get_blob(name).await,
        }
    }

    /// Deletes a blob. Deleting what is not there is no error.
    ///
    /// # Errors
    /// [`BlobError`] when the bus does not answer.
    pub async fn delete_blob(&self, name: &str) -> Result<(), BlobError> {
        match &self.0 {
            Backend::Nats(client) => client.delete_blob(name).await,
            Backend::Embedded(store) => store.delete_blob(name).await,
        }
    }

    /// Deletes what writes of blobs that were cut off have left behind, when it is older than `age`; gives of how many. The
    /// embedded store writes a blob beside the old one, and leaves nothing that the next write would not take.
    ///
    /// # Errors
    /// [`BlobError`] when the bus does not answer.
    pub async fn delete_torn_blobs(&self, age: Duration) -> Result<usize, BlobError> {
        match &self.0 {
            Backend::Nats(client) => client.delete_torn_blobs(age).await,
            Backend::Embedded(_) => Ok(0),
        }
    }

    /// Whether the bus can take appends now; says why not. On NATS within a second: it asks the leaders of the streams, and
    /// takes an answer that is less than a second old.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn health(&self) -> Result<(), String> {
        match &self.0 {
            Backend::Nats(client) => client.health().await,
            Backend::Embedded(store) => store.health(),
        }
    }

    /// Whether other processes may use it too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match &self.0 {
            Backend::Nats(_) => true,
            Backend::Embedded(_) => false,
        }
    }

    /// Whether the bus has failed for good: the embedded store after a disk error. Waiting does not help, a restart may.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        match &self.0 {
            Backend::Nats(_) => false,
            Backend::Embedded(store) => store.health().is_err(),
        }
    }

    /// The largest payload of one message, in bytes.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        match &self.0 {
            Backend::Nats(client) => client.payload_bytes_max(),
            Backend::Embedded(_) => embedded::PAYLOAD_BYTES_MAX,
        }
    }

    /// Finishes what is under way and closes the connection or store. Later calls fail.
    pub async fn close(&self) {
        match &self.0 {
            Backend::Nats(client) => client.close().await,
            Backend::Embedded(store) => store.close().await,
        }
    }
}
