//! Traces: what happened to a sampled event, span by span, over all processes.
//!
//! * `context`: which trace and span; how it is written in a `traceparent` and in a message;
//! * `sampling`: which events are traced;
//! * `span`: one span; `tracer`: where spans go;
//! * `export`: the task that sends them, and its bounds; `settings`: OpenTelemetry's own variables.
//!
//! An event that is not sampled costs nothing but a look at whether it is. Spans are built when they have ended, by whoever
//! knows how it ended: nothing is kept open in between, and no context is ambient.

mod context;
mod export;
mod sampling;
mod settings;
mod span;
mod tracer;

pub use context::{TraceContext, TraceParent};
pub use export::{Exporting, TraceError};
pub use settings::{InvalidTraceSettings, TraceSettings};
pub use span::{Attribute, Kind, Span};
pub use tracer::Tracer;
