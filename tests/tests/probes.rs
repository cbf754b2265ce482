//! What probes say, and when: in an outage of the bus, and while a process leaves. The admin key, renewed while a process runs.

#![expect(clippy::expect_used, clippy::panic, reason = "test helpers outside #[test] functions")]

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use inflection_tests::admin::Admin;
use inflection_tests::config::Workspace;
use inflection_tests::fact::{self, Fact, recently_ms};
use inflection_tests::fleet::{Fleet, Stage};
use inflection_tests::http::{Connection, Request};
use inflection_tests::process::Process;
use inflection_tests::segment::Segment;
use inflection_tests::sender::Sender;
use inflection_tests::standalone::{GRACE, INGEST_KEY, Standalone};
use inflection_tests::wait::{SOON, await_moment, eventually, holds};

/// The bytes of a request that are sent before SIGTERM.
const SENT_BEFORE: usize = 200;

/// How often `/livez` is asked in an outage, and the time between: longer than a prober's patience with one that hangs.
const OUTAGE_ROUNDS: u32 = 25;
const ROUND: Duration = Duration::from_millis(200);

#[track_caller]
fn probe(admin: Admin, path: &str) -> (u16, String) {
    let answer = admin.get(path).unwrap_or_else(|error| panic!("{path} is not answered: {error}"));
    (answer.status, answer.text())
}

#[track_caller]
fn await_probe(admin: Admin, path: &str, status: u16) -> String {
    eventually(&format!("{path} answers {status}"), SOON, || {
        let answer = admin.get(path).map_err(|error| error.to_string())?;
        holds(answer.status == status, || format!("{}: {}", answer.status, answer.text()))?;
        Ok(answer.text())
    })
}

#[test]
fn an_outage_of_the_bus_is_no_reason_to_restart() {
    let (segment, workspace) = (Segment::start(), Workspace::new("acme"));
    let mut fleet = Fleet::start(&segment, std::slice::from_ref(&workspace));
    let mut sender = Sender::new(fleet.ingest(), workspace.ingest_key());
    let fact = |id: &str| Fact::new("email_delivered", id, recently_ms()).person(id).mail("mail-1", "run-1");
    sender.take(&[fact("before")]);
    fleet.nats().kill();
    for stage in Stage::ALL {
        let why = await_probe(fleet.admin(stage), "/readyz", 503);
        assert!(why.contains("NATS") || why.contains("leader"), "/readyz of {stage:?} does not say why: {why:?}");
    }
    let answer = sender.post(&[fact("meanwhile")]);
    assert_eq!((answer.status, answer.error_code().as_deref()), (503, Some("storage_unavailable")));
    let began = Instant::now();
    for round in 0..OUTAGE_ROUNDS {
        await_moment(began + ROUND * round);
        for stage in Stage::ALL {
            assert_eq!(probe(fleet.admin(stage), "/livez"), (200, "ok\n".to_owned()), "{stage:?} in an outage");
            assert_eq!(probe(fleet.admin(stage), "/startupz").0, 200, "{stage:?} has started once");
        }
    }
    for stage in Stage::ALL {
        fleet.admin(stage).await_metric("inflection_bus_available", "0");
    }
    fleet.nats().start_again();
    for stage in Stage::ALL {
        await_probe(fleet.admin(stage), "/readyz", 200);
        fleet.admin(stage).await_metric("inflection_bus_available", "1");
    }
    assert_eq!(fleet.supervise(), Vec::<&str>::new(), "nobody had to be started again");
    sender.take_eventually(&[fact("after")]);
    // Refused is not stored, as far as the sender knows; what was taken has arrived.
    eventually("what was taken arrives", SOON, || {
        let arrived: Vec<String> = segment.calls().iter().map(|call| call.label()).collect();
        let persons = segment.calls();
        let has = |id: &str| persons.iter().any(|call| call.anonymous_id() == Some(id));
        holds(has("before") && has("after"), || format!("{arrived:?}"))
    });
}

#[test]
fn a_standalone_that_leaves_answers_what_it_has_begun() {
    let segment = Segment::start();
    let mut standalone = Standalone::start(&segment);
    let (ingest, admin) = (standalone.ingest(), standalone.admin());
    leaves_in_order(standalone.process(), ingest, admin, INGEST_KEY);
    standalone.start_again();
    await_arrival(&segment);
}

