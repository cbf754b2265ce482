//! Identity's state has a budget: above it everything waits, durable and in order, and nothing is forgotten.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::collections::HashSet;
use std::ops::Range;

use inflection_tests::admin::Admin;
use inflection_tests::fact::{Fact, recently_ms};
use inflection_tests::segment::Segment;
use inflection_tests::sender::Sender;
use inflection_tests::standalone::{CONNECTION, INGEST_KEY, Standalone};
use inflection_tests::wait::{SOON, eventually, holds};

/// Events of a request, each of another mail and person.
const A_REQUEST: usize = 500;

/// Some hundred bytes a mail: long before so many, a budget of a megabyte is used up.
const EVENTS_MAX: usize = 40_000;

fn opened(numbers: Range<usize>) -> Vec<Fact> {
    let at_ms = recently_ms();
    let fact = |number| {
        Fact::new("email_opened", &format!("e-{number}"), at_ms).person(&format!("p-{number}")).mail("mail-1", "run-1")
    };
    numbers.map(fact).collect()
}

/// What the probe says, under which status.
fn readiness(admin: Admin) -> (u16, String) {
    let answer = admin.get("/readyz").expect("the admin listener answers");
    (answer.status, answer.text())
}

#[test]
fn a_state_over_its_budget_waits_and_goes_on_with_more_memory() {
    let segment = Segment::start();
    let mut standalone = Standalone::start_by_flags(&segment, &["--state-budget-mib", "1"]);
    let (admin, mut sender) = (standalone.admin(), Sender::new(standalone.ingest(), INGEST_KEY));
    let mut sent = 0;
    let is_held = || readiness(admin).1.contains("holds still");
    while !is_held() {
        assert!(sent < EVENTS_MAX, "the budget is never used up");
        sender.take(&opened(sent..sent + A_REQUEST));
        sent += A_REQUEST;
    }
    let (status, said) = readiness(admin);
    assert_eq!(status, 200, "ingest can still make durable what comes: {said}");
    assert!(said.contains("of a budget of 1 MiB") && said.contains("--state-budget-mib"), "{said}");
    assert_eq!(admin.metric("inflection_identity_state_budget_bytes").as_deref(), Ok("1048576"));
    assert_eq!(admin.metric("inflection_identity_state_held").as_deref(), Ok("1"));

    // What comes now waits, and so do repeats of what was before.
    sender.take(&opened(sent..sent + A_REQUEST));
    sender.take(&opened(0..A_REQUEST));
    sent += A_REQUEST;
    let looks = || admin.metric("inflection_identity_holds_total").ok().and_then(|count| count.parse::<u64>().ok());
    let before = looks().unwrap_or_default();
    eventually("every partition has looked again", SOON, || {
        let now = looks().unwrap_or_default();
        holds(now >= before + 48, || format!("{now} looks, {before} before"))
    });
    let ledger = admin.ledger().expect("a ledger");
    assert!(ledger.pending >= A_REQUEST as u64, "{}", ledger.raw);
    assert!(segment.calls().len() < 2 * sent, "an open makes two calls, and not all are decided");
    let log = standalone.log_text();
    assert!(log.contains("comes near its budget") && log.contains("is over its budget"), "{log}");

    assert!(standalone.terminate().success(), "it leaves in order while it holds still");
    standalone.replace_argument("1", "64");
    standalone.start_again();
    let ledger = admin.settle();
    assert_eq!(ledger.events("folded"), Ok(sent as u64), "{}", ledger.raw);
    assert_eq!(ledger.events("duplicate"), Ok(A_REQUEST as u64), "{}", ledger.raw);
    assert_eq!(ledger.calls(CONNECTION).expect("its calls").accepted, 2 * sent as u64);
    let calls = segment.calls();
    let ids: HashSet<_> = calls.iter().map(|call| call.message_id.clone()).collect();
    assert_eq!((ids.len(), calls.len()), (2 * sent, 2 * sent), "every call once");
    assert_eq!(readiness(admin), (200, "ok\n".to_owned()));
}
