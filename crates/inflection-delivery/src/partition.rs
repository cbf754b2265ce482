//! The task that reads a partition's decisions, renders their calls and hands them to the connections.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use inflection_bus::{AppendError, Bus, Log, Message, ReadError};
use inflection_control::Connection;
use inflection_domain::{Body, Call, InstallationId, MessageId, Timestamp, WorkspaceId};
use inflection_telemetry::Pulse;
use inflection_wire::{DeadLetter, Decided, DecisionBatch, DecodeError, WorkspaceTotals, decode_body};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::books::{CallEnd, ConnectionKey};
use crate::connection::{Command, Flags};
use crate::dead_letters::{self, Dying, EXPIRED, Kept, now};
use crate::dispatcher::Ticket;
use crate::metrics::DeliveryMetrics;
use crate::pages::Pages;
use crate::progress::{Hold, Tracked};
use crate::room::Room;
use crate::suppression::Suppression;
use crate::trace::{CallTrace, End};
use crate::translate::{Translation, person_key, translate};

/// Bytes of decisions read at once.
const READ_BYTES: usize = 1024 * 1024;
/// Rendered bytes on their way into parked logs, over all connections: they wait for the bus, never for Segment.
const PARKING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Counted in units of this many.
const PERMIT_BYTES: usize = 1024;
/// Rendered bytes for each byte of decisions, about: to guess how much memory a message's calls take.
const RENDERED_PER_DECIDED: usize = 3;
/// How long others wait behind a connection that has used up its room, before its calls are parked.
const PATIENCE: Duration = Duration::from_millis(200);

/// A connection as its partitions see it.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    pub(crate) key: ConnectionKey,
    pub(crate) settings: Arc<Connection>,
    pub(crate) inbox: mpsc::Sender<Command>,
    pub(crate) flags: Arc<Flags>,
    pub(crate) dead: Log,
}

/// All connections, by workspace.
pub(crate) type Outlets = HashMap<WorkspaceId, Vec<Outlet>>;

/// What all partitions share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) bus: Bus,
    pub(crate) installation: InstallationId,
    /// Replaced as a whole when the configuration changes.
    pub(crate) outlets: RwLock<Arc<Outlets>>,
    pub(crate) room: Arc<Room>,
    pub(crate) parking: Arc<Semaphore>,
    pub(crate) metrics: DeliveryMetrics,
    pub(crate) suppression: Suppression,
}

impl Common {
    pub(crate) fn outlets(&self) -> Arc<Outlets> {
        Arc::clone(&self.outlets.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_outlets(&self, outlets: Outlets) {
        *self.outlets.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(outlets);
    }

    pub(crate) fn parking() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(PARKING_BYTES_MAX / PERMIT_BYTES))
    }

    /// Room for calls that go straight into the parked log.
    async fn hold_parking(&self, bytes: usize) -> Option<Hold> {
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, PARKING_BYTES_MAX / PERMIT_BYTES);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        Arc::clone(&self.parking).acquire_many_owned(permits).await.ok().map(Hold::Parking)
    }
}

/// Why a partition cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// The decision log cannot be read.
    #[error("its decision log cannot be read")]
    Read(#[from] ReadError),
    /// A message is no decision.
    #[error("message {sequence} of its decision log is no decision")]
    Decisions {
        /// Its sequence.
        sequence: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A dead letter cannot be stored.
    #[error("a dead letter cannot be stored")]
    Bury(#[from] AppendError),
}

/// The reader of one partition.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) partition: u16,
    pub(crate) log: Log,
    pub(crate) after: u64,
    pub(crate) tracked: Arc<Tracked>,
    pub(crate) common: Arc<Common>,
    pub(crate) pulse: Pulse,
}

/// What one message makes for one connection.
#[derive(Debug)]
struct Output<'o> {
    outlet: &'o Outlet,
    /// Calls of the message that an earlier life has counted, and of those the ones not yet met.
    skipped: u32,
    to_skip: u32,
    pages: Pages,
    /// What is known of each call after the skipped ones; `None` is rendered.
    calls: Vec<Option<CallEnd>>,
    /// Letters of calls that cannot be sent, the calls' places in `calls`, and the trace of each that is traced.
    dead: Vec<(usize, Dying, Option<Arc<CallTrace>>)>,
}

