//! What times show, row by row; and that a hold changes nothing but what it is for, wherever steps are cut.

use proptest::prelude::*;

use super::*;
use crate::state::RecentClicks;
use crate::{
    Call, CallKind, FactKind, Hash128, LinkKind, LinkRef, MachineCheck, MachinePolicy, MailRef, OrderKind, PersonOrder,
    Timestamp, Tombstone, UserId,
};

const KEY: InstallationKey = InstallationKey::new([7; 32]);
const START_MS: i64 = 1_790_000_000_000;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_ms(START_MS + ms)
}

/// One fact: a letter and a number for the link, at a time. `d` delivered, `o` open, `c` click, `s` click of a suspect, `b`
/// click of a machine, `h` click of a person as somebody says, `u` click on the unsubscribe link.
fn head(word: &str, ms: i64, event: u64, hold_ms: u32) -> Head {
    let (kind, link) = word.split_at(1);
    let signal = match kind {
        "s" => MachineSignal::Suspect,
        "b" => MachineSignal::Machine,
        "h" => MachineSignal::Human,
        _ => MachineSignal::None,
    };
    let person = Hash128::of("test person", &[]);
    Head {
        workspace: WorkspaceId::new("acme").unwrap(),
        kind: match kind {
            "d" => FactKind::EmailDelivered,
            "o" => FactKind::EmailOpened,
            _ => FactKind::LinkClicked,
        },
        event: Hash128::of("test event", &[&event.to_be_bytes()]),
        person,
        user: None,
        occurred_at: at(ms),
        mail: MailRef::new(person, Some("run"), Some("mail"), None),
        link: (!link.is_empty()).then(|| LinkRef::new(None, &format!("https://example.com/{link}"))),
        link_kind: if kind == "u" { LinkKind::Unsubscribe } else { LinkKind::Content },
        machine: MachineCheck { signal, policy: None, timed: true, hold_ms },
        bounce_class: crate::BounceClass::default(),
        scope: 0,
        has_traits: false,
    }
}

