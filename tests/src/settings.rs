//! What a test run can be told from outside, through its environment.

use std::path::PathBuf;
use std::time::Duration;

/// A binary to test instead of the one built from this workspace: `INFLECTION_SOURCE_BIN`.
pub fn binary_override() -> Option<PathBuf> {
    text("INFLECTION_SOURCE_BIN").map(PathBuf::from)
}

/// The next version, and one that older ones may not work beside: `INFLECTION_NEXT_BIN` and `INFLECTION_BREAKING_BIN`, both made
/// by `scripts/check-upgrade`.
#[track_caller]
pub fn next_binaries() -> (PathBuf, PathBuf) {
    let path =
        |name| PathBuf::from(text(name).unwrap_or_else(|| panic!("{name} is not set: run scripts/check-upgrade")));
    (path("INFLECTION_NEXT_BIN"), path("INFLECTION_BREAKING_BIN"))
}

/// How often a crash test kills something: `INFLECTION_KILLS`, default 8.
pub fn kills() -> usize {
    number("INFLECTION_KILLS").and_then(|kills| usize::try_from(kills).ok()).unwrap_or(8)
}

/// How long the outages of the isolation tests last: `INFLECTION_OUTAGE_SECONDS`, default 8.
pub fn outage() -> Duration {
    Duration::from_secs(number("INFLECTION_OUTAGE_SECONDS").unwrap_or(8))
}

/// How many events the import has that is killed: `INFLECTION_IMPORT_EVENTS`, default 20,000.
pub fn import_events() -> usize {
    number("INFLECTION_IMPORT_EVENTS").and_then(|events| usize::try_from(events).ok()).unwrap_or(20_000)
}

/// The seed to repeat: `INFLECTION_SEED`.
pub fn seed() -> Option<u64> {
    number("INFLECTION_SEED")
}

/// The cargo that runs this test, or the one on the path.
pub fn cargo() -> PathBuf {
    text("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

fn number(name: &str) -> Option<u64> {
    let text = text(name)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")))
}

#[expect(clippy::disallowed_methods, reason = "the settings of a test run come from its environment, read here only")]
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}
