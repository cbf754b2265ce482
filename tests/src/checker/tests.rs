//! The checker notices what it is there for: each planted fault is found, a good history is not complained about.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Attempt, History, Kind, Outcome, SourceFact};
use crate::admin::DeadLetter;
use crate::arrived::Arrived;
use crate::fact::rfc3339;

const KEY: &str = "write-key";
const START_MS: i64 = 1_700_000_000_000;

fn source(index: i64, kind: Kind, user_id: Option<&str>) -> SourceFact {
    SourceFact {
        id: format!("e{index}"),
        write_key: KEY.to_owned(),
        person: "p1".to_owned(),
        kind,
        run: "r1".to_owned(),
        link: (kind == Kind::Clicked).then(|| "https://l/1".to_owned()),
        at_ms: START_MS + index,
        machine: false,
        user_id: user_id.map(str::to_owned),
    }
}

fn call(id: &str, at: i64, kind: &str, fields: &Value) -> Arrived {
    let mut body = json!({ "type": kind, "messageId": id, "timestamp": rfc3339(START_MS + at) });
    if let (Some(body), Some(fields)) = (body.as_object_mut(), fields.as_object()) {
        body.extend(fields.clone());
    }
    Arrived {
        received_at_ms: START_MS,
        write_key: KEY.to_owned(),
        kind: kind.to_owned(),
        message_id: id.to_owned(),
        body,
        sent_at_ms: Some(START_MS),
        dropped: None,
    }
}

/// Delivered anonymous; opened with a user id; clicked.
fn good() -> History {
    let facts =
        vec![source(0, Kind::Delivered, None), source(1, Kind::Opened, Some("u1")), source(2, Kind::Clicked, None)];
    let attempt =
        |fact: usize, at: u64| Attempt { facts: vec![fact], began_ns: at, ended_ns: at + 1, outcome: Outcome::Ok };
    let link = json!({ "email_link_url": "https://l/1", "is_unique_click": true });
    let arrivals = vec![
        call("m0", 0, "track", &json!({ "event": "Email Delivered", "anonymousId": "p1" })),
        call("m1", 1, "identify", &json!({ "userId": "u1", "anonymousId": "p1" })),
        call("m2", 1, "track", &json!({ "event": "Email Opened", "userId": "u1" })),
        call("m3", 1, "track", &json!({ "event": "Email Unique Opens", "userId": "u1" })),
        call("m4", 2, "track", &json!({ "event": "Link Clicked", "userId": "u1", "properties": link })),
        call("m5", 2, "track", &json!({ "event": "Unique Link Click", "userId": "u1", "properties": link })),
        call("m6", 2, "track", &json!({ "event": "Unique Link Click per Unique Open", "userId": "u1" })),
    ];
    let attempts = vec![attempt(0, 10), attempt(1, 20), attempt(2, 30)];
    History { facts, attempts, arrivals, balanced: true, ..History::default() }
}

#[track_caller]
fn check(plant: impl FnOnce(&mut History), expected: &[&str]) {
    let mut history = good();
    plant(&mut history);
    let violations = history.violations();
    let found: BTreeSet<&str> = violations.iter().map(|(rule, _)| *rule).collect();
    assert_eq!(found, expected.iter().copied().collect(), "{violations:#?}");
}

fn letter(event_id: &str, message_id: &str) -> DeadLetter {
    DeadLetter {
        event_id: event_id.to_owned(),
        message_id: message_id.to_owned(),
        connection: "default".to_owned(),
        reason: "refused".to_owned(),
        raw: Value::Null,
    }
}

#[test]
fn a_good_history_passes() {
    check(|_| {}, &[]);
    check(|history| history.arrivals.push(history.arrivals[2].clone()), &[]);
    check(|history| history.attempts.push(Attempt { outcome: Outcome::Unknown, ..history.attempts[0].clone() }), &[]);
}

#[test]
fn loss_and_phantoms_are_noticed() {
    check(|history| drop(history.arrivals.remove(0)), &["I1"]);
    check(|history| history.attempts[0].outcome = Outcome::Rejected, &["I1", "I2"]);
    check(|history| history.arrivals.push(call("m9", 99, "track", &json!({ "anonymousId": "p1" }))), &["I2"]);
}

