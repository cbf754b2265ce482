//! One span.

use std::time::SystemTime;

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::context::TraceContext;

/// Most links of a span, OpenTelemetry's own default; further ones are counted.
const LINKS_MAX: usize = 128;

/// What a span is to those beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It answers a request.
    Server,
    /// It asks another service.
    Client,
    /// It hands a message over.
    Producer,
    /// It takes a message up.
    Consumer,
}

/// The value of an attribute. Values are words, numbers and names that operators chose: never a key, never an address, never
/// a text of a sender.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute(Value);

/// A span. It is built when it ends, by whoever knows how; [`super::Tracer::end`] takes it.
#[derive(Debug, Clone)]
pub struct Span(SpanData);

impl Span {
    /// A span that began at a moment, within a parent or at the root of its trace.
    #[must_use]
    pub fn new(
        name: &'static str,
        kind: Kind,
        context: TraceContext,
        parent: Option<TraceContext>,
        began: SystemTime,
    ) -> Self {
        Self(SpanData {
            span_context: span_context(context, false),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| parent.span),
            // Parents of consumers and servers are in the process before.
            parent_span_is_remote: parent.is_some() && matches!(kind, Kind::Server | Kind::Consumer),
            span_kind: match kind {
                Kind::Server => SpanKind::Server,
                Kind::Client => SpanKind::Client,
                Kind::Producer => SpanKind::Producer,
                Kind::Consumer => SpanKind::Consumer,
            },
            name: name.into(),
            start_time: began,
            end_time: began,
            attributes: Vec::with_capacity(8),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        })
    }

    /// Adds what is known of it.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Attribute>) -> Self {
        self.0.attributes.push(KeyValue::new(key, value.into().0));
        self
    }

    /// Names another span that it has to do with, of whatever trace.
    #[must_use]
    pub fn link(mut self, to: TraceContext) -> Self {
        if self.0.links.links.len() < LINKS_MAX {
            self.0.links.links.push(Link::with_context(span_context(to, true)));
        } else {
            self.0.links.dropped_count += 1;
        }
        self
    }

    /// Says that it went wrong, and why, in a word of a closed list.
    #[must_use]
    pub fn failed(mut self, why: &'static str) -> Self {
        self.0.status = Status::error(why);
        self.with("error.type", why)
    }

    /// When it ended.
    #[must_use]
    pub fn ended(mut self, at: SystemTime) -> Self {
        // Clocks are set back now and then; a span that ends before it begins is refused by some.
        self.0.end_time = at.max(self.0.start_time);
        self
    }

    pub(super) fn into_data(self) -> SpanData {
        self.0
    }
}

fn span_context(context: TraceContext, is_remote: bool) -> SpanContext {
    SpanContext::new(context.trace, context.span, TraceFlags::SAMPLED, is_remote, TraceState::NONE)
}

impl From<&'static str> for Attribute {
    fn from(word: &'static str) -> Self {
        Self(word.into())
    }
}

impl From<String> for Attribute {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<u16> for Attribute {
    fn from(number: u16) -> Self {
        Self(i64::from(number).into())
    }
}

impl From<u32> for Attribute {
    fn from(number: u32) -> Self {
        Self(i64::from(number).into())
    }
}

impl From<u64> for Attribute {
    fn from(number: u64) -> Self {
        Self(i64::try_from(number).unwrap_or(i64::MAX).into())
    }
}

impl From<usize> for Attribute {
    fn from(number: usize) -> Self {
        Self(i64::try_from(number).unwrap_or(i64::MAX).into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_span_is_what_was_said_of_it() {
        let (parent, other) = (TraceContext::root(), TraceContext::root());
        let context = parent.child();
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let span = Span::new("fold event", Kind::Consumer, context, Some(parent), began)
            .with("inflection.partition", 3_u16)
            .link(other)
            .failed("timeout")
            .ended(began + Duration::from_secs(1));
        let data = span.clone().into_data();
        assert_eq!(data.span_context.trace_id().to_string(), parent.trace_id());
        assert_eq!(data.parent_span_id, parent.span);
        assert!(data.parent_span_is_remote && data.span_context.is_sampled());
        assert_eq!(data.end_time, began + Duration::from_secs(1));
        assert_eq!(data.status, Status::error("timeout"));
        assert_eq!(data.links.len(), 1);
        let earlier = span.ended(began - Duration::from_secs(5)).into_data();
        assert_eq!(earlier.end_time, began, "a span never ends before it begins");
    }

    #[test]
    fn links_are_bounded_and_counted() {
        let context = TraceContext::root();
        let span = Span::new("POST", Kind::Client, context, None, SystemTime::UNIX_EPOCH);
        let data = (0..130).fold(span, |span, _| span.link(context.child())).into_data();
        assert_eq!((data.links.len(), data.links.dropped_count), (LINKS_MAX, 2));
    }
}
