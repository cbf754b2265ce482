//! Protobuf messages and the only conversions between bytes and domain values.
//!
//! * [`encode_event`] and [`EventChunk`]: facts become entries of an event batch that can be joined without decoding;
//! * [`EventBatch::decode`], [`DecisionBatch`]: what identity reads and appends;
//! * [`Snapshot`]: what identity keeps, so that the log before it can be deleted;
//! * [`DeliveryProgress`], [`ParkedBatch`], [`DeadLetterEntry`]: what delivery keeps;
//! * [`ClosedWindow`], [`OperatorHold`]: what workers tell each other of a connection;
//! * [`SuppressedPersons`]: whose calls nobody sends;
//! * [`Installation`]: the installation's identity.
//!
//! A generated protobuf type never leaves this crate. The messages themselves are documented in `proto/`.

mod alias;
mod body;
mod control;
mod decisions;
mod delivery;
mod enums;
mod events;
mod fields;
mod installation;
mod ownership;
mod parked;
mod rejected;
mod snapshot;
mod suppressed;
mod pb {
    #![expect(unreachable_pub, reason = "generated from proto/, documented there")]
    #![allow(dead_code, reason = "messages of the hot path are read and written by hand, and tested against these")]
    include!("gen/inflection.v1.rs");
}

pub use alias::{ALIAS_RECORDS, ALIASES_BEGUN_RECORD, alias_record, decode_alias, encode_alias};
pub use body::decode_body;
pub use control::{ClosedWindow, OperatorHold};
pub use decisions::{Decided, DecisionBatch, WorkspaceTotals};
pub use delivery::{CallPosition, ConnectionTotals, DeadLetter, DeadLetterEntry, DeadLetterOutcome, DeliveryProgress};
pub use events::{Event, EventBatch, EventChunk, encode_event, encode_traced_event, event_batch, order_batch};
pub use installation::{Installation, OLDEST_READER, SCHEMA_VERSION};
pub use ownership::{MemberRecord, OwnerRecord};
pub use parked::{ParkedBatch, ParkedCall};
pub use rejected::RejectedEvents;
pub use snapshot::{Snapshot, SnapshotError, SnapshotHead, SnapshotIndex, SnapshotSlot};
pub use suppressed::{SuppressedPerson, SuppressedPersons};

/// A message that is not what its subject promises.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf, or cut short.
    #[error("not a protobuf message of the expected type")]
    Protobuf(#[from] prost::DecodeError),
    /// A field without which the message means nothing.
    #[error("field {0} is missing or invalid")]
    Field(&'static str),
}

/// The trace and span that a message carries beside an event: 16 and 8 bytes. Most events are not traced; for those this is an
/// empty pointer here, and nothing in a message.
pub type CarriedTrace = Option<Box<[u8; 24]>>;

/// What stands in a `trace` field. A form of later versions is no reason to refuse an event: it is then not traced.
fn carried_trace(field: &[u8]) -> CarriedTrace {
    if field.is_empty() { None } else { <[u8; 24]>::try_from(field).ok().map(Box::new) }
}

/// A key that may be absent, as it is written.
fn key_bytes(key: Option<inflection_domain::Hash128>) -> bytes::Bytes {
    key.map(|key| bytes::Bytes::copy_from_slice(&key.to_bytes())).unwrap_or_default()
}

/// A key that may be absent.
fn optional_key(field: &'static str, bytes: &[u8]) -> Result<Option<inflection_domain::Hash128>, DecodeError> {
    if bytes.is_empty() { Ok(None) } else { key(field, bytes).map(Some) }
}

/// The keys of a list of them, joined.
fn keys<'k>(
    field: &'static str,
    joined: &'k [u8],
) -> Result<impl ExactSizeIterator<Item = inflection_domain::Hash128> + use<'k>, DecodeError> {
    let (keys, cut) = joined.as_chunks::<16>();
    let keys = keys.iter().map(|key| inflection_domain::Hash128::from_bytes(*key));
    if cut.is_empty() { Ok(keys) } else { Err(DecodeError::Field(field)) }
}

/// The inverse of [`keys`].
fn joined(keys: impl ExactSizeIterator<Item = [u8; 16]>) -> bytes::Bytes {
    let mut joined = Vec::with_capacity(keys.len() * 16);
    keys.for_each(|key| joined.extend_from_slice(&key));
    joined.into()
}

fn key(field: &'static str, bytes: &[u8]) -> Result<inflection_domain::Hash128, DecodeError> {
    bytes.try_into().map(inflection_domain::Hash128::from_bytes).map_err(|_length| DecodeError::Field(field))
}

/// A key that was read as the tombstone it is.
fn tombstone(key: inflection_domain::Hash128) -> inflection_domain::Tombstone {
    inflection_domain::Tombstone::from_bytes(key.to_bytes())
}
