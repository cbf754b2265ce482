//! Calls that Segment refuses: they die alone, are found again, come back under their own ids, and each is counted.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::collections::BTreeSet;
use std::thread;

use inflection_sandbox::{Fault, FaultRule};
use inflection_tests::admin::{Admin, DeadLetter, dead_letters};
use inflection_tests::arrived::assert_one_content;
use inflection_tests::binary;
use inflection_tests::config::{Connection, Workspace};
use inflection_tests::fact::{Fact, now_ms, recently_ms, rfc3339};
use inflection_tests::install::Install;
use inflection_tests::load::{Load, Shape, Target, Until};
use inflection_tests::random::Random;
use inflection_tests::segment::{Segment, status};
use inflection_tests::sender::Sender;
use inflection_tests::standalone::{CONNECTION, INGEST_KEY, Standalone, WRITE_KEY};
use inflection_tests::wait::{SOON, eventually, holds};
use serde_json::{Value, json};

/// Clients that send at the same time.
const CLIENTS: usize = 2;

/// Events each of them sends.
const EVENTS: usize = 400;

/// Letters before the replay that is killed: enough for many requests when some of them are refused again.
const LETTERS: usize = 160;

/// Of so many letters one is refused again.
const LETTERS_A_REFUSAL: usize = 16;

/// How often a replay is killed.
const REPLAYS_KILLED: usize = 2;

/// Requests after which a replay is in its middle.
const REQUESTS_OF_A_BEGINNING: usize = 3;

/// Reasons, in Segment's own words.
const BAD_REQUEST: &str = "bad_request";
const TOO_LARGE: &str = "payload_too_large";

/// Letters of the early wave, …
const EARLY: usize = 12;
/// … of those that Segment finds too large, …
const LARGE: usize = 6;
/// … and of the last wave.
const LATE: usize = 5;
/// All of them.
const WAVES: usize = EARLY + LARGE + LATE;

/// MessageIds of letters that differ by reason and time.
struct Waves {
    early: BTreeSet<String>,
    /// After the early ones and before the others.
    between: String,
    large: BTreeSet<String>,
    late: BTreeSet<String>,
}

/// An install, and campaigns whose calls Segment can be made to refuse.
struct Ward {
    segment: Segment,
    standalone: Standalone,
    campaigns: [String; 3],
    random: Random,
    sent: i64,
}

impl Ward {
    fn open(test: &str) -> Self {
        let mut random = Random::announced(test);
        let segment = Segment::start();
        let standalone = Standalone::start(&segment);
        let word = random.word();
        let campaigns = ["a", "b", "c"].map(|name| format!("poison-{name}-{word}"));
        Self { segment, standalone, campaigns, random, sent: 0 }
    }

    fn admin(&self) -> Admin {
        self.standalone.admin()
    }

    /// Sends as many facts of a campaign, each of a person of its own and good for one call.
    #[track_caller]
    fn send(&mut self, campaign: &str, count: usize) {
        let mut facts = Vec::new();
        let (word, begin_ms) = (self.random.word(), recently_ms() - 3_600_000);
        for number in 0..count {
            self.sent += 1;
            let fact = Fact::new("email_delivered", &format!("e-{word}-{number}"), begin_ms + self.sent)
                .person(&format!("p-{word}-{number}"))
                .mail("mail-1", "run-1");
            facts.push(fact.with("campaign_name", campaign));
        }
        Sender::new(self.standalone.ingest(), INGEST_KEY).take(&facts);
    }

    /// Waits until that many letters are listed.
    #[track_caller]
    fn await_letters(&self, count: usize) -> Vec<DeadLetter> {
        eventually("the refused calls are listed", SOON, || {
            let letters = self.admin().dead_letters()?;
            holds(letters.len() == count, || format!("{} of {count} letters", letters.len()))?;
            Ok(letters)
        })
    }

    /// Lets the calls of as many facts die; returns their letters' messageIds.
    #[track_caller]
    fn refuse(&mut self, faults: Vec<FaultRule>, campaign: &str, count: usize) -> BTreeSet<String> {
        self.segment.set_faults(faults);
        let before = ids(&self.admin().dead_letters().expect("a list"));
        self.send(campaign, count);
        let after = ids(&self.await_letters(before.len() + count));
        after.difference(&before).cloned().collect()
    }

