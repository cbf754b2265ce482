//! One step of the fold: from what was read to the next decision message. Pure: no clock, no I/O.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use inflection_domain::{
    Decision, Hash128, Head, OrderKind, PartitionState, PersonOrder, Released, Timestamp, Verdict, WorkspaceId,
};
use inflection_wire::{
    CarriedTrace, Decided, DecisionBatch, DecodeError, Event, EventBatch, Snapshot, SnapshotHead, WorkspaceTotals,
};

use crate::Policies;

/// Under which events are counted whose workspace cannot be read.
const UNKNOWN_WORKSPACE: &str = "_unknown";

/// How far input is consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Whole messages, up to this sequence.
    pub through: u64,
    /// Events of the message after it.
    pub events: u32,
}

/// The fold of one partition: state, totals and position. It is rebuilt from the decision log and goes on from there.
#[derive(Debug, Default)]
pub struct Step {
    state: PartitionState,
    totals: BTreeMap<WorkspaceId, WorkspaceTotals>,
    position: Position,
    /// Of the traced events that were folded and not yet told of: few, and none in most steps.
    traced: Vec<Traced>,
}

/// What became of a traced event.
#[derive(Debug)]
pub(crate) struct Traced {
    /// As the event carried it.
    pub(crate) trace: Box<[u8; 24]>,
    pub(crate) workspace: WorkspaceId,
    /// Its kind's name.
    pub(crate) fact: &'static str,
    /// Whether it was new.
    pub(crate) verdict: &'static str,
    pub(crate) calls: u64,
}

/// Input that is being folded: what is left of one message.
#[derive(Debug)]
pub(crate) struct Input {
    sequence: u64,
    received_at: Timestamp,
    /// To be obeyed ahead of its events.
    orders: Vec<PersonOrder>,
    events: std::vec::IntoIter<Result<Event, DecodeError>>,
    /// Events taken from it so far.
    taken: u32,
}

/// What a step counted, for metrics.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) folded: u64,
    pub(crate) duplicates: u64,
    pub(crate) calls: u64,
    pub(crate) conflicts: u64,
    pub(crate) contradictions: u64,
    pub(crate) undecodable: u64,
    pub(crate) suppressed: u64,
    pub(crate) held: u64,
    /// Orders to forget a person.
    pub(crate) erased: u64,
}

impl Input {
    /// Decodes a message. One that is no event batch at all becomes a single event that cannot be read.
    pub(crate) fn new(sequence: u64, payload: &Bytes) -> Self {
        let (received_at, orders, events) = match EventBatch::decode(payload) {
            Ok(batch) => (batch.received_at, batch.orders, batch.events),
            Err(error) => (Timestamp::default(), Vec::new(), vec![Err(error)]),
        };
        Self { sequence, received_at, orders, events: events.into_iter(), taken: 0 }
    }

    /// Whether something in it cannot be read, so that it must be kept for a person to look at.
    pub(crate) fn is_damaged(&self) -> bool {
        self.events.as_slice().iter().any(Result::is_err)
    }

    fn next(&mut self) -> Option<Result<Event, DecodeError>> {
        let event = self.events.next()?;
        self.taken += 1;
        Some(event)
    }
}

impl Step {
    /// Goes on where a snapshot stands.
    #[must_use]
    pub fn restore(snapshot: Snapshot) -> Self {
        let Snapshot { head, state } = snapshot;
        let SnapshotHead { consumed_through, consumed_events, totals, .. } = head;
        Self {
            state,
            totals: by_workspace(totals),
            position: Position { through: consumed_through, events: consumed_events },
            traced: Vec::new(),
        }
    }

    /// What a snapshot says beside the state, when `decisions_through` is the last message of the log so far.
    #[must_use]
    pub fn snapshot_head(&self, partition: u16, decisions_through: u64) -> SnapshotHead {
        SnapshotHead {
            partition,
            consumed_through: self.position.through,
            consumed_events: self.position.events,
            decisions_through,
            totals: self.totals.values().cloned().collect(),
        }
    }

