//! The whole, against an embedded bus that holds what the stages would have written.

use inflection_bus::{EmbeddedConfig, Expected, Log};
use inflection_delivery::dead_letter_log;
use inflection_domain::{
    Body, BounceClass, Call, CallKey, CallKind, Changes, EventId, Fact, FactKind, Head, HeldClick, InstallationId,
    InstallationKey, LinkKind, MailRef, MessageId, PartitionCount, PersonId, Timestamp, UserId,
};
use inflection_wire::{
    CallPosition, ConnectionTotals, DeadLetter, DeadLetterEntry, DeadLetterOutcome, Decided, DecisionBatch,
    DeliveryProgress, EventBatch, EventChunk, ParkedBatch, ParkedCall, SCHEMA_VERSION, WorkspaceTotals, encode_event,
    event_batch,
};

use super::*;

const RECEIVED_AT: i64 = 1_760_000_000_000;

/// An install of one partition with one connection; nothing runs in it.
struct Install {
    bus: Bus,
    installation: Installation,
    connections: Vec<(WorkspaceId, ConnectionId)>,
    _dir: tempfile::TempDir,
}

fn workspace() -> WorkspaceId {
    WorkspaceId::new("acme").unwrap()
}

fn connection() -> ConnectionId {
    ConnectionId::new("prod").unwrap()
}

pub(crate) fn fact(event: &str, person: &str) -> Fact<'static> {
    let (event_id, person) = (EventId::new(event).unwrap(), PersonId::new(person).unwrap());
    let key = Head::person_key(&workspace(), &person);
    let head = Head {
        workspace: workspace(),
        kind: FactKind::EmailDelivered,
        event: Head::event_key(&workspace(), &event_id),
        person: key,
        user: None,
        occurred_at: Timestamp::from_ms(RECEIVED_AT - 1000),
        mail: MailRef::new(key, Some("run"), Some("mail"), None),
        link: None,
        link_kind: LinkKind::Content,
        machine: inflection_domain::MachineCheck::default(),
        bounce_class: BounceClass::Undetermined,
        scope: 0,
        has_traits: false,
    };
    let body = Body::new(event_id, person);
    Fact { head, body }
}

