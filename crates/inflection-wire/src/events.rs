//! Facts on their way from ingest to identity.
//!
//! Entries of a protobuf list may be joined byte by byte. Ingest uses that: each request encodes its facts once, and the
//! writer of a partition joins what many requests left while its last append was under way.

use bytes::{BufMut, Bytes};
use inflection_domain::{Fact, Head, LinkRef, MailRef, Timestamp, UserId, WorkspaceId};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::body::encode_body;
use crate::{DecodeError, enums, key, pb};

const RECEIVED_AT_FIELD: u32 = 1;
const EVENTS_FIELD: u32 = 2;

/// Encoded facts of one partition: entries of an [`EventBatch`], not yet a message.
#[derive(Debug, Clone, Default)]
pub struct EventChunk {
    /// The entries, joined.
    pub entries: Vec<u8>,
    /// How many there are.
    pub events: usize,
}

/// Appends one fact to a chunk.
pub fn encode_event(fact: &Fact, chunk: &mut EventChunk) {
    let head = &fact.head;
    let event = pb::Event {
        workspace: head.workspace.as_str().to_owned(),
        kind: enums::fact_kind_to(head.kind),
        event_key: Bytes::copy_from_slice(&head.event.to_bytes()),
        person_key: Bytes::copy_from_slice(&head.person.to_bytes()),
        user_id: head.user.as_ref().map_or(String::new(), |user| user.as_str().to_owned()),
        occurred_at_ms: head.occurred_at.as_ms(),
        mail_key: Bytes::copy_from_slice(&head.mail.key.to_bytes()),
        mail_known: head.mail.known,
        link_key: head.link.as_ref().map_or(0, |link| link.key),
        link_url: head.link.as_ref().map_or(String::new(), |link| link.url.clone().into()),
        link_kind: enums::link_kind_to(head.link_kind),
        machine: head.machine,
        bounce_class: enums::bounce_class_to(head.bounce_class),
        scope_key: head.scope,
        has_traits: head.has_traits,
        body: encode_body(&fact.body).encode_to_vec().into(),
    };
    let length = event.encoded_len();
    chunk.entries.reserve(length + 8);
    encode_key(EVENTS_FIELD, WireType::LengthDelimited, &mut chunk.entries);
    encode_varint(length as u64, &mut chunk.entries);
    event.encode_raw(&mut chunk.entries);
    chunk.events += 1;
}

/// Joins chunks into one bus message.
#[must_use]
pub fn event_batch(received_at: Timestamp, chunks: &[EventChunk]) -> Bytes {
    let time = received_at.as_ms().cast_unsigned();
    let entries: usize = chunks.iter().map(|chunk| chunk.entries.len()).sum();
    let mut message = Vec::with_capacity(entries + 1 + encoded_len_varint(time));
    encode_key(RECEIVED_AT_FIELD, WireType::Varint, &mut message);
    encode_varint(time, &mut message);
    for chunk in chunks {
        message.put_slice(&chunk.entries);
    }
    message.into()
}

/// One fact as identity sees it: what it decides by, and the rest sealed.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What identity decides by.
    pub head: Head,
    /// The encoded body, shared with the message it came in.
    pub body: Bytes,
}

/// One bus message of facts.
#[derive(Debug)]
pub struct EventBatch {
    /// When ingest received it.
    pub received_at: Timestamp,
    /// Its facts in order; an entry that means nothing to this version is an error of its own.
    pub events: Vec<Result<Event, DecodeError>>,
}

impl EventBatch {
    /// Reads a bus message. Bodies are shared with `message`, not copied.
    ///
    /// # Errors
    /// [`DecodeError`] when the message as a whole is no event batch.
    pub fn decode(message: Bytes) -> Result<Self, DecodeError> {
        let pb = pb::EventBatch::decode(message)?;
        let mut last_workspace = None;
        Ok(Self {
            received_at: Timestamp::from_ms(pb.received_at_ms),
            events: pb.events.into_iter().map(|event| decode_event(event, &mut last_workspace)).collect(),
        })
    }
}

/// Workspaces repeat from event to event; one allocation serves a run of equal ones.
pub(crate) fn workspace(text: &str, last: &mut Option<WorkspaceId>) -> Result<WorkspaceId, DecodeError> {
    if let Some(same) = last.as_ref().filter(|last| last.as_str() == text) {
        return Ok(same.clone());
    }
    let fresh = WorkspaceId::new(text).ok().ok_or(DecodeError::Field("workspace"))?;
    Ok(last.insert(fresh).clone())
}

