//! Where a partition's progress is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use inflection_bus::{Bus, Expected, RecordError};
use inflection_wire::{ConnectionTotals, DecodeError, DeliveryProgress};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::books::{Books, ConnectionKey};
use crate::connection::parked_log;
use crate::dispatcher::Fate;
use crate::room;

/// Progress is written at most this often: a crash repeats what was finished since, under equal ids.
const WRITE_EVERY: Duration = Duration::from_millis(25);
/// What was sent of the parked logs is deleted this often.
const PURGE_EVERY: Duration = Duration::from_secs(2);
/// Wait after a write that failed.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// The record of a partition's progress.
#[must_use]
pub fn progress_key(partition: u16) -> String {
    format!("progress.{partition}")
}

/// Why progress cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    /// The bus does not answer.
    #[error("the progress record cannot be read")]
    Record(#[from] RecordError),
    /// The record is none.
    #[error("the progress record is damaged")]
    Damaged(#[from] DecodeError),
    /// The parked logs cannot be read.
    #[error("the parked logs cannot be read")]
    Parked(#[from] inflection_bus::ReadError),
}

/// Reads a partition's progress; a partition that has none is at its beginning.
///
/// # Errors
/// [`ProgressError`] when it cannot be read.
pub async fn load_progress(bus: &Bus, partition: u16) -> Result<DeliveryProgress, ProgressError> {
    match bus.get_record(&progress_key(partition)).await? {
        Some(record) => Ok(DeliveryProgress::decode(&record.value)?),
        None => Ok(DeliveryProgress::default()),
    }
}

/// Room that a message under way holds.
#[derive(Debug)]
#[expect(dead_code, reason = "held for what dropping it gives back")]
pub(crate) enum Hold {
    /// Of what waits for Segment.
    Room(room::Held),
    /// Of what is on its way into the parked log, and waits for the bus only.
    Parking(OwnedSemaphorePermit),
}

impl From<room::Held> for Hold {
    fn from(held: room::Held) -> Self {
        Self::Room(held)
    }
}

/// What the tasks of one partition share.
#[derive(Debug)]
pub(crate) struct Tracked {
    books: Mutex<Books<Hold>>,
    moved: Notify,
}

impl Tracked {
    pub(crate) fn new(books: Books<Hold>) -> Arc<Self> {
        Arc::new(Self { books: Mutex::new(books), moved: Notify::new() })
    }

    fn look<T>(&self, look: impl FnOnce(&mut Books<Hold>) -> T) -> T {
        look(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the books; `change` says whether a position moved.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Books<Hold>) -> bool) {
        if self.look(change) {
            self.moved.notify_one();
        }
    }

    /// The books as they are written together with the next `parked` calls.
    pub(crate) fn with_parked(&self, key: &ConnectionKey, parked: usize) -> Option<ConnectionTotals> {
        self.look(|books| books.with_parked(key, parked))
    }

    pub(crate) fn forget_releases(&self, key: &ConnectionKey) -> (u64, Vec<(Fate, usize)>) {
        self.look(|books| books.forget_releases(key))
    }

    /// Up to where the parked log was sent.
    pub(crate) fn released(&self, key: &ConnectionKey) -> u64 {
        self.look(|books| books.totals(key).map_or(0, |totals| totals.released_through))
    }

    /// Whether anything was ever parked: then the log has a last message, the fence of the next.
    pub(crate) fn has_parked(&self, key: &ConnectionKey) -> bool {
        self.look(|books| books.totals(key).is_some_and(|totals| totals.parked > 0))
    }

    /// Calls that lie parked.
    pub(crate) fn parked(&self, key: &ConnectionKey) -> u64 {
        self.look(|books| books.totals(key).map_or(0, ConnectionTotals::still_parked))
    }

    pub(crate) fn progress(&self) -> DeliveryProgress {
        self.look(|books| books.progress())
    }

    /// Keeps the stored progress up with the books, until `finish`; then stores it a last time.
    pub(crate) async fn keep(self: Arc<Self>, bus: Bus, partition: u16, finish: CancellationToken) {
        let mut stored = self.progress();
        let (mut purged, mut purge_at) = (BTreeMap::new(), Instant::now() + PURGE_EVERY);
        loop {
            let finishing = tokio::select! {
                biased;
                () = self.moved.notified() => finish.is_cancelled(),
                () = finish.cancelled() => true,
            };
            let progress = self.progress();
            if progress != stored {
                match bus.put_record(&progress_key(partition), Expected::Anything, progress.encode()).await {
                    Ok(_) => stored = progress,
                    Err(error) => {
                        tracing::warn!(partition, %error, "progress could not be stored yet");
                        self.moved.notify_one();
                        pause(RETRY_WAIT, &finish).await;
                    }
                }
            }
            if finishing || Instant::now() > purge_at {
                purge(&bus, partition, &stored, &mut purged).await;
                purge_at = Instant::now() + PURGE_EVERY;
            }
            if finishing {
                return;
            }
            pause(WRITE_EVERY, &finish).await;
        }
    }
}

/// Deletes what was sent of parked logs, as far as that is stored. The last message stays: it is the fence of the next.
async fn purge(bus: &Bus, partition: u16, stored: &DeliveryProgress, purged: &mut BTreeMap<ConnectionKey, u64>) {
    for totals in &stored.connections {
        let key = (totals.workspace.clone(), totals.connection.clone());
        let through = totals.released_through.saturating_sub(1);
        if through == 0 || purged.get(&key) == Some(&through) {
            continue;
        }
        let Ok(log) = parked_log(&key, partition) else { continue };
        match bus.purge(&log, through).await {
            Ok(()) => drop(purged.insert(key, through)),
            Err(error) => tracing::warn!(partition, %error, "parked calls that were sent could not be deleted yet"),
        }
    }
}

async fn pause(time: Duration, finish: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = finish.cancelled() => {}
    }
}
