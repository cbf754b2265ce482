//! A connection's lanes, batches, retries and bisection: a pure state machine.
//!
//! Calls wait in lanes, one a partition, first in first out. A batch takes contiguous prefixes of idle lanes and locks
//! them until every one of its items has come to an end, so at most one request of a lane is ever under way and first
//! arrivals keep their order through every retry. Time is an argument (since any fixed start), chance is an argument; the
//! shell sends, waits and stores, and tells what came of it.

mod batch;
mod breaker;
mod concurrency;
mod lane;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use inflection_control::RateBudget;
use inflection_domain::{Hash128, Timestamp};
use inflection_segment::{Answer, limits};

use batch::{Batch, BatchState};
pub use breaker::Trouble;
use breaker::{Breaker, Permit};
use concurrency::Concurrency;
use lane::Lanes;

use crate::suppression::Suppressed;
use crate::trace::CallTrace;

/// The share of a connection's rate that dead letters on their way back may take, in percent.
const REPLAY_PERCENT: u32 = 10;
/// Dead letters a second on a connection without a rate.
const REPLAY_PER_SECOND: u32 = 500;

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
    /// A message of the parked log.
    Parked {
        /// Its partition.
        partition: u16,
        /// Its sequence.
        sequence: u64,
    },
    /// A dead letter.
    DeadLetter,
}

impl Ticket {
    /// The lane of what carries it.
    #[must_use]
    pub fn lane(self) -> LaneId {
        match self {
            Self::Decision { partition, .. } | Self::Parked { partition, .. } => LaneId::Partition(partition),
            Self::DeadLetter => LaneId::Replay,
        }
    }
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
    /// First half of the messageId's hash: attempts are noted by it.
    pub id: u64,
    /// Key of the person; `None` where an older version has stored the call without it.
    pub person: Option<Hash128>,
    /// The trace it belongs to, if it is traced.
    pub trace: Option<Arc<CallTrace>>,
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
    /// These calls have come to an end without a request: their persons are suppressed.
    End(Vec<Finished>),
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
pub enum Response {
    /// A whole answer.
    Answered {
        /// HTTP status.
        status: u16,
        /// What it means.
        answer: Answer,
    },
    /// No whole answer came.
    Unanswered,
    /// Nothing was sent: the address leads to where nothing may be sent.
    Forbidden,
}

impl Response {
    /// HTTP status; 0 when no whole answer came.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Answered { status, .. } => status,
            Self::Unanswered | Self::Forbidden => 0,
        }
    }

    /// What came of it, a word of the metric's list.
    #[must_use]
    pub fn outcome(self) -> &'static str {
        match self {
            Self::Answered { answer, .. } => match answer {
                Answer::Accepted => "accepted",
                Answer::Refused => "refused",
                Answer::Unauthorized => "unauthorized",
                Answer::Misconfigured => "misconfigured",
                Answer::Throttled(_) => "throttled",
                Answer::Unavailable(_) => "unavailable",
            },
            Self::Unanswered => "unanswered",
            Self::Forbidden => "forbidden",
        }
    }

    /// Whether its calls were taken.
    #[must_use]
    pub fn is_accepted(self) -> bool {
        matches!(self, Self::Answered { answer: Answer::Accepted, .. })
    }
}

/// How much may be handed to the dispatcher to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appetite {
    /// As much as there is room for.
    All,
    /// A little, to see whether an outage is over.
    Try,
    /// Nothing now.
    None,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// Segment answered 2xx.
    Accepted,
    /// It lies in the dead letters.
    Dead,
    /// It was not sent: its person is suppressed.
    Suppressed,
}

/// A call that has come to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The call.
    pub item: Item,
    /// How it ended.
    pub fate: Fate,
    /// It had been given away ([`Dispatcher::unload`]) when it ended.
    pub orphan: bool,
}

