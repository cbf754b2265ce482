//! A connection that asks for patience gets it, from every worker and over restarts, and full speed when it is over.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use inflection_sandbox::{FaultRule, ReceivedRequest};
use inflection_tests::config::Workspace;
use inflection_tests::fact::{Fact, now_ms, recently_ms};
use inflection_tests::fleet::{Fleet, Stage};
use inflection_tests::segment::{Segment, status};
use inflection_tests::sender::Sender;
use inflection_tests::standalone::{INGEST_KEY, Standalone};
use inflection_tests::wait::{SOON, eventually, holds};

/// How long Segment asks for patience, in seconds and milliseconds.
const PATIENCE: &str = "4";
const PATIENCE_MS: i64 = 4_000;

/// What a clock and a wake-up may be off.
const SLACK_MS: i64 = 20;

/// Another worker may know of a closed window this late.
const TOLD_WITHIN_MS: i64 = 1_000;

/// Events that wait behind a closed window, each of another person, in requests of so many.
const BACKLOG: usize = 10_000;
const A_REQUEST: usize = 1_000;

fn delivered(word: &str, numbers: std::ops::Range<usize>) -> Vec<Fact> {
    let fact = |number| {
        let at_ms = recently_ms() + i64::try_from(number).expect("a small number");
        Fact::new("email_delivered", &format!("e-{word}-{number}"), at_ms)
            .person(&format!("p-{word}-{number}"))
            .mail("mail-1", "run-1")
    };
    numbers.map(fact).collect()
}

/// The moment Segment asked for patience.
fn closed_at(segment: &Segment) -> i64 {
    eventually("segment asks for patience", SOON, || {
        let requests = segment.requests();
        let closed = requests.iter().find(|request| request.status == Some(429));
        closed.map(|request| request.at_ms).ok_or_else(|| format!("{} requests, none refused", requests.len()))
    })
}

#[track_caller]
fn await_calls(segment: &Segment, count: usize) {
    eventually("everything arrives", SOON, || {
        let calls = segment.calls().len();
        holds(calls >= count, || format!("{calls} of {count} calls"))
    });
}

/// Requests later than `from` and earlier than `to` milliseconds after a moment.
fn within(segment: &Segment, at_ms: i64, from: i64, to: i64) -> Vec<ReceivedRequest> {
    let requests = segment.requests();
    requests.into_iter().filter(|request| (from..to).contains(&(request.at_ms - at_ms))).collect()
}

#[test]
fn a_closed_window_survives_a_kill_and_ends_on_time_at_full_speed() {
    let segment = Segment::start();
    let mut standalone = Standalone::start_by_flags(&segment, &["--linger-ms", "0"]);
    segment.set_faults(vec![FaultRule::times(status(429, Some(PATIENCE)), 1)]);
    let mut sender = Sender::new(standalone.ingest(), INGEST_KEY);
    sender.take(&delivered("first", 0..1));
    let closed = closed_at(&segment);
    eventually("the window is noted", SOON, || {
        let status = standalone.admin().connections()?;
        let left = status.first().and_then(|one| one.get("closed_for_ms")?.as_u64()).unwrap_or(0);
        holds(left > 0, || format!("{status:?}"))
    });
    standalone.kill();
    standalone.start_again();
    let mut sender = Sender::new(standalone.ingest(), INGEST_KEY);
    for start in (0..BACKLOG).step_by(A_REQUEST) {
        sender.take(&delivered("more", start..start + A_REQUEST));
    }
    assert!(now_ms() - closed < PATIENCE_MS - SLACK_MS, "too slow to show anything: the window is over");
    await_calls(&segment, 1 + BACKLOG);
    let early = within(&segment, closed, 1, PATIENCE_MS - SLACK_MS);
    assert!(early.is_empty(), "inside the closed window: {early:?}");
    let last = segment.requests().iter().map(|request| request.at_ms - closed).max().expect("requests");
    assert!(last < 2 * PATIENCE_MS, "{BACKLOG} calls needed {last} ms, of which {PATIENCE_MS} ms were the window");
}

#[test]
fn every_worker_keeps_to_a_closed_window() {
    let segment = Segment::start();
    let workspace = Workspace::new("acme");
    let mut fleet = Fleet::start_with(&segment, std::slice::from_ref(&workspace), &["--linger-ms", "0"]);
    fleet.add(Stage::Delivery, &["--linger-ms", "0"]);
    assert_eq!(fleet.await_even(Stage::Delivery), [8, 8], "both workers send");
    let mut sender = Sender::new(fleet.ingest(), workspace.ingest_key());
    sender.take(&delivered("warm", 0..200));
    await_calls(&segment, 200);
    segment.set_faults(vec![FaultRule::times(status(429, Some(PATIENCE)), 1)]);
    sender.take(&delivered("first", 0..1));
    let closed = closed_at(&segment);
    // Calls come all the time: a worker that does not know would send them.
    let mut sent = 0;
    eventually("the window is over", SOON, || {
        // Persons enough that both workers have some.
        sender.take(&delivered("during", sent..sent + 20));
        sent += 20;
        holds(!within(&segment, closed, PATIENCE_MS, i64::MAX).is_empty(), || "not yet".to_owned())
    });
    await_calls(&segment, 200 + 1 + sent);
    let early = within(&segment, closed, TOLD_WITHIN_MS, PATIENCE_MS - SLACK_MS);
    assert!(early.is_empty(), "inside the closed window: {early:?}");
    let ids: std::collections::BTreeSet<String> = segment.calls().into_iter().map(|call| call.message_id).collect();
    assert_eq!(ids.len(), 200 + 1 + sent, "nothing is lost");
}
