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
    load_revision(bus, partition).await.map(|(progress, _)| progress)
}

/// The same with the record's revision.
pub(crate) async fn load_revision(bus: &Bus, partition: u16) -> Result<(DeliveryProgress, Option<u64>), ProgressError> {
    match bus.get_record(&DeliveryProgress::record_key(partition)).await? {
        Some(record) => Ok((DeliveryProgress::decode(&record.value)?, Some(record.revision))),
        None => Ok((DeliveryProgress::default(), None)),
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

/// A partition that is served here.
#[derive(Debug)]
struct Open {
    books: Books<Hold>,
    /// Of the progress record as it was last read or written here: a write that finds another one is a former owner's.
    revision: Option<u64>,
    /// Cancelled when a parked log turns out to be another owner's.
    fenced: CancellationToken,
}

/// What was written of a partition's progress.
#[derive(Debug, Default)]
struct Writes {
    /// The newest that is stored.
    stored: Option<DeliveryProgress>,
    /// What was given up without an answer: it may be stored now, or be so later.
    unanswered: Option<DeliveryProgress>,
}

/// What came of a write.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    /// What the books say is stored.
    Newest,
    /// What they said when an answer was lost is.
    Older,
    /// Nothing is known now.
    NotNow,
    /// Another owner has stored some.
    AnotherOwner,
}

/// What the tasks of one partition share. A partition that is not served here has no books.
#[derive(Debug, Default)]
pub(crate) struct Tracked {
    open: Mutex<Option<Open>>,
    moved: Notify,
}

impl Tracked {
    fn look<T>(&self, look: impl FnOnce(&mut Books<Hold>) -> T) -> Option<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.as_mut().map(|open| look(&mut open.books))
    }

    /// Begins with these books, stored under this revision.
    pub(crate) fn open(&self, books: Books<Hold>, revision: Option<u64>) {
        let open = Open { books, revision, fenced: CancellationToken::new() };
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(open);
    }

    /// Notes that another owner has written a parked log of this partition.
    pub(crate) fn fence(&self) {
        if let Some(open) = self.open.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            open.fenced.cancel();
        }
    }

    /// Told when another owner has written a parked log; at once when the partition is not served here.
    pub(crate) async fn fenced(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|open| open.fenced.clone());
        if let Some(fenced) = open {
            fenced.cancelled().await;
        }
    }

    /// Forgets the books: what still comes of earlier work counts for nobody.
    pub(crate) fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Changes the books; `change` says whether a position moved.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Books<Hold>) -> bool) {
        if self.look(change) == Some(true) {
            self.moved.notify_one();
        }
    }

    /// The books as they are written together with the next `parked` calls.
    pub(crate) fn with_parked(&self, key: &ConnectionKey, parked: usize) -> Option<ConnectionTotals> {
        self.look(|books| books.with_parked(key, parked)).flatten()
    }

    pub(crate) fn forget_releases(&self, key: &ConnectionKey) -> (u64, Vec<(Fate, usize)>) {
        self.look(|books| books.forget_releases(key)).unwrap_or_default()
    }

    fn totals<T: Default>(&self, key: &ConnectionKey, look: impl FnOnce(&ConnectionTotals) -> T) -> T {
        self.look(|books| books.totals(key).map(look)).flatten().unwrap_or_default()
    }

    /// Up to where the parked log, which ends at `last`, was sent.
    pub(crate) fn released(&self, key: &ConnectionKey, last: u64) -> u64 {
        let mut released = 0;
        self.update(|books| {
            let before = books.totals(key).map_or(0, |totals| totals.released_through);
            released = books.pass_over(key, last);
            released > before
        });
        released
    }

    /// Whether anything was ever parked: then the log has a last message, the fence of the next.
    pub(crate) fn has_parked(&self, key: &ConnectionKey) -> bool {
        self.totals(key, |totals| totals.parked > 0)
    }

    /// Calls that lie parked.
    pub(crate) fn parked(&self, key: &ConnectionKey) -> u64 {
        self.totals(key, ConnectionTotals::still_parked)
    }

    /// How far the partition has come, if it is served here.
    pub(crate) fn progress(&self) -> Option<DeliveryProgress> {
        self.look(|books| books.progress())
    }

    fn revision(&self) -> Option<u64> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|open| open.revision)
    }

    fn set_revision(&self, revision: u64) {
        if let Some(open) = self.open.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            open.revision = Some(revision);
        }
    }

    /// Keeps the stored progress up with the books, until `finish`; then stores it a last time. Returns `false` as soon as
    /// another owner has stored some: then this one is one no more.
    pub(crate) async fn keep(self: Arc<Self>, bus: Bus, partition: u16, finish: CancellationToken) -> bool {
        let mut writes = Writes::default();
        let (mut purged, mut purge_at) = (BTreeMap::new(), Instant::now() + PURGE_EVERY);
        loop {
            // The first write says to a former owner that it is one.
            let finishing = finish.is_cancelled();
            match self.write(&bus, partition, &mut writes).await {
                Written::Newest => {}
                Written::Older => continue,
                Written::NotNow => self.retry(&finish).await,
                Written::AnotherOwner => return false,
            }
            if finishing || Instant::now() > purge_at {
                if let Some(stored) = &writes.stored {
                    purge(&bus, partition, stored, &mut purged).await;
                }
                purge_at = Instant::now() + PURGE_EVERY;
            }
            if finishing {
                return true;
            }
            pause(WRITE_EVERY, &finish).await;
            tokio::select! {
                biased;
                () = self.moved.notified() => {}
                () = finish.cancelled() => {}
            }
        }
    }

    /// Stores what the books say, unless it is stored. A write whose answer was lost is first repeated as it was: what stands
    /// against it then is that very write, or another owner's.
    async fn write(&self, bus: &Bus, partition: u16, writes: &mut Writes) -> Written {
        let repeated = writes.unanswered.is_some();
        let Some(progress) = writes.unanswered.clone().or_else(|| self.progress()) else { return Written::Newest };
        if writes.stored.as_ref() == Some(&progress) {
            return Written::Newest;
        }
        let expected = self.revision().map_or(Expected::Absent, Expected::Revision);
        match bus.put_record(&DeliveryProgress::record_key(partition), expected, progress.encode()).await {
            Ok(revision) => self.set_revision(revision),
            Err(RecordError::Conflict) => match self.settle(bus, partition, &progress).await {
                Some(true) => {}
                Some(false) => return Written::AnotherOwner,
                None => {
                    // The very write may stand there: it must be compared with this one, whatever the books say by then.
                    writes.unanswered = Some(progress);
                    return Written::NotNow;
                }
            },
            Err(error) => {
                tracing::warn!(partition, %error, "progress could not be stored yet");
                writes.unanswered = Some(progress);
                return Written::NotNow;
            }
        }
        *writes = Writes { stored: Some(progress), unanswered: None };
        if repeated { Written::Older } else { Written::Newest }
    }

    /// Waits, and has the write tried again.
    async fn retry(&self, finish: &CancellationToken) {
        self.moved.notify_one();
        pause(RETRY_WAIT, finish).await;
    }

    /// Whether the record that stands against a write is that very write, whose answer was lost. `None` when it cannot be
    /// read now.
    async fn settle(&self, bus: &Bus, partition: u16, progress: &DeliveryProgress) -> Option<bool> {
        let found = bus.get_record(&DeliveryProgress::record_key(partition)).await.ok()?;
        let ours = found.filter(|record| record.value == progress.encode());
        if let Some(record) = &ours {
            self.set_revision(record.revision);
        }
        Some(ours.is_some())
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

/// Waits, but not beyond the moment when everything ends.
pub(crate) async fn pause(time: Duration, finish: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = finish.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use inflection_bus::EmbeddedConfig;

    use super::*;

    fn progress(through: u64) -> DeliveryProgress {
        DeliveryProgress { finished_through: through, read_through: through, connections: Vec::new() }
    }

    #[tokio::test]
    async fn a_write_whose_answer_was_lost_is_not_taken_for_another_owners() {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        let key = DeliveryProgress::record_key(0);
        let stored = async || DeliveryProgress::decode(&bus.get_record(&key).await.unwrap().unwrap().value).unwrap();
        let (tracked, mut writes) = (Tracked::default(), Writes::default());
        let read = |through, revision| tracked.open(Books::new(progress(through), Vec::new()), revision);
        read(1, None);
        assert_eq!(tracked.write(&bus, 0, &mut writes).await, Written::Newest);
        let known = tracked.revision();

        // The next one was given up, and is stored all the same; the books have moved on meanwhile.
        writes.unanswered = Some(progress(2));
        bus.put_record(&key, Expected::Revision(known.unwrap()), progress(2).encode()).await.unwrap();
        read(3, known);
        assert_eq!(tracked.write(&bus, 0, &mut writes).await, Written::Older);
        assert_eq!(tracked.write(&bus, 0, &mut writes).await, Written::Newest);
        assert_eq!(stored().await, progress(3));

        // Given up, and never stored.
        writes.unanswered = Some(progress(4));
        read(5, tracked.revision());
        assert_eq!(tracked.write(&bus, 0, &mut writes).await, Written::Older);
        assert_eq!(tracked.write(&bus, 0, &mut writes).await, Written::Newest);
        assert_eq!(stored().await, progress(5));

        // Given up; but it is another owner's that stands there.
        writes.unanswered = Some(progress(6));
        bus.put_record(&key, Expected::Anything, progress(9).encode()).await.unwrap();
        read(7, tracked.revision());
        assert_eq!(tracked.write(&bus, 0, &mut writes).await, Written::AnotherOwner);
        assert_eq!(stored().await, progress(9), "it stays");
        bus.close().await;
    }

    #[tokio::test]
    async fn what_is_given_up_is_remembered_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        let (tracked, mut writes) = (Tracked::default(), Writes::default());
        tracked.open(Books::new(progress(1), Vec::new()), None);
        bus.close().await;
        assert_eq!(tracked.write(&bus, 0, &mut writes).await, Written::NotNow);
        assert_eq!((writes.stored, writes.unanswered), (None, Some(progress(1))));
    }
}
