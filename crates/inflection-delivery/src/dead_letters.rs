//! Calls that will not be sent any more, and how they come back.
//!
//! A connection's dead letters are a log: letters, and the ends of earlier letters. What is in it now is the fold of it.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use inflection_bus::{AppendError, Bus, InvalidName, Log, ReadError};
use inflection_domain::{ConnectionId, MessageId, Timestamp, WorkspaceId};
use inflection_wire::{DeadLetter, DeadLetterEntry, DeadLetterOutcome, DecodeError};

use crate::books::ConnectionKey;
use crate::dispatcher::Item;

/// Reason of a call that could not be sent for too long because of an outage.
pub(crate) const EXPIRED: &str = "expired";
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

/// A letter, its place in the log, and when it died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLetter {
    /// Where.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub letter: DeadLetter,
}

/// What became of a connection's dead letters, each call once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LetterCounts {
    /// Still there.
    pub listed: u64,
    /// Replayed and accepted.
    pub replayed: u64,
    /// Dropped by an operator.
    pub dropped: u64,
}

/// The log of a connection's dead letters.
///
/// # Errors
/// Never for checked names; they fit into the name of a log.
pub fn dead_letter_log(workspace: &WorkspaceId, connection: &ConnectionId) -> Result<Log, InvalidName> {
    Log::new(&format!("dead.{workspace}.{connection}"))
}

/// Where a call's letter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Listed(u64),
    Replayed,
    Dropped,
}

/// Reads every entry of a connection's dead-letter log that is there now.
async fn each_entry(
    bus: &Bus,
    workspace: &WorkspaceId,
    connection: &ConnectionId,
    mut entry: impl FnMut(u64, DeadLetterEntry),
) -> Result<(), DeadLetterError> {
    let log = dead_letter_log(workspace, connection)?;
    let Some(last) = bus.last(&log).await? else { return Ok(()) };
    let mut reader = bus.read(&log, 0);
    let mut sequence = 0;
    while sequence < last.sequence {
        for message in reader.next(READ_BYTES).await? {
            sequence = message.sequence;
            entry(sequence, DeadLetterEntry::decode(message.payload)?);
        }
    }
    Ok(())
}

/// Where each call stands, by the hash in its messageId: some thirty bytes a call, however large the letters are.
async fn standings(
    bus: &Bus,
    workspace: &WorkspaceId,
    connection: &ConnectionId,
) -> Result<HashMap<u128, Standing>, DeadLetterError> {
    let mut standings = HashMap::new();
    each_entry(bus, workspace, connection, |sequence, entry| {
        let (id, standing) = match entry.outcome {
            DeadLetterOutcome::Died(letter) => (letter.message_id, Standing::Listed(sequence)),
            DeadLetterOutcome::Replayed(id) => (id, Standing::Replayed),
            DeadLetterOutcome::Dropped(id) => (id, Standing::Dropped),
        };
        standings.insert(whole_id_of(&id), standing);
    })
    .await?;
    Ok(standings)
}

/// What became of a connection's dead letters.
///
/// # Errors
/// [`DeadLetterError`] when the log cannot be read.
pub async fn counts(
    bus: &Bus,
    workspace: &WorkspaceId,
    connection: &ConnectionId,
) -> Result<LetterCounts, DeadLetterError> {
    let mut counts = LetterCounts::default();
    for standing in standings(bus, workspace, connection).await?.into_values() {
        match standing {
            Standing::Listed(_) => counts.listed += 1,
            Standing::Replayed => counts.replayed += 1,
            Standing::Dropped => counts.dropped += 1,
        }
    }
    Ok(counts)
}

/// Shows the letters of a connection that were neither replayed nor dropped, oldest first, one at a time: all of them
/// together may not fit into memory.
///
/// # Errors
/// [`DeadLetterError`] when the log cannot be read.
pub async fn visit(
    bus: &Bus,
    workspace: &WorkspaceId,
    connection: &ConnectionId,
    mut letter: impl FnMut(StoredLetter),
) -> Result<(), DeadLetterError> {
    let standings = standings(bus, workspace, connection).await?;
    if !standings.values().any(|standing| matches!(standing, Standing::Listed(_))) {
        return Ok(());
    }
    each_entry(bus, workspace, connection, |sequence, entry| {
        if let DeadLetterOutcome::Died(died) = entry.outcome
            && standings.get(&whole_id_of(&died.message_id)) == Some(&Standing::Listed(sequence))
        {
            letter(StoredLetter { sequence, at: entry.at, letter: died });
        }
    })
    .await
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
    // The words are Segment's own for what its edge refuses, so that they can be looked up there.
    let reason = if status == 413 { "payload_too_large" } else { "bad_request" };
    died(key, item, reason, attempts, status)
}

/// The letter of a call that could not be sent for too long.
pub(crate) fn expired(key: &ConnectionKey, item: &Item) -> DeadLetterEntry {
    died(key, item, EXPIRED, 0, 0)
}

fn died(key: &ConnectionKey, item: &Item, reason: &str, attempts: u32, status: u16) -> DeadLetterEntry {
    let json = std::str::from_utf8(item.json()).unwrap_or_default();
    let kind = text_after(json, "\"event\":\"").or_else(|| text_after(json, "\"type\":\"")).unwrap_or_default();
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

/// The hash in a messageId. All are ours; one that is not is told apart as well as its text is.
fn whole_id_of(message_id: &str) -> u128 {
    let hash = message_id.strip_prefix("infl_").and_then(|digits| u128::from_str_radix(digits, 16).ok());
    hash.unwrap_or_else(|| {
        message_id
            .bytes()
            .fold(0, |hash: u128, byte| hash.rotate_left(5).wrapping_mul(0x1_0000_01b3) ^ u128::from(byte))
    })
}

/// By what attempts with a messageId are noted.
pub(crate) fn id_of(message_id: &str) -> u64 {
    MessageId::high_of(message_id)
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