    /// Lets calls die for two reasons at two times.
    #[track_caller]
    fn waves(&mut self) -> Waves {
        let [campaign, ..] = self.campaigns.clone();
        let early = self.refuse(vec![poison(&campaign)], &campaign, EARLY);
        let between = self.between();
        let large = self.refuse(vec![FaultRule::always(status(413, None))], "Spring launch", LARGE);
        let late = self.refuse(vec![poison(&campaign)], &campaign, LATE);
        Waves { early, between, large, late }
    }

    /// A moment after the last letter and before every coming one.
    #[track_caller]
    fn between(&self) -> String {
        let letters = self.admin().dead_letters().expect("a list");
        let last_ms = letters.iter().map(|letter| letter.at_ms().expect("a moment")).max().expect("a letter");
        let between_ms = last_ms + 1;
        eventually("the clock goes on", SOON, || holds(now_ms() > between_ms, || "not yet".to_owned()));
        rfc3339(between_ms)
    }

    #[track_caller]
    fn assert_books(&self, dead: usize, dropped: u64) {
        assert_books(&self.admin(), dead, dropped);
    }
}

/// What lies in the dead letters is what the ledger says, and every call is accounted for.
#[track_caller]
fn assert_books(admin: &Admin, dead: usize, dropped: u64) {
    let ledger = admin.settle();
    let books = ledger.calls(CONNECTION).expect("books of the connection");
    assert_eq!(admin.dead_letters().map(|letters| letters.len()), Ok(dead), "{books:?}");
    assert_eq!(Ok(books.dead), u64::try_from(dead), "{books:?}");
    assert_eq!((books.dropped, books.parked, books.pending), (dropped, 0, 0), "{books:?}");
    assert_eq!(books.finished(), books.produced, "{books:?}");
}

/// Refuses every request with an item of that campaign.
fn poison(campaign: &str) -> FaultRule {
    FaultRule::always(Fault::RejectItem { contains: campaign.to_owned() })
}

fn ids(letters: &[DeadLetter]) -> BTreeSet<String> {
    letters.iter().map(|letter| letter.message_id.clone()).collect()
}

/// The messageIds of what Segment took.
fn taken(segment: &Segment) -> BTreeSet<String> {
    segment.calls().into_iter().map(|call| call.message_id).collect()
}

/// Runs a command that must succeed; returns what it printed.
#[track_caller]
fn ask(arguments: &[&str]) -> String {
    binary::ask(arguments).stdout
}

/// After so many seconds an outage is no reason to wait any longer.
const EXPIRES_AFTER: &str = "expire_after_seconds = 2";

#[test]
fn only_age_ends_what_an_outage_holds_up() {
    let mut random = Random::announced("expiry");
    let segment = Segment::start();
    let mut workspace = Workspace::new("acme");
    workspace.connections = vec![Connection::named("brief").line(EXPIRES_AFTER), Connection::named("patient")];
    let arguments = ["--park-after-seconds", "0"];
    let standalone = Standalone::start_with_arguments(&segment, std::slice::from_ref(&workspace), &arguments);
    let admin = standalone.admin();
    segment.set_faults(vec![FaultRule::always(status(503, None))]);
    let word = random.word();
    let fact = |number: i64| {
        let id = format!("e-{word}-{number}");
        Fact::new("email_delivered", &id, recently_ms() + number).person(&id).mail("mail-1", "run-1")
    };
    let mut sender = Sender::new(standalone.ingest(), workspace.ingest_key());
    sender.take(&(0..20).map(fact).collect::<Vec<_>>());
    eventually("what is too old is dead, with its reason", SOON, || {
        let dead = admin.dead_letters_where(&[("reason", "expired")])?;
        holds(dead.len() == 20 && dead.iter().all(|letter| letter.connection == "brief"), || format!("{dead:?}"))
    });
    let books = admin.ledger().expect("a ledger").calls("patient").expect("books");
    assert_eq!((books.dead, books.accepted), (0, 0), "no number of attempts is a reason: {books:?}");
    segment.clear_faults();
    sender.take(&[fact(20)]);
    let ledger = admin.settle();
    let of = |connection: &str| ledger.calls(connection).expect("books");
    assert_eq!((of("brief").accepted, of("brief").dead), (1, 20));
    assert_eq!((of("patient").accepted, of("patient").dead), (21, 0));
}