#[test]
fn a_message_id_stands_for_one_call() {
    check(|history| history.arrivals[0].message_id = "m".repeat(100), &["I3"]);
    check(
        |history| {
            let mut altered = history.arrivals[2].clone();
            altered.body["extra"] = json!(1);
            history.arrivals.push(altered);
        },
        &["I4"],
    );
    check(
        |history| {
            let mut again = history.arrivals[2].clone();
            "m9".clone_into(&mut again.message_id);
            history.arrivals.push(again);
        },
        &["I5"],
    );
}

#[test]
fn keys_are_kept_apart() {
    check(
        |history| {
            let mut elsewhere = history.arrivals[2].clone();
            "other".clone_into(&mut elsewhere.write_key);
            history.arrivals.push(elsewhere);
        },
        &["I6", "I7"],
    );
}

#[test]
fn an_identify_that_is_late_or_incomplete_is_noticed() {
    check(|history| history.arrivals.swap(1, 2), &["I8"]);
    check(|history| history.arrivals[1].body["anonymousId"] = json!(null), &["I8"]);
    check(|history| drop(history.arrivals.remove(1)), &["I8"]);
}

#[test]
fn disorder_is_noticed() {
    check(|history| history.arrivals[1..].rotate_left(3), &["I8", "I9"]);
    check(|history| history.arrivals.swap(2, 4), &["I9"]);
}

#[test]
fn unique_calls_come_once_each_where_due() {
    check(|history| drop(history.arrivals.remove(3)), &["I10"]);
    check(
        |history| {
            let opened = json!({ "event": "Email Unique Opens", "userId": "u1" });
            history.arrivals.push(call("m9", 2, "track", &opened));
        },
        &["I10"],
    );
    check(|history| history.facts[1].machine = true, &[]);
    check(|history| history.facts[2].machine = true, &["I10"]);
}

#[test]
fn dead_letters_and_books_are_checked() {
    check(|history| history.dead.push(letter("e0", "m9")), &["I16"]);
    check(|history| history.dead.push(letter("e0", "m0")), &["I16"]);
    check(
        |history| {
            history.poison.insert("e0".to_owned());
            history.arrivals.remove(0);
            history.dead.push(letter("e0", "m0"));
        },
        &[],
    );
    check(|history| history.pending = 1, &["I17"]);
    check(|history| history.balanced = false, &["I17"]);
}

#[test]
fn time_and_drops_are_checked() {
    check(|history| history.arrivals[0].sent_at_ms = Some(START_MS - 120_000), &["I12"]);
    check(|history| history.arrivals[0].dropped = Some("no event name".to_owned()), &["I13"]);
}

#[test]
fn latencies_count_from_the_first_request() {
    let mut history = History { epoch_ms: START_MS - 7, ..good() };
    history.attempts[2].began_ns = 5_000_000;
    let all = history.latencies(START_MS - 7, START_MS);
    assert_eq!((all.count(), all.percentile_ms(1), all.percentile_ms(50), all.percentile_ms(99)), (3, 2, 7, 7));
    assert_eq!(history.latencies(START_MS - 3, START_MS).count(), 1);
    assert_eq!(history.under("other").latencies(START_MS - 7, START_MS).count(), 0);
}

#[test]
fn each_connection_is_judged_by_itself() {
    check(
        |history| {
            let twins: Vec<Arrived> = history.arrivals.iter().map(|call| on("other", call)).collect();
            history.arrivals.extend(twins);
            *history = history.under("other");
        },
        &[],
    );
    check(|history| *history = history.under("other"), &["I1", "I10"]);
}

/// The same call on another connection.
fn on(write_key: &str, call: &Arrived) -> Arrived {
    let mut call = call.clone();
    write_key.clone_into(&mut call.write_key);
    call.message_id.insert_str(0, write_key);
    call.body["messageId"] = json!(call.message_id);
    call
}
