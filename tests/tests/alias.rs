//! Addresses that an identify has tied to a person: what comes with nothing but the address is that person's, from the
//! 200 of the identify on, through every process and over kills.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::slice::from_ref;
use std::time::{Duration, Instant};

use inflection_tests::arrived::{Arrived, first_arrivals};
use inflection_tests::binary;
use inflection_tests::config::Workspace;
use inflection_tests::fact::{Fact, recently_ms};
use inflection_tests::fleet::{Fleet, Stage};
use inflection_tests::http::{Client, Request};
use inflection_tests::install::{Install, Kind, Stop};
use inflection_tests::random::Random;
use inflection_tests::segment::Segment;
use inflection_tests::sender::Sender;
use inflection_tests::wait::{SOON, eventually, holds};
use serde_json::{Value, json};

/// Part of every address here, so that it is found wherever one shows.
const CANARY: &str = "canary-alias";

/// Persons, users, addresses and event ids of one scenario.
struct Cast {
    word: String,
    at_ms: i64,
}

impl Cast {
    fn announced(name: &str) -> Self {
        Self { word: Random::announced(name).word(), at_ms: recently_ms() }
    }

    fn id(&self, name: &str) -> String {
        format!("{name}-{}", self.word)
    }

    fn address(&self, name: &str) -> String {
        format!("{name}.{CANARY}.{}@corp.example", self.word)
    }

    fn fact(&self, kind: &str, id: &str) -> Fact {
        Fact::new(kind, &self.id(id), self.at_ms)
    }

    fn identify(&self, id: &str, person: &str, user: Option<&str>, address: &str) -> Fact {
        let fact = self.fact("identify", id).person(&self.id(person)).email(address);
        user.map_or(fact.clone(), |user| fact.user(&self.id(user)))
    }

    /// An open of a mail, by whoever it says.
    fn open(&self, id: &str, mail: &str) -> Fact {
        self.fact("email_opened", id).mail(mail, &self.id("run")).human()
    }
}

/// First arrivals of an event by the mail they are of.
fn of_mail<'c>(calls: &'c [Arrived], event: &str, mail: &str) -> Vec<&'c Arrived> {
    let is = |call: &&Arrived| call.event() == Some(event) && call.property("email_id") == Some(mail);
    calls.iter().filter(is).collect()
}

#[test]
fn what_comes_to_an_address_is_its_persons_on_standalone() {
    what_comes_to_an_address_is_its_persons(Kind::Standalone);
}

#[test]
fn what_comes_to_an_address_is_its_persons_on_a_fleet() {
    what_comes_to_an_address_is_its_persons(Kind::Fleet);
}

