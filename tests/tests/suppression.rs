//! Persons of whom nothing may be sent: from the answer of the command on nothing leaves, whatever waited, whatever comes,
//! over kills; the books say where it went; and a lift lets in what comes after it.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::collections::{BTreeMap, BTreeSet};
use std::slice::from_ref;
use std::thread;

use inflection_sandbox::{Fault, FaultRule};
use inflection_tests::admin::{Admin, CallBooks};
use inflection_tests::arrived::Arrived;
use inflection_tests::binary;
use inflection_tests::config::Workspace;
use inflection_tests::fact::{Fact, now_ms, recently_ms};
use inflection_tests::fleet::{Fleet, Stage};
use inflection_tests::install::Install;
use inflection_tests::load::{Load, Target, Until};
use inflection_tests::random::Random;
use inflection_tests::segment::{Segment, status};
use inflection_tests::sender::Sender;
use inflection_tests::standalone::{CONNECTION, INGEST_KEY, Standalone};
use inflection_tests::wait::{SOON, eventually, holds};
use serde_json::{Value, json};

/// Clients that send at the same time.
const CLIENTS: usize = 3;

/// Events between two things that happen in a load.
const EVENTS_BETWEEN: usize = 600;

/// Does something with a person, through the command line; returns what it printed.
#[track_caller]
fn tell(admin: &Admin, action: &str, flag: &str, id: &str) -> Value {
    tell_in("default", admin, action, flag, id)
}

#[track_caller]
fn tell_in(workspace: &str, admin: &Admin, action: &str, flag: &str, id: &str) -> Value {
    let url = admin.url();
    let arguments = ["persons", action, "--workspace", workspace, flag, id, "--json", "--admin-url", &url];
    let told: Value = serde_json::from_str(&binary::ask(&arguments).stdout).expect("JSON");
    assert_eq!(told.get("in_force"), Some(&Value::Bool(true)), "{told}");
    assert!(!told.to_string().contains(id), "an id is shown nowhere");
    told
}

fn books(admin: &Admin) -> CallBooks {
    let books = admin.settle().calls(CONNECTION).expect("books of the connection");
    assert_eq!((books.finished(), books.pending, books.parked), (books.produced, 0, 0), "{books:?}");
    books
}

/// Persons and users of the calls that have arrived.
fn arrived(segment: &Segment) -> BTreeSet<String> {
    let names = |call: &Arrived| call.user_id().or(call.anonymous_id()).map(str::to_owned);
    segment.calls().iter().filter_map(names).collect()
}

/// Sends one delivered mail of each of these persons.
fn deliver(standalone: &Standalone, word: &str, persons: &[&str]) {
    let fact = |(number, person): (i64, &&str)| {
        let id = format!("e-{word}-{person}");
        Fact::new("email_delivered", &id, recently_ms() + number).person(person).mail("mail-1", word)
    };
    let facts: Vec<Fact> = (0..).zip(persons).map(fact).collect();
    Sender::new(standalone.ingest(), INGEST_KEY).take(&facts);
}

