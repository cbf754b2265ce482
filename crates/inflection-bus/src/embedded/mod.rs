//! The embedded backend: one journal for everything, one fsync for everybody.
//!
//! * `frame`: what a journal consists of, and how a torn tail is told from a damaged disk;
//! * `segment`: one file of the journal;
//! * `index`: which message lies where, and what is still needed; `newest`: the payloads of the last ones;
//! * `recovery`: from files to an index;
//! * `committer`: the one thread that writes: collects what waits, writes it, syncs once, answers everybody;
//! * `reader`: reading at one's own pace;
//! * `watch`: following keyed records;
//! * `blobs`: large things, a file each.

mod blobs;
mod committer;
mod frame;
mod index;
mod newest;
mod pieces;
mod reader;
mod recovery;
mod segment;
mod watch;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch as signal};

use crate::error::{AppendError, OpenError, ReadError, RecordError};
use crate::log::is_name;
use crate::{Expected, Log, Message, Record, Sequence, Usage};
use committer::{Committer, Request};
use index::Index;
pub(crate) use reader::Reader;
pub(crate) use watch::Watch;

/// Largest payload of one message: the default of a NATS server, so that both backends refuse the same.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Most requests that wait for the committer. Writers keep one append a partition in flight, so this is never the bound
/// that is felt.
const WAITING_REQUESTS_MAX: usize = 4096;

/// Where and how large an embedded store may be.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// Directory of the journal; made when it does not exist.
    pub data_dir: PathBuf,
    /// Most bytes of journal on disk; appends beyond are refused as full. Purges make room.
    pub disk_bytes_max: u64,
    /// Bytes of one journal file. A test makes it small.
    pub segment_bytes: u64,
    /// Begins the keys of records that may be many (`x`, of `x.…`): they leave 4 MiB of the records' room to the others. Empty:
    /// there are none.
    pub many_records: &'static str,
}

impl EmbeddedConfig {
    /// A store in `data_dir` with 64 MiB files and no limit but the disk's.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self { data_dir, disk_bytes_max: u64::MAX, segment_bytes: 64 * 1024 * 1024, many_records: "" }
    }
}

/// State that the committer writes and everybody reads.
#[derive(Debug)]
pub(crate) struct Shared {
    index: RwLock<Index>,
    /// Why the store stopped taking writes, once it has.
    failure: Mutex<Option<String>>,
    /// Bytes in files; how full the store is.
    used_bytes: AtomicU64,
    /// True once nothing is written any more, closed or failed: readers stop waiting.
    closed: signal::Sender<bool>,
}

impl Shared {
    fn index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why nothing more can be read.
    fn ended(&self) -> ReadError {
        ReadError::Unavailable(self.failure().unwrap_or_else(|| "the store is closed".to_owned()))
    }

    fn fail(&self, why: String) {
        tracing::error!(error = why, "the embedded store has failed and takes no more writes; restart the process");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.closed.send_replace(true);
    }
}

/// The embedded store.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    committer: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
    data_dir: Arc<PathBuf>,
    disk_bytes_max: u64,
}

