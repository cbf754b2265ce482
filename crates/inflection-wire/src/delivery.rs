//! What delivery keeps: its progress and its dead letters.

use bytes::Bytes;
use inflection_domain::{ConnectionId, Hash128, Timestamp, WorkspaceId};
use prost::Message as _;

use crate::{DecodeError, pb};

/// How far delivery has come in one partition, and what became of the calls so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliveryProgress {
    /// Sequence in the decision log up to which every call has come to an end.
    pub finished_through: u64,
    /// Sequence up to which messages were handed to the connections.
    pub read_through: u64,
    /// Books, one a connection.
    pub connections: Vec<ConnectionTotals>,
}

/// A place among the calls of one workspace in a decision log. Later places are larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct CallPosition {
    /// All calls of the messages up to this sequence.
    pub through: u64,
    /// And so many of the message after it.
    pub calls: u32,
}

/// The books of one connection in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented in proto/inflection/v1/delivery.proto")]
pub struct ConnectionTotals {
    pub workspace: WorkspaceId,
    pub connection: ConnectionId,
    pub baseline: u64,
    pub accepted: u64,
    pub dead: u64,
    pub filtered: u64,
    pub parked: u64,
    pub ended: CallPosition,
    pub released_through: u64,
    pub released_accepted: u64,
    pub released_dead: u64,
    pub suppressed: u64,
    pub released_suppressed: u64,
}

impl ConnectionTotals {
    /// The books of a connection that begins here: `baseline` calls of its workspace were decided before it existed.
    #[must_use]
    pub fn new(workspace: WorkspaceId, connection: ConnectionId, baseline: u64, ended: CallPosition) -> Self {
        Self {
            workspace,
            connection,
            baseline,
            accepted: 0,
            dead: 0,
            filtered: 0,
            parked: 0,
            ended,
            released_through: 0,
            released_accepted: 0,
            released_dead: 0,
            suppressed: 0,
            released_suppressed: 0,
        }
    }

    /// Calls up to the position.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.accepted + self.dead + self.filtered + self.suppressed + self.parked
    }

    /// Calls that lie in the parked log and have not come to an end.
    #[must_use]
    pub fn still_parked(&self) -> u64 {
        self.parked.saturating_sub(self.released())
    }

    /// Parked calls that have come to an end.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.released_accepted + self.released_dead + self.released_suppressed
    }

    pub(crate) fn to_pb(&self) -> pb::ConnectionTotals {
        pb::ConnectionTotals {
            workspace: self.workspace.as_str().to_owned(),
            connection: self.connection.as_str().to_owned(),
            baseline: self.baseline,
            accepted: self.accepted,
            dead: self.dead,
            filtered: self.filtered,
            ended_through: self.ended.through,
            ended_calls: self.ended.calls,
            parked: self.parked,
            released_through: self.released_through,
            released_accepted: self.released_accepted,
            released_dead: self.released_dead,
            suppressed: self.suppressed,
            released_suppressed: self.released_suppressed,
        }
    }

    pub(crate) fn from_pb(pb: &pb::ConnectionTotals) -> Result<Self, DecodeError> {
        Ok(Self {
            workspace: WorkspaceId::new(&pb.workspace).ok().ok_or(DecodeError::Field("workspace"))?,
            connection: ConnectionId::new(&pb.connection).ok().ok_or(DecodeError::Field("connection"))?,
            baseline: pb.baseline,
            accepted: pb.accepted,
            dead: pb.dead,
            filtered: pb.filtered,
            parked: pb.parked,
            ended: CallPosition { through: pb.ended_through, calls: pb.ended_calls },
            released_through: pb.released_through,
            released_accepted: pb.released_accepted,
            released_dead: pb.released_dead,
            suppressed: pb.suppressed,
            released_suppressed: pb.released_suppressed,
        })
    }
}

impl DeliveryProgress {
    /// The record's key.
    #[must_use]
    pub fn record_key(partition: u16) -> String {
        format!("progress.{partition}")
    }

    /// Writes the record.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        pb::DeliveryProgress {
            finished_through: self.finished_through,
            connections: self.connections.iter().map(ConnectionTotals::to_pb).collect(),
            read_through: self.read_through,
        }
        .encode_to_vec()
        .into()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no progress record.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let pb = pb::DeliveryProgress::decode(bytes)?;
        Ok(Self {
            finished_through: pb.finished_through,
            read_through: pb.read_through,
            connections: pb.connections.iter().map(ConnectionTotals::from_pb).collect::<Result<_, _>>()?,
        })
    }
}

