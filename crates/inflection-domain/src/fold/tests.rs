//! The truth table and the identity table of `docs/engagement.md`, row by row, and the laws behind them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{BounceClass, LinkRef, MachineCheck, MailRef, OrderKind, PersonOrder, Timestamp, Tombstone, WorkspaceId};

const KEY: InstallationKey = InstallationKey::new([7; 32]);

/// One letter a fact: `o` human open, `m` machine open, `1` `2` human click on a link, `b` machine click on link 1,
/// `d` delivered, `h` hard bounce, `s` soft bounce, `x` spam report, `u` unsubscribe.
fn head(fact: char, event: &str) -> Head {
    let kind = match fact {
        'o' | 'm' => FactKind::EmailOpened,
        '1' | '2' | 'b' => FactKind::LinkClicked,
        'd' => FactKind::EmailDelivered,
        'h' | 's' => FactKind::EmailBounced,
        'x' => FactKind::EmailReportedAsSpam,
        _ => FactKind::EmailUnsubscribed,
    };
    let url = if fact == '2' { "https://example.com/2" } else { "https://example.com/1" };
    let person = Hash128::of("test person", &[]);
    Head {
        workspace: WorkspaceId::new("acme").unwrap(),
        kind,
        event: Hash128::of("test event", &[event.as_bytes()]),
        person,
        user: None,
        occurred_at: Timestamp::from_ms(0),
        mail: MailRef::new(person, Some("run"), Some("mail"), None),
        link: (kind == FactKind::LinkClicked).then(|| LinkRef::new(None, url)),
        link_kind: LinkKind::Content,
        machine: MachineCheck::told(matches!(fact, 'm' | 'b')),
        bounce_class: if fact == 'h' { BounceClass::Hard } else { BounceClass::Soft },
        scope: 0,
        has_traits: false,
    }
}

fn run(policy: &Policy, facts: &[(char, String)]) -> Vec<Call> {
    let mut state = PartitionState::default();
    let mut calls = Vec::new();
    for (fact, event) in facts {
        if let Verdict::Folded(decision) = state.fold(policy, &KEY, &head(*fact, event)) {
            calls.extend(decision.calls);
        }
    }
    calls
}

fn numbered(facts: &str) -> Vec<(char, String)> {
    facts.chars().enumerate().map(|(index, fact)| (fact, format!("{fact}{index}"))).collect()
}

/// `Email Opened(unique|-) Email Unique Opens(source) …` in short: `O+ O- U:pixel C+ C- L P`.
fn short(calls: &[Call]) -> String {
    let words: Vec<String> = calls
        .iter()
        .map(|call| match (call.kind, call.unique) {
            (CallKind::EmailOpened, Some(true)) => "O+".into(),
            (CallKind::EmailOpened, _) => "O-".into(),
            (CallKind::EmailUniqueOpens, _) => format!("U:{}", call.open_source.unwrap().name()),
            (CallKind::LinkClicked, Some(true)) => "C+".into(),
            (CallKind::LinkClicked, _) => "C-".into(),
            (CallKind::UniqueLinkClick, _) => "L".into(),
            (CallKind::UniqueLinkClickPerUniqueOpen, _) => "P".into(),
            (kind, _) => kind.name().to_owned(),
        })
        .collect();
    words.join(" ")
}

#[track_caller]
fn check(policy: &Policy, facts: &str, expected: &str) {
    assert_eq!(short(&run(policy, &numbered(facts))), expected, "{facts}");
}

