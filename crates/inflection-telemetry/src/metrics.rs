//! Metrics, read as Prometheus text.
//!
//! Labels are names the operator chose (workspace, connection) or words of a closed list (reason, outcome): never ids,
//! never addresses, so their number is bounded by the configuration.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::{counter, family::Family, gauge, histogram};
use prometheus_client::registry;

use crate::catalogue::{Entry, Kind, OTHER, SERIES_MAX, Values};
use crate::liveness::Liveness;
use crate::process::Process;

type Labels = Vec<(&'static str, String)>;

/// All metrics of a process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    registered: Arc<Mutex<Registered>>,
    liveness: Liveness,
}

#[derive(Debug, Default)]
struct Registered {
    metrics: registry::Registry,
    described: Vec<Described>,
}

/// A metric that was registered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    /// Its name, without the `_total` of a counter.
    pub name: String,
    /// What it counts.
    pub help: String,
    /// How.
    pub kind: Kind,
}

/// Counts up.
#[derive(Debug, Clone, Default)]
pub struct Counter(counter::Counter);

/// Counters that differ in their labels.
#[derive(Debug, Clone, Default)]
pub struct CounterFamily(Bounded<counter::Counter>);

/// Goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(gauge::Gauge);

/// Gauges that differ in their labels.
#[derive(Debug, Clone, Default)]
pub struct GaugeFamily(Bounded<gauge::Gauge>);

/// Times, in seconds.
#[derive(Debug, Clone)]
pub struct Histogram(histogram::Histogram);

/// Series of one metric, as many as its row of the catalogue allows.
#[derive(Debug, Clone, Default)]
struct Bounded<M> {
    family: Family<Labels, M>,
    entry: Option<&'static Entry>,
    series: Arc<AtomicUsize>,
}

impl<M: Default + Clone> Bounded<M> {
    fn of(name: &str) -> Self {
        Self { entry: Entry::of(name), ..Self::default() }
    }

    fn with(&self, labels: &[(&'static str, &str)]) -> M {
        let labels = self.allowed(labels);
        if let Some(known) = self.family.get(&labels) {
            return known.clone();
        }
        if self.series.fetch_add(1, Ordering::Relaxed) < SERIES_MAX {
            return self.family.get_or_create_owned(&labels);
        }
        let others = labels.into_iter().map(|(name, _)| (name, OTHER.to_owned())).collect();
        self.family.get_or_create_owned(&others)
    }

    /// The labels, with `other` for what is none of a label's words.
    fn allowed(&self, labels: &[(&'static str, &str)]) -> Labels {
        let word = |name: &str, value: &str| {
            let mut known = self.entry.into_iter().flat_map(|entry| entry.labels);
            match known.find(|label| label.name() == name).map(|label| label.values()) {
                Some(Values::Words(words)) if !words.contains(&value) => OTHER.to_owned(),
                _ => value.to_owned(),
            }
        };
        labels.iter().map(|(name, value)| (*name, word(name, value))).collect()
    }
}

impl Registry {
    fn register<M: Clone + registry::Metric>(&self, name: &str, help: &str, kind: Kind, metric: &M) {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.metrics.register(name, help, metric.clone());
        registered.described.push(Described { name: name.to_owned(), help: help.to_owned(), kind });
    }

    /// What the operating system says of this process, read whenever metrics are. There is none of it where there is no
    /// `/proc`.
    pub fn process(&self) {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.metrics.register_collector(Box::new(Process));
        let described = Process::described().map(|(name, help, kind)| Described {
            name: name.to_owned(),
            help: help.to_owned(),
            kind,
        });
        registered.described.extend(described);
    }

    /// The signs of life of the same process: what is counted and what is alive are told about the same loops.
    #[must_use]
    pub fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    /// What is registered, by name.
    #[must_use]
    pub fn described(&self) -> Vec<Described> {
        let mut described = self.registered.lock().unwrap_or_else(PoisonError::into_inner).described.clone();
        described.sort();
        described
    }

    /// A counter; its name is given without the `_total` that is added when it is read.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.register(name, help, Kind::Counter, &counter.0);
        counter
    }

    /// Counters by label.
    #[must_use]
    pub fn counters(&self, name: &str, help: &str) -> CounterFamily {
        let family = CounterFamily(Bounded::of(name));
        self.register(name, help, Kind::Counter, &family.0.family);
        family
    }

    /// A gauge.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.register(name, help, Kind::Gauge, &gauge.0);
        gauge
    }

    /// Gauges by label.
    #[must_use]
    pub fn gauges(&self, name: &str, help: &str) -> GaugeFamily {
        let family = GaugeFamily(Bounded::of(name));
        self.register(name, help, Kind::Gauge, &family.0.family);
        family
    }

    /// A histogram of seconds, from 1 ms to about half a minute.
    #[must_use]
    pub fn seconds(&self, name: &str, help: &str) -> Histogram {
        let histogram = Histogram(histogram::Histogram::new(histogram::exponential_buckets(0.001, 2.0, 16)));
        self.register(name, help, Kind::Histogram, &histogram.0);
        histogram
    }

    /// Everything, in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let registry = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        if encode(&mut text, &registry.metrics).is_err() {
            tracing::error!("metrics could not be written"); // a String takes everything; only a metric's own bug ends here
        }
        text
    }
}

