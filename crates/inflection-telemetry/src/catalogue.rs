//! Every metric of the program with its labels, and what each label may say: what bounds the number of series.
//!
//! What a metric counts stands beside its registration, in the `metrics.rs` of its stage; `docs/metrics.md` is generated from
//! both, and a test of the binary compares them with what is registered. What is missing here fails that test.

use Label::{
    AliasFound, AliasTo, Code, Connection, Fate, Limit, Outcome, Partition, Provider, ProviderEvent, Reason, Route,
    SchemaVersion, SpanReason, Stage, State, Status, Store, Version, Workspace,
};

/// How a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Goes up; read with `_total` behind its name.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations, in seconds: read as `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// A label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is its name, and `values` says what it may be")]
pub enum Label {
    AliasFound,
    AliasTo,
    Code,
    Connection,
    Fate,
    Limit,
    Outcome,
    Partition,
    Provider,
    ProviderEvent,
    Reason,
    Route,
    SchemaVersion,
    SpanReason,
    Stage,
    State,
    Status,
    Store,
    Version,
    Workspace,
}

/// What a label may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// One of these words; anything else is counted as `other`.
    Words(&'static [&'static str]),
    /// A name that the operator chose.
    Configured,
    /// At most so many, and what they are.
    AtMost(usize, &'static str),
}

/// A row of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without the `_total` of a counter.
    pub name: &'static str,
    /// How it counts.
    pub kind: Kind,
    /// Its labels, in the order of the names.
    pub labels: &'static [Label],
}

/// What becomes of a word that is none of a label's, and of series beyond [`SERIES_MAX`].
pub const OTHER: &str = "other";
/// Most series of one metric. A configuration that is changed for years makes no more; what comes then is `other`.
pub const SERIES_MAX: usize = 2_000;

/// What is known of an address.
pub const ALIASES: &[&str] = &["none", "person", "shared", "withheld"];
/// Which limit a sender has reached.
pub const LIMITS: &[&str] = &["events", "requests", "share", "workspace_events"];
/// Why spans did not reach the collector.
pub const SPAN_REASONS: &[&str] = &["exit", "not_taken", "queue_full"];
/// Why calls are dead.
pub const REASONS: &[&str] = &["expired", "invalid", "refused"];
/// How requests to Segment end.
pub const OUTCOMES: &[&str] =
    &["accepted", "forbidden", "misconfigured", "refused", "throttled", "unanswered", "unauthorized", "unavailable"];
/// What becomes of calls, in the books.
pub const FATES: &[&str] = &["accepted", "dead", "dropped", "filtered", "parked", "pending", "produced", "suppressed"];
/// What a connection does.
pub const STATES: &[&str] = &["active", "broken", "paused", "paused_auth"];
/// Stages in which something may wait.
pub const STAGES: &[&str] = &["delivery", "identity"];
/// Stores of the bus: the streams on NATS, the journal of the embedded one.
pub const STORES: &[&str] = &["dead", "decisions", "events", "journal", "parked", "unparsed"];
/// What ingest is asked for; `unknown` is everything that is not there.
pub const ROUTES: &[&str] = &[
    "/v1/alias",
    "/v1/b",
    "/v1/batch",
    "/v1/events",
    "/v1/group",
    "/v1/identify",
    "/v1/import",
    "/v1/page",
    "/v1/screen",
    "/v1/track",
    "/v1/webhooks",
    "unknown",
];
/// What ingest answers.
pub const STATUSES: &[&str] =
    &["200", "207", "400", "401", "403", "404", "405", "408", "409", "413", "415", "422", "429", "500", "503"];

