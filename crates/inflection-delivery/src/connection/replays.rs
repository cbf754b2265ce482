//! Dead letters on their way back: which ones, and loading them a page at a time.

use std::collections::BTreeSet;

use bytes::Bytes;
use inflection_bus::{Bus, Log};
use inflection_wire::{DeadLetterEntry, DeadLetterOutcome};

use super::Done;
use crate::dead_letters::id_of;
use crate::dispatcher::{Item, Ticket};

/// Letters, and bytes of them, that are in memory at once.
const PAGE_LETTERS: usize = 500;
const PAGE_BYTES: usize = 1024 * 1024;

/// The letters that are wanted back, by their place in the log: eight bytes each, however many there are.
#[derive(Debug, Default)]
pub(super) struct Replays {
    wanted: BTreeSet<u64>,
    loading: bool,
}

impl Replays {
    pub(super) fn want(&mut self, letters: impl IntoIterator<Item = u64>) {
        self.wanted.extend(letters);
    }

    /// The next page to be loaded, if none is.
    pub(super) fn next_page(&mut self) -> Option<Vec<u64>> {
        if self.loading || self.wanted.is_empty() {
            return None;
        }
        self.loading = true;
        let page: Vec<u64> = self.wanted.iter().take(PAGE_LETTERS).copied().collect();
        self.wanted = self.wanted.split_off(&page.last().map_or(0, |last| last + 1));
        Some(page)
    }

    /// Notes that a page was loaded but for the rest, which comes again.
    pub(super) fn loaded(&mut self, rest: Vec<u64>) {
        self.loading = false;
        self.wanted.extend(rest);
    }
}

/// Reads letters of a log; those that do not fit into a page any more are given back.
pub(super) async fn load(bus: Bus, dead: Log, page: Vec<u64>) -> Done {
    let (Some(first), Some(last)) = (page.first().copied(), page.last().copied()) else {
        return Done::Replays { items: Vec::new(), rest: Vec::new() };
    };
    let mut reader = bus.read(&dead, first.saturating_sub(1));
    let (mut items, mut bytes, mut read) = (Vec::new(), 0, 0);
    while read < last && bytes < PAGE_BYTES {
        let messages = match reader.next(PAGE_BYTES).await {
            Ok(messages) => messages,
            Err(error) => {
                tracing::warn!(%error, "dead letters cannot be read; they stay where they are");
                return Done::Replays { items: Vec::new(), rest: Vec::new() };
            }
        };
        for message in messages {
            read = message.sequence;
            if page.binary_search(&read).is_ok()
                && let Some(item) = DeadLetterEntry::decode(message.payload).ok().and_then(item)
            {
                bytes += item.bytes.len();
                items.push(item);
            }
        }
    }
    let rest = page.into_iter().filter(|letter| *letter > read).collect();
    Done::Replays { items, rest }
}

/// The frozen item of a letter; one that Segment would have dropped has none and cannot be sent.
fn item(entry: DeadLetterEntry) -> Option<Item> {
    let DeadLetterOutcome::Died(letter) = entry.outcome else { return None };
    let frozen = (!letter.item.is_empty()).then_some(&letter.item)?;
    Some(Item {
        split: letter.event_id.len(),
        bytes: Bytes::from([letter.event_id.as_bytes(), frozen].concat()),
        ticket: Ticket::DeadLetter,
        received_at: entry.at,
        id: id_of(&letter.message_id),
        person: letter.person,
        trace: None,
    })
}
