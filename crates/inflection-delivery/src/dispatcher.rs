//! A connection's lanes, batches, retries and bisection: a pure state machine.
//!
//! Calls wait in lanes, one a partition, first in first out. A batch takes contiguous prefixes of idle lanes and locks
//! them until every one of its items has come to an end, so at most one request of a lane is ever under way and first
//! arrivals keep their order through every retry. Time is an argument (since any fixed start), chance is an argument; the
//! shell sends, waits and stores, and tells what came of it.

mod batch;
mod lane;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use inflection_control::RateBudget;
use inflection_domain::Timestamp;
use inflection_segment::{Answer, limits};

use batch::{Batch, BatchState};
use lane::Lanes;

/// One lane of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneId {
    /// Calls of one partition.
    Partition(u16),
    /// Dead letters on their way back.
    Replay,
}

/// Where an item came from, to be told when it has come to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ticket {
    /// A decision message.
    Decision {
        /// Its partition.
        partition: u16,
        /// Its sequence.
        sequence: u64,
    },
    /// A dead letter.
    DeadLetter,
}

/// One call, rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The sender's event id and then the item; one allocation serves a whole message.
    pub bytes: Bytes,
    /// Where the item begins.
    pub split: usize,
    /// Where it came from.
    pub ticket: Ticket,
    /// When ingest received the fact, for measuring.
    pub received_at: Timestamp,
}

impl Item {
    /// The JSON that is sent.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        self.bytes.get(self.split..).unwrap_or_default()
    }

    /// The sender's event id.
    #[must_use]
    pub fn event_id(&self) -> &str {
        self.bytes.get(..self.split).and_then(|id| std::str::from_utf8(id).ok()).unwrap_or_default()
    }
}

/// A batch under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(u64);

/// Bounds of a connection's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most items of a request.
    pub items_max: usize,
    /// Most bytes of a request before compression.
    pub bytes_max: usize,
    /// Requests under way at once.
    pub in_flight_max: usize,
    /// How long a call waits for company while another request is under way.
    pub linger: Duration,
    /// Shortest and longest wait between two attempts.
    pub backoff: (Duration, Duration),
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            items_max: limits::BATCH_ITEMS_MAX,
            bytes_max: limits::BATCH_BYTES_MAX - limits::ENVELOPE_BYTES,
            in_flight_max: 8,
            linger: Duration::from_millis(100),
            backoff: (Duration::from_millis(500), Duration::from_secs(60)),
        }
    }
}

/// What the shell should do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these items as one request.
    Send {
        /// The batch to answer for.
        batch: BatchId,
        /// The items, in order.
        items: Vec<Item>,
        /// Attempts of this request so far.
        attempts: u32,
    },
    /// Store this item in the dead letters, and say so with [`Dispatcher::buried`].
    Bury {
        /// The batch to answer for.
        batch: BatchId,
        /// The item nobody else is to blame for.
        item: Item,
        /// Attempts made with it.
        attempts: u32,
        /// The last status.
        status: u16,
    },
    /// Nothing until this moment, or until something is told.
    Wait(Option<Duration>),
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// HTTP status; 0 when no whole answer came.
    pub status: u16,
    /// What it means. No answer counts as unavailable.
    pub answer: Answer,
}

/// Why a connection sends nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// The write key is refused.
    Unauthorized(u16),
    /// The address is wrong.
    Misconfigured(u16),
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// Segment answered 2xx.
    Accepted,
    /// It lies in the dead letters.
    Dead,
}

/// A call that has come to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The call.
    pub item: Item,
    /// How it ended.
    pub fate: Fate,
}

/// The state machine of one connection.
#[derive(Debug)]
pub struct Dispatcher {
    limits: Limits,
    lanes: Lanes,
    batches: BTreeMap<BatchId, Batch>,
    next_batch: u64,
    /// Nothing is sent before this moment: the server asked for it.
    closed_until: Duration,
    pause: Option<Pause>,
    rate: Option<RateBudget>,
}

impl Dispatcher {
    /// A connection with nothing to send. `events_per_second` is its rate budget.
    #[must_use]
    pub fn new(limits: Limits, events_per_second: Option<u32>) -> Self {
        Self {
            limits,
            lanes: Lanes::default(),
            batches: BTreeMap::new(),
            next_batch: 0,
            closed_until: Duration::ZERO,
            pause: None,
            rate: events_per_second.map(|rate| RateBudget::new(rate, Duration::ZERO)),
        }
    }

    /// Adds calls to a lane, in order.
    pub fn push(&mut self, lane: LaneId, items: impl IntoIterator<Item = Item>, now: Duration) {
        self.lanes.push(lane, items, now);
    }

