//! What of a partition is under way, and how far each connection has come in it. Pure.
//!
//! A connection's calls are counted in the order of the log, each once: its position moves over calls that have come to
//! an end or are parked, and the counts move with it. What lies behind the position is counted exactly once, whatever
//! crash comes between, because position and counts are stored as one. Parked calls have books of their own, with a
//! position in the parked log.

use std::collections::{BTreeMap, VecDeque};

use inflection_domain::{ConnectionId, WorkspaceId};
use inflection_wire::{CallPosition, ConnectionTotals, DeliveryProgress, WorkspaceTotals};

use crate::dispatcher::Fate;

/// A connection within an installation.
pub type ConnectionKey = (WorkspaceId, ConnectionId);

/// What became of one call on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallEnd {
    /// Segment answered 2xx.
    Accepted,
    /// It lies in the dead letters.
    Dead,
    /// The connection's settings leave it out, or the connection is gone.
    Filtered,
    /// Its person is suppressed: it is not sent.
    Suppressed,
    /// It lies in the parked log.
    Parked,
}

impl From<Fate> for CallEnd {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Accepted => Self::Accepted,
            Fate::Dead => Self::Dead,
            Fate::Suppressed => Self::Suppressed,
        }
    }
}

/// One decision message under way on one connection: its calls in order, `None` while they are.
#[derive(Debug)]
struct Slot<H> {
    sequence: u64,
    /// Calls before the first of these, counted by an earlier life.
    skipped: u32,
    calls: Vec<Option<CallEnd>>,
    /// Calls that the position has passed.
    passed: usize,
    /// Room for what was rendered; released when the position has passed the message.
    _held: Option<H>,
}

/// One parked message that is being sent.
#[derive(Debug)]
struct Release<H> {
    sequence: u64,
    open: usize,
    /// How its first calls ended, in order.
    ended: Vec<(Fate, usize)>,
    _held: Option<H>,
}

/// The books of one connection.
#[derive(Debug)]
struct Lane<H> {
    totals: ConnectionTotals,
    slots: VecDeque<Slot<H>>,
    releases: VecDeque<Release<H>>,
    /// Where an earlier life had come to, until the reader has come there as well.
    resume: Option<CallPosition>,
    /// The last message that was counted to its end.
    passed_through: u64,
}

/// The books of one partition.
#[derive(Debug)]
pub(crate) struct Books<H> {
    lanes: BTreeMap<ConnectionKey, Lane<H>>,
    /// Messages up to this sequence were handed to the connections.
    read_through: u64,
    /// A connection that is new begins after this sequence: what lies before was not decided for it.
    known_through: u64,
}

impl<H> Slot<H> {
    fn position(&self) -> CallPosition {
        let calls = self.skipped + u32::try_from(self.passed).unwrap_or(u32::MAX);
        CallPosition { through: self.sequence.saturating_sub(1), calls }
    }

    /// Gives the next `count` calls under way an end; returns how many there were.
    fn end(&mut self, end: CallEnd, count: usize) -> usize {
        let open = self.calls.iter_mut().filter(|call| call.is_none()).take(count);
        open.map(|call| *call = Some(end)).count()
    }
}

fn count(totals: &mut ConnectionTotals, end: CallEnd, calls: u64) {
    match end {
        CallEnd::Accepted => totals.accepted += calls,
        CallEnd::Dead => totals.dead += calls,
        CallEnd::Filtered => totals.filtered += calls,
        CallEnd::Suppressed => totals.suppressed += calls,
        CallEnd::Parked => totals.parked += calls,
    }
}

impl<H> Lane<H> {
    fn new(totals: ConnectionTotals) -> Self {
        let resume = Some(totals.ended);
        Self { totals, slots: VecDeque::new(), releases: VecDeque::new(), resume, passed_through: 0 }
    }

    /// How many calls of this message an earlier life has counted: `None` for all of them. Messages are asked for in order.
    fn skip(&mut self, sequence: u64) -> Option<u32> {
        match self.resume {
            Some(resume) if sequence <= resume.through => None,
            Some(resume) => {
                self.resume = None;
                Some(resume.calls)
            }
            None => Some(0),
        }
    }

    /// Moves over calls that have come to an end. Returns whether the position moved.
    fn advance(&mut self) -> bool {
        let before = (self.totals.counted(), self.totals.released_through);
        while let Some(slot) = self.slots.front_mut() {
            while let Some(Some(end)) = slot.calls.get(slot.passed) {
                count(&mut self.totals, *end, 1);
                slot.passed += 1;
            }
            if slot.passed < slot.calls.len() {
                break;
            }
            self.passed_through = slot.sequence;
            self.slots.pop_front();
        }
        while let Some(release) = self.releases.pop_front_if(|release| release.open == 0) {
            self.totals.released_through = release.sequence;
            for (fate, calls) in release.ended {
                match fate {
                    Fate::Accepted => self.totals.released_accepted += calls as u64,
                    Fate::Dead => self.totals.released_dead += calls as u64,
                    Fate::Suppressed => self.totals.released_suppressed += calls as u64,
                }
            }
        }
        before != (self.totals.counted(), self.totals.released_through)
    }