impl Label {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            AliasFound => "found",
            AliasTo => "to",
            Code => "code",
            Connection => "connection",
            Fate => "fate",
            Limit => "limit",
            Outcome => "outcome",
            Partition => "partition",
            Provider => "provider",
            ProviderEvent => "type",
            Reason | SpanReason => "reason",
            Route => "route",
            SchemaVersion => "schema_version",
            Stage => "stage",
            State => "state",
            Status => "status",
            Store => "store",
            Version => "version",
            Workspace => "workspace",
        }
    }

    /// What it may say.
    #[must_use]
    pub const fn values(self) -> Values {
        match self {
            Connection | Workspace => Values::Configured,
            AliasFound | AliasTo => Values::Words(ALIASES),
            Fate => Values::Words(FATES),
            Limit => Values::Words(LIMITS),
            Outcome => Values::Words(OUTCOMES),
            Reason => Values::Words(REASONS),
            Route => Values::Words(ROUTES),
            SpanReason => Values::Words(SPAN_REASONS),
            Stage => Values::Words(STAGES),
            State => Values::Words(STATES),
            Status => Values::Words(STATUSES),
            Store => Values::Words(STORES),
            Code => Values::AtMost(64, "the error codes of [api.md](api.md)"),
            Partition => Values::AtMost(1_024, "the partitions served here"),
            Provider => Values::AtMost(16, "the providers of [sources](sources/README.md), and `segment`"),
            ProviderEvent => Values::AtMost(32, "a provider's names of what is not ours, each known to its adapter"),
            SchemaVersion | Version => Values::AtMost(1, "of the program"),
        }
    }
}

const fn counter(name: &'static str, labels: &'static [Label]) -> Entry {
    Entry { name, kind: Kind::Counter, labels }
}

const fn gauge(name: &'static str, labels: &'static [Label]) -> Entry {
    Entry { name, kind: Kind::Gauge, labels }
}

const fn seconds(name: &'static str) -> Entry {
    Entry { name, kind: Kind::Histogram, labels: &[] }
}

/// Every metric, by name.
pub const CATALOGUE: &[Entry] = &[
    gauge("inflection_build_info", &[SchemaVersion, Version]),
    gauge("inflection_bus_available", &[]),
    counter("inflection_bus_connections", &[]),
    gauge("inflection_bus_store_bytes", &[Store]),
    gauge("inflection_bus_store_bytes_max", &[Store]),
    gauge("inflection_config_last_reload_success_timestamp_seconds", &[]),
    gauge("inflection_config_last_reload_successful", &[]),
    counter("inflection_delivery_calls_accepted", &[Connection, Workspace]),
    counter("inflection_delivery_calls_dead", &[Connection, Reason, Workspace]),
    counter("inflection_delivery_calls_filtered", &[Connection, Workspace]),
    gauge("inflection_delivery_calls_parked", &[Connection, Workspace]),
    gauge("inflection_delivery_calls_pending", &[Connection, Workspace]),
    counter("inflection_delivery_calls_suppressed", &[Connection, Workspace]),
    gauge("inflection_delivery_connection_state", &[Connection, State, Workspace]),
    seconds("inflection_delivery_fact_to_segment_seconds"),
    seconds("inflection_delivery_request_seconds"),
    counter("inflection_delivery_requests", &[Connection, Outcome, Workspace]),
    gauge("inflection_delivery_room_bytes", &[]),
    seconds("inflection_identity_append_seconds"),
    counter("inflection_identity_calls", &[]),
    counter("inflection_identity_clicks_held", &[]),
    counter("inflection_identity_conflicts", &[]),
    counter("inflection_identity_contradictions", &[]),
    counter("inflection_identity_events_undecodable", &[]),
    counter("inflection_identity_facts_duplicate", &[]),
    counter("inflection_identity_facts_folded", &[]),
    counter("inflection_identity_facts_suppressed", &[]),
    counter("inflection_identity_fenced", &[]),
    counter("inflection_identity_holds", &[]),
    counter("inflection_identity_message_bytes", &[]),
    counter("inflection_identity_messages", &[]),
    seconds("inflection_identity_snapshot_seconds"),
    counter("inflection_identity_snapshots", &[]),
    counter("inflection_identity_snapshots_failed", &[]),
    counter("inflection_identity_snapshots_unreadable", &[]),
    gauge("inflection_identity_state_budget_bytes", &[]),
    gauge("inflection_identity_state_bytes", &[Partition]),
    gauge("inflection_identity_state_held", &[]),
    gauge("inflection_identity_state_keys", &[Partition]),
    counter("inflection_identity_time_marks", &[]),
    counter("inflection_ingest_alias_changes", &[AliasTo]),
    counter("inflection_ingest_alias_lookups", &[AliasFound]),
    counter("inflection_ingest_aliases_unkept", &[]),
    seconds("inflection_ingest_append_seconds"),
    gauge("inflection_ingest_connections", &[]),
    counter("inflection_ingest_events_accepted", &[Workspace]),
    counter("inflection_ingest_events_rejected", &[Code]),
    counter("inflection_ingest_events_routed_by_address", &[]),
    counter("inflection_ingest_events_unmapped", &[Provider, ProviderEvent]),
    counter("inflection_ingest_message_bytes", &[]),
    counter("inflection_ingest_messages", &[]),
    counter("inflection_ingest_requests", &[Route, Status]),
    counter("inflection_ingest_requests_limited", &[Limit, Workspace]),
    counter("inflection_ingest_unkept", &[Provider]),
    gauge("inflection_ledger_calls", &[Connection, Fate, Workspace]),
    gauge("inflection_ledger_events_pending", &[]),
    gauge("inflection_ledger_gap", &[Connection, Workspace]),
    gauge("inflection_ledger_oldest_seconds", &[Stage]),
    counter("inflection_telemetry_spans_dropped", &[SpanReason]),
    counter("inflection_telemetry_spans_exported", &[]),
    counter("process_cpu_seconds", &[]),
    gauge("process_max_fds", &[]),
    gauge("process_open_fds", &[]),
    gauge("process_resident_memory_bytes", &[]),
    gauge("process_start_time_seconds", &[]),
];