#[test]
fn nothing_leaves_after_the_answer_under_load_and_over_a_kill() {
    let mut random = Random::announced("suppression load");
    let segment = Segment::start();
    let mut standalone = Standalone::start(&segment);
    let target = Target::of_flags(&standalone, random.word());
    let [victim, other] = [0, 1].map(|number| format!("p-{}-{number}-0", target.word));
    let load = Load::start(&target, CLIENTS, Until::Told, &mut random);
    load.await_more(EVENTS_BETWEEN);
    tell(&standalone.admin(), "suppress", "--person-id", &victim);
    let victim_until = now_ms();
    load.await_more(EVENTS_BETWEEN);
    // Killed while it is told of another one: whatever was stored of that, saying it again does the rest.
    let url = standalone.admin().url();
    let command = thread::spawn({
        let other = other.clone();
        move || {
            let arguments =
                ["persons", "suppress", "--workspace", "default", "--person-id", &other, "--admin-url", &url];
            binary::run(&arguments, SOON)
        }
    });
    standalone.kill();
    command.join().expect("the command ends");
    standalone.start_again();
    tell(&standalone.admin(), "suppress", "--person-id", &other);
    let other_until = now_ms();
    load.await_more(EVENTS_BETWEEN);
    standalone.kill();
    standalone.start_again();
    load.await_more(EVENTS_BETWEEN);
    load.stop();
    let history = load.join();
    let ledger = standalone.admin().settle();
    let books = books(&standalone.admin());
    let calls = segment.calls();
    let told: BTreeSet<i64> = calls.iter().filter_map(Arrived::timestamp_ms).collect();
    let until = BTreeMap::from([(victim.as_str(), victim_until), (other.as_str(), other_until)]);
    let (mut after, mut promised) = (0, 0);
    for (fact, sent) in history.facts.iter().zip(history.sent()) {
        match until.get(fact.person.as_str()) {
            Some(until) if sent.began_ms > Some(*until) => {
                after += 1;
                assert!(!told.contains(&fact.at_ms), "sent after the command had been answered: {fact:?}");
            }
            // Before that, or while it was being said, it may have gone or not.
            Some(_) => {}
            None if sent.promised => {
                promised += 1;
                assert!(told.contains(&fact.at_ms), "lost: {fact:?}");
            }
            None => {}
        }
    }
    assert!(after > 10 && promised > EVENTS_BETWEEN, "{after} {promised}");
    // Each of them was taken at least once, and all of them are counted.
    assert!(ledger.events("suppressed").expect("a count") >= after, "{}", ledger.raw);
    let count = |name: &str| ledger.events(name).expect("a count");
    let all = count("folded") + count("duplicate") + count("suppressed") + count("undecodable");
    assert_eq!(count("accepted"), all, "{}", ledger.raw);
    assert!(books.accepted > 0, "{books:?}");
    for name in [&victim, &other] {
        assert!(!standalone.log_text().contains(name.as_str()), "an id stands in a log line");
    }
}

#[test]
fn what_waits_and_what_is_parked_is_not_sent() {
    let mut random = Random::announced("suppression waiting");
    for park_after_seconds in ["60", "0"] {
        let (segment, word) = (Segment::start(), random.word());
        let mut standalone = Standalone::start_by_flags(&segment, &["--park-after-seconds", park_after_seconds]);
        segment.set_faults(vec![FaultRule::always(status(503, None))]);
        let (victim, other) = (format!("v-{word}"), format!("o-{word}"));
        deliver(&standalone, &format!("{word}1"), &[&other, &victim]);
        deliver(&standalone, &format!("{word}2"), &[&victim, &other]);
        eventually("calls wait", SOON, || {
            let books = standalone.admin().ledger()?.calls(CONNECTION)?;
            let waits = if park_after_seconds == "0" { books.parked } else { books.pending };
            holds(waits > 0 && books.produced == 4, || format!("{books:?}"))
        });
        tell(&standalone.admin(), "suppress", "--person-id", &victim);
        // What comes now is dropped by identity, also after a kill.
        deliver(&standalone, &format!("{word}3"), &[&victim, &other]);
        standalone.kill();
        standalone.start_again();
        deliver(&standalone, &format!("{word}4"), &[&victim]);
        segment.clear_faults();
        let held = books(&standalone.admin());
        assert_eq!((held.produced, held.accepted, held.suppressed), (5, 3, 2), "{held:?}");
        assert_eq!(arrived(&segment), BTreeSet::from([other.clone()]));
        assert_eq!(standalone.admin().settle().events("suppressed"), Ok(2));
        let explained = standalone.admin().json(&format!("/v1/explain/{victim}")).expect("an explanation");
        assert_eq!(explained.pointer("/events/0/calls/0/fate"), Some(&json!("suppressed")), "{explained}");
        let note = explained.get("note").and_then(Value::as_str).expect("a note");
        assert!(note.contains("is suppressed since"), "{note}");
        // Lifted: what comes then is sent, what was dropped does not come back.
        tell(&standalone.admin(), "lift", "--person-id", &victim);
        deliver(&standalone, &format!("{word}5"), &[&victim]);
        eventually("a lifted person's call arrives", SOON, || {
            holds(arrived(&segment).contains(&victim), || format!("{:?}", arrived(&segment)))
        });
        let lifted = books(&standalone.admin());
        assert_eq!((lifted.produced, lifted.accepted, lifted.suppressed), (6, 4, 2), "{lifted:?}");
    }
}

/// Parked messages of one lane: more than are read ahead.
const ROUNDS: usize = 12;

