//! The sealed part of a fact: a `FactBody`, read and written without a copy of its texts.

use std::borrow::Cow;

use inflection_domain::{Body, BounceClass, EmailAddress, EventId, LinkKind, PersonId};

use crate::fields::{Fields, put_bytes, put_number};
use crate::{DecodeError, enums};

/// Texts of a `FactBody` are numbered below this.
const FIELDS: usize = 30;

/// Writes the sealed part of a fact.
pub(crate) fn encode_body(body: &Body<'_>, out: &mut Vec<u8>) {
    put_bytes(out, 1, body.event_id.as_str().as_bytes());
    put_bytes(out, 2, body.person.as_str().as_bytes());
    put_bytes(out, 3, body.email.as_ref().map_or("", EmailAddress::as_str).as_bytes());
    for (field, text) in [
        (4, &body.email_id),
        (5, &body.campaign_id),
        (6, &body.campaign_run_id),
        (7, &body.campaign_name),
        (8, &body.email_subject),
        (9, &body.email_link_url),
        (10, &body.link_id),
    ] {
        put_bytes(out, field, text.as_deref().unwrap_or_default().as_bytes());
    }
    put_number(out, 11, enums::as_varint(enums::link_kind_to(body.link_kind)));
    put_number(out, 12, u64::from(body.is_machine));
    put_bytes(out, 13, body.machine_reason.as_deref().unwrap_or_default().as_bytes());
    put_number(out, 14, enums::as_varint(body.bounce_class.map_or(0, enums::bounce_class_to)));
    for (field, text) in [
        (15, &body.bounce_reason),
        (16, &body.unsubscribe_scope),
        (17, &body.provider),
        (18, &body.provider_message_id),
        (19, &body.group_id),
        (20, &body.name),
        (21, &body.url),
        (22, &body.title),
        (23, &body.referrer),
    ] {
        put_bytes(out, field, text.as_deref().unwrap_or_default().as_bytes());
    }
    put_bytes(out, 24, body.properties.as_bytes());
    put_bytes(out, 25, body.traits.as_bytes());
    put_bytes(out, 26, body.event.as_deref().unwrap_or_default().as_bytes());
    put_bytes(out, 27, body.category.as_deref().unwrap_or_default().as_bytes());
    put_bytes(out, 28, body.context.as_bytes());
    put_bytes(out, 29, body.integrations.as_bytes());
    put_number(out, 40, u64::from(body.routed_by_address));
    put_number(out, 30, u64::from(body.classifier_version));
}

/// The fields of a body: its texts by their numbers, and the others.
struct Read<'a> {
    texts: [&'a str; FIELDS],
    link_kind: LinkKind,
    is_machine: bool,
    bounce_class: Option<BounceClass>,
    routed_by_address: bool,
    classifier_version: u32,
}

fn read(bytes: &[u8]) -> Result<Read<'_>, DecodeError> {
    let mut read = Read {
        texts: [""; FIELDS],
        link_kind: LinkKind::default(),
        is_machine: false,
        bounce_class: None,
        routed_by_address: false,
        classifier_version: 0,
    };
    let mut fields = Fields::of(bytes);
    while let Some((number, field)) = fields.next()? {
        match (number, read.texts.get_mut(number as usize)) {
            (11, _) => read.link_kind = enums::link_kind_from(field.number()),
            (12, _) => read.is_machine = field.flag(),
            (30, _) => read.classifier_version = u32::try_from(field.varint()).unwrap_or(u32::MAX),
            (14, _) => read.bounce_class = enums::bounce_class_from(field.number()),
            (40, _) => read.routed_by_address = field.flag(),
            (_, Some(text)) => *text = field.text("a text of a fact body")?,
            (_, None) => {}
        }
    }
    Ok(read)
}

/// Reads the sealed part of a fact. Its texts are borrowed.
///
/// # Errors
/// [`DecodeError`] when the bytes are no fact body.
pub fn decode_body(bytes: &[u8]) -> Result<Body<'_>, DecodeError> {
    let Read { texts, link_kind, is_machine, bounce_class, classifier_version, routed_by_address } = read(bytes)?;
    let [
        _,
        event_id,
        person_id,
        email,
        email_id,
        campaign_id,
        campaign_run_id,
        campaign_name,
        email_subject,
        email_link_url,
        link_id,
        _,
        _,
        machine_reason,
        _,
        bounce_reason,
        unsubscribe_scope,
        provider,
        provider_message_id,
        group_id,
        name,
        url,
        title,
        referrer,
        properties,
        traits,
        event,
        category,
        context,
        integrations,
    ] = texts;
    let email = (!email.is_empty()).then(|| EmailAddress::new(email).map_err(|_invalid| DecodeError::Field("email")));
    Ok(Body {
        event_id: EventId::new(event_id).map_err(|_invalid| DecodeError::Field("event_id"))?,
        person: PersonId::new(person_id).map_err(|_invalid| DecodeError::Field("person_id"))?,
        routed_by_address,
        email: email.transpose()?,
        email_id: text(email_id),
        campaign_id: text(campaign_id),
        campaign_run_id: text(campaign_run_id),
        campaign_name: text(campaign_name),
        email_subject: text(email_subject),
        email_link_url: text(email_link_url),
        link_id: text(link_id),
        link_kind,
        is_machine,
        machine_reason: text(machine_reason),
        classifier_version,
        bounce_class,
        bounce_reason: text(bounce_reason),
        unsubscribe_scope: text(unsubscribe_scope),
        provider: text(provider),
        provider_message_id: text(provider_message_id),
        group_id: text(group_id),
        name: text(name),
        url: text(url),
        title: text(title),
        referrer: text(referrer),
        event: text(event),
        category: text(category),
        properties: Cow::Borrowed(properties),
        traits: Cow::Borrowed(traits),
        context: Cow::Borrowed(context),
        integrations: Cow::Borrowed(integrations),
    })
}

fn text(text: &str) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then_some(Cow::Borrowed(text))
}
