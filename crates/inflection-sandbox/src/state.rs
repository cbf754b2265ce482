//! Everything the sandbox remembers, behind one lock taken once a request.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::answer::{Answer, commits};
use crate::body::{Body, Item};
use crate::faults::{ActiveFaults, Fault};
use crate::flatten::Row;
use crate::kept::{Kept, KeptEnvelope};
use crate::message_ids::{MessageIds, Seen};
use crate::record::{Outcome, ReceivedRequest, Summary};
use crate::tables::Tables;
use crate::tally::{count, count_accepted};

/// Newest requests kept for the view.
const REQUESTS_MAX: usize = 10_000;
/// Newest duplicates kept, and newest drops, whatever has passed through the window of calls since.
const NOTABLE_MAX: usize = 1_000;

/// A request, read and examined: all that needs no lock is done.
pub(crate) struct Arriving<'a> {
    pub(crate) at_ms: i64,
    pub(crate) endpoint: &'static str,
    pub(crate) write_key: &'a str,
    pub(crate) wire_bytes: usize,
    pub(crate) bytes: usize,
    /// The envelope; its items have moved to `calls`.
    pub(crate) body: Body<'a>,
    pub(crate) calls: Vec<Examined<'a>>,
    /// A batch without items is a drop of its own, though no call.
    pub(crate) dropped_whole: Option<&'static str>,
    /// What a sender is told when no fault intervenes, and whether the calls are taken.
    pub(crate) verdict: Verdict,
}

/// What the rules say to a request.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Answered with success; every call has its own outcome.
    Take,
    /// Answered with a problem; nothing is taken, but what would have been dropped is noted.
    Refuse(Answer),
}

/// A call with what the rules say to it.
pub(crate) struct Examined<'a> {
    pub(crate) item: Item<'a>,
    /// Why it is dropped.
    pub(crate) reason: Option<&'static str>,
    /// The key of its messageId; absent when the sender gave none.
    pub(crate) id_key: Option<u128>,
    /// What it adds to the warehouse if it is accepted.
    pub(crate) rows: Vec<Row>,
}

impl Examined<'_> {
    fn message_id(&self) -> Option<&str> {
        self.item.head.as_ref().and_then(|head| head.message_id.text()).filter(|id| !id.is_empty())
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) faults: ActiveFaults,
    pub(crate) calls: VecDeque<Arc<Kept>>,
    pub(crate) duplicates: VecDeque<Arc<Kept>>,
    pub(crate) drops: VecDeque<Arc<Kept>>,
    pub(crate) requests: VecDeque<ReceivedRequest>,
    pub(crate) tables: Tables,
    summary: Summary,
    message_ids: MessageIds,
    calls_max: usize,
    calls_bytes_max: usize,
    calls_bytes: usize,
}

/// What all calls of one request share.
struct Shared<'a> {
    at_ms: i64,
    request: u64,
    write_key: Arc<str>,
    envelope: Option<Arc<KeptEnvelope>>,
    sent_at: Option<&'a str>,
}

impl State {
    pub(crate) fn new(faults: ActiveFaults, calls_max: usize, calls_bytes_max: usize) -> Self {
        Self {
            faults,
            calls: VecDeque::new(),
            duplicates: VecDeque::new(),
            drops: VecDeque::new(),
            requests: VecDeque::new(),
            tables: Tables::default(),
            summary: Summary::default(),
            message_ids: MessageIds::default(),
            calls_max,
            calls_bytes_max,
            calls_bytes: 0,
        }
    }

    /// The counts so far.
    pub(crate) fn summary(&self) -> Summary {
        Summary { message_ids_forgotten: self.message_ids.forgotten(), ..self.summary.clone() }
    }

    /// Decides on a request, takes its calls if they are to be taken, and says how to answer.
    pub(crate) fn receive(&mut self, arriving: Arriving<'_>) -> Answer {
        self.summary.requests += 1;
        self.summary.bytes += u64::try_from(arriving.bytes).unwrap_or(u64::MAX);
        let has_item = |text: &str| arriving.calls.iter().any(|call| call.item.raw.contains(text));
        let fault = self.faults.select(arriving.write_key, has_item);
        let mut noted = ReceivedRequest {
            request: self.summary.requests,
            at_ms: arriving.at_ms,
            endpoint: arriving.endpoint,
            write_key: arriving.write_key.to_owned(),
            status: None,
            items: arriving.calls.len(),
            bytes: arriving.bytes,
            wire_bytes: arriving.wire_bytes,
            fault: fault.as_ref().map(Fault::name),
            first_message_id: arriving.calls.first().and_then(Examined::message_id).map(ToOwned::to_owned),
        };
        let reached = fault.as_ref().is_none_or(commits);
        let answer = self.settle(arriving, reached);
        let answer = match &fault {
            Some(fault) => answer.under(fault),
            None => answer,
        };
        noted.status = answer.status_seen();
        self.note(noted);
        answer
    }

