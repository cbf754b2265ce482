//! OpenTelemetry's own variables, as far as they mean something here.
//!
//! Headers and resource attributes are read by the exporter's and the SDK's own code from the same variables: what is in them
//! never passes through ours, so it cannot be told by it.

use std::time::Duration;

use reqwest::Url;

use super::sampling::Sampling;

/// The share of events that are traced unless told otherwise.
const RATIO: f64 = 0.01;
/// How long a collector may take to answer unless told otherwise (OpenTelemetry's default).
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where under its base address a collector takes traces.
const TRACES_PATH: &str = "v1/traces";

/// Where traces go, and which.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    pub(super) endpoint: Url,
    pub(super) timeout: Duration,
    pub(super) sampling: Sampling,
    /// Whether the operator has named the service.
    pub(super) is_named: bool,
}

/// Variables that cannot be read, one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct InvalidTraceSettings(Vec<String>);

impl TraceSettings {
    /// Reads the variables; `None` when traces are off, which they are as long as no endpoint is given.
    ///
    /// # Errors
    /// All variables that cannot be read, none of them with its value where that may be a secret.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, InvalidTraceSettings> {
        // An empty variable is as good as none (OpenTelemetry, "Environment variable specification").
        let set = |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let either = |signal: &'static str, general: &'static str| {
            set(signal).map(|text| (signal, text)).or_else(|| set(general).map(|text| (general, text)))
        };
        let is = |name, word: &str| set(name).is_some_and(|text| text.eq_ignore_ascii_case(word));
        let endpoint = endpoint(set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), set("OTEL_EXPORTER_OTLP_ENDPOINT"));
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        let Some(endpoint) = endpoint else { return Ok(None) };
        let mut mistakes = Vec::new();
        let endpoint = endpoint.map_err(|mistake| mistakes.push(mistake)).ok();
        let only = |name: &str, found: Option<String>, word: &str| {
            found.filter(|text| text != word).map(|text| format!("{name} is {text:?}; only {word} is supported"))
        };
        let either_only =
            |signal, general, word| either(signal, general).and_then(|(name, text)| only(name, Some(text), word));
        mistakes.extend(only("OTEL_TRACES_EXPORTER", set("OTEL_TRACES_EXPORTER"), "otlp"));
        mistakes.extend(either_only(
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "http/protobuf",
        ));
        mistakes.extend(either_only("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION", "none"));
        let headers = either("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS");
        if let Some((name, text)) = headers
            && text.split(',').any(|header| !header.trim().is_empty() && !header.contains('='))
        {
            mistakes.push(format!("{name} is no list of name=value"));
        }
        let timeout = either("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT");
        let timeout = timeout.map_or(Some(TIMEOUT), |(name, text)| match text.parse() {
            Ok(ms) if ms > 0 => Some(Duration::from_millis(ms)),
            _ => {
                mistakes.push(format!("{name} is {text:?}, which is no number of milliseconds"));
                None
            }
        });
        let sampling = sampling(set("OTEL_TRACES_SAMPLER"), set("OTEL_TRACES_SAMPLER_ARG"));
        let sampling = sampling.map_err(|mistake| mistakes.push(mistake)).ok();
        let named_in = |text: String| text.split(',').any(|pair| pair.trim().starts_with("service.name="));
        let is_named = set("OTEL_SERVICE_NAME").is_some() || set("OTEL_RESOURCE_ATTRIBUTES").is_some_and(named_in);
        match (endpoint, timeout, sampling) {
            (Some(endpoint), Some(timeout), Some(sampling)) if mistakes.is_empty() => {
                Ok(Some(Self { endpoint, timeout, sampling, is_named }))
            }
            _ => Err(InvalidTraceSettings(mistakes)),
        }
    }
}