    /// Takes over what an earlier owner appended. To be called with every message of the decision log, in order.
    pub fn replay(&mut self, batch: DecisionBatch) {
        self.state.apply(batch.changes);
        self.position = Position { through: batch.consumed_through, events: batch.consumed_events };
        self.totals = by_workspace(batch.totals);
    }

    /// How far input is consumed.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The folded state, to be compared.
    #[must_use]
    pub fn state(&self) -> &PartitionState {
        &self.state
    }

    /// Of everything that a snapshot and the log must agree on: state, totals and position.
    #[must_use]
    pub fn digest(&self) -> Hash128 {
        let (state, position, totals) = (self.state.digest(), self.position, self.totals.values());
        let text = format!("{state} {position:?} {:?}", totals.collect::<Vec<_>>());
        Hash128::of("step", &[text.as_bytes()])
    }

    /// Folds input until it ends or the output has about `bytes_max` bytes; what is left stays in `inputs`. `None` when
    /// there was nothing new.
    pub(crate) fn fold(
        &mut self,
        inputs: &mut VecDeque<Input>,
        policies: &Policies,
        bytes_max: usize,
    ) -> Option<(DecisionBatch, Counts)> {
        let latest = inputs.iter().map(|input| input.received_at).max()?;
        let oldest = inputs.iter().map(|input| input.received_at).min()?;
        self.state.advance(latest);
        let (mut decisions, mut counts, mut bytes) = (Vec::new(), Counts::default(), 0);
        while let Some(input) = inputs.front_mut() {
            // By the message and not by the step, and ahead of its events and not among them: holds end at the same place of
            // the log however it is read. A click that is due when it comes waits for the next message.
            self.state.tick(input.received_at);
            let at_its_head = self.position.events == 0;
            while at_its_head && bytes + self.state.changes_bytes() < bytes_max {
                let Some(released) = self.release(policies, &mut counts) else { break };
                if let Some(decided) = released {
                    bytes += size(&decided);
                    decisions.push(decided);
                }
            }
            if at_its_head && self.state.has_due() {
                break;
            }
            let (orders, received_at) = (std::mem::take(&mut input.orders), input.received_at);
            // An owner before us that has consumed some of its events has obeyed.
            if at_its_head {
                orders.iter().for_each(|order| self.state.obey(&policies.key, order));
                counts.erased += orders.iter().filter(|order| order.kind == OrderKind::Erase).count() as u64;
            }
            // Events of this message that an owner before us consumed already.
            while input.taken < self.position.events && input.next().is_some() {}
            while bytes + self.state.changes_bytes() < bytes_max {
                let Some(event) = input.next() else { break };
                if let Some(decided) = self.event(event, received_at, policies, &mut counts) {
                    bytes += size(&decided);
                    decisions.push(decided);
                }
            }
            if input.events.len() > 0 {
                self.position.events = input.taken;
                break;
            }
            self.position = Position { through: input.sequence, events: 0 };
            inputs.pop_front();
        }
        let batch = DecisionBatch {
            consumed_through: self.position.through,
            consumed_events: self.position.events,
            received_at: oldest,
            decisions,
            changes: self.state.take_changes(),
            totals: self.totals.values().cloned().collect(),
        };
        Some((batch, counts))
    }

    /// The traced events of the last step, in order.
    pub(crate) fn take_traced(&mut self) -> Vec<Traced> {
        std::mem::take(&mut self.traced)
    }

    /// Decides the next held click whose time has come, if there is one.
    fn release(&mut self, policies: &Policies, counts: &mut Counts) -> Option<Option<Decided>> {
        let Released { head, body, verdict } =
            self.state.release(|workspace| policies.get(workspace), &policies.key)?;
        let workspace = head.workspace.clone();
        let totals = self.totals.entry(workspace.clone()).or_insert_with(|| WorkspaceTotals::new(workspace));
        totals.held = totals.held.saturating_sub(1);
        Some(match verdict {
            Verdict::Folded(decision) => {
                counts.folded += 1;
                totals.folded += 1;
                // A hold outlasts what a trace is for: it ends with the click's arrival.
                told((head, body.into_vec().into(), None), decision, totals, counts)
            }
            Verdict::Suppressed | Verdict::Duplicate => {
                counts.suppressed += 1;
                totals.suppressed += 1;
                None
            }
        })
    }

