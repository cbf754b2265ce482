//! What a state weighs, what it forgets and when, and that nobody can tell how it came about.

use proptest::prelude::*;

use super::*;
use crate::{
    FactKind, Head, InstallationKey, LinkKind, LinkRef, MachineCheck, MachineSignal, MailRef, OrderKind, PersonOrder,
    Policy, Verdict, WorkspaceId,
};

const KEY: InstallationKey = InstallationKey::new([7; 32]);

const DAY_MS: i64 = 86_400_000;

/// A fact about mail `mail`, sent to a person of its own.
fn head(kind: FactKind, mail: u64, event: u64) -> Head {
    let person = Hash128::of("test person", &[&mail.to_be_bytes()]);
    Head {
        workspace: WorkspaceId::new("acme").unwrap(),
        kind,
        event: Hash128::of("test event", &[&event.to_be_bytes()]),
        person,
        user: None,
        occurred_at: Timestamp::default(),
        mail: MailRef::new(person, Some("run"), Some("mail"), None),
        link: None,
        link_kind: LinkKind::Content,
        machine: MachineCheck::default(),
        bounce_class: BounceClass::Soft,
        scope: 0,
        has_traits: false,
    }
}

fn with_link(head: Head, link: u64) -> Head {
    let link = LinkRef::new(None, &format!("https://example.com/a/page/like/any/other/{link}"));
    Head { link: Some(link), ..head }
}

/// The heap bytes that are counted as changes come are those of what is held.
fn heap_bytes(state: &PartitionState) -> usize {
    let mails: usize = state.mails.iter().map(|(_, _, mail)| mail.heap_bytes()).sum();
    mails + state.persons().map(|(_, person)| person.heap_bytes()).sum::<usize>()
}

/// 200,000 mails: half of the persons are known, 40 % opened, 30 % clicked, a third of those without any open.
fn mixed() -> PartitionState {
    let mut state = PartitionState::default();
    state.advance(Timestamp::from_ms(20_000 * DAY_MS));
    let mut events = 0..;
    let mut fold = |state: &mut PartitionState, head: &dyn Fn(u64) -> Head| {
        let verdict = state.fold(&Policy::default(), &KEY, &head(events.next().unwrap()));
        assert_ne!(verdict, Verdict::Duplicate);
    };
    for mail in 0..200_000u64 {
        let user = (mail % 2 == 0).then(|| UserId::new(format!("customer-{mail}")).unwrap());
        fold(&mut state, &|event| Head { user: user.clone(), ..head(FactKind::EmailDelivered, mail, event) });
        if mail % 10 < 4 {
            fold(&mut state, &|event| head(FactKind::EmailOpened, mail, event));
        }
        if mail % 10 < 2 || mail % 10 == 9 {
            fold(&mut state, &|event| with_link(head(FactKind::LinkClicked, mail, event), mail % 3));
        }
        if mail % 1000 == 999 {
            state.take_changes();
        }
    }
    state
}

#[test]
fn a_key_takes_less_than_a_hundred_bytes() {
    let state = mixed();
    let (persons, mails, events) = state.sizes();
    assert_eq!((persons, mails, events), (100_000, 200_000, 340_000));
    assert!(state.bytes() / (persons + mails + events) < 60, "{}", state.bytes());
    assert_eq!(state.heap_bytes, heap_bytes(&state));

    let mut only_mails = PartitionState::restore(state.log_time());
    only_mails.deliveries(state.deliveries());
    let only_mails = only_mails.finish();
    assert!(only_mails.bytes() / mails < 100, "{}", only_mails.bytes());
}

