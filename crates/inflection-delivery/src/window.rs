//! What of a partition is under way, and how far it is finished. Pure.
//!
//! A decision message is finished when every call it makes has come to an end on every connection. The cursor moves over
//! finished messages only, and the counts move with it: what lies behind the cursor is counted exactly once, whatever
//! crash comes between.

use std::collections::{BTreeMap, VecDeque};

use inflection_domain::{ConnectionId, WorkspaceId};
use inflection_wire::{CallPosition, ConnectionTotals, DeliveryProgress, WorkspaceTotals};

use crate::dispatcher::Fate;

/// A connection within an installation.
pub(crate) type ConnectionKey = (WorkspaceId, ConnectionId);

/// How many calls of one message ended how, on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ends {
    pub(crate) accepted: u64,
    pub(crate) dead: u64,
    pub(crate) filtered: u64,
}

/// One message under way.
#[derive(Debug)]
struct Slot<H> {
    sequence: u64,
    open: usize,
    ends: BTreeMap<ConnectionKey, Ends>,
    /// Released when the cursor has passed, not when the message is finished: it bounds memory, and what a restart
    /// repeats.
    _held: Option<H>,
}

/// The messages of one partition that are under way, and what became of those before.
#[derive(Debug)]
pub(crate) struct Window<H> {
    slots: VecDeque<Slot<H>>,
    finished_through: u64,
    totals: BTreeMap<ConnectionKey, ConnectionTotals>,
}

impl<H> Window<H> {
    /// Goes on from a stored progress.
    pub(crate) fn new(progress: DeliveryProgress) -> Self {
        let totals = progress.connections.into_iter();
        Self {
            slots: VecDeque::new(),
            finished_through: progress.finished_through,
            totals: totals.map(|totals| ((totals.workspace.clone(), totals.connection.clone()), totals)).collect(),
        }
    }

    /// Whether one of these connections has no counts here yet.
    pub(crate) fn is_new(&self, connections: &[ConnectionKey]) -> bool {
        connections.iter().any(|key| !self.totals.contains_key(key))
    }

    /// Notes connections that this partition has not seen before: what their workspaces decided until here is not theirs.
    pub(crate) fn introduce(&mut self, connections: &[ConnectionKey], decided: &[WorkspaceTotals]) {
        for key in connections {
            if self.totals.contains_key(key) {
                continue;
            }
            let baseline = decided.iter().find(|totals| totals.workspace == key.0).map_or(0, |totals| totals.calls);
            let (workspace, connection) = key.clone();
            let totals = ConnectionTotals::new(workspace, connection, baseline, CallPosition::default());
            self.totals.insert(key.clone(), totals);
        }
    }

    /// Opens a message with `open` calls to be sent, and what ended before it was sent (filtered, invalid).
    pub(crate) fn open(&mut self, sequence: u64, open: usize, ends: BTreeMap<ConnectionKey, Ends>, held: Option<H>) {
        self.slots.push_back(Slot { sequence, open, ends, _held: held });
        self.advance();
    }

    /// Notes that `count` calls of a message ended. Returns whether the cursor moved.
    pub(crate) fn end(&mut self, sequence: u64, connection: &ConnectionKey, fate: Fate, count: usize) -> bool {
        let found = self.slots.binary_search_by_key(&sequence, |slot| slot.sequence);
        let Some(slot) = found.ok().and_then(|at| self.slots.get_mut(at)) else { return false };
        let ends = match slot.ends.get_mut(connection) {
            Some(ends) => ends,
            None => slot.ends.entry(connection.clone()).or_default(),
        };
        match fate {
            Fate::Accepted => ends.accepted += count as u64,
            Fate::Dead => ends.dead += count as u64,
        }
        slot.open = slot.open.saturating_sub(count);
        self.advance()
    }

    fn advance(&mut self) -> bool {
        let before = self.finished_through;
        while let Some(slot) = self.slots.pop_front_if(|slot| slot.open == 0) {
            self.finished_through = slot.sequence;
            for (key, ends) in slot.ends {
                if let Some(totals) = self.totals.get_mut(&key) {
                    totals.accepted += ends.accepted;
                    totals.dead += ends.dead;
                    totals.filtered += ends.filtered;
                }
            }
        }
        self.finished_through > before
    }

    /// Counts calls as left out of connections that are no longer configured, so that their books stay closed.
    pub(crate) fn leave_out(
        &self,
        known: &[ConnectionKey],
        calls: &BTreeMap<WorkspaceId, u64>,
        ends: &mut BTreeMap<ConnectionKey, Ends>,
    ) {
        for key in self.totals.keys().filter(|key| !known.contains(key)) {
            if let Some(count) = calls.get(&key.0) {
                ends.entry(key.clone()).or_default().filtered += count;
            }
        }
    }

    /// What to store.
    pub(crate) fn progress(&self) -> DeliveryProgress {
        DeliveryProgress {
            finished_through: self.finished_through,
            connections: self.totals.values().cloned().collect(),
            read_through: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(connection: &str) -> ConnectionKey {
        (WorkspaceId::new("acme").unwrap(), ConnectionId::new(connection).unwrap())
    }

    #[test]
    fn the_cursor_moves_over_finished_messages_in_order() {
        let (prod, test) = (key("prod"), key("test"));
        let mut window: Window<()> = Window::new(DeliveryProgress::default());
        let decided = WorkspaceTotals { calls: 7, ..WorkspaceTotals::new(prod.0.clone()) };
        window.introduce(&[prod.clone(), test.clone()], &[decided]);
        let filtered = BTreeMap::from([(test.clone(), Ends { filtered: 2, ..Ends::default() })]);
        window.open(10, 3, filtered.clone(), Some(()));
        window.open(12, 1, BTreeMap::new(), Some(()));
        window.open(15, 0, filtered, None);
        assert_eq!(window.progress().finished_through, 0);
        assert!(!window.end(12, &test, Fate::Accepted, 1), "10 is still under way");
        assert!(!window.end(10, &prod, Fate::Accepted, 2));
        assert_eq!(window.progress().connections[0].accepted, 0, "counts move with the cursor only");
        assert!(window.end(10, &prod, Fate::Dead, 1));
        let progress = window.progress();
        assert_eq!(progress.finished_through, 15);
        let counts = |at: usize| {
            let totals = &progress.connections[at];
            (totals.baseline, totals.accepted, totals.dead, totals.filtered)
        };
        assert_eq!((counts(0), counts(1)), ((7, 2, 1, 0), (7, 1, 0, 4)));
        assert!(!window.end(10, &prod, Fate::Accepted, 1), "what is finished is not counted again");
        assert_eq!(window.progress(), progress);
    }
}