    /// Takes the calls, or the drops of a refused request, unless a fault keeps the request from being `reached` at all.
    fn settle(&mut self, arriving: Arriving<'_>, reached: bool) -> Answer {
        if reached && let Some(reason) = arriving.dropped_whole {
            count(&mut self.summary.dropped, reason);
        }
        let shared = Shared {
            at_ms: arriving.at_ms,
            request: self.summary.requests,
            write_key: Arc::from(arriving.write_key),
            envelope: kept_envelope(&arriving.body),
            sent_at: arriving.body.sent_at.text(),
        };
        let (answer, only_drops) = match arriving.verdict {
            Verdict::Take => (Answer::success(), false),
            Verdict::Refuse(answer) => (answer, true),
        };
        for call in arriving.calls {
            if reached && (call.reason.is_some() || !only_drops) {
                self.arrive(call, &shared);
            }
        }
        answer
    }

    fn arrive(&mut self, call: Examined<'_>, shared: &Shared<'_>) {
        self.summary.calls += 1;
        let arrival = self.summary.calls;
        let outcome = self.outcome(&call, arrival, shared.at_ms);
        let wanted = self.calls_max > 0 || outcome != Outcome::Accepted;
        let kept = wanted.then(|| Arc::new(keep(&call, arrival, outcome, shared)));
        match outcome {
            Outcome::Accepted => {
                count_accepted(&mut self.summary, &call.item);
                self.tables.add(call.rows);
            }
            Outcome::Duplicate { same_content, .. } => {
                self.summary.duplicates += 1;
                self.summary.duplicates_with_other_content += u64::from(!same_content);
                push_bounded(&mut self.duplicates, kept.as_ref(), NOTABLE_MAX);
            }
            Outcome::Dropped { reason } => {
                count(&mut self.summary.dropped, reason);
                push_bounded(&mut self.drops, kept.as_ref(), NOTABLE_MAX);
            }
        }
        if let Some(kept) = kept.filter(|_| self.calls_max > 0) {
            self.calls_bytes += kept.bytes();
            self.calls.push_back(kept);
            self.shrink_calls();
        }
    }

    fn outcome(&mut self, call: &Examined<'_>, arrival: u64, at_ms: i64) -> Outcome {
        if let Some(reason) = call.reason {
            return Outcome::Dropped { reason };
        }
        let seen = Seen { first: arrival, content: call.item.content, at_ms };
        match call.id_key.and_then(|key| self.message_ids.admit(key, seen)) {
            None => Outcome::Accepted,
            Some(known) => Outcome::Duplicate { first: known.first, same_content: known.content == call.item.content },
        }
    }

    fn shrink_calls(&mut self) {
        while self.calls.len() > self.calls_max || self.calls_bytes > self.calls_bytes_max {
            let Some(oldest) = self.calls.pop_front() else {
                return;
            };
            self.calls_bytes -= oldest.bytes();
        }
    }

    fn note(&mut self, request: ReceivedRequest) {
        match request.status {
            Some(status) => count(&mut self.summary.by_status, &status.to_string()),
            None => count(&mut self.summary.by_status, "none"),
        }
        if let Some(fault) = request.fault {
            count(&mut self.summary.by_fault, fault);
        }
        if self.requests.len() >= REQUESTS_MAX {
            self.requests.pop_front();
        }
        self.requests.push_back(request);
    }
}

fn kept_envelope(body: &Body<'_>) -> Option<Arc<KeptEnvelope>> {
    let (context, integrations) = (body.context.map(Into::into), body.integrations.map(Into::into));
    (context.is_some() || integrations.is_some()).then(|| Arc::new(KeptEnvelope { context, integrations }))
}

fn keep(call: &Examined<'_>, arrival: u64, outcome: Outcome, shared: &Shared<'_>) -> Kept {
    let head = call.item.head.as_ref();
    let own_sent_at = head.and_then(|head| head.sent_at.text());
    let unknown_kind = head.and_then(|head| head.kind.text()).unwrap_or_default();
    Kept {
        arrival,
        received_at_ms: shared.at_ms,
        request: shared.request,
        write_key: Arc::clone(&shared.write_key),
        kind: call.item.kind.map_or(unknown_kind, |kind| kind.name()).into(),
        // Segment assigns an id to a call without one; no two calls without one are duplicates.
        message_id: call.message_id().map_or_else(|| format!("api-sandbox-{arrival}").into(), Into::into),
        raw: call.item.raw.into(),
        envelope: shared.envelope.clone(),
        sent_at: own_sent_at.or(shared.sent_at).map(Into::into),
        outcome,
    }
}

fn push_bounded(queue: &mut VecDeque<Arc<Kept>>, kept: Option<&Arc<Kept>>, max: usize) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.extend(kept.map(Arc::clone));
}
