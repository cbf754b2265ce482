//! Log lines.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("is neither text nor json"),
        }
    }
}

/// A log level, or filter, that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("log level {level:?} is none of error, warn, info, debug, trace, nor a list like info,inflection_bus=debug")]
pub struct InvalidLogLevel {
    level: String,
    #[source]
    source: tracing_subscriber::filter::ParseError,
}

/// Sends the log lines of this process to stderr. A second call has no effect.
///
/// # Errors
/// [`InvalidLogLevel`] when the level cannot be read.
pub fn init_logs(format: LogFormat, level: &str) -> Result<(), InvalidLogLevel> {
    let filter = EnvFilter::builder().parse(level).map_err(|source| InvalidLogLevel { level: level.into(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let outcome = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if outcome.is_err() {
        tracing::debug!("logs were set up before");
    }
    Ok(())
}
