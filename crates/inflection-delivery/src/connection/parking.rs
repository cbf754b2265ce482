//! Lanes on their way into the parked log and out of it: the work around `park`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use inflection_bus::{AppendError, Bus, InvalidName, Log, Message, ReadError, Reader};
use inflection_domain::Timestamp;
use inflection_telemetry::Tracer;
use inflection_wire::{DecodeError, ParkedBatch, ParkedCall};

use super::{Done, Failure};
use crate::books::ConnectionKey;
use crate::dead_letters::{self, Kept, message_id, now};
use crate::dispatcher::{Fate, Item, Ticket};
use crate::park::Park;
use crate::room::{Held, Room};
use crate::suppression::Suppression;
use crate::trace::{CallTrace, End};

/// Messages that a reader of a parked log fetches ahead; each is up to half a megabyte of calls.
const PREFETCH_MESSAGES: usize = 4;
/// Wait before an append is tried again.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// One lane with its log.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) park: Park,
    pub(super) log: Log,
    /// Kept while the lane drains.
    pub(super) reader: Option<Reader>,
}

/// The parked log of a connection in a partition.
///
/// # Errors
/// Never for checked names; they fit into the name of a log.
pub fn parked_log((workspace, connection): &ConnectionKey, partition: u16) -> Result<Log, InvalidName> {
    Log::new(&format!("parked.{workspace}.{connection}.{partition}"))
}

/// Whose log it is, from its name.
pub(crate) fn of_log(log: &Log) -> Option<(ConnectionKey, u16)> {
    let mut tokens = log.as_str().split('.').skip(1);
    let (workspace, connection, partition) = (tokens.next()?, tokens.next()?, tokens.next()?);
    let key =
        (inflection_domain::WorkspaceId::new(workspace).ok()?, inflection_domain::ConnectionId::new(connection).ok()?);
    Some((key, partition.parse().ok()?))
}

/// What was read of a parked log.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) partition: u16,
    pub(super) generation: u64,
    pub(super) sequence: u64,
    /// The calls that are to be sent.
    pub(super) items: Vec<Item>,
    /// All calls of the message.
    pub(super) count: usize,
    /// Calls that had waited too long.
    pub(super) late: Late,
    pub(super) held: Held,
    pub(super) reader: Reader,
}

/// Appends calls, through outages of the bus. Nothing else may write the log: whoever finds that somebody has is the owner no
/// more.
pub(super) async fn append(
    bus: Bus,
    log: Log,
    fence: u64,
    (partition, lane): (u16, u64),
    items: Vec<Item>,
    totals: inflection_wire::ConnectionTotals,
    (tracer, key): (Tracer, ConnectionKey),
) -> Done {
    let mut tickets: BTreeMap<u64, usize> = BTreeMap::new();
    for item in &items {
        if let Ticket::Decision { sequence, .. } = item.ticket {
            *tickets.entry(sequence).or_default() += 1;
        }
    }
    let calls = items.iter().map(|item| ParkedCall {
        call: item.bytes.clone(),
        event_id_bytes: u32::try_from(item.split).unwrap_or(u32::MAX),
        received_at: item.received_at,
        id: item.id,
        person: item.person,
        trace: item.trace.as_ref().map(|trace| Box::new(trace.to_bytes())),
    });
    let payload = ParkedBatch { totals, calls: calls.collect() }.encode();
    let mut traced = items;
    traced.retain(|item| item.trace.is_some());
    traced.shrink_to_fit();
    loop {
        match bus.append(&log, Some(fence), payload.clone()).await {
            Ok(sequence) => {
                for (item, trace) in traced.iter().filter_map(|item| Some((item, item.trace.as_ref()?))) {
                    trace.end(&tracer, &key, message_id(item), End::Parked);
                }
                return Done::Parked { partition, lane, sequence, tickets };
            }
            Err(AppendError::Fenced { .. }) => return Done::Fenced { partition, lane },
            Err(error @ AppendError::TooLarge { .. }) => {
                return Done::Failed(Failure::Park { partition, source: error });
            }
            Err(error) if bus.has_failed() => return Done::Failed(Failure::Park { partition, source: error }),
            Err(error) => {
                tracing::warn!(%error, log = %log, "calls cannot be parked yet");
                tokio::time::sleep(RETRY_WAIT).await;
            }
        }
    }
}