fn decode_event(pb: pb::Event, last_workspace: &mut Option<WorkspaceId>) -> Result<Event, DecodeError> {
    let user = match pb.user_id.as_str() {
        "" => None,
        text => Some(UserId::new(text).ok().ok_or(DecodeError::Field("user_id"))?),
    };
    let head = Head {
        workspace: workspace(&pb.workspace, last_workspace)?,
        kind: enums::fact_kind_from(pb.kind).ok_or(DecodeError::Field("kind"))?,
        event: key("event_key", &pb.event_key)?,
        person: key("person_key", &pb.person_key)?,
        user,
        occurred_at: Timestamp::from_ms(pb.occurred_at_ms),
        mail: MailRef { key: key("mail_key", &pb.mail_key)?, known: pb.mail_known },
        link: (!pb.link_url.is_empty()).then(|| LinkRef { key: pb.link_key, url: pb.link_url.into() }),
        link_kind: enums::link_kind_from(pb.link_kind),
        machine: pb.machine,
        bounce_class: enums::bounce_class_from(pb.bounce_class).unwrap_or_default(),
        scope: pb.scope_key,
        has_traits: pb.has_traits,
    };
    Ok(Event { head, body: pb.body })
}

#[cfg(test)]
mod tests {
    use inflection_domain::{Body, BounceClass, EmailAddress, EventId, FactKind, LinkKind, PersonId};
    use proptest::prelude::*;

    use super::*;

    fn fact(kind: FactKind, event: &str, user: Option<&str>, properties: &str) -> Fact {
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
            machine: false,
            bounce_class: BounceClass::Hard,
            scope: 7,
            has_traits: true,
            workspace,
        };
        let text = |text: &str| Some(Box::from(text));
        let body = Body {
            event_id,
            person,
            email: Some(EmailAddress::new("ann@example.com").unwrap()),
            email_id: text("mail"),
            campaign_id: text("c"),
            campaign_run_id: text("run"),
            campaign_name: text("Spring"),
            email_subject: None,
            email_link_url: clicked.then(|| "https://example.com/1".into()),
            link_id: None,
            link_kind: LinkKind::Preference,
            is_machine: true,
            machine_reason: text("because"),
            bounce_class: Some(BounceClass::Soft),
            bounce_reason: text("full"),
            unsubscribe_scope: None,
            provider: text("sendgrid"),
            provider_message_id: text("m"),
            group_id: text("g"),
            name: None,
            url: text("https://example.com"),
            title: None,
            referrer: None,
            properties: properties.into(),
            traits: "\"plan\":\"pro\"".into(),
        };
        Fact { head, body }
    }

    proptest! {
        #[test]
        fn joined_chunks_decode_to_what_was_encoded(
            kinds in proptest::collection::vec(0usize..9, 0..20),
            user in proptest::option::of("[a-z]{1,9}"),
            properties in "(\"a\":1)?",
            split in 0usize..20,
        ) {
            let facts: Vec<Fact> = kinds
                .iter()
                .enumerate()
                .map(|(index, kind)| fact(FactKind::ALL[*kind], &format!("e{index}"), user.as_deref(), &properties))
                .collect();
            let mut chunks = [EventChunk::default(), EventChunk::default()];
            for (index, fact) in facts.iter().enumerate() {
                encode_event(fact, &mut chunks[usize::from(index >= split)]);
            }
            let batch = EventBatch::decode(event_batch(Timestamp::from_ms(99), &chunks)).unwrap();
            prop_assert_eq!(batch.received_at.as_ms(), 99);
            prop_assert_eq!(batch.events.len(), facts.len());
            for (event, fact) in batch.events.iter().zip(&facts) {
                let event = event.as_ref().unwrap();
                prop_assert_eq!(&event.head, &fact.head);
                prop_assert_eq!(&crate::decode_body(&event.body).unwrap(), &fact.body);
            }
        }

        #[test]
        fn garbage_is_an_error_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = EventBatch::decode(bytes.clone().into());
            let _outcome = crate::decode_body(&bytes);
        }
    }
}