/// A call that will not be sent any more, with the item as it would be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented in proto/inflection/v1/delivery.proto")]
pub struct DeadLetter {
    pub workspace: WorkspaceId,
    pub connection: ConnectionId,
    pub message_id: String,
    pub event_id: String,
    pub kind: String,
    pub reason: String,
    pub attempts: u32,
    /// The last HTTP status, or 0 when there was none.
    pub last_status: u16,
    pub item: Bytes,
    pub person: Option<Hash128>,
}

/// One entry of a dead-letter log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterEntry {
    /// When it was written.
    pub at: Timestamp,
    /// What it says.
    pub outcome: DeadLetterOutcome,
}

/// What an entry of a dead-letter log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetterOutcome {
    /// A call died.
    Died(DeadLetter),
    /// An earlier letter (by messageId) was replayed and accepted.
    Replayed(String),
    /// An earlier letter (by messageId) was dropped by an operator.
    Dropped(String),
}

impl DeadLetterEntry {
    /// Writes the entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        use pb::dead_letter_entry::Entry;
        let entry = match &self.outcome {
            DeadLetterOutcome::Died(letter) => Entry::Letter(pb::DeadLetter {
                workspace: letter.workspace.as_str().to_owned(),
                connection: letter.connection.as_str().to_owned(),
                message_id: letter.message_id.clone(),
                event_id: letter.event_id.clone(),
                kind: letter.kind.clone(),
                reason: letter.reason.clone(),
                attempts: letter.attempts,
                last_status: u32::from(letter.last_status),
                item: letter.item.clone(),
                person_key: crate::key_bytes(letter.person),
            }),
            DeadLetterOutcome::Replayed(id) => Entry::Replayed(id.clone()),
            DeadLetterOutcome::Dropped(id) => Entry::Dropped(id.clone()),
        };
        pb::DeadLetterEntry { entry: Some(entry), at_ms: self.at.as_ms() }.encode_to_vec().into()
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        use pb::dead_letter_entry::Entry;
        let pb = pb::DeadLetterEntry::decode(bytes)?;
        let outcome = match pb.entry.ok_or(DecodeError::Field("entry"))? {
            Entry::Letter(letter) => DeadLetterOutcome::Died(DeadLetter {
                workspace: WorkspaceId::new(&letter.workspace).ok().ok_or(DecodeError::Field("workspace"))?,
                connection: ConnectionId::new(&letter.connection).ok().ok_or(DecodeError::Field("connection"))?,
                message_id: letter.message_id,
                event_id: letter.event_id,
                kind: letter.kind,
                reason: letter.reason,
                attempts: letter.attempts,
                last_status: u16::try_from(letter.last_status).unwrap_or(0),
                item: letter.item,
                person: crate::optional_key("person_key", &letter.person_key)?,
            }),
            Entry::Replayed(id) => DeadLetterOutcome::Replayed(id),
            Entry::Dropped(id) => DeadLetterOutcome::Dropped(id),
        };
        Ok(Self { at: Timestamp::from_ms(pb.at_ms), outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_undoes_encode() {
        let (workspace, connection) = (WorkspaceId::new("acme").unwrap(), ConnectionId::new("prod").unwrap());
        let totals = ConnectionTotals {
            accepted: 2,
            dead: 3,
            filtered: 4,
            parked: 5,
            released_through: 6,
            released_accepted: 7,
            released_dead: 8,
            suppressed: 11,
            released_suppressed: 12,
            ..ConnectionTotals::new(workspace.clone(), connection.clone(), 1, CallPosition { through: 9, calls: 10 })
        };
        let progress = DeliveryProgress { finished_through: 9, read_through: 12, connections: vec![totals.clone()] };
        assert_eq!(DeliveryProgress::decode(&progress.encode()).unwrap(), progress);
        let letter = DeadLetter {
            workspace,
            connection,
            message_id: "infl_1".into(),
            event_id: "e".into(),
            kind: "email_opened".into(),
            reason: "bad_request".into(),
            attempts: 3,
            last_status: 400,
            item: Bytes::from_static(b"{}"),
            person: Some(Hash128::from_bytes([7; 16])),
        };
        for outcome in [
            DeadLetterOutcome::Died(letter),
            DeadLetterOutcome::Replayed("infl_1".into()),
            DeadLetterOutcome::Dropped("infl_2".into()),
        ] {
            let entry = DeadLetterEntry { at: Timestamp::from_ms(5), outcome };
            assert_eq!(DeadLetterEntry::decode(entry.encode()).unwrap(), entry);
        }
    }
}