#[test]
fn an_ingest_that_leaves_answers_what_it_has_begun() {
    let (segment, workspace) = (Segment::start(), Workspace::new("acme"));
    let mut fleet = Fleet::start(&segment, std::slice::from_ref(&workspace));
    let (ingest, admin) = (fleet.ingest(), fleet.admin(Stage::Ingest));
    leaves_in_order(fleet.worker(Stage::Ingest, 0).process(), ingest, admin, workspace.ingest_key());
    await_arrival(&segment);
}

/// SIGTERM while a request is half sent and another connection idles: not ready first, then the idle one is closed and the
/// begun one answered, on a connection that is closed behind it; then the process ends with success.
#[track_caller]
fn leaves_in_order(process: &mut Process, ingest: SocketAddr, admin: Admin, key: &str) {
    let request = |id: &str| {
        let fact = Fact::new("email_delivered", id, recently_ms()).person(id).mail("mail-1", "run-1");
        Request::json("/v1/events", fact::body(&[fact])).bearer(key).encode()
    };
    let mut idle = Connection::open(ingest, SOON).expect("a connection");
    idle.send(&request("idle")).expect("sent");
    assert_eq!(idle.receive(false).expect("an answer").status, 200);
    let (mut begun, bytes) = (Connection::open(ingest, SOON).expect("a connection"), request("begun"));
    let (before, after) = bytes.split_at_checked(SENT_BEFORE).expect("a request is longer");
    begun.send(before).expect("sent");
    // Whoever connects later is taken later: when this one is answered, the head of the begun request was read.
    let mut last = Connection::open(ingest, SOON).expect("a connection");
    last.send(&request("last")).expect("sent");
    assert_eq!(last.receive(false).expect("an answer").status, 200);

    process.ask_to_end();
    assert_eq!(await_probe(admin, "/readyz", 503), "stopping\n");
    assert_eq!(probe(admin, "/livez").0, 200, "who leaves is alive");
    assert!(idle.closes_within(SOON), "an idle connection is kept open");
    begun.send(after).expect("sent");
    let answer = begun.receive(false).expect("what was begun is answered");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{}", answer.text());
    assert!(begun.closes_within(SOON), "the connection is kept open");
    let status = process.wait(GRACE);
    assert!(status.success(), "ended with {status} after SIGTERM");
}

#[track_caller]
fn await_arrival(segment: &Segment) {
    eventually("what was answered arrives", SOON, || {
        let calls = segment.calls();
        let has = |id: &str| calls.iter().any(|call| call.anonymous_id() == Some(id));
        holds(has("idle") && has("begun") && has("last"), || format!("{} calls", calls.len()))
    });
}

#[test]
fn the_admin_key_is_renewed_without_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("admin-key");
    fs::write(&file, "the-old-admin-key\n").expect("a file");
    let (segment, path) = (Segment::start(), file.display().to_string());
    let standalone = Standalone::start_by_flags(&segment, &["--admin-key-file", &path]);
    let with = |key: &'static str| standalone.admin().keyed(key).get("/v1/ledger").expect("an answer").status;
    // Looked for in the log: who asks with a wrong key again and again is taken for somebody who guesses.
    let await_change = |times: usize| {
        eventually("the change is taken over", SOON, || {
            let log = standalone.log_text();
            holds(log.matches("the admin keys have changed").count() == times, || log)
        });
    };
    assert_eq!((with("the-old-admin-key"), with("the-new-admin-key")), (200, 403));
    assert_eq!(standalone.admin().get("/v1/ledger").expect("an answer").status, 401);
    fs::write(&file, "the-new-admin-key\nthe-old-admin-key\n").expect("a file");
    await_change(1);
    assert_eq!((with("the-new-admin-key"), with("the-old-admin-key")), (200, 200), "both while one replaces the other");
    // A file without a key changes nothing: the API is never open by accident.
    fs::write(&file, "\n").expect("a file");
    eventually("the mistake is said", SOON, || {
        let log = standalone.log_text();
        holds(log.contains("the changed admin keys cannot be used"), || log)
    });
    assert_eq!((with("the-new-admin-key"), with("the-old-admin-key")), (200, 200));
    fs::write(&file, "the-new-admin-key\n").expect("a file");
    await_change(2);
    assert_eq!((with("the-new-admin-key"), with("the-old-admin-key")), (200, 403));
    let log = standalone.log_text();
    assert!(!log.contains("the-new") && !log.contains("the-old"), "a key is in the log: {log}");
}
