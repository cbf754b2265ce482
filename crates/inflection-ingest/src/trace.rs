//! The trace of a request: which of its facts are traced, and the spans of those.
//!
//! A caller's own trace is taken up at `/v1/events` only, whose callers have shown a key that is kept from the public. Anybody
//! could write a header at the other doors; there it becomes a link.

use std::time::SystemTime;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use inflection_domain::{Fact, PartitionCount, WorkspaceId};
use inflection_telemetry::{Kind, Span, TraceContext, TraceParent, Tracer};

use crate::segment::Endpoint;

/// Of a request; empty when nothing of it can be traced.
#[derive(Debug, Default)]
pub(crate) struct RequestTrace(Option<Box<Inner>>);

#[derive(Debug)]
struct Inner {
    tracer: Tracer,
    began: SystemTime,
    door: Door,
    caller: Option<TraceParent>,
    /// The caller's span, when its trace is taken up.
    parent: Option<TraceContext>,
    /// The request's own span, once something of it is traced.
    request: Option<TraceContext>,
    workspace: Option<WorkspaceId>,
    facts: usize,
    appends: Vec<Append>,
}

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Door {
    /// The name of its spans: method and route.
    name: &'static str,
    route: &'static str,
    takes_up: bool,
}

/// A traced fact on its way to disk.
#[derive(Debug)]
struct Append {
    context: TraceContext,
    /// The request's span, when it is in the same trace.
    parent: Option<TraceContext>,
    fact: &'static str,
    partition: u16,
    began: SystemTime,
}

impl RequestTrace {
    /// Looks at the head of a request.
    pub(crate) fn begin(tracer: &Tracer, request: &Request<Body>) -> Self {
        if !tracer.is_on() || request.method() != Method::POST {
            return Self::default();
        }
        let Some(door) = door(request.uri().path()) else { return Self::default() };
        let mut headers = request.headers().get_all("traceparent").iter();
        // Two of them are none (W3C Trace Context, "Processing model").
        let caller = headers.next().filter(|_| headers.next().is_none());
        let caller = caller.and_then(|text| TraceParent::parse(text.to_str().ok()?));
        let parent = tracer.parent(caller).filter(|_| door.takes_up);
        Self(Some(Box::new(Inner {
            tracer: tracer.clone(),
            began: SystemTime::now(),
            door,
            caller,
            parent,
            request: None,
            workspace: None,
            facts: 0,
            appends: Vec::new(),
        })))
    }

    /// Decides which facts are traced; gives their numbers, and what is to be stored with them.
    pub(crate) fn sample(
        &mut self,
        facts: &[Fact<'_>],
        partitions: PartitionCount,
    ) -> Vec<(usize, [u8; TraceContext::BYTES])> {
        let Some(inner) = &mut self.0 else { return Vec::new() };
        let (sampled, began) = (inner.tracer.sample(facts.len(), inner.parent), SystemTime::now());
        let mut carried = Vec::new();
        for (number, fact) in sampled.into_iter().filter_map(|number| facts.get(number).map(|fact| (number, fact))) {
            let parent = inner.parent;
            let request = *inner.request.get_or_insert_with(|| match parent {
                Some(parent) => parent.child(),
                None => TraceContext::root(),
            });
            // Without a caller's trace every fact has its own, so that a trace is one fact's way; the first one's begins with
            // the request.
            let within = (inner.parent.is_some() || inner.appends.is_empty()).then_some(request);
            let context = within.map_or_else(TraceContext::root, |request| request.child());
            let partition = partitions.of(&fact.head.workspace, &fact.body.person).index();
            inner.workspace = Some(fact.head.workspace.clone());
            inner.appends.push(Append { context, parent: within, fact: fact.head.kind.name(), partition, began });
            carried.push((number, context.to_bytes()));
        }
        inner.facts = facts.len();
        carried
    }

    /// Ends the spans of storing. When something could not be stored nobody knows which: the sender sends all again.
    pub(crate) fn stored(&mut self, stored: bool) {
        let Some(inner) = &mut self.0 else { return };
        if let Some(first) = inner.appends.first().filter(|_| !stored) {
            tracing::warn!(trace_id = first.context.trace_id(), "a traced event could not be stored");
        }
        let at = SystemTime::now();
        for Append { context, parent, fact, partition, began } in inner.appends.drain(..) {
            let mut span = Span::new("append event", Kind::Producer, context, parent, began)
                .with("messaging.operation.type", "send")
                .with("messaging.destination.template", "events.<partition>")
                .with("inflection.partition", partition)
                .with("inflection.fact", fact);
            if let Some(request) = inner.request.filter(|_| parent.is_none()) {
                span = span.link(request);
            }
            inner.tracer.end_at(if stored { span } else { span.failed("storage_unavailable") }, at);
        }
    }

    /// Ends the span of the request, if something of it was traced.
    pub(crate) fn end(self, status: StatusCode) {
        let Some(inner) = self.0 else { return };
        let Some(request) = inner.request else { return };
        let mut span = Span::new(inner.door.name, Kind::Server, request, inner.parent, inner.began)
            .with("http.request.method", "POST")
            .with("http.route", inner.door.route)
            .with("http.response.status_code", status.as_u16())
            .with("inflection.workspace", inner.workspace.map_or(String::new(), |id| id.as_str().to_owned()))
            .with("inflection.facts", inner.facts);
        if let Some(caller) = inner.caller.filter(|_| inner.parent.is_none()) {
            span = span.link(caller.context);
        }
        inner.tracer.end(if status.is_server_error() { span.failed("server_error") } else { span });
    }
}

/// What is posted to a path, if events are. Names are of a closed list: a path has tokens in it.
fn door(path: &str) -> Option<Door> {
    let door = |name, route| Some(Door { name, route, takes_up: false });
    if path == "/v1/events" {
        return Some(Door { name: "POST /v1/events", route: "/v1/events", takes_up: true });
    }
    match Endpoint::of(path) {
        Some(Endpoint::Batch) => door("POST /v1/batch", "/v1/batch"),
        Some(Endpoint::Single(_)) => door("POST /v1/{call}", "/v1/{call}"),
        None if path.starts_with("/v1/webhooks/") => {
            door("POST /v1/webhooks/{provider}/{token}", "/v1/webhooks/{provider}/{token}")
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_are_named_without_what_callers_write() {
        for (path, expected) in [
            ("/v1/events", Some(("POST /v1/events", true))),
            ("/v1/batch", Some(("POST /v1/batch", false))),
            ("/v1/track", Some(("POST /v1/{call}", false))),
            ("/v1/webhooks/sendgrid/a-token", Some(("POST /v1/webhooks/{provider}/{token}", false))),
            ("/v1/webhooks", None),
            ("/metrics", None),
        ] {
            assert_eq!(door(path).map(|door| (door.name, door.takes_up)), expected, "{path}");
        }
    }

    #[test]
    fn nothing_is_traced_where_traces_are_off() {
        let request = Request::post("/v1/events").body(Body::empty()).unwrap();
        let mut trace = RequestTrace::begin(&Tracer::default(), &request);
        assert!(trace.0.is_none());
        assert!(trace.sample(&[], PartitionCount::new(1).unwrap()).is_empty());
        trace.stored(true);
        trace.end(StatusCode::OK);
    }
}