#[test]
fn truth_table() {
    let default = Policy::default();
    for (facts, expected) in [
        ("o", "O+ U:pixel"),
        ("oo", "O+ U:pixel O-"),
        ("o1", "O+ U:pixel C+ L P"),
        ("1o", "C+ L O+ U:pixel P"),
        ("o112", "O+ U:pixel C+ L P C- C+ L"),
        ("m", "O-"),
        ("mo", "O- O+ U:pixel"),
        ("m1", "O- C+ U:confirmed_by_click L P"),
        ("1m", "C+ L O- U:confirmed_by_click P"),
        ("1", "C+ L"),
        ("bbb", "C- C- C-"),
        ("b1", "C- C+ L"),
        ("ob", "O+ U:pixel C-"),
    ] {
        check(&default, facts, expected);
    }
    let implied = Policy { implied_open: true, ..default };
    check(&implied, "1", "C+ U:implied_by_click L P");
    check(&implied, "1o", "C+ U:implied_by_click L P O-");
    let per_link = Policy { click_per_open: ClickPerOpen::Link, ..default };
    check(&per_link, "o112", "O+ U:pixel C+ L P C- C+ L P");
    check(&per_link, "12o", "C+ L C+ L O+ U:pixel P P");
    check(&Policy { machine_opens: MachinePolicy::Include, ..default }, "m", "O+ U:pixel");
    check(&Policy { machine_opens: MachinePolicy::Drop, ..default }, "m1", "C+ U:confirmed_by_click L P");
    check(&Policy { machine_clicks: MachinePolicy::Drop, ..default }, "ob", "O+ U:pixel");
    let separate =
        Policy { machine_opens: MachinePolicy::Separate, machine_clicks: MachinePolicy::Separate, ..default };
    check(&separate, "m", "email_machine_opened");
    check(&separate, "mo", "email_machine_opened O+ U:pixel");
    check(&separate, "m1", "email_machine_opened C+ U:confirmed_by_click L P");
    check(&separate, "b1", "link_machine_clicked C+ L");
    check(&separate, "ob", "O+ U:pixel link_machine_clicked");
}

#[test]
fn the_same_event_again_changes_nothing() {
    let facts = [('o', "e1".to_owned()), ('o', "e1".to_owned())];
    assert_eq!(short(&run(&Policy::default(), &facts)), "O+ U:pixel");
}

#[test]
fn a_click_before_the_open_lends_its_link() {
    let calls = run(&Policy::default(), &numbered("1o"));
    assert_eq!(calls.last().unwrap().link_url.as_deref(), Some("https://example.com/1"));
}

#[test]
fn terminal_facts_happen_once_a_mail() {
    let default = Policy::default();
    check(&default, "dd", "email_delivered");
    check(&default, "dh", "email_delivered email_bounced");
    check(&default, "shh", "email_bounced email_bounced");
    check(&default, "xx", "email_reported_as_spam");
    check(&default, "uu", "email_unsubscribed");
    let unknown_mail = |event| Head { mail: MailRef::new(Hash128::default(), None, None, None), ..head('d', event) };
    let mut state = PartitionState::default();
    for event in ["1", "2"] {
        let Verdict::Folded(decision) = state.fold(&default, &KEY, &unknown_mail(event)) else { panic!("duplicate") };
        assert_eq!(decision.calls.len(), 1, "a mail without a name is not taken for another one");
    }
}

#[test]
fn an_open_after_a_hard_bounce_is_a_contradiction() {
    let mut state = PartitionState::default();
    state.fold(&Policy::default(), &KEY, &head('h', "1"));
    let Verdict::Folded(decision) = state.fold(&Policy::default(), &KEY, &head('o', "2")) else { panic!("duplicate") };
    assert!(decision.contradiction);
}

#[test]
fn links_beyond_the_bound_are_never_unique() {
    let mut state = PartitionState::default();
    let mut unique = 0;
    for link in 0..PartitionState::LINKS_MAX + 5 {
        let link = Some(LinkRef::new(None, &format!("https://example.com/{link}")));
        let head = Head { link, ..head('1', &format!("e{unique}-{}", state.sizes().2)) };
        let Verdict::Folded(decision) = state.fold(&Policy::default(), &KEY, &head) else { panic!("duplicate") };
        unique += decision.calls.iter().filter(|call| call.kind == CallKind::UniqueLinkClick).count();
    }
    assert_eq!(unique, PartitionState::LINKS_MAX);
}

