//! Finding events on the bus: in the decision logs, and behind them in the event logs.
//!
//! Most messages are passed over as bytes: only those that contain the id are decoded. A messageId stands in no message,
//! it is made from what does; for one of those every decision is decoded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::Context as _;
use inflection_bus::{Bus, Log, Message, Sequence};
use inflection_domain::{
    Body, Changes, ConnectionId, EventId, Hash128, Head, HeldClick, InstallationId, MessageId, PartitionCount,
    PersonId, Timestamp, WorkspaceId,
};
use inflection_telemetry::TraceContext;
use inflection_wire::{CallPosition, CarriedTrace, Decided, DecisionBatch, Event, EventBatch, decode_body};
use memchr::memmem::Finder;

use super::EVENTS_MAX;
use super::pass::Pass;
use crate::decided::{decided, intact};

/// Most copies of events that are noted in one partition while they wait for identity.
const WAITING_MAX: usize = 10_000;

/// An event that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) event_id: EventId,
    pub(super) workspace: WorkspaceId,
    pub(super) partition: u16,
    pub(super) sequence: Sequence,
    pub(super) received_at: Timestamp,
    pub(super) repeats_waiting: u64,
    /// The trace it belongs to, if it is traced.
    pub(super) trace_id: Option<String>,
    /// Of a click that identity holds or held: what was decided when it came, the identify that it makes.
    pub(super) at_once: Option<Box<DecidedEvent>>,
    pub(super) hop: Hop,
}

/// How far an event has come.
#[derive(Debug)]
pub(super) enum Hop {
    /// It lies in the event log.
    Waiting {
        /// When it happened.
        occurred_at: Timestamp,
        /// Whom it is about.
        person: PersonId,
        /// Its number, if it is a click that identity holds, to judge it with those that come after it.
        held: Option<u64>,
    },
    /// It was decided, and made no call: only its key is kept. Of a held click no call but those made at once.
    Silent,
    /// It was decided.
    Decided(Box<DecidedEvent>),
}

/// An event and what was decided.
#[derive(Debug)]
pub(super) struct DecidedEvent {
    /// The decision, its body taken out.
    pub(super) decided: Decided,
    pub(super) body: Body<'static>,
    /// Where its first call stands.
    pub(super) place: Place,
    /// Whether any fact of the workspace had contradicted what was known of its person, in this partition until here.
    pub(super) conflicts: bool,
}

/// Where a call stands among those of its workspace in a partition's decision log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The message.
    pub(super) sequence: Sequence,
    /// Its number in the message, from 0.
    pub(super) in_message: u32,
    /// Its number since the partition's beginning, from 0.
    pub(super) in_all: u64,
}

impl Place {
    /// The place of the call so many calls later in the same message.
    pub(super) fn plus(self, calls: u32) -> Self {
        Self {
            in_message: self.in_message.saturating_add(calls),
            in_all: self.in_all.saturating_add(u64::from(calls)),
            ..self
        }
    }

    /// Whether a position has passed the call.
    pub(super) fn is_behind(self, position: CallPosition) -> bool {
        let calls = self.in_message.saturating_add(1);
        CallPosition { through: self.sequence.saturating_sub(1), calls } <= position
    }
}

impl Found {
    /// An event of which nothing is known but how far it has come.
    fn new(
        workspace: WorkspaceId,
        event_id: EventId,
        (partition, sequence): (u16, Sequence),
        received_at: Timestamp,
        hop: Hop,
    ) -> Self {
        let (repeats_waiting, trace_id, at_once) = (0, None, None);
        Self { event_id, workspace, partition, sequence, received_at, repeats_waiting, trace_id, at_once, hop }
    }

    fn is(&self, workspace: &WorkspaceId, event_id: &EventId) -> bool {
        self.workspace == *workspace && self.event_id == *event_id
    }

    /// What was decided of it, in order.
    pub(super) fn decisions(&self) -> impl Iterator<Item = &DecidedEvent> {
        let last = if let Hop::Decided(event) = &self.hop { Some(&**event) } else { None };
        self.at_once.as_deref().into_iter().chain(last)
    }

