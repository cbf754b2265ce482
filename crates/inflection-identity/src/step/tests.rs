//! A step loses nothing, doubles nothing, and can be cut anywhere.

use inflection_domain::{
    Body, EventId, Fact, FactKind, Head, InstallationKey, LinkKind, LinkRef, MachineCheck, MachineTimes, MailRef,
    OrderKind, PersonId, Tombstone, UserId,
};
use inflection_wire::{EventChunk, encode_event, encode_traced_event, event_batch, order_batch};
use proptest::prelude::*;

use super::*;

const KEY: InstallationKey = InstallationKey::new([7; 32]);

/// What somebody appended to the event log.
#[derive(Debug, Clone)]
enum Sent {
    Facts(Vec<(FactKind, u8, u8, u8)>),
    Order(OrderKind, u8, u8),
}

fn policies() -> Policies {
    Policies::of(&[], &KEY)
}

fn input(sequence: u64, sent: &Sent) -> Input {
    match sent {
        Sent::Facts(facts) => message(sequence, facts),
        Sent::Order(kind, person, user) => {
            let workspace = WorkspaceId::new("acme").unwrap();
            let person = fact(FactKind::Page, "e", *person, *user).head.person;
            let tombstone = match UserId::new(format!("u{user}")) {
                Ok(id) if *user > 0 => Tombstone::of_user(&KEY, &workspace, &id),
                _ => Tombstone::of_person(&KEY, person),
            };
            let order = PersonOrder { workspace, kind: *kind, tombstone, person: Some(person) };
            Input::new(sequence, &order_batch(received_at(sequence), &order))
        }
    }
}

fn message(sequence: u64, facts: &[(FactKind, u8, u8, u8)]) -> Input {
    let mut chunk = EventChunk::default();
    for (kind, event, person, user) in facts {
        let mut fact = fact(*kind, &event.to_string(), *person, *user);
        // Clicks of every other person are held for three messages.
        fact.head.machine = MachineCheck { timed: true, hold_ms: u32::from(person % 2) * 3, ..MachineCheck::default() };
        encode_event(&fact, &mut chunk);
    }
    Input::new(sequence, &event_batch(received_at(sequence), &[chunk]))
}

/// Every third message comes through a host whose clock is ahead, by more than clicks are held.
fn received_at(sequence: u64) -> Timestamp {
    let ahead = if sequence.is_multiple_of(3) { 5 } else { 0 };
    Timestamp::from_ms(i64::try_from(sequence).unwrap() + ahead)
}

pub(crate) fn fact(kind: FactKind, event: &str, person: u8, user: u8) -> Fact<'static> {
    let workspace = WorkspaceId::new("acme").unwrap();
    let (event_id, person) = (EventId::new(event).unwrap(), PersonId::new(person.to_string()).unwrap());
    let person_key = Head::person_key(&workspace, &person);
    // Some links differ, so that there are bursts.
    let url = format!("https://example.com/{}", event.len());
    let url = (kind == FactKind::LinkClicked).then(|| url.into());
    let head = Head {
        kind,
        event: Head::event_key(&workspace, &event_id),
        person: person_key,
        user: (user > 0).then(|| UserId::new(format!("u{user}")).unwrap()),
        occurred_at: Timestamp::default(),
        mail: MailRef::new(person_key, Some("run"), Some("mail"), None),
        link: url.as_deref().map(|url| LinkRef::new(None, url)),
        link_kind: LinkKind::Content,
        machine: MachineCheck::default(),
        bounce_class: Default::default(),
        scope: 0,
        has_traits: false,
        workspace,
    };
    let body = Body { email_link_url: url, ..Body::new(event_id, person) };
    Fact { head, body }
}

fn kinds() -> impl Strategy<Value = FactKind> {
    prop_oneof![Just(FactKind::EmailOpened), Just(FactKind::LinkClicked), Just(FactKind::EmailDelivered)]
}