impl Counter {
    /// Adds to the count.
    pub fn add(&self, count: u64) {
        self.0.inc_by(count);
    }

    /// The count since the process began.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

impl CounterFamily {
    /// The counter of these labels. Keep it where it is used per batch; the look-up takes a lock.
    #[must_use]
    pub fn with(&self, labels: &[(&'static str, &str)]) -> Counter {
        Counter(self.0.with(labels))
    }
}

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: i64) {
        self.0.set(value);
    }

    /// Adds to the value.
    pub fn add(&self, change: i64) {
        self.0.inc_by(change);
    }
}

impl GaugeFamily {
    /// The gauge of these labels.
    #[must_use]
    pub fn with(&self, labels: &[(&'static str, &str)]) -> Gauge {
        Gauge(self.0.with(labels))
    }
}

impl Histogram {
    /// Notes one duration.
    pub fn observe(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_read() {
        let registry = Registry::default();
        registry.counter("inflection_a", "Help").add(3);
        registry.counters("inflection_b", "Help").with(&[("reason", "x")]).add(1);
        registry.gauges("inflection_c", "Help").with(&[("connection", "prod")]).set(-2);
        registry.seconds("inflection_d_seconds", "Help").observe(Duration::from_millis(3));
        let text = registry.render();
        for line in [
            "inflection_a_total 3",
            "inflection_b_total{reason=\"x\"} 1",
            "inflection_c{connection=\"prod\"} -2",
            "inflection_d_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn words_that_are_none_of_a_labels_are_one_series() {
        let registry = Registry::default();
        let dead = registry.counters("inflection_delivery_calls_dead", "Help");
        for (reason, count) in [("expired", 1), ("a thousand", 2), ("different texts", 3)] {
            dead.with(&[("workspace", "acme"), ("connection", "prod"), ("reason", reason)]).add(count);
        }
        let text = registry.render();
        let of = |reason| format!("{{workspace=\"acme\",connection=\"prod\",reason=\"{reason}\"}}");
        assert!(text.contains(&format!("{} 1", of("expired"))), "{text}");
        assert!(text.contains(&format!("{} 5", of(OTHER))), "{text}");
        assert!(!text.contains("thousand"), "{text}");
    }

    #[test]
    fn series_of_a_metric_have_an_end() {
        let registry = Registry::default();
        let accepted = registry.counters("inflection_ingest_events_accepted", "Help");
        for workspace in 0..SERIES_MAX + 10 {
            accepted.with(&[("workspace", &format!("w{workspace}"))]).add(1);
        }
        accepted.with(&[("workspace", "w3")]).add(1);
        let text = registry.render();
        assert_eq!(text.lines().filter(|line| line.starts_with("inflection_ingest")).count(), SERIES_MAX + 1);
        assert!(text.contains("{workspace=\"other\"} 10"), "what comes beyond is one more");
        assert!(text.contains("{workspace=\"w3\"} 2"), "what is known goes on");
    }

    #[test]
    fn the_process_is_read_when_metrics_are() {
        let registry = Registry::default();
        registry.process();
        let text = registry.render();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')));
            line.unwrap_or_else(|| panic!("{name} in {text}")).parse::<f64>().unwrap()
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - 86_400.0..=now + 1.0).contains(&value("process_start_time_seconds")), "{text}");
        assert!((0.0..3_600.0).contains(&value("process_cpu_seconds_total")));
        assert!((1e5..1e11).contains(&value("process_resident_memory_bytes")));
        assert!((3.0..=value("process_max_fds")).contains(&value("process_open_fds")));
        assert_eq!(registry.described().len(), Process::described().count());
    }
}