    fn is_held(&self) -> bool {
        matches!(self.hop, Hop::Waiting { held: Some(_), .. })
    }

    /// Whether this is the same event while it was held. Its story goes on in the later one.
    fn goes_on_in(&mut self, later: &mut Self) -> bool {
        let same = self.is_held() && self.is(&later.workspace, &later.event_id);
        if same {
            later.at_once = later.at_once.take().or(self.at_once.take());
        }
        same
    }

    /// Takes note that a decision makes calls for it: the last one there is, but for one that its click made at once.
    fn decide(&mut self, event: Box<DecidedEvent>) {
        if let Hop::Decided(before) = std::mem::replace(&mut self.hop, Hop::Decided(event)) {
            self.at_once = Some(before);
        }
    }

    /// Takes note that it is a click that was held in a message, if it is.
    fn hold(&mut self, held: &[(u64, HeldClick)]) {
        let key = Head::event_key(&self.workspace, &self.event_id);
        let Some((number, _)) = held.iter().find(|(_, click)| click.head.event == key) else { return };
        if let Hop::Decided(event) = std::mem::replace(&mut self.hop, Hop::Silent) {
            let (occurred_at, person) = (event.decided.occurred_at, event.body.person.clone());
            self.at_once = Some(event);
            self.hop = Hop::Waiting { occurred_at, person, held: Some(*number) };
        }
    }

    /// Takes note that a message lets a click of its number go, or gives its number to another one. If it makes calls, they
    /// were found.
    fn let_go(&mut self, changes: &Changes) {
        let Hop::Waiting { held: Some(number), .. } = &self.hop else { return };
        let key = Head::event_key(&self.workspace, &self.event_id);
        let other = changes.held.iter().any(|(taken, click)| taken == number && click.head.event != key);
        if other || changes.released.contains(number) {
            self.hop = Hop::Silent;
        }
    }

    /// Takes its further copies out of what waits, and counts them.
    fn take_repeats(&mut self, waiting: &mut Vec<Waiting>) {
        let before = waiting.len();
        waiting.retain(|copy| !self.is(&copy.workspace, &copy.event_id));
        self.repeats_waiting = (before - waiting.len()) as u64;
    }
}

/// One copy of an event in an event log.
#[derive(Debug)]
struct Waiting {
    /// The message before its own.
    previous: Sequence,
    sequence: Sequence,
    /// Its number in the message, from 0.
    index: u32,
    received_at: Timestamp,
    occurred_at: Timestamp,
    workspace: WorkspaceId,
    event_id: EventId,
    person: PersonId,
    trace_id: Option<String>,
}

/// How far identity has come in an event log.
#[derive(Debug, Clone, Copy, Default)]
struct Consumed {
    /// All events of the messages up to this one.
    through: Sequence,
    /// And so many of the message after it.
    events: u32,
}

impl Consumed {
    fn covers(self, copy: &Waiting) -> bool {
        copy.sequence <= self.through || (copy.previous <= self.through && copy.index < self.events)
    }
}

/// The end of a decision log, and how far identity has come there.
async fn end_of(bus: &Bus, decisions: &Log) -> anyhow::Result<(Sequence, Consumed)> {
    let (sequence, batch) = decided(bus, decisions).await?;
    Ok((sequence, Consumed { through: batch.consumed_through, events: batch.consumed_events }))
}

/// What is looked for.
#[derive(Debug)]
pub(super) struct Wanted<'w> {
    id: &'w str,
    text: Finder<'w>,
    /// The id as one of an event: it may have made no call, and then only its key is left.
    event: Option<EventId>,
    keys: Vec<EventKey>,
    /// The id as a messageId: the first half of its hash.
    message: Option<u64>,
    installation: &'w InstallationId,
    connections: &'w [(WorkspaceId, ConnectionId)],
}

/// The key of an event id in one workspace.
#[derive(Debug)]
struct EventKey {
    workspace: WorkspaceId,
    key: Hash128,
    bytes: Finder<'static>,
}

impl EventKey {
    fn new(workspace: &WorkspaceId, event: &EventId) -> Self {
        let key = Head::event_key(workspace, event);
        Self { workspace: workspace.clone(), key, bytes: Finder::new(&key.to_bytes()).into_owned() }
    }
}

