//! Snapshots of one partition: when one is due, taking it beside the fold, and deleting the log that it makes superfluous.
//!
//! The two last snapshots are kept, and the log from the older one on: when the newest cannot be read, the one before and
//! the log give the same state. An owner that does not know yet that it is one no more can spoil one of the two at most,
//! since the index is written with compare-and-set; what it writes instead is a true snapshot of an earlier message.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use inflection_bus::{BlobError, Bus, Expected, Log, RecordError};
use inflection_wire::{DecodeError, DeliveryProgress, Snapshot, SnapshotHead, SnapshotIndex, SnapshotSlot};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};

use crate::metrics::IdentityMetrics;
use crate::step::Step;

/// What is left of an unfinished snapshot is deleted when it is so old: much longer than writing one takes.
const TORN_AGE: Duration = Duration::from_secs(3600);

/// What all partitions of a process share.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotConfig {
    /// Bytes of decisions after which a partition takes a snapshot; a large state waits for more.
    pub(crate) every_bytes: u64,
    /// Lets one partition at a time hold a copy of its state.
    pub(crate) gate: Arc<Semaphore>,
    /// Least time between two snapshots of a partition that are taken because somebody was erased.
    pub(crate) erased_every: Duration,
}

/// Why the snapshots and the log together give no state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
    #[error("the index of its snapshots is damaged")]
    Index(#[from] DecodeError),
    #[error(
        "none of its snapshots can be read, and its decision log is deleted up to message {truncated_through}; restore \
         the bus from a backup"
    )]
    Lost { truncated_through: u64 },
}

