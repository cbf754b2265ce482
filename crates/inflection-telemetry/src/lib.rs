//! Logs, metrics and signs of life; the only crate that names the libraries behind them. Traces join them here later.
//!
//! Text for people or JSON for machines goes to stderr; metrics are kept in a [`Registry`] and read as Prometheus text.

pub mod catalogue;
mod liveness;
mod logs;
mod metrics;
mod process;

pub use liveness::{BEAT_EVERY, Liveness, Pulse, RUNTIME_SILENCE_MAX, Stuck, WORK_MAX, Work};
pub use logs::{InvalidLogLevel, LogFormat, init_logs};
pub use metrics::{Counter, CounterFamily, Described, Gauge, GaugeFamily, Histogram, Registry};
