//! What ingest counts, and where its spans go.

use inflection_telemetry::{Counter, CounterFamily, Gauge, Histogram, Registry, Tracer};

use crate::answer::Code;

/// Metrics of the ingest stage.
#[derive(Debug, Clone)]
pub struct IngestMetrics {
    /// Events stored and answered for: facts, as the ledger counts them. An SDK's identify may be two.
    pub(crate) accepted: CounterFamily,
    /// Events and whole requests refused, by code.
    rejected: CounterFamily,
    /// Provider events that are none of ours, by provider and type.
    pub(crate) unmapped: CounterFamily,
    /// Provider requests, or refused events of one, that could not be kept for a person to look at, by provider.
    pub(crate) unkept: CounterFamily,
    /// Bus messages written.
    pub(crate) messages: Counter,
    /// Time of an append.
    pub(crate) append_seconds: Histogram,
    /// Connections that are open.
    pub(crate) connections: Gauge,
    /// Where spans go.
    pub(crate) tracer: Tracer,
}

impl IngestMetrics {
    /// Registers the metrics.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            accepted: registry.counters("inflection_ingest_events_accepted", "Events stored, by workspace"),
            rejected: registry.counters("inflection_ingest_events_rejected", "Events and requests refused, by code"),
            unmapped: registry.counters("inflection_ingest_events_unmapped", "Provider events of no kind of ours"),
            unkept: registry
                .counters("inflection_ingest_unkept", "Provider requests of which what was refused could not be kept"),
            messages: registry.counter("inflection_ingest_messages", "Bus messages written"),
            append_seconds: registry.seconds("inflection_ingest_append_seconds", "Time of an append to the bus"),
            connections: registry.gauge("inflection_ingest_connections", "Open connections"),
            tracer: Tracer::default(),
        }
    }

    /// The same with somewhere for spans to go.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Counts events, or a whole request, as refused.
    pub(crate) fn reject(&self, code: Code, count: usize) {
        self.rejected.with(&[("code", code.name())]).add(count as u64);
    }
}