pub(crate) fn chunk(facts: &[Fact<'_>]) -> EventChunk {
    let mut chunk = EventChunk::default();
    facts.iter().for_each(|fact| encode_event(fact, &mut chunk));
    chunk
}

/// What was decided of a fact: one call, and before it an identify that links a user.
fn decided(fact: &Fact<'_>, user: Option<&str>) -> Decided {
    let message = event_batch(Timestamp::from_ms(RECEIVED_AT), &[chunk(std::slice::from_ref(fact))]);
    let event = EventBatch::decode(&message).unwrap().events.remove(0).unwrap();
    let call = |kind| Call::plain(kind, CallKey::new(kind, &[&fact.head.event.to_bytes()]));
    let mut calls: Vec<Call> = user.map(|_| Call { links: true, ..call(CallKind::Identify) }).into_iter().collect();
    calls.push(call(CallKind::EmailDelivered));
    let user = user.map(|user| UserId::new(user).unwrap());
    Decided {
        workspace: workspace(),
        occurred_at: fact.head.occurred_at,
        user,
        calls,
        body: event.body,
        person: Some(fact.head.person),
        trace: event.trace,
    }
}

/// A step that consumed the first `consumed_events` of the first message.
fn batch(consumed_events: u32, decisions: Vec<Decided>, seen: &[Fact<'_>]) -> DecisionBatch {
    let calls = decisions.iter().map(|decided| decided.calls.len() as u64).sum();
    let folded = seen.len() as u64;
    DecisionBatch {
        consumed_through: 0,
        consumed_events,
        received_at: Timestamp::from_ms(RECEIVED_AT),
        decisions,
        changes: Changes { seen: seen.iter().map(|fact| fact.head.event).collect(), ..Changes::default() },
        totals: vec![WorkspaceTotals { folded, calls, ..WorkspaceTotals::new(workspace()) }],
    }
}

fn totals(ended: CallPosition) -> ConnectionTotals {
    ConnectionTotals::new(workspace(), connection(), 0, ended)
}

impl Install {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(dir.path().to_owned())).await.unwrap();
        let installation = Installation {
            id: InstallationId::new("inst-1").unwrap(),
            key: InstallationKey::new([7; 32]),
            partitions: PartitionCount::new(1).unwrap(),
            schema_version: SCHEMA_VERSION,
            oldest_reader: SCHEMA_VERSION,
        };
        Self { bus, installation, connections: vec![(workspace(), connection())], _dir: dir }
    }

    async fn receive(&self, facts: &[Fact<'_>]) {
        let message = event_batch(Timestamp::from_ms(RECEIVED_AT), &[chunk(facts)]);
        self.bus.append(&Log::new("events.0").unwrap(), None, message).await.unwrap();
    }

    async fn decide(&self, batch: DecisionBatch) -> u64 {
        self.bus.append(&Log::new("decisions.0").unwrap(), None, batch.encode()).await.unwrap()
    }

    async fn store(&self, totals: ConnectionTotals) {
        let through = totals.ended.through;
        let progress = DeliveryProgress { finished_through: through, read_through: through, connections: vec![totals] };
        self.bus.put_record(&DeliveryProgress::record_key(0), Expected::Anything, progress.encode()).await.unwrap();
    }

    async fn bury(&self, outcome: DeadLetterOutcome) {
        let log = dead_letter_log(&workspace(), &connection()).unwrap();
        let entry = DeadLetterEntry { at: Timestamp::from_ms(RECEIVED_AT), outcome };
        self.bus.append(&log, None, entry.encode()).await.unwrap();
    }

    async fn park(&self, totals: ConnectionTotals, message_id: &str) {
        let id = MessageId::high_of(message_id);
        let received_at = Timestamp::from_ms(RECEIVED_AT);
        let call = Default::default();
        let calls = vec![ParkedCall { call, event_id_bytes: 0, received_at, id, person: None, trace: None }];
        let log = Log::new("parked.acme.prod.0").unwrap();
        self.bus.append(&log, None, ParkedBatch { totals, calls }.encode()).await.unwrap();
    }

    async fn explain(&self, id: &str) -> Explanation {
        explain(&self.bus, &self.installation, &self.connections, None, id, false).await.unwrap()
    }

    /// What became of the only call of an event.
    async fn fate(&self, id: &str) -> (Fate, Option<String>) {
        let told = self.explain(id).await;
        let call = &told.events[0].calls[0];
        (call.fate, call.why.clone())
    }

    fn message_id(&self, decided: &Decided) -> String {
        MessageId::new(&self.installation.id, &workspace(), &connection(), decided.calls[0].key).to_string()
    }
}

/// An event's id, verdict, repeats and number of calls.
type Line<'l> = (&'l str, Verdict, u64, usize);

fn outline(told: &Explanation) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for EventStory { event_id, verdict, repeats_waiting, calls, .. } in &told.events {
        lines.push((event_id.as_str(), *verdict, *repeats_waiting, calls.len()));
    }
    lines
}

#[tokio::test]
async fn events_are_found_by_every_id() {
    let install = Install::new().await;
    let (told, silent, waiting) = (fact("e-told", "p-1"), fact("e-silent", "p-1"), fact("e-waiting", "p-1"));
    let decided = decided(&told, None);
    let message_id = install.message_id(&decided);
    install.receive(&[told.clone(), silent.clone(), told.clone(), waiting]).await;
    install.decide(batch(2, vec![decided], &[told, silent])).await;

    let first: Line<'_> = ("e-told", Verdict::New, 1, 1);
    let last: Line<'_> = ("e-waiting", Verdict::Waiting, 0, 0);
    for (id, expected) in [
        ("e-told", vec![first]),
        (message_id.as_str(), vec![first]),
        ("e-waiting", vec![last]),
        ("e-silent", vec![("e-silent", Verdict::New, 0, 0)]),
        ("p-1", vec![first, last]),
        ("e-", vec![]),
        ("", vec![]),
        ("infl_00000000000000000000000000000000", vec![]),
    ] {
        let told = install.explain(id).await;
        assert_eq!(outline(&told), expected, "{id}: {told:?}");
        assert_eq!((told.id.as_str(), told.searched.whole), (id, true));
        assert!(told.note.is_some(), "no attempts are known here, or nothing at all: {told:?}");
    }
    let story = install.explain("e-told").await.events.remove(0);
    assert_eq!(story.calls[0].message_id, message_id);
    assert_eq!(story.calls[0].call, "Email Delivered");
    let identity = story.identity.unwrap();
    assert_eq!((identity.user_id, identity.person_id.as_str()), (None, "p-1"));
    assert!(identity.why.contains("anonymousId"));
}

