//! What an operator changes while an install runs: connections are paused and resumed, keys rotate, the configuration
//! file is rewritten. Nothing is restarted for it, and nothing is lost.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::slice::from_ref;

use inflection_sandbox::FaultRule;
use inflection_tests::admin::Admin;
use inflection_tests::arrived::Arrived;
use inflection_tests::binary::ask;
use inflection_tests::checker::History;
use inflection_tests::config::{self, Connection, Key, Workspace};
use inflection_tests::fact::{Fact, recently_ms};
use inflection_tests::install::{Install, Kind, Stop};
use inflection_tests::load::{Load, Shape, Target, Until};
use inflection_tests::random::Random;
use inflection_tests::segment::{Segment, status};
use inflection_tests::sender::Sender;
use inflection_tests::standalone::{CONNECTION, INGEST_KEY, Standalone, WRITE_KEY};
use inflection_tests::wait::{SOON, eventually, holds, within};
use serde_json::Value;

/// Clients that send at the same time.
const CLIENTS: usize = 2;

/// Requests a second of each.
const REQUESTS_PER_SECOND: u32 = 20;

/// Events that are enough to have something going on.
const SOME_EVENTS: usize = 120;

/// The connection of the workspace `acme`.
const PROD: &str = "acme-prod";

/// Another connection of it.
const SIDE: &str = "acme-side";

/// Where the calls of a paused connection wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// In the decision log: the pause is short.
    InPlace,
    /// In the parked log.
    Parked,
}

#[test]
fn a_pause_keeps_everything() {
    pauses("pause", Kind::Standalone, Waiting::InPlace, Stop::Kill);
}

#[test]
fn a_long_pause_parks_everything() {
    pauses("long pause", Kind::Standalone, Waiting::Parked, Stop::Terminate);
}

#[test]
fn a_fleet_keeps_everything_in_a_pause() {
    pauses("fleet pause", Kind::Fleet, Waiting::Parked, Stop::Kill);
}

#[track_caller]
fn pauses(test: &str, kind: Kind, waiting: Waiting, stop: Stop) {
    let mut random = Random::announced(test);
    let segment = Segment::start();
    let mut workspace = Workspace::new("acme");
    let side = Connection::named(SIDE);
    workspace.connections.push(side.clone());
    let arguments: &[&str] = match waiting {
        Waiting::InPlace => &[],
        Waiting::Parked => &["--park-after-seconds", "1"],
    };
    let mut install = Install::start_with(kind, &segment, from_ref(&workspace), arguments);
    install.admin().tell(PROD, "pause");
    install.admin().await_state(PROD, "paused");

    let target = Target::new(&workspace, install.ingest(), random.word());
    let shape = Shape::steady(REQUESTS_PER_SECOND);
    let load = Load::start_shaped(&target, CLIENTS, Until::Told, &shape, &mut random);
    load.await_more(SOME_EVENTS);
    await_kept(&install, waiting);
    await_more_calls(&segment, side.write_key());
    install.stop(stop);
    install.start_again();
    install.admin().await_state(PROD, "paused");
    load.await_more(SOME_EVENTS);
    await_kept(&install, waiting);
    await_more_calls(&segment, side.write_key());
    let sent = segment.requests().iter().filter(|request| request.write_key == workspace.write_key()).count();
    assert_eq!(sent, 0, "requests of a paused connection");

    ask(&["connections", "resume", PROD, "--admin-url", &install.admin().url()]);
    install.admin().await_state(PROD, "active");
    load.await_more(SOME_EVENTS);
    load.stop();
    let history = install.complete(load.join(), &segment);
    history.under(workspace.write_key()).assert_holds();
    history.under(side.write_key()).assert_holds();
    let books = install.ledger().and_then(|ledger| ledger.calls(PROD)).expect("books of the connection");
    assert_eq!((books.parked, books.finished()), (0, books.produced), "{books:?}");
}

/// Waits until the paused connection's calls are seen where they should be.
#[track_caller]
fn await_kept(install: &Install, waiting: Waiting) {
    eventually("the calls of the paused connection are kept", SOON, || {
        let ledger = install.ledger()?;
        let books = ledger.calls(PROD)?;
        let kept = match waiting {
            Waiting::InPlace => books.pending,
            Waiting::Parked => books.parked,
        };
        holds(kept > 0 && ledger.pending > 0 && ledger.balanced, || ledger.raw.to_string())
    });
}

