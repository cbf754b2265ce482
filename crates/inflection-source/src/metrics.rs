//! What the process as a whole counts: which program it is, whether its bus and its configuration are well, how full the bus is.

use std::time::Duration;

use inflection_bus::Bus;
use inflection_telemetry::{BEAT_EVERY, Counter, Gauge, GaugeFamily, Liveness, Registry};
use inflection_wire::SCHEMA_VERSION;
use tokio_util::sync::CancellationToken;

use crate::install;

/// How often the bus is asked how it is. One small question a stream.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Gauges of the bus.
#[derive(Debug)]
pub(crate) struct BusMetrics {
    available: Gauge,
    connections: Counter,
    bytes: GaugeFamily,
    bytes_max: GaugeFamily,
}

/// Gauges of the configuration, under the names that Prometheus and its kin have for their own.
#[derive(Debug, Clone)]
pub(crate) struct ReloadMetrics {
    successful: Gauge,
    success_at: Gauge,
}

/// Registers what tells one program from another, and what the operating system says of it.
pub(crate) fn describe_process(registry: &Registry) {
    let help = "1; which version this is, and the version of the messages it writes";
    let schema = SCHEMA_VERSION.to_string();
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("schema_version", schema.as_str())];
    registry.gauges("inflection_build_info", help).with(&labels).set(1);
    registry.process();
}

impl BusMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            available: registry
                .gauge("inflection_bus_available", "1 when the bus takes appends, as /readyz says, else 0"),
            connections: registry
                .counter("inflection_bus_connections", "Connections made to the bus; more than one is a lost one"),
            bytes: registry.gauges("inflection_bus_store_bytes", "Bytes in a stream, or in the embedded journal"),
            bytes_max: registry
                .gauges("inflection_bus_store_bytes_max", "Bytes that it may hold; none when only the disk bounds it"),
        }
    }

    /// Looks again and again until `shutdown`.
    pub(crate) async fn keep(self, bus: Bus, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.look(&bus) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look(&self, bus: &Bus) {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.connections.add(bus.connections().saturating_sub(self.connections.get()));
        self.available.set(i64::from(bus.health().await.is_ok()));
        match bus.usage(&install::STREAMS).await {
            Ok(stores) => {
                for usage in stores {
                    let labels = [("store", usage.store)];
                    self.bytes.with(&labels).set(number(usage.bytes));
                    if let Some(bytes_max) = usage.bytes_max {
                        self.bytes_max.with(&labels).set(number(bytes_max));
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "how full the bus is cannot be read"),
        }
    }
}

impl ReloadMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let metrics = Self {
            successful: registry.gauge(
                "inflection_config_last_reload_successful",
                "1 when the file was last read without mistakes, else 0: then the configuration before it is in force",
            ),
            success_at: registry.gauge(
                "inflection_config_last_reload_success_timestamp_seconds",
                "When the file was last read without mistakes, in seconds since 1970",
            ),
        };
        // What a process starts with was read without mistakes.
        metrics.read(true);
        metrics
    }

    /// Notes that the file was read.
    pub(crate) fn read(&self, successful: bool) {
        self.successful.set(i64::from(successful));
        if successful {
            self.success_at.set(crate::admin::now().as_ms() / 1000);
        }
    }
}

/// Gives the runtime's sign of life until `shutdown`.
pub(crate) async fn beat(liveness: Liveness, shutdown: CancellationToken) {
    let mut every = tokio::time::interval(BEAT_EVERY);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = every.tick() => liveness.beat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use inflection_delivery::DeliveryMetrics;
    use inflection_identity::IdentityMetrics;
    use inflection_ingest::IngestMetrics;
    use inflection_telemetry::catalogue::{CATALOGUE, Entry, Kind, Label, Values};
    use inflection_telemetry::{Described, Tracer};
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::ledger::LedgerMetrics;

    /// Everything that any process of ours tells.
    fn all() -> Vec<Described> {
        let registry = Registry::default();
        describe_process(&registry);
        let _registered = (BusMetrics::new(&registry), ReloadMetrics::new(&registry), LedgerMetrics::new(&registry));
        let _stages = (IngestMetrics::new(&registry), IdentityMetrics::new(&registry), DeliveryMetrics::new(&registry));
        let _traces = Tracer::start(None, "test", "0", &registry, &TaskTracker::new()).unwrap();
        registry.described()
    }

    #[test]
    fn what_is_registered_is_in_the_catalogue_and_nothing_else() {
        let registered: Vec<(String, Kind)> = all().into_iter().map(|metric| (metric.name, metric.kind)).collect();
        let listed: Vec<(String, Kind)> = CATALOGUE.iter().map(|entry| (entry.name.to_owned(), entry.kind)).collect();
        assert_eq!(registered, listed, "crates/inflection-telemetry/src/catalogue.rs");
    }

    #[test]
    fn the_page_of_metrics_is_generated() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        let page = page();
        if std::env::var_os("INFLECTION_BLESS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == page,
            "docs/metrics.md is not as it would be generated: run this test with INFLECTION_BLESS=1"
        );
    }

    fn page() -> String {
        let mut page = String::from(
            "# Metrics\n\nGenerated from the program (`INFLECTION_BLESS=1 cargo test -p inflection-source metrics`); do not edit.\n\n\
             `GET /metrics` of every process's admin listener tells them as OpenMetrics text. A process tells those of the stages\n\
             it runs; the books (`inflection_ledger_*`) are told by every worker of delivery, and `inflection_bus_store_*` by every\n\
             process, for the whole install: read these with `max`, not `sum`. Dashboards and alerts are in\n\
             `deploy/helm/inflection-source/files`.\n\n\
             | metric | kind | labels | what it is |\n|---|---|---|---|\n",
        );
        for Described { name, help, kind } in all() {
            let entry = Entry::of(&name).unwrap();
            let labels: Vec<String> = entry.labels.iter().map(|label| format!("`{}`", label.name())).collect();
            let (suffix, kind) = match kind {
                Kind::Counter => ("_total", "counter"),
                Kind::Gauge => ("", "gauge"),
                Kind::Histogram => ("", "histogram"),
            };
            writeln!(page, "| `{name}{suffix}` | {kind} | {} | {help} |", labels.join(", ")).unwrap();
        }
        page.push_str(
            "\n## Labels\n\nWhat a label may say is a closed list, or bounded by the configuration; there are never ids, \
             addresses or texts of\nsenders in one. A word that is in none of the lists is counted as `other`, and so is what would \
             be more than 2,000 series of\none metric.\n\n| label | says |\n|---|---|\n",
        );
        let mut labels: Vec<Label> = CATALOGUE.iter().flat_map(|entry| entry.labels).copied().collect();
        labels.sort_unstable();
        labels.dedup();
        for label in labels {
            let says = match label.values() {
                Values::Words(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
                Values::Configured => "its name in the configuration".to_owned(),
                Values::AtMost(1, what) => what.to_owned(),
                Values::AtMost(most, what) => format!("{what}; at most {most}"),
            };
            writeln!(page, "| `{}` | {says} |", label.name()).unwrap();
        }
        page
    }
}