/// Why a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error("the state cannot be written")]
    Encode(#[from] JoinError),
    #[error("the blob cannot be stored")]
    Blob(#[from] BlobError),
    #[error("a record cannot be read or written")]
    Record(#[from] RecordError),
    #[error("delivery's progress is damaged")]
    Progress(#[from] DecodeError),
    #[error("what snapshots there are cannot be read")]
    Load(#[from] LoadError),
}

/// What came of work beside the fold.
#[derive(Debug)]
enum Done {
    /// A snapshot was taken.
    Taken(Kept),
    /// What there is was read again.
    Found(Kept),
}

/// Where a partition's snapshots stand.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    index: SnapshotIndex,
    /// Of the index record.
    revision: Option<u64>,
    /// The message at which the newest stands; 0 when there is none.
    through: u64,
    bytes: u64,
}

/// The snapshots of one partition.
#[derive(Debug)]
pub(crate) struct Snapshots {
    partition: u16,
    bus: Bus,
    log: Log,
    config: SnapshotConfig,
    metrics: IdentityMetrics,
    kept: Kept,
    /// Whether the index may be another one than `kept` says: a write of it was refused, or its answer was lost.
    doubtful: bool,
    /// Bytes of decisions since the newest.
    since: u64,
    /// The message that erased somebody, and how many snapshots are due because of it.
    erased: Option<(u64, u8)>,
    /// When the newest was begun here.
    began: Option<Instant>,
    /// The one that is being taken.
    taking: JoinSet<Result<Done, StoreError>>,
}

impl Snapshots {
    /// Reads what is there: the newest snapshot that can be used, if any. Without one the log is whole. The last message
    /// of the log is `log_end`.
    pub(crate) async fn load(
        partition: u16,
        bus: &Bus,
        (log, log_end): (&Log, u64),
        config: SnapshotConfig,
        metrics: IdentityMetrics,
    ) -> Result<(Self, Option<Snapshot>), LoadError> {
        // Boxed, as a state is large even before it holds anything.
        let (kept, newest) = Box::pin(find(partition, bus, log_end, &metrics)).await?;
        if newest.is_none() && kept.index.truncated_through > 0 {
            return Err(LoadError::Lost { truncated_through: kept.index.truncated_through });
        }
        let (bus, log, taking) = (bus.clone(), log.clone(), JoinSet::new());
        let (erased, began) = (None, None);
        let snapshots =
            Self { partition, bus, log, config, metrics, kept, doubtful: false, since: 0, erased, began, taking };
        Ok((snapshots, newest))
    }

    /// Notes a message that was appended to the log, or read from it.
    pub(crate) fn appended(&mut self, bytes: usize) {
        self.since += bytes as u64;
    }

    /// Notes that the message at `through` has erased so many persons. What was known of them leaves the older of the two
    /// snapshots, and the log, with the second snapshot from now on.
    pub(crate) fn erased(&mut self, persons: u64, through: u64) {
        if persons > 0 {
            self.erased = Some((through, 2));
        }
    }

    /// Whether snapshots are due whatever comes, so that [`Snapshots::take_if_due`] is to be called now and then.
    pub(crate) fn are_owed(&self) -> bool {
        self.erased.is_some()
    }

    /// Takes a snapshot of the state after message `through`, if one is due and no other one is being taken. The fold
    /// waits only for a copy of the state.
    pub(crate) fn take_if_due(&mut self, step: &Step, through: u64) {
        while let Some(ended) = self.taking.try_join_next() {
            self.taken(ended.map_err(StoreError::from).flatten());
        }
        let rested = self.began.is_none_or(|began| began.elapsed() >= self.config.erased_every);
        let due = is_due(self.since, self.config.every_bytes, self.kept.bytes) || (self.are_owed() && rested);
        if !due || !self.taking.is_empty() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.config.gate).try_acquire_owned() else { return };
        if self.doubtful {
            self.look_again(through, permit);
            return;
        }
        self.since = 0;
        let started = Instant::now();
        self.began = Some(started);
        let (head, state) = (step.snapshot_head(self.partition, through), step.state().clone());
        let encode = tokio::task::spawn_blocking(move || (Snapshot::encode(&head, &state), head));
        let work = Work { partition: self.partition, bus: self.bus.clone(), log: self.log.clone(), kept: self.kept };
        let seconds = self.metrics.snapshot_seconds.clone();
        self.taking.spawn(async move {
            let (blob, head) = encode.await?;
            let stored = work.store(blob, &head).await;
            seconds.observe(started.elapsed());
            drop(permit);
            stored.map(Done::Taken)
        });
    }

    /// Reads what there is, before the next snapshot is taken. Who comes here has just appended to the log, and is its owner;
    /// so what the index says beyond what is known here was written by this owner, or by the one before it, who was still
    /// writing a snapshot when the partition went over.
    fn look_again(&mut self, log_end: u64, permit: OwnedSemaphorePermit) {
        let (partition, bus, metrics) = (self.partition, self.bus.clone(), self.metrics.clone());
        self.taking.spawn(async move {
            let (kept, _snapshot) = find(partition, &bus, log_end, &metrics).await?;
            drop(permit);
            Ok(Done::Found(kept))
        });
    }

    fn taken(&mut self, outcome: Result<Done, StoreError>) {
        let partition = self.partition;
        match outcome {
            Ok(Done::Found(kept)) => (self.kept, self.doubtful) = (kept, false),
            Ok(Done::Taken(kept)) => {
                self.kept = kept;
                self.erased = self.erased.and_then(|(through, owed)| {
                    let owed = if kept.through >= through { owed - 1 } else { owed };
                    (owed > 0).then_some((through, owed))
                });
                self.metrics.snapshots.add(1);
                tracing::debug!(partition, through = kept.through, bytes = kept.bytes, "a snapshot was taken");
            }
            // Nothing is lost but room: the log stays as it is until the next one.
            Err(error) => {
                self.doubtful |= matches!(error, StoreError::Record(_));
                self.metrics.snapshots_failed.add(1);
                let error = &error as &dyn std::error::Error;
                tracing::warn!(partition, error, "no snapshot could be taken; the next attempt follows more decisions");
            }
        }
    }
}

impl Drop for Snapshots {
    /// What is being written is written to its end: a blob that is cut off leaves its pieces on the bus.
    fn drop(&mut self) {
        self.taking.detach_all();
    }
}

/// Reads the index, and the newest snapshot that can be used. The last message of the log is `log_end`.
async fn find(
    partition: u16,
    bus: &Bus,
    log_end: u64,
    metrics: &IdentityMetrics,
) -> Result<(Kept, Option<Snapshot>), LoadError> {
    let record = bus.get_record(&SnapshotIndex::record_key(partition)).await;
    let record = record.map_err(|error| LoadError::Unavailable(error.to_string()))?;
    let mut kept = Kept::default();
    let Some(record) = record else { return Ok((kept, None)) };
    kept.index = SnapshotIndex::decode(&record.value)?;
    kept.revision = Some(record.revision);
    let usable = kept.index.truncated_through..=log_end;
    for slot in [kept.index.newest_slot, kept.index.newest_slot.other()] {
        if let Some((snapshot, bytes)) = read(bus, partition, slot, &usable, metrics).await? {
            kept.index.newest_slot = slot;
            (kept.through, kept.bytes) = (snapshot.head.decisions_through, bytes);
            return Ok((kept, Some(snapshot)));
        }
    }
    Ok((kept, None))
}

/// Reads one slot; `None` when it holds nothing that can be used, which is said.
async fn read(
    bus: &Bus,
    partition: u16,
    slot: SnapshotSlot,
    usable: &RangeInclusive<u64>,
    metrics: &IdentityMetrics,
) -> Result<Option<(Snapshot, u64)>, LoadError> {
    let name = slot.blob_name(partition);
    let error = match bus.get_blob(&name).await {
        Ok(None) => return Ok(None),
        Ok(Some(blob)) => {
            let bytes = blob.len() as u64;
            // Millions of keys take a while.
            let decoded = tokio::task::spawn_blocking(move || Snapshot::decode(blob)).await;
            match decoded.map_err(|panic| LoadError::Unavailable(panic.to_string()))? {
                Ok(snapshot) if snapshot.head.partition != partition => "it is another partition's".to_owned(),
                Ok(snapshot) if !usable.contains(&snapshot.head.decisions_through) => {
                    format!("it stands at message {}, the log holds {usable:?}", snapshot.head.decisions_through)
                }
                Ok(snapshot) => return Ok(Some((snapshot, bytes))),
                Err(error) => error.to_string(),
            }
        }
        Err(BlobError::Damaged(why)) => why,
        Err(error @ (BlobError::Unavailable(_) | BlobError::InvalidName)) => {
            return Err(LoadError::Unavailable(error.to_string()));
        }
    };
    metrics.snapshots_unreadable.add(1);
    tracing::error!(
        partition,
        blob = name,
        error,
        "a snapshot cannot be used; an older one or the log takes its place"
    );
    Ok(None)
}

/// A snapshot on its way.
#[derive(Debug)]
struct Work {
    partition: u16,
    bus: Bus,
    log: Log,
    kept: Kept,
}

impl Work {
    async fn store(self, blob: Bytes, head: &SnapshotHead) -> Result<Kept, StoreError> {
        let Self { partition, bus, log, kept } = self;
        // The older of the two makes room. When there is none yet, either slot will do.
        let newest_slot = kept.index.newest_slot.other();
        let bytes = blob.len() as u64;
        bus.put_blob(&newest_slot.blob_name(partition), blob).await?;
        let progress = bus.get_record(&DeliveryProgress::record_key(partition)).await?;
        let finished = match progress {
            Some(record) => DeliveryProgress::decode(&record.value)?.finished_through,
            None => 0,
        };
        // Two snapshots may stand at the last message of the log; that one stays.
        let older = kept.through.min(head.decisions_through.saturating_sub(1));
        let truncated_through = truncation(kept.index.truncated_through, older, finished);
        let index = SnapshotIndex { newest_slot, truncated_through };
        let expected = kept.revision.map_or(Expected::Absent, Expected::Revision);
        let revision = bus.put_record(&SnapshotIndex::record_key(partition), expected, index.encode()).await?;
        // The snapshot is taken, whatever comes of this: what stays is deleted with the next one.
        if truncated_through > 0
            && let Err(error) = bus.purge(&log, truncated_through).await
        {
            tracing::warn!(partition, truncated_through, %error, "the decision log could not be truncated yet");
        }
        // Who has this partition does it for all.
        if partition == 0 {
            delete_torn(&bus).await;
        }
        Ok(Kept { index, revision: Some(revision), through: head.decisions_through, bytes })
    }
}

/// Deletes what snapshots that nobody finished writing have left on the bus.
async fn delete_torn(bus: &Bus) {
    match bus.delete_torn_blobs(TORN_AGE).await {
        Ok(0) => {}
        Ok(snapshots) => tracing::info!(snapshots, "what was left of unfinished snapshots is deleted"),
        Err(error) => tracing::warn!(%error, "what was left of unfinished snapshots could not be deleted yet"),
    }
}

/// Whether a snapshot is due: writing snapshots is never more than half as much work as writing the log.
fn is_due(since: u64, every_bytes: u64, snapshot_bytes: u64) -> bool {
    since >= every_bytes.max(snapshot_bytes.saturating_mul(2)).max(1)
}

/// How much of the log may go: nothing after the older snapshot, so that it can still take the newest one's place, and
/// nothing that delivery has not finished. What is gone stays gone.
fn truncation(truncated: u64, older_snapshot: u64, finished: u64) -> u64 {
    truncated.max(older_snapshot.min(finished))
}

#[cfg(test)]
mod tests;
