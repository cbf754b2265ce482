//! One event's whole way can be told, by whichever id a person has at hand, and without showing anybody's address.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::collections::BTreeSet;
use std::slice::from_ref;

use inflection_sandbox::FaultRule;
use inflection_tests::admin::Admin;
use inflection_tests::arrived::{Arrived, first_arrivals};
use inflection_tests::binary;
use inflection_tests::fact::{Fact, parse_rfc3339, recently_ms};
use inflection_tests::random::Random;
use inflection_tests::segment::{Segment, status};
use inflection_tests::sender::Sender;
use inflection_tests::standalone::{CONNECTION, INGEST_KEY, Standalone, WRITE_KEY};
use inflection_tests::wait::{SOON, eventually, holds};
use serde_json::{Value, json};

/// A word in addresses that no answer shows unless it is asked to.
const CANARY: &str = "qzcanary7";

/// What Segment answers to the first call, one after the other.
const STATUSES: [u64; 4] = [429, 503, 503, 200];

/// What happens, in order; the ids of the events end in these words.
const STEPS: [&str; 5] = ["delivered", "opened", "opened-again", "identified", "clicked"];

/// A person whose mail is delivered, opened twice and clicked, and who becomes known in between. The customer's own id
/// of the person is an address, as it often is.
struct Story {
    word: String,
    person: String,
    user: String,
    at_ms: i64,
}

impl Story {
    fn new(word: String) -> Self {
        let (person, user) = (format!("p-{word}"), format!("{CANARY}.{word}@corp.example"));
        Self { word, person, user, at_ms: recently_ms() }
    }

    fn id(&self, step: &str) -> String {
        format!("e-{}-{step}", self.word)
    }

    fn facts(&self) -> [Fact; 5] {
        let mut at_ms = self.at_ms;
        STEPS.map(|step| {
            at_ms += 60_000;
            let make = |kind: &str| Fact::new(kind, &self.id(step), at_ms).person(&self.person);
            let mail = |kind: &str| {
                let fact = make(kind).mail("mail-1", "run-1").human();
                fact.email(&format!("{CANARY}.{}@mail.example", self.word))
            };
            match step {
                "delivered" => mail("email_delivered"),
                "identified" => make("identify").user(&self.user).with("traits", json!({ "plan": "gold" })),
                "clicked" => mail("link_clicked").with("email_link_url", "https://shop.example/a"),
                _ => mail("email_opened"),
            }
        })
    }

    /// Sends it all; Segment makes difficulties with the first call.
    fn play(&self, segment: &Segment, standalone: &Standalone) {
        let (slow_down, away) = (status(429, Some("1")), status(503, None));
        segment.set_faults(vec![FaultRule::times(slow_down, 1), FaultRule::times(away, 2)]);
        let mut sender = Sender::new(standalone.ingest(), INGEST_KEY);
        for fact in self.facts() {
            sender.take(from_ref(&fact));
            // The first call is under way by itself before there is any other.
            eventually("the first call is under way", SOON, || {
                holds(!segment.requests().is_empty(), || "no request".to_owned())
            });
        }
    }
}

/// What is told of an id.
#[track_caller]
fn explain(admin: &Admin, id: &str) -> Value {
    admin.json(&format!("/v1/explain/{id}")).expect("an explanation")
}

/// The ids of the events that an explanation is about.
fn event_ids(told: &Value) -> BTreeSet<String> {
    let ids = events(told).iter().map(|event| text(event, "/event_id").to_owned());
    ids.collect()
}

