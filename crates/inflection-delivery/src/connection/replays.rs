//! Dead letters on their way back: which ones, and loading them a page at a time.

use std::collections::BTreeSet;

use bytes::Bytes;
use inflection_bus::{Bus, Log};
use inflection_domain::Timestamp;
use inflection_wire::{DeadLetter, DeadLetterEntry, DeadLetterOutcome};

use super::Done;
use crate::books::ConnectionKey;
use crate::dead_letters::{DeadLetterError, Standings, id_of};
use crate::dispatcher::{Item, Ticket};

/// Letters, and bytes of them, that are in memory at once.
const PAGE_LETTERS: usize = 500;
const PAGE_BYTES: usize = 1024 * 1024;

/// The letters that are wanted back, by their place in the log: eight bytes each, however many there are.
#[derive(Debug, Default)]
pub(super) struct Replays {
    wanted: BTreeSet<u64>,
    loading: bool,
    /// What became of the letters, as far as it was read; kept while letters are wanted.
    standings: Standings,
}

impl Replays {
    pub(super) fn want(&mut self, letters: impl IntoIterator<Item = u64>) {
        self.wanted.extend(letters);
    }

    /// The next page to be loaded, if none is, and what became of the letters.
    pub(super) fn next_page(&mut self) -> Option<(Vec<u64>, Standings)> {
        if self.loading || self.wanted.is_empty() {
            return None;
        }
        self.loading = true;
        let page: Vec<u64> = self.wanted.iter().take(PAGE_LETTERS).copied().collect();
        self.wanted = self.wanted.split_off(&page.last().map_or(0, |last| last + 1));
        Some((page, std::mem::take(&mut self.standings)))
    }

    /// Notes that a page was loaded but for the rest, which comes again.
    pub(super) fn loaded(&mut self, rest: Vec<u64>, standings: Standings) {
        self.loading = false;
        self.wanted.extend(rest);
        if !self.wanted.is_empty() {
            self.standings = standings;
        }
    }
}

/// Reads letters of a log; those that do not fit into a page any more are given back. Letters that were dropped or replayed
/// since they were asked for are left out: that may have been long ago.
pub(super) async fn load(bus: Bus, key: ConnectionKey, dead: Log, page: Vec<u64>, mut standings: Standings) -> Done {
    match read(&bus, &key, &dead, &page, &mut standings).await {
        Ok((items, read)) => {
            let rest = page.into_iter().filter(|letter| *letter > read).collect();
            Done::Replays { items, rest, standings }
        }
        Err(error) => {
            tracing::warn!(%error, "dead letters cannot be read; they stay where they are");
            Done::Replays { items: Vec::new(), rest: Vec::new(), standings }
        }
    }
}

/// The items of letters, and up to where they were read.
async fn read(
    bus: &Bus,
    key: &ConnectionKey,
    dead: &Log,
    page: &[u64],
    standings: &mut Standings,
) -> Result<(Vec<Item>, u64), DeadLetterError> {
    let (Some(first), Some(last)) = (page.first().copied(), page.last().copied()) else { return Ok((Vec::new(), 0)) };
    let mut reader = bus.read(dead, first.saturating_sub(1));
    let (mut letters, mut bytes, mut read) = (Vec::new(), 0, 0);
    while read < last && bytes < PAGE_BYTES {
        for message in reader.next(PAGE_BYTES).await? {
            read = message.sequence;
            if page.binary_search(&read).is_ok()
                && let Ok(DeadLetterEntry { at, outcome: DeadLetterOutcome::Died(letter) }) =
                    DeadLetterEntry::decode(message.payload)
            {
                bytes += letter.item.len();
                letters.push((read, at, letter));
            }
        }
    }
    // After the letters, so that nothing of what was dropped before they were read is missed.
    standings.read(bus, &key.0, &key.1).await?;
    letters.retain(|(sequence, _, letter)| standings.lists(*sequence, &letter.message_id));
    Ok((letters.into_iter().filter_map(|(_, at, letter)| item(at, &letter)).collect(), read))
}

/// The frozen item of a letter; one that Segment would have dropped has none and cannot be sent.
fn item(at: Timestamp, letter: &DeadLetter) -> Option<Item> {
    let frozen = (!letter.item.is_empty()).then_some(&letter.item)?;
    Some(Item {
        split: letter.event_id.len(),
        bytes: Bytes::from([letter.event_id.as_bytes(), frozen].concat()),
        ticket: Ticket::DeadLetter,
        received_at: at,
        id: id_of(&letter.message_id),
        person: letter.person,
        trace: None,
    })
}

#[cfg(test)]
mod tests {
    use inflection_bus::EmbeddedConfig;
    use inflection_domain::{ConnectionId, WorkspaceId};

    use super::*;
    use crate::dead_letters::{dead_letter_log, drop_letter};

    #[tokio::test]
    async fn a_letter_that_was_dropped_while_it_waited_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        let key = (WorkspaceId::new("acme").unwrap(), ConnectionId::new("prod").unwrap());
        let dead = dead_letter_log(&key.0, &key.1).unwrap();
        let (mut replays, id) = (Replays::default(), |number: u8| format!("infl_{number:032x}"));
        for number in 1..=3 {
            let letter = DeadLetter {
                workspace: key.0.clone(),
                connection: key.1.clone(),
                message_id: id(number),
                event_id: "e".into(),
                kind: "page".into(),
                reason: "bad_request".into(),
                attempts: 1,
                last_status: 400,
                item: format!("{{\"messageId\":\"{}\"}}", id(number)).into(),
                person: None,
            };
            let entry = DeadLetterEntry { at: Timestamp::default(), outcome: DeadLetterOutcome::Died(letter) };
            replays.want([bus.append(&dead, None, entry.encode()).await.unwrap()]);
        }
        drop_letter(&bus, &key.0, &key.1, &id(2)).await.unwrap();
        let (page, standings) = replays.next_page().unwrap();
        assert_eq!(page.len(), 3);
        let Done::Replays { items, rest, .. } = load(bus, key, dead, page, standings).await else { panic!("loads") };
        let sent: Vec<u64> = items.iter().map(|item| item.id).collect();
        assert_eq!((sent, rest), (vec![id_of(&id(1)), id_of(&id(3))], vec![]));
    }
}
