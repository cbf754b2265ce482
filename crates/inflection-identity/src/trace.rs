//! The spans of a step's traced events. The fold knows nothing of them: what an event carried goes around it.

use std::time::SystemTime;

use inflection_telemetry::{Kind, Span, TraceContext, Tracer};
use inflection_wire::DecisionBatch;

use crate::step::Traced;

/// Of one step.
#[derive(Debug)]
pub(crate) struct StepTrace {
    tracer: Tracer,
    partition: u16,
    began: SystemTime,
    /// When the fold was through and the append began.
    folded: SystemTime,
    decisions: usize,
    events: Vec<Folded>,
}

/// One traced event.
#[derive(Debug)]
struct Folded {
    traced: Traced,
    parent: TraceContext,
    fold: TraceContext,
    /// The span that delivery goes on from, if there is a decision.
    append: Option<TraceContext>,
}

impl StepTrace {
    /// Takes what was traced of a step that began at a moment, and puts into its decisions the spans that delivery goes on
    /// from. `None` when there is nothing to tell: then decisions keep what their events carried.
    pub(crate) fn begin(
        tracer: &Tracer,
        partition: u16,
        began: SystemTime,
        traced: Vec<Traced>,
        batch: &mut DecisionBatch,
    ) -> Option<Self> {
        if traced.is_empty() || !tracer.is_on() {
            return None;
        }
        // Decisions are in the order of their events.
        let mut carried = batch.decisions.iter_mut().filter_map(|decided| decided.trace.as_deref_mut());
        let mut events = Vec::with_capacity(traced.len());
        for traced in traced {
            let place = if traced.calls > 0 { carried.next() } else { None };
            let Some(parent) = TraceContext::from_bytes(&traced.trace) else { continue };
            let fold = parent.child();
            let append = place.map(|place| {
                let append = fold.child();
                *place = append.to_bytes();
                append
            });
            events.push(Folded { traced, parent, fold, append });
        }
        let (tracer, folded) = (tracer.clone(), SystemTime::now());
        Some(Self { tracer, partition, began, folded, decisions: batch.decisions.len(), events })
    }

    /// Ends the spans: the step lies in the decision log.
    pub(crate) fn end(self, sequence: u64) {
        let Self { tracer, partition, began, folded, decisions, events } = self;
        let at = SystemTime::now();
        let step = TraceContext::root();
        let mut whole = Span::new("fold step", Kind::Consumer, step, None, began)
            .with("messaging.operation.type", "process")
            .with("inflection.partition", partition)
            .with("inflection.sequence", sequence)
            .with("inflection.decisions", decisions);
        for Folded { traced, parent, fold, append } in events {
            whole = whole.link(fold);
            let span = Span::new("fold event", Kind::Consumer, fold, Some(parent), began)
                .with("messaging.operation.type", "process")
                .with("messaging.destination.template", "events.<partition>")
                .with("inflection.workspace", traced.workspace.as_str().to_owned())
                .with("inflection.partition", partition)
                .with("inflection.fact", traced.fact)
                .with("inflection.verdict", traced.verdict)
                .with("inflection.calls", traced.calls)
                .link(step);
            tracer.end_at(span, folded);
            let Some(append) = append else { continue };
            let span = Span::new("append decision", Kind::Producer, append, Some(fold), folded)
                .with("messaging.operation.type", "send")
                .with("messaging.destination.template", "decisions.<partition>")
                .with("inflection.partition", partition)
                .with("inflection.sequence", sequence);
            tracer.end_at(span, at);
        }
        tracer.end_at(whole, at);
    }
}