fn what_comes_to_an_address_is_its_persons(kind: Kind) {
    let cast = Cast::announced("alias");
    let segment = Segment::start();
    let acme = Workspace::new("acme");
    let mut install = Install::start(kind, &segment, from_ref(&acme));
    let (ann, shared, role) = (cast.address("ann"), cast.address("shared"), format!("info@{}.example", cast.word));
    let mut sender = Sender::new(install.ingest(), acme.ingest_key());
    let mut send = |fact: Fact| sender.take(&[fact]);
    send(cast.open("before", "m-before").email(&ann));
    send(cast.identify("i1", "p", Some("u"), &ann));
    send(cast.fact("email_delivered", "d1").mail("m1", &cast.id("run")).email(&ann.to_uppercase()));
    send(cast.open("o1", "m1").email(&ann));
    let url = "https://example.com/1";
    send(cast.fact("link_clicked", "c1").mail("m1", &cast.id("run")).human().email(&ann).with("email_link_url", url));
    // A mailbox of a role, and one that two have claimed, are nobody's.
    send(cast.identify("i2", "p", Some("u"), &role));
    send(cast.open("o2", "m-role").email(&role));
    send(cast.identify("i3", "q", None, &shared));
    send(cast.identify("i4", "r", None, &shared));
    send(cast.open("o3", "m-shared").email(&shared));
    install.stop(Stop::Kill);
    install.start_again();
    let mut sender = Sender::new(install.ingest(), acme.ingest_key());
    let mut send = |fact: Fact| sender.take(&[fact]);
    send(cast.open("o4", "m1").email(&ann));
    send(cast.open("o5", "m1").person(&cast.id("p")));
    send(cast.open("o6", "m1").user(&cast.id("u")).email(&ann));
    // The same user's second person ties nothing anew.
    send(cast.identify("i5", "p2", Some("u"), &ann));
    send(cast.open("o7", "m1").email(&ann));
    send(cast.open("o8", "m-other").user(&cast.id("v")).email(&ann));
    install.settle();
    let user = cast.id("u");
    eventually("every open and click arrives", SOON, || {
        let calls = first_arrivals(segment.calls());
        let count = |event: &str, mail: &str| of_mail(&calls, event, mail).len();
        let opens = ["m-before", "m1", "m-role", "m-shared", "m-other"].map(|mail| count("Email Opened", mail));
        let once = ["Email Delivered", "Email Unique Opens", "Link Clicked", "Unique Link Click"]
            .map(|event| count(event, "m1"));
        holds(opens == [1, 5, 1, 1, 1] && once == [1; 4], || format!("opens {opens:?}, once a mail {once:?}"))
    });
    let calls = first_arrivals(segment.calls());
    let ids = |mail: &str| -> Vec<(Option<&str>, Option<&str>)> {
        let of = calls.iter().filter(|call| call.property("email_id") == Some(mail));
        of.map(|call| (call.user_id(), call.anonymous_id())).collect()
    };
    assert!(ids("m1").iter().all(|ids| *ids == (Some(user.as_str()), None)), "{:?}", ids("m1"));
    assert_eq!(
        ids("m-other").first().map(|ids| ids.0),
        Some(Some(cast.id("v").as_str())),
        "who claims another is another"
    );
    for mail in ["m-before", "m-role", "m-shared"] {
        let ids = ids(mail);
        let nobodys = |(user, person): &(Option<&str>, Option<&str>)| {
            user.is_none() && person.is_some_and(|person| !person.ends_with(&cast.word))
        };
        assert!(!ids.is_empty() && ids.iter().all(nobodys), "{mail}: {ids:?}");
    }
    let told = install.admin().json(&format!("/v1/explain/{}", cast.id("o1"))).expect("an explanation");
    let why = told.pointer("/events/0/identity/why").and_then(Value::as_str).unwrap_or_default();
    assert!(why.contains("only an address"), "{told}");
    assert!(!install.log_text().contains(CANARY), "the log shows an address");
    install.assert_state_is_sound();
}

/// An SDK's identify with both ids ties an address as well.
#[test]
fn an_sdks_identify_ties_an_address() {
    let cast = Cast::announced("alias sdk");
    let segment = Segment::start();
    let acme = Workspace::new("acme");
    let install = Install::start(Kind::Standalone, &segment, from_ref(&acme));
    let ann = cast.address("ann");
    let identify = json!({
        "userId": cast.id("u"), "anonymousId": cast.id("p"), "traits": { "email": ann }, "messageId": cast.id("i"),
    });
    let request = Request::json("/v1/identify", identify.to_string()).basic(acme.ingest_key());
    assert_eq!(Client::new(install.ingest()).call(&request).expect("an answer").status, 200);
    Sender::new(install.ingest(), acme.ingest_key()).take(&[cast.open("o", "m").email(&ann)]);
    eventually("the open is the user's", SOON, || {
        let calls = first_arrivals(segment.calls());
        let opens = of_mail(&calls, "Email Opened", "m");
        holds(opens.iter().any(|call| call.user_id() == Some(&cast.id("u"))), || format!("{opens:?}"))
    });
}

/// Who waits for the 200 of one process finds the alias through another, the very first alias too, and over kills.
#[test]
fn every_process_knows_what_one_was_told() {
    const PEOPLE: usize = 60;
    let cast = Cast::announced("alias processes");
    let segment = Segment::start();
    let acme = Workspace::new("acme");
    let mut fleet = Fleet::start(&segment, from_ref(&acme));
    let here = fleet.ingest();
    let there = fleet.add_ingest();
    let open = |number: usize| {
        let fact = cast.open(&format!("o{number}"), &format!("m{number}"));
        fact.email(&cast.address(&format!("n{number}")))
    };
    // The other process has looked and found no alias.
    Sender::new(there, acme.ingest_key()).take(&[open(PEOPLE)]);
    for number in 0..PEOPLE {
        if number == PEOPLE / 2 {
            fleet.kill(Stage::Ingest);
            fleet.start_again(Stage::Ingest);
        }
        let (address, person) = (cast.address(&format!("n{number}")), format!("p{number}"));
        let identify = cast.identify(&format!("i{number}"), &person, Some(&person), &address);
        Sender::new(here, acme.ingest_key()).take(&[identify]);
        Sender::new(there, acme.ingest_key()).take(&[open(number)]);
    }
    let wrong = |calls: &[Arrived]| -> Vec<String> {
        let is_right = |number: &usize| {
            let opens = of_mail(calls, "Email Opened", &format!("m{number}"));
            opens.len() == 1 && opens.iter().all(|call| call.user_id() == Some(&cast.id(&format!("p{number}"))))
        };
        (0..PEOPLE).filter(|number| !is_right(number)).map(|number| number.to_string()).collect()
    };
    eventually("every open is its user's", SOON, || {
        let wrong = wrong(&first_arrivals(segment.calls()));
        holds(wrong.is_empty(), || wrong.join(" "))
    });
}

