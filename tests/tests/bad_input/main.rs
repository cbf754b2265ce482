//! The bad-input table of `reference/reliability.md` 3.6 for `POST /v1/events`, row by row.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of checks: a panic is a failed check with its reason"
)]

mod auth;
mod encoding;
mod events;
mod framing;
mod json;
mod judge;
mod row;
mod slow;

use std::collections::BTreeMap;
use std::fs;
use std::slice::from_ref;
use std::thread;
use std::time::{Duration, Instant};

use inflection_tests::arrived::first_arrivals;
use inflection_tests::config::{Key, Workspace};
use inflection_tests::fleet::Fleet;
use inflection_tests::http::{Client, Request};
use inflection_tests::install::Install;
use inflection_tests::random::Random;
use inflection_tests::segment::Segment;
use inflection_tests::sender::Sender;
use inflection_tests::standalone::Standalone;
use inflection_tests::wait::{SOON, eventually, holds};

use crate::judge::{Judge, run_of};
use crate::row::{CANARY, Desk, Expect};

/// What a stage may hold at most (`design.md` 8), in bytes.
const MEMORY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What a good request may take beside ten thousand idle connections.
const UNAFFECTED: Duration = Duration::from_secs(2);

#[test]
fn every_row_is_answered_as_the_table_says() {
    let mut random = Random::announced("bad input");
    let segment = Segment::start();
    let (ours, theirs) = (Workspace::new("acme"), Workspace::new("other"));
    let standalone = Standalone::start_with(&segment, &[ours.clone(), theirs.clone()]);
    let desk = Desk::new(&ours, &theirs, &random.word());

    let mut judge = Judge::new(standalone.ingest(), &desk);
    let rows = [auth::rows(&desk), framing::rows(&desk), encoding::rows(&desk), json::rows(&desk), events::rows(&desk)];
    thread::scope(|scope| {
        // The slow ones take half a minute each and need no processor: they run beside the others.
        let slow = scope.spawn(|| slow::check(standalone.ingest(), &desk));
        rows.iter().flatten().for_each(|row| judge.check(row));
        judge.check_twins("A3", "A3 again");
        slow.join().expect("the slow rows pass");
    });
    let held = slow::idle_connections(standalone.ingest());
    let began = Instant::now();
    judge.check_good("beside idle connections");
    assert!(began.elapsed() < UNAFFECTED, "beside idle connections a request took {:?}", began.elapsed());
    drop(held);
    judge.finish();

    // Everything good arrives, nothing bad does.
    let mut expected: BTreeMap<String, usize> = BTreeMap::from([("good-health".to_owned(), judge.health_checks())]);
    for row in rows.iter().flatten() {
        if let Expect::Taken { arrive, .. } | Expect::Mixed { arrive, .. } = &row.expect {
            *expected.entry(desk.run(true, &row.id)).or_default() += arrive;
        }
    }
    expected.retain(|_, arrive| *arrive > 0);
    let install = Install::Standalone(Box::new(standalone));
    eventually("the good rows arrive", SOON, || {
        let mut arrived: BTreeMap<String, usize> = BTreeMap::new();
        let calls = first_arrivals(segment.calls());
        for call in calls.iter().filter(|call| call.kind == "track") {
            *arrived.entry(run_of(call).to_owned()).or_default() += 1;
        }
        holds(arrived == expected, || format!("\narrived  {arrived:?}\nexpected {expected:?}"))
    });
    install.settle();
    let dead = install.dead_letters();
    assert!(dead.is_empty(), "{dead:?}");

    let log = install.log_text();
    for secret in [CANARY, ours.ingest_key(), ours.write_key(), theirs.ingest_key(), theirs.write_key()] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "the log shows {secret}: {line:?}");
    }
    let Install::Standalone(mut standalone) = install else { return };
    let peak = standalone.process().memory_peak_bytes();
    assert!(peak < MEMORY_BYTES_MAX, "held {} MiB at its peak", peak / 1024 / 1024);
}

