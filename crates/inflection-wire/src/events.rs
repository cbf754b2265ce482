//! Facts on their way from ingest to identity.
//!
//! Entries of a protobuf list may be joined byte by byte. Ingest uses that: each request encodes its facts once, and the
//! writer of a partition joins what many requests left while its last append was under way.

use bytes::Bytes;
use inflection_domain::{
    Fact, Head, LinkKind, LinkRef, MachineCheck, MachineSignal, MailRef, PersonOrder, Timestamp, UserId, WorkspaceId,
};

use crate::body::encode_body;
use crate::fields::{Fields, put_bytes, put_fixed64, put_message, put_number};
use crate::{CarriedTrace, DecodeError, carried_trace, enums, key, optional_key};

const RECEIVED_AT_FIELD: u32 = 1;
const EVENTS_FIELD: u32 = 2;
const ORDERS_FIELD: u32 = 3;
/// Field of an event.
const TRACE_FIELD: u32 = 24;
/// Bytes of an encoded event, rather less than more: to guess how many a message has.
const USUAL_EVENT_BYTES: usize = 400;

/// Encoded facts of one partition: entries of an [`EventBatch`], not yet a message.
#[derive(Debug, Clone, Default)]
pub struct EventChunk {
    /// The entries, joined.
    pub entries: Vec<u8>,
    /// How many there are.
    pub events: usize,
}

impl EventChunk {
    /// An empty one with room for so many bytes of entries.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { entries: Vec::with_capacity(bytes), events: 0 }
    }
}

/// Appends one fact to a chunk.
pub fn encode_event(fact: &Fact<'_>, chunk: &mut EventChunk) {
    encode_traced_event(fact, None, chunk);
}

/// Appends one fact to a chunk, with the trace it belongs to.
pub fn encode_traced_event(fact: &Fact<'_>, trace: Option<&[u8; 24]>, chunk: &mut EventChunk) {
    put_message(&mut chunk.entries, EVENTS_FIELD, |out| {
        encode_head(&fact.head, out);
        put_message(out, 16, |out| encode_body(&fact.body, out));
        encode_check(fact.head.machine, out);
        if let Some(trace) = trace {
            put_bytes(out, TRACE_FIELD, trace);
        }
    });
    chunk.events += 1;
}

/// One fact whose body is sealed already, as an entry without its key and length.
pub(crate) fn encode_sealed(head: &Head, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(192 + body.len());
    encode_head(head, &mut out);
    put_bytes(&mut out, 16, body);
    encode_check(head.machine, &mut out);
    out
}

/// Everything up to the body.
fn encode_head(head: &Head, out: &mut Vec<u8>) {
    put_bytes(out, 1, head.workspace.as_str().as_bytes());
    put_number(out, 2, enums::as_varint(enums::fact_kind_to(head.kind)));
    put_bytes(out, 3, &head.event.to_bytes());
    put_bytes(out, 4, &head.person.to_bytes());
    put_bytes(out, 5, head.user.as_ref().map_or("", UserId::as_str).as_bytes());
    put_number(out, 6, head.occurred_at.as_ms().cast_unsigned());
    put_bytes(out, 7, &head.mail.key.to_bytes());
    put_number(out, 8, u64::from(head.mail.known));
    if let Some(link) = &head.link {
        put_fixed64(out, 9, link.key);
        put_bytes(out, 10, link.url.as_bytes());
    }
    put_number(out, 11, enums::as_varint(enums::link_kind_to(head.link_kind)));
    put_number(out, 12, u64::from(head.machine.signal == MachineSignal::Machine));
    put_number(out, 13, enums::as_varint(enums::bounce_class_to(head.bounce_class)));
    put_fixed64(out, 14, head.scope);
    put_number(out, 15, u64::from(head.has_traits));
}

/// What stands behind the body.
fn encode_check(check: MachineCheck, out: &mut Vec<u8>) {
    put_number(out, 17, enums::as_varint(enums::machine_signal_to(check.signal)));
    put_number(out, 18, enums::as_varint(check.policy.map_or(0, enums::machine_policy_to)));
    put_number(out, 19, u64::from(check.timed));
    put_number(out, 20, u64::from(check.hold_ms));
}