/// Waits until more calls have come under a key.
#[track_caller]
fn await_more_calls(segment: &Segment, write_key: &str) {
    let count = || segment.calls().iter().filter(|call| call.write_key == write_key).count();
    let before = count();
    eventually("the other connection goes on", SOON, || {
        let now = count();
        holds(now > before, || format!("{now} calls"))
    });
}

#[test]
fn connections_are_shown_and_told_by_name() {
    let mut random = Random::announced("connections");
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    let (admin, url) = (standalone.admin(), standalone.admin().url());
    let fact = Fact::new("email_delivered", &random.word(), recently_ms()).person("p-1").mail("mail-1", "run-1");
    Sender::new(standalone.ingest(), INGEST_KEY).take(&[fact]);
    admin.settle();

    let shown = admin.json(&format!("/v1/connections/{CONNECTION}?workspace=default")).expect("a connection");
    let listed = admin.connections().expect("a list");
    assert_eq!(listed.len(), 1, "{listed:?}");
    for entry in [&shown, &listed[0]] {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        assert_eq!((text("workspace"), text("id"), text("state")), ("default", CONNECTION, "active"), "{entry}");
        assert_eq!(entry.get("last_status").and_then(Value::as_u64), Some(200), "{entry}");
        for count in ["pending", "parked"] {
            assert_eq!(entry.get(count).and_then(Value::as_u64), Some(0), "{count} in {entry}");
        }
        let tail = WRITE_KEY.get(WRITE_KEY.len() - 4..).expect("a key has four characters");
        assert!(text("write_key").ends_with(tail), "{entry}");
        assert!(text("endpoint").starts_with(&segment.url()), "{entry}");
        assert!(!entry.to_string().contains(WRITE_KEY), "the key is shown");
    }

    for (verb, state) in [("pause", "paused"), ("resume", "active")] {
        ask(&["connections", verb, CONNECTION, "--workspace", "default", "--admin-url", &url]);
        admin.await_state(CONNECTION, state);
        let printed = ask(&["connections", "show", CONNECTION, "--json", "--admin-url", &url]).stdout;
        let printed: Value = serde_json::from_str(&printed).expect("--json prints JSON");
        assert_eq!(printed.get("state").and_then(Value::as_str), Some(state), "{printed}");
    }

    let unknown = [
        ("show", admin.get("/v1/connections/nobody")),
        ("pause", admin.order("/v1/connections/nobody/pause")),
        ("resume", admin.order("/v1/connections/nobody/resume")),
        ("test", admin.order("/v1/connections/nobody/test")),
        ("other workspace", admin.order(&format!("/v1/connections/{CONNECTION}/pause?workspace=nobody"))),
    ];
    for (name, answer) in unknown {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 404, "{name}: {}", answer.text());
        assert_eq!(answer.error_code().as_deref(), Some("not_found"), "{name}: {}", answer.text());
    }
    assert_eq!(admin.connection_state(CONNECTION).as_deref(), Ok("active"));
}

#[test]
fn a_test_of_a_connection_claims_no_more_than_it_saw() {
    Random::announced("connection test");
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    let (admin, url) = (standalone.admin(), standalone.admin().url());
    let weathers = [
        ("healthy", Vec::new()),
        ("refused key", vec![FaultRule::always(status(401, None))]),
        ("outage", vec![FaultRule::always(status(503, None))]),
    ];
    for (name, faults) in weathers {
        segment.set_faults(faults);
        let answer = admin.order(&format!("/v1/connections/{CONNECTION}/test")).expect("an answer");
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let levels = answer.json().get("levels").map(Value::to_string).unwrap_or_default();
        for level in ["\"reachable\"", "\"well_formed\""] {
            assert!(levels.contains(level), "{name}: no {level} in {}", answer.text());
        }
        assert_claims_little(&answer.text());
    }
    segment.clear_faults();
    for arguments in [&[][..], &["--json"]] {
        let arguments = [&["connections", "test", CONNECTION, "--admin-url", &url][..], arguments].concat();
        assert_claims_little(&ask(&arguments).output);
    }
    let log = standalone.log_text();
    assert!(!log.contains(WRITE_KEY) && !log.contains(INGEST_KEY), "a key is in the log");
    // What a test sends is none of the customer's facts.
    let ledger = admin.settle();
    assert_eq!(ledger.calls(CONNECTION).map_or(0, |books| books.produced), 0, "{}", ledger.raw);
}

