//! The task around a connection's state machines: it sends, waits and stores what they ask for.
//!
//! * `lanes`: where calls go when they come, into the parked log and out of it;
//! * `ends`: what follows from the end of a call;
//! * `parking` and `replays`: the work on logs that they begin; `status`: what is known of a connection.

mod ends;
mod lanes;
mod parking;
mod replays;
mod status;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use inflection_bus::{AppendError, Bus, Expected, InvalidName, Log};
use inflection_control::Connection;
use inflection_domain::Timestamp;
use inflection_segment::{Client, SendError, batch_body};
use inflection_wire::{ClosedWindow, OperatorHold};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::books::ConnectionKey;
use crate::dead_letters::{Kept, Standings, message_id, now, refused, try_to_keep};
use crate::dispatcher::{Action, Appetite, BatchId, Dispatcher, Fate, Item, LaneId, Limits, Response};
use crate::journal::Journal;
use crate::metrics::DeliveryMetrics;
use crate::park::Park;
use crate::progress::Tracked;
use crate::room::Room;
use crate::suppression::Suppression;
use crate::trace::RequestTrace;
pub use parking::ParkedError;
pub(crate) use parking::of_log;
pub use parking::parked_log;
use parking::{Lane, Late, Loaded};
use replays::Replays;
pub use status::{ConnectionState, ConnectionStatus};

/// Pushes waiting for a connection. They are bounded in bytes by the room; this bounds their number.
pub(crate) const INBOX_MAX: usize = 256;
/// How long requests under way may take after the stop signal.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait after a dead letter could not be stored.
const BURY_RETRY_WAIT: Duration = Duration::from_secs(1);
/// How often it is looked whether requests may begin again, while who is suppressed is not known.
const LEASE_LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often parked lanes are looked at for calls that have waited too long, at most and at least.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A lane is parked fewer times than this.
const GENERATIONS_A_LANE: u64 = 1 << 32;

/// What a connection is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Calls of a partition, in order.
    Push { partition: u16, items: Vec<Item> },
    /// The connection holds up others: its calls must leave memory.
    Park { partition: u16 },
    /// Dead letters to be sent again, by their place in the log.
    Replay(Vec<u64>),
    /// What an operator wants.
    Hold(OperatorHold),
    /// Another worker was asked to send nothing until then.
    Closed(Timestamp),
    /// The configuration has changed.
    Settings(Box<Connection>, Client),
    /// A partition is served here from now on, whose parked log ends at this sequence.
    Open { partition: u16, last: u64 },
    /// A partition is not served here any more; the sender is dropped when nothing of it is in hand.
    Close { partition: u16, done: oneshot::Sender<()> },
    /// So many partitions of so many are served here: that share of the rate is ours.
    Share { served: u32, partitions: u32 },
    /// The connection is not configured any more.
    Leave,
}

/// What a connection's tasks share with others.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    pub(crate) tracked: Arc<Vec<Arc<Tracked>>>,
    pub(crate) metrics: DeliveryMetrics,
    pub(crate) room: Arc<Room>,
    pub(crate) journal: Arc<Mutex<Journal>>,
    /// How long a connection takes nothing until its calls are parked.
    pub(crate) park_after: Duration,
    pub(crate) share: Arc<Share>,
    pub(crate) suppression: Suppression,
    /// Held while a partition opens or connections change, so that every connection is told of every partition.
    pub(crate) opening: Arc<tokio::sync::Mutex<()>>,
}

/// How many partitions are served here.
#[derive(Debug)]
pub(crate) struct Share {
    served: AtomicU32,
    partitions: u32,
}

impl Share {
    pub(crate) fn new(partitions: u16) -> Arc<Self> {
        Arc::new(Self { served: AtomicU32::new(0), partitions: u32::from(partitions) })
    }

