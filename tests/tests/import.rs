//! History from files: an import that was killed is an import that was not, what live events said is not doubled, bad lines
//! cost nothing but themselves, and ingest may be away for as long as it likes.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use inflection_tests::announce::announce;
use inflection_tests::arrived::Arrived;
use inflection_tests::binary::{Finished, binary, run};
use inflection_tests::fact::{Fact, now_ms, recently_ms, rfc3339};
use inflection_tests::http::gzip;
use inflection_tests::process::{Process, clear_environment};
use inflection_tests::random::Random;
use inflection_tests::segment::Segment;
use inflection_tests::sender::Sender;
use inflection_tests::settings::{import_events, kills};
use inflection_tests::standalone::{CONNECTION, INGEST_KEY, Standalone};
use inflection_tests::wait::{DRAINED, SOON, eventually, holds};
use serde_json::{Value, json};

/// What an import of any size of these checks may take.
const IMPORTED: Duration = Duration::from_secs(600);

/// Events of each person in a history.
const EVENTS_PER_PERSON: usize = 10;

/// Requests of an import that is killed, at least: enough to be in the middle of it each time.
const REQUESTS_MIN: usize = 40;

/// One in so many lines of a history is none.
const BAD_EVERY: usize = 1_000;

/// Two installs of this identity give equal facts equal messageIds.
const IDENTITY: &str = "[installation]\nid = \"inst-import-check\"\nkey = { value = \
                        \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\" }\n";

fn arguments(ingest: SocketAddr, file: &Path, more: &[&str]) -> Vec<String> {
    let (url, file) = (format!("http://{ingest}"), file.display().to_string());
    let base = ["import", &file, "--url", &url, "--ingest-key", INGEST_KEY, "--json"];
    base.iter().chain(more).map(|argument| (*argument).to_owned()).collect()
}

/// Runs an import to its end; gives its exit code and its summary.
#[track_caller]
fn import(ingest: SocketAddr, file: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let finished = run_import(ingest, file, more);
    let summary = serde_json::from_str(&finished.stdout).map_err(|error| format!("{error} in {}", finished.output));
    (finished.code, summary.expect("a summary as JSON"))
}