    fn unknown(&mut self) -> &mut WorkspaceTotals {
        #[expect(clippy::expect_used, reason = "a constant that is a name")]
        let name = WorkspaceId::new(UNKNOWN_WORKSPACE).expect("a constant that is a name");
        self.totals.entry(name.clone()).or_insert_with(|| WorkspaceTotals::new(name))
    }

    fn event(
        &mut self,
        event: Result<Event, DecodeError>,
        received_at: Timestamp,
        policies: &Policies,
        counts: &mut Counts,
    ) -> Option<Decided> {
        let Ok(Event { head, body, trace }) = event else {
            counts.undecodable += 1;
            self.unknown().undecodable += 1;
            return None;
        };
        let verdict = self.state.fold(&policies.get(&head.workspace), &policies.key, &head);
        let totals = match self.totals.get_mut(&head.workspace) {
            Some(totals) => totals,
            None => self
                .totals
                .entry(head.workspace.clone())
                .or_insert_with(|| WorkspaceTotals::new(head.workspace.clone())),
        };
        let (verdict, decision) = match verdict {
            Verdict::Suppressed => {
                totals.suppressed += 1;
                counts.suppressed += 1;
                ("suppressed", None)
            }
            Verdict::Duplicate => {
                totals.duplicates += 1;
                counts.duplicates += 1;
                ("duplicate", None)
            }
            // It is counted as folded when it is decided.
            Verdict::Folded(decision) if decision.held => {
                totals.held += 1;
                counts.held += 1;
                ("held", Some(decision))
            }
            Verdict::Folded(decision) => {
                totals.folded += 1;
                counts.folded += 1;
                ("new", Some(decision))
            }
        };
        if let Some(trace) = &trace {
            let calls = decision.as_ref().map_or(0, |decision| decision.calls.len() as u64);
            let (trace, workspace) = (trace.clone(), head.workspace.clone());
            self.traced.push(Traced { trace, workspace, fact: head.kind.name(), verdict, calls });
        }
        let decision = decision?;
        if decision.held {
            self.state.hold(received_at, &head, &body);
        }
        told((head, body, trace), decision, totals, counts)
    }
}

/// Counts what a decision tells, and gives it. A fact without calls leaves its trace in the state and the totals only.
fn told(
    (head, body, trace): (Head, Bytes, CarriedTrace),
    decision: Decision,
    totals: &mut WorkspaceTotals,
    counts: &mut Counts,
) -> Option<Decided> {
    let calls = decision.calls.len() as u64;
    totals.calls += calls;
    totals.identity_conflicts += u64::from(decision.conflict);
    totals.contradictions += u64::from(decision.contradiction);
    counts.calls += calls;
    counts.conflicts += u64::from(decision.conflict);
    counts.contradictions += u64::from(decision.contradiction);
    (calls > 0).then_some(Decided {
        workspace: head.workspace,
        occurred_at: head.occurred_at,
        user: decision.user,
        calls: decision.calls,
        body,
        person: Some(head.person),
        trace,
    })
}

fn by_workspace(totals: Vec<WorkspaceTotals>) -> BTreeMap<WorkspaceId, WorkspaceTotals> {
    totals.into_iter().map(|totals| (totals.workspace.clone(), totals)).collect()
}

/// About how large a decision is when written.
fn size(decided: &Decided) -> usize {
    let calls: usize = decided.calls.iter().map(|call| 32 + call.link_url.as_ref().map_or(0, |url| url.len())).sum();
    82 + decided.body.len() + decided.user.as_ref().map_or(0, |user| user.as_str().len()) + calls
}

#[cfg(test)]
pub(crate) mod tests;