impl<'w> Wanted<'w> {
    pub(super) fn new(
        id: &'w str,
        installation: &'w InstallationId,
        connections: &'w [(WorkspaceId, ConnectionId)],
    ) -> Self {
        let event = EventId::new(id).ok();
        let workspaces: BTreeSet<&WorkspaceId> = connections.iter().map(|(workspace, _)| workspace).collect();
        let mut keys = Vec::new();
        if let Some(event) = &event {
            keys.extend(workspaces.into_iter().map(|workspace| EventKey::new(workspace, event)));
        }
        Self {
            id,
            text: Finder::new(id),
            event,
            keys,
            message: is_message_id(id).then(|| MessageId::high_of(id)),
            installation,
            connections,
        }
    }

    /// Whether the id has the form of a messageId.
    pub(super) fn is_message(&self) -> bool {
        self.message.is_some()
    }

    /// Whether a message of a decision log is worth decoding.
    fn may_be_in(&self, payload: &[u8]) -> bool {
        let keyed = || self.keys.iter().any(|key| key.bytes.find(payload).is_some());
        self.message.is_some() || self.text.find(payload).is_some() || keyed()
    }

    /// The body, if it is of an event or a person with this id.
    fn named(&self, body: &[u8]) -> Option<Body<'static>> {
        self.text.find(body)?;
        let body = decode_body(body).ok()?;
        (body.event_id.as_str() == self.id || body.person.as_str() == self.id).then(|| body.into_owned())
    }

    /// The body, if the decision makes a call with this id.
    fn called(&self, decided: &Decided) -> Option<Body<'static>> {
        let high = self.message?;
        let mut own = self.connections.iter().filter(|(workspace, _)| *workspace == decided.workspace);
        let makes = own.any(|(workspace, connection)| {
            decided.calls.iter().any(|call| {
                let id = MessageId::new(self.installation, workspace, connection, call.key);
                id.high() == high && id.to_string() == self.id
            })
        });
        if makes { decode_body(&decided.body).ok().map(Body::into_owned) } else { None }
    }

    /// What of a decision message is looked for.
    fn found_in(&self, batch: &DecisionBatch, partition: u16, sequence: Sequence) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        let mut calls: BTreeMap<&WorkspaceId, u32> = BTreeMap::new();
        let received_at = batch.received_at;
        for decided in &batch.decisions {
            let own = calls.entry(&decided.workspace).or_default();
            let in_message = *own;
            *own = own.saturating_add(u32::try_from(decided.calls.len()).unwrap_or(u32::MAX));
            let Some(body) = self.named(&decided.body).or_else(|| self.called(decided)) else { continue };
            let (before, conflicts) = books(batch, &decided.workspace);
            let place = Place { sequence, in_message, in_all: before + u64::from(in_message) };
            let (event_id, workspace) = (body.event_id.clone(), decided.workspace.clone());
            let trace_id = trace_id(&decided.trace);
            // Without the body, which would keep the whole message in memory.
            let decided = Decided { body: Default::default(), ..decided.clone() };
            let event = Box::new(DecidedEvent { decided, body, place, conflicts });
            // Twice in one message stands only a click that was held and let go in one step.
            if let Some(earlier) = found.iter_mut().find(|found| found.is(&workspace, &event_id)) {
                earlier.decide(event);
                continue;
            }
            let decided = Found::new(workspace, event_id, (partition, sequence), received_at, Hop::Decided(event));
            found.push(Found { trace_id, ..decided });
        }
        found.iter_mut().for_each(|found| found.hold(&batch.changes.held));
        let Some(event_id) = &self.event else { return found };
        for EventKey { workspace, key, .. } in &self.keys {
            if found.iter().any(|found| found.is(workspace, event_id)) {
                continue;
            }
            // A held click stands here when it comes.
            let held = batch.changes.held.iter().find(|(_, click)| click.head.event == *key && !click.erased);
            let held = held.and_then(|(number, click)| Some((*number, click, decode_body(&click.body).ok()?.person)));
            let hop = match held {
                Some((number, click, person)) => {
                    Hop::Waiting { occurred_at: click.head.occurred_at, person, held: Some(number) }
                }
                None if batch.changes.seen.contains(key) => Hop::Silent,
                None => continue,
            };
            let place = (partition, sequence);
            found.push(Found::new(workspace.clone(), event_id.clone(), place, received_at, hop));
        }
        found
    }

    /// What of a message of an event log is looked for.
    fn waiting_in(&self, previous: Sequence, Message { sequence, payload }: Message) -> Vec<Waiting> {
        if self.text.find(&payload).is_none() {
            return Vec::new();
        }
        // What cannot be decoded is counted by identity, and is no event.
        let Ok(batch) = EventBatch::decode(&payload) else { return Vec::new() };
        let mut waiting = Vec::new();
        for (index, event) in (0u32..).zip(batch.events) {
            let Ok(Event { head, body, trace }) = event else { continue };
            let Some(body) = self.named(&body) else { continue };
            waiting.push(Waiting {
                previous,
                sequence,
                index,
                received_at: batch.received_at,
                occurred_at: head.occurred_at,
                workspace: head.workspace,
                event_id: body.event_id,
                person: body.person,
                trace_id: trace_id(&trace),
            });
        }
        waiting
    }
}