#[tokio::test]
async fn addresses_are_masked_in_every_place() {
    let install = Install::new().await;
    let fact = fact("e@mail.example", "p@mail.example");
    install.decide(batch(0, vec![decided(&fact, Some("u@mail.example"))], &[fact])).await;
    let told = install.explain("p@mail.example").await;
    let masked = Some("***@mail.example".to_owned());
    let event = told.events[0].clone();
    let identity = event.identity.unwrap();
    assert_eq!(
        (Some(event.event_id), identity.user_id, Some(identity.person_id)),
        (masked.clone(), masked.clone(), masked)
    );
    assert!(identity.why.contains("brought the user id"));
    let (bus, connections) = (&install.bus, &install.connections);
    let told = explain(bus, &install.installation, connections, None, "p@mail.example", true).await.unwrap();
    assert_eq!(told.events[0].identity.as_ref().unwrap().user_id.as_deref(), Some("u@mail.example"));
}

#[tokio::test]
async fn a_calls_fate_follows_what_delivery_writes() {
    let install = Install::new().await;
    let fact = fact("e-1", "p-1");
    let decided = decided(&fact, None);
    let message_id = install.message_id(&decided);
    let sequence = install.decide(batch(0, vec![decided], &[fact])).await;
    let before = CallPosition { through: sequence - 1, calls: 0 };
    let behind = CallPosition { through: sequence, calls: 0 };
    assert_eq!(install.fate("e-1").await, (Fate::Pending, None));
    install.store(totals(before)).await;
    assert_eq!(install.fate("e-1").await, (Fate::Pending, None));

    let parked = ConnectionTotals { parked: 1, ..totals(behind) };
    install.park(parked.clone(), &message_id).await;
    install.store(parked.clone()).await;
    assert_eq!(install.fate("e-1").await, (Fate::Parked, None));
    install.store(ConnectionTotals { released_accepted: 1, ..parked }).await;
    assert_eq!(install.fate("e-1").await, (Fate::Accepted, None));

    let letter = DeadLetter {
        workspace: workspace(),
        connection: connection(),
        message_id: message_id.clone(),
        event_id: "e-1".into(),
        kind: "Email Delivered".into(),
        reason: "bad_request".into(),
        attempts: 1,
        last_status: 400,
        item: Default::default(),
        person: None,
    };
    install.bury(DeadLetterOutcome::Died(letter.clone())).await;
    assert_eq!(install.fate("e-1").await, (Fate::Dead, Some("bad_request".to_owned())));
    install.bury(DeadLetterOutcome::Replayed(message_id.clone())).await;
    assert_eq!(install.fate("e-1").await, (Fate::Accepted, None));
    install.bury(DeadLetterOutcome::Died(letter)).await;
    install.bury(DeadLetterOutcome::Dropped(message_id)).await;
    assert_eq!(install.fate("e-1").await, (Fate::Dropped, Some("bad_request".to_owned())));
}

