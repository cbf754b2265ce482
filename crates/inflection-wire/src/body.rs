//! The sealed part of a fact.

use inflection_domain::{Body, EmailAddress, EventId, PersonId};
use prost::Message as _;

use crate::{DecodeError, enums, optional, pb};

pub(crate) fn encode_body(body: &Body) -> pb::FactBody {
    let text = |value: &Option<Box<str>>| value.as_deref().unwrap_or_default().to_owned();
    pb::FactBody {
        event_id: body.event_id.as_str().to_owned(),
        person_id: body.person.as_str().to_owned(),
        email: body.email.as_ref().map_or(String::new(), |email| email.as_str().to_owned()),
        email_id: text(&body.email_id),
        campaign_id: text(&body.campaign_id),
        campaign_run_id: text(&body.campaign_run_id),
        campaign_name: text(&body.campaign_name),
        email_subject: text(&body.email_subject),
        email_link_url: text(&body.email_link_url),
        link_id: text(&body.link_id),
        link_kind: enums::link_kind_to(body.link_kind),
        is_machine: body.is_machine,
        machine_reason: text(&body.machine_reason),
        bounce_class: body.bounce_class.map_or(0, enums::bounce_class_to),
        bounce_reason: text(&body.bounce_reason),
        unsubscribe_scope: text(&body.unsubscribe_scope),
        provider: text(&body.provider),
        provider_message_id: text(&body.provider_message_id),
        group_id: text(&body.group_id),
        name: text(&body.name),
        url: text(&body.url),
        title: text(&body.title),
        referrer: text(&body.referrer),
        properties: body.properties.clone().into(),
        traits: body.traits.clone().into(),
    }
}

/// Reads the sealed part of a fact.
///
/// # Errors
/// [`DecodeError`] when the bytes are no fact body.
pub fn decode_body(bytes: &[u8]) -> Result<Body, DecodeError> {
    let pb = pb::FactBody::decode(bytes)?;
    let email = match pb.email.as_str() {
        "" => None,
        text => Some(EmailAddress::new(text).ok().ok_or(DecodeError::Field("email"))?),
    };
    Ok(Body {
        event_id: EventId::new(pb.event_id).ok().ok_or(DecodeError::Field("event_id"))?,
        person: PersonId::new(pb.person_id).ok().ok_or(DecodeError::Field("person_id"))?,
        email,
        email_id: optional(pb.email_id),
        campaign_id: optional(pb.campaign_id),
        campaign_run_id: optional(pb.campaign_run_id),
        campaign_name: optional(pb.campaign_name),
        email_subject: optional(pb.email_subject),
        email_link_url: optional(pb.email_link_url),
        link_id: optional(pb.link_id),
        link_kind: enums::link_kind_from(pb.link_kind),
        is_machine: pb.is_machine,
        machine_reason: optional(pb.machine_reason),
        bounce_class: enums::bounce_class_from(pb.bounce_class),
        bounce_reason: optional(pb.bounce_reason),
        unsubscribe_scope: optional(pb.unsubscribe_scope),
        provider: optional(pb.provider),
        provider_message_id: optional(pb.provider_message_id),
        group_id: optional(pb.group_id),
        name: optional(pb.name),
        url: optional(pb.url),
        title: optional(pb.title),
        referrer: optional(pb.referrer),
        properties: pb.properties.into(),
        traits: pb.traits.into(),
    })
}