#[test]
fn what_has_expired_counts_no_more_even_before_it_is_dropped() {
    let [event, mail] = [Hash128::from_bytes([7; 16]), Hash128::from_bytes([8; 16])];
    let mut state = PartitionState::default();
    let last = |day: i64| Timestamp::from_ms((day + 1) * DAY_MS - 1);
    let next = |day: i64| Timestamp::from_ms(day * DAY_MS);

    state.advance(last(1000));
    assert!(state.see(event));
    state.advance(last(1007));
    assert!(!state.see(event));
    state.advance(next(1008));
    assert_eq!((state.sizes().2, state.seen_events().count()), (1, 0));
    assert!(state.see(event));

    state.change_mail(mail, |mail| mail.mark(Mark::Delivered));
    state.advance(last(1408));
    assert!(!state.change_mail(mail, |mail| mail.mark(Mark::Delivered)));
    state.advance(last(1808));
    state.advance(next(1809));
    assert_eq!((state.sizes().1, state.deliveries().count()), (1, 0));
    assert!(state.change_mail(mail, |mail| mail.mark(Mark::Delivered)));
}

#[test]
fn every_shard_has_one_turn_a_day() {
    let hours: Vec<Vec<u8>> = (0..24)
        .map(|hour| Timestamp::from_ms(5 * DAY_MS - 1 + hour * 3_600_000))
        .map(|hour| shards::turns(hour, Timestamp::from_ms(hour.as_ms() + 3_600_000)).collect())
        .collect();
    assert_eq!(hours.concat(), (0..=255).collect::<Vec<u8>>());
    let years = shards::turns(Timestamp::default(), Timestamp::from_ms(1000 * DAY_MS));
    assert_eq!(years.collect::<BTreeSet<u8>>().len(), 256);
    assert_eq!(shards::turns(Timestamp::default(), Timestamp::from_ms(1000)).count(), 0);
}

#[test]
fn what_is_forgotten_gives_its_memory_back() {
    let mut state = PartitionState::default();
    state.advance(Timestamp::from_ms(20_000 * DAY_MS));
    for event in 0..10_000u64 {
        let key = Hash128::of("test event", &[&event.to_be_bytes()]);
        state.see(key);
        state.change_mail(key, |mail| mail.win_open(event));
    }
    state.take_changes();
    let full = state.bytes();
    for half_day in 0..2 * 403 {
        state.advance(Timestamp::from_ms(20_000 * DAY_MS + half_day * DAY_MS / 2));
    }
    assert_eq!((state.sizes(), state.heap_bytes), ((0, 0, 0), 0));
    // The lists of touched keys keep their room; a step needs them again.
    assert!(state.bytes() - state.touched_mails.capacity() * 16 < full / 20, "{} {full}", state.bytes());
}

#[test]
fn a_difference_anywhere_is_one() {
    let log_time = Timestamp::from_ms(20_000 * DAY_MS);
    let key = Hash128::from_bytes([9; 16]);
    let state = |restore: &dyn Fn(&mut Restore)| {
        let mut state = PartitionState::restore(log_time);
        restore(&mut state);
        state.finish()
    };
    let user = |user: &str| Person::Known(UserId::new(user).unwrap());
    let states = [
        state(&|_| {}),
        state(&|state| state.seen_events(20_000, [key])),
        state(&|state| state.seen_events(19_999, [key])),
        state(&|state| state.persons([(key, user("u"))])),
        state(&|state| state.persons([(key, user("v"))])),
        state(&|state| state.deliveries([(key, Delivery { day: 20_000, ..Delivery::default() })])),
        state(&|state| state.deliveries([(key, Delivery { day: 20_000, spam: true, ..Delivery::default() })])),
        state(&|state| state.tombstones([Tombstone::of_person(&KEY, key)])),
        PartitionState::restore(Timestamp::from_ms(20_000 * DAY_MS + 1)).finish(),
    ];
    for (index, one) in states.iter().enumerate() {
        for (other_index, other) in states.iter().enumerate() {
            assert_eq!(one == other, index == other_index, "{index} {other_index}");
            assert_eq!(one.digest() == other.digest(), index == other_index, "{index} {other_index}");
        }
    }
    let expired = state(&|state| {
        state.seen_events(19_992, [key]);
        state.deliveries([(key, Delivery { day: 19_599, ..Delivery::default() })]);
    });
    assert_eq!((&expired, expired.digest()), (&states[0], states[0].digest()));
}

/// Kind, event, mail, link or user, by a machine.
type Told = (usize, u8, u8, u8, bool);

