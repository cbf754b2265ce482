//! Log lines.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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

/// Of libraries under us only what is odd is logged, unless the operator names them: they would tell of every request, those
/// that carry traces included.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,reqwest=warn,rustls=warn,tower=warn,opentelemetry=warn,\
    opentelemetry_sdk=warn,opentelemetry_otlp=warn,opentelemetry_http=warn";

/// Sends the log lines of this process to stderr. A second call has no effect.
///
/// # Errors
/// [`InvalidLogLevel`] when the level cannot be read.
pub fn init_logs(format: LogFormat, level: &str) -> Result<(), InvalidLogLevel> {
    let filter = EnvFilter::builder().parse(directives(level));
    let filter = filter.map_err(|source| InvalidLogLevel { level: level.into(), source })?;
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

/// The operator's word, and before it, so that it counts more, ours on libraries. Where all are quieter anyway nothing is added.
fn directives(level: &str) -> String {
    let general = level.split(',').filter_map(|directive| directive.trim().parse::<LevelFilter>().ok()).next_back();
    if general.is_some_and(|general| general > LevelFilter::WARN) {
        format!("{QUIET},{level}")
    } else {
        level.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        for level in ["error", "warn", "off", "inflection_bus=debug"] {
            assert_eq!(directives(level), level);
        }
        let filter = |level| EnvFilter::builder().parse(directives(level)).unwrap().to_string();
        assert!(filter("debug").contains("hyper_util=warn"), "{}", filter("debug"));
        let named = filter("info,hyper_util=trace");
        assert!(named.contains("hyper_util=trace") && !named.contains("hyper_util=warn"), "{named}");
    }
}