/// The address that traces are posted to: one for traces is taken as it is, a general one is the base of theirs.
fn endpoint(traces: Option<String>, general: Option<String>) -> Option<Result<Url, String>> {
    let (name, text) = match (traces, general) {
        (Some(text), _) => ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", text),
        (None, Some(base)) => ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("{}/{TRACES_PATH}", base.trim_end_matches('/'))),
        (None, None) => return None,
    };
    let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    // Not with its text: some put a password into it.
    let url = url.ok_or_else(|| format!("{name} is no address that begins with http:// or https://"));
    Some(url.and_then(|url| match (url.username(), url.password()) {
        ("", None) => Ok(url),
        _ => Err(format!("{name} has a user or a password in it: say them in OTEL_EXPORTER_OTLP_HEADERS")),
    }))
}

/// The sampler of that name. A parent that is not sampled decides nothing here, unlike in the specification: whoever sends
/// events has no reason to know whether we want to see them.
fn sampling(name: Option<String>, argument: Option<String>) -> Result<Sampling, String> {
    let name = name.unwrap_or_else(|| "parentbased_traceidratio".to_owned());
    let (parent_based, sampler) = name.strip_prefix("parentbased_").map_or((false, &*name), |rest| (true, rest));
    let ratio = match sampler {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => match argument {
            None => RATIO,
            Some(text) => text
                .parse()
                .ok()
                .filter(|ratio| (0.0..=1.0).contains(ratio))
                .ok_or_else(|| format!("OTEL_TRACES_SAMPLER_ARG is {text:?}, which is no share from 0 to 1"))?,
        },
        _ => return Err(format!("OTEL_TRACES_SAMPLER is {name:?}, which is no sampler that is known here")),
    };
    Ok(Sampling { ratio, parent_based })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    fn read(variables: &[(&str, &str)]) -> Result<Option<TraceSettings>, InvalidTraceSettings> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        TraceSettings::read(find)
    }

    #[test]
    fn traces_are_off_without_an_endpoint_or_when_told_so() {
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[("OTEL_TRACES_SAMPLER", "unknown")],
            &[HERE, ("OTEL_SDK_DISABLED", "TRUE")],
            &[HERE, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert!(read(variables).unwrap().is_none(), "{variables:?}");
        }
    }

    #[test]
    fn addresses_are_completed_as_the_specification_says() {
        for (variables, expected) in [
            (&[HERE][..], "http://collector:4318/v1/traces"),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c.example/otlp/")], "https://c.example/otlp/v1/traces"),
            (&[HERE, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:1/in")], "http://t:1/in"),
        ] {
            assert_eq!(read(variables).unwrap().unwrap().endpoint.as_str(), expected);
        }
    }

    #[test]
    fn samplers_have_their_names_and_shares() {
        for (name, argument, ratio, parent_based) in [
            ("", "", 0.01, true),
            ("", "0.5", 0.5, true),
            ("parentbased_traceidratio", "0", 0.0, true),
            ("traceidratio", "1", 1.0, false),
            ("always_on", "", 1.0, false),
            ("parentbased_always_on", "", 1.0, true),
            ("always_off", "", 0.0, false),
            ("parentbased_always_off", "", 0.0, true),
        ] {
            let settings = read(&[HERE, ("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)]);
            assert_eq!(settings.unwrap().unwrap().sampling, Sampling { ratio, parent_based }, "{name} {argument}");
        }
    }

    #[test]
    fn every_mistake_is_told_and_no_secret() {
        let error = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "user:hunter2@collector"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ]);
        let told = error.unwrap_err().to_string();
        assert_eq!(told.lines().count(), 6, "{told}");
        assert!(!told.contains("hunter2"), "{told}");
        assert!(told.contains("OTEL_EXPORTER_OTLP_PROTOCOL is \"grpc\"; only http/protobuf is supported"), "{told}");
    }

    #[test]
    fn a_service_that_was_named_keeps_its_name() {
        for (variables, named) in [
            (&[HERE][..], false),
            (&[HERE, ("OTEL_SERVICE_NAME", "mail")], true),
            (&[HERE, ("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=mail")], true),
            (&[HERE, ("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=mail")], false),
        ] {
            assert_eq!(read(variables).unwrap().unwrap().is_named, named, "{variables:?}");
        }
    }
}