/// Joins chunks into one bus message.
#[must_use]
pub fn event_batch(received_at: Timestamp, chunks: &[EventChunk]) -> Bytes {
    let entries: usize = chunks.iter().map(|chunk| chunk.entries.len()).sum();
    // A field's key and the longest varint.
    let mut message = Vec::with_capacity(entries + 11);
    put_number(&mut message, RECEIVED_AT_FIELD, received_at.as_ms().cast_unsigned());
    chunks.iter().for_each(|chunk| message.extend_from_slice(&chunk.entries));
    message.into()
}

/// An operator's order as a bus message of its own.
#[must_use]
pub fn order_batch(received_at: Timestamp, order: &PersonOrder) -> Bytes {
    let mut message = Vec::new();
    put_number(&mut message, RECEIVED_AT_FIELD, received_at.as_ms().cast_unsigned());
    put_message(&mut message, ORDERS_FIELD, |out| {
        put_bytes(out, 1, order.workspace.as_str().as_bytes());
        put_number(out, 2, enums::as_varint(enums::order_kind_to(order.kind)));
        put_bytes(out, 3, &order.tombstone.to_bytes());
        if let Some(person) = order.person {
            put_bytes(out, 4, &person.to_bytes());
        }
    });
    message.into()
}

/// One fact as identity sees it: what it decides by, and the rest sealed.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What identity decides by.
    pub head: Head,
    /// The encoded body, shared with the message it came in.
    pub body: Bytes,
    /// The trace it belongs to, if it is traced.
    pub trace: CarriedTrace,
}

/// One bus message of facts.
#[derive(Debug)]
pub struct EventBatch {
    /// When ingest received it.
    pub received_at: Timestamp,
    /// Its facts in order; an entry that means nothing to this version is an error of its own.
    pub events: Vec<Result<Event, DecodeError>>,
    /// What operators want of persons, ahead of the facts.
    pub orders: Vec<PersonOrder>,
}

impl EventBatch {
    /// Reads a bus message. Bodies are shared with `message`, not copied.
    ///
    /// # Errors
    /// [`DecodeError`] when the message as a whole is no event batch, or an order in it means nothing to this version.
    pub fn decode(message: &Bytes) -> Result<Self, DecodeError> {
        let expected = message.len() / USUAL_EVENT_BYTES + 1;
        let (mut received_at, mut events, mut last) = (Timestamp::default(), Vec::with_capacity(expected), None);
        let mut orders = Vec::new();
        let mut fields = Fields::of(message);
        while let Some((number, field)) = fields.next()? {
            match number {
                RECEIVED_AT_FIELD => received_at = Timestamp::from_ms(field.varint().cast_signed()),
                EVENTS_FIELD => events.push(decode_event(field.bytes(), message, &mut last)),
                ORDERS_FIELD => orders.push(decode_order(field.bytes())?),
                _ => {}
            }
        }
        Ok(Self { received_at, events, orders })
    }
}

/// Workspaces repeat from event to event; one allocation serves a run of equal ones.
pub(crate) fn workspace(text: &str, last: &mut Option<WorkspaceId>) -> Result<WorkspaceId, DecodeError> {
    if let Some(same) = last.as_ref().filter(|last| last.as_str() == text) {
        return Ok(same.clone());
    }
    let fresh = WorkspaceId::new(text).map_err(|_invalid| DecodeError::Field("workspace"))?;
    Ok(last.insert(fresh).clone())
}

fn decode_order(order: &[u8]) -> Result<PersonOrder, DecodeError> {
    let (mut workspace_id, mut kind, mut tombstone, mut person) = ("", None, &[][..], &[][..]);
    let mut fields = Fields::of(order);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => workspace_id = field.text("workspace")?,
            2 => kind = enums::order_kind_from(field.number()),
            3 => tombstone = field.bytes(),
            4 => person = field.bytes(),
            _ => {}
        }
    }
    Ok(PersonOrder {
        workspace: workspace(workspace_id, &mut None)?,
        kind: kind.ok_or(DecodeError::Field("order.kind"))?,
        tombstone: crate::tombstone(key("tombstone", tombstone)?),
        person: optional_key("person_key", person)?,
    })
}

