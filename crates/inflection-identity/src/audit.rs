//! Whether every way to a partition's state ends in the same state: from each snapshot and from the log alone, compared
//! key by key.
//!
//! Reads only, so it may run beside the owner of the partition. What the owner deletes meanwhile is left out.

use inflection_bus::{BlobError, Bus, InvalidName, Log, Message, ReadError, RecordError, Sequence};
use inflection_domain::Hash128;
use inflection_wire::{DecisionBatch, DecodeError, Snapshot, SnapshotIndex, SnapshotSlot};

use crate::Step;

/// Bytes read of a log at once.
const READ_BYTES: usize = 1024 * 1024;

/// Why a partition cannot be audited.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A log has no valid name: a defect.
    #[error("the decision log cannot be named")]
    Name(#[from] InvalidName),
    /// The log cannot be read.
    #[error("the decision log cannot be read")]
    Read(#[from] ReadError),
    /// A message is damaged.
    #[error("message {sequence} of the decision log is damaged")]
    Decisions {
        /// Its sequence.
        sequence: Sequence,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The index of the snapshots cannot be read.
    #[error("the index of the snapshots cannot be read")]
    Record(#[from] RecordError),
    /// It is damaged.
    #[error("the index of the snapshots is damaged")]
    Index(#[source] DecodeError),
    /// A snapshot cannot be fetched.
    #[error("a snapshot cannot be fetched")]
    Blob(#[from] BlobError),
}

/// One way to the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// The message of the decision log at which it began: a snapshot's, or 0 for the log alone.
    pub from: Sequence,
    /// Persons, mails and event ids in the end.
    pub keys: usize,
    /// Of state, totals and position in the end, the same if and only if they are.
    pub digest: Hash128,
}

/// All ways to the state of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The message of the decision log up to which was replayed.
    pub through: Sequence,
    /// At least one, unless a snapshot is missing that the truncated log needs.
    pub replays: Vec<Replay>,
    /// Snapshots that are there and cannot be read.
    pub damaged: usize,
}

impl Audit {
    /// Whether there is a state, all ways lead to it, and nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged == 0
            && !self.replays.is_empty()
            && self.replays.windows(2).all(|pair| matches!(pair, [one, other] if one.digest == other.digest))
    }
}

/// Replays a partition in every way there is.
///
/// # Errors
/// [`AuditError`] when something cannot be read, or a decision is damaged.
pub async fn audit(bus: &Bus, partition: u16) -> Result<Audit, AuditError> {
    let log = Log::new(&format!("decisions.{partition}"))?;
    let through = bus.last(&log).await?.map_or(0, |last| last.sequence);
    let truncated_through = truncated_through(bus, partition).await?;
    let (mut replays, mut damaged) = (Vec::new(), 0);
    for slot in [None, Some(SnapshotSlot::Even), Some(SnapshotSlot::Odd)] {
        let (from, step) = match start(bus, partition, slot).await? {
            Start::At(from, step) => (from, *step),
            Start::Absent => continue,
            Start::Damaged => {
                damaged += 1;
                continue;
            }
        };
        // A snapshot that is newer than the look at the log, or that an owner left behind who was one no more.
        if from > through || from < truncated_through {
            continue;
        }
        let step = replay(bus, &log, step, from, through).await?;
        let (persons, mails, events) = step.state().sizes();
        replays.push(Replay { from, keys: persons + mails + events, digest: step.digest() });
    }
    // What was deleted while it was read was not read whole.
    let truncated_through = self::truncated_through(bus, partition).await?;
    replays.retain(|replay| replay.from >= truncated_through);
    Ok(Audit { through, replays, damaged })
}

/// Where a replay begins.
enum Start {
    /// After this message, from this state.
    At(Sequence, Box<Step>),
    /// There is no such snapshot.
    Absent,
    /// There is one, which cannot be read or is another partition's.
    Damaged,
}

/// The beginning at a snapshot, or without one at the log's first message.
async fn start(bus: &Bus, partition: u16, slot: Option<SnapshotSlot>) -> Result<Start, AuditError> {
    let Some(slot) = slot else { return Ok(Start::At(0, Box::default())) };
    let blob = match bus.get_blob(&slot.blob_name(partition)).await {
        Ok(Some(blob)) => blob,
        Ok(None) => return Ok(Start::Absent),
        Err(BlobError::Damaged(_)) => return Ok(Start::Damaged),
        Err(error) => return Err(error.into()),
    };
    Ok(match Snapshot::decode(blob) {
        Ok(snapshot) if snapshot.head.partition == partition => {
            Start::At(snapshot.head.decisions_through, Box::new(Step::restore(snapshot)))
        }
        Ok(_) | Err(_) => Start::Damaged,
    })
}

async fn truncated_through(bus: &Bus, partition: u16) -> Result<Sequence, AuditError> {
    let record = bus.get_record(&SnapshotIndex::record_key(partition)).await?;
    let index = record.map(|record| SnapshotIndex::decode(&record.value)).transpose().map_err(AuditError::Index)?;
    Ok(index.map_or(0, |index| index.truncated_through))
}

async fn replay(bus: &Bus, log: &Log, mut step: Step, from: Sequence, through: Sequence) -> Result<Step, AuditError> {
    let (mut reader, mut read) = (bus.read(log, from), from);
    while read < through {
        for Message { sequence, payload } in reader.next(READ_BYTES).await? {
            if sequence > through {
                return Ok(step);
            }
            let batch = DecisionBatch::decode(&payload).map_err(|source| AuditError::Decisions { sequence, source })?;
            step.replay(batch);
            read = sequence;
        }
    }
    Ok(step)
}
