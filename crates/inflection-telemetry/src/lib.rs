//! Logs and metrics; the only crate that names the libraries behind them. Traces join them here later.
//!
//! Text for people or JSON for machines goes to stderr; metrics are kept in a [`Registry`] and read as Prometheus text.

mod logs;
mod metrics;

pub use logs::{InvalidLogLevel, LogFormat, init_logs};
pub use metrics::{Counter, CounterFamily, Gauge, GaugeFamily, Histogram, Registry};
