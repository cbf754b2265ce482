//! Calls that will not be sent any more, and how they come back.
//!
//! A connection's dead letters are a log: letters, and the ends of earlier letters. What is in it now is the fold of it.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use inflection_bus::{AppendError, Bus, InvalidName, Log, ReadError, Sequence};
use inflection_domain::{ConnectionId, MessageId, Timestamp, UserId, WorkspaceId};
use inflection_wire::{DeadLetter, DeadLetterEntry, DeadLetterOutcome, DecodeError};

use crate::books::ConnectionKey;
use crate::dispatcher::Item;
use crate::suppression::Suppression;

/// Reason of a call that could not be sent for too long because of an outage.
pub(crate) const EXPIRED: &str = "expired";
/// Wait after a letter could not be stored.
const RETRY_WAIT: Duration = Duration::from_secs(1);
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
    Listed(Sequence),
    Replayed,
    Dropped,
}

/// Reads every entry after `after` of a connection's dead-letter log that is there now. Gives the last one's sequence.
async fn each_entry(
    bus: &Bus,
    workspace: &WorkspaceId,
    connection: &ConnectionId,
    after: Sequence,
    mut entry: impl FnMut(Sequence, DeadLetterEntry),
) -> Result<Sequence, DeadLetterError> {
    let log = dead_letter_log(workspace, connection)?;
    let Some(last) = bus.last(&log).await? else { return Ok(after) };
    let mut reader = bus.read(&log, after);
    let mut sequence = after;
    while sequence < last.sequence {
        for message in reader.next(READ_BYTES).await? {
            sequence = message.sequence;
            entry(sequence, DeadLetterEntry::decode(message.payload)?);
        }
    }
    Ok(sequence)
}

/// Where each call of a connection's dead-letter log stands, by the hash in its messageId: some thirty bytes a call,
/// however large the letters are. Asked again, it reads what is new.
#[derive(Debug, Default)]
pub struct Standings {
    through: Sequence,
    by_call: HashMap<u128, Standing>,
}

impl Standings {
    /// Reads what the log has beyond what was read before.
    ///
    /// # Errors
    /// [`DeadLetterError`] when the log cannot be read.
    pub async fn read(
        &mut self,
        bus: &Bus,
        workspace: &WorkspaceId,
        connection: &ConnectionId,
    ) -> Result<(), DeadLetterError> {
        let by_call = &mut self.by_call;
        let read = each_entry(bus, workspace, connection, self.through, |sequence, entry| {
            let (id, standing) = match entry.outcome {
                DeadLetterOutcome::Died(letter) => (letter.message_id, Standing::Listed(sequence)),
                DeadLetterOutcome::Replayed(id) => (id, Standing::Replayed),
                DeadLetterOutcome::Dropped(id) => (id, Standing::Dropped),
            };
            by_call.insert(whole_id_of(&id), standing);
        });
        self.through = read.await?;
        Ok(())
    }

    /// What became of the letters.
    #[must_use]
    pub fn counts(&self) -> LetterCounts {
        let mut counts = LetterCounts::default();
        for standing in self.by_call.values() {
            match standing {
                Standing::Listed(_) => counts.listed += 1,
                Standing::Replayed => counts.replayed += 1,
                Standing::Dropped => counts.dropped += 1,
            }
        }
        counts
    }

