//! Logs, metrics, signs of life and traces; the only crate that names the libraries behind them.
//!
//! Text for people or JSON for machines goes to stderr; metrics are kept in a [`Registry`] and read as Prometheus text;
//! spans of sampled events go from a [`Tracer`] to an OpenTelemetry collector.

pub mod catalogue;
mod liveness;
mod logs;
mod metrics;
mod process;
mod trace;

pub use liveness::{BEAT_EVERY, Liveness, Pulse, RUNTIME_SILENCE_MAX, Stuck, WORK_MAX, Work};
pub use logs::{InvalidLogLevel, LogFormat, init_logs};
pub use metrics::{Counter, CounterFamily, Described, Gauge, GaugeFamily, Histogram, Registry};
pub use trace::{
    Attribute, Exporting, InvalidTraceSettings, Kind, Span, TraceContext, TraceError, TraceParent, TraceSettings,
    Tracer,
};
