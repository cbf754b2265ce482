//! Machines' opens and clicks through HTTP: by what one event shows, by the times of several, and a scanner's burst that is
//! held and judged whole, also over a kill.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::slice::from_ref;

use inflection_tests::arrived::{Arrived, first_arrivals};
use inflection_tests::config::{Engagement, Workspace};
use inflection_tests::fact::{Fact, recently_ms};
use inflection_tests::install::{Install, Kind, Stop};
use inflection_tests::segment::Segment;
use inflection_tests::sender::Sender;
use inflection_tests::wait::{SOON, eventually, holds};
use serde_json::Value;

/// Long enough that a process is killed and started while clicks are held.
const HOLD: [&str; 2] = ["click_hold_seconds = 15", "machine_timing = \"all\""];

fn workspace(id: &str, engagement: &[&str]) -> Workspace {
    let lines = engagement.iter().map(|line| (*line).to_owned()).collect();
    Workspace { engagement: Engagement { lines, ..Engagement::default() }, ..Workspace::new(id) }
}

/// One event about a person's mail, so many milliseconds after the run's beginning.
fn event(kind: &str, person: &str, number: usize, at_ms: i64) -> Fact {
    let id = format!("{person}-{number}");
    Fact::new(kind, &id, at_ms).person(person).mail("mail-1", &format!("run-{person}"))
}

fn click(person: &str, number: usize, at_ms: i64, link: u8) -> Fact {
    event("link_clicked", person, number, at_ms).with("email_link_url", format!("https://shop.example/offer/{link}"))
}

/// A person's tracks in short: name, `unique` or `machine:reason` or `machine`, and the link.
fn story(calls: &[Arrived], person: &str) -> Vec<String> {
    let run = format!("run-{person}");
    let of_person = calls.iter().filter(|call| call.property("campaign_run_id") == Some(&run));
    of_person
        .map(|call| {
            let mut words = vec![call.event().unwrap_or("no event").to_owned()];
            if call.flag("is_unique_open") || call.flag("is_unique_click") {
                words.push("unique".to_owned());
            }
            if call.flag("is_machine") {
                words
                    .push(call.property("machine_reason").map_or("machine".to_owned(), |why| format!("machine:{why}")));
            }
            words.extend(call.property("email_link_url").and_then(|url| url.rsplit('/').next()).map(str::to_owned));
            words.join(" ")
        })
        .collect()
}

#[track_caller]
fn await_story(segment: &Segment, person: &str, expected: &[&str]) {
    let mut expected: Vec<&str> = expected.to_vec();
    expected.sort_unstable();
    eventually(person, SOON, || {
        let mut told = story(&first_arrivals(segment.calls()), person);
        told.sort_unstable();
        holds(told == expected, || format!("{told:#?}\n is not {expected:#?}"))
    });
}

/// What `explain` says of an event: verdict, and the beginning of why it has no calls.
#[track_caller]
fn explained(install: &Install, event: &str) -> Vec<String> {
    let told = install.admin().json(&format!("/v1/explain/{event}")).expect("an explanation");
    let events = told.get("events").and_then(Value::as_array).expect("events");
    let text = |event: &Value, name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let why = |event: &Value| text(event, "why").split(" for a moment").next().unwrap_or_default().to_owned();
    events.iter().map(|event| format!("{} {}", text(event, "verdict"), why(event))).collect()
}

#[test]
fn machines_are_known_by_what_they_show() {
    let segment = Segment::start();
    let timed = workspace("timed", &["machine_timing = \"all\""]);
    let apart = workspace("apart", &["machine_opens = \"separate\"", "machine_clicks = \"drop\""]);
    let install = Install::start(Kind::Standalone, &segment, &[timed.clone(), apart.clone()]);
    let at = recently_ms();
    let mut sender = Sender::new(install.ingest(), timed.ingest_key());
    by_what_one_event_shows(&segment, &mut sender, at);
    by_times(&segment, &mut sender, at);
    told_apart(&segment, &mut Sender::new(install.ingest(), apart.ingest_key()), at);
    install.settle();
}

fn by_what_one_event_shows(segment: &Segment, sender: &mut Sender, at: i64) {
    sender.take(&[
        event("email_delivered", "agents", 0, at),
        event("email_opened", "agents", 1, at + 60_000).with("user_agent", "Mozilla/5.0"),
        click("agents", 2, at + 120_000, 1).with("http_method", "HEAD"),
        click("agents", 3, at + 180_000, 1).with("user_agent", "python-requests/2.31.0"),
        click("agents", 4, at + 240_000, 1).with("user_agent", ""),
        event("email_opened", "agents", 5, at + 250_000).with("purpose", "prefetch"),
        click("agents", 6, at + 300_000, 1).human(),
    ]);
    await_story(
        segment,
        "agents",
        &[
            "Email Delivered",
            "Email Opened machine:apple_mpp_probable",
            "Link Clicked machine:prefetch 1",
            "Link Clicked machine:library 1",
            "Link Clicked machine:empty_agent 1",
            "Link Clicked unique 1",
            "Email Unique Opens unique",
            "Unique Link Click unique 1",
            "Unique Link Click per Unique Open unique 1",
        ],
    );
}