#[test]
fn one_mail_in_ten_is_poisoned_and_harms_no_other() {
    let Ward { segment, standalone, campaigns, mut random, .. } = Ward::open("poison");
    segment.set_faults(campaigns.iter().map(|campaign| poison(campaign)).collect());
    let target = Target {
        ingest: standalone.ingest(),
        ingest_key: INGEST_KEY.to_owned(),
        write_key: WRITE_KEY.to_owned(),
        word: random.word(),
    };
    let shape = Shape { poison: campaigns.to_vec(), ..Shape::default() };
    let load = Load::start_shaped(&target, CLIENTS, Until::Events(EVENTS), &shape, &mut random);
    let history = load.join();
    assert!(!history.poison.is_empty(), "nothing was poisoned");
    let install = Install::Standalone(Box::new(standalone));
    let history = install.complete(history, &segment);
    assert!(segment.suffered("reject_item") >= history.dead.len(), "each letter was refused by itself");
    // The others arrive in order, and the dead ones are the poisoned ones.
    history.assert_holds();
    for letter in &history.dead {
        assert_eq!((letter.reason.as_str(), letter.connection.as_str()), (BAD_REQUEST, CONNECTION), "{}", letter.raw);
        assert_eq!(letter.raw.get("last_status").and_then(Value::as_u64), Some(400), "{}", letter.raw);
    }
    assert_books(&install.admin(), history.dead.len(), 0);
}

/// A query parameter and its value.
type Choice<'c> = (&'c str, &'c str);