/// What it takes to read the next message of a parked log.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) bus: Bus,
    pub(super) log: Log,
    pub(super) reader: Option<Reader>,
    pub(super) after: u64,
    pub(super) room: Arc<Room>,
    pub(super) key: ConnectionKey,
    pub(super) dead: Log,
    /// So many of its first calls have ended already.
    pub(super) skip: usize,
    /// Whose calls do not come into the dead letters.
    pub(super) suppression: Suppression,
    /// Calls received before this moment have waited too long.
    pub(super) before: Timestamp,
    pub(super) partition: u16,
    pub(super) generation: u64,
}

impl Load {
    /// Reads the message, when there is room for it, and buries what has waited too long.
    pub(super) async fn run(self) -> Done {
        let Self { bus, log, reader, after, room, key, dead, skip, suppression, before, partition, generation } = self;
        let mut held = room.hold(&key, ParkedBatch::CALLS_BYTES_MAX).await;
        let mut reader = reader.unwrap_or_else(|| bus.read_with(&log, after, PREFETCH_MESSAGES));
        let (sequence, batch) = match next(&mut reader).await {
            Ok(read) => read,
            Err(source) => return Done::Failed(Failure::Parked { partition, source }),
        };
        held.shrink(batch.calls.iter().map(|call| call.call.len()).sum());
        let count = batch.calls.len();
        let items = batch.calls.into_iter().skip(skip).map(|call| item(call, partition, sequence));
        let (late, items): (Vec<Item>, Vec<Item>) = items.partition(|item| item.received_at < before);
        match bury_late(&bus, &dead, &key, &suppression, late).await {
            Ok(late) => {
                Done::Loaded(Box::new(Loaded { partition, generation, sequence, items, count, late, held, reader }))
            }
            Err(source) => Done::Failed(Failure::Bury(source)),
        }
    }
}

/// What became of calls that had waited too long: all of them at once, ahead of what comes behind them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Late {
    /// They lie in the dead letters.
    pub(super) expired: usize,
    /// Their persons are suppressed; nothing is kept of them.
    pub(super) suppressed: usize,
}

impl Late {
    /// How the calls have ended, and how many.
    pub(super) fn ends(self) -> impl Iterator<Item = (Fate, usize)> {
        let ends = [(Fate::Dead, self.expired), (Fate::Suppressed, self.suppressed)];
        ends.into_iter().filter(|(_, count)| *count > 0)
    }
}

async fn bury_late(
    bus: &Bus,
    dead: &Log,
    key: &ConnectionKey,
    suppression: &Suppression,
    items: impl IntoIterator<Item = Item>,
) -> Result<Late, AppendError> {
    let mut late = Late::default();
    for item in items {
        match dead_letters::keep(bus, dead, suppression, dead_letters::expired(key, &item)).await? {
            Kept::Yes => late.expired += 1,
            Kept::Suppressed => late.suppressed += 1,
        }
    }
    Ok(late)
}

async fn next(reader: &mut Reader) -> Result<(u64, ParkedBatch), ParkedError> {
    loop {
        if let Some(Message { sequence, payload }) = reader.next(1).await?.into_iter().next() {
            return Ok((sequence, ParkedBatch::decode(payload)?));
        }
    }
}

