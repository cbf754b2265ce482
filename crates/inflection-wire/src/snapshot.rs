//! Snapshots: the state of one partition as a blob, so that the log before it can be deleted.

mod portions;

use bytes::{Buf as _, BufMut as _, Bytes};
use inflection_domain::{Hash128, PartitionState, Timestamp};
use prost::Message as _;
use prost::encoding::message;

use crate::decisions::{decode_totals, encode_totals};
use crate::{DecodeError, WorkspaceTotals, pb};

const MAGIC: &[u8; 8] = b"inflsnap";
const HEADER_BYTES: usize = 36;
const PORTIONS_FIELD: u32 = 8;

/// Where a snapshot stands, and the counts there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "documented in proto/inflection/v1/snapshot.proto")]
pub struct SnapshotHead {
    pub partition: u16,
    pub consumed_through: u64,
    pub consumed_events: u32,
    pub decisions_through: u64,
    pub totals: Vec<WorkspaceTotals>,
}

/// One partition after one message of its decision log.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// After which message, and the counts.
    pub head: SnapshotHead,
    /// What the partition remembers.
    pub state: PartitionState,
}

/// Which of a partition's two blobs is the newest, and what of its log is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "documented in proto/inflection/v1/snapshot.proto")]
pub struct SnapshotIndex {
    pub newest_slot: SnapshotSlot,
    pub truncated_through: u64,
}

/// Where a snapshot lies: the two last ones take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "two of a kind")]
pub enum SnapshotSlot {
    #[default]
    Even,
    Odd,
}

impl SnapshotSlot {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Even => Self::Odd,
            Self::Odd => Self::Even,
        }
    }

    /// The blob of this slot.
    #[must_use]
    pub fn blob_name(self, partition: u16) -> String {
        format!("state.{partition}.{}", self.number())
    }

    fn number(self) -> u32 {
        match self {
            Self::Even => 0,
            Self::Odd => 1,
        }
    }
}

impl SnapshotIndex {
    /// The record's key.
    #[must_use]
    pub fn record_key(partition: u16) -> String {
        format!("snapshots.{partition}")
    }

    /// Writes the record.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let newest_slot = self.newest_slot.number();
        pb::SnapshotIndex { newest_slot, truncated_through: self.truncated_through }.encode_to_vec().into()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let pb = pb::SnapshotIndex::decode(bytes)?;
        let newest_slot = match pb.newest_slot {
            0 => SnapshotSlot::Even,
            1 => SnapshotSlot::Odd,
            _ => return Err(DecodeError::Field("newest_slot")),
        };
        Ok(Self { newest_slot, truncated_through: pb.truncated_through })
    }
}

/// Why a blob gives no state. None of them heals: the log has to be read from an older snapshot, or from its beginning.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Something else, or cut within the header.
    #[error("not a snapshot")]
    NotASnapshot,
    /// Written by a later version of the program, which can read it.
    #[error("format version {0} is newer than this program")]
    Newer(u32),
    /// Not the bytes that were written.
    #[error("the checksum does not match")]
    Checksum,
    /// The bytes that were written, but no state; or cut short.
    #[error("the content is damaged")]
    Damaged(#[from] DecodeError),
}

impl Snapshot {
    /// The newest version of the format. It is written only where it is needed: a state without held clicks, or without
    /// tombstones too, is written as the version before, so that a program of before can take over from a newer one where
    /// no click is held, or nobody was ever suppressed.
    pub const VERSION: u32 = 3;
    /// The version without held clicks.
    const WITHOUT_HELD: u32 = 2;
    /// The version without tombstones.
    const WITHOUT_TOMBSTONES: u32 = 1;

