//! Metrics, read as Prometheus text.
//!
//! Labels are names the operator chose (workspace, connection) or words of a closed list (reason, outcome): never ids,
//! never addresses, so their number is bounded by the configuration.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::{counter, family::Family, gauge, histogram};
use prometheus_client::registry;

type Labels = Vec<(&'static str, String)>;

/// All metrics of a process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<Mutex<registry::Registry>>);

/// Counts up.
#[derive(Debug, Clone, Default)]
pub struct Counter(counter::Counter);

/// Counters that differ in their labels.
#[derive(Debug, Clone, Default)]
pub struct CounterFamily(Family<Labels, counter::Counter>);

/// Goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(gauge::Gauge);

/// Gauges that differ in their labels.
#[derive(Debug, Clone, Default)]
pub struct GaugeFamily(Family<Labels, gauge::Gauge>);

/// Times, in seconds.
#[derive(Debug, Clone)]
pub struct Histogram(histogram::Histogram);

impl Registry {
    fn register<M: Clone + registry::Metric>(&self, name: &str, help: &str, metric: &M) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric.clone());
    }

    /// A counter; its name is given without the `_total` that is added when it is read.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.register(name, help, &counter.0);
        counter
    }

    /// Counters by label.
    #[must_use]
    pub fn counters(&self, name: &str, help: &str) -> CounterFamily {
        let family = CounterFamily::default();
        self.register(name, help, &family.0);
        family
    }

    /// A gauge.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.register(name, help, &gauge.0);
        gauge
    }

    /// Gauges by label.
    #[must_use]
    pub fn gauges(&self, name: &str, help: &str) -> GaugeFamily {
        let family = GaugeFamily::default();
        self.register(name, help, &family.0);
        family
    }

    /// A histogram of seconds, from 1 ms to about half a minute.
    #[must_use]
    pub fn seconds(&self, name: &str, help: &str) -> Histogram {
        let histogram = Histogram(histogram::Histogram::new(histogram::exponential_buckets(0.001, 2.0, 16)));
        self.register(name, help, &histogram.0);
        histogram
    }

    /// Everything, in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if encode(&mut text, &registry).is_err() {
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
        Counter(self.0.get_or_create_owned(&owned(labels)))
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
        Gauge(self.0.get_or_create_owned(&owned(labels)))
    }
}

impl Histogram {
    /// Notes one duration.
    pub fn observe(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
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
}
