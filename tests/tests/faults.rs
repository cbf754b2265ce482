//! Segment misbehaves in every way it can; nothing is lost, repeated under another id, or out of order.

use std::collections::BTreeSet;

use inflection_sandbox::{Fault, FaultRule, ReceivedRequest};
use inflection_tests::binary;
use inflection_tests::checker::History;
use inflection_tests::fact::{Fact, recently_ms};
use inflection_tests::install::Install;
use inflection_tests::load::{Load, Target, Until};
use inflection_tests::random::Random;
use inflection_tests::segment::{Segment, status};
use inflection_tests::sender::Sender;
use inflection_tests::standalone::{CONNECTION, INGEST_KEY, Standalone};
use inflection_tests::wait::{SOON, eventually, holds};
use serde_json::Value;

/// Clients that send at the same time.
const CLIENTS: usize = 2;

/// Events each of them sends.
const EVENTS: usize = 1_000;

/// Requests that may still arrive in a closed window because they were on the way when it closed, and how long that
/// takes at most.
const ON_THE_WAY_MS: i64 = 150;

/// Sends 2,000 events while these faults are in force, waits for rest and checks the history.
#[track_caller]
fn storm(test: &str, rules: Vec<FaultRule>) -> Segment {
    let mut random = Random::announced(test);
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    segment.set_faults(rules);
    let load = Load::start(&Target::of_flags(&standalone, random.word()), CLIENTS, Until::Events(EVENTS), &mut random);
    let history = load.join();
    settled(history, &segment, &Install::Standalone(Box::new(standalone))).assert_holds();
    segment
}

/// Completes a history with what came out.
#[track_caller]
fn settled(mut history: History, segment: &Segment, install: &Install) -> History {
    let ledger = install.settle();
    history.balanced = ledger.balanced;
    history.pending = ledger.pending;
    history.dead = install.dead_letters();
    history.arrivals = segment.calls();
    history
}

/// I20: a run in which the fault did not happen shows nothing.
#[track_caller]
fn assert_suffered(segment: &Segment, fault: &str, times: usize) {
    let suffered = segment.suffered(fault);
    assert!(suffered >= times, "only {suffered} requests suffered {fault}, {times} were asked for");
}

/// The first requests suffer the fault, and then every fourth.
fn often(fault: Fault, first: u64) -> Vec<FaultRule> {
    let later = FaultRule { every: Some(4), ..FaultRule::always(fault.clone()) };
    vec![FaultRule::times(fault, first), later]
}

#[test]
fn push_back_is_honoured() {
    let segment = storm("429", often(status(429, Some("1")), 3));
    assert_suffered(&segment, "status", 3);
    let requests = segment.requests();
    for closed in requests.iter().filter(|request| request.status == Some(429)) {
        let early: Vec<&ReceivedRequest> = requests
            .iter()
            .filter(|other| other.request > closed.request)
            .filter(|other| (ON_THE_WAY_MS..1_000 - 20).contains(&(other.at_ms - closed.at_ms)))
            .collect();
        assert!(early.is_empty(), "asked for a second of peace at {}, got {early:?}", closed.at_ms);
    }
}

#[test]
fn an_outage_is_waited_out() {
    let segment = storm("503", often(status(503, None), 4));
    assert_suffered(&segment, "status", 4);
}

#[test]
fn an_answer_of_500_after_the_commit_is_no_loss() {
    let segment = storm("500 after commit", often(Fault::StatusAfterCommit { code: 500 }, 2));
    assert_suffered(&segment, "status_after_commit", 2);
}

#[test]
fn resets_lose_nothing() {
    let rules = [often(Fault::ResetBeforeCommit, 2), often(Fault::ResetAfterCommit, 2)].concat();
    let segment = storm("resets", rules);
    assert_suffered(&segment, "reset_before_commit", 2);
    assert_suffered(&segment, "reset_after_commit", 2);
}

#[test]
fn silence_and_slowness_lose_nothing() {
    let taken = FaultRule::times(Fault::Hang { ms: 3_000, commit: true }, 1);
    let refused = FaultRule::times(Fault::Hang { ms: 2_000, commit: false }, 1);
    let slow = often(Fault::Slow { ms: 300 }, 1);
    let segment = storm("hang", [vec![taken, refused], slow].concat());
    assert_suffered(&segment, "hang", 2);
    assert_suffered(&segment, "slow", 1);
}

#[test]
fn a_cut_answer_is_no_answer() {
    let segment = storm("cut answers", often(Fault::CutAnswer, 2));
    assert_suffered(&segment, "cut_answer", 2);
}

