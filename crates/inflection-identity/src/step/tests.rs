//! A step loses nothing, doubles nothing, and can be cut anywhere.

use inflection_domain::{Body, EventId, Fact, FactKind, Head, LinkKind, LinkRef, MailRef, PersonId, UserId};
use inflection_wire::{EventChunk, encode_event, event_batch};
use proptest::prelude::*;

use super::*;

fn message(sequence: u64, facts: &[(FactKind, u8, u8, u8)]) -> Input {
    let mut chunk = EventChunk::default();
    for (kind, event, person, user) in facts {
        encode_event(&fact(*kind, &event.to_string(), *person, *user), &mut chunk);
    }
    Input::new(sequence, &event_batch(Timestamp::from_ms(i64::try_from(sequence).unwrap()), &[chunk]))
}

pub(crate) fn fact(kind: FactKind, event: &str, person: u8, user: u8) -> Fact<'static> {
    let workspace = WorkspaceId::new("acme").unwrap();
    let (event_id, person) = (EventId::new(event).unwrap(), PersonId::new(person.to_string()).unwrap());
    let person_key = Head::person_key(&workspace, &person);
    let url = (kind == FactKind::LinkClicked).then(|| "https://example.com".into());
    let head = Head {
        kind,
        event: Head::event_key(&workspace, &event_id),
        person: person_key,
        user: (user > 0).then(|| UserId::new(format!("u{user}")).unwrap()),
        occurred_at: Timestamp::default(),
        mail: MailRef::new(person_key, Some("run"), Some("mail"), None),
        link: url.as_deref().map(|url| LinkRef::new(None, url)),
        link_kind: LinkKind::Content,
        machine: false,
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

type Messages = Vec<Vec<(FactKind, u8, u8, u8)>>;

fn messages() -> impl Strategy<Value = Messages> {
    proptest::collection::vec(proptest::collection::vec((kinds(), any::<u8>(), 0u8..4, 0u8..3), 1..12), 1..6)
}

/// Folds all messages, each step at most `bytes_max`, restarting from the log whenever `crash` says so.
fn run(messages: &Messages, bytes_max: usize, crash: impl Fn(usize) -> bool) -> (Vec<Decided>, Step, usize) {
    let (mut step, mut log): (Step, Vec<DecisionBatch>) = (Step::default(), Vec::new());
    let load = |after: u64| -> VecDeque<Input> {
        let numbered = messages.iter().zip(1u64..).filter(|(_, sequence)| *sequence > after);
        numbered.map(|(facts, sequence)| message(sequence, facts)).collect()
    };
    let mut inputs = load(0);
    while let Some((batch, _)) = step.fold(&mut inputs, &Policies::default(), bytes_max) {
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
        let totals = &state.totals[&WorkspaceId::new("acme").unwrap()];
        let events = messages.iter().map(Vec::len).sum::<usize>() as u64;
        prop_assert_eq!(totals.folded + totals.duplicates, events, "every event is counted once");
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
    let (batch, counts) = step.fold(&mut inputs, &Policies::default(), usize::MAX).unwrap();
    assert_eq!((counts.undecodable, counts.folded, batch.consumed_through), (1, 1, 2));
}
