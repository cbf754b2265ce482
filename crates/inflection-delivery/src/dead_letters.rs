//! Calls that will not be sent any more, and how they come back.
//!
//! A connection's dead letters are a log: letters, and the ends of earlier letters. What is in it now is the fold of it.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use inflection_bus::{AppendError, Bus, InvalidName, Log, ReadError};
use inflection_domain::{ConnectionId, Timestamp, WorkspaceId};
use inflection_wire::{DeadLetter, DeadLetterEntry, DeadLetterOutcome, DecodeError};

use crate::dispatcher::Item;
use crate::window::ConnectionKey;

/// Bytes read of a log at once.
const READ_BYTES: usize = 1024 * 1024;

/// Why dead letters cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The log has no valid name: a defect.
    #[error("the dead-letter log cannot be named")]
    Name(#[from] InvalidName),
    /// The log cannot be read.
    #[error("the dead letters cannot be read")]
    Read(#[from] ReadError),
    /// An entry is damaged.
    #[error("a dead letter is damaged")]
    Damaged(#[from] DecodeError),
    /// An entry cannot be written.
    #[error("the dead letters cannot be changed")]
    Append(#[from] AppendError),
}

/// A letter and when it died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLetter {
    /// When.
    pub at: Timestamp,
    /// What.
    pub letter: DeadLetter,
}

/// The log of a connection's dead letters.
///
/// # Errors
/// Never for checked names; they fit into the name of a log.
pub fn dead_letter_log(workspace: &WorkspaceId, connection: &ConnectionId) -> Result<Log, InvalidName> {
    Log::new(&format!("dead.{workspace}.{connection}"))
}

/// The letters of a connection that were neither replayed nor dropped, oldest first.
///
/// # Errors
/// [`DeadLetterError`] when the log cannot be read.
pub async fn list(
    bus: &Bus,
    workspace: &WorkspaceId,
    connection: &ConnectionId,
) -> Result<Vec<StoredLetter>, DeadLetterError> {
    let log = dead_letter_log(workspace, connection)?;
    let Some(last) = bus.last(&log).await? else { return Ok(Vec::new()) };
    let mut reader = bus.read(&log, 0);
    let (mut letters, mut sequence) = (BTreeMap::new(), 0);
    while sequence < last.sequence {
        for message in reader.next(READ_BYTES).await? {
            sequence = message.sequence;
            let entry = DeadLetterEntry::decode(message.payload)?;
            match entry.outcome {
                DeadLetterOutcome::Died(letter) => {
                    letters.insert(letter.message_id.clone(), (sequence, StoredLetter { at: entry.at, letter }));
                }
                DeadLetterOutcome::Replayed(id) | DeadLetterOutcome::Dropped(id) => {
                    letters.remove(&id);
                }
            }
        }
    }
    let mut letters: Vec<(u64, StoredLetter)> = letters.into_values().collect();
    letters.sort_by_key(|(sequence, _)| *sequence);
    Ok(letters.into_iter().map(|(_, letter)| letter).collect())
}

/// Takes a letter out for good, without sending it.
///
/// # Errors
/// [`DeadLetterError`] when it cannot be written.
pub async fn drop_letter(
    bus: &Bus,
    workspace: &WorkspaceId,
    connection: &ConnectionId,
    message_id: &str,
) -> Result<(), DeadLetterError> {
    let log = dead_letter_log(workspace, connection)?;
    let entry = DeadLetterEntry { at: now(), outcome: DeadLetterOutcome::Dropped(message_id.to_owned()) };
    bus.append(&log, None, entry.encode()).await?;
    Ok(())
}

/// The letter of an item that Segment refused by itself.
pub(crate) fn refused(key: &ConnectionKey, item: &Item, attempts: u32, status: u16) -> DeadLetterEntry {
    let json = std::str::from_utf8(item.json()).unwrap_or_default();
    let kind = text_after(json, "\"event\":\"").or_else(|| text_after(json, "\"type\":\"")).unwrap_or_default();
    // The words are Segment's own for what its edge refuses, so that they can be looked up there.
    let reason = if status == 413 { "payload_too_large" } else { "bad_request" };
    let letter = DeadLetter {
        workspace: key.0.clone(),
        connection: key.1.clone(),
        message_id: message_id(item).to_owned(),
        event_id: item.event_id().to_owned(),
        kind: kind.to_owned(),
        reason: reason.to_owned(),
        attempts,
        last_status: status,
        item: item.bytes.slice(item.split..),
    };
    DeadLetterEntry { at: now(), outcome: DeadLetterOutcome::Died(letter) }
}

/// The messageId of a rendered item: our own writer puts it before anything a sender could have written.
pub(crate) fn message_id(item: &Item) -> &str {
    let json = std::str::from_utf8(item.json()).unwrap_or_default();
    text_after(json, "\"messageId\":\"").unwrap_or_default()
}

fn text_after<'t>(text: &'t str, mark: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(mark)?;
    rest.split_once('"').map(|(value, _)| value)
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
