//! The commands people and scripts use: their output, their exit codes, and what they must not print.

use std::fs;
use std::net::SocketAddr;
use std::slice::from_ref;
use std::time::Duration;

use inflection_tests::admin::Admin;
use inflection_tests::binary::{Finished, run};
use inflection_tests::config::Workspace;
use inflection_tests::fact::{Fact, recently_ms};
use inflection_tests::fleet::{Fleet, Stage};
use inflection_tests::install::Install;
use inflection_tests::random::Random;
use inflection_tests::segment::Segment;
use inflection_tests::sender::Sender;
use inflection_tests::standalone::{INGEST_KEY, Standalone, WRITE_KEY};
use inflection_tests::wait::{SOON, eventually, holds};
use serde_json::Value;

/// What a command may take that only prints.
const AT_ONCE: Duration = Duration::from_secs(30);

/// What the demo may take.
const DEMO_WAIT: Duration = Duration::from_secs(90);

/// Every subcommand.
const COMMANDS: [&str; 17] = [
    "demo",
    "standalone",
    "ingest",
    "identity",
    "delivery",
    "provision",
    "sandbox",
    "import",
    "dead-letters",
    "connections",
    "ledger",
    "explain",
    "persons",
    "state",
    "bench",
    "config",
    "healthcheck",
];

/// The nine events of the source.
const EVENTS: [&str; 9] = [
    "Email Delivered",
    "Email Opened",
    "Email Unique Opens",
    "Email Bounced",
    "Email Reported as Spam",
    "Link Clicked",
    "Unique Link Click",
    "Unique Link Click per Unique Open",
    "Email Unsubscribed",
];

#[track_caller]
fn check(arguments: &[&str], code: i32) -> Finished {
    let finished = run(arguments, AT_ONCE);
    assert_eq!(finished.code, Some(code), "{arguments:?}: {}", finished.output);
    finished
}

#[test]
fn help_and_version() {
    Random::announced("help");
    let help = check(&["--help"], 0);
    for command in COMMANDS {
        assert!(help.stdout.contains(command), "--help does not name {command}");
        check(&[command, "--help"], 0);
    }
    let version = check(&["--version"], 0);
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", version.stdout);
    let standalone = check(&["standalone", "--help"], 0).stdout;
    for flag in ["--data-dir", "--listen", "--admin-listen", "--ingest-key", "--write-key", "--region", "--config"] {
        assert!(standalone.contains(flag), "standalone --help does not name {flag}");
    }
}