/// While the bus cannot say whose an address is, nothing is taken that has only one; sent again it counts once.
#[test]
fn without_an_answer_about_an_address_nothing_is_taken() {
    let cast = Cast::announced("alias outage");
    let segment = Segment::start();
    let acme = Workspace::new("acme");
    let mut fleet = Fleet::start(&segment, from_ref(&acme));
    let mut sender = Sender::new(fleet.ingest(), acme.ingest_key());
    let ann = cast.address("ann");
    sender.take(&[cast.identify("i", "p", Some("u"), &ann)]);
    fleet.nats().kill();
    let open = cast.open("o", "m").email(&ann);
    let refused = sender.post(from_ref(&open));
    assert_eq!((refused.status, refused.error_code().as_deref()), (503, Some("storage_unavailable")));
    assert!(refused.header("retry-after").is_some(), "it is told when to send again");
    let began = Instant::now();
    assert_eq!(sender.post(from_ref(&open)).status, 503);
    assert!(began.elapsed() < Duration::from_secs(3), "known to be away, but answered after {:?}", began.elapsed());
    fleet.nats().start_again();
    sender.take_eventually(&[open]);
    eventually("the open is the user's, once", SOON, || {
        let calls = first_arrivals(segment.calls());
        let (opens, unique) = (of_mail(&calls, "Email Opened", "m"), of_mail(&calls, "Email Unique Opens", "m"));
        let users: Vec<Option<&str>> = opens.iter().chain(&unique).map(|call| call.user_id()).collect();
        holds(users == [Some(cast.id("u").as_str()); 2], || format!("{users:?}"))
    });
}

#[track_caller]
fn tell(install: &Install, action: &str, address: &str) -> Value {
    let url = install.admin().url();
    let arguments = ["persons", action, "--workspace", "acme", "--email", address, "--json", "--admin-url", &url];
    let told: Value = serde_json::from_str(&binary::ask(&arguments).stdout).expect("JSON");
    assert_eq!(told.get("in_force"), Some(&Value::Bool(true)), "{told}");
    assert!(!told.to_string().contains(CANARY), "an address is shown nowhere");
    told
}

/// Who suppresses an address suppresses the person that it is tied to; one that is tied to nobody stays so.
#[test]
fn suppressing_an_address_reaches_the_person_it_is_tied_to() {
    let cast = Cast::announced("alias suppression");
    let segment = Segment::start();
    let acme = Workspace::new("acme");
    let install = Install::start(Kind::Standalone, &segment, from_ref(&acme));
    let mut sender = Sender::new(install.ingest(), acme.ingest_key());
    let mut send = |fact: Fact| sender.take(&[fact]);
    let (tied, free) = (cast.address("tied"), cast.address("free"));
    send(cast.identify("i1", "p", Some("u"), &tied));
    let told = tell(&install, "suppress", &tied);
    assert!(told.get("also").is_some_and(Value::is_string), "{told}");
    send(cast.open("o1", "dropped").email(&tied));
    send(cast.open("o2", "dropped").person(&cast.id("p")));
    assert_eq!(tell(&install, "erase", &free).get("also"), None);
    send(cast.identify("i2", "q", Some("w"), &free));
    send(cast.open("o3", "dropped").email(&free));
    install.settle();
    assert_eq!(tell(&install, "lift", &tied).get("also"), told.get("also"));
    tell(&install, "lift", &free);
    send(cast.open("o4", "m4").email(&tied));
    send(cast.identify("i3", "q", Some("w"), &free));
    send(cast.open("o5", "m5").email(&free));
    install.settle();
    eventually("what came after the lift arrives", SOON, || {
        let calls = first_arrivals(segment.calls());
        let user = |mail: &str| {
            of_mail(&calls, "Email Opened", mail).first().and_then(|call| call.user_id().map(str::to_owned))
        };
        holds(user("m4") == Some(cast.id("u")) && user("m5") == Some(cast.id("w")), || format!("{:?}", user("m5")))
    });
    let calls = first_arrivals(segment.calls());
    assert!(of_mail(&calls, "Email Opened", "dropped").is_empty(), "sent of a suppressed person");
    assert!(!install.log_text().contains(CANARY), "the log shows an address");
}