/// Folds facts of (kind, user id, has traits) for one person; gives `kind:user` a call, `~` for anonymous, `+` for a link.
fn identities(facts: &[(FactKind, Option<&str>, bool)]) -> (String, usize) {
    let (mut state, mut words, mut conflicts) = (PartitionState::default(), Vec::new(), 0);
    for (index, (kind, user, has_traits)) in facts.iter().enumerate() {
        let user = user.map(|user| UserId::new(user).unwrap());
        let head = Head { kind: *kind, user, has_traits: *has_traits, ..head('d', &index.to_string()) };
        let head = Head { mail: MailRef::new(Hash128::default(), None, None, None), ..head };
        let Verdict::Folded(decision) = state.fold(&Policy::default(), &KEY, &head) else { panic!("duplicate") };
        conflicts += usize::from(decision.conflict);
        let who = decision.user.as_ref().map_or("~", |user| user.as_str());
        words.extend(decision.calls.iter().map(|call| {
            format!(
                "{}:{who}{}",
                if call.kind == CallKind::Identify { "id" } else { "t" },
                if call.links { "+" } else { "" }
            )
        }));
    }
    (words.join(" "), conflicts)
}

#[test]
fn identity_table() {
    use FactKind::{EmailDelivered as D, Identify as I};
    type Told<'a> = (FactKind, Option<&'a str>, bool);
    let cases: [(&[Told<'_>], &str, usize); 9] = [
        (&[(D, None, false)], "t:~", 0),
        (&[(D, None, false), (D, Some("u"), false), (D, None, false)], "t:~ id:u+ t:u t:u", 0),
        (&[(D, Some("u"), false), (D, Some("u"), false)], "id:u+ t:u t:u", 0),
        (&[(D, Some("u"), false), (D, Some("v"), false), (D, None, false)], "id:u+ t:u t:v t:u", 1),
        (&[(I, Some("u"), true), (D, None, false)], "id:u+ t:u", 0),
        (&[(I, Some("u"), false), (I, Some("u"), false)], "id:u+", 0),
        (&[(I, Some("u"), false), (I, Some("u"), true)], "id:u+ id:u", 0),
        (&[(I, Some("u"), false), (I, Some("v"), true)], "id:u+", 1),
        (&[(I, None, true)], "id:~", 0),
    ];
    for (facts, expected, conflicts) in cases {
        assert_eq!(identities(facts), (expected.to_owned(), conflicts), "{facts:?}");
    }
}

#[test]
fn what_is_passed_on_has_an_identity_and_no_uniqueness() {
    let mut state = PartitionState::default();
    let mut fold = |kind: FactKind, event: &str, user: Option<&str>| {
        let user = user.map(|user| UserId::new(user).unwrap());
        let head = Head { kind, user, ..head('o', event) };
        match state.fold(&Policy::default(), &KEY, &head) {
            Verdict::Suppressed => "suppressed".to_owned(),
            Verdict::Duplicate => "duplicate".to_owned(),
            Verdict::Folded(decision) => {
                format!("{} {}", short(&decision.calls), decision.user.as_ref().map_or("-", UserId::as_str))
            }
        }
    };
    assert_eq!(fold(FactKind::CustomTrack, "1", None), "custom_track -");
    assert_eq!(fold(FactKind::CustomTrack, "2", None), "custom_track -", "of one mail, and told again");
    assert_eq!(fold(FactKind::CustomTrack, "2", None), "duplicate");
    assert_eq!(fold(FactKind::Screen, "3", Some("u")), "identify screen u");
    assert_eq!(fold(FactKind::CustomTrack, "4", None), "custom_track u");
    assert_eq!(fold(FactKind::CustomTrack, "5", Some("v")), "custom_track v");
    assert_eq!(fold(FactKind::EmailOpened, "6", None), "O+ U:pixel u", "the mail has had no open yet");
}

#[test]
fn firsts_and_event_ids_expire_in_log_time() {
    let day = |day: i64| Timestamp::from_ms(day * 86_400_000);
    let mut state = PartitionState::default();
    let folds = |state: &mut PartitionState, event: &str| match state.fold(&Policy::default(), &KEY, &head('o', event))
    {
        Verdict::Suppressed => "suppressed".to_owned(),
        Verdict::Duplicate => "duplicate".to_owned(),
        Verdict::Folded(decision) => short(&decision.calls),
    };
    state.advance(day(1000));
    assert_eq!(folds(&mut state, "1"), "O+ U:pixel");
    state.advance(day(1007));
    assert_eq!(folds(&mut state, "1"), "duplicate");
    state.advance(day(1008));
    assert_eq!(folds(&mut state, "1"), "O+", "the winner is told unique again, the unique open is not repeated");
    state.advance(day(900));
    assert_eq!(folds(&mut state, "1"), "duplicate", "log time never goes back");
    state.advance(day(1008 + 401));
    assert_eq!(folds(&mut state, "2"), "O+ U:pixel");
}

/// Folds `person user event`, obeys `S person`, `E person`, `L person` (a small letter is a person, a number a user), and
/// says what came of each fact: `-` suppressed, `=` a duplicate, else the user, `~` for anonymous.
fn supervised(state: &mut PartitionState, script: &str) -> String {
    let workspace = WorkspaceId::new("acme").unwrap();
    let person = |name: &str| Hash128::of("test person", &[name.as_bytes()]);
    let mut told = Vec::new();
    for line in script.split(", ") {
        let words: Vec<&str> = line.split(' ').collect();
        let kind = match words[0] {
            "S" => OrderKind::Suppress,
            "E" => OrderKind::Erase,
            "L" => OrderKind::Lift,
            name => {
                let user = words.get(2).map(|user| UserId::new(*user).unwrap());
                let (event, person) = (Hash128::of("test event", &[words[1].as_bytes()]), person(name));
                let mail = MailRef::new(person, None, None, None);
                let fact = Head { event, person, user, mail, ..head('o', "") };
                told.push(match state.fold(&Policy::default(), &KEY, &fact) {
                    Verdict::Suppressed => "-".to_owned(),
                    Verdict::Duplicate => "=".to_owned(),
                    Verdict::Folded(decision) => {
                        let unique = if decision.calls.iter().any(|call| call.unique == Some(true)) { "!" } else { "" };
                        format!("{}{unique}", decision.user.as_ref().map_or("~", UserId::as_str))
                    }
                });
                continue;
            }
        };
        let of_user = words[1].starts_with(|first: char| first.is_ascii_digit());
        let (tombstone, person) = if of_user {
            (Tombstone::of_user(&KEY, &workspace, &UserId::new(words[1]).unwrap()), None)
        } else {
            (Tombstone::of_person(&KEY, person(words[1])), Some(person(words[1])))
        };
        state.obey(&KEY, &PersonOrder { workspace: workspace.clone(), kind, tombstone, person });
    }
    told.join(" ")
}

#[test]
fn suppression_table() {
    for (script, expected) in [
        // From the order on, whatever the fact claims; others are as before.
        ("a e1, S a, a e2, b e3, a e4 7, L a, a e5", "~! - ~! - ~"),
        // What was suppressed left nothing behind: neither an event id, nor a user, nor a first open.
        ("S a, a e1 7, L a, a e1, b e2 7", "- ~! 7!"),
        // A fact known before is suppressed, not a duplicate.
        ("a e1, S a, a e1, L a, a e1", "~! - ="),
        // A user is all its persons: those known to be it, and those whose facts claim it.
        ("a e1 7, b e2, S 7, a e3, b e4 7, b e5, c e6 8, L 7, a e7, b e8 7", "7! ~! - - ~ 8! 7 7"),
        // Of a person that claims another user than it is known to be, both count.
        ("a e1 7, S 7, a e2 8, L 7, S 8, a e3 8, a e4", "7! - - 7"),
        // Suppressed by both, it takes both to be let in.
        ("a e1 7, S 7, S a, L 7, a e2, L a, a e3", "7! - 7"),
        // Suppression keeps what is known, erasure forgets it; a lift brings nothing back.
        ("a e1 7, S a, L a, a e2", "7! 7"),
        ("a e1 7, E a, a e2, L a, a e3, a e1", "7! - ~! ="),
        // An erased user's persons are still recognised as it, until it is let in again.
        ("a e1 7, b e2 8, E 7, a e3, L 7, a e4, b e5", "7! 8! - 7 8"),
        // Orders may be repeated, and lift what is not there.
        ("S a, S a, L a, a e1, L a, L b, b e2", "~! ~!"),
    ] {
        let (mut state, mut replayed) = (PartitionState::default(), PartitionState::default());
        assert_eq!(supervised(&mut state, script), expected, "{script}");
        replayed.apply(state.take_changes());
        assert_eq!((&replayed, replayed.digest()), (&state, state.digest()), "{script}");
    }
}

fn derived(calls: &[Call]) -> BTreeSet<(CallKind2, CallKey)> {
    calls.iter().filter(|call| call.kind.is_derived()).map(|call| (call.kind.name(), call.key)).collect()
}
type CallKind2 = &'static str;

/// All orders of up to six facts.
fn permutations(facts: &[(char, String)]) -> Vec<Vec<(char, String)>> {
    if facts.len() <= 1 {
        return vec![facts.to_vec()];
    }
    let mut all = Vec::new();
    for index in 0..facts.len() {
        let mut rest = facts.to_vec();
        let first = rest.remove(index);
        all.extend(permutations(&rest).into_iter().map(|tail| [vec![first.clone()], tail].concat()));
    }
    all
}

#[test]
fn derived_ids_do_not_depend_on_order_or_repeats() {
    for policy in [Policy::default(), Policy { click_per_open: ClickPerOpen::Link, ..Policy::default() }] {
        for facts in ["oo112m", "m1b2", "12oob", "o12dhu", "bm1"] {
            let facts = numbered(facts);
            let expected = derived(&run(&policy, &facts));
            for order in permutations(&facts) {
                assert_eq!(derived(&run(&policy, &order)), expected, "{order:?}");
                let repeated = [order.clone(), order.clone()].concat();
                assert_eq!(run(&policy, &repeated), run(&policy, &order), "{order:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn laws(facts in "[om12bdhsxu]{0,20}", split in 0usize..20) {
        let facts = numbered(&facts);
        let calls = run(&Policy::default(), &facts);
        let count = |kind| calls.iter().filter(|call| call.kind == kind).count();
        prop_assert!(count(CallKind::EmailUniqueOpens) <= 1);
        prop_assert!(count(CallKind::UniqueLinkClickPerUniqueOpen) <= count(CallKind::EmailUniqueOpens));
        let keys: BTreeSet<CallKey> = calls.iter().map(|call| call.key).collect();
        prop_assert_eq!(keys.len(), calls.len(), "no call twice");
        let raw = |letters: &str| facts.iter().filter(|(fact, _)| letters.contains(*fact)).count();
        prop_assert_eq!(count(CallKind::EmailOpened), raw("om"));
        prop_assert_eq!(count(CallKind::LinkClicked), raw("12b"));

        // State rebuilt from its changes goes on exactly as the state itself would.
        let mut live = PartitionState::default();
        let mut rebuilt = PartitionState::default();
        let mut told = Vec::new();
        for (index, (fact, event)) in facts.iter().enumerate() {
            if index == split {
                rebuilt.apply(live.take_changes());
                prop_assert_eq!(&rebuilt, &live);
                live = rebuilt.clone();
            }
            if let Verdict::Folded(decision) = live.fold(&Policy::default(), &KEY, &head(*fact, event)) {
                told.extend(decision.calls);
            }
        }
        prop_assert_eq!(told, calls);
    }
}