impl Store {
    pub(crate) async fn open(config: EmbeddedConfig) -> Result<Self, OpenError> {
        let path = config.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || Self::open_blocking(config)).await;
        opened.unwrap_or_else(|panic| Err(OpenError::Io { path, source: std::io::Error::other(panic) }))
    }

    fn open_blocking(config: EmbeddedConfig) -> Result<Self, OpenError> {
        let path = config.data_dir.clone();
        let recovered = recovery::recover(&config)?;
        let (index, failure) = (RwLock::new(recovered.index), Mutex::new(None));
        let (used_bytes, disk_bytes_max) = (AtomicU64::new(0), config.disk_bytes_max);
        let shared = Arc::new(Shared { index, failure, used_bytes, closed: signal::Sender::new(false) });
        let (requests, waiting) = mpsc::channel(WAITING_REQUESTS_MAX);
        let committer = Committer::new(config, recovered.active, recovered.lock, Arc::clone(&shared), waiting);
        let thread = std::thread::Builder::new()
            .name("bus-committer".into())
            .spawn(move || committer.run())
            .map_err(|source| OpenError::Io { path: path.clone(), source })?;
        Ok(Self {
            shared,
            requests,
            committer: Arc::new(Mutex::new(Some(thread))),
            data_dir: Arc::new(path),
            disk_bytes_max,
        })
    }

    async fn request<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        let closed = || self.shared.failure().unwrap_or_else(|| "the store is closed".to_owned());
        self.requests.send(make(reply)).await.ok().ok_or_else(closed)?;
        answer.await.ok().ok_or_else(closed)
    }

    pub(crate) async fn append(
        &self,
        log: &Log,
        fence: Option<Sequence>,
        payload: Bytes,
    ) -> Result<Sequence, AppendError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(AppendError::TooLarge { bytes: payload.len(), max: PAYLOAD_BYTES_MAX });
        }
        let log = log.clone();
        self.request(|reply| Request::Append { log, fence, payload, reply })
            .await
            .map_err(AppendError::Unavailable)
            .flatten()
    }

    pub(crate) async fn purge(&self, log: &Log, through: Sequence) -> Result<(), AppendError> {
        let log = log.clone();
        self.request(|reply| Request::Purge { log, through, reply }).await.map_err(AppendError::Unavailable).flatten()
    }

    pub(crate) fn get_record(&self, key: &str) -> Option<Record> {
        self.shared.index().record(key)
    }

    /// Writes a record, or deletes it when `value` is `None`.
    pub(crate) async fn put_record(
        &self,
        key: &str,
        expected: Expected,
        value: Option<Bytes>,
    ) -> Result<u64, RecordError> {
        if !is_name(key) {
            return Err(RecordError::InvalidKey);
        }
        if value.as_ref().is_some_and(|value| value.len() > PAYLOAD_BYTES_MAX) {
            return Err(RecordError::Full(format!("a record may be {PAYLOAD_BYTES_MAX} bytes")));
        }
        let key = key.to_owned();
        self.request(|reply| Request::Record { key, expected, value, reply })
            .await
            .map_err(RecordError::Unavailable)
            .flatten()
    }

    pub(crate) fn read(&self, log: &Log, after: Sequence) -> Reader {
        let tail = self.shared.index_mut().watch(log);
        Reader::new(Arc::clone(&self.shared), log.clone(), after, tail)
    }

    pub(crate) fn watch(&self, prefix: &str) -> Watch {
        Watch::new(Arc::clone(&self.shared), prefix)
    }

    pub(crate) fn logs(&self, stream: &str) -> Vec<Log> {
        self.shared.index().logs(stream)
    }

    pub(crate) async fn last(&self, log: &Log) -> Result<Option<Message>, ReadError> {
        let last = self.shared.index().last(log);
        match last {
            None => Ok(None),
            Some(last) => {
                let found = reader::fetch(&self.shared, log, last.saturating_sub(1), PAYLOAD_BYTES_MAX).await?;
                Ok(found.into_iter().next())
            }
        }
    }

    pub(crate) async fn first(&self, log: &Log, after: Sequence) -> Result<Option<Message>, ReadError> {
        // One byte asks for one message, whatever its size.
        Ok(reader::fetch(&self.shared, log, after, 1).await?.into_iter().next())
    }

    pub(crate) fn usage(&self) -> Usage {
        let bytes_max = Some(self.disk_bytes_max).filter(|bytes| *bytes < u64::MAX);
        Usage { store: "journal", bytes: self.shared.used_bytes.load(Ordering::Relaxed), bytes_max }
    }

    pub(crate) fn health(&self) -> Result<(), String> {
        self.shared.failure().map_or(Ok(()), Err)
    }

    pub(crate) async fn close(&self) {
        let _closed: Result<(), String> = self.request(|reply| Request::Close { reply }).await;
        let thread = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The committer has answered and is about to return; a panic in it is already reported as a failure.
            let _joined = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}