#[test]
fn one_poisoned_item_harms_no_other() {
    let mut random = Random::announced("poison");
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    // A word that only the calls of this event contain: its raw call and, an open, its unique one.
    let poison = format!("poison-{}", random.word());
    segment.set_faults(vec![FaultRule::always(Fault::RejectItem { contains: poison.clone() })]);
    let load =
        Load::start(&Target::of_flags(&standalone, random.word()), CLIENTS, Until::Events(EVENTS / 2), &mut random);
    let fact = Fact::new("email_delivered", &poison, recently_ms() - 60_000)
        .person("p-poisoned")
        .mail("mail-1", "run-poisoned")
        .with("campaign_name", poison.as_str());
    Sender::new(standalone.ingest(), INGEST_KEY).take(std::slice::from_ref(&fact));
    let healthy = load.join();
    let admin = standalone.admin();
    let install = Install::Standalone(Box::new(standalone));
    let history = settled(healthy, &segment, &install);
    assert_suffered(&segment, "reject_item", 1);

    let [letter] = history.dead.as_slice() else { panic!("one dead letter, not {:?}", history.dead) };
    assert_eq!((letter.event_id.as_str(), letter.connection.as_str()), (poison.as_str(), CONNECTION));
    assert_eq!(letter.raw.get("last_status").and_then(Value::as_u64), Some(400), "{}", letter.raw);
    assert!(!letter.reason.is_empty(), "{}", letter.raw);
    History { dead: Vec::new(), ..history.clone() }.assert_holds();
    let listed = command(&["dead-letters", "list", "--json", "--admin-url", &admin.url()]);
    let listed: Value = serde_json::from_str(&listed).expect("--json prints JSON");
    let listed = inflection_tests::admin::dead_letters(&listed).expect("a list");
    let ids: Vec<&str> = listed.iter().map(|letter| letter.message_id.as_str()).collect();
    assert_eq!(ids, [letter.message_id.as_str()], "the command lists what the listener lists");

    segment.clear_faults();
    command(&["dead-letters", "replay", &letter.message_id, "--admin-url", &admin.url()]);
    eventually("the replayed call arrives under its own id", SOON, || {
        let calls = segment.calls();
        let call = calls.iter().find(|call| call.message_id == letter.message_id);
        let call = call.ok_or_else(|| format!("{} calls, not that one", calls.len()))?;
        holds(call.property("campaign_name") == Some(&poison), || format!("{call:?}"))
    });
    eventually("it is dead no more", SOON, || {
        let dead = admin.dead_letters()?;
        holds(dead.is_empty(), || format!("{dead:?}"))
    });
    install.settle();
    let again = segment.calls().iter().filter(|call| call.message_id == letter.message_id).count();
    assert_eq!(again, 1, "replayed once");
}

/// Runs a command that must succeed; returns what it printed.
#[track_caller]
fn command(arguments: &[&str]) -> String {
    binary::ask(arguments).stdout
}

#[test]
fn a_refused_key_pauses_its_connection_and_keeps_everything() {
    let mut random = Random::announced("401");
    let segment = Segment::start();
    let mut standalone = Standalone::start(&segment);
    segment.set_faults(vec![FaultRule::always(status(401, None))]);
    let load =
        Load::start(&Target::of_flags(&standalone, random.word()), CLIENTS, Until::Events(EVENTS / 4), &mut random);
    let history = load.join();
    let admin = standalone.admin();
    eventually("the connection pauses", SOON, || {
        let state = admin.connection_state(CONNECTION)?;
        holds(state == "paused_auth", || state.clone())
    });
    let dead = admin.dead_letters().expect("a list");
    assert!(dead.is_empty(), "a refused key is no reason to give up events: {dead:?}");
    assert!(segment.calls().is_empty(), "nothing was taken");
    let pending = admin.ledger().expect("a ledger").pending;
    assert!(pending > 0, "everything is pending");

    segment.clear_faults();
    standalone.terminate();
    standalone.start_again();
    settled(history, &segment, &Install::Standalone(Box::new(standalone))).assert_holds();
}

#[test]
fn a_redirect_is_never_followed() {
    let mut random = Random::announced("redirect");
    let (segment, elsewhere) = (Segment::start(), Segment::start());
    let standalone = Standalone::start(&segment);
    let location = format!("{}/v1/batch", elsewhere.url());
    segment.set_faults(vec![FaultRule::always(Fault::Redirect { location })]);
    let fact = Fact::new("email_delivered", &random.word(), recently_ms()).person("p-1").mail("mail-1", "run-1");
    Sender::new(standalone.ingest(), INGEST_KEY).take(&[fact]);
    eventually("a redirect is answered", SOON, || holds(segment.suffered("redirect") > 0, || "none yet".to_owned()));
    let admin = standalone.admin();
    eventually("the connection is not active any more", SOON, || {
        let state = admin.connection_state(CONNECTION)?;
        holds(state != "active", || state.clone())
    });
    let followed: BTreeSet<String> = elsewhere.requests().into_iter().map(|request| request.write_key).collect();
    assert!(followed.is_empty(), "the write key went to another place");
}
