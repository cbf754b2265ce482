//! The sandbox itself: from the bytes of a request to an answer, and the handle that others hold.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::answer::Answer;
use crate::auth::Credentials;
use crate::body::{self, BATCH_ITEMS_MAX, Body, Item, Refusal};
use crate::config::{Mode, SandboxConfig};
use crate::dates;
use crate::decode::{Encoding, decode};
use crate::faults::{ActiveFaults, Faults};
use crate::flatten::{self, Row};
use crate::kept::{Kept, merge};
use crate::kind::Endpoint;
use crate::message_ids::IdHasher;
use crate::record::{ReceivedCall, ReceivedRequest, Summary};
use crate::rules;
use crate::server;
use crate::state::{Arriving, Examined, State, Verdict};

/// A stand-in for Segment. Clones are handles to the same one.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    mode: Mode,
    write_keys: HashSet<String>,
    calls_max: usize,
    id_hasher: IdHasher,
    state: Mutex<State>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("mode", &self.0.mode)
            .field("calls_max", &self.0.calls_max)
            .finish_non_exhaustive()
    }
}

/// A request as it came in.
pub(crate) struct Delivered<'a> {
    pub(crate) endpoint: Endpoint,
    pub(crate) credentials: Credentials,
    pub(crate) encoding: Encoding,
    /// The body, unless it was larger than anything that could be taken.
    pub(crate) wire: Result<&'a [u8], Refusal>,
}

impl Sandbox {
    /// Makes a sandbox that has received nothing yet.
    pub fn new(config: SandboxConfig) -> Self {
        let SandboxConfig { mode, write_keys, faults, calls_max, calls_bytes_max } = config;
        Self(Arc::new(Inner {
            mode,
            write_keys: write_keys.into_iter().collect(),
            calls_max,
            id_hasher: IdHasher::default(),
            state: Mutex::new(State::new(ActiveFaults::new(faults), calls_max, calls_bytes_max)),
        }))
    }

    /// Serves plain HTTP/1.1 on the listener until `shutdown`, then lets the requests in hand end and returns when every
    /// connection is closed. Delays of faults end at once.
    ///
    /// # Errors
    ///
    /// When the listener is unusable from the start. Later troubles with single connections are logged.
    ///
    /// # Cancel safety
    ///
    /// Dropping it closes the listener but leaves open connections to themselves; prefer `shutdown`.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        server::serve(self.clone(), listener, shutdown).await
    }

    /// Replaces all faults, with fresh budgets.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = ActiveFaults::new(faults);
    }

    /// The newest calls, in order of arrival: accepted, duplicate and dropped ones, each marked.
    pub fn calls(&self) -> Vec<ReceivedCall> {
        self.kept_calls().iter().map(|kept| kept.call()).collect()
    }

    /// Shows the newest calls one by one, in order of arrival: for windows that are large as values.
    pub fn for_each_call(&self, mut look: impl FnMut(ReceivedCall)) {
        self.kept_calls().iter().for_each(|kept| look(kept.call()));
    }

    /// The newest requests, in order of arrival.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state().requests.iter().cloned().collect()
    }

    /// The counts since the sandbox was made.
    pub fn summary(&self) -> Summary {
        self.state().summary()
    }

    /// The window of calls. Cheap to take; the calls are shared.
    pub(crate) fn kept_calls(&self) -> Vec<Arc<Kept>> {
        self.state().calls.iter().map(Arc::clone).collect()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means a panic while counting. Showing what is there beats refusing to show anything.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request and says how to answer it.
    pub(crate) fn receive(&self, delivered: Delivered<'_>) -> Answer {
        let at_ms = dates::now_ms();
        let wire_bytes = delivered.wire.as_ref().map_or(0, |wire| wire.len());
        let decoded = delivered.wire.and_then(|wire| decode(delivered.encoding, wire, delivered.endpoint.bytes_max()));
        let bytes = decoded.as_ref().map_or(0, |decoded| decoded.len());
        let body = match &decoded {
            Err(refusal) => Err(*refusal),
            Ok(decoded) => std::str::from_utf8(decoded)
                .map_err(|_not_utf8| Refusal::MalformedJson)
                .and_then(|text| body::parse(delivered.endpoint, text)),
        };
        let key_in_body = body.as_ref().ok().and_then(|body| body.write_key.text()).unwrap_or_default().to_owned();
        let write_key = match delivered.credentials {
            Credentials::Basic(key) => key,
            Credentials::InBody => key_in_body,
            Credentials::Unreadable => String::new(),
        };
        let endpoint = delivered.endpoint;
        let mut arriving = Arriving {
            at_ms,
            endpoint: endpoint.name(),
            write_key: &write_key,
            wire_bytes,
            bytes,
            body: Body::default(),
            calls: Vec::new(),
            dropped_whole: None,
            verdict: Verdict::Take,
        };
        match body {
            Err(refusal) => arriving.verdict = Verdict::Refuse(Answer::refused(refusal)),
            Ok(body) => self.examine(&mut arriving, body),
        }
        self.state().receive(arriving)
    }

    /// Applies the rules to a body that could be read.
    fn examine<'a>(&self, arriving: &mut Arriving<'a>, mut body: Body<'a>) {
        let known = self.0.write_keys.contains(arriving.write_key);
        if arriving.write_key.is_empty() {
            arriving.verdict = Verdict::Refuse(Answer::refused(Refusal::MissingWriteKey));
            return;
        }
        if self.0.mode == Mode::Strict && !known {
            arriving.verdict = Verdict::Refuse(Answer::unknown_key());
            return;
        }
        let lost_source = (!known && !self.0.write_keys.is_empty()).then_some(rules::UNKNOWN_SOURCE);
        let items = std::mem::take(&mut body.items);
        arriving.dropped_whole = items.is_empty().then_some(rules::EMPTY_BATCH);
        let examine = |(at, item)| self.examine_item(&body, at, item, lost_source);
        arriving.calls = items.into_iter().enumerate().map(examine).collect();
        if self.0.mode == Mode::Strict {
            let of_a_call = arriving.calls.iter().enumerate().find_map(|(at, call)| Some((Some(at), call.reason?)));
            let of_the_batch = arriving.dropped_whole.map(|reason| (None, reason));
            if let Some((at, reason)) = of_a_call.or(of_the_batch) {
                arriving.verdict = Verdict::Refuse(Answer::would_drop(at, reason));
            }
        }
        arriving.body = body;
    }

    fn examine_item<'a>(
        &self,
        body: &Body<'a>,
        at: usize,
        item: Item<'a>,
        lost_source: Option<&'static str>,
    ) -> Examined<'a> {
        let over = (at >= BATCH_ITEMS_MAX).then_some(rules::BATCH_OVER_LIMIT);
        let reason = lost_source.or(over).or_else(|| rules::drop_reason(item.kind, item.head.as_ref()));
        let message_id = item.head.as_ref().and_then(|head| head.message_id.text()).filter(|id| !id.is_empty());
        let id_key = message_id.map(|id| self.0.id_hasher.key(id));
        let rows = if reason.is_none() && self.0.calls_max > 0 { rows(body, &item) } else { Vec::new() };
        Examined { item, reason, id_key, rows }
    }
}

fn rows(body: &Body<'_>, item: &Item<'_>) -> Vec<Row> {
    let own_sent_at = item.head.as_ref().and_then(|head| head.sent_at.text());
    let sent = own_sent_at.or(body.sent_at.text()).is_some();
    let call = merge(item.raw, body.context, body.integrations);
    item.kind.map(|kind| flatten::rows(kind, &call, sent)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