impl Output<'_> {
    /// The calls of a decision without those that an earlier life has counted.
    fn uncounted<'c>(&mut self, calls: &'c [Call]) -> &'c [Call] {
        let counted = calls.len().min(self.to_skip as usize);
        self.to_skip -= u32::try_from(counted).unwrap_or(self.to_skip);
        calls.get(counted..).unwrap_or_default()
    }

    /// Leaves out the calls of a suppressed person.
    fn suppress(&mut self, calls: &[Call]) {
        let suppressed = std::iter::repeat_n(Some(CallEnd::Suppressed), self.uncounted(calls).len());
        self.calls.extend(suppressed);
    }

    fn count(&self, wanted: CallEnd) -> u64 {
        self.calls.iter().filter(|end| **end == Some(wanted)).count() as u64
    }
}

impl Reading {
    /// Reads until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), PartitionError> {
        let mut reader = self.common.bus.read(&self.log, self.after);
        loop {
            let messages = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                messages = reader.next(READ_BYTES) => messages?,
            };
            for message in messages {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Ok(()),
                    outcome = self.message(message) => outcome?,
                }
            }
        }
    }

    async fn message(&self, Message { sequence, payload }: Message) -> Result<(), PartitionError> {
        // What is left out by an old record is left out for good.
        self.common.suppression.current().await;
        let work = self.pulse.work();
        let batch = DecisionBatch::decode_decisions(&payload)
            .map_err(|source| PartitionError::Decisions { sequence, source })?;
        let outlets = self.common.outlets();
        let known: Vec<ConnectionKey> = outlets.values().flatten().map(|outlet| outlet.key.clone()).collect();
        self.introduce(&batch, &known, sequence);
        let mut outputs = self.outputs(&batch, &outlets, sequence, payload.len());
        let (mut calls, everybody) = (BTreeMap::<WorkspaceId, u32>::new(), self.common.suppression.now());
        for decided in &batch.decisions {
            let count = u32::try_from(decided.calls.len()).unwrap_or(u32::MAX);
            match calls.get_mut(&decided.workspace) {
                Some(known) => *known += count,
                None => drop(calls.insert(decided.workspace.clone(), count)),
            }
            let Some(own) = outputs.get_mut(&decided.workspace).filter(|own| !own.is_empty()) else { continue };
            let body = decode_body(&decided.body);
            let suppressed = everybody.of(&decided.workspace).is_some_and(|suppressed| {
                let person = body.as_ref().ok().map(|body| person_key(decided, body)).or(decided.person);
                suppressed.covers(person, decided.user.as_ref())
            });
            for output in own {
                match &body {
                    _ if suppressed => output.suppress(&decided.calls),
                    Ok(body) => self.render(decided, body, batch.received_at, output),
                    Err(error) => self.unreadable(decided, error, output),
                }
            }
        }
        drop(work);
        self.hand_on(outputs.into_values().flatten().collect(), sequence, known.len()).await?;
        self.tracked.update(|books| {
            books.leave_out(&known, &calls, sequence);
            books.read(sequence);
            true
        });
        Ok(())
    }

    /// Connections that are new to this partition begin with this message.
    fn introduce(&self, batch: &DecisionBatch, known: &[ConnectionKey], sequence: u64) {
        let before = |totals: &WorkspaceTotals| {
            let own = batch.decisions.iter().filter(|decided| decided.workspace == totals.workspace);
            let calls: usize = own.map(|decided| decided.calls.len()).sum();
            WorkspaceTotals { calls: totals.calls.saturating_sub(calls as u64), ..totals.clone() }
        };
        self.tracked.update(|books| {
            if books.is_new(known) {
                books.introduce(known, &batch.totals.iter().map(before).collect::<Vec<_>>(), sequence);
            }
            false
        });
    }

    /// An empty output for every connection that is to be told of the message.
    fn outputs<'o>(
        &self,
        batch: &DecisionBatch,
        outlets: &'o Outlets,
        sequence: u64,
        message_bytes: usize,
    ) -> BTreeMap<WorkspaceId, Vec<Output<'o>>> {
        let ticket = Ticket::Decision { partition: self.partition, sequence };
        let mut outputs: BTreeMap<WorkspaceId, Vec<Output<'o>>> = BTreeMap::new();
        self.tracked.update(|books| {
            for decided in &batch.decisions {
                if outputs.contains_key(&decided.workspace) {
                    continue;
                }
                let mut own = Vec::new();
                for outlet in outlets.get(&decided.workspace).into_iter().flatten() {
                    let Some(skipped) = books.skip(&outlet.key, sequence) else { continue };
                    let pages = Pages::new(ticket, batch.received_at, message_bytes * RENDERED_PER_DECIDED);
                    let (calls, dead) = (Vec::new(), Vec::new());
                    own.push(Output { outlet, skipped, to_skip: skipped, pages, calls, dead });
                }
                outputs.insert(decided.workspace.clone(), own);
            }
            false
        });
        outputs
    }

    fn render(&self, decided: &Decided, body: &Body<'_>, received_at: Timestamp, output: &mut Output<'_>) {
        let outlet = output.outlet;
        let waited = Duration::from_millis(u64::try_from(now().as_ms() - received_at.as_ms()).unwrap_or(0));
        for call in output.uncounted(&decided.calls) {
            let installation = &self.common.installation;
            let letter = |reason: &str, item: Bytes| {
                self.letter(decided, call, outlet, body.event_id.as_str(), reason.to_owned(), item)
            };
            let (place, trace) = (output.calls.len(), CallTrace::begin(decided.trace.as_deref()));
            let page = output.pages.page();
            match translate(installation, &outlet.settings, decided, body, call, page) {
                Translation::Rendered(at) if waited > outlet.settings.expire_after => {
                    let item = page.get(at.item..at.end).unwrap_or_default();
                    output.dead.push((place, letter(EXPIRED, Bytes::copy_from_slice(item)), trace));
                    page.truncate(at.start);
                    output.calls.push(Some(CallEnd::Dead));
                }
                Translation::Rendered(rendered) => {
                    output.pages.push(rendered, trace);
                    output.calls.push(None);
                }
                Translation::Filtered => output.calls.push(Some(CallEnd::Filtered)),
                Translation::Invalid(invalid) => {
                    output.dead.push((place, letter(&invalid.to_string(), Bytes::new()), trace));
                    output.calls.push(Some(CallEnd::Dead));
                }
            }
        }
    }

    fn unreadable(&self, decided: &Decided, error: &DecodeError, output: &mut Output<'_>) {
        tracing::error!(partition = self.partition, %error, "a fact's body cannot be read; its calls are dead");
        for call in output.uncounted(&decided.calls) {
            let letter = self.letter(decided, call, output.outlet, "", "undecodable".to_owned(), Bytes::new());
            output.dead.push((output.calls.len(), letter, CallTrace::begin(decided.trace.as_deref())));
            output.calls.push(Some(CallEnd::Dead));
        }
    }

    fn letter(
        &self,
        decided: &Decided,
        call: &Call,
        outlet: &Outlet,
        event_id: &str,
        reason: String,
        item: Bytes,
    ) -> Dying {
        let (workspace, connection) = outlet.key.clone();
        let id = MessageId::new(&self.common.installation, &decided.workspace, &connection, call.key);
        let letter = DeadLetter {
            workspace,
            connection,
            message_id: id.to_string(),
            event_id: event_id.to_owned(),
            kind: call.kind.event_name().unwrap_or(call.kind.name()).to_owned(),
            reason,
            attempts: 0,
            last_status: 0,
            item,
            person: decided.person,
        };
        Dying { letter, user: decided.user.clone() }
    }

    /// Keeps a letter; returns how its call has ended.
    async fn bury(&self, outlet: &Outlet, dying: Dying, trace: Option<Arc<CallTrace>>) -> Result<CallEnd, AppendError> {
        let (letter, reason) = (&dying.letter, dying.letter.reason.clone());
        let (workspace, connection) = (outlet.key.0.as_str(), outlet.key.1.as_str());
        tracing::warn!(
            workspace,
            connection,
            reason = letter.reason,
            message_id = letter.message_id,
            trace_id = trace.as_ref().map(|trace| trace.trace_id()),
            "a call that cannot be sent goes to the dead letters"
        );
        let message_id = letter.message_id.clone();
        let kept = dead_letters::keep(&self.common.bus, &outlet.dead, &self.common.suppression, dying).await?;
        let (end, traced) = match kept {
            Kept::Yes => {
                let (reason, traced) =
                    if reason == EXPIRED { (EXPIRED, End::Expired) } else { ("invalid", End::Invalid) };
                let labels = [("workspace", workspace), ("connection", connection), ("reason", reason)];
                self.common.metrics.dead.with(&labels).add(1);
                (CallEnd::Dead, traced)
            }
            Kept::Suppressed => (CallEnd::Suppressed, End::Suppressed),
        };
        if let Some(trace) = trace {
            trace.end(&self.common.metrics.tracer, &outlet.key, &message_id, traced);
        }
        Ok(end)
    }

    /// Hands a message's calls to the connections; those that have room are not kept waiting by those that have not.
    async fn hand_on(
        &self,
        mut outputs: Vec<Output<'_>>,
        sequence: u64,
        connections: usize,
    ) -> Result<(), PartitionError> {
        for output in &mut outputs {
            for (place, dying, trace) in std::mem::take(&mut output.dead) {
                let end = self.bury(output.outlet, dying, trace).await?;
                if let Some(call) = output.calls.get_mut(place) {
                    *call = Some(end);
                }
            }
            let metrics = &self.common.metrics;
            for (end, counter) in [(CallEnd::Filtered, &metrics.filtered), (CallEnd::Suppressed, &metrics.suppressed)] {
                let (count, key) = (output.count(end), &output.outlet.key);
                if count > 0 {
                    counter.with(&[("workspace", key.0.as_str()), ("connection", key.1.as_str())]).add(count);
                }
            }
        }
        let mut waiting = Vec::new();
        for output in outputs {
            let (key, flags) = (&output.outlet.key, &output.outlet.flags);
            if output.pages.is_empty() {
                self.push(output, None, sequence).await;
            } else if flags.is_parked(self.partition) {
                waiting.push(output);
            } else if let Some(held) = self.common.room.try_hold(key, output.pages.memory_bytes()) {
                self.push(output, Some(held.into()), sequence).await;
            } else {
                waiting.push(output);
            }
        }
        for output in waiting {
            let held = self.hold(output.outlet, output.pages.memory_bytes(), connections).await;
            self.push(output, held, sequence).await;
        }
        Ok(())
    }

    /// Waits for room. When others wait behind a connection that gets none, its calls are parked: from then on they wait
    /// for the bus only.
    async fn hold(&self, outlet: &Outlet, bytes: usize, connections: usize) -> Option<Hold> {
        if outlet.flags.is_parked(self.partition) {
            return self.common.hold_parking(bytes).await;
        }
        let room = self.common.room.hold(&outlet.key, bytes);
        if connections <= 1 {
            return Some(room.await.into());
        }
        let patience = if outlet.flags.is_in_trouble() { Duration::ZERO } else { PATIENCE };
        match tokio::time::timeout(patience, room).await {
            Ok(held) => Some(held.into()),
            Err(_elapsed) => {
                if outlet.inbox.send(Command::Park { partition: self.partition }).await.is_err() {
                    tracing::debug!(partition = self.partition, "a connection has ended");
                }
                self.common.hold_parking(bytes).await
            }
        }
    }

    async fn push(&self, output: Output<'_>, held: Option<Hold>, sequence: u64) {
        let Output { outlet, skipped, pages, calls, .. } = output;
        self.tracked.update(|books| {
            books.open(&outlet.key, sequence, skipped, calls, held);
            pages.is_empty()
        });
        if pages.is_empty() {
            return;
        }
        let push = Command::Push { partition: self.partition, items: pages.into_items() };
        if outlet.inbox.send(push).await.is_err() {
            tracing::debug!(partition = self.partition, "a connection has ended; its calls stay in the log");
        }
    }
}
