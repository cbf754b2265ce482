//! The task around a connection's state machine: it sends, waits and stores what the machine asks for.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use inflection_bus::{Bus, Log};
use inflection_control::Connection;
use inflection_segment::{Answer, Client, batch_body, compress};
use inflection_wire::{DeadLetterEntry, DeadLetterOutcome};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::dead_letters::{message_id, now, refused};
use crate::dispatcher::{Action, BatchId, Dispatcher, Fate, Finished, Item, LaneId, Pause, Response, Ticket};
use crate::metrics::DeliveryMetrics;
use crate::progress::Tracked;
use crate::window::ConnectionKey;

/// Pushes waiting for a connection. They are bounded in bytes by the window; this bounds their number.
pub(crate) const INBOX_MAX: usize = 256;
/// How long requests under way may take after the stop signal.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait after a dead letter could not be stored.
const BURY_RETRY_WAIT: Duration = Duration::from_secs(1);

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Sends.
    Active,
    /// Holds everything: the write key is refused.
    PausedAuth,
    /// Holds everything: the address is wrong.
    Broken,
}

impl ConnectionState {
    /// The word in the admin API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::PausedAuth => "paused_auth",
            Self::Broken => "broken",
        }
    }
}

/// What is known of a connection.
#[derive(Debug, Clone)]
pub struct ConnectionStatus {
    /// What it does.
    pub state: ConnectionState,
    /// Why, in a sentence, when it does not send.
    pub why: Option<String>,
    /// Calls in hand.
    pub pending: usize,
    /// The last status Segment answered; 0 when it did not.
    pub last_status: Option<u16>,
}

/// What a connection is told.
#[derive(Debug)]
pub(crate) enum Command {
    Push { lane: LaneId, items: Vec<Item> },
}

/// What a connection's tasks share with others.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    pub(crate) tracked: Arc<Vec<Arc<Tracked>>>,
    pub(crate) metrics: DeliveryMetrics,
}

/// The task of one connection.
#[derive(Debug)]
pub(crate) struct Sender {
    key: ConnectionKey,
    client: Client,
    gzip: bool,
    dispatcher: Dispatcher,
    inbox: mpsc::Receiver<Command>,
    dead: Log,
    shared: Shared,
    status: Arc<Mutex<ConnectionStatus>>,
    started: Instant,
    work: JoinSet<Done>,
}

/// What came of something that was under way.
#[derive(Debug)]
enum Done {
    Sent { batch: BatchId, response: Response, time: Duration },
    Buried { batch: BatchId, stored: bool },
    Noted,
}

impl Sender {
    pub(crate) fn new(
        key: ConnectionKey,
        connection: &Connection,
        client: Client,
        dead: Log,
        dispatcher: Dispatcher,
        inbox: mpsc::Receiver<Command>,
        shared: Shared,
    ) -> Self {
        let status = ConnectionStatus { state: ConnectionState::Active, why: None, pending: 0, last_status: None };
        Self {
            key,
            client,
            gzip: connection.gzip,
            dispatcher,
            inbox,
            dead,
            shared,
            status: Arc::new(Mutex::new(status)),
            started: Instant::now(),
            work: JoinSet::new(),
        }
    }

    pub(crate) fn status(&self) -> Arc<Mutex<ConnectionStatus>> {
        Arc::clone(&self.status)
    }