/// Segment answers 200 to keys it does not know: nobody can say that a connection works.
#[track_caller]
fn assert_claims_little(text: &str) {
    assert!(!text.to_lowercase().contains("works"), "it claims to work: {text}");
    assert!(!text.contains(WRITE_KEY) && !text.contains(INGEST_KEY), "a key is shown: {text}");
}

#[test]
fn a_new_key_in_the_file_is_enough_after_a_401() {
    let (old, new) = ("wkold5b0c19d4aa7e4f02c66b8d31OLDk", "wknewe1f7702c6b5d4a9908f2a7cNEWk");
    let mut random = Random::announced("key rotation");
    let segment = Segment::start();
    segment.set_faults(vec![FaultRule { write_key: Some(old.to_owned()), ..FaultRule::always(status(401, None)) }]);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("write-key");
    config::replace(&file, old);
    let connections = vec![Connection::keyed(PROD, Key::File(file.clone()))];
    let workspace = Workspace { connections, ..Workspace::new("acme") };
    let mut standalone = Standalone::start_with(&segment, from_ref(&workspace));
    let admin = standalone.admin();
    let target = Target {
        ingest: standalone.ingest(),
        ingest_key: workspace.ingest_key().to_owned(),
        write_key: new.to_owned(),
        word: random.word(),
    };
    let shape = Shape::steady(REQUESTS_PER_SECOND);
    let load = Load::start_shaped(&target, CLIENTS, Until::Told, &shape, &mut random);
    admin.await_state(PROD, "paused_auth");
    load.await_more(SOME_EVENTS);
    assert!(admin.ledger().is_ok_and(|ledger| ledger.pending > 0), "everything is kept");
    assert!(segment.calls().is_empty(), "nothing was taken");

    config::replace(&file, new);
    admin.await_state(PROD, "active");
    load.await_more(SOME_EVENTS);
    load.stop();
    let history = load.join();
    assert_eq!(standalone.process().ended(), None, "it was not restarted");
    let shown = admin.json(&format!("/v1/connections/{PROD}")).expect("a connection").to_string();
    assert!(shown.contains("NEWk") && !shown.contains("OLDk"), "the old key is shown: {shown}");
    let log = standalone.log_text();
    assert!(!log.contains(old) && !log.contains(new), "a key is in the log");
    let history = Install::Standalone(Box::new(standalone)).complete(history, &segment);
    assert!(history.dead.is_empty(), "{:?}", history.dead);
    // Every call under the new key, and none under the old one: I7.
    history.assert_holds();
}

/// A workspace under change, beside one under steady load that must not notice.
struct Site {
    segment: Segment,
    standalone: Standalone,
    other: Workspace,
    word: String,
    sent: usize,
}

impl Site {
    fn admin(&self) -> Admin {
        self.standalone.admin()
    }

    fn configure(&self, acme: &Workspace) {
        self.standalone.reconfigure(&self.segment, &[acme.clone(), self.other.clone()]);
    }

    /// Waits until these connections, besides that of the other workspace, are the ones that exist.
    #[track_caller]
    fn await_connections(&self, expected: &[&str]) {
        eventually("the configuration is in force", SOON, || {
            let mut ids = self.admin().connection_ids()?;
            ids.retain(|id| id.starts_with("acme"));
            holds(ids == expected, || format!("{ids:?}"))
        });
    }

    /// A new fact, each of a person of its own; its run tells it apart.
    fn fact(&mut self) -> (Fact, String) {
        self.sent += 1;
        let run = format!("run-{}-{}", self.word, self.sent);
        let fact = Fact::new("email_delivered", &format!("e-{run}"), recently_ms() - 60_000)
            .person(&format!("p-{run}"))
            .email("ann@corp.example")
            .mail("mail-1", &run);
        (fact, run)
    }

    /// Sends a new fact with that key, until it is taken; returns its run.
    #[track_caller]
    fn send(&mut self, ingest_key: &str) -> String {
        let (fact, run) = self.fact();
        Sender::new(self.standalone.ingest(), ingest_key).take_eventually(&[fact]);
        run
    }

    /// The call of a run under a write key, as soon as it is there.
    fn arrival(&self, run: &str, write_key: &str) -> Result<Arrived, String> {
        within(SOON, || {
            let calls = self.segment.calls();
            let of_run = |call: &Arrived| call.write_key == write_key && call.property("campaign_run_id") == Some(run);
            calls.into_iter().find(of_run).ok_or_else(|| format!("no call of {run} under {write_key}"))
        })
    }

