//! A restored partition cannot be told from one that never stopped, and a damaged snapshot restores nothing.

use inflection_domain::{
    BounceClass, FactKind, Head, InstallationKey, LinkKind, LinkRef, MachineCheck, MachineSignal, MailRef, OrderKind,
    PersonOrder, Policy, Tombstone, UserId, Verdict, WorkspaceId,
};
use proptest::prelude::*;

use super::*;

const DAY_MS: i64 = 86_400_000;
const KEY: InstallationKey = InstallationKey::new([7; 32]);

/// Kind, event, person, mail, link or user, by a machine, and log time since the fact before.
type Told = (usize, u8, u8, u8, u8, bool, i64);

fn told() -> impl Strategy<Value = Told> {
    let time = prop_oneof![8 => 0..DAY_MS, 1 => Just(5 * DAY_MS), 1 => 0..300 * DAY_MS];
    // One kind more than there are is an order.
    (0..=FactKind::ALL.len(), 0u8..60, 0u8..4, 0u8..3, 0u8..4, any::<bool>(), time)
}

fn fold(state: &mut PartitionState, (kind, event, person, mail, which, machine, time): Told) -> Verdict {
    let person = Hash128::of("test person", &[&[person]]);
    let workspace = WorkspaceId::new("acme").unwrap();
    if kind == FactKind::ALL.len() {
        let user = UserId::new(format!("é{event}")).unwrap();
        let of_user = Tombstone::of_user(&KEY, &workspace, &user);
        let tombstone = if machine { of_user } else { Tombstone::of_person(&KEY, person) };
        let kind = [OrderKind::Suppress, OrderKind::Erase, OrderKind::Lift][usize::from(which % 3)];
        state.obey(&KEY, &PersonOrder { workspace, kind, tombstone, person: Some(person) });
        return Verdict::Suppressed;
    }
    let head = Head {
        workspace,
        kind: FactKind::ALL[kind],
        event: Hash128::of("test event", &[&[event]]),
        person,
        user: (which > 2).then(|| UserId::new(format!("é{event}")).unwrap()),
        occurred_at: Timestamp::default(),
        mail: MailRef::new(person, Some("run"), Some(&mail.to_string()), None),
        link: Some(LinkRef::new(None, &format!("https://example.com/{which}"))),
        link_kind: LinkKind::Content,
        machine: MachineCheck {
            signal: if machine { MachineSignal::Machine } else { MachineSignal::None },
            policy: None,
            timed: true,
            hold_ms: 20_000 * u32::from(event % 2),
        },
        bounce_class: BounceClass::ALL[usize::from(which)],
        scope: which.into(),
        has_traits: true,
    };
    let now = Timestamp::from_ms(state.log_time().as_ms() + time);
    state.advance(now);
    state.tick(now);
    while state.release(|_| Policy::default(), &KEY).is_some() {}
    let verdict = state.fold(&Policy::default(), &KEY, &head);
    if matches!(&verdict, Verdict::Folded(decision) if decision.held) {
        state.hold(now, &head, b"sealed");
    }
    verdict
}

fn head() -> SnapshotHead {
    let totals = WorkspaceTotals { folded: 3, calls: 4, ..WorkspaceTotals::new(WorkspaceId::new("acme").unwrap()) };
    let totals = vec![totals, WorkspaceTotals::new(WorkspaceId::new("_unknown").unwrap())];
    SnapshotHead { partition: 511, consumed_through: 42, consumed_events: 7, decisions_through: 41, totals }
}

#[track_caller]
fn round_trip(state: &PartitionState) -> PartitionState {
    let snapshot = Snapshot::decode(Snapshot::encode(&head(), state)).unwrap();
    assert_eq!(snapshot.head, head());
    assert_eq!((&snapshot.state, snapshot.state.digest()), (state, state.digest()));
    snapshot.state
}