type Messages = Vec<Sent>;

fn messages() -> impl Strategy<Value = Messages> {
    let facts = proptest::collection::vec((kinds(), any::<u8>(), 0u8..4, 0u8..3), 1..12).prop_map(Sent::Facts);
    let order = prop_oneof![2 => Just(OrderKind::Suppress), 1 => Just(OrderKind::Erase), 2 => Just(OrderKind::Lift)];
    let order = (order, 0u8..4, 0u8..3).prop_map(|(kind, person, user)| Sent::Order(kind, person, user));
    proptest::collection::vec(prop_oneof![2 => facts, 1 => order], 1..9)
}

/// Folds all messages, each step at most `bytes_max`, restarting from the log whenever `crash` says so.
fn run(messages: &Messages, bytes_max: usize, crash: impl Fn(usize) -> bool) -> (Vec<Decided>, Step, usize) {
    let (mut step, mut log): (Step, Vec<DecisionBatch>) = (Step::default(), Vec::new());
    let load = |after: u64| -> VecDeque<Input> {
        let numbered = messages.iter().zip(1u64..).filter(|(_, sequence)| *sequence > after);
        numbered.map(|(sent, sequence)| input(sequence, sent)).collect()
    };
    let mut inputs = load(0);
    while let Some((batch, _)) = step.fold(&mut inputs, &policies(), bytes_max) {
        let written = DecisionBatch::decode(&batch.encode()).unwrap();
        log.push(written);
        if crash(log.len()) {
            step = Step::default();
            log.iter().cloned().for_each(|batch| step.replay(batch));
            inputs = load(step.position().through);
        }
        if inputs.is_empty() {
            break;
        }
    }
    let steps = log.len();
    (log.into_iter().flat_map(|batch| batch.decisions).collect(), step, steps)
}

proptest! {
    #[test]
    fn cuts_and_crashes_change_nothing(messages in messages(), bytes_max in 1usize..2000, every in 1usize..5) {
        let (whole, state, one) = run(&messages, usize::MAX, |_| false);
        prop_assert_eq!(one, 1);
        let (cut, cut_state, _) = run(&messages, bytes_max, |_| false);
        prop_assert_eq!(&cut, &whole);
        let (crashed, crashed_state, _) = run(&messages, bytes_max, |steps| steps % every == 0);
        prop_assert_eq!(&crashed, &whole);
        prop_assert_eq!(cut_state.state(), state.state());
        prop_assert_eq!(crashed_state.state(), state.state());
        prop_assert_eq!(&crashed_state.totals, &state.totals);
        let facts = |sent: &Sent| if let Sent::Facts(facts) = sent { facts.len() as u64 } else { 0 };
        let events: u64 = messages.iter().map(facts).sum();
        let counted = |totals: &WorkspaceTotals| totals.folded + totals.duplicates + totals.suppressed + totals.held;
        prop_assert_eq!(state.totals.values().map(counted).sum::<u64>(), events, "every event is counted once");
    }
}

proptest! {
    /// However messages are gathered into steps, held clicks go at the same place and are judged the same.
    #[test]
    fn gathering_changes_nothing(messages in messages(), sizes in proptest::collection::vec(1usize..4, 1..9)) {
        let (whole, state, _) = run(&messages, usize::MAX, |_| false);
        let (mut step, mut gathered, mut sizes) = (Step::default(), Vec::new(), sizes.iter().cycle());
        let mut inputs = messages.iter().zip(1u64..).map(|(sent, sequence)| input(sequence, sent));
        loop {
            let mut some: VecDeque<Input> = inputs.by_ref().take(*sizes.next().unwrap()).collect();
            let Some((batch, _)) = step.fold(&mut some, &policies(), usize::MAX) else { break };
            gathered.extend(DecisionBatch::decode(&batch.encode()).unwrap().decisions);
        }
        prop_assert_eq!(&gathered, &whole);
        prop_assert_eq!(step.state(), state.state());
        prop_assert_eq!(&step.totals, &state.totals);
    }
}