#[test]
fn wrong_usage_exits_with_64() {
    Random::announced("usage");
    check(&["--no-such-flag"], 64);
    check(&["no-such-command"], 64);
    check(&["standalone", "--no-such-flag"], 64);
    check(&["standalone", "--listen", "not an address"], 64);
    // Plain http needs the flag that says so, and even then it is for loopback only.
    let folder = tempfile::tempdir().expect("a temporary directory");
    let data = folder.path().display().to_string();
    let standalone = ["standalone", "--data-dir", &data, "--ingest-key", INGEST_KEY, "--write-key", WRITE_KEY];
    let endpoint = |url, more: &[&'static str]| [&standalone[..], &["--segment-endpoint", url], more].concat();
    check(&endpoint("http://127.0.0.1:9", &[]), 64);
    let refused = check(&endpoint("http://segment.example", &["--allow-insecure-endpoint"]), 64);
    assert!(!refused.output.contains(WRITE_KEY), "the write key is in the output");
    assert!(!refused.output.contains(INGEST_KEY), "the ingest key is in the output");
}

#[test]
fn config_check_reports_every_mistake_at_once() {
    Random::announced("config check");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("inflection.toml");
    let path = file.display().to_string();
    let wrong = "\
[[workspaces]]
id = \"acme\"
ingest_keys = [{ value = \"ik_secret_of_the_config_check\" }]
colour = \"blue\"

[[workspaces.connections]]
id = \"prod\"
write_key = { value = \"wk_secret_of_the_config_check_00\" }
region = \"moon\"
events_per_second = \"many\"
";
    fs::write(&file, wrong).expect("a file can be written");
    let finished = check(&["config", "check", "--config", &path], 64);
    for (word, line) in [("colour", "4"), ("region", "9"), ("events_per_second", "10")] {
        let named = finished.output.lines().any(|text| text.contains(word));
        assert!(named, "{word} is not named:\n{}", finished.output);
        let numbered = [format!("line {line}"), format!(":{line}")];
        let numbered = numbered.iter().any(|text| finished.output.contains(text));
        assert!(numbered, "line {line} is not named:\n{}", finished.output);
    }
    assert!(!finished.output.contains("secret_of_the_config_check"), "a key is shown:\n{}", finished.output);

    let right = "\
[[workspaces]]
id = \"acme\"
ingest_keys = [{ value = \"ik_secret_of_the_config_check\" }]

[[workspaces.connections]]
id = \"prod\"
write_key = { value = \"wk_secret_of_the_config_check_00\" }
region = \"eu\"
";
    fs::write(&file, right).expect("a file can be written");
    check(&["config", "check", "--config", &path], 0);
    check(&["config", "check", "--config", "/no/such/file.toml"], 64);
}

#[test]
fn the_demo_shows_all_nine_events_and_balanced_books() {
    Random::announced("demo");
    let finished = run(&["demo", "--exit"], DEMO_WAIT);
    assert_eq!(finished.code, Some(0), "{}", finished.output);
    for event in EVENTS {
        // The longer name contains the shorter: each must stand somewhere by itself.
        let longer = EVENTS.iter().filter(|other| other.contains(event) && **other != event);
        let text = longer.fold(finished.output.clone(), |text, other| text.replace(other, ""));
        assert!(text.contains(event), "no {event} in:\n{}", finished.output);
    }
    assert!(finished.output.to_lowercase().contains("balance"), "no word of the books in:\n{}", finished.output);
}

#[test]
fn operators_look_into_a_running_install() {
    let mut random = Random::announced("operator");
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    let admin = standalone.admin();
    let (ingest, url) = (standalone.ingest(), admin.url());
    let id = format!("e-{}", random.word());
    let fact = Fact::new("email_opened", &id, recently_ms()).person("p-1").user("u-1").mail("mail-1", "run-1").human();
    Sender::new(ingest, INGEST_KEY).take(&[fact.email("qzcanary7@leak.example")]);
    let install = Install::Standalone(Box::new(standalone));
    install.settle();

    let url = url.as_str();
    let ledger = check(&["ledger", "--admin-url", url], 0);
    let connections = check(&["connections", "list", "--admin-url", url], 0);
    let tail = WRITE_KEY.get(WRITE_KEY.len() - 4..).expect("a key has four characters");
    assert!(connections.stdout.contains(tail), "the key's last four characters are shown:\n{}", connections.stdout);
    let dead = check(&["dead-letters", "list", "--json", "--admin-url", url], 0);
    let dead: Value = serde_json::from_str(&dead.stdout).expect("--json prints JSON");
    assert_eq!(dead.get("dead_letters").and_then(Value::as_array).map(Vec::len), Some(0), "{dead}");
    assert!(segment.calls().iter().any(|call| call.event() == Some("Email Opened")), "the open arrived");
    check(&["healthcheck", "--url", &format!("{url}/readyz")], 0);
    check(&["healthcheck", "--url", "http://127.0.0.1:9/readyz"], 1);
    for text in [&ledger.output, &connections.output, &install.log_text()] {
        assert!(!text.contains(WRITE_KEY) && !text.contains(INGEST_KEY), "a key is shown:\n{text}");
    }
    assert!(!install.log_text().contains("qzcanary7"), "an address is in the log");
    for path in ["/livez", "/startupz", "/metrics", "/version"] {
        let answer = admin.get(path).expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(!answer.text().contains("qzcanary7"), "{path} shows an address");
    }
}

/// Somebody whose every event is refused must be seen, too.
#[test]
fn the_ledger_shows_what_was_refused_where_nothing_was_taken() {
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    refuse_two(standalone.ingest(), INGEST_KEY);
    await_rejected(standalone.admin(), 2);
}

/// What follows the counts must come back after a reconnect.
#[test]
fn the_ledger_shows_what_was_refused_after_the_bus_was_away() {
    let (segment, workspace) = (Segment::start(), Workspace::new("acme"));
    let mut fleet = Fleet::start(&segment, from_ref(&workspace));
    refuse_two(fleet.ingest(), workspace.ingest_key());
    await_rejected(fleet.admin(Stage::Delivery), 2);
    fleet.nats().kill();
    fleet.nats().start_again();
    refuse_two(fleet.ingest(), workspace.ingest_key());
    await_rejected(fleet.admin(Stage::Delivery), 4);
}

/// Sends two events that are nobody's.
#[track_caller]
fn refuse_two(ingest: SocketAddr, key: &str) {
    let nobody = Fact::new("email_opened", "e-1", recently_ms()).mail("mail-1", "run-1");
    assert_eq!(Sender::new(ingest, key).post(&[nobody.clone(), nobody]).status, 422);
}

/// Waits until so many refused events are in the books of the only workspace, and of all.
#[track_caller]
fn await_rejected(admin: Admin, count: u64) {
    eventually("the refused events are in the ledger", SOON, || {
        let ledger = admin.ledger()?.raw;
        let rejected = |books: &Value| books.get("rejected").and_then(Value::as_u64);
        let workspace = ledger.get("workspaces").and_then(|list| list.get(0)).unwrap_or(&Value::Null);
        let shown = (rejected(workspace), ledger.get("events").and_then(rejected));
        holds(shown == (Some(count), Some(count)), || format!("{ledger}"))
    });
}

#[test]
fn a_stopped_standalone_can_be_read_from_its_data() {
    let mut random = Random::announced("data-dir");
    let segment = Segment::start();
    let mut standalone = Standalone::start(&segment);
    let fact = Fact::new("email_delivered", &random.word(), recently_ms()).person("p-1").mail("mail-1", "run-1");
    Sender::new(standalone.ingest(), INGEST_KEY).take(&[fact]);
    let status = standalone.terminate();
    assert!(status.success(), "ended with {status} after SIGTERM");
    let data = standalone.data_dir().display().to_string();
    let dead = check(&["dead-letters", "list", "--json", "--data-dir", &data], 0);
    assert!(dead.stdout.contains("dead_letters"), "{}", dead.output);
    let state = check(&["state", "check", "--json", "--data-dir", &data], 0);
    let state: Value = serde_json::from_str(&state.stdout).expect("--json prints JSON");
    assert_eq!(state.get("sound"), Some(&Value::Bool(true)), "{state}");
    let keys = |partition: &Value| partition.pointer("/replays/0/keys").and_then(Value::as_u64).unwrap_or(0);
    let partitions = state.get("partitions").and_then(Value::as_array).expect("a list");
    assert!(partitions.iter().any(|partition| keys(partition) > 0), "the mail is remembered: {state}");
}