fn by_times(segment: &Segment, sender: &mut Sender, at: i64) {
    sender.take(&[
        event("email_delivered", "times", 0, at),
        event("email_opened", "times", 1, at + 900).human(),
        click("times", 2, at + 1_900, 1).human(),
        click("times", 3, at + 1_950, 2).human().with("is_machine", false),
        click("times", 4, at + 60_000, 3).human(),
        click("times", 5, at + 60_700, 4).human(),
        click("times", 6, at + 61_400, 5).human(),
    ]);
    await_story(
        segment,
        "times",
        &[
            "Email Delivered",
            "Email Opened machine:after_delivery",
            "Link Clicked machine:after_delivery 1",
            "Link Clicked unique 2",
            "Email Unique Opens unique",
            "Unique Link Click unique 2",
            "Unique Link Click per Unique Open unique 2",
            "Link Clicked unique 3",
            "Unique Link Click unique 3",
            "Link Clicked unique 4",
            "Unique Link Click unique 4",
            "Link Clicked machine:burst 5",
        ],
    );
}

fn told_apart(segment: &Segment, sender: &mut Sender, at: i64) {
    sender.take(&[
        event("email_opened", "apart", 0, at).machine(),
        click("apart", 1, at + 60_000, 1).machine(),
        click("apart", 2, at + 120_000, 1).human(),
    ]);
    await_story(
        segment,
        "apart",
        &[
            "Email Machine Opened machine",
            "Link Clicked unique 1",
            "Email Unique Opens unique",
            "Unique Link Click unique 1",
            "Unique Link Click per Unique Open unique 1",
        ],
    );
}

#[test]
fn standalone_judges_a_held_burst_whole_over_a_kill() {
    judges_a_held_burst_whole_over_a_kill(Kind::Standalone);
}

#[test]
fn a_fleet_judges_a_held_burst_whole_over_a_kill() {
    judges_a_held_burst_whole_over_a_kill(Kind::Fleet);
}

fn judges_a_held_burst_whole_over_a_kill(kind: Kind) {
    let (segment, acme) = (Segment::start(), workspace("acme", &HOLD));
    let mut install = Install::start(kind, &segment, from_ref(&acme));
    let at = recently_ms();
    let burst: Vec<Fact> =
        (1..=4).map(|link| click("b", usize::from(link), at + 30_000 + i64::from(link) * 300, link).human()).collect();
    let mut sender = Sender::new(install.ingest(), acme.ingest_key());
    sender.take(&[event("email_delivered", "b", 0, at)]);
    sender.take(&burst);
    // Others do not wait.
    sender
        .take(&[event("email_opened", "b", 5, at + 60_000).human(), event("email_unsubscribed", "b", 6, at + 70_000)]);
    let at_once = ["Email Delivered", "Email Opened unique", "Email Unique Opens unique", "Email Unsubscribed"];
    await_story(&segment, "b", &at_once);
    let ledger = install.ledger().expect("a ledger");
    assert_eq!((ledger.events("held"), ledger.events("pending")), (Ok(4), Ok(4)), "{}", ledger.raw);
    assert_eq!(explained(&install, "b-1"), ["waiting identity holds this click"], "while it is held");
    install.stop(Stop::Kill);
    install.start_again();
    // Again, as a sender does that heard no answer: known by their ids, held or not.
    Sender::new(install.ingest(), acme.ingest_key()).take(&burst);
    // Nothing else comes: time itself lets them go.
    let mut told = at_once.to_vec();
    let clicks = ["Link Clicked machine:burst 1", "Link Clicked machine:burst 2", "Link Clicked machine:burst 3"];
    told.extend(clicks);
    told.push("Link Clicked machine:burst 4");
    await_story(&segment, "b", &told);
    assert_eq!(explained(&install, "b-1"), ["new "], "held once, told once");
    // And the person, afterwards.
    Sender::new(install.ingest(), acme.ingest_key()).take(&[click("b", 7, at + 600_000, 2).human()]);
    told.extend(["Link Clicked unique 2", "Unique Link Click unique 2", "Unique Link Click per Unique Open unique 2"]);
    await_story(&segment, "b", &told);
    let ledger = install.settle();
    assert_eq!((ledger.events("held"), ledger.events("duplicate")), (Ok(0), Ok(4)), "{}", ledger.raw);
    install.assert_state_is_sound();
}