#[test]
fn letters_are_found_by_reason_and_time() {
    let mut ward = Ward::open("letters by reason and time");
    let Waves { early, between, large, late } = ward.waves();
    let (between, none) = (between.as_str(), BTreeSet::new());
    let after: BTreeSet<String> = large.union(&late).cloned().collect();
    let refused: BTreeSet<String> = early.union(&late).cloned().collect();
    let rows: [(&[Choice<'_>], &BTreeSet<String>); 7] = [
        (&[("reason", BAD_REQUEST)], &refused),
        (&[("reason", TOO_LARGE)], &large),
        (&[("reason", "no_such_reason")], &none),
        (&[("until", between)], &early),
        (&[("since", between)], &after),
        (&[("since", between), ("reason", BAD_REQUEST)], &late),
        (&[("since", between), ("reason", BAD_REQUEST), ("connection", "nobody")], &none),
    ];
    let (admin, url) = (ward.admin(), ward.admin().url());
    for (filter, expected) in rows {
        let listed = admin.dead_letters_where(filter).expect("a list");
        assert_eq!(&ids(&listed), expected, "{filter:?}");
        let flags: Vec<String> = filter.iter().map(|(name, value)| format!("--{name}={value}")).collect();
        let mut arguments = vec!["dead-letters", "list", "--json", "--admin-url", url.as_str()];
        arguments.extend(flags.iter().map(String::as_str));
        let printed: Value = serde_json::from_str(&ask(&arguments)).expect("--json prints JSON");
        assert_eq!(&ids(&dead_letters(&printed).expect("a list")), expected, "{arguments:?}");
    }

    // One alone is shown whole.
    let id = large.first().expect("a letter").as_str();
    let whole = admin.dead_letters_where(&[("messageId", id)]).expect("a list");
    assert_eq!(whole.len(), 1, "{whole:?}");
    assert_eq!(whole[0].raw.pointer("/item/messageId").and_then(Value::as_str), Some(id), "{whole:?}");
    ward.assert_books(WAVES, 0);
}

#[test]
fn letters_are_replayed_and_dropped_as_chosen() {
    let mut ward = Ward::open("replay and drop");
    let Waves { early, between, large, late } = ward.waves();
    let admin = ward.admin();
    let chosen: BTreeSet<String> = early.iter().take(4).cloned().collect();
    let four = json!({ "replayed": 4, "matched": 4, "beyond_dedupe_window": 0 });

    // In vain: Segment still refuses them, and they are back where they were.
    let refused = ward.segment.suffered("reject_item");
    assert_eq!(admin.replay(&json!({ "messageIds": chosen })), Ok(four.clone()));
    eventually("each is refused again by itself", SOON, || {
        let now = ward.segment.suffered("reject_item");
        holds(now >= refused + chosen.len(), || format!("{now} refusals after {refused}"))
    });
    ward.assert_books(WAVES, 0);
    assert_eq!(taken(&ward.segment), BTreeSet::new(), "nothing was taken so far");

    // A subset: those and no others, as they were.
    let whole = |id: &str| admin.dead_letters_where(&[("messageId", id)]).expect("a list").remove(0).raw;
    let items: Vec<Value> = chosen.iter().map(|id| whole(id)["item"].clone()).collect();
    ward.segment.clear_faults();
    assert_eq!(admin.replay(&json!({ "messageIds": chosen })), Ok(four));
    ward.await_letters(WAVES - 4);
    ward.assert_books(WAVES - 4, 0);
    assert_eq!(taken(&ward.segment), chosen, "those that were chosen");
    for call in ward.segment.calls() {
        assert!(items.contains(&call.body), "not what was refused: {}", call.body);
    }

    // Dropped by reason, and by name.
    let url = admin.url();
    ask(&["dead-letters", "drop", "--all", "--reason", TOO_LARGE, "--admin-url", &url]);
    ward.await_letters(WAVES - 4 - LARGE);
    let two: Vec<&String> = late.iter().take(2).collect();
    let dropped = admin.drop_letters(&json!({ "messageIds": two })).expect("an answer");
    assert_eq!(dropped.get("dropped").and_then(Value::as_u64), Some(2), "{dropped}");
    ward.assert_books(WAVES - 4 - LARGE - 2, 8);

    // Replayed by time.
    ask(&["dead-letters", "replay", "--all", "--until", &between, "--admin-url", &url]);
    let left = ids(&ward.await_letters(LATE - 2));
    assert!(left.is_subset(&late), "{left:?}");
    ward.assert_books(LATE - 2, 8);
    assert_eq!(taken(&ward.segment), early, "all early ones, and no others");
    assert!(taken(&ward.segment).is_disjoint(&large), "a dropped call was sent");
    assert_one_content(&ward.segment.calls());
}

#[test]
fn a_kill_in_the_middle_of_a_replay_loses_nothing() {
    let mut ward = Ward::open("killed replay");
    let [curable, incurable, _] = ward.campaigns.clone();
    let faults = vec![poison(&curable), poison(&incurable)];
    let mut all = BTreeSet::new();
    for _ in 0..LETTERS / LETTERS_A_REFUSAL {
        all.extend(ward.refuse(faults.clone(), &curable, LETTERS_A_REFUSAL - 1));
        all.extend(ward.refuse(faults.clone(), &incurable, 1));
    }
    assert_eq!(all.len(), LETTERS, "a letter for each fact");
    ward.assert_books(LETTERS, 0);

    for _ in 0..REPLAYS_KILLED {
        // Refused requests are halved again and again, and the others take their time: the replay has many steps.
        ward.segment.set_faults(vec![poison(&incurable), FaultRule::always(Fault::Slow { ms: 100 })]);
        let (admin, before) = (ward.admin(), ward.segment.requests().len());
        let replay = thread::spawn(move || admin.replay(&json!({ "all": true })));
        eventually("the replay is in its middle", SOON, || {
            let now = ward.segment.requests().len();
            holds(now >= before + REQUESTS_OF_A_BEGINNING, || format!("{} requests", now - before))
        });
        ward.standalone.kill();
        // It has been answered, or cut off by the kill.
        replay.join().expect("a client that does not panic").ok();
        ward.standalone.start_again();
        // Which it does only when the books balance.
        ward.admin().settle();
        let listed = ids(&ward.admin().dead_letters().expect("a list"));
        let sent = taken(&ward.segment);
        let lost: Vec<&String> = all.iter().filter(|id| !listed.contains(*id) && !sent.contains(*id)).collect();
        assert!(lost.is_empty(), "neither listed nor sent: {lost:?}");
        assert_one_content(&ward.segment.calls());
    }

    ward.segment.clear_faults();
    ward.admin().replay(&json!({ "all": true })).expect("an answer");
    ward.await_letters(0);
    ward.assert_books(0, 0);
    assert_eq!(taken(&ward.segment), all, "all of them, under their own ids");
    assert_one_content(&ward.segment.calls());
}