/// Facts of one step, and log time since the step before.
fn step() -> impl Strategy<Value = (Vec<Told>, i64)> {
    // One kind more than there are is an order.
    let told = (0..=FactKind::ALL.len(), 0u8..40, 0u8..4, 0u8..4, any::<bool>());
    let time = prop_oneof![4 => 0..30_000i64, 6 => 0..DAY_MS, 2 => Just(3 * DAY_MS), 1 => 0..500 * DAY_MS];
    (proptest::collection::vec(told, 0..6), time)
}

fn order(event: u8, mail: u8, which: u8) -> PersonOrder {
    let person = head(FactKind::Page, mail.into(), 0).person;
    let (workspace, user) = (WorkspaceId::new("acme").unwrap(), UserId::new(format!("u{event}")).unwrap());
    let of_user = event.is_multiple_of(2);
    let tombstone =
        if of_user { Tombstone::of_user(&KEY, &workspace, &user) } else { Tombstone::of_person(&KEY, person) };
    let kind = [OrderKind::Suppress, OrderKind::Erase, OrderKind::Lift][usize::from(which % 3)];
    PersonOrder { workspace, kind, tombstone, person: Some(person) }
}

fn fold(state: &mut PartitionState, (kind, event, mail, which, machine): Told) {
    if kind == FactKind::ALL.len() {
        return state.obey(&KEY, &order(event, mail, which));
    }
    let head = head(FactKind::ALL[kind], mail.into(), event.into());
    let user = (which > 2).then(|| UserId::new(format!("u{event}")).unwrap());
    let signal = if machine { MachineSignal::Machine } else { MachineSignal::None };
    let machine = MachineCheck { signal, timed: true, hold_ms: 20_000 * u32::from(which % 2), policy: None };
    let head = Head { user, machine, scope: which.into(), bounce_class: BounceClass::ALL[usize::from(which)], ..head };
    let head = with_link(head, which.into());
    if let Verdict::Folded(decision) = state.fold(&Policy::default(), &KEY, &head)
        && decision.held
    {
        state.hold(state.clock(), &head, b"sealed");
    }
}

/// Moves log time on, and lets go what is due.
fn pass(state: &mut PartitionState, time: i64) {
    let now = Timestamp::from_ms(state.log_time().as_ms() + time);
    state.advance(now);
    state.tick(now);
    while state.release(|_| Policy::default(), &KEY).is_some() {}
}

fn rebuilt(state: &PartitionState) -> PartitionState {
    let mut restore = PartitionState::restore(state.log_time());
    state.seen_events().for_each(|(day, event)| restore.seen_events(day, [event]));
    restore.persons(state.persons().map(|(key, person)| (key, person.clone())));
    restore.deliveries(state.deliveries());
    restore.tombstones(state.tombstones());
    restore.clock(state.clock());
    restore.held(state.held_clicks().map(|(number, click)| (number, click.clone())));
    restore.recent(state.recent_clicks().map(|(mail, recent)| (mail, recent.clone())));
    restore.finish()
}

proptest! {
    #[test]
    fn folded_replayed_and_rebuilt_states_are_one(steps in proptest::collection::vec(step(), 1..20)) {
        let (mut folded, mut replayed) = (PartitionState::default(), PartitionState::default());
        for (facts, time) in steps {
            pass(&mut folded, time);
            facts.into_iter().for_each(|told| fold(&mut folded, told));
            replayed.apply(folded.take_changes());
        }
        let rebuilt = rebuilt(&folded);
        for state in [&folded, &replayed, &rebuilt] {
            prop_assert_eq!(state, &folded);
            prop_assert_eq!(state.digest(), folded.digest());
            prop_assert_eq!(state.heap_bytes, heap_bytes(state));
        }
        let today = folded.log_time().day();
        prop_assert!(folded.seen_events().all(|(day, _)| day + PartitionState::SEEN_DAYS >= today));
        prop_assert!(folded.deliveries().all(|(_, mail)| mail.day + PartitionState::UNIQUENESS_DAYS >= today));
    }
}