    fn position(&self, read_through: u64) -> CallPosition {
        match (self.resume, self.slots.front()) {
            (Some(resume), _) => resume,
            (None, Some(slot)) => slot.position(),
            (None, None) => CallPosition { through: read_through.max(self.passed_through), calls: 0 },
        }
    }
}

impl<H> Books<H> {
    /// Goes on from stored progress, and from the books that stand in the last message of parked logs: those are ahead
    /// when calls were parked but the progress that says so was not stored any more.
    pub(crate) fn new(progress: DeliveryProgress, parked: Vec<(ConnectionKey, ConnectionTotals)>) -> Self {
        let key = |totals: &ConnectionTotals| (totals.workspace.clone(), totals.connection.clone());
        let mut stored: BTreeMap<ConnectionKey, ConnectionTotals> =
            progress.connections.into_iter().map(|totals| (key(&totals), totals)).collect();
        for (key, parked) in parked {
            let totals = match stored.remove(&key) {
                Some(stored) if parked.ended > stored.ended && parked.released_through > stored.released_through => {
                    parked
                }
                // What was sent of a parked log goes on moving when nothing is parked any more.
                Some(stored) if parked.ended > stored.ended => {
                    let ConnectionTotals {
                        released_through,
                        released_accepted,
                        released_dead,
                        released_suppressed,
                        ..
                    } = stored;
                    ConnectionTotals {
                        released_through,
                        released_accepted,
                        released_dead,
                        released_suppressed,
                        ..parked
                    }
                }
                Some(stored) => stored,
                None => parked,
            };
            stored.insert(key, totals);
        }
        let mut books = Self {
            lanes: stored.into_iter().map(|(key, totals)| (key, Lane::new(totals))).collect(),
            read_through: 0,
            known_through: progress.read_through,
        };
        books.read_through = books.finished_through(progress.finished_through);
        books
    }

    /// The sequence up to which every call has come to an end, or is parked, on every connection.
    fn finished_through(&self, read_through: u64) -> u64 {
        let through = self.lanes.values().map(|lane| lane.position(read_through).through);
        through.min().unwrap_or(read_through)
    }

    /// Where reading begins.
    pub(crate) fn read_through(&self) -> u64 {
        self.read_through
    }

    /// Whether one of these connections has no books here yet.
    pub(crate) fn is_new(&self, connections: &[ConnectionKey]) -> bool {
        connections.iter().any(|key| !self.lanes.contains_key(key))
    }

    /// Notes connections that this partition has not seen before, ahead of a message: what their workspaces decided
    /// until here (`decided`) is not theirs, and neither is what was decided before they existed.
    pub(crate) fn introduce(&mut self, connections: &[ConnectionKey], decided: &[WorkspaceTotals], sequence: u64) {
        if sequence <= self.known_through {
            return;
        }
        for key in connections {
            if self.lanes.contains_key(key) {
                continue;
            }
            let baseline = decided.iter().find(|totals| totals.workspace == key.0).map_or(0, |totals| totals.calls);
            let (workspace, connection) = key.clone();
            let ended = CallPosition { through: sequence.saturating_sub(1), calls: 0 };
            let totals = ConnectionTotals::new(workspace, connection, baseline, ended);
            self.lanes.insert(key.clone(), Lane::new(totals));
        }
    }

    /// How many calls of this message the connection has behind it: `None` if it is not to be told of the message.
    /// To be asked once for each message, in order.
    pub(crate) fn skip(&mut self, key: &ConnectionKey, sequence: u64) -> Option<u32> {
        self.lanes.get_mut(key)?.skip(sequence)
    }