#[test]
fn a_park_of_which_nothing_is_to_be_sent_drains_by_itself() {
    let mut random = Random::announced("suppression drain");
    let (segment, word) = (Segment::start(), random.word());
    let standalone = Standalone::start_by_flags(&segment, &["--park-after-seconds", "0"]);
    segment.set_faults(vec![FaultRule::always(status(503, None))]);
    let victim = format!("v-{word}");
    let parked = |count: usize| {
        eventually("calls are parked", SOON, || {
            let books = standalone.admin().ledger()?.calls(CONNECTION)?;
            holds(Ok(books.parked) == u64::try_from(count), || format!("{books:?}"))
        });
    };
    for round in 0..ROUNDS {
        deliver(&standalone, &format!("{word}{round}"), &[&victim]);
        parked(round + 1);
    }
    tell(&standalone.admin(), "suppress", "--person-id", &victim);
    let requests = segment.requests().len();
    segment.clear_faults();
    let held = books(&standalone.admin());
    assert_eq!(Ok(held.suppressed), u64::try_from(ROUNDS), "{held:?}");
    assert!(arrived(&segment).is_empty());
    // One may have been under way.
    assert!(segment.requests().len() <= requests + 1, "a request of which nothing is left is none");
}

/// Persons, each in any partition, …
const PERSONS: usize = 24;
/// … of whom so many are suppressed.
const SUPPRESSED: usize = 6;

#[test]
fn every_worker_of_a_fleet_goes_by_it() {
    let mut random = Random::announced("suppression fleet");
    let (segment, word, workspace) = (Segment::start(), random.word(), Workspace::new("acme"));
    let mut fleet = Fleet::start_with(&segment, from_ref(&workspace), &["--park-after-seconds", "2"]);
    fleet.add(Stage::Delivery, &["--park-after-seconds", "2"]);
    fleet.await_even(Stage::Delivery);
    segment.set_faults(vec![FaultRule::always(status(503, None))]);
    let persons: Vec<String> = (0..PERSONS).map(|number| format!("p-{word}-{number}")).collect();
    let mut sender = Sender::new(fleet.ingest(), workspace.ingest_key());
    let mut send = |round: &str| {
        let fact = |person: &String| {
            Fact::new("email_delivered", &format!("e-{round}-{person}"), recently_ms()).person(person).mail("m", round)
        };
        sender.take(&persons.iter().map(fact).collect::<Vec<_>>());
    };
    send("r1");
    eventually("calls wait", SOON, || {
        let books = fleet.ledger()?.calls(&workspace.connections[0].id)?;
        holds(Ok(books.produced) == u64::try_from(PERSONS), || format!("{books:?}"))
    });
    let (silent, heard) = persons.split_at(SUPPRESSED);
    // One of the workers stands still, with its calls in hand, and hears nothing of it.
    fleet.worker(Stage::Delivery, 1).pause();
    for person in silent {
        tell_in(&workspace.id, &fleet.worker(Stage::Delivery, 0).admin(), "suppress", "--person-id", person);
    }
    send("r2");
    segment.clear_faults();
    fleet.worker(Stage::Delivery, 1).resume();
    let ledger = Install::Fleet(Box::new(fleet)).settle();
    let books = ledger.calls(&workspace.connections[0].id).expect("books of the connection");
    assert_eq!(Ok(books.suppressed), u64::try_from(SUPPRESSED), "{books:?}");
    assert_eq!((books.finished(), Ok(books.accepted)), (books.produced, u64::try_from(2 * heard.len())), "{books:?}");
    assert_eq!(ledger.events("suppressed"), Ok(books.suppressed), "{}", ledger.raw);
    assert_eq!(arrived(&segment), heard.iter().cloned().collect());
}

