//! E1 to E24: events. (E23 has a test of its own.)

use inflection_tests::fact::{Fact, now_ms, rfc3339};
use serde_json::{Value, json};

use crate::row::{CANARY, Desk, Expect, Row};

/// Milliseconds of an hour.
const HOUR_MS: i64 = 3_600_000;

pub(crate) fn rows(desk: &Desk) -> Vec<Row> {
    [sizes(desk), ids(desk), types(desk), times(desk), links(desk), addresses(desk), again(desk), lists(desk)].concat()
}

/// A row of one bad event.
fn bad(desk: &Desk, id: &str, code: &'static str, change: impl FnOnce(Fact) -> Fact) -> Row {
    Row::refused(id, &desk.post_one(&change(desk.fact(false, id))), 422, code)
}

/// A row of one event that is taken.
fn good(desk: &Desk, id: &str, change: impl FnOnce(Fact) -> Fact) -> Row {
    Row::taken(id, &desk.post_one(&change(desk.fact(true, id))), 1)
}

fn sizes(desk: &Desk) -> Vec<Row> {
    let many: Vec<Fact> = (0..1001).map(|number| desk.numbered(false, "E2", number)).collect();
    let padded = |id: &str, bytes: usize| {
        let fact = desk.fact(false, id).with("properties", json!({ "pad": "" }));
        let rest = bytes - fact.value().to_string().len();
        Row::refused(
            id,
            &desk.post_one(&fact.with("properties", json!({ "pad": "x".repeat(rest) }))),
            422,
            "event_too_large",
        )
    };
    vec![
        Row::refused("E1", &desk.post_all(&[]), 422, "empty_batch"),
        Row::refused("E1 array", &desk.post("[]"), 422, "empty_batch"),
        Row::refused("E2", &desk.post_all(&many), 413, "too_many_events"),
        padded("E3", 32 * 1024 + 1),
        // Itself below the limit, but not the call that would be made of it (32,000 bytes).
        padded("E3 call", 32_500),
    ]
}

fn ids(desk: &Desk) -> Vec<Row> {
    let id = |id: &str, value: &str| bad(desk, id, "bad_id", |fact| fact.with("id", value));
    let odd = "a.b*c>d e\u{1f4e7}\u{202e}f";
    vec![
        good(desk, "E4 absent", |fact| fact.without("id")),
        id("E4 empty", ""),
        id("E4 long", &"i".repeat(300)),
        id("E4 control", "a\u{1}b"),
        good(desk, "E4 longest", |fact| fact.with("id", "i".repeat(256))),
        bad(desk, "E6", "missing_identity", |fact| fact.without("person_id").without("email")),
        bad(desk, "E7 null", "bad_type", |fact| fact.with("person_id", Value::Null)),
        bad(desk, "E7 number", "bad_type", |fact| fact.with("person_id", 7)),
        bad(desk, "E7 object", "bad_type", |fact| fact.with("person_id", json!({ "a": CANARY }))),
        bad(desk, "E8 person", "control_character", |fact| fact.with("person_id", format!("{CANARY}\0"))),
        bad(desk, "E8 user", "control_character", |fact| fact.with("user_id", format!("{CANARY}\0"))),
        bad(desk, "E8 subject", "control_character", |fact| fact.with("email_subject", format!("{CANARY}\0"))),
        good(desk, "E9", |fact| fact.with("id", format!("E9 {odd}")).with("person_id", format!("E9 {odd}"))),
        good(desk, "E9 newline", |fact| fact.with("person_id", "E9\nnewline")),
        good(desk, "E24 NFC", |fact| fact.with("id", "E24 caf\u{e9}")),
        good(desk, "E24 NFD", |fact| fact.with("id", "E24 cafe\u{301}")),
    ]
}

fn types(desk: &Desk) -> Vec<Row> {
    let kind = |id: &str, value: &str| bad(desk, id, "unknown_event", |fact| fact.with("type", value));
    vec![
        kind("E5", &format!("{CANARY}_opened")),
        kind("E5 case", "Email_Delivered"),
        kind("E5 space", " email_delivered"),
        kind("E5 empty", ""),
        bad(desk, "E5 absent", "missing_field", |fact| fact.without("type")),
        bad(desk, "E16 machine", "bad_type", |fact| fact.with("is_machine", "true")),
        bad(desk, "E16 unique", "bad_type", |fact| fact.with("is_unique_open", "true")),
        good(desk, "E22", |fact| fact.with("something_new", json!({ "a": [1, 2, 3] }))),
    ]
}