/// The calls in short, each with what times showed: `O` and `C` raw (`+` unique, `!` machine), `U`, `L`, `P` derived.
fn short(calls: &[Call]) -> String {
    let word = |call: &Call| {
        let flag = match (call.unique, call.machine) {
            (_, Some(MachineTimes::AfterDelivery)) => "!delivery",
            (_, Some(MachineTimes::Burst)) => "!burst",
            (Some(true), None) => "+",
            _ => "",
        };
        match (call.kind, flag) {
            (CallKind::EmailOpened, flag) => format!("O{flag}"),
            (CallKind::LinkClicked, flag) => format!("C{flag}"),
            (CallKind::EmailUniqueOpens, _) => "U".to_owned(),
            (CallKind::UniqueLinkClick, _) => "L".to_owned(),
            (CallKind::UniqueLinkClickPerUniqueOpen, _) => "P".to_owned(),
            (CallKind::EmailDelivered, _) => "D".to_owned(),
            (kind, _) => kind.name().to_owned(),
        }
    };
    calls.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Folds `word@milliseconds` facts, each in a message of its own received then; then passes an hour. What is let go stands
/// where it is let go.
fn told(hold_ms: u32, script: &str) -> String {
    let mut state = PartitionState::default();
    let mut calls = Vec::new();
    for (event, step) in (0u64..).zip(script.split(' ')) {
        let (word, ms) = step.split_once('@').unwrap();
        let ms: i64 = ms.parse().unwrap();
        pass(&mut state, at(ms), &mut calls);
        let head = head(word, ms, event, hold_ms);
        let Verdict::Folded(decision) = state.fold(&Policy::default(), &KEY, &head) else { panic!("{step}") };
        calls.extend(decision.calls);
        if decision.held {
            state.hold(state.clock(), &head, b"sealed");
        }
    }
    pass(&mut state, at(3_600_000), &mut calls);
    assert_eq!(state.next_release(), None);
    short(&calls)
}

fn pass(state: &mut PartitionState, now: Timestamp, calls: &mut Vec<Call>) {
    state.advance(now);
    state.tick(now);
    while let Some(released) = state.release(|_| Policy::default(), &KEY) {
        assert_eq!(&*released.body, b"sealed");
        let Verdict::Folded(decision) = released.verdict else { panic!("{:?}", released.verdict) };
        calls.extend(decision.calls);
    }
}

#[test]
fn what_follows_the_delivery_at_once_is_a_machines() {
    for (script, expected) in [
        ("d@0 o@990", "D O!delivery"),
        ("d@0 o@1000", "D O+ U"),
        ("d@0 o@0", "D O!delivery"),
        // At a gateway that has not passed the mail on yet; before that another clock was read.
        ("d@0 o@-5000", "D O!delivery"),
        ("d@0 o@-600010", "D O+ U"),
        ("d@0 c1@1990", "D C!delivery"),
        ("d@0 c1@2000", "D C+ L"),
        ("d@0 s1@4990", "D C!delivery"),
        ("d@0 s1@5000", "D C+ L"),
        // Somebody who knows.
        ("d@0 h1@10", "D C+ L"),
        // Nothing is known of the delivery yet.
        ("o@10 d@0", "O+ U D"),
        // A gateway's open, and the person's afterwards.
        ("d@0 o@500 o@60000", "D O!delivery O+ U"),
        ("d@0 o@500 c1@60000", "D O!delivery C+ U L P"),
    ] {
        assert_eq!(told(0, script), expected, "{script}");
    }
}

#[test]
fn without_a_hold_a_burst_is_known_from_its_third_link_on() {
    for (script, expected) in [
        ("c1@0 c2@500 c3@1000", "C+ L C+ L C!burst"),
        ("c1@0 c2@500 c3@1000 c4@1500 c5@2000 c6@2900", "C+ L C+ L C!burst C!burst C!burst C!burst"),
        ("c1@0 c2@500 c3@2000", "C+ L C+ L C+ L"),
        // One link again and again is a double click.
        ("c1@0 c1@100 c1@200 c2@300", "C+ L C C C+ L"),
        ("s1@0 s2@4000 s3@9000", "C+ L C+ L C!burst"),
        ("c1@0 c2@4000 c3@9000", "C+ L C+ L C+ L"),
        // A machine's clicks are evidence too; those that somebody vouches for are none.
        ("b1@0 b2@500 c3@1000", "C C C!burst"),
        ("h1@0 h2@500 c3@1000", "C+ L C+ L C+ L"),
        ("u9@0 c1@500 c2@1000", "C C+ L C!burst"),
        ("c1@0 c2@500 h3@1000", "C+ L C+ L C+ L"),
    ] {
        assert_eq!(told(0, script), expected, "{script}");
    }
}

#[test]
fn with_a_hold_a_burst_is_judged_whole() {
    for (script, expected) in [
        ("c1@0 c2@500 c3@1000", "C!burst C!burst C!burst"),
        ("c1@0 c1@100 c2@500 c3@1000", "C!burst C!burst C!burst C!burst"),
        // A scanner, and the person a minute later.
        ("d@0 c1@2500 c2@3000 c3@3500 c1@60000", "D C!burst C!burst C!burst C+ L"),
        // Others do not wait; what is held is told after them.
        ("c1@0 o@100 o@200", "O+ U O C+ L P"),
        ("c1@0 c2@20000", "C+ L C+ L"),
        ("u9@0 c1@500 c2@1000", "C!burst C!burst C!burst"),
        // What is sure already is not held, and is evidence.
        ("b1@0 h2@100 c3@200 c4@300", "C C+ L C!burst C!burst"),
        // The first comes from outside the two seconds that the other three have in common.
        ("c1@0 c2@1500 c3@2500 c4@3000", "C+ L C!burst C!burst C!burst"),
    ] {
        assert_eq!(told(20_000, script), expected, "{script}");
    }
}

#[test]
fn a_delivery_that_is_reported_while_a_click_is_held_counts() {
    assert_eq!(told(20_000, "c1@100 d@0"), "D C!delivery");
}

#[test]
fn a_delivery_whose_time_is_no_evidence_makes_nobody_a_machine() {
    let delivered = head("d", 0, 0, 0);
    let own = MachineCheck { timed: false, ..delivered.machine };
    for (machine, expected) in [(delivered.machine, "O!delivery"), (own, "O+ U")] {
        let mut state = PartitionState::default();
        assert!(!take(&mut state, &Head { machine, ..delivered.clone() }));
        let opened = state.fold(&Policy::default(), &KEY, &head("o", 500, 1, 0));
        let Verdict::Folded(decision) = opened else { panic!("{opened:?}") };
        assert_eq!(short(&decision.calls), expected);
    }
}

#[test]
fn a_click_whose_time_is_no_evidence_is_not_held() {
    let click = head("c1", 0, 0, 20_000);
    let machine = MachineCheck { timed: false, ..click.machine };
    assert!(!take(&mut PartitionState::default(), &Head { machine, ..click }));
}

#[test]
fn what_is_held_is_bounded() {
    let mut state = PartitionState::default();
    let held = (0..1000u64).filter(|event| {
        let head = head("c1", 0, *event, 20_000);
        let Verdict::Folded(decision) = state.fold(&Policy::default(), &KEY, &head) else { panic!("{event}") };
        if decision.held {
            state.hold(state.clock(), &head, b"sealed");
        }
        decision.held
    });
    assert_eq!(held.count(), PartitionState::HELD_PER_MAIL_MAX);
    for mail in 0..u64::try_from(PartitionState::HELD_MAX + 100).unwrap() {
        let key = Hash128::of("test mail", &[&mail.to_be_bytes()]);
        let head = Head { mail: MailRef { key, known: true }, ..head("c1", 0, 1000 + mail, 20_000) };
        let Verdict::Folded(decision) = state.fold(&Policy::default(), &KEY, &head) else { panic!("{mail}") };
        if decision.held {
            state.hold(state.clock(), &head, b"sealed");
        }
    }
    assert_eq!(state.held_clicks().count(), PartitionState::HELD_MAX);
    assert_eq!(state.recent_clicks().count(), PartitionState::RECENT_MAX);
    state.tick(at(PartitionState::RECENT_MS + 1));
    assert_eq!(state.recent_clicks().count(), 0);
}

/// Folds a fact of a message received now; whether it is held.
fn take(state: &mut PartitionState, head: &Head) -> bool {
    let Verdict::Folded(decision) = state.fold(&Policy::default(), &KEY, head) else { panic!("{head:?}") };
    if decision.held {
        state.hold(state.clock(), head, b"sealed");
    }
    decision.held
}

#[test]
fn a_burst_is_a_list_of_numbers_and_not_the_clicks_again() {
    let (mut state, mut rebuilt) = (PartitionState::default(), PartitionState::default());
    for event in 0..3 {
        assert!(take(&mut state, &head(["c1", "c2", "c1"][event], 0, event as u64, 20_000)));
    }
    let changes = state.take_changes();
    assert_eq!((changes.held.len(), &*changes.burst), (3, [].as_slice()));
    rebuilt.apply(changes);
    assert!(take(&mut state, &head("c3", 100, 3, 20_000)));
    let changes = state.take_changes();
    let numbers: Vec<u64> = changes.held.iter().map(|(number, _)| *number).collect();
    assert_eq!((&*numbers, &*changes.burst), ([3].as_slice(), [0, 1, 2].as_slice()));
    rebuilt.apply(changes);
    assert_eq!((&rebuilt, rebuilt.digest()), (&state, state.digest()));
    assert!(rebuilt.held_clicks().all(|(_, click)| click.burst && &*click.body == b"sealed"));
}

#[test]
fn a_hold_begins_when_its_own_message_was_received() {
    let mut state = PartitionState::default();
    // A host whose clock is ten minutes ahead, and a click from another one.
    state.tick(at(600_000));
    let head = head("c1", 0, 0, 20_000);
    assert!(matches!(state.fold(&Policy::default(), &KEY, &head), Verdict::Folded(decision) if decision.held));
    state.hold(at(0), &head, b"sealed");
    assert_eq!(state.next_release(), Some(at(20_000)));
    assert!(state.has_due(), "by the clock that is ahead");
}

#[test]
fn a_late_report_pushes_no_newer_link_out() {
    let mut recent = RecentClicks::default();
    for (link, at, expected) in [
        (1, 5000, [(1, 5000)].as_slice()),
        (2, 6000, &[(1, 5000), (2, 6000)]),
        (3, 100, &[(1, 5000), (2, 6000)]),
        (2, 200, &[(1, 5000), (2, 6000)]),
        (4, 7000, &[(2, 6000), (4, 7000)]),
    ] {
        recent.add(link, at);
        assert_eq!(recent.links, expected, "{link} at {at}");
    }
    // A report that comes late, between the links of a burst.
    assert_eq!(told(0, "c1@5000 c2@5500 c4@100 c3@6000"), "C+ L C+ L C+ L C!burst");
}

#[test]
fn erasing_a_user_empties_the_held_clicks_of_all_its_persons() {
    let user = UserId::new("u").unwrap();
    let other = |person: &str, user: Option<&UserId>, event| {
        let person = Hash128::of("test person", &[person.as_bytes()]);
        Head { person, user: user.cloned(), ..head("c1", 0, event, 20_000) }
    };
    let mut state = PartitionState::default();
    // One says who it is with the click, one has said it before, one is somebody else.
    for (event, person, claimed) in [(0, "a", Some(&user)), (1, "b", Some(&user)), (2, "b", None), (3, "c", None)] {
        assert!(take(&mut state, &other(person, claimed, event)));
    }
    let tombstone = Tombstone::of_user(&KEY, &WorkspaceId::new("acme").unwrap(), &user);
    let workspace = WorkspaceId::new("acme").unwrap();
    // Of a user the order's person is the one derived from its id, and none of these.
    let derived = Some(Hash128::of("test person", &[b"derived"]));
    state.obey(&KEY, &PersonOrder { workspace, kind: OrderKind::Erase, tombstone, person: derived });
    let emptied: Vec<bool> = state.held_clicks().map(|(_, click)| click.erased && click.body.is_empty()).collect();
    assert_eq!(emptied, [true, true, true, false]);
}

#[test]
fn orders_hold_for_what_is_held() {
    for (kind, lifted, expected) in [
        (OrderKind::Suppress, false, None),
        // What was erased stays so; what was only suppressed is told, since nothing was sent meanwhile.
        (OrderKind::Suppress, true, Some("C+ L")),
        (OrderKind::Erase, true, None),
    ] {
        let mut state = PartitionState::default();
        let head = Head { user: Some(UserId::new("u").unwrap()), ..head("c1", 0, 0, 20_000) };
        let Verdict::Folded(decision) = state.fold(&Policy::default(), &KEY, &head) else { panic!("no decision") };
        assert_eq!((decision.held, decision.calls.len()), (true, 1), "the identify does not wait");
        state.hold(state.clock(), &head, b"sealed");
        let tombstone = Tombstone::of_person(&KEY, head.person);
        let order =
            |kind| PersonOrder { workspace: head.workspace.clone(), kind, tombstone, person: Some(head.person) };
        state.obey(&KEY, &order(kind));
        if kind == OrderKind::Erase {
            assert!(state.held_clicks().all(|(_, click)| click.body.is_empty() && click.head.user.is_none()));
        }
        if lifted {
            state.obey(&KEY, &order(OrderKind::Lift));
        }
        state.tick(at(100_000));
        let released = state.release(|_| Policy::default(), &KEY).unwrap();
        let said = match released.verdict {
            Verdict::Suppressed => None,
            Verdict::Folded(decision) => {
                assert_eq!(decision.user.as_ref().map(UserId::as_str), Some("u"));
                Some(short(&decision.calls))
            }
            Verdict::Duplicate => panic!("it was seen when it came"),
        };
        assert_eq!(said.as_deref(), expected, "{kind:?} {lifted}");
    }
}

#[test]
fn the_facts_own_policy_wins_over_the_present_one() {
    let mut state = PartitionState::default();
    let include = MachineCheck { policy: Some(MachinePolicy::Include), ..MachineCheck::told(true) };
    let drop = MachineCheck { policy: Some(MachinePolicy::Drop), ..MachineCheck::told(true) };
    let mut fold = |event, machine, policy| {
        let head = Head { machine, ..head("o", 0, event, 0) };
        let policy = Policy { machine_opens: policy, ..Policy::default() };
        let Verdict::Folded(decision) = state.fold(&policy, &KEY, &head) else { panic!("{event}") };
        short(&decision.calls)
    };
    assert_eq!(fold(1, drop, MachinePolicy::Flag), "");
    assert_eq!(fold(2, MachineCheck::told(true), MachinePolicy::Flag), "O");
    assert_eq!(fold(3, include, MachinePolicy::Drop), "O+ U");
    let prefetched = MachineCheck { signal: MachineSignal::Prefetched, ..include };
    assert_eq!(fold(4, prefetched, MachinePolicy::Flag), "");
}

/// Facts: which, by whom, and how long after the one before, in milliseconds.
fn facts() -> impl Strategy<Value = Vec<(&'static str, i64)>> {
    let word = prop::sample::select(vec!["d", "o", "c1", "c2", "c3", "c4", "s1", "b2", "h1", "u9"]);
    let wait = prop_oneof![4 => 0..900i64, 2 => 900..3000i64, 1 => 3000..40_000i64];
    proptest::collection::vec((word, wait), 0..30)
}

proptest! {
    /// A log gives the same calls wherever it is cut, and through a state that is rebuilt from its changes.
    #[test]
    fn steps_and_restarts_change_nothing(facts in facts(), hold in 0u32..4, every in 1usize..6) {
        let fold = |restart: bool| {
            let (mut state, mut rebuilt) = (PartitionState::default(), PartitionState::default());
            let (mut calls, mut ms) = (Vec::new(), 0);
            for (event, (word, wait)) in facts.iter().enumerate() {
                ms += wait;
                pass(&mut state, at(ms), &mut calls);
                let head = head(word, ms, event as u64, hold * 5000);
                if let Verdict::Folded(decision) = state.fold(&Policy::default(), &KEY, &head) {
                    calls.extend(decision.calls);
                    if decision.held {
                        state.hold(state.clock(), &head, b"sealed");
                    }
                }
                if restart && event % every == 0 {
                    rebuilt.apply(state.take_changes());
                    assert_eq!((&rebuilt, rebuilt.digest()), (&state, state.digest()));
                    state = rebuilt.clone();
                }
            }
            pass(&mut state, at(10_000_000), &mut calls);
            calls
        };
        let calls = fold(false);
        prop_assert_eq!(&fold(true), &calls);
        let clicks = facts.iter().filter(|(word, _)| word.len() > 1).count();
        let told = calls.iter().filter(|call| call.kind == CallKind::LinkClicked).count();
        prop_assert_eq!(told, clicks, "every click is told once, held or not");
    }
}