#[track_caller]
fn run_import(ingest: SocketAddr, file: &Path, more: &[&str]) -> Finished {
    let arguments = arguments(ingest, file, more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run(&arguments, IMPORTED)
}

/// Starts an import that may be killed.
fn start_import(ingest: SocketAddr, file: &Path, more: &[&str], log: &Path) -> Process {
    let mut command = Command::new(binary());
    clear_environment(&mut command);
    let errors = fs::OpenOptions::new().create(true).append(true).open(log).expect("a log");
    command.args(arguments(ingest, file, more)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    Process::adopt("import", &mut command, log)
}

#[track_caller]
fn counts(summary: &Value) -> [u64; 3] {
    ["read", "accepted", "rejected"].map(|name| {
        let count = summary.get(name).and_then(Value::as_u64);
        count.ok_or_else(|| format!("no {name} in {summary}")).expect("a count")
    })
}

fn written(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, text).expect("a file can be written");
    file
}

/// A mailing of three years ago: each person's events lie all over the file, half of them have no id, some persons become
/// known half-way, and now and then a line is none.
fn history(events: usize, file: &Path) {
    let mut out = std::io::BufWriter::new(fs::File::create(file).expect("a file"));
    let (began, people) = (now_ms() - 3 * 365 * 86_400_000, events.div_ceil(EVENTS_PER_PERSON));
    for number in 0..events {
        let (round, person) = (number / people, number % people);
        if number % BAD_EVERY == BAD_EVERY / 2 {
            writeln!(out, "{{\"type\":\"email_opened\",\"person_id\":\"p{person}\"}}").expect("a line");
            continue;
        }
        let (kind, link) = match round {
            0 => ("email_delivered", ""),
            3 | 7 => ("link_clicked", r#","email_link_url":"https://example.com/a""#),
            _ => ("email_opened", ""),
        };
        let id = if person % 2 == 0 { format!(r#","id":"h{number}""#) } else { String::new() };
        let user = if person % 3 == 0 && round >= 5 { format!(r#","user_id":"u{person}""#) } else { String::new() };
        let at = rfc3339(began + i64::try_from(number).expect("a small number") * 1000);
        writeln!(
            out,
            r#"{{"type":"{kind}","timestamp":"{at}","person_id":"p{person}","campaign_run_id":"run","email_id":"mail"{id}{user}{link},"properties":{{"p":"p{person}","n":{round}}}}}"#
        )
        .expect("a line");
    }
    out.flush().expect("a file takes lines");
}

/// What has arrived of each person, in order: messageId and a hash of everything but `sentAt`.
type Arrivals = BTreeMap<String, Vec<(String, u64)>>;

fn arrivals(segment: &Segment) -> (usize, Arrivals) {
    let (mut count, mut arrivals) = (0, Arrivals::new());
    segment.for_each_call(|call: Arrived| {
        let person = call.property("p").or(call.anonymous_id()).expect("a call names its person").to_owned();
        let mut hasher = DefaultHasher::new();
        call.body.to_string().hash(&mut hasher);
        arrivals.entry(person).or_default().push((call.message_id, hasher.finish()));
        count += 1;
    });
    (count, arrivals)
}

/// Imports a file into an install of its own, by `how`; gives what arrived, and how many events the install has accepted.
fn imported(folder: &Path, how: impl FnOnce(SocketAddr)) -> (usize, Arrivals, u64) {
    let config = written(folder, "identity.toml", IDENTITY).display().to_string();
    let segment = Segment::start();
    let standalone = Standalone::start_by_flags(&segment, &["--config", &config]);
    how(standalone.ingest());
    let ledger = standalone.admin().settle();
    let accepted = ledger.events("accepted").expect("a count");
    let calls = ledger.calls(CONNECTION).expect("books of the connection");
    assert_eq!(calls.accepted, calls.produced, "{calls:?}");
    let produced = usize::try_from(calls.produced).expect("a count fits");
    let (count, arrivals) = eventually("everything has arrived", DRAINED, || {
        let (count, arrivals) = arrivals(&segment);
        holds(count == produced, || format!("{count} of {produced} calls")).map(|()| (count, arrivals))
    });
    (count, arrivals, accepted)
}

/// How far an import has come, in bytes; 0 before it has come anywhere.
fn offset(state: &Path) -> u64 {
    let state = fs::read(state).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    state.and_then(|state| state.pointer("/position/offset")?.as_u64()).unwrap_or(0)
}

#[test]
fn an_import_that_was_killed_equals_one_that_was_not() {
    let mut random = Random::announced("import killed");
    let folder = tempfile::tempdir().expect("a folder");
    let events = import_events();
    let batch = (events / REQUESTS_MIN).clamp(1, 10_000).to_string();
    let whole = folder.path().join("whole.ndjson");
    history(events, &whole);
    let file_bytes = fs::metadata(&whole).expect("a file").len();
    let bad = u64::try_from((0..events).filter(|number| number % BAD_EVERY == BAD_EVERY / 2).count()).expect("few");
    let good = u64::try_from(events).expect("a count") - bad;
    let expected = [good + bad, good, bad];

    let (count, uninterrupted, accepted) = imported(folder.path(), |ingest| {
        let (code, summary) = import(ingest, &whole, &["--batch", &batch, "--show-errors", "0"]);
        assert_eq!((code, counts(&summary)), (Some(2), expected), "{summary}");
        announce(&format!("uninterrupted: {summary}"));
    });
    assert_eq!(accepted, good);

    // Compressed this time: a place in it is found again by unpacking.
    let packed = written(folder.path(), "packed.ndjson.gz", gzip(&fs::read(&whole).expect("the file")));
    let (state, log) = (folder.path().join("packed.ndjson.gz.import-state"), folder.path().join("log"));
    let (killed_count, killed, killed_accepted) = imported(folder.path(), |ingest| {
        let kills = u64::try_from(kills().min(REQUESTS_MIN / 4)).expect("few");
        for kill in 1..=kills {
            let mut process = start_import(ingest, &packed, &["--batch", &batch], &log);
            let spread = usize::try_from(file_bytes / (kills + 1) / 2).expect("a place fits");
            let target = file_bytes * kill / (kills + 1) - u64::try_from(random.below(spread)).expect("a place fits");
            eventually("the import comes so far", IMPORTED, || {
                holds(offset(&state) >= target, || format!("at {} of {target}", offset(&state)))
            });
            process.kill();
            assert!(offset(&state) < file_bytes, "killed too late to show anything");
            announce(&format!("killed at {} of {file_bytes} bytes", offset(&state)));
        }
        let (code, summary) = import(ingest, &packed, &["--batch", &batch, "--show-errors", "0"]);
        let file = summary.pointer("/files/0").expect("one file");
        assert_eq!((code, counts(file)), (Some(2), expected), "{summary}");
        assert!(file.get("resumed_after_line").and_then(Value::as_u64) > Some(0), "{summary}");
    });
    announce(&format!("{good} events, {} accepted again after kills; {count} calls", killed_accepted - good));
    assert!(killed_accepted >= good, "{killed_accepted} of {good}");
    assert_eq!(killed_count, count);
    for (person, calls) in &uninterrupted {
        assert_eq!(killed.get(person), Some(calls), "calls of {person}");
    }
    assert_eq!(killed.len(), uninterrupted.len());
}

/// Events of a day, without ids.
fn day() -> Vec<Fact> {
    let fact = |number: i64| {
        let at = recently_ms() + number * 1000;
        let kind = match number % 3 {
            0 => "email_delivered",
            1 => "email_opened",
            _ => "link_clicked",
        };
        let fact = Fact::new(kind, "", at)
            .without("id")
            .email(&format!("prospect{}@example.com", number / 3))
            .mail("mail-1", "run-1")
            .with("email_subject", "Twelve \"things\",\nand more")
            .with("user_agent", "Agent, with commas")
            .with("properties", json!({ "plan": "pro", "seats": 3 }));
        if kind == "link_clicked" { fact.with("email_link_url", "https://example.com/?a=1,2") } else { fact }
    };
    (0..300).map(fact).collect()
}

/// Facts as rows; with columns under other names and an unused one, so that they have to be mapped.
fn csv(facts: &[Fact]) -> String {
    const COLUMNS: [(&str, &str); 11] = [
        ("Event", "type"),
        ("At", "timestamp"),
        ("Address", "email"),
        ("email_id", "email_id"),
        ("campaign_id", "campaign_id"),
        ("campaign_run_id", "campaign_run_id"),
        ("campaign_name", "campaign_name"),
        ("email_subject", "email_subject"),
        ("email_link_url", "email_link_url"),
        ("user_agent", "user_agent"),
        ("properties", "properties"),
    ];
    let mut text = format!("\u{feff}{},Note\r\n", COLUMNS.map(|(column, _)| column).join(","));
    for fact in facts {
        let value = fact.value();
        let cell = |field: &str| match value.get(field) {
            None => String::new(),
            Some(Value::String(text)) => format!("\"{}\"", text.replace('"', "\"\"")),
            Some(other) => format!("\"{}\"", other.to_string().replace('"', "\"\"")),
        };
        let cells = COLUMNS.map(|(_, field)| cell(field)).join(",");
        text.push_str(&cells);
        text.push_str(",x\r\n");
    }
    text
}

#[test]
fn what_live_events_have_said_is_not_doubled() {
    let folder = tempfile::tempdir().expect("a folder");
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    let facts = day();
    Sender::new(standalone.ingest(), INGEST_KEY).take(&facts);
    let before = standalone.admin().settle().calls(CONNECTION).expect("books");

    let lines: Vec<String> = facts.iter().map(|fact| fact.value().to_string()).collect();
    let ndjson = written(folder.path(), "day.ndjson", lines.join("\n"));
    let rows = written(folder.path(), "day.csv.gz", gzip(csv(&facts).as_bytes()));
    let mapped = ["--map", "type=Event", "--map", "timestamp=At", "--map", "email=Address"];
    let events = u64::try_from(facts.len()).expect("a count");
    for (file, more) in [(&ndjson, &[][..]), (&rows, &mapped)] {
        let (code, summary) = import(standalone.ingest(), file, more);
        assert_eq!((code, counts(&summary)), (Some(0), [events, events, 0]), "{summary}");
    }
    let ledger = standalone.admin().settle();
    assert_eq!((ledger.events("accepted"), ledger.events("duplicate")), (Ok(3 * events), Ok(2 * events)));
    assert_eq!(ledger.calls(CONNECTION).expect("books"), before, "not one call more");
}

#[test]
fn bad_lines_are_told_and_kept_and_cost_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let (segment, rejects) = (Segment::start(), folder.path().join("rejects.ndjson"));
    let standalone = Standalone::start(&segment);
    let at = recently_ms();
    let good = |id: &str, person: &str| {
        format!(r#"{{"type":"email_opened","id":"{id}","timestamp":{at},"person_id":"{person}"}}"#)
    };
    let lines = [
        good("1", "a"),
        r#"{"type":"email_opened","person_id":"a"}"#.to_owned(),
        String::new(),
        "no json of ann@example.com".to_owned(),
        good("2", "b"),
        // One id with two contents: the second is a repeat of the first, as it is of two live requests.
        good("1", "a").replace('}', r#","email_id":"m"}"#),
        format!(r#"{{"type":"email_opened","id":"3","timestamp":{at},"person_id":"d","workspace":"another"}}"#),
        good("4", "e"),
    ];
    let file = written(folder.path(), "some.ndjson", lines.join("\r\n"));
    let kept = rejects.display().to_string();
    let told = |summary: &Value| -> Vec<(u64, String)> {
        let list = summary.get("errors").and_then(Value::as_array).expect("a list").iter();
        let one = |one: &Value| Some((one.get("line")?.as_u64()?, one.get("code")?.as_str()?.to_owned()));
        list.map(|entry| one(entry).expect("line and code")).collect()
    };
    let error = |line: u64, code: &str| (line, code.to_owned());

    // Whose a workspace is only the install knows.
    let (code, summary) = import(standalone.ingest(), &file, &["--dry-run", "--rejects", &kept]);
    assert_eq!((code, counts(&summary)), (Some(2), [7, 5, 2]), "{summary}");
    assert_eq!(told(&summary), [error(2, "missing_field"), error(4, "bad_json")]);
    assert_eq!(summary.pointer("/types/email_opened"), Some(&json!(5)));
    assert_eq!(standalone.admin().settle().events("accepted"), Ok(0), "a dry run sends nothing");
    let finished = run_import(standalone.ingest(), &file, &["--dry-run", "--rejects", &kept]);
    assert_eq!(finished.code, Some(64), "a dry run empties no file: {}", finished.output);
    let finished = run_import(standalone.ingest(), &file, &["--rejects", &file.display().to_string()]);
    assert_eq!(finished.code, Some(64), "what is read is not written over: {}", finished.output);

    let (code, summary) = import(standalone.ingest(), &file, &["--rejects", &kept]);
    assert_eq!((code, counts(&summary)), (Some(2), [7, 4, 3]), "{summary}");
    assert_eq!(told(&summary), [error(2, "missing_field"), error(4, "bad_json"), error(7, "connection_forbidden")]);
    assert!(!summary.to_string().contains("ann@example.com"), "what is shown has no addresses: {summary}");
    let text = fs::read_to_string(&rejects).expect("refused lines");
    let texts: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let texts: Vec<&str> = texts.iter().filter_map(|one| one.get("text")?.as_str()).collect();
    assert_eq!(texts, [&lines[1], &lines[3], &lines[6]]);
    let mode = fs::metadata(&rejects).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
    let ledger = standalone.admin().settle();
    assert_eq!((ledger.events("accepted"), ledger.events("duplicate")), (Ok(4), Ok(1)));

    // Once more: it is done; what was sent is not for another workspace. Another file of this name is not taken for it.
    let (code, summary) = import(standalone.ingest(), &file, &[]);
    assert_eq!((code, counts(&summary)), (Some(2), [0, 0, 0]), "{summary}");
    let (name, url) = (file.display().to_string(), format!("http://{}", standalone.ingest()));
    let finished = run(&["import", &name, "--url", &url, "--ingest-key", "key-of-another-workspace"], SOON);
    assert_eq!(finished.code, Some(1), "{}", finished.output);
    assert!(finished.output.contains("another --url or with another --ingest-key"), "{}", finished.output);
    assert!(!finished.output.contains("key-of-another"), "a key is not told: {}", finished.output);
    fs::write(&file, good("5", "f")).expect("a file can be written");
    let finished = run_import(standalone.ingest(), &file, &[]);
    assert_eq!(finished.code, Some(1), "{}", finished.output);
    assert!(finished.output.contains("the file has changed since its import began"), "{}", finished.output);
    let (code, summary) = import(standalone.ingest(), &file, &["--restart"]);
    assert_eq!((code, counts(&summary)), (Some(0), [1, 1, 0]), "{summary}");
}

#[test]
fn an_import_waits_for_an_ingest_that_is_away_but_not_for_a_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let segment = Segment::start();
    let mut standalone = Standalone::start(&segment);
    let lines: Vec<String> = day().iter().map(|fact| fact.value().to_string()).collect();
    let file = written(folder.path(), "day.ndjson", lines.join("\n"));
    let url = format!("http://{}", standalone.ingest());
    let wrong = ["import", &file.display().to_string(), "--url", &url, "--ingest-key", "not-a-key-of-anybody"];
    let finished = run(&wrong, SOON);
    assert_eq!(finished.code, Some(1), "{}", finished.output);
    assert!(finished.output.contains("401 auth_invalid"), "{}", finished.output);
    assert!(!finished.output.contains("not-a-key"), "a key is not told: {}", finished.output);

    standalone.kill();
    let finished = run_import(standalone.ingest(), &file, &["--give-up-after", "1"]);
    assert_eq!(finished.code, Some(1), "{}", finished.output);
    assert!(finished.output.contains("given up after 1 s"), "{}", finished.output);
    let log = folder.path().join("log");
    let mut process = start_import(standalone.ingest(), &file, &[], &log);
    eventually("the import says that it waits", SOON, || {
        holds(process.log_text().contains("cannot be reached"), || process.log_text())
    });
    standalone.start_again();
    let status = process.wait(SOON);
    assert!(status.success(), "{status}: {}", process.log_text());
    let ledger = standalone.admin().settle();
    assert_eq!((ledger.events("accepted"), ledger.events("duplicate")), (Ok(300), Ok(0)));
}