#[test]
fn what_cannot_be_read_is_counted_and_passed() {
    let mut inputs = VecDeque::from([
        Input::new(1, &Bytes::from_static(b"\xff\xff not protobuf")),
        message(2, &[(FactKind::EmailOpened, 1, 1, 0)]),
    ]);
    assert!(inputs[0].is_damaged() && !inputs[1].is_damaged());
    let mut step = Step::default();
    let (batch, counts) = step.fold(&mut inputs, &policies(), usize::MAX).unwrap();
    assert_eq!((counts.undecodable, counts.folded, batch.consumed_through), (1, 1, 2));
}

#[test]
fn a_traced_event_is_told_of_and_its_decision_carries_the_trace() {
    let (mut chunk, opened) = (EventChunk::default(), fact(FactKind::EmailOpened, "e1", 1, 0));
    encode_traced_event(&opened, Some(&[7; 24]), &mut chunk);
    encode_event(&fact(FactKind::EmailOpened, "e2", 2, 0), &mut chunk);
    // A repeat, under a trace of its own.
    encode_traced_event(&opened, Some(&[8; 24]), &mut chunk);
    let mut inputs = VecDeque::from([Input::new(1, &event_batch(Timestamp::from_ms(1), &[chunk]))]);
    let mut step = Step::default();
    let (batch, _) = step.fold(&mut inputs, &policies(), usize::MAX).unwrap();
    let told: Vec<_> = step.take_traced().iter().map(|one| (one.trace[0], one.verdict, one.calls)).collect();
    assert_eq!(told, [(7, "new", 2), (8, "duplicate", 0)]);
    let carried: Vec<_> = batch.decisions.iter().map(|decided| decided.trace.as_deref().copied()).collect();
    assert_eq!(carried, [Some([7; 24]), None]);
    assert!(step.take_traced().is_empty(), "once");
}

/// However large the clicks that are held, what one more of them shows of the others fits into a message.
#[test]
fn a_burst_of_the_largest_clicks_fits_into_messages() {
    const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
    let mut step = Step::default();
    let mut fold = |sequence: u64, received_at: i64, chunks: &[EventChunk]| {
        let mut inputs = VecDeque::from([Input::new(sequence, &event_batch(Timestamp::from_ms(received_at), chunks))]);
        let mut decisions = Vec::new();
        while let Some((batch, _)) = step.fold(&mut inputs, &policies(), crate::partition::OUTPUT_BYTES) {
            let written = batch.encode();
            assert!(written.len() < MESSAGE_BYTES_MAX, "message {sequence} makes one of {} bytes", written.len());
            decisions.extend(DecisionBatch::decode(&written).unwrap().decisions);
        }
        decisions
    };
    let count = u64::try_from(PartitionState::HELD_PER_MAIL_MAX).unwrap();
    for sequence in 1..=count {
        // Two links are no burst; the last click is on a third one, and makes all of them part of it.
        let link = if sequence == count { 2 } else { sequence % 2 };
        let mut click = fact(FactKind::LinkClicked, &sequence.to_string(), 1, 0);
        click.head.link = Some(LinkRef::new(Some(&link.to_string()), &"u".repeat(8 * 1024)));
        click.head.machine = MachineCheck { timed: true, hold_ms: 20_000, ..MachineCheck::default() };
        click.body.properties = format!("\"p\":\"{}\"", "p".repeat(28_000)).into();
        let mut chunk = EventChunk::default();
        encode_event(&click, &mut chunk);
        assert_eq!(fold(sequence, 0, &[chunk]), []);
    }
    let told = fold(count + 1, 20_000, &[]);
    assert_eq!(told.len(), PartitionState::HELD_PER_MAIL_MAX);
    assert!(told.iter().all(|decided| decided.calls.iter().all(|call| call.machine == Some(MachineTimes::Burst))));
}