/// The id of the trace that an event carries.
fn trace_id(carried: &CarriedTrace) -> Option<String> {
    carried.as_deref().and_then(TraceContext::from_bytes).map(|trace| trace.trace_id())
}

/// Whether a text has the form of our messageIds.
fn is_message_id(text: &str) -> bool {
    let digits = text.strip_prefix("infl_");
    digits.is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Calls of the workspace before this message, and whether it had any conflict until after it.
fn books(batch: &DecisionBatch, workspace: &WorkspaceId) -> (u64, bool) {
    let Some(totals) = batch.totals.iter().find(|totals| totals.workspace == *workspace) else { return (0, false) };
    let own = batch.decisions.iter().filter(|decided| decided.workspace == *workspace);
    let own: usize = own.map(|decided| decided.calls.len()).sum();
    (totals.calls.saturating_sub(own as u64), totals.identity_conflicts > 0)
}

/// A search through all partitions.
#[derive(Debug)]
pub(super) struct Search<'s> {
    bus: &'s Bus,
    pub(super) wanted: Wanted<'s>,
    /// The newest [`EVENTS_MAX`], newest last.
    pub(super) found: Vec<Found>,
    /// How many there are.
    pub(super) total: u64,
    /// Messages looked at.
    pub(super) messages: u64,
    /// Whether everything was read that the bus holds.
    pub(super) whole: bool,
}

impl<'s> Search<'s> {
    pub(super) fn new(bus: &'s Bus, wanted: Wanted<'s>) -> Self {
        Self { bus, wanted, found: Vec::new(), total: 0, messages: 0, whole: true }
    }

    pub(super) async fn run(mut self, partitions: PartitionCount) -> anyhow::Result<Self> {
        for partition in partitions.all() {
            self.partition(partition.index()).await?;
        }
        // The order of one partition's log is the order of events. Between partitions only clocks can tell.
        if self.found.first().map(|found| found.partition) != self.found.last().map(|found| found.partition) {
            self.found.sort_by_key(|found| found.received_at);
        }
        let cut = self.found.len().saturating_sub(EVENTS_MAX);
        self.found.drain(..cut);
        if self.wanted.is_message() {
            for mut found in std::mem::take(&mut self.found) {
                self.repeats(&mut found).await?;
                self.found.push(found);
            }
        }
        Ok(self)
    }

    /// Counts the copies that wait of an event that was found by a messageId: they are made of no call yet, and only its
    /// own id finds them.
    async fn repeats(&mut self, found: &mut Found) -> anyhow::Result<()> {
        let events = Log::new(&format!("events.{}", found.partition))?;
        let (_, consumed) = end_of(self.bus, &Log::new(&format!("decisions.{}", found.partition))?).await?;
        let event_id = found.event_id.clone();
        let wanted = Wanted::new(event_id.as_str(), self.wanted.installation, self.wanted.connections);
        let mut search = Search::new(self.bus, wanted);
        let mut waiting = search.waiting(&events, consumed).await?;
        waiting.retain(|copy| !consumed.covers(copy));
        found.take_repeats(&mut waiting);
        self.whole &= search.whole;
        Ok(())
    }