    /// Opens a message on a connection: what is known of its calls after the skipped ones, in order.
    pub(crate) fn open(
        &mut self,
        key: &ConnectionKey,
        sequence: u64,
        skipped: u32,
        calls: Vec<Option<CallEnd>>,
        held: Option<H>,
    ) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.slots.push_back(Slot { sequence, skipped, calls, passed: 0, _held: held });
            lane.advance();
        }
    }

    /// Counts a message as left out by connections that are no longer configured, so that their books stay closed.
    pub(crate) fn leave_out(&mut self, known: &[ConnectionKey], calls: &BTreeMap<WorkspaceId, u32>, sequence: u64) {
        for (key, lane) in &mut self.lanes {
            let Some(decided) = calls.get(&key.0).filter(|_| !known.contains(key)) else { continue };
            if let Some(skipped) = lane.skip(sequence) {
                // Behind what is still under way, so that counts are never ahead of the position.
                let calls = vec![Some(CallEnd::Filtered); decided.saturating_sub(skipped) as usize];
                lane.slots.push_back(Slot { sequence, skipped, calls, passed: 0, _held: None });
                lane.advance();
            }
        }
    }

    /// Notes that a message was handed to all connections.
    pub(crate) fn read(&mut self, sequence: u64) {
        // Where an earlier life stood between two messages, the reader is there now.
        let reached = |resume: &mut CallPosition| resume.calls == 0 && resume.through <= sequence;
        for lane in self.lanes.values_mut() {
            lane.resume.take_if(reached);
        }
        self.read_through = sequence;
        self.known_through = self.known_through.max(sequence);
    }

    /// Notes that the next `count` calls of a decision message ended. Returns whether the position moved.
    pub(crate) fn end(&mut self, key: &ConnectionKey, sequence: u64, end: CallEnd, count: usize) -> bool {
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        let found = lane.slots.binary_search_by_key(&sequence, |slot| slot.sequence);
        if let Some(slot) = found.ok().and_then(|at| lane.slots.get_mut(at)) {
            slot.end(end, count);
        }
        lane.advance()
    }

    /// The books as they will be when the next `parked` calls under way are parked: what is written with them.
    pub(crate) fn with_parked(&self, key: &ConnectionKey, mut parked: usize) -> Option<ConnectionTotals> {
        let lane = self.lanes.get(key)?;
        let mut totals = ConnectionTotals { ended: lane.position(self.read_through), ..lane.totals.clone() };
        for slot in &lane.slots {
            let mut position = slot.position();
            for end in slot.calls.iter().skip(slot.passed) {
                match end {
                    Some(end) => count(&mut totals, *end, 1),
                    None if parked == 0 => return Some(ConnectionTotals { ended: position, ..totals }),
                    None => {
                        parked -= 1;
                        count(&mut totals, CallEnd::Parked, 1);
                    }
                }
                position.calls += 1;
            }
            totals.ended = CallPosition { through: slot.sequence, calls: 0 };
        }
        Some(totals)
    }

    /// Opens a parked message that is about to be sent. Returns whether the position moved: over one without calls it
    /// does at once.
    pub(crate) fn open_release(&mut self, key: &ConnectionKey, sequence: u64, open: usize, held: Option<H>) -> bool {
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        lane.releases.push_back(Release { sequence, open, ended: Vec::new(), _held: held });
        lane.advance()
    }

    /// Up to where the parked log, which ends at `last`, was sent. When nothing lies parked by these books, what is in the
    /// log all the same was written by a former owner too late: its calls have ended here, or are still to be read, so
    /// that it is passed over.
    pub(crate) fn pass_over(&mut self, key: &ConnectionKey, last: u64) -> u64 {
        let Some(lane) = self.lanes.get_mut(key) else { return 0 };
        if lane.totals.parked == lane.totals.released() {
            lane.totals.released_through = lane.totals.released_through.max(last);
        }
        lane.totals.released_through
    }

    /// Notes that `count` calls of a parked message ended. Returns whether the position moved.
    pub(crate) fn end_release(&mut self, key: &ConnectionKey, sequence: u64, fate: Fate, count: usize) -> bool {
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        if let Some(release) = lane.releases.iter_mut().find(|release| release.sequence == sequence) {
            match release.ended.last_mut() {
                Some((last, calls)) if *last == fate => *calls += count,
                Some(_) | None => release.ended.push((fate, count)),
            }
            release.open = release.open.saturating_sub(count);
        }
        lane.advance()
    }

    /// Forgets the parked messages that are being sent: they are read again. Gives the position to read from, and how the
    /// first calls after it have ended already. Calls of a lane end in order, so only of the first message some have.
    pub(crate) fn forget_releases(&mut self, key: &ConnectionKey) -> (u64, Vec<(Fate, usize)>) {
        let Some(lane) = self.lanes.get_mut(key) else { return (0, Vec::new()) };
        let ended = lane.releases.pop_front().map_or(Vec::new(), |release| release.ended);
        lane.releases.clear();
        (lane.totals.released_through, ended)
    }

    /// Ends everything of a connection that is gone: what was under way is left out, what is parked stays.
    pub(crate) fn abandon(&mut self, key: &ConnectionKey) -> bool {
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        lane.releases.clear();
        for slot in &mut lane.slots {
            slot.end(CallEnd::Filtered, usize::MAX);
        }
        lane.advance()
    }

    /// The books of a connection.
    pub(crate) fn totals(&self, key: &ConnectionKey) -> Option<&ConnectionTotals> {
        self.lanes.get(key).map(|lane| &lane.totals)
    }

    /// What to store.
    pub(crate) fn progress(&self) -> DeliveryProgress {
        let totals = |lane: &Lane<H>| {
            let ended = lane.position(self.read_through);
            ConnectionTotals { ended, ..lane.totals.clone() }
        };
        DeliveryProgress {
            finished_through: self.finished_through(self.read_through),
            read_through: self.known_through,
            connections: self.lanes.values().map(totals).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
