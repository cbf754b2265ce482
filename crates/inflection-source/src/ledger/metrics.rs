//! The books as metrics.

use inflection_domain::Timestamp;
use inflection_telemetry::{Gauge, GaugeFamily, Registry};

use super::Ledger;

/// Gauges of what the ledger says.
#[derive(Debug, Clone)]
pub(crate) struct LedgerMetrics {
    calls: GaugeFamily,
    gap: GaugeFamily,
    pending_events: Gauge,
    oldest: GaugeFamily,
}

impl LedgerMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            calls: registry.gauges("inflection_ledger_calls", "Calls of a connection, by what became of them"),
            gap: registry.gauges("inflection_ledger_gap", "Calls that are missing or too many; not zero is a defect"),
            pending_events: registry.gauge("inflection_ledger_events_pending", "Events that are not decided yet"),
            oldest: registry.gauges(
                "inflection_ledger_oldest_seconds",
                "How long ago the oldest fact was received that a stage has not finished; parked calls are finished",
            ),
        }
    }

    pub(crate) fn set(&self, ledger: &Ledger, now: Timestamp) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.pending_events.set(number(ledger.events.pending));
        for (stage, oldest) in [("identity", ledger.oldest.undecided), ("delivery", ledger.oldest.undelivered)] {
            self.oldest.with(&[("stage", stage)]).set(number(oldest.map_or(0, |at| seconds_since(at, now))));
        }
        for books in &ledger.calls {
            let labels = [("workspace", books.workspace.as_str()), ("connection", books.connection.as_str())];
            self.gap.with(&labels).set(number(books.gap));
            for (fate, count) in [
                ("produced", books.produced),
                ("accepted", books.accepted),
                ("dead", books.dead),
                ("dropped", books.dropped),
                ("filtered", books.filtered),
                ("suppressed", books.suppressed),
                ("parked", books.parked),
                ("pending", books.pending),
            ] {
                self.calls.with(&[labels[0], labels[1], ("fate", fate)]).set(number(count));
            }
        }
    }
}

/// Whole seconds; clocks of two machines may differ, so what is yet to come is now.
fn seconds_since(at: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.as_ms().saturating_sub(at.as_ms())).unwrap_or(0) / 1000
}