    pub(crate) fn lists(&self, sequence: Sequence, message_id: &str) -> bool {
        self.by_call.get(&whole_id_of(message_id)) == Some(&Standing::Listed(sequence))
    }
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
    let mut standings = Standings::default();
    standings.read(bus, workspace, connection).await?;
    if standings.counts().listed == 0 {
        return Ok(());
    }
    let read = each_entry(bus, workspace, connection, 0, |sequence, entry| {
        if let DeadLetterOutcome::Died(died) = entry.outcome
            && standings.lists(sequence, &died.message_id)
        {
            letter(StoredLetter { sequence, at: entry.at, letter: died });
        }
    });
    read.await.map(|_through| ())
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

/// A letter that is to be kept, and what is known of whose it is beyond what it says.
#[derive(Debug)]
pub(crate) struct Dying {
    pub(crate) letter: DeadLetter,
    pub(crate) user: Option<UserId>,
}

impl Dying {
    fn is_suppressed(&self, suppression: &Suppression) -> bool {
        suppression.of(&self.letter.workspace).is_some_and(|suppressed| {
            suppressed.covers(self.letter.person, self.user.as_ref()) || suppressed.covers_letter(&self.letter)
        })
    }
}

/// What came of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is in the log.
    Yes,
    /// Its person is suppressed: nothing is kept of it.
    Suppressed,
}

/// Keeps a letter, through outages of the bus, unless its person is suppressed. Outages may last: it is asked at each try,
/// and a letter whose person was suppressed while it was on its way is dropped again.
///
/// # Errors
/// [`AppendError`] when the bus will take nothing more.
pub(crate) async fn keep(bus: &Bus, log: &Log, suppression: &Suppression, dying: Dying) -> Result<Kept, AppendError> {
    loop {
        match try_to_keep(bus, log, suppression, &dying).await {
            Ok(kept) => return Ok(kept),
            Err(error) => outlast(bus, log, error).await?,
        }
    }
}

/// The same, once.
///
/// # Errors
/// [`AppendError`] when the bus does not take it.
pub(crate) async fn try_to_keep(
    bus: &Bus,
    log: &Log,
    suppression: &Suppression,
    dying: &Dying,
) -> Result<Kept, AppendError> {
    suppression.current().await;
    if dying.is_suppressed(suppression) {
        return Ok(Kept::Suppressed);
    }
    let outcome = DeadLetterOutcome::Died(dying.letter.clone());
    bus.append(log, None, DeadLetterEntry { at: now(), outcome }.encode()).await?;
    suppression.current().await;
    if dying.is_suppressed(suppression) {
        // Whoever dropped the person's letters may have looked before this one was there.
        let outcome = DeadLetterOutcome::Dropped(dying.letter.message_id.clone());
        store(bus, log, &DeadLetterEntry { at: now(), outcome }).await?;
    }
    Ok(Kept::Yes)
}

/// Stores an entry, through outages of the bus.
///
/// # Errors
/// [`AppendError`] when the bus will take nothing more.
async fn store(bus: &Bus, log: &Log, entry: &DeadLetterEntry) -> Result<(), AppendError> {
    let entry = entry.encode();
    while let Err(error) = bus.append(log, None, entry.clone()).await {
        outlast(bus, log, error).await?;
    }
    Ok(())
}

/// Waits before the next try; gives the error back where waiting does not help.
async fn outlast(bus: &Bus, log: &Log, error: AppendError) -> Result<(), AppendError> {
    if matches!(error, AppendError::TooLarge { .. }) || bus.has_failed() {
        return Err(error);
    }
    tracing::warn!(%error, %log, "a dead letter could not be stored yet");
    tokio::time::sleep(RETRY_WAIT).await;
    Ok(())
}

/// The letter of an item that Segment refused by itself.
pub(crate) fn refused(key: &ConnectionKey, item: &Item, attempts: u32, status: u16) -> Dying {
    // The words are Segment's own for what its edge refuses, so that they can be looked up there.
    let reason = if status == 413 { "payload_too_large" } else { "bad_request" };
    died(key, item, reason, attempts, status)
}

/// The letter of a call that could not be sent for too long.
pub(crate) fn expired(key: &ConnectionKey, item: &Item) -> Dying {
    died(key, item, EXPIRED, 0, 0)
}

fn died(key: &ConnectionKey, item: &Item, reason: &str, attempts: u32, status: u16) -> Dying {
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
        person: item.person,
    };
    Dying { letter, user: None }
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
    SystemTime::now().into()
}