    /// Calls that have not come to an end.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.lanes.waiting() + self.batches.values().map(Batch::len).sum::<usize>()
    }

    /// Why nothing is sent, if so.
    #[must_use]
    pub fn pause(&self) -> Option<Pause> {
        self.pause
    }

    /// Sends again after a pause.
    pub fn resume(&mut self) {
        self.pause = None;
    }

    /// The next thing to do. To be called again until it says to wait.
    pub fn poll(&mut self, now: Duration) -> Action {
        // Dead letters are stored whatever the connection's state: it is the bus that takes them.
        let buried = self.batches.iter_mut().find_map(|(id, batch)| batch.bury().map(|action| action(*id)));
        if let Some(action) = buried {
            return action;
        }
        if self.pause.is_some() {
            return Action::Wait(None);
        }
        if now < self.closed_until {
            return Action::Wait(Some(self.closed_until));
        }
        let under_way = self.batches.values().filter(|batch| batch.state == BatchState::InFlight).count();
        if under_way >= self.limits.in_flight_max {
            return Action::Wait(None);
        }
        let due = self.batches.iter().filter(|(_, batch)| batch.is_due(now)).map(|(id, batch)| (*id, batch.due_len()));
        if let Some((id, items)) = due.min() {
            return self.within_rate(items, now).unwrap_or_else(|| self.send(id));
        }
        let retry = self.batches.values().filter_map(Batch::retry_at).min();
        match self.fill(under_way, now) {
            Ok(Some(id)) => self.send(id),
            Ok(None) => Action::Wait(retry),
            Err(later) => Action::Wait(Some(retry.map_or(later, |retry| retry.min(later)))),
        }
    }

    /// Takes a batch's cost from the rate budget, or gives the wait.
    fn within_rate(&mut self, items: usize, now: Duration) -> Option<Action> {
        let rate = self.rate.as_mut()?;
        let wait = rate.take(u32::try_from(items).unwrap_or(u32::MAX), now).err()?;
        Some(Action::Wait(Some(now + wait)))
    }

    fn send(&mut self, id: BatchId) -> Action {
        match self.batches.get_mut(&id) {
            Some(batch) => {
                let (items, attempts) = batch.start();
                Action::Send { batch: id, items, attempts }
            }
            None => Action::Wait(None),
        }
    }

    /// Makes a batch from the fronts of idle lanes, if it is time. `Err` says when it will be.
    fn fill(&mut self, under_way: usize, now: Duration) -> Result<Option<BatchId>, Duration> {
        let Some((oldest, full)) = self.lanes.ready(&self.limits) else { return Ok(None) };
        let due = oldest + self.limits.linger;
        if !full && under_way > 0 && now < due {
            return Err(due);
        }
        let items_max = match &mut self.rate {
            None => self.limits.items_max,
            Some(rate) => match rate.available(now) {
                0 => return Err(now + rate.take(1, now).err().unwrap_or(Duration::ZERO)),
                available => self.limits.items_max.min(available as usize),
            },
        };
        let parts = self.lanes.take(items_max, self.limits.bytes_max);
        let items = parts.iter().map(|(_, items)| items.len()).sum::<usize>();
        if let Some(rate) = &mut self.rate {
            // What is available was asked for; taking it cannot fail.
            let _taken = rate.take(u32::try_from(items).unwrap_or(u32::MAX), now);
        }
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        self.batches.insert(id, Batch::new(parts));
        Ok(Some(id))
    }

    /// Notes what came of a request. `chance` is a number from 0 up to 1 that spreads retries. Gives the calls that have
    /// come to an end, in order.
    pub fn answered(&mut self, id: BatchId, response: Response, now: Duration, chance: f64) -> Vec<Finished> {
        let Some(batch) = self.batches.get_mut(&id) else { return Vec::new() };
        let mut finished = Vec::new();
        match response.answer {
            Answer::Accepted => {
                finished = batch.accept();
            }
            Answer::Refused => batch.refuse(response.status),
            Answer::Unauthorized => {
                batch.hold();
                self.pause = Some(Pause::Unauthorized(response.status));
            }
            Answer::Misconfigured => {
                batch.hold();
                self.pause = Some(Pause::Misconfigured(response.status));
            }
            Answer::Throttled(wait) | Answer::Unavailable(wait) => {
                let backoff = batch.back_off(self.limits.backoff, chance, now);
                let throttled = matches!(response.answer, Answer::Throttled(_));
                // What the server asks for holds for the whole connection; so does a refusal for speed without a number.
                if let Some(wait) = wait.or(throttled.then_some(backoff)) {
                    self.closed_until = self.closed_until.max(now + wait);
                }
            }
        }
        self.release(id);
        finished
    }

    /// Notes that the item a batch wanted buried lies in the dead letters.
    pub fn buried(&mut self, id: BatchId) -> Vec<Finished> {
        let finished = self.batches.get_mut(&id).and_then(Batch::buried);
        self.release(id);
        finished.into_iter().collect()
    }

    /// Notes that it could not be stored there; it is asked for again at once, so the shell waits before it says so.
    pub fn not_buried(&mut self, id: BatchId) {
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.bury_again();
        }
    }

    fn release(&mut self, id: BatchId) {
        if self.batches.get(&id).is_some_and(Batch::is_done)
            && let Some(batch) = self.batches.remove(&id)
        {
            self.lanes.unlock(batch.lanes());
        }
    }
}

#[cfg(test)]
mod tests;