/// Something of every kind, over three days.
fn some_of_everything() -> PartitionState {
    let mut state = PartitionState::default();
    for event in 0..40u8 {
        let (kind, which) = (usize::from(event) % FactKind::ALL.len(), event / 11);
        fold(&mut state, (kind, event, event % 3, event % 2, which % 4, event % 5 == 0, DAY_MS / 13));
    }
    assert!(state.persons().count() > 0 && state.seen_events().count() == 40);
    fold(&mut state, (FactKind::ALL.len(), 0, 200, 0, 0, false, 0));
    assert_eq!(state.tombstones().len(), 1);
    let (whole, in_columns): (Vec<_>, Vec<_>) =
        state.deliveries().partition(|(_, mail)| !mail.clicks.is_empty() || !mail.scopes.is_empty());
    assert!(!whole.is_empty(), "{in_columns:?}");
    state
}

proptest! {
    #[test]
    fn a_restored_state_goes_on_as_if_nothing_had_happened(
        before in proptest::collection::vec(told(), 0..40),
        after in proptest::collection::vec(told(), 0..20),
    ) {
        let mut whole = PartitionState::default();
        for told in before {
            fold(&mut whole, told);
        }
        whole.take_changes();
        let mut restored = round_trip(&whole);
        for told in after {
            prop_assert_eq!(fold(&mut restored, told), fold(&mut whole, told));
        }
        prop_assert_eq!(restored.take_changes(), whole.take_changes());
        prop_assert_eq!(restored, whole);
    }
}

#[test]
fn only_tombstones_and_held_clicks_need_a_newer_version() {
    let mut state = some_of_everything();
    // A click of which nothing is known, held.
    let click = FactKind::ALL.iter().position(|kind| *kind == FactKind::LinkClicked).unwrap();
    fold(&mut state, (click, 59, 7, 0, 1, false, 0));
    assert!(state.held_clicks().count() > 0 && state.recent_clicks().count() > 0);
    assert_eq!(Header::read(&Snapshot::encode(&head(), &state)).unwrap().version, 3);
    round_trip(&state);
    fold(&mut state, (0, 58, 7, 0, 1, false, 60_000));
    assert_eq!(Header::read(&Snapshot::encode(&head(), &state)).unwrap().version, 2);
    fold(&mut state, (FactKind::ALL.len(), 0, 200, 0, 2, false, 0));
    assert_eq!(Header::read(&Snapshot::encode(&head(), &state)).unwrap().version, 1);
    round_trip(&state);
}

#[test]
fn an_empty_state_is_a_state() {
    let restored = round_trip(&PartitionState::default());
    assert_eq!(restored.sizes(), (0, 0, 0));
}

#[test]
fn many_keys_make_several_portions() {
    let mut state = PartitionState::default();
    state.advance(Timestamp::from_ms(20_000 * DAY_MS));
    for number in 0..10_000u32 {
        let person = Hash128::of("test person", &[&number.to_be_bytes()]);
        let kind = if number % 3 == 0 { FactKind::LinkClicked } else { FactKind::EmailOpened };
        let head = Head {
            workspace: WorkspaceId::new("acme").unwrap(),
            kind,
            event: Hash128::of("test event", &[&number.to_be_bytes()]),
            person,
            user: Some(UserId::new(number.to_string()).unwrap()),
            occurred_at: Timestamp::default(),
            mail: MailRef::new(person, Some("run"), None, None),
            link: Some(LinkRef::new(None, "https://example.com")),
            link_kind: LinkKind::Content,
            machine: MachineCheck::default(),
            bounce_class: BounceClass::Hard,
            scope: 0,
            has_traits: false,
        };
        state.fold(&Policy::default(), &KEY, &head);
    }
    assert_eq!(round_trip(&state).sizes(), (10_000, 10_000, 10_000));
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let blob = Snapshot::encode(&head(), &some_of_everything());
    for place in 0..blob.len() {
        for damage in [0x01, 0x80, 0xff] {
            let mut damaged = blob.to_vec();
            damaged[place] ^= damage;
            assert!(Snapshot::decode(damaged.into()).is_err(), "byte {place}");
        }
        assert!(Snapshot::decode(blob.slice(..place)).is_err(), "cut at {place}");
    }
    assert!(Snapshot::decode([&*blob, b"x"].concat().into()).is_err());
    assert_eq!(Snapshot::decode(blob).unwrap().head, head());
}