fn times(desk: &Desk) -> Vec<Row> {
    let at = |id: &str, value: Value| bad(desk, id, "bad_timestamp", |fact| fact.with("timestamp", value));
    let far =
        |id: &str, at_ms: i64| bad(desk, id, "timestamp_out_of_range", |fact| fact.with("timestamp", rfc3339(at_ms)));
    let now = now_ms();
    vec![
        bad(desk, "E10 absent", "missing_field", |fact| fact.without("timestamp")),
        at("E10", json!("2026-01-02T03:04:05")),
        at("E11 text", json!(CANARY)),
        at("E11 February", json!("2026-02-30T00:00:00Z")),
        at("E11 hour", json!("2026-01-02T25:00:00Z")),
        at("E11 year 0", json!("0000-01-02T00:00:00Z")),
        at("E11 year 10000", json!("10000-01-02T00:00:00Z")),
        at("E11 leap", json!("2016-12-31T23:59:60Z")),
        far("E12 ahead", now + HOUR_MS),
        far("E12 past", now - 2 * 366 * 24 * HOUR_MS),
        at("E13", json!(now / 1000)),
        good(desk, "E13 milliseconds", |fact| fact.with("timestamp", now - HOUR_MS)),
        good(desk, "E10 offset", |fact| fact.with("timestamp", rfc3339(now - HOUR_MS).replace('Z', "+00:00"))),
    ]
}

fn links(desk: &Desk) -> Vec<Row> {
    let click = |fact: Fact| fact.with("type", "link_clicked").human();
    let long = format!("https://{CANARY}.example/{}", "l".repeat(10 * 1024));
    let clicked = desk.fact(true, "E14 script").with("email_link_url", "javascript:alert(1)");
    let mut script = Row::taken("E14 script", &desk.post_one(&click(clicked)), 1);
    // The first click of a link is a unique one as well.
    script.expect = Expect::Taken { accepted: 1, arrive: 2 };
    vec![
        bad(desk, "E14 absent", "missing_field", click),
        bad(desk, "E14 long", "field_too_long", |fact| click(fact).with("email_link_url", long)),
        script,
    ]
}

fn addresses(desk: &Desk) -> Vec<Row> {
    let email = |id: &str, code: &'static str, value: &str| bad(desk, id, code, |fact| fact.email(value));
    vec![
        email("E15 no host", "bad_email", CANARY),
        email("E15 empty", "bad_email", ""),
        email("E15 long", "bad_email", &format!("{}@leak.example", CANARY.repeat(40))),
        email("E15 injection", "control_character", &format!("{CANARY}@leak.example\r\nBcc: all@leak.example")),
    ]
}

fn again(desk: &Desk) -> Vec<Row> {
    let same = desk.fact(true, "E17");
    let (first, other) = (desk.fact(true, "E18"), desk.fact(true, "E18").with("campaign_name", "another"));
    let repeat =
        |id: &str, fact: &Fact| Row::new(id, desk.post_one(fact).encode(), Expect::Taken { accepted: 1, arrive: 0 });
    let equal = [desk.fact(true, "E19"), desk.fact(true, "E19")];
    let conflict =
        [desk.fact(false, "E19 conflict"), desk.fact(false, "E19 conflict").with("campaign_name", "another")];
    vec![
        Row::taken("E17", &desk.post_one(&same), 1),
        repeat("E17 again", &same),
        Row::taken("E18", &desk.post_one(&first), 1),
        repeat("E18 other", &other),
        Row::new("E19", desk.post_all(&equal).encode(), Expect::Taken { accepted: 2, arrive: 1 }),
        Row::refused("E19 conflict", &desk.post_all(&conflict), 409, "id_conflict"),
    ]
}

fn lists(desk: &Desk) -> Vec<Row> {
    let mut mixed: Vec<Fact> = (0..100).map(|number| desk.numbered(true, "E20", number)).collect();
    mixed[41] = desk.numbered(false, "E20", 41).with("type", "email_vanished");
    let all = [
        desk.numbered(false, "E21", 0).with("type", "email_vanished"),
        desk.numbered(false, "E21", 1).with("timestamp", CANARY),
        desk.numbered(false, "E21", 2).with("id", ""),
    ];
    let lines: Vec<String> = (0..3).map(|number| desk.numbered(true, "NDJSON", number).value().to_string()).collect();
    let lines = desk.post(lines.join("\n")).with("Content-Type", "application/x-ndjson");
    vec![
        Row::new(
            "E20",
            desk.post_all(&mixed).encode(),
            Expect::Mixed { accepted: 99, arrive: 99, refused: &[(41, "unknown_event")] },
        ),
        Row::new(
            "E21",
            desk.post_all(&all).encode(),
            Expect::AllRefused { refused: &[(0, "unknown_event"), (1, "bad_timestamp"), (2, "bad_id")] },
        ),
        Row::taken("NDJSON", &lines, 3),
    ]
}