/// Reads an entry, whose bytes lie in `message`.
pub(crate) fn decode_event(
    event: &[u8],
    message: &Bytes,
    last_workspace: &mut Option<WorkspaceId>,
) -> Result<Event, DecodeError> {
    let (mut workspace_id, mut kind, mut user, mut body) = ("", None, "", &[][..]);
    let (mut event_key, mut person_key, mut mail_key, mut mail_known) = (&[][..], &[][..], &[][..], false);
    let (mut link_key, mut link_url, mut link_kind) = (0, "", LinkKind::default());
    let (mut occurred_at, mut bounce_class) = (Timestamp::default(), None);
    let (mut machine, mut check) = (false, MachineCheck::default());
    let (mut scope, mut has_traits, mut trace) = (0, false, None);
    let mut fields = Fields::of(event);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => workspace_id = field.text("workspace")?,
            2 => kind = enums::fact_kind_from(field.number()),
            3 => event_key = field.bytes(),
            4 => person_key = field.bytes(),
            5 => user = field.text("user_id")?,
            6 => occurred_at = Timestamp::from_ms(field.varint().cast_signed()),
            7 => mail_key = field.bytes(),
            8 => mail_known = field.flag(),
            9 => link_key = field.varint(),
            10 => link_url = field.text("link_url")?,
            11 => link_kind = enums::link_kind_from(field.number()),
            12 => machine = field.flag(),
            13 => bounce_class = enums::bounce_class_from(field.number()),
            14 => scope = field.varint(),
            15 => has_traits = field.flag(),
            16 => body = field.bytes(),
            17 => check.signal = enums::machine_signal_from(field.number()),
            18 => check.policy = enums::machine_policy_from(field.number()),
            19 => check.timed = field.flag(),
            20 => check.hold_ms = u32::try_from(field.varint()).unwrap_or(u32::MAX),
            TRACE_FIELD => trace = carried_trace(field.bytes()),
            _ => {}
        }
    }
    if machine {
        check.signal = MachineSignal::Machine;
    }
    let user = (!user.is_empty()).then(|| UserId::new(user).map_err(|_invalid| DecodeError::Field("user_id")));
    let head = Head {
        workspace: workspace(workspace_id, last_workspace)?,
        kind: kind.ok_or(DecodeError::Field("kind"))?,
        event: key("event_key", event_key)?,
        person: key("person_key", person_key)?,
        user: user.transpose()?,
        occurred_at,
        mail: MailRef { key: key("mail_key", mail_key)?, known: mail_known },
        link: (!link_url.is_empty()).then(|| LinkRef { key: link_key, url: link_url.into() }),
        link_kind,
        machine: check,
        bounce_class: bounce_class.unwrap_or_default(),
        scope,
        has_traits,
    };
    Ok(Event { head, body: message.slice_ref(body), trace })
}

#[cfg(test)]
mod tests {
    use inflection_domain::{
        Body, BounceClass, EmailAddress, EventId, FactKind, Hash128, LinkKind, MachinePolicy, OrderKind, PersonId,
        Tombstone,
    };
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::pb;

    fn fact(kind: FactKind, event: &str, user: Option<&str>, properties: &str) -> Fact<'static> {
        let workspace = WorkspaceId::new("acme").unwrap();
        let (event_id, person) = (EventId::new(event).unwrap(), PersonId::new("per_1").unwrap());
        let person_key = Head::person_key(&workspace, &person);
        let clicked = kind == FactKind::LinkClicked;
        let head = Head {
            kind,
            event: Head::event_key(&workspace, &event_id),
            person: person_key,
            user: user.map(|user| UserId::new(user).unwrap()),
            occurred_at: Timestamp::from_ms(1_740_910_272_123),
            mail: MailRef::new(person_key, Some("run"), Some("mail"), None),
            link: clicked.then(|| LinkRef::new(None, "https://example.com/1")),
            link_kind: LinkKind::Content,
            machine: MachineCheck {
                signal: if clicked { MachineSignal::Suspect } else { MachineSignal::Machine },
                policy: clicked.then_some(MachinePolicy::Separate),
                timed: clicked,
                hold_ms: if clicked { 20_000 } else { 0 },
            },
            bounce_class: BounceClass::Hard,
            scope: 7,
            has_traits: true,
            workspace,
        };