/// A4: a key that has been taken out of its file is as good as one that never was.
#[test]
fn a_revoked_key_is_unknown() {
    let mut random = Random::announced("revoked key");
    let segment = Segment::start();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("ingest-key");
    let (old, new) = ("ik_old_5b0c19d4aa7e4f02", "ik_new_e1f7702c6b5d4a99");
    fs::write(&file, old).expect("a key can be written");
    let workspace = Workspace { ingest_keys: vec![Key::File(file.clone())], ..Workspace::new("rotating") };
    let mut standalone = Standalone::start_with(&segment, from_ref(&workspace));

    let desk = Desk::new(&workspace, &workspace, &random.word());
    let fact = desk.fact(true, "A4");
    Sender::new(standalone.ingest(), old).take(from_ref(&fact));
    fs::write(&file, new).expect("a key can be written");
    standalone.terminate();
    standalone.start_again();
    let mut client = Client::new(standalone.ingest());
    let mut post = |key: &str| client.call(&desk.post_one(&fact).without("Authorization").bearer(key));
    eventually("the new key is taken and the old one is not", SOON, || {
        let (with_new, with_old) = (post(new).map_err(|e| e.to_string())?, post(old).map_err(|e| e.to_string())?);
        holds(with_new.status == 200, || format!("new key: {}", with_new.status))?;
        holds(with_old.status == 401, || format!("old key: {}", with_old.status))?;
        holds(with_old.error_code().as_deref() == Some("auth_invalid"), || with_old.text())
    });
    let log = standalone.log_text();
    assert!(!log.contains(old) && !log.contains(new), "a key is in the log");
}

/// R3: what cannot be stored is not taken, and the sender is told when to come again.
#[test]
fn nothing_is_taken_while_the_bus_is_away() {
    let mut random = Random::announced("storage unavailable");
    let segment = Segment::start();
    let workspace = Workspace::new("acme");
    let mut fleet = Fleet::start(&segment, from_ref(&workspace));
    let desk = Desk::new(&workspace, &workspace, &random.word());

    fleet.nats().kill();
    let answer = Client::new(fleet.ingest()).call(&desk.post_one(&desk.fact(true, "R3"))).expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.error_code().as_deref(), Some("storage_unavailable"));
    let again = answer.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
    assert!(again.is_some_and(|seconds| seconds >= 1), "Retry-After: {:?}", answer.header("retry-after"));

    fleet.nats().start_again();
    fleet.supervise();
    let mut sender = Sender::new(fleet.ingest(), workspace.ingest_key());
    sender.take_eventually(&[desk.fact(true, "R3")]);
    eventually("it arrives once, however often it was sent", SOON, || {
        let arrived = first_arrivals(segment.calls());
        holds(arrived.len() == 1, || format!("{arrived:?}"))
    });
}

/// E23: equal ids in two workspaces have nothing to do with each other.
#[test]
fn workspaces_are_strangers() {
    let mut random = Random::announced("two workspaces");
    let segment = Segment::start();
    let workspaces = [Workspace::new("acme"), Workspace::new("other")];
    let standalone = Standalone::start_with(&segment, &workspaces);
    let desk = Desk::new(&workspaces[0], &workspaces[1], &random.word());
    let fact = desk.fact(true, "E23").user("one-user");
    for workspace in &workspaces {
        Sender::new(standalone.ingest(), workspace.ingest_key()).take(from_ref(&fact));
    }
    eventually("both arrive, each under its own key", SOON, || {
        let calls = first_arrivals(segment.calls());
        for workspace in &workspaces {
            let own = calls.iter().filter(|call| call.write_key == workspace.write_key());
            let kinds: Vec<&str> = own.map(|call| call.kind.as_str()).collect();
            holds(kinds == ["identify", "track"], || format!("{}: {kinds:?}", workspace.id))?;
        }
        Ok(())
    });
}

/// A sender that names its key as a user name, as Segment's SDKs do.
#[test]
fn basic_authentication_carries_the_key_as_user_name() {
    let mut random = Random::announced("basic");
    let segment = Segment::start();
    let workspace = Workspace::new("acme");
    let standalone = Standalone::start_with(&segment, from_ref(&workspace));
    let desk = Desk::new(&workspace, &workspace, &random.word());
    let request = desk.post_one(&desk.fact(true, "A2")).without("Authorization");
    let mut client = Client::new(standalone.ingest());
    let mut status = |request: &Request| client.call(request).expect("an answer").status;
    assert_eq!(status(&request.clone().basic(workspace.ingest_key())), 200);
    assert_eq!(status(&request.basic("ik_wrong")), 401);
}