    /// Sends until `shutdown`; then waits for what is under way and leaves the rest to the log.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let until = self.act();
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
                command = self.inbox.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
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
    }

    /// Does what the machine asks for until it says to wait.
    fn act(&mut self) -> Option<Duration> {
        loop {
            match self.dispatcher.poll(self.started.elapsed()) {
                Action::Send { batch, items, attempts } => self.send(batch, items, attempts),
                Action::Bury { batch, item, attempts, status } => self.bury(batch, &item, attempts, status),
                Action::Wait(until) => return until,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let Command::Push { lane, items } = command;
        self.dispatcher.push(lane, items, self.started.elapsed());
        // What has come meanwhile comes along: batches are filled from everything that is there.
        while let Ok(Command::Push { lane, items }) = self.inbox.try_recv() {
            self.dispatcher.push(lane, items, self.started.elapsed());
        }
    }

    fn send(&mut self, batch: BatchId, items: Vec<Item>, attempts: u32) {
        let (client, gzip) = (self.client.clone(), self.gzip);
        self.work.spawn(async move {
            let body = batch_body(items.iter().map(Item::json), &now().to_string());
            let body = if gzip { compress(&body) } else { body };
            drop(items);
            let started = Instant::now();
            let response = match client.send(body, gzip, attempts).await {
                Ok(outcome) => Response { status: outcome.status, answer: outcome.answer },
                Err(error) => {
                    tracing::debug!(%error, source = ?std::error::Error::source(&error), "no answer from segment");
                    Response { status: 0, answer: Answer::Unavailable(None) }
                }
            };
            Done::Sent { batch, response, time: started.elapsed() }
        });
    }

    fn bury(&mut self, batch: BatchId, item: &Item, attempts: u32, status: u16) {
        let entry = refused(&self.key, item, attempts, status);
        tracing::warn!(workspace = %self.key.0, connection = %self.key.1, status, message_id = message_id(item),
            "segment refuses a call by itself; it goes to the dead letters");
        let (bus, dead) = (self.shared.bus.clone(), self.dead.clone());
        self.work.spawn(async move {
            let stored = bus.append(&dead, None, entry.encode()).await;
            if let Err(error) = &stored {
                tracing::warn!(%error, "a dead letter could not be stored yet");
                tokio::time::sleep(BURY_RETRY_WAIT).await;
            }
            Done::Buried { batch, stored: stored.is_ok() }
        });
    }

    fn take(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let finished = match done {
            Ok(Done::Sent { batch, response, time }) => {
                self.shared.metrics.request_seconds.observe(time);
                self.note(response);
                self.dispatcher.answered(batch, response, self.started.elapsed(), chance())
            }
            Ok(Done::Buried { batch, stored: true }) => self.dispatcher.buried(batch),
            Ok(Done::Buried { batch, stored: false }) => {
                self.dispatcher.not_buried(batch);
                return;
            }
            Ok(Done::Noted) => return,
            Err(error) => {
                tracing::error!(%error, "a request's task has failed");
                return;
            }
        };
        self.finish(finished);
    }

    /// Tells the partitions which calls have ended.
    fn finish(&mut self, finished: Vec<Finished>) {
        let mut ends: BTreeMap<(u16, u64, Fate), usize> = BTreeMap::new();
        let (mut accepted, mut oldest, at) = (0, i64::MAX, now());
        for Finished { item, fate } in finished {
            if fate == Fate::Accepted {
                accepted += 1;
                oldest = oldest.min(item.received_at.as_ms());
            }
            match item.ticket {
                Ticket::Decision { partition, sequence } => *ends.entry((partition, sequence, fate)).or_default() += 1,
                Ticket::DeadLetter if fate == Fate::Accepted => self.note_replayed(&item),
                Ticket::DeadLetter => {}
            }
        }
        let labels = [("workspace", self.key.0.as_str()), ("connection", self.key.1.as_str())];
        if accepted > 0 {
            self.shared.metrics.accepted.with(&labels).add(accepted);
            let waited = u64::try_from(at.as_ms() - oldest).unwrap_or(0);
            self.shared.metrics.fact_to_segment_seconds.observe(Duration::from_millis(waited));
        }
        for ((partition, sequence, fate), count) in ends {
            if fate == Fate::Dead {
                self.shared.metrics.dead.with(&[labels[0], labels[1], ("reason", "refused")]).add(count as u64);
            }
            if let Some(tracked) = self.shared.tracked.get(usize::from(partition)) {
                tracked.update(|window| window.end(sequence, &self.key, fate, count));
            }
        }
    }

    fn note_replayed(&mut self, item: &Item) {
        let outcome = DeadLetterOutcome::Replayed(message_id(item).to_owned());
        let entry = DeadLetterEntry { at: now(), outcome }.encode();
        let (bus, dead) = (self.shared.bus.clone(), self.dead.clone());
        self.work.spawn(async move {
            if let Err(error) = bus.append(&dead, None, entry).await {
                tracing::warn!(%error, "a replayed dead letter is still listed; replaying it again does no harm");
            }
            Done::Noted
        });
    }

    fn note(&mut self, response: Response) {
        let outcome = match response.answer {
            Answer::Accepted => "accepted",
            Answer::Refused => "refused",
            Answer::Unauthorized => "unauthorized",
            Answer::Misconfigured => "misconfigured",
            Answer::Throttled(_) => "throttled",
            Answer::Unavailable(_) if response.status == 0 => "unanswered",
            Answer::Unavailable(_) => "unavailable",
        };
        let labels = [("workspace", self.key.0.as_str()), ("connection", self.key.1.as_str()), ("outcome", outcome)];
        self.shared.metrics.requests.with(&labels).add(1);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.last_status = Some(response.status);
    }

    /// Makes the connection's state known, and says so when it has changed.
    fn publish(&self) {
        let (state, why) = match self.dispatcher.pause() {
            None => (ConnectionState::Active, None),
            Some(Pause::Unauthorized(status)) => {
                let why = format!("the write key is refused ({status}); everything is kept");
                (ConnectionState::PausedAuth, Some(why))
            }
            Some(Pause::Misconfigured(status)) => {
                (ConnectionState::Broken, Some(format!("the endpoint answers {status}; everything is kept")))
            }
        };
        let pending = self.dispatcher.pending();
        let labels = [("workspace", self.key.0.as_str()), ("connection", self.key.1.as_str())];
        self.shared.metrics.pending.with(&labels).set(i64::try_from(pending).unwrap_or(i64::MAX));
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.state != state
            && let Some(why) = &why
        {
            tracing::error!(workspace = %self.key.0, connection = %self.key.1, why, "the connection is paused");
        }
        *status = ConnectionStatus { state, why, pending, last_status: status.last_status };
    }
}

/// A number from 0 up to 1, to spread retries.
fn chance() -> f64 {
    let random = RandomState::new().hash_one("chance") >> 32;
    u32::try_from(random).map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX))
}