    /// Waits for the calls of a run under these write keys.
    #[track_caller]
    fn await_arrivals(&self, run: &str, write_keys: &[&str]) {
        for write_key in write_keys {
            self.arrival(run, write_key).expect("a fact arrives");
        }
    }

    fn warnings(&self) -> usize {
        self.standalone.log_text().lines().filter(|line| line.contains("WARN")).count()
    }

    /// Replaces the file by one with a mistake in it: that is logged, and changes nothing.
    #[track_caller]
    fn refuse(&self, text: &str, connections: &[&str]) {
        let before = self.warnings();
        self.standalone.replace_config(text);
        eventually("the mistake is logged", SOON, || {
            let now = self.warnings();
            holds(now > before, || format!("{now} warnings"))
        });
        self.standalone.admin().await_metric("inflection_config_last_reload_successful", "0");
        self.await_connections(connections);
    }
}

#[test]
fn the_file_is_read_again_while_running() {
    let mut random = Random::announced("hot reload");
    let (acme, other) = (Workspace::new("acme"), Workspace::new("other"));
    let segment = Segment::start();
    let standalone = Standalone::start_with(&segment, &[acme.clone(), other.clone()]);
    let mut site = Site { segment, standalone, other, word: random.word(), sent: 0 };
    let target = Target::new(&site.other, site.standalone.ingest(), random.word());
    let shape = Shape::steady(REQUESTS_PER_SECOND);
    let load = Load::start_shaped(&target, CLIENTS, Until::Told, &shape, &mut random);
    let (prod_key, side) = (acme.write_key(), Connection::named(SIDE));

    // Invalid as TOML, and invalid in one line of a connection: in both cases nothing at all is taken over.
    let mut wrong = acme.clone();
    wrong.connections.push(side.clone().line("colour = \"blue\""));
    let wrong = config::render(&[wrong, site.other.clone()], &site.segment.url());
    for text in ["[[workspaces]\nid = ", wrong.as_str()] {
        site.refuse(text, &[PROD]);
        let run = site.send(acme.ingest_key());
        site.await_arrivals(&run, &[prod_key]);
    }

    // A connection and an ingest key are added.
    let more_key = "ik_more_4c81e05b92d7";
    let mut more = acme.clone();
    more.connections.push(side.clone());
    more.ingest_keys.push(Key::Value(more_key.to_owned()));
    site.configure(&more);
    site.await_connections(&[PROD, SIDE]);
    site.standalone.admin().await_metric("inflection_config_last_reload_successful", "1");
    for key in [acme.ingest_key(), more_key] {
        let run = site.send(key);
        site.await_arrivals(&run, &[prod_key, side.write_key()]);
    }

    // A connection is changed.
    more.connections = vec![acme.connections[0].clone(), side.clone().line("email = \"omit\"")];
    site.configure(&more);
    eventually("the address is left out", SOON, || {
        let run = site.send(more_key);
        let call = site.arrival(&run, side.write_key())?;
        holds(call.property("userId").is_none(), || call.body.to_string())
    });

    // A connection and a key are removed.
    load.stop();
    let history = load.join();
    site.admin().settle();
    more.connections.remove(0);
    more.ingest_keys.remove(0);
    site.configure(&more);
    site.await_connections(&[SIDE]);
    let run = await_removal(&mut site, acme.ingest_key(), more_key);
    site.await_arrivals(&run, &[side.write_key()]);
    finish(site, history, &run, prod_key);
}

/// Waits until a removed key is unknown; then sends with the one that is left.
#[track_caller]
fn await_removal(site: &mut Site, removed: &str, left: &str) -> String {
    let ingest = site.standalone.ingest();
    eventually("the removed key is unknown", SOON, || {
        let (fact, _) = site.fact();
        let answer = Sender::new(ingest, removed).post(&[fact]);
        holds(answer.status == 401, || format!("{}: {}", answer.status, answer.text()))
    });
    site.send(left)
}

/// The books balance, the removed connection got nothing more, and the other workspace noticed nothing.
#[track_caller]
fn finish(site: Site, history: History, last_run: &str, removed_key: &str) {
    let Site { segment, standalone, other, .. } = site;
    let install = Install::Standalone(Box::new(standalone));
    let history = install.complete(history, &segment);
    let of_last_run = |call: &&Arrived| call.property("campaign_run_id") == Some(last_run);
    let stray = history.arrivals.iter().filter(of_last_run).find(|call| call.write_key == removed_key);
    assert_eq!(stray, None, "a call for a removed connection");
    history.under(other.write_key()).assert_holds();
}