    /// Counts one more, or one less.
    pub(crate) fn change(&self, more: bool) {
        if more {
            self.served.fetch_add(1, Ordering::Relaxed);
        } else {
            self.served.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn command(&self) -> Command {
        Command::Share { served: self.served.load(Ordering::Relaxed), partitions: self.partitions }
    }
}

/// What readers see of a connection without asking it.
#[derive(Debug)]
pub(crate) struct Flags {
    /// By partition: calls go to the parked log.
    parked: Vec<AtomicBool>,
    /// It is known not to work.
    trouble: AtomicBool,
}

impl Flags {
    fn new(partitions: usize) -> Arc<Self> {
        let parked = (0..partitions).map(|_| AtomicBool::new(false)).collect();
        Arc::new(Self { parked, trouble: AtomicBool::new(false) })
    }

    pub(crate) fn is_parked(&self, partition: u16) -> bool {
        self.parked.get(usize::from(partition)).is_some_and(|parked| parked.load(Ordering::Relaxed))
    }

    pub(crate) fn is_in_trouble(&self) -> bool {
        self.trouble.load(Ordering::Relaxed)
    }

    fn set_parked(&self, partition: u16, parked: bool) {
        if let Some(flag) = self.parked.get(usize::from(partition)) {
            flag.store(parked, Ordering::Relaxed);
        }
    }
}

/// Why a connection cannot go on, and the stage with it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Calls cannot be parked.
    #[error("calls of partition {partition} cannot be parked")]
    Park {
        /// The partition.
        partition: u16,
        /// Why.
        source: AppendError,
    },
    /// Parked calls cannot be read back.
    #[error("parked calls of partition {partition} cannot be read back")]
    Parked {
        /// The partition.
        partition: u16,
        /// Why.
        source: ParkedError,
    },
    /// A dead letter cannot be stored.
    #[error("a dead letter cannot be stored")]
    Bury(#[source] AppendError),
    /// A log has no valid name: a defect.
    #[error("a log cannot be named")]
    Name(#[from] InvalidName),
}

/// The task of one connection.
#[derive(Debug)]
pub(crate) struct Sender {
    key: ConnectionKey,
    settings: Connection,
    client: Client,
    dispatcher: Dispatcher,
    lanes: BTreeMap<u16, Lane>,
    replays: Replays,
    inbox: mpsc::Receiver<Command>,
    dead: Log,
    shared: Shared,
    flags: Arc<Flags>,
    status: Arc<Mutex<ConnectionStatus>>,
    hold: OperatorHold,
    leaving: bool,
    /// Partitions that are being let go of, and who waits for it.
    closing: BTreeMap<u16, oneshot::Sender<()>>,
    /// The share of the rate that is ours.
    share: (u32, u32),
    /// Of the lane that was made last.
    generation: u64,
    /// Parked messages that are being read.
    loads: usize,
    look_at: Instant,
    started: Instant,
    work: JoinSet<Done>,
    failure: Option<Failure>,
}

/// What came of something that was under way.
#[derive(Debug)]
enum Done {
    Sent {
        batch: BatchId,
        response: Response,
        took: Duration,
        calls: Box<[u64]>,
    },
    Buried {
        batch: BatchId,
        /// What came of the letter; `None` if it could not be stored yet.
        kept: Option<Kept>,
    },
    /// Calls lie in the parked log.
    Parked {
        partition: u16,
        /// Which of the lanes that the partition has had.
        lane: u64,
        sequence: u64,
        tickets: BTreeMap<u64, usize>,
    },
    /// Another owner has written the parked log.
    Fenced {
        partition: u16,
        lane: u64,
    },
    /// A message of the parked log was read.
    Loaded(Box<Loaded>),
    /// Parked calls that had waited too long lie in the dead letters: by message.
    Looked {
        partition: u16,
        generation: u64,
        expired: Vec<(u64, Late)>,
    },
    /// Dead letters on their way back.
    Replays {
        items: Vec<Item>,
        rest: Vec<u64>,
        standings: Standings,
    },
    Noted,
    Failed(Failure),
}

impl Sender {
    pub(crate) fn new(
        key: ConnectionKey,
        settings: Connection,
        client: Client,
        limits: Limits,
        inbox: mpsc::Receiver<Command>,
        shared: Shared,
    ) -> Result<Self, InvalidName> {
        let dead = crate::dead_letters::dead_letter_log(&key.0, &key.1)?;
        let flags = Flags::new(shared.tracked.len());
        Ok(Self {
            dispatcher: Dispatcher::new(limits, settings.rate()),
            key,
            settings,
            client,
            lanes: BTreeMap::new(),
            replays: Replays::default(),
            inbox,
            dead,
            shared,
            flags,
            status: Arc::default(),
            hold: OperatorHold::default(),
            leaving: false,
            closing: BTreeMap::new(),
            share: (1, 1),
            generation: 0,
            loads: 0,
            look_at: Instant::now(),
            started: Instant::now(),
            work: JoinSet::new(),
            failure: None,
        })
    }

    pub(crate) fn status(&self) -> Arc<Mutex<ConnectionStatus>> {
        Arc::clone(&self.status)
    }

    pub(crate) fn flags(&self) -> Arc<Flags> {
        Arc::clone(&self.flags)
    }

    fn tracked(&self, partition: u16) -> Option<&Arc<Tracked>> {
        self.shared.tracked.get(usize::from(partition))
    }

    fn new_lane(&mut self, partition: u16, last: u64, released: u64) -> Result<Lane, InvalidName> {
        self.generation += GENERATIONS_A_LANE;
        let park = Park::new(last, released, self.generation);
        Ok(Lane { park, log: parked_log(&self.key, partition)?, reader: None })
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Sends until `shutdown`, or until nobody hands it anything any more; then waits for what is under way and leaves
    /// the rest to the log.
    ///
    /// # Errors
    /// [`Failure`] when the bus cannot keep what it must.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut heard_out = false;
        let pulse = self.shared.metrics.liveness.watch("delivery, serving a connection,");
        loop {
            let work = pulse.work();
            let until = self.act();
            drop(work);
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if heard_out && self.abandoned() {
                break;
            }
            self.publish();
            let wait = until.map(|until| self.started + until);
            let timer = async {
                match wait {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = self.work.join_next() => self.take(done),
                command = self.inbox.recv(), if !heard_out => match command {
                    Some(command) => self.obey_all(command),
                    None => heard_out = true,
                },
                () = timer => {}
            }
        }
        let drain = async {
            while let Some(done) = self.work.join_next().await {
                self.take(done);
            }
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, drain).await.is_err() {
            tracing::warn!(workspace = %self.key.0, connection = %self.key.1,
                "requests did not end in time; their calls are sent again, under equal ids, after the next start");
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Does what the state machines ask for until they say to wait; gives the moment to ask again.
    fn act(&mut self) -> Option<Duration> {
        self.close();
        if self.leaving {
            self.abandon();
            return None;
        }
        if self.dispatcher.should_park(self.now(), self.shared.park_after) {
            // What is read back to try it is parked again and again: that is no news.
            if self.lanes.values().all(|lane| lane.park.is_live()) {
                tracing::warn!(workspace = %self.key.0, connection = %self.key.1,
                    "the connection takes nothing; its calls are parked until it does");
            }
            self.park();
        }
        let due = loop {
            self.tend();
            self.load_replays();
            let (due, ended) = self.begin();
            // Calls that ended without a request: nobody will answer for them, and what waits behind them is next.
            if !ended {
                break due;
            }
        };
        let parked = self.lanes.values().any(|lane| !lane.park.is_live());
        let hungry = self.dispatcher.hungry_at(self.now()).filter(|at| parked && *at > self.now());
        let look = parked.then(|| self.look_at.saturating_duration_since(self.started));
        let park = self.dispatcher.parks_at(self.shared.park_after).filter(|at| *at > self.now());
        [due, hungry, look, park].into_iter().flatten().min()
    }

    /// Begins what may begin. Gives the moment to ask again, and whether calls ended at once.
    fn begin(&mut self) -> (Option<Duration>, bool) {
        let mut ended = false;
        loop {
            if !self.shared.suppression.is_current() {
                return (Some(self.now() + LEASE_LOOK_EVERY), ended);
            }
            self.dispatcher.set_suppressed(self.shared.suppression.of(&self.key.0));
            match self.dispatcher.poll(self.now()) {
                Action::Send { batch, items, attempts } => self.send(batch, items, attempts),
                Action::End(finished) => {
                    self.finish(finished);
                    ended = true;
                }
                Action::Bury { batch, item, attempts, status } => self.bury(batch, &item, attempts, status),
                Action::Wait(until) => return (until, ended),
            }
        }
    }

    /// Takes what has come meanwhile along: batches are filled from everything that is there.
    fn obey_all(&mut self, first: Command) {
        self.obey(first);
        while let Ok(command) = self.inbox.try_recv() {
            self.obey(command);
        }
    }

    pub(crate) fn obey(&mut self, command: Command) {
        match command {
            Command::Push { .. } if self.leaving => {}
            Command::Push { partition, items } => self.push(partition, items),
            Command::Park { partition } => {
                let live = self.lanes.get(&partition).is_none_or(|lane| lane.park.is_live());
                if live && !self.leaving {
                    tracing::info!(workspace = %self.key.0, connection = %self.key.1,
                        "the connection is slower than what comes for it; its calls are parked and follow in order");
                    self.park();
                }
            }
            Command::Replay(letters) => self.replays.want(letters),
            Command::Hold(hold) => self.obey_operator(hold),
            Command::Closed(until) => {
                let left = u64::try_from(until.as_ms() - now().as_ms()).unwrap_or(0);
                self.dispatcher.close_until(self.now() + Duration::from_millis(left), self.now());
            }
            Command::Settings(settings, client) => self.change(*settings, client),
            Command::Open { partition, last } => self.open(partition, last),
            Command::Close { partition, done } => drop(self.closing.insert(partition, done)),
            Command::Share { served, partitions } => {
                if self.share != (served, partitions) {
                    self.share = (served, partitions);
                    self.dispatcher.set_rate(self.rate(), self.now());
                }
            }
            Command::Leave => self.leaving = true,
        }
    }

    fn obey_operator(&mut self, hold: OperatorHold) {
        if hold.paused {
            self.dispatcher.pause(self.now());
        } else if self.dispatcher.is_paused() || hold.resumes > self.hold.resumes {
            self.dispatcher.resume();
        }
        self.hold = hold;
    }

    /// Takes over new settings. What was in the way of sending may be put right by them, so it is tried at once.
    fn change(&mut self, settings: Connection, client: Client) {
        let moved = settings.write_key != self.settings.write_key || settings.endpoint != self.settings.endpoint;
        if moved && !self.dispatcher.is_paused() {
            self.dispatcher.resume();
        }
        let rate = self.rate();
        (self.settings, self.client) = (settings, client);
        if rate != self.rate() {
            self.dispatcher.set_rate(self.rate(), self.now());
        }
    }

    /// This worker's share of the connection's rate: in proportion to the partitions it serves, so that workers need not
    /// agree on anything.
    fn rate(&self) -> Option<u32> {
        let (served, partitions) = self.share;
        let share = |rate: u32| u64::from(rate) * u64::from(served) / u64::from(partitions.max(1));
        self.settings.rate().map(|rate| u32::try_from(share(rate)).unwrap_or(u32::MAX).max(1))
    }

    fn load_replays(&mut self) {
        let idle = self.dispatcher.queued(LaneId::Replay).0 == 0 && !self.dispatcher.is_locked(LaneId::Replay);
        if !idle || self.dispatcher.appetite(self.now()) != Appetite::All {
            return;
        }
        if let Some((page, standings)) = self.replays.next_page() {
            let (bus, key, dead) = (self.shared.bus.clone(), self.key.clone(), self.dead.clone());
            self.work.spawn(replays::load(bus, key, dead, page, standings));
        }
    }

    fn send(&mut self, batch: BatchId, items: Vec<Item>, attempts: u32) {
        let tracer = self.shared.metrics.tracer.clone();
        let trace = RequestTrace::begin(&tracer, &self.key, items.iter().map(|item| item.trace.as_ref()), attempts);
        let (client, gzip, suppression) = (self.client.clone(), self.settings.gzip, self.shared.suppression.clone());
        self.work.spawn(async move {
            let body = batch_body(items.iter().map(Item::json), &now().to_string(), gzip);
            let calls = items.iter().map(|item| item.id).collect();
            drop(items);
            let started = Instant::now();
            if !suppression.is_current() {
                // The process was stopped between the comparison and here.
                return Done::Sent { batch, response: Response::Unanswered, took: Duration::ZERO, calls };
            }
            let response = match client.send(body, gzip, attempts).await {
                Ok(outcome) => Response::Answered { status: outcome.status, answer: outcome.answer },
                Err(error @ SendError::Forbidden(_)) => {
                    tracing::error!(%error, "nothing is sent there");
                    Response::Forbidden
                }
                Err(error @ SendError::Unanswered(_)) => {
                    tracing::debug!(%error, source = ?std::error::Error::source(&error), "no answer from segment");
                    Response::Unanswered
                }
            };
            let took = started.elapsed();
            if let Some(trace) = trace {
                trace.end(&tracer, response);
            }
            Done::Sent { batch, response, took, calls }
        });
    }

    fn bury(&mut self, batch: BatchId, item: &Item, attempts: u32, status: u16) {
        let dying = refused(&self.key, item, attempts, status);
        let trace_id = item.trace.as_ref().map(|trace| trace.trace_id());
        tracing::warn!(workspace = %self.key.0, connection = %self.key.1, status, message_id = message_id(item), trace_id,
            "segment refuses a call by itself; it goes to the dead letters");
        let (bus, dead, suppression) = (self.shared.bus.clone(), self.dead.clone(), self.shared.suppression.clone());
        self.work.spawn(async move {
            let kept = try_to_keep(&bus, &dead, &suppression, &dying).await;
            if let Err(error) = &kept {
                tracing::warn!(%error, "a dead letter could not be stored yet");
                tokio::time::sleep(BURY_RETRY_WAIT).await;
            }
            Done::Buried { batch, kept: kept.ok() }
        });
    }

    fn take(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Sent { batch, response, took, calls }) => self.sent(batch, response, took, calls),
            Ok(Done::Buried { batch, kept: Some(kept) }) => {
                let fate = match kept {
                    Kept::Yes => Fate::Dead,
                    Kept::Suppressed => Fate::Suppressed,
                };
                let finished = self.dispatcher.buried(batch, fate);
                self.finish(finished);
            }
            Ok(Done::Buried { batch, kept: None }) => self.dispatcher.not_buried(batch),
            Ok(Done::Parked { partition, lane, sequence, tickets }) => {
                self.parked((partition, lane), sequence, tickets);
            }
            Ok(Done::Fenced { partition, lane }) => self.fenced(partition, lane),
            Ok(Done::Loaded(loaded)) => self.loaded(*loaded),
            Ok(Done::Looked { partition, generation, expired }) => self.looked(partition, generation, expired),
            Ok(Done::Replays { items, rest, standings }) => {
                self.replays.loaded(rest, standings);
                let now = self.now();
                self.dispatcher.push(LaneId::Replay, items, now);
            }
            Ok(Done::Noted) => {}
            Ok(Done::Failed(failure)) => self.failure = Some(failure),
            Err(error) => tracing::error!(%error, "a task of a connection has failed"),
        }
    }

    fn sent(&mut self, batch: BatchId, response: Response, took: Duration, calls: Box<[u64]>) {
        self.shared.metrics.request_seconds.observe(took);
        let (before, now) = (self.dispatcher.closed_until(), self.now());
        let finished = self.dispatcher.answered(batch, response, took, now, chance());
        let closed = self.dispatcher.closed_until();
        if closed > before {
            self.tell_closed(closed.saturating_sub(now));
        }
        let next = self.dispatcher.next_attempt(batch, now).saturating_sub(now);
        self.note(response, took, next, calls);
        self.finish(finished);
    }

    /// Lets the other workers know of a closed window, and the next life of this one.
    fn tell_closed(&mut self, left: Duration) {
        let left = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        let window = ClosedWindow { until: Timestamp::from_ms(now().as_ms().saturating_add(left)) };
        let (bus, key) = (self.shared.bus.clone(), crate::control::closed_key(&self.key));
        self.work.spawn(async move {
            if let Err(error) = bus.put_record(&key, Expected::Anything, window.encode()).await {
                tracing::warn!(%error, "other workers could not be told of a closed window");
            }
            Done::Noted
        });
    }
}

/// A number from 0 up to 1, to spread retries.
fn chance() -> f64 {
    let random = RandomState::new().hash_one("chance") >> 32;
    u32::try_from(random).map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX))
}