    async fn partition(&mut self, partition: u16) -> anyhow::Result<()> {
        let events = Log::new(&format!("events.{partition}"))?;
        let decisions = Log::new(&format!("decisions.{partition}"))?;
        let (_, consumed) = end_of(self.bus, &decisions).await?;
        let mut waiting = self.waiting(&events, consumed).await?;
        // What identity has consumed since is decided by now, and found below.
        let (end, consumed) = end_of(self.bus, &decisions).await?;
        waiting.retain(|copy| !consumed.covers(copy));
        let decided = self.decided(partition, &decisions, end, &mut waiting).await?;
        self.found.extend(decided);
        for found in undecided(waiting, partition) {
            self.total += 1;
            self.found.push(found);
        }
        Ok(())
    }

    /// What waits in an event log.
    async fn waiting(&mut self, log: &Log, consumed: Consumed) -> anyhow::Result<Vec<Waiting>> {
        // That what is consumed meanwhile is deleted under its hands does not cut this pass short of anything.
        let mut pass = Pass::to_end(self.bus, log, consumed.through).await.context("the events cannot be read")?;
        let (mut waiting, mut previous) = (Vec::new(), consumed.through);
        while let Some(messages) = pass.next().await.context("the events cannot be read")? {
            for message in messages {
                self.messages += 1;
                let sequence = message.sequence;
                waiting.extend(self.wanted.waiting_in(previous, message));
                previous = sequence;
            }
            if waiting.len() > WAITING_MAX {
                self.whole = false;
                break;
            }
        }
        Ok(waiting)
    }

    /// What was decided; their further copies are taken out of what waits.
    async fn decided(
        &mut self,
        partition: u16,
        log: &Log,
        end: Sequence,
        waiting: &mut Vec<Waiting>,
    ) -> anyhow::Result<VecDeque<Found>> {
        let mut newest: VecDeque<Found> = VecDeque::new();
        let mut pass = Pass::new(self.bus, log, 0, end);
        while let Some(messages) = pass.next().await.context("the decisions cannot be read")? {
            for Message { sequence, payload } in messages {
                self.messages += 1;
                // That a click is let go without a call is said by its number alone. Few messages come before that.
                if !self.wanted.may_be_in(&payload) && !newest.iter().any(Found::is_held) {
                    continue;
                }
                let batch = intact(log, sequence, DecisionBatch::decode(&payload))?;
                for mut found in self.wanted.found_in(&batch, partition, sequence) {
                    found.take_repeats(waiting);
                    // What was held is told by what became of it.
                    let told = newest.len();
                    newest.retain_mut(|earlier| !earlier.goes_on_in(&mut found));
                    self.total = self.total.saturating_sub((told - newest.len()) as u64);
                    self.total += 1;
                    newest.push_back(found);
                    if newest.len() > EVENTS_MAX {
                        newest.pop_front();
                    }
                }
                newest.iter_mut().for_each(|found| found.let_go(&batch.changes));
            }
        }
        self.whole &= !pass.is_stalled();
        Ok(newest)
    }
}

/// Events of which only copies are there that wait: the first one of each, and how many repeat it.
fn undecided(waiting: Vec<Waiting>, partition: u16) -> Vec<Found> {
    let mut first: Vec<Found> = Vec::new();
    for copy in waiting {
        let Waiting { sequence, received_at, occurred_at, workspace, event_id, person, trace_id, .. } = copy;
        if let Some(found) = first.iter_mut().find(|found| found.is(&workspace, &event_id)) {
            found.repeats_waiting += 1;
            continue;
        }
        let hop = Hop::Waiting { occurred_at, person, held: None };
        let waiting = Found::new(workspace, event_id, (partition, sequence), received_at, hop);
        first.push(Found { trace_id, ..waiting });
    }
    first
}
