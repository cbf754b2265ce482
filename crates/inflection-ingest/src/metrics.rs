//! What ingest counts, and where its spans go.

use inflection_domain::{Alias, WorkspaceId};
use inflection_telemetry::{Counter, CounterFamily, Gauge, Histogram, Liveness, Registry, Tracer};

use crate::answer::Code;
use crate::limits::Limit;

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
    /// Requests refused because their sender sends too much, by workspace and limit.
    limited: CounterFamily,
    /// Facts that had only an address and went to the person it is tied to.
    pub(crate) routed: Counter,
    /// Aliases of addresses that were looked up, by what was found.
    alias_lookups: CounterFamily,
    /// Aliases of addresses that were made or changed, by what they are now.
    alias_changes: CounterFamily,
    /// Aliases that there was no room for.
    pub(crate) aliases_unkept: Counter,
    /// Bus messages written.
    pub(crate) messages: Counter,
    /// Bytes of them.
    pub(crate) message_bytes: Counter,
    /// Time of an append.
    pub(crate) append_seconds: Histogram,
    /// Connections that are open.
    pub(crate) connections: Gauge,
    /// Requests that were answered, by route and status.
    pub(crate) requests: CounterFamily,
    /// Where loops give signs of life.
    pub(crate) liveness: Liveness,
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
            limited: registry.counters(
                "inflection_ingest_requests_limited",
                "Requests refused because their sender sends too much, by workspace and limit",
            ),
            routed: registry.counter(
                "inflection_ingest_events_routed_by_address",
                "Events with only an address that went to the person an identify had tied it to",
            ),
            alias_lookups: registry
                .counters("inflection_ingest_alias_lookups", "Aliases of addresses looked up, by what was found"),
            alias_changes: registry.counters(
                "inflection_ingest_alias_changes",
                "Aliases of addresses made or changed, by what they became",
            ),
            aliases_unkept: registry
                .counter("inflection_ingest_aliases_unkept", "Aliases of addresses that there was no room for"),
            messages: registry.counter("inflection_ingest_messages", "Bus messages written"),
            message_bytes: registry.counter("inflection_ingest_message_bytes", "Bytes of bus messages written"),
            append_seconds: registry.seconds("inflection_ingest_append_seconds", "Time of an append to the bus"),
            connections: registry.gauge("inflection_ingest_connections", "Open connections"),
            requests: registry.counters("inflection_ingest_requests", "Requests answered, by route and status"),
            liveness: registry.liveness().clone(),
            tracer: Tracer::default(),
        }
    }

    /// The same with somewhere for spans to go.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Counts a request as refused because of a limit of its sender's. Limits are few, and workspaces are configured.
    pub(crate) fn limit(&self, workspace: &WorkspaceId, limit: Limit) {
        self.limited.with(&[("workspace", workspace.as_str()), ("limit", limit.name())]).add(1);
    }

    /// Counts a look at the alias of an address.
    pub(crate) fn alias_looked_up(&self, found: Option<&Alias>) {
        self.alias_lookups.with(&[("found", found.map_or("none", alias_name))]).add(1);
    }

    /// Counts an alias that has become another one.
    pub(crate) fn alias_changed(&self, to: &Alias) {
        self.alias_changes.with(&[("to", alias_name(to))]).add(1);
    }

    /// Counts events, or a whole request, as refused.
    pub(crate) fn reject(&self, code: Code, count: usize) {
        self.rejected.with(&[("code", code.name())]).add(count as u64);
    }
}

fn alias_name(alias: &Alias) -> &'static str {
    match alias {
        Alias::Person { .. } => "person",
        Alias::Shared => "shared",
        Alias::Withheld => "withheld",
    }
}