#[test]
fn a_user_is_all_its_persons_and_an_address_is_a_person() {
    let mut random = Random::announced("suppression ids");
    let (segment, word) = (Segment::start(), random.word());
    let standalone = Standalone::start(&segment);
    let mut sender = Sender::new(standalone.ingest(), INGEST_KEY);
    let (user, stranger, address) = (format!("u-{word}"), format!("s-{word}"), format!("ann-{word}@example.com"));
    let facts = |round: &str| -> Vec<Fact> {
        let of =
            |id: &str| Fact::new("email_delivered", &format!("e-{word}-{round}-{id}"), recently_ms()).mail(id, round);
        vec![
            of("known").person(&format!("p1-{word}")).user(&user),
            of("learned").person(&format!("p1-{word}")),
            of("second").person(&format!("p2-{word}")).user(&user),
            of("only").user(&user),
            of("stranger").person(&stranger),
            of("address").email(&address),
        ]
    };
    sender.take(&facts("r1"));
    let before = books(&standalone.admin());
    assert_eq!(standalone.admin().ledger().expect("a ledger").events("suppressed"), Ok(0));
    tell(&standalone.admin(), "suppress", "--user-id", &user);
    tell(&standalone.admin(), "suppress", "--email", &address.to_uppercase());
    sender.take(&facts("r2"));
    let during = books(&standalone.admin());
    assert_eq!(during.accepted, before.accepted + 1, "the stranger's alone: {during:?}");
    assert_eq!(standalone.admin().ledger().expect("a ledger").events("suppressed"), Ok(5));
    // Who is suppressed is listed, and nobody can read who that is.
    let listed = standalone.admin().json("/v1/persons").expect("a list");
    assert_eq!(listed.get("total"), Some(&json!(2)), "{listed}");
    let kinds: BTreeSet<&str> = listed
        .get("persons")
        .and_then(Value::as_array)
        .expect("persons")
        .iter()
        .filter_map(|person| person.get("kind").and_then(Value::as_str))
        .collect();
    assert_eq!(kinds, BTreeSet::from(["person", "user"]));
    for text in [listed.to_string(), standalone.log_text()] {
        assert!(!text.contains(&user) && !text.to_lowercase().contains(&address), "{text}");
    }
    tell(&standalone.admin(), "lift", "--user-id", &user);
    tell(&standalone.admin(), "lift", "--email", &address);
    sender.take(&facts("r3"));
    assert_eq!(books(&standalone.admin()).accepted, during.accepted + 6);
    // What cannot be meant is refused.
    let admin = standalone.admin();
    for (action, named, expected) in [
        ("lift", json!({ "workspace": "default", "user_id": user }), 404),
        ("suppress", json!({ "workspace": "other", "user_id": user }), 404),
        ("suppress", json!({ "workspace": "default" }), 422),
        ("suppress", json!({ "workspace": "default", "user_id": "null" }), 422),
        ("erase", json!({ "workspace": "default", "email": "ann" }), 422),
        ("suppress", json!({ "workspace": "default", "person_id": 4_242_424_242_u64 }), 422),
    ] {
        let answer = admin.post(&format!("/v1/persons/{action}"), &named).expect("an answer");
        assert_eq!(answer.status, expected, "{action} {named}: {}", answer.text());
        assert!(answer.error_code().is_some(), "{action} {named}: {}", answer.text());
        assert!(!answer.text().contains("4242424242"), "the answer shows the id: {}", answer.text());
    }
}

#[test]
fn dead_letters_of_a_suppressed_person_stay_and_those_of_an_erased_one_go() {
    let mut random = Random::announced("suppression letters");
    let (segment, word) = (Segment::start(), random.word());
    let standalone = Standalone::start(&segment);
    let admin = standalone.admin();
    let (victim, other) = (format!("v-{word}"), format!("o-{word}"));
    segment.set_faults(vec![FaultRule::always(Fault::RejectItem { contains: word.clone() })]);
    let known = Fact::new("identify", &format!("i-{word}"), recently_ms()).person(&victim).user("customer-7");
    Sender::new(standalone.ingest(), INGEST_KEY).take(&[known]);
    deliver(&standalone, &word, &[&victim, &other]);
    let letters = |count: usize| {
        eventually("letters are listed", SOON, || {
            let letters = admin.dead_letters()?;
            holds(letters.len() == count, || format!("{} letters", letters.len()))
        });
    };
    letters(3);
    segment.clear_faults();
    tell(&admin, "suppress", "--person-id", &victim);
    admin.replay(&json!({ "messageIds": [], "all": true })).expect("a replay");
    // The other's goes; the suppressed person's stay, although the calls of one whose user is known name no person.
    letters(2);
    let held = books(&admin);
    assert_eq!((held.produced, held.accepted, held.dead, held.suppressed), (3, 1, 2, 0), "{held:?}");
    assert_eq!(arrived(&segment), BTreeSet::from([other]));
    let erased = tell(&admin, "erase", "--person-id", &victim);
    assert_eq!(erased.get("dead_letters_dropped"), Some(&json!(2)), "{erased}");
    letters(0);
    let gone = books(&admin);
    assert_eq!((gone.dead, gone.dropped), (0, 2), "{gone:?}");
    // Its user is forgotten: after a lift it is anonymous.
    tell(&admin, "lift", "--person-id", &victim);
    deliver(&standalone, &format!("{word}2"), &[&victim]);
    books(&admin);
    let last = segment.calls().pop().expect("a call");
    assert_eq!((last.user_id(), last.anonymous_id()), (None, Some(victim.as_str())));
}