fn events(told: &Value) -> &[Value] {
    told.get("events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The one event that an explanation is about.
#[track_caller]
fn only(told: &Value) -> &Value {
    let events = events(told);
    assert_eq!(events.len(), 1, "{told}");
    events.first().expect("one event")
}

fn calls(event: &Value) -> &[Value] {
    event.get("calls").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The call of that messageId.
#[track_caller]
fn call<'a>(event: &'a Value, message_id: &str) -> &'a Value {
    let found = calls(event).iter().find(|call| text(call, "/messageId") == message_id);
    found.expect("the call is among the event's")
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn statuses(call: &Value) -> Vec<u64> {
    let attempts = call.get("attempts").and_then(Value::as_array).into_iter().flatten();
    attempts.filter_map(|attempt| attempt.get("status").and_then(Value::as_u64)).collect()
}

/// What every event of the story has in common.
#[track_caller]
fn assert_told_well(event: &Value, person: &str) {
    assert_eq!((text(event, "/workspace"), text(event, "/verdict")), ("default", "new"), "{event}");
    assert_eq!(text(event, "/identity/person_id"), person, "{event}");
    assert!(!text(event, "/identity/why").is_empty(), "{event}");
    assert!(event.get("partition").is_some_and(Value::is_u64), "{event}");
    for moment in ["/received_at", "/occurred_at"] {
        assert!(parse_rfc3339(text(event, moment)).is_some(), "{moment} in {event}");
    }
    assert!(!calls(event).is_empty(), "{event}");
    for call in calls(event) {
        assert_eq!((text(call, "/connection"), text(call, "/fate")), (CONNECTION, "accepted"), "{call}");
        assert!(!text(call, "/call").is_empty(), "{call}");
        assert_eq!(statuses(call).last(), Some(&200), "{call}");
        for attempt in call.get("attempts").and_then(Value::as_array).into_iter().flatten() {
            assert!(parse_rfc3339(text(attempt, "/at")).is_some(), "{attempt}");
            assert!(!text(attempt, "/outcome").is_empty(), "{attempt}");
        }
    }
}

#[test]
fn one_events_whole_way_is_told() {
    let mut random = Random::announced("explain");
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    let story = Story::new(random.word());
    story.play(&segment, &standalone);
    let admin = standalone.admin();
    admin.settle();
    let arrived = first_arrivals(segment.calls());
    let delivered = arrived.iter().find(|call| call.event() == Some("Email Delivered")).expect("the delivery arrived");

    // By the id of each event: who it was about at that time, and what came of it.
    for step in STEPS {
        let told = explain(&admin, &story.id(step));
        assert_eq!(text(&told, "/id"), story.id(step), "{told}");
        let event = only(&told);
        assert_eq!(text(event, "/event_id"), story.id(step), "{told}");
        assert_told_well(event, &story.person);
        let user = event.pointer("/identity/user_id").expect("an identity says who the user is, or null");
        match step {
            "identified" => {}
            "clicked" => assert!(user.is_string(), "known after the identify: {told}"),
            _ => assert!(user.is_null(), "anonymous before the identify: {told}"),
        }
        assert_calls(event, &arrived);
        assert!(!told.to_string().contains(CANARY), "an address is shown: {told}");
    }

    // By messageId: the event behind the call, with every attempt.
    let told = explain(&admin, &delivered.message_id);
    let event = only(&told);
    assert_eq!(text(event, "/event_id"), story.id("delivered"), "{told}");
    assert_eq!(statuses(call(event, &delivered.message_id)), STATUSES, "{told}");

    // By person: all of it.
    let told = explain(&admin, &story.person);
    assert_eq!(event_ids(&told), STEPS.iter().map(|step| story.id(step)).collect::<BTreeSet<String>>(), "{told}");
    assert!(!told.to_string().contains(CANARY), "an address is shown: {told}");

    // Addresses only on demand.
    let told = explain(&admin, &format!("{}?addresses=true", story.id("clicked")));
    assert_eq!(text(only(&told), "/identity/user_id"), story.user, "{told}");
    assert_commands(&admin, &story);
    let log = standalone.log_text();
    assert!(!log.contains(CANARY) && !log.contains(WRITE_KEY) && !log.contains(INGEST_KEY), "the log shows too much");
}

/// The calls of an event are those that arrived with its time.
#[track_caller]
fn assert_calls(event: &Value, arrived: &[Arrived]) {
    let at_ms = parse_rfc3339(text(event, "/occurred_at"));
    let of_event = arrived.iter().filter(|call| call.timestamp_ms() == at_ms);
    let came: BTreeSet<&str> = of_event.map(|call| call.message_id.as_str()).collect();
    let told: BTreeSet<&str> = calls(event).iter().map(|call| text(call, "/messageId")).collect();
    assert_eq!(told, came, "{event}");
}

/// The command tells the same.
#[track_caller]
fn assert_commands(admin: &Admin, story: &Story) {
    let (url, delivered, clicked) = (admin.url(), story.id("delivered"), story.id("clicked"));
    let ask =
        |id: &str, flags: &[&str]| binary::ask(&[&["explain", id, "--admin-url", url.as_str()][..], flags].concat());
    let printed = ask(&delivered, &[]).output;
    for word in ["429", "503", "200", "accepted", delivered.as_str()] {
        assert!(printed.contains(word), "no {word} in:\n{printed}");
    }
    assert!(!ask(&clicked, &[]).output.contains(CANARY), "an address is shown");
    assert!(!ask(&clicked, &["--json"]).output.contains(CANARY), "an address is shown");
    assert!(ask(&clicked, &["--addresses"]).output.contains(&story.user), "the address is not shown on demand");
    let json: Value = serde_json::from_str(&ask(&delivered, &["--json"]).stdout).expect("--json prints JSON");
    assert_eq!(event_ids(&json), BTreeSet::from([delivered]), "{json}");
}
