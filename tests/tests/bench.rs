//! `bench` says what happened, also when stages die meanwhile, and what is missing is no error.

#![expect(clippy::panic, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::time::Duration;

use inflection_tests::binary::run;
use serde_json::Value;

/// Longer than any of these takes on a busy machine.
const WAIT: Duration = Duration::from_secs(90);

#[track_caller]
fn measured(arguments: &[&str]) -> Value {
    let finished = run(&[&["bench", "--json"], arguments].concat(), WAIT);
    assert_eq!(finished.code, Some(0), "{arguments:?}: {}", finished.output);
    serde_json::from_str(finished.stdout.trim()).unwrap_or_else(|error| panic!("{error}: {}", finished.output))
}

#[track_caller]
fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer} in {report}"))
}

#[test]
fn yardsticks_stand_beside_the_figure_and_a_missing_sdk_is_said() {
    let report = measured(&["--events", "4000", "--mix", "identify", "--relay", "--node", "/nowhere"]);
    // Of a round: delivered, opened twice with one unique, the identify, and three calls of a first click.
    assert_eq!(number(&report, "/calls_at_sink"), 1.6 * 4000.0);
    let messages = number(&report, "/relay/shape/hops/0/messages");
    let bytes = messages * number(&report, "/relay/shape/hops/0/message_bytes");
    assert!((4000.0 * 100.0..4000.0 * 1000.0).contains(&bytes), "{report}");
    for way in ["bare", "hollow"] {
        assert!(number(&report, &format!("/relay/{way}_events_per_second/0")) > 0.0, "{report}");
    }
    let why = report.pointer("/node/why").and_then(Value::as_str).unwrap_or_default();
    assert!(why.contains("node"), "{report}");
}

#[test]
fn a_soak_with_kills_loses_nothing_and_is_judged() {
    let report = measured(&["--soak", "6s", "--rate", "400", "--faults", "3"]);
    assert_eq!(number(&report, "/events"), 2400.0);
    assert_eq!(number(&report, "/lost"), 0.0);
    let soak = |field: &str| report.pointer(&format!("/soak/{field}")).and_then(Value::as_array).map_or(0, Vec::len);
    assert!(soak("kills") > 0 && soak("samples") > 2 * soak("kills"), "{report}");
    assert!(number(&report, "/soak/disk_bytes_most") > 0.0, "{report}");
    assert!(number(&report, "/soak/samples/1/processes/0/resident_mib") > 1.0, "{report}");
}

#[test]
fn flags_that_do_not_go_together_are_usage() {
    for arguments in [&["--replicas", "3"][..], &["--workers", "2"], &["--soak", "1m", "--rate", "0"]] {
        let finished = run(&[&["bench"], arguments].concat(), WAIT);
        assert_eq!(finished.code, Some(64), "{arguments:?}: {}", finished.output);
    }
}