/// The circumstances of an answer.
#[derive(Debug, Clone, Copy)]
struct When {
    took: Duration,
    now: Duration,
    /// From 0 up to 1; spreads retries.
    chance: f64,
    /// It answers the try that shows whether an outage is over.
    tried: bool,
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
    /// An operator wants nothing to be sent.
    paused: bool,
    breaker: Breaker,
    concurrency: Concurrency,
    /// The request that shows whether an outage is over.
    trying: Option<BatchId>,
    /// Since when nothing was taken although something was to be sent.
    stalled_since: Option<Duration>,
    rate: Option<RateBudget>,
    replay_rate: RateBudget,
    /// Whose calls are not sent, when there is anybody.
    suppressed: Option<Arc<Suppressed>>,
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
            paused: false,
            breaker: Breaker::new(),
            concurrency: Concurrency::new(limits.in_flight_max),
            trying: None,
            stalled_since: None,
            rate: events_per_second.map(|rate| RateBudget::new(rate, Duration::ZERO)),
            replay_rate: replay_rate(events_per_second, Duration::ZERO),
            suppressed: None,
        }
    }

    /// Changes the rate budget.
    pub fn set_rate(&mut self, events_per_second: Option<u32>, now: Duration) {
        self.rate = events_per_second.map(|rate| RateBudget::new(rate, now));
        self.replay_rate = replay_rate(events_per_second, now);
    }

    /// Says whose calls are not sent from now on. They stay where they are, and end when what is before them has ended: a
    /// position moves over calls in order only.
    pub fn set_suppressed(&mut self, suppressed: Option<Arc<Suppressed>>) {
        self.suppressed = suppressed;
    }

    /// Adds calls to a lane, in order.
    pub fn push(&mut self, lane: LaneId, items: impl IntoIterator<Item = Item>, now: Duration) {
        self.lanes.push(lane, items, now);
    }

    /// Calls that have not come to an end.
    #[must_use]
    pub fn pending(&self) -> usize {
        let batches = self.batches.values().filter(|batch| !batch.is_orphan());
        self.lanes.waiting() + batches.map(Batch::len).sum::<usize>()
    }

    /// Calls that wait in a lane, and their bytes.
    #[must_use]
    pub fn queued(&self, lane: LaneId) -> (usize, usize) {
        self.lanes.queued(lane)
    }

    /// Whether a request of this lane is under way or waits for its next attempt.
    #[must_use]
    pub fn is_locked(&self, lane: LaneId) -> bool {
        self.lanes.is_locked(lane)
    }

    /// Why nothing but a try now and then is sent, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.breaker.trouble()
    }

    /// Whether an operator has paused it.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Sends nothing until [`Dispatcher::resume`].
    pub fn pause(&mut self, now: Duration) {
        self.paused = true;
        self.stalled_since.get_or_insert(now);
    }

    /// Sends again, after a pause by an operator or after trouble that was put right.
    pub fn resume(&mut self) {
        self.paused = false;
        self.stalled_since = None;
        self.recovered();
    }

    /// The end of the window in which the server wants no requests.
    #[must_use]
    pub fn closed_until(&self) -> Duration {
        self.closed_until
    }

    /// Takes over a closed window that another worker was told of.
    pub fn close_until(&mut self, until: Duration, now: Duration) {
        if until > now {
            self.stalled_since.get_or_insert(now);
        }
        self.closed_until = self.closed_until.max(until);
    }

    /// How long nothing was taken although something was to be sent.
    #[must_use]
    pub fn stalled(&self, now: Duration) -> Duration {
        self.stalled_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// How much is wanted to be sent.
    #[must_use]
    pub fn appetite(&self, now: Duration) -> Appetite {
        if self.paused || now < self.closed_until {
            return Appetite::None;
        }
        match self.breaker.permit(now) {
            Permit::All => Appetite::All,
            Permit::Try => Appetite::Try,
            Permit::Until(_) | Permit::Wait => Appetite::None,
        }
    }

    /// When there may be appetite again, if that is known.
    #[must_use]
    pub fn hungry_at(&self, now: Duration) -> Option<Duration> {
        match self.breaker.permit(now) {
            _ if self.paused => None,
            Permit::All | Permit::Try => Some(self.closed_until),
            Permit::Until(until) => Some(until.max(self.closed_until)),
            Permit::Wait => None,
        }
    }

    /// When the calls of a batch are tried again, as far as that is known.
    #[must_use]
    pub fn next_attempt(&self, id: BatchId, now: Duration) -> Duration {
        let own = self.batches.get(&id).and_then(Batch::retry_at);
        own.into_iter().chain(self.hungry_at(now)).max().unwrap_or(now)
    }

    /// Whether what waits here should be parked: nothing was taken for so long, and nothing is tried right now.
    #[must_use]
    pub fn should_park(&self, now: Duration, after: Duration) -> bool {
        let trying = !self.paused && self.breaker.permit(now) == Permit::Wait;
        self.stalled_since.is_some()
            && self.stalled(now) >= after
            && self.appetite(now) == Appetite::None
            && !trying
            && self.has_parkable()
    }

    /// Whether there are calls that [`Dispatcher::unload`] would give away.
    fn has_parkable(&self) -> bool {
        let buries = |batch: &Batch| matches!(batch.state, BatchState::Burying | BatchState::Grave);
        let busy = |lane: LaneId| self.batches.values().any(|batch| buries(batch) && batch.lanes().contains(&lane));
        let gives = |batch: &Batch| !batch.is_replay() && !batch.is_orphan() && !buries(batch);
        self.batches.values().any(gives)
            || self.lanes.partitions().into_iter().any(|lane| self.lanes.queued(lane).0 > 0 && !busy(lane))
    }

    /// When what waits here should be parked, if nothing changes until then.
    #[must_use]
    pub fn parks_at(&self, after: Duration) -> Option<Duration> {
        self.stalled_since.filter(|_| self.pending() > 0).map(|since| since + after)
    }

    /// The next thing to do. To be called again until it says to wait.
    pub fn poll(&mut self, now: Duration) -> Action {
        // Dead letters are stored whatever the connection's state: it is the bus that takes them.
        let buried = self.batches.iter_mut().find_map(|(id, batch)| batch.bury().map(|action| action(*id)));
        if let Some(action) = buried {
            return action;
        }
        if self.paused {
            return Action::Wait(None);
        }
        if now < self.closed_until {
            return Action::Wait(Some(self.closed_until));
        }
        let is_try = match self.breaker.permit(now) {
            Permit::All => false,
            Permit::Try => true,
            Permit::Until(until) => return Action::Wait(Some(until)),
            Permit::Wait => return Action::Wait(None),
        };
        let under_way = self.batches.values().filter(|batch| batch.state == BatchState::InFlight).count();
        if !is_try && under_way >= self.limits.in_flight_max.min(self.concurrency.limit()) {
            return Action::Wait(None);
        }
        if let Some((id, items)) = self.due(false, is_try, now) {
            return self.within_rate(items, now).unwrap_or_else(|| self.send(id));
        }
        let retry = self.batches.values().filter_map(Batch::retry_at).filter(|at| *at > now).min();
        match self.fill(under_way, is_try, now) {
            Ok(Some(id)) => self.send(id),
            Ok(None) => Action::Wait(retry),
            Err(later) => Action::Wait(Some(retry.map_or(later, |retry| retry.min(later)))),
        }
    }

    /// The oldest batch whose time has come (as a try, also ahead of its time) and its next request's items: of dead letters
    /// on their way back, or of everything else.
    fn due(&self, replay: bool, is_try: bool, now: Duration) -> Option<(BatchId, usize)> {
        let may_go = |batch: &Batch| batch.is_due(now) || (is_try && batch.may_try());
        let due = self.batches.iter().filter(|(_, batch)| batch.is_replay() == replay && may_go(batch));
        due.map(|(id, batch)| (*id, batch.due_len())).min()
    }

    /// Takes a batch's cost from the rate budget, or gives the wait.
    fn within_rate(&mut self, items: usize, now: Duration) -> Option<Action> {
        let rate = self.rate.as_mut()?;
        let wait = rate.take(u32::try_from(items).unwrap_or(u32::MAX), now).err()?;
        Some(Action::Wait(Some(now + wait)))
    }

    fn send(&mut self, id: BatchId) -> Action {
        let Some(batch) = self.batches.get_mut(&id) else { return Action::Wait(None) };
        let Some((items, attempts)) = batch.start(self.suppressed.as_deref()) else {
            let finished = batch.accept();
            self.release(id);
            return Action::End(finished);
        };
        if self.breaker.trying() {
            self.trying = Some(id);
        }
        Action::Send { batch: id, items, attempts }
    }

    /// Makes a batch from the fronts of idle lanes, if it is time. `Err` says when it will be.
    fn fill(&mut self, under_way: usize, is_try: bool, now: Duration) -> Result<Option<BatchId>, Duration> {
        let Some((oldest, full)) = self.lanes.ready(&self.limits) else { return self.fill_replay(is_try, now) };
        let due = oldest + self.limits.linger;
        if !full && under_way > 0 && !is_try && now < due {
            return Err(due);
        }
        let items_max = allowed(self.rate.as_mut(), self.limits.items_max, now)?;
        let parts = self.lanes.take(items_max, self.limits.bytes_max);
        Ok(Some(self.begin(parts, now)))
    }

    /// A batch of dead letters on their way back, when nothing else is to be sent: halves and repeats of an earlier one, or
    /// a new one.
    fn fill_replay(&mut self, is_try: bool, now: Duration) -> Result<Option<BatchId>, Duration> {
        if let Some((id, items)) = self.due(true, is_try, now) {
            let items = u32::try_from(items).unwrap_or(u32::MAX);
            self.replay_rate.take(items, now).map_err(|wait| now + wait)?;
            if let Some(rate) = &mut self.rate {
                rate.take(items, now).map_err(|wait| now + wait)?;
            }
            return Ok(Some(id));
        }
        if !self.lanes.replay_ready() {
            return Ok(None);
        }
        let items_max = allowed(Some(&mut self.replay_rate), self.limits.items_max, now)?;
        let items_max = allowed(self.rate.as_mut(), items_max, now)?;
        let parts = self.lanes.take_replay(items_max, self.limits.bytes_max);
        let items = parts.iter().map(|(_, items)| items.len()).sum::<usize>();
        // What is available was asked for; taking it cannot fail. The same in `begin`.
        let _taken = self.replay_rate.take(u32::try_from(items).unwrap_or(u32::MAX), now);
        Ok(Some(self.begin(parts, now)))
    }

    fn begin(&mut self, parts: Vec<lane::Part>, now: Duration) -> BatchId {
        let items = parts.iter().map(|(_, items)| items.len()).sum::<usize>();
        if let Some(rate) = &mut self.rate {
            let _taken = rate.take(u32::try_from(items).unwrap_or(u32::MAX), now);
        }
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        self.batches.insert(id, Batch::new(parts));
        id
    }

    /// Notes what came of a request that took `time`. `chance` is a number from 0 up to 1 that spreads retries. Gives the
    /// calls that have come to an end, in order.
    pub fn answered(
        &mut self,
        id: BatchId,
        response: Response,
        time: Duration,
        now: Duration,
        chance: f64,
    ) -> Vec<Finished> {
        let tried = self.trying.take_if(|trying| *trying == id).is_some();
        let when = When { took: time, now, chance, tried };
        let finished = match response {
            Response::Answered { answer: Answer::Accepted, .. } => {
                self.works(when);
                self.batches.get_mut(&id).map_or(Vec::new(), Batch::accept)
            }
            Response::Answered { answer: Answer::Refused, status } => {
                self.works(when);
                if let Some(batch) = self.batches.get_mut(&id) {
                    batch.refuse(status);
                }
                Vec::new()
            }
            Response::Answered { answer: Answer::Throttled(wait), .. } => {
                let until = now + self.back_off(id, wait, when);
                // A refusal for speed without a number holds for the whole connection as one with a number does.
                self.closed_until = self.closed_until.max(until);
                self.breaker.pushed_back(until, tried);
                self.concurrency.pushed_back(time, now);
                self.stalled_since.get_or_insert(now);
                Vec::new()
            }
            Response::Answered { answer: Answer::Unavailable(wait), status } => {
                let back_off = self.back_off(id, wait, when);
                if wait.is_some() {
                    self.closed_until = self.closed_until.max(now + back_off);
                }
                self.failed(Trouble::Unavailable(status), when);
                Vec::new()
            }
            Response::Unanswered => {
                self.back_off(id, None, when);
                self.failed(Trouble::Unavailable(0), when);
                Vec::new()
            }
            Response::Answered { answer: Answer::Unauthorized, status } => {
                self.hold(id, Trouble::Unauthorized(status), when)
            }
            Response::Answered { answer: Answer::Misconfigured, status } => {
                self.hold(id, Trouble::Misconfigured(status), when)
            }
            Response::Forbidden => self.hold(id, Trouble::Forbidden, when),
        };
        self.release(id);
        finished
    }

    /// The connection answers as one that works.
    fn works(&mut self, when: When) {
        // A pause is no less one because an answer comes after it.
        self.stalled_since.take_if(|_| !self.paused);
        self.concurrency.answered(when.took, when.now);
        if self.breaker.works() {
            self.recovered();
        }
    }

    /// What waited for the end of an outage goes on, one request first.
    fn recovered(&mut self) {
        self.trying = None;
        self.breaker = Breaker::new();
        self.concurrency.begin_again();
        self.batches.values_mut().for_each(Batch::wake);
    }

    fn failed(&mut self, trouble: Trouble, when: When) {
        self.stalled_since.get_or_insert(when.now);
        self.concurrency.pushed_back(when.took, when.now);
        self.breaker.failed(trouble, when.tried, when.now, when.chance);
    }

    fn hold(&mut self, id: BatchId, trouble: Trouble, when: When) -> Vec<Finished> {
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.hold();
        }
        self.failed(trouble, when);
        Vec::new()
    }

    /// Lets a batch wait for its next attempt, at least as long as the server asked for.
    fn back_off(&mut self, id: BatchId, wait: Option<Duration>, when: When) -> Duration {
        let limits = self.limits.backoff;
        let back_off = self.batches.get_mut(&id).map(|batch| batch.back_off(limits, when.chance, when.now));
        wait.or(back_off).unwrap_or_default()
    }

    /// Notes that the item a batch wanted buried lies in the dead letters, or how it has ended instead.
    pub fn buried(&mut self, id: BatchId, fate: Fate) -> Vec<Finished> {
        let finished = self.batches.get_mut(&id).and_then(|batch| batch.buried(fate));
        self.release(id);
        finished.into_iter().collect()
    }

    /// Notes that it could not be stored there; it is asked for again at once, so the shell waits before it says so.
    pub fn not_buried(&mut self, id: BatchId) {
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.bury_again();
        }
    }

    /// Gives away the calls of all lanes but those that are burying one, in order, also those under way: what comes of
    /// a request under way is told with [`Finished::orphan`] if it is good and forgotten if not. Its lanes stay locked
    /// until then, so that no second request of a lane goes out beside it. Dead letters on their way back stay.
    pub fn unload(&mut self) -> Vec<(LaneId, Vec<Item>)> {
        let mut unloaded: BTreeMap<LaneId, Vec<Item>> = BTreeMap::new();
        let mut busy = BTreeSet::new();
        let ids: Vec<BatchId> = self.batches.keys().copied().collect();
        for id in ids {
            let Some(batch) = self.batches.get_mut(&id) else { continue };
            let items = match batch.state {
                _ if batch.is_replay() || batch.is_orphan() => continue,
                BatchState::Burying | BatchState::Grave => {
                    busy.extend(batch.lanes().iter().copied());
                    continue;
                }
                BatchState::InFlight => batch.disown(),
                BatchState::Ready | BatchState::Waiting(_) => match self.batches.remove(&id) {
                    Some(batch) => {
                        self.lanes.unlock(batch.lanes());
                        batch.dissolve()
                    }
                    None => continue,
                },
            };
            for item in items {
                unloaded.entry(item.ticket.lane()).or_default().push(item);
            }
        }
        for lane in self.lanes.partitions() {
            if !busy.contains(&lane) {
                unloaded.entry(lane).or_default().extend(self.lanes.empty(lane));
            }
        }
        unloaded.into_iter().collect()
    }

    /// Drops what waits in a lane. Returns whether the lane is free: while a request of it is under way, or one of its calls
    /// is on its way to the dead letters, it is to be called again.
    pub fn close(&mut self, lane: LaneId) -> bool {
        let waits = |batch: &Batch| batch.may_try() && batch.lanes().contains(&lane);
        let ids: Vec<BatchId> = self.batches.iter().filter(|(_, batch)| waits(batch)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(batch) = self.batches.remove(&id) else { continue };
            self.lanes.unlock(batch.lanes());
            for item in batch.dissolve().into_iter().rev().filter(|item| item.ticket.lane() != lane) {
                self.lanes.push_front(item);
            }
        }
        drop(self.lanes.empty(lane));
        !self.lanes.is_locked(lane)
    }

    fn release(&mut self, id: BatchId) {
        let done = |batch: &Batch| batch.is_done() || (batch.is_orphan() && batch.state != BatchState::InFlight);
        if self.batches.get(&id).is_some_and(done)
            && let Some(batch) = self.batches.remove(&id)
        {
            self.lanes.unlock(batch.lanes());
        }
    }
}

/// How many of `items_max` a rate budget, if there is one, lets through now, or when it will let through one.
fn allowed(rate: Option<&mut RateBudget>, items_max: usize, now: Duration) -> Result<usize, Duration> {
    let Some(rate) = rate else { return Ok(items_max) };
    match rate.available(now) {
        0 => Err(now + rate.take(1, now).err().unwrap_or(Duration::ZERO)),
        available => Ok(items_max.min(available as usize)),
    }
}

fn replay_rate(events_per_second: Option<u32>, now: Duration) -> RateBudget {
    let rate = events_per_second.map_or(REPLAY_PER_SECOND, |rate| rate.saturating_mul(REPLAY_PERCENT) / 100);
    RateBudget::new(rate.max(1), now)
}

#[cfg(test)]
mod tests;
