//! Where spans go.

use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry_sdk::trace::SpanData;
use tokio::sync::mpsc;

use super::context::{TraceContext, TraceParent};
use super::sampling::{Draw, EVENTS_A_REQUEST_MAX, Sampling};
use super::span::Span;
use crate::Counter;

/// Spans that wait to be sent; further ones are dropped and counted. A span is about 600 bytes.
pub(super) const QUEUE_SPANS_MAX: usize = 8192;

/// Takes the spans of a process. Clones share it; the default one is off.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    sampling: Sampling,
    draw: Draw,
    queue: mpsc::Sender<SpanData>,
    dropped: Counter,
}

impl Tracer {
    pub(super) fn new(sampling: Sampling, queue: mpsc::Sender<SpanData>, dropped: Counter) -> Self {
        Self(Some(Arc::new(Inner { sampling, draw: Draw::new(sampling.ratio), queue, dropped })))
    }

    /// Whether spans go anywhere. Where they do not, nothing of them is worth computing.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The caller's span that events of its request are to be traced under: none, unless the caller keeps its own trace
    /// and its word counts.
    #[must_use]
    pub fn parent(&self, caller: Option<TraceParent>) -> Option<TraceContext> {
        let counts = self.0.as_ref().is_some_and(|inner| inner.sampling.parent_based);
        caller.filter(|caller| caller.sampled && counts).map(|caller| caller.context)
    }

    /// Which events of a request are traced, by their numbers. With a parent all of them, up to a bound; without one by the
    /// share.
    #[must_use]
    pub fn sample(&self, events: usize, parent: Option<TraceContext>) -> Vec<usize> {
        match &self.0 {
            None => Vec::new(),
            Some(_) if parent.is_some() => (0..events.min(EVENTS_A_REQUEST_MAX)).collect(),
            Some(inner) => inner.draw.take(events),
        }
    }

    /// Takes a span that has ended now. It never waits: a span that finds the queue full is dropped and counted.
    pub fn end(&self, span: Span) {
        self.end_at(span, SystemTime::now());
    }

    /// Takes a span that has ended at a moment.
    pub fn end_at(&self, span: Span, at: SystemTime) {
        if let Some(inner) = &self.0
            && inner.queue.try_send(span.ended(at).into_data()).is_err()
        {
            inner.dropped.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::span::Kind;
    use super::*;
    use crate::Registry;

    fn tracer(ratio: f64, parent_based: bool, queue: usize) -> (Tracer, mpsc::Receiver<SpanData>, Counter) {
        let (sender, receiver) = mpsc::channel(queue);
        let dropped = Registry::default().counter("dropped", "Help");
        (Tracer::new(Sampling { ratio, parent_based }, sender, dropped.clone()), receiver, dropped)
    }

    #[test]
    fn a_sampled_parent_decides_and_any_other_does_not() {
        let caller = |sampled| Some(TraceParent { context: TraceContext::root(), sampled });
        let (never, ..) = tracer(0.0, true, 1);
        let parent = never.parent(caller(true));
        assert_eq!(never.sample(3, parent), [0, 1, 2]);
        assert_eq!(never.sample(10_000, parent).len(), EVENTS_A_REQUEST_MAX);
        for other in [None, caller(false)] {
            assert_eq!(never.parent(other), None);
            assert_eq!(never.sample(3, never.parent(other)), Vec::<usize>::new());
        }
        let (always, ..) = tracer(1.0, true, 1);
        assert_eq!(always.sample(2, always.parent(caller(false))), [0, 1]);
        let (own, ..) = tracer(0.0, false, 1);
        assert_eq!(own.parent(caller(true)), None, "a sampler that is not based on parents");
        let off = Tracer::default();
        assert_eq!((off.is_on(), off.parent(caller(true)), off.sample(9, None).len()), (false, None, 0));
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (tracer, mut queue, dropped) = tracer(1.0, true, 2);
        for _ in 0..5 {
            tracer.end(Span::new("x", Kind::Client, TraceContext::root(), None, SystemTime::now()));
        }
        assert_eq!(dropped.get(), 3);
        assert!(queue.try_recv().is_ok() && queue.try_recv().is_ok() && queue.try_recv().is_err());
    }
}