#[test]
fn each_reason_for_refusal_has_its_name() {
    let blob = Snapshot::encode(&head(), &some_of_everything()).to_vec();
    let refusal = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = blob.clone();
        change(&mut changed);
        Snapshot::decode(changed.into()).unwrap_err()
    };
    assert!(matches!(refusal(&|blob| blob.clear()), SnapshotError::NotASnapshot));
    assert!(matches!(refusal(&|blob| blob[0] = b'?'), SnapshotError::NotASnapshot));
    assert!(matches!(refusal(&|blob| blob[8] = 0), SnapshotError::NotASnapshot));
    assert!(matches!(refusal(&|blob| blob[8] = 4), SnapshotError::Newer(4)));
    assert!(matches!(refusal(&|blob| blob.truncate(100)), SnapshotError::Damaged(_)));
    assert!(matches!(refusal(&|blob| blob[99] ^= 1), SnapshotError::Checksum));
}

#[test]
fn content_that_makes_no_sense_is_refused() {
    let seal = |content: &pb::Snapshot| {
        let content = content.encode_to_vec();
        Bytes::from([&Header::of(Snapshot::VERSION, &content).to_bytes()[..], &content].concat())
    };
    let portion = |portion: pb::StatePortion| pb::Snapshot {
        format_version: Snapshot::VERSION,
        portions: vec![portion.encode_to_vec().into()],
        ..pb::Snapshot::default()
    };
    assert!(Snapshot::decode(seal(&portion(pb::StatePortion::default()))).is_ok());

    let keys = Bytes::from_static(&[0; 16]);
    let mails = pb::MailColumns {
        mail_keys: keys.clone(),
        days: vec![1],
        marks: vec![16],
        unique_opens: vec![1],
        bounces: vec![0],
        open_winners: vec![],
        delivered_at: vec![],
    };
    let of_two = pb::MailColumns { marks: vec![0], delivered_at: vec![1, 2], ..mails.clone() };
    let lost = pb::RecentClicksState { mail_key: keys.clone(), links: vec![1], ..Default::default() };
    let no_user = pb::PersonColumns { person_keys: keys.clone(), known_user_ids: String::new() };
    let half_a_key = pb::SeenDay { day: 0, event_keys: keys.slice(..8) };
    for nonsense in [
        pb::StatePortion { mails: Some(mails.clone()), ..pb::StatePortion::default() },
        pb::StatePortion { mails: Some(pb::MailColumns { days: vec![], ..mails }), ..pb::StatePortion::default() },
        pb::StatePortion { mails: Some(of_two), ..pb::StatePortion::default() },
        pb::StatePortion { recent_clicks: vec![lost], ..pb::StatePortion::default() },
        pb::StatePortion { persons: Some(no_user), ..pb::StatePortion::default() },
        pb::StatePortion { seen: vec![half_a_key], ..pb::StatePortion::default() },
    ] {
        let refusal = Snapshot::decode(seal(&portion(nonsense))).unwrap_err();
        assert!(matches!(refusal, SnapshotError::Damaged(DecodeError::Field(_))), "{refusal:?}");
    }
    let other_version = pb::Snapshot { format_version: 1, ..pb::Snapshot::default() };
    assert!(Snapshot::decode(seal(&other_version)).is_err());
}

#[test]
fn the_index_is_read_as_written() {
    for newest_slot in [SnapshotSlot::Even, SnapshotSlot::Odd] {
        let index = SnapshotIndex { newest_slot, truncated_through: u64::MAX };
        assert_eq!(SnapshotIndex::decode(&index.encode()).unwrap(), index);
    }
    let third = pb::SnapshotIndex { newest_slot: 2, truncated_through: 0 };
    assert!(SnapshotIndex::decode(&third.encode_to_vec()).is_err(), "a slot that nobody reads");
}