        let body = Body {
            event_id,
            person,
            routed_by_address: clicked,
            email: Some(EmailAddress::new("ann@example.com").unwrap()),
            email_id: Some("mail".into()),
            campaign_id: Some("c".into()),
            campaign_run_id: Some("run".into()),
            campaign_name: Some("Spring".into()),
            email_subject: None,
            email_link_url: clicked.then(|| "https://example.com/1".into()),
            link_id: None,
            link_kind: LinkKind::Preference,
            is_machine: true,
            machine_reason: Some("because".into()),
            classifier_version: 7,
            bounce_class: Some(BounceClass::Soft),
            bounce_reason: Some("full".into()),
            unsubscribe_scope: None,
            provider: Some("sendgrid".into()),
            provider_message_id: Some("m".into()),
            group_id: Some("g".into()),
            name: None,
            url: Some("https://example.com".into()),
            title: None,
            referrer: None,
            event: (kind == FactKind::CustomTrack).then(|| "Order Placed".into()),
            category: Some("docs".into()),
            properties: properties.to_owned().into(),
            traits: "\"plan\":\"pro\"".into(),
            context: "\"ip\":\"203.0.113.7\"".into(),
            integrations: properties.to_owned().into(),
        };
        Fact { head, body }
    }

    proptest! {
        #[test]
        fn joined_chunks_decode_to_what_was_encoded(
            kinds in proptest::collection::vec(0..FactKind::ALL.len(), 0..20),
            user in proptest::option::of("[a-z]{1,9}"),
            properties in "(\"a\":1)?",
            split in 0usize..20,
        ) {
            let facts: Vec<Fact<'_>> = kinds
                .iter()
                .enumerate()
                .map(|(index, kind)| fact(FactKind::ALL[*kind], &format!("e{index}"), user.as_deref(), &properties))
                .collect();
            let mut chunks = [EventChunk::default(), EventChunk::default()];
            let trace = |index: usize| index.is_multiple_of(3).then_some([u8::try_from(index).unwrap() + 1; 24]);
            for (index, fact) in facts.iter().enumerate() {
                encode_traced_event(fact, trace(index).as_ref(), &mut chunks[usize::from(index >= split)]);
            }
            let written = event_batch(Timestamp::from_ms(99), &chunks);
            // The generated code agrees with the hand-written one: it understands the message, and is understood.
            let mut generated = pb::EventBatch::decode(&written[..]).unwrap();
            for event in &mut generated.events {
                event.body = pb::FactBody::decode(&event.body[..]).unwrap().encode_to_vec().into();
            }
            for message in [written, generated.encode_to_vec().into()] {
                let batch = EventBatch::decode(&message).unwrap();
                prop_assert_eq!(batch.received_at.as_ms(), 99);
                prop_assert_eq!(batch.events.len(), facts.len());
                for (index, (event, fact)) in batch.events.iter().zip(&facts).enumerate() {
                    let event = event.as_ref().unwrap();
                    prop_assert_eq!(&event.head, &fact.head);
                    prop_assert_eq!(event.trace.as_deref().copied(), trace(index));
                    prop_assert_eq!(&crate::decode_body(&event.body).unwrap(), &fact.body);
                }
            }
        }

        #[test]
        fn a_trace_of_another_form_is_no_trace_and_no_mistake(length in 0usize..40) {
            let mut chunk = EventChunk::default();
            encode_event(&fact(FactKind::Page, "e", None, ""), &mut chunk);
            let mut generated = pb::EventBatch::decode(&event_batch(Timestamp::from_ms(1), &[chunk])[..]).unwrap();
            generated.events[0].trace = vec![1; length].into();
            let batch = EventBatch::decode(&generated.encode_to_vec().into()).unwrap();
            prop_assert_eq!(batch.events[0].as_ref().unwrap().trace.is_some(), length == 24);
        }

        #[test]
        fn orders_decode_to_what_was_encoded(kind in 0usize..3, person in any::<Option<[u8; 16]>>()) {
            let kind = [OrderKind::Suppress, OrderKind::Erase, OrderKind::Lift][kind];
            let (workspace, person) = (WorkspaceId::new("acme").unwrap(), person.map(Hash128::from_bytes));
            let order = PersonOrder { workspace, kind, tombstone: Tombstone::from_bytes([9; 16]), person };
            let written = order_batch(Timestamp::from_ms(99), &order);
            let generated = pb::EventBatch::decode(&written[..]).unwrap();
            for message in [written, generated.encode_to_vec().into()] {
                let batch = EventBatch::decode(&message).unwrap();
                prop_assert_eq!(batch.received_at.as_ms(), 99);
                prop_assert_eq!((batch.events.len(), &batch.orders), (0, &vec![order.clone()]));
            }
        }

        #[test]
        fn garbage_is_an_error_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = EventBatch::decode(&bytes.clone().into());
            let _outcome = crate::decode_body(&bytes);
        }
    }
}