impl Entry {
    /// The row of a metric.
    #[must_use]
    pub fn of(name: &str) -> Option<&'static Self> {
        CATALOGUE.iter().find(|entry| entry.name == name)
    }

    /// Most series that it makes in an install of so many connections, each in a workspace of its own, and partitions.
    #[must_use]
    pub fn series(&self, connections: usize, partitions: usize) -> usize {
        // A connection says its workspace too; providers are those that are set up, and each has few names.
        let has = |label| self.labels.contains(&label);
        let each = self.labels.iter().map(|label| match (label, label.values()) {
            (Workspace, _) if has(Connection) => 1,
            (Partition, _) => partitions,
            (_, Values::Configured) => connections,
            (_, Values::Words(words)) => words.len() + 1,
            (_, Values::AtMost(most, _)) => most,
        });
        each.product::<usize>() * if self.kind == Kind::Histogram { 19 } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Series of a process that runs every stage, with fifty connections on sixty-four partitions.
    const SERIES_WANTED_MAX: usize = 3_500;
    /// What nobody may put into a label: it has no bound, or names a person.
    const FORBIDDEN: [&str; 9] =
        ["email", "user", "person", "campaign", "message", "url", "subject", "event_id", "error"];

    #[test]
    fn the_number_of_series_is_bounded() {
        let by_metric = CATALOGUE.iter().map(|entry| (entry.name, entry.series(50, 64)));
        let all: usize = by_metric.clone().map(|(_, series)| series).sum();
        assert!(all <= SERIES_WANTED_MAX, "{all}: {:?}", by_metric.collect::<Vec<_>>());
        for entry in CATALOGUE {
            for label in entry.labels {
                assert!(!FORBIDDEN.iter().any(|word| label.name().contains(word)), "{} {label:?}", entry.name);
            }
        }
    }

    #[test]
    fn rows_and_words_are_in_order_and_once() {
        assert!(CATALOGUE.is_sorted_by(|one, next| one.name < next.name), "metrics by name");
        for entry in CATALOGUE {
            let names: Vec<_> = entry.labels.iter().map(|label| label.name()).collect();
            assert!(names.is_sorted(), "{}: {names:?}", entry.name);
            for label in entry.labels {
                if let Values::Words(words) = label.values() {
                    assert!(words.is_sorted_by(|one, next| one < next) && !words.contains(&OTHER), "{label:?}");
                }
            }
        }
    }
}
