//! The spans of traced calls: one for each call from when it is read to its end, within it one for each request it was in,
//! and one for the request itself, which has as many traces as it has traced calls and therefore its own.

use std::sync::Arc;
use std::time::SystemTime;

use inflection_telemetry::{Kind, Span, TraceContext, Tracer};

use crate::books::ConnectionKey;
use crate::dispatcher::Response;

/// The trace that a call belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallTrace {
    context: TraceContext,
    parent: TraceContext,
    began: SystemTime,
}

impl CallTrace {
    /// Begins the span of a call that carries a trace.
    pub(crate) fn begin(carried: Option<&[u8; TraceContext::BYTES]>) -> Option<Arc<Self>> {
        let parent = TraceContext::from_bytes(carried?)?;
        Some(Arc::new(Self { context: parent.child(), parent, began: SystemTime::now() }))
    }

    /// The trace's id, for log lines.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.context.trace_id()
    }

    /// What the call carries into the parked log.
    pub(crate) fn to_bytes(&self) -> [u8; TraceContext::BYTES] {
        self.context.to_bytes()
    }

    /// Ends the span of the call.
    pub(crate) fn end(&self, tracer: &Tracer, (workspace, connection): &ConnectionKey, message_id: &str, end: End) {
        if !tracer.is_on() {
            return;
        }
        let span = Span::new("deliver call", Kind::Consumer, self.context, Some(self.parent), self.began)
            .with("messaging.operation.type", "process")
            .with("messaging.destination.template", "decisions.<partition>")
            .with("messaging.message.id", message_id.to_owned())
            .with("inflection.workspace", workspace.as_str().to_owned())
            .with("inflection.connection", connection.as_str().to_owned())
            .with("inflection.outcome", end.name());
        tracer.end(if end.is_failure() { span.failed(end.name()) } else { span });
    }
}

/// How the span of a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Segment answered 2xx.
    Accepted,
    /// Its person is suppressed.
    Suppressed,
    /// It lies in the parked log; its next span begins when it is read from there.
    Parked,
    /// Segment refuses it by itself: it lies in the dead letters.
    Refused,
    /// It would be dropped by Segment: it lies in the dead letters.
    Invalid,
    /// It has waited too long: it lies in the dead letters.
    Expired,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Suppressed => "suppressed",
            Self::Parked => "parked",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
        }
    }

    fn is_failure(self) -> bool {
        matches!(self, Self::Refused | Self::Invalid | Self::Expired)
    }
}

/// A request with traced calls that is under way.
#[derive(Debug)]
pub(crate) struct RequestTrace {
    key: ConnectionKey,
    traced: Vec<Arc<CallTrace>>,
    calls: usize,
    began: SystemTime,
    /// Attempts before this one.
    attempts: u32,
}

impl RequestTrace {
    /// Begins the span of a request; `None` when none of its calls is traced.
    pub(crate) fn begin<'c>(
        tracer: &Tracer,
        key: &ConnectionKey,
        calls: impl ExactSizeIterator<Item = Option<&'c Arc<CallTrace>>>,
        attempts: u32,
    ) -> Option<Self> {
        if !tracer.is_on() {
            return None;
        }
        let count = calls.len();
        let traced: Vec<Arc<CallTrace>> = calls.flatten().map(Arc::clone).collect();
        let key = (!traced.is_empty()).then(|| key.clone())?;
        Some(Self { key, traced, calls: count, began: SystemTime::now(), attempts })
    }

    /// Ends it, and the spans of its calls.
    pub(crate) fn end(self, tracer: &Tracer, response: Response) {
        let Self { key, traced, calls, began, attempts } = self;
        let (at, request) = (SystemTime::now(), TraceContext::root());
        let told = |name, context, parent| {
            let span = Span::new(name, Kind::Client, context, parent, began)
                .with("http.request.method", "POST")
                .with("http.response.status_code", response.status())
                .with("http.request.resend_count", attempts)
                .with("inflection.outcome", response.outcome());
            if response.is_accepted() { span } else { span.failed(response.outcome()) }
        };
        let mut whole = told("POST /v1/batch", request, None)
            .with("url.template", "/v1/batch")
            .with("inflection.workspace", key.0.as_str().to_owned())
            .with("inflection.connection", key.1.as_str().to_owned())
            .with("inflection.calls", calls);
        for call in traced {
            whole = whole.link(call.context);
            tracer.end_at(told("send call", call.context.child(), Some(call.context)).link(request), at);
        }
        tracer.end_at(whole, at);
    }
}
