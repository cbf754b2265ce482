//! What identity counts, and where its spans go.

use std::time::Duration;

use inflection_telemetry::{Counter, Gauge, GaugeFamily, Histogram, Liveness, Registry, Tracer};

use crate::step::Counts;

/// Metrics of the identity stage.
#[derive(Debug, Clone)]
pub struct IdentityMetrics {
    pub(crate) folded: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) calls: Counter,
    pub(crate) conflicts: Counter,
    pub(crate) contradictions: Counter,
    pub(crate) undecodable: Counter,
    pub(crate) suppressed: Counter,
    pub(crate) held: Counter,
    pub(crate) time_marks: Counter,
    pub(crate) messages: Counter,
    pub(crate) message_bytes: Counter,
    pub(crate) fenced: Counter,
    pub(crate) append_seconds: Histogram,
    pub(crate) state_keys: GaugeFamily,
    pub(crate) state_bytes: GaugeFamily,
    pub(crate) state_budget: Gauge,
    pub(crate) state_held: Gauge,
    pub(crate) holds: Counter,
    pub(crate) snapshots: Counter,
    pub(crate) snapshots_failed: Counter,
    pub(crate) snapshots_unreadable: Counter,
    pub(crate) snapshot_seconds: Histogram,
    /// Where loops give signs of life.
    pub(crate) liveness: Liveness,
    /// Where spans go.
    pub(crate) tracer: Tracer,
}

impl IdentityMetrics {
    /// Registers the metrics.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            folded: registry.counter("inflection_identity_facts_folded", "Facts seen for the first time"),
            duplicates: registry.counter("inflection_identity_facts_duplicate", "Facts whose event id was known"),
            calls: registry.counter("inflection_identity_calls", "Calls decided"),
            conflicts: registry
                .counter("inflection_identity_conflicts", "Facts claiming another user id than is known"),
            contradictions: registry.counter("inflection_identity_contradictions", "Opens after a hard bounce"),
            undecodable: registry.counter("inflection_identity_events_undecodable", "Events that could not be read"),
            suppressed: registry
                .counter("inflection_identity_facts_suppressed", "Facts of suppressed persons, dropped"),
            held: registry.counter("inflection_identity_clicks_held", "Clicks held to be judged with later ones"),
            time_marks: registry
                .counter("inflection_identity_time_marks", "Time marks appended so that held clicks are let go"),
            messages: registry.counter("inflection_identity_messages", "Decision messages appended"),
            message_bytes: registry.counter("inflection_identity_message_bytes", "Bytes of decision messages appended"),
            fenced: registry.counter("inflection_identity_fenced", "Appends refused because another owner had written"),
            state_keys: registry
                .gauges("inflection_identity_state_keys", "Persons, mails and event ids in memory, by partition"),
            state_bytes: registry.gauges(
                "inflection_identity_state_bytes",
                "Memory that persons, mails and event ids take, by partition",
            ),
            state_budget: registry.gauge(
                "inflection_identity_state_budget_bytes",
                "Memory that persons, mails and event ids may take in this process; 0: no budget",
            ),
            state_held: registry.gauge(
                "inflection_identity_state_held",
                "1 while partitions hold still because the state is over its budget",
            ),
            holds: registry.counter("inflection_identity_holds", "Seconds of single partitions that held still"),
            append_seconds: registry.seconds("inflection_identity_append_seconds", "Time of an append to the bus"),
            snapshots: registry.counter("inflection_identity_snapshots", "Snapshots taken"),
            snapshots_failed: registry
                .counter("inflection_identity_snapshots_failed", "Snapshots that were not stored"),
            snapshots_unreadable: registry
                .counter("inflection_identity_snapshots_unreadable", "Snapshots that could not be used in a recovery"),
            snapshot_seconds: registry.seconds("inflection_identity_snapshot_seconds", "Time to take a snapshot"),
            liveness: registry.liveness().clone(),
            tracer: Tracer::default(),
        }
    }

    /// Counts a message of so many bytes, how long its append took, and what is in it.
    pub(crate) fn appended(&self, bytes: usize, took: Duration, counts: &Counts) {
        self.append_seconds.observe(took);
        self.messages.add(1);
        self.message_bytes.add(bytes as u64);
        self.folded.add(counts.folded);
        self.duplicates.add(counts.duplicates);
        self.calls.add(counts.calls);
        self.conflicts.add(counts.conflicts);
        self.contradictions.add(counts.contradictions);
        self.undecodable.add(counts.undecodable);
        self.suppressed.add(counts.suppressed);
        self.held.add(counts.held);
    }

    /// The same with somewhere for spans to go.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }
}
