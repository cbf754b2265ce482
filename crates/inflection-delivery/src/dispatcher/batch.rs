//! A batch: items that are sent together, halved in order when they are refused, until each has come to an end.

use std::collections::VecDeque;
use std::time::Duration;

use super::lane::Part;
use super::{Action, BatchId, Fate, Finished, Item, LaneId};
use crate::suppression::Suppressed;

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchState {
    /// Its front is to be sent.
    Ready,
    /// Its front is under way.
    InFlight,
    /// Its front is to be sent at this moment.
    Waiting(Duration),
    /// Its front is one item that is to be buried.
    Burying,
    /// The shell is burying it.
    Grave,
}

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) state: BatchState,
    lanes: Vec<LaneId>,
    items: VecDeque<Item>,
    /// How many items each coming request has; the first is the front.
    requests: VecDeque<usize>,
    /// Attempts of the front request.
    attempts: u32,
    /// Which items of the front request are withheld because their persons are suppressed, as far as the last of them.
    withheld: Vec<bool>,
    status: u16,
    /// Its calls are parked; whoever answers for it now only says whether they are still to be sent.
    orphan: bool,
}

impl Batch {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        let lanes = parts.iter().map(|(lane, _)| *lane).collect();
        let mut items = VecDeque::with_capacity(parts.iter().map(|(_, part)| part.len()).sum());
        parts.into_iter().for_each(|(_, part)| items.extend(part));
        let requests = VecDeque::from([items.len()]);
        let (state, withheld) = (BatchState::Ready, Vec::new());
        Self { state, lanes, items, requests, attempts: 0, withheld, status: 0, orphan: false }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_done(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn lanes(&self) -> &[LaneId] {
        &self.lanes
    }

    pub(super) fn is_replay(&self) -> bool {
        self.lanes.contains(&LaneId::Replay)
    }

    pub(super) fn is_orphan(&self) -> bool {
        self.orphan
    }

    /// Gives its calls away while its front is under way. What comes of the front is then of use only if it is good.
    pub(super) fn disown(&mut self) -> Vec<Item> {
        self.orphan = true;
        let items: Vec<Item> = self.items.iter().cloned().collect();
        let front = self.front();
        self.items.truncate(front);
        self.requests.truncate(1);
        items
    }

    /// Gives its calls back.
    pub(super) fn dissolve(self) -> Vec<Item> {
        self.items.into()
    }

    /// Ends a wait.
    pub(super) fn wake(&mut self) {
        if matches!(self.state, BatchState::Waiting(_)) {
            self.state = BatchState::Ready;
        }
    }

    /// Whether its front may be sent as a try, also ahead of its time.
    pub(super) fn may_try(&self) -> bool {
        matches!(self.state, BatchState::Ready | BatchState::Waiting(_))
    }

    fn front(&self) -> usize {
        self.requests.front().copied().unwrap_or(0)
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        match self.state {
            BatchState::Ready => true,
            BatchState::Waiting(at) => at <= now,
            BatchState::InFlight | BatchState::Burying | BatchState::Grave => false,
        }
    }

    pub(super) fn due_len(&self) -> usize {
        self.front()
    }

    pub(super) fn retry_at(&self) -> Option<Duration> {
        match self.state {
            BatchState::Waiting(at) => Some(at),
            BatchState::Ready | BatchState::InFlight | BatchState::Burying | BatchState::Grave => None,
        }
    }

    /// Begins an attempt of the front request, without the calls of suppressed persons; `None` when nothing is left of it
    /// to be sent.
    pub(super) fn start(&mut self, suppressed: Option<&Suppressed>) -> Option<(Vec<Item>, u32)> {
        let front = self.front();
        let mut items = Vec::with_capacity(front);
        self.withheld.clear();
        for (place, item) in self.items.iter().take(front).enumerate() {
            if suppressed.is_some_and(|suppressed| suppressed.covers_item(item)) {
                self.withheld.resize(place, false);
                self.withheld.push(true);
            } else {
                items.push(item.clone());
            }
        }
        if items.is_empty() {
            return None;
        }
        self.state = BatchState::InFlight;
        let attempts = self.attempts;
        self.attempts += 1;
        Some((items, attempts))
    }

    /// The front request was taken, or nothing of it was to be sent.
    pub(super) fn accept(&mut self) -> Vec<Finished> {
        let count = self.requests.pop_front().unwrap_or(0);
        self.next();
        let (orphan, withheld) = (self.orphan, std::mem::take(&mut self.withheld));
        let withheld = withheld.into_iter().chain(std::iter::repeat(false));
        let front = self.items.drain(..count.min(self.items.len())).zip(withheld);
        let fate = |withheld| if withheld { Fate::Suppressed } else { Fate::Accepted };
        front.map(|(item, withheld)| Finished { item, fate: fate(withheld), orphan }).collect()
    }

    fn next(&mut self) {
        self.attempts = 0;
        self.state = BatchState::Ready;
    }

    /// The front request was refused: it is halved, or its one item is the culprit.
    pub(super) fn refuse(&mut self, status: u16) {
        self.status = status;
        let count = self.front();
        if count <= 1 {
            self.state = BatchState::Burying;
            return;
        }
        self.requests.pop_front();
        self.requests.push_front(count - count / 2);
        self.requests.push_front(count / 2);
        self.next();
    }

    /// The front request is kept as it is until the connection goes on.
    pub(super) fn hold(&mut self) {
        self.state = BatchState::Ready;
    }

    /// The front request is tried again after a wait between the shortest and a limit that doubles with each attempt
    /// ("full jitter"): workers that failed together do not come back together.
    pub(super) fn back_off(
        &mut self,
        (shortest, longest): (Duration, Duration),
        chance: f64,
        now: Duration,
    ) -> Duration {
        let doubled = shortest.saturating_mul(1 << self.attempts.min(16)).min(longest);
        let wait = shortest + doubled.saturating_sub(shortest).mul_f64(chance.clamp(0.0, 1.0));
        self.state = BatchState::Waiting(now + wait);
        wait
    }

    /// The item to be buried, once.
    pub(super) fn bury(&mut self) -> Option<impl FnOnce(BatchId) -> Action + use<>> {
        if self.state != BatchState::Burying {
            return None;
        }
        self.state = BatchState::Grave;
        let (item, attempts, status) = (self.items.front()?.clone(), self.attempts, self.status);
        Some(move |batch| Action::Bury { batch, item, attempts, status })
    }

    pub(super) fn buried(&mut self, fate: Fate) -> Option<Finished> {
        self.requests.pop_front();
        self.next();
        self.items.pop_front().map(|item| Finished { item, fate, orphan: false })
    }

    pub(super) fn bury_again(&mut self) {
        self.state = BatchState::Burying;
    }
}