    /// Writes the blob. Equal states may give different bytes, since a state has no order.
    #[must_use]
    pub fn encode(head: &SnapshotHead, state: &PartitionState) -> Bytes {
        let version = match (state.next_release(), state.tombstones().len()) {
            (Some(_), _) => Self::VERSION,
            (None, 1..) => Self::WITHOUT_HELD,
            (None, 0) => Self::WITHOUT_TOMBSTONES,
        };
        let content = pb::Snapshot {
            format_version: version,
            partition: head.partition.into(),
            consumed_through: head.consumed_through,
            consumed_events: head.consumed_events,
            decisions_through: head.decisions_through,
            log_time_ms: state.log_time().as_ms(),
            totals: head.totals.iter().map(encode_totals).collect(),
            portions: Vec::new(),
            clock_ms: state.clock().as_ms(),
        };
        let mut blob = vec![0; HEADER_BYTES];
        content.encode_raw(&mut blob);
        for portion in portions::encode(state) {
            message::encode(PORTIONS_FIELD, &portion, &mut blob);
        }
        if let Some((header, content)) = blob.split_first_chunk_mut::<HEADER_BYTES>() {
            *header = Header::of(version, content).to_bytes();
        }
        blob.into()
    }

    /// Reads the blob.
    ///
    /// # Errors
    /// [`SnapshotError`] when anything about it is not as it was written.
    pub fn decode(blob: Bytes) -> Result<Self, SnapshotError> {
        let (version, content) = content(blob)?;
        let pb = pb::Snapshot::decode(content).map_err(DecodeError::from)?;
        if pb.format_version != version {
            return Err(DecodeError::Field("format_version").into());
        }
        let mut state = PartitionState::restore(Timestamp::from_ms(pb.log_time_ms));
        state.clock(Timestamp::from_ms(pb.clock_ms));
        for portion in pb.portions {
            portions::decode(portion, &mut state)?;
        }
        let head = SnapshotHead {
            partition: u16::try_from(pb.partition).ok().ok_or(DecodeError::Field("partition"))?,
            consumed_through: pb.consumed_through,
            consumed_events: pb.consumed_events,
            decisions_through: pb.decisions_through,
            totals: pb.totals.iter().map(decode_totals).collect::<Result<_, _>>()?,
        };
        Ok(Self { head, state: state.finish() })
    }
}

/// What stands before the content.
struct Header {
    version: u32,
    content_bytes: u64,
    checksum: [u8; 16],
}

impl Header {
    fn of(version: u32, content: &[u8]) -> Self {
        Self { version, content_bytes: content.len() as u64, checksum: checksum(content) }
    }

    fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut room = bytes.as_mut_slice();
        room.put_slice(MAGIC);
        room.put_u32_le(self.version);
        room.put_u64_le(self.content_bytes);
        room.put_slice(&self.checksum);
        bytes
    }

    fn read(blob: &[u8]) -> Option<Self> {
        let rest = blob.strip_prefix(MAGIC)?;
        let (version, rest) = rest.split_first_chunk()?;
        let (content_bytes, rest) = rest.split_first_chunk()?;
        let (checksum, _) = rest.split_first_chunk()?;
        Some(Self {
            version: u32::from_le_bytes(*version),
            content_bytes: u64::from_le_bytes(*content_bytes),
            checksum: *checksum,
        })
    }
}

/// Version and content of a blob, if it is what was written.
fn content(mut blob: Bytes) -> Result<(u32, Bytes), SnapshotError> {
    let header = Header::read(&blob).ok_or(SnapshotError::NotASnapshot)?;
    match header.version {
        0 => return Err(SnapshotError::NotASnapshot),
        Snapshot::WITHOUT_TOMBSTONES..=Snapshot::VERSION => {}
        newer => return Err(SnapshotError::Newer(newer)),
    }
    // As long as a header that could be read.
    blob.advance(HEADER_BYTES);
    if header.content_bytes != blob.len() as u64 {
        return Err(DecodeError::Field("length").into());
    }
    if header.checksum != checksum(&blob) {
        return Err(SnapshotError::Checksum);
    }
    Ok((header.version, blob))
}

fn checksum(content: &[u8]) -> [u8; 16] {
    Hash128::of("snapshot", &[content]).to_bytes()
}

#[cfg(test)]
mod tests;