/// Why a parked log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ParkedError {
    /// The bus cannot be read.
    #[error("the parked log cannot be read")]
    Read(#[from] ReadError),
    /// A message is damaged.
    #[error("a message of the parked log is damaged")]
    Damaged(#[from] DecodeError),
}

/// Calls that have waited too long go from the front of a log to the dead letters, message by message, up to `last`.
pub(super) async fn expire(
    (bus, log): (Bus, Log),
    (after, last): (u64, u64),
    (dead, key, suppression): (Log, ConnectionKey, Suppression),
    before: Timestamp,
    (partition, generation): (u16, u64),
) -> Done {
    let mut reader = bus.read_with(&log, after, PREFETCH_MESSAGES);
    let (mut expired, mut read) = (Vec::new(), after);
    while read < last {
        let batch = match next(&mut reader).await {
            Ok((sequence, batch)) => {
                read = sequence;
                batch
            }
            Err(source) => return Done::Failed(Failure::Parked { partition, source }),
        };
        if batch.calls.iter().any(|call| call.received_at >= before) {
            break;
        }
        let items = batch.calls.into_iter().map(|call| item(call, partition, read));
        match bury_late(&bus, &dead, &key, &suppression, items).await {
            Ok(late) => expired.push((read, late)),
            Err(source) => return Done::Failed(Failure::Bury(source)),
        }
    }
    Done::Looked { partition, generation, expired }
}

/// A call of a parked log as the dispatcher takes it.
pub(super) fn item(call: ParkedCall, partition: u16, sequence: u64) -> Item {
    let ticket = Ticket::Parked { partition, sequence };
    let ParkedCall { call: bytes, event_id_bytes, received_at, id, person, trace } = call;
    let trace = CallTrace::begin(trace.as_deref());
    Item { bytes, split: event_id_bytes as usize, ticket, received_at, id, person, trace }
}

/// The moment before which calls have waited too long.
pub(super) fn expiry(after: Duration) -> Timestamp {
    let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_ms(now().as_ms().saturating_sub(after))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use inflection_bus::EmbeddedConfig;
    use inflection_domain::{ConnectionId, Head, InstallationKey, PersonId, Tombstone, WorkspaceId};
    use inflection_wire::{DeadLetterEntry, DeadLetterOutcome, SuppressedPerson, SuppressedPersons};

    use super::*;
    use crate::suppression;

    #[tokio::test]
    async fn nothing_is_kept_of_the_late_calls_of_a_suppressed_person() {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        let key = (WorkspaceId::new("acme").unwrap(), ConnectionId::new("prod").unwrap());
        let dead = dead_letters::dead_letter_log(&key.0, &key.1).unwrap();
        let person = |id| Head::person_key(&key.0, &PersonId::new(id).unwrap());
        let call = |id| {
            let (call, received_at) = (Bytes::from_static(b"e{}"), Timestamp::default());
            let person = Some(person(id));
            item(ParkedCall { call, event_id_bytes: 1, received_at, id: 1, person, trace: None }, 0, 1)
        };
        let installation = InstallationKey::new([7; 32]);
        let tombstone = Tombstone::of_person(&installation, person("p1"));
        let (announcer, suppression) = suppression::channel(installation);
        let mut record = SuppressedPersons::default();
        let entry = SuppressedPerson { user: false, at: Timestamp::default(), erased: true };
        record.workspaces.entry(key.0.clone()).or_default().insert(tombstone, entry);
        announcer.announce(record.clone(), 1);
        let late = bury_late(&bus, &dead, &key, &suppression, [call("p1"), call("p2")]).await.unwrap();
        assert_eq!(late, Late { expired: 1, suppressed: 1 });
        let kept = bus.read(&dead, 0).next(usize::MAX).await.unwrap().into_iter();
        let persons = kept.map(|message| match DeadLetterEntry::decode(message.payload).unwrap().outcome {
            DeadLetterOutcome::Died(letter) => letter.person,
            outcome @ (DeadLetterOutcome::Replayed(_) | DeadLetterOutcome::Dropped(_)) => panic!("{outcome:?}"),
        });
        assert_eq!(persons.collect::<Vec<_>>(), [Some(person("p2"))]);
        // A person that is erased while the letters before its own are stored.
        let tombstone = Tombstone::of_person(&InstallationKey::new([7; 32]), person("p3"));
        record.workspaces.entry(key.0.clone()).or_default().insert(tombstone, entry);
        let mut record = Some(record);
        let calls = ["p2", "p3"].into_iter().inspect(|id| {
            if *id == "p3" {
                announcer.announce(record.take().unwrap(), 2);
            }
        });
        let late = bury_late(&bus, &dead, &key, &suppression, calls.map(call)).await.unwrap();
        assert_eq!(late, Late { expired: 1, suppressed: 1 });
    }
}