/// A step that holds these clicks under numbers from 0.
fn holding(decisions: Vec<Decided>, clicks: &[Fact<'_>]) -> DecisionBatch {
    let held = (0u64..).zip(clicks).map(|(number, click)| {
        let until = Timestamp::from_ms(RECEIVED_AT + 20_000);
        let body = decided(click, None).body[..].into();
        (number, HeldClick { until, burst: false, erased: false, head: click.head.clone(), body })
    });
    let (held, batch) = (held.collect(), batch(0, decisions, clicks));
    DecisionBatch { changes: Changes { held, ..batch.changes }, ..batch }
}

/// A step that lets the click of a number go.
fn releasing(number: u64, decisions: Vec<Decided>) -> DecisionBatch {
    let batch = batch(0, decisions, &[]);
    DecisionBatch { changes: Changes { released: vec![number], ..batch.changes }, ..batch }
}

/// The identify that a click makes at once.
fn linking(click: &Fact<'_>) -> Decided {
    let mut decided = decided(click, Some("u-1"));
    decided.calls.truncate(1);
    decided
}

/// Verdict, number of calls, and whether it is said why there are none, of the only event of an id.
fn only(told: &Explanation) -> (Verdict, usize, bool) {
    let [event] = &told.events[..] else { panic!("{:?}", outline(told)) };
    (event.verdict, event.calls.len(), event.why.is_some())
}

#[tokio::test]
async fn a_held_click_is_told_as_held_until_it_is_let_go() {
    let install = Install::new().await;
    let (silent, told) = (fact("e-silent", "p-1"), fact("e-told", "p-1"));
    install.decide(holding(Vec::new(), &[silent.clone(), told.clone()])).await;
    for id in ["e-silent", "e-told"] {
        assert_eq!(only(&install.explain(id).await), (Verdict::Waiting, 0, true));
    }
    // Of a click that nothing is told of only the number says that it is let go.
    install.decide(releasing(0, Vec::new())).await;
    let story = install.explain("e-silent").await;
    assert_eq!(only(&story), (Verdict::New, 0, true));
    assert!(story.events[0].why.as_deref().unwrap().starts_with("it was decided"));
    assert_eq!(only(&install.explain("e-told").await), (Verdict::Waiting, 0, true));
    install.decide(releasing(1, vec![decided(&told, None)])).await;
    assert_eq!(only(&install.explain("e-told").await), (Verdict::New, 1, false));
}

#[tokio::test]
async fn a_number_that_another_click_has_is_let_go_too() {
    let install = Install::new().await;
    install.decide(holding(Vec::new(), &[fact("e-1", "p-1")])).await;
    install.decide(holding(Vec::new(), &[fact("e-2", "p-1")])).await;
    assert_eq!(only(&install.explain("e-1").await), (Verdict::New, 0, true));
    assert_eq!(only(&install.explain("e-2").await), (Verdict::Waiting, 0, true));
}

#[tokio::test]
async fn a_held_click_that_links_its_person_is_one_event() {
    for told in [true, false] {
        let install = Install::new().await;
        let click = fact("e-1", "p-1");
        let rest = || told.then(|| decided(&click, None)).into_iter().collect();
        install.decide(holding(vec![linking(&click)], std::slice::from_ref(&click))).await;
        for id in ["e-1", "p-1"] {
            let story = install.explain(id).await;
            assert_eq!(only(&story), (Verdict::Waiting, 1, true), "{id}");
            assert_eq!(story.events[0].identity.as_ref().unwrap().user_id.as_deref(), Some("u-1"));
        }
        install.decide(releasing(0, rest())).await;
        for id in ["e-1", "p-1"] {
            assert_eq!(only(&install.explain(id).await), (Verdict::New, 1 + usize::from(told), false), "{id}");
        }
    }
}

#[tokio::test]
async fn a_click_held_and_let_go_in_one_step_is_one_event() {
    let install = Install::new().await;
    let click = fact("e-1", "p-1");
    install.decide(batch(0, vec![linking(&click), decided(&click, None)], &[click])).await;
    let story = install.explain("e-1").await;
    assert_eq!(only(&story), (Verdict::New, 2, false));
    let calls: Vec<&str> = story.events[0].calls.iter().map(|call| call.call.as_str()).collect();
    assert_eq!(calls, ["identify", "Email Delivered"]);
}

#[tokio::test]
async fn an_answer_has_the_newest_events() {
    let install = Install::new().await;
    let facts: Vec<Fact<'_>> = (0..EVENTS_MAX + 5).map(|number| fact(&format!("e-{number}"), "p-1")).collect();
    let decisions = facts.iter().map(|fact| decided(fact, None)).collect();
    install.decide(batch(0, decisions, &facts)).await;
    let told = install.explain("p-1").await;
    let ids: Vec<&str> = told.events.iter().map(|event| event.event_id.as_str()).collect();
    assert_eq!((ids.len(), ids[0], ids[EVENTS_MAX - 1]), (EVENTS_MAX, "e-5", "e-104"));
    assert!(told.note.is_some_and(|note| note.contains("newest 100 of 105")));
}
