//! Twilio SendGrid's Event Webhook: its signature, and its events as facts.
//!
//! Sources: SendGrid docs, Event Webhook reference and security features.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use inflection_control::Secret;
use inflection_domain::{Fact, Hash128, Timestamp};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde_json::{Map, Value as Json};

use crate::answer::{Code, Refusal};
use crate::fact::{Context, Rejection, check};
use crate::input::Input;
use crate::json::Value;
use crate::webhook::EVENTS_MAX;

const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";
pub(crate) const SIGNATURE_INVALID: &str = "the signature is not of this body and key";

/// DER of a P-256 public key up to its 65-byte point (RFC 5480).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Whether a request claims to be signed at all.
pub(crate) fn require_signature(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(SIGNATURE) && headers.contains_key(TIMESTAMP) {
        Ok(())
    } else {
        Err(Refusal::new(Code::SignatureMissing, "the signature headers are missing"))
    }
}

/// Checks the signature over the timestamp header and the raw body, with any of the keys (base64 SPKI, as the console
/// shows it).
pub(crate) fn verify(headers: &HeaderMap, body: &[u8], keys: &[Secret]) -> Result<(), Refusal> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(signature), Some(timestamp)) = (header(SIGNATURE), header(TIMESTAMP)) else {
        return Err(Refusal::new(Code::SignatureMissing, "the signature headers are missing"));
    };
    let invalid = || Refusal::new(Code::SignatureInvalid, SIGNATURE_INVALID);
    let signature = STANDARD.decode(signature).map_err(|_not_base64| invalid())?;
    let signed = [timestamp.as_bytes(), body].concat();
    let valid = |key: &Secret| {
        let der = STANDARD.decode(key.expose().replace(['\n', ' '], "")).ok();
        let point = der.as_deref().and_then(|der| der.strip_prefix(&SPKI_PREFIX));
        point.is_some_and(|point| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(&signed, &signature).is_ok()
        })
    };
    if keys.iter().any(valid) { Ok(()) } else { Err(invalid()) }
}

/// What a body consists of.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    pub(crate) facts: Vec<Fact<'static>>,
    /// Events of types that are none of ours.
    pub(crate) unmapped: u64,
    /// Events that could not become facts, and what they were.
    pub(crate) rejected: Vec<(Rejection, Bytes)>,
}

/// Reads a body: an array of events. `None` when it is none.
pub(crate) fn parse(body: &[u8], context: Context<'_>) -> Option<Mapped> {
    let events: Vec<Json> = serde_json::from_slice(body).ok()?;
    if events.len() > EVENTS_MAX {
        return None;
    }
    let mut mapped = Mapped::default();
    for event in &events {
        let Some(event) = event.as_object() else {
            mapped.unmapped += 1;
            continue;
        };
        match to_input(event, context.now) {
            None => mapped.unmapped += 1,
            Some(input) => match check(input, context) {
                Ok(fact) => mapped.facts.push(fact),
                Err(why) => {
                    tracing::warn!(code = why.code.name(), event = type_of(event), "a sendgrid event cannot be taken");
                    mapped.rejected.push((why, Json::Object(event.clone()).to_string().into()));
                }
            },
        }
    }
    Some(mapped)
}

fn type_of(event: &Map<String, Json>) -> &str {
    match event.get("event").and_then(Json::as_str) {
        Some(
            known @ ("delivered" | "open" | "click" | "bounce" | "spamreport" | "unsubscribe" | "group_unsubscribe"),
        ) => known,
        _ => "other",
    }
}

fn to_input(event: &Map<String, Json>, now: Timestamp) -> Option<Input<'static>> {
    let text = |name: &str| event.get(name).and_then(scalar);
    // Our own fields ride in custom arguments, which SendGrid flattens into the event; the prefixed name wins.
    let custom = |name: &str| text(&format!("inflection_{name}")).or_else(|| text(name));
    let field = |value: Option<String>| value.and_then(Input::text);
    let kind = match type_of(event) {
        "delivered" => "email_delivered",
        "open" => "email_opened",
        "click" => "link_clicked",
        "bounce" => "email_bounced",
        "spamreport" => "email_reported_as_spam",
        "unsubscribe" | "group_unsubscribe" => "email_unsubscribed",
        _ => return None,
    };
    let at = text("timestamp").and_then(|text| timestamp(&text)).unwrap_or(now);
    let message = text("sg_message_id").map(|id| id.split('.').next().unwrap_or_default().to_owned());
    let message = message.or_else(|| text("smtp-id"));
    let machine = event.get("sg_machine_open").and_then(Json::as_bool);
    let scope = (type_of(event) == "group_unsubscribe")
        .then(|| format!("group:{}", text("asm_group_id").unwrap_or_default()))
        .or_else(|| (kind == "email_unsubscribed").then(|| "global".to_owned()));
    Some(Input {
        kind: Input::text(kind),
        id: Input::text(event_id(event, kind, message.as_deref(), at)),
        timestamp: Input::text(at.to_string()),
        person_id: field(custom("person_id")),
        user_id: field(custom("user_id")),
        email: field(text("email")),
        email_id: field(custom("email_id").or_else(|| text("singlesend_id"))),
        campaign_id: field(custom("campaign_id").or_else(|| text("marketing_campaign_id"))),
        campaign_run_id: field(custom("campaign_run_id")),
        campaign_name: field(
            custom("campaign_name").or_else(|| text("marketing_campaign_name")).or_else(|| text("singlesend_name")),
        ),
        email_subject: field(custom("email_subject")),
        email_link_url: field(text("url")),
        link_id: field(custom("link_id")),
        bounce_class: (kind == "email_bounced").then(|| bounce_class(event)).and_then(Input::text),
        bounce_reason: field(text("reason")),
        unsubscribe_scope: field(scope),
        is_machine: machine.map(Value::Bool),
        user_agent: field(text("useragent")),
        ip: field(text("ip")),
        provider: Input::text("sendgrid"),
        provider_message_id: field(message),
        ..Input::default()
    })
}

fn scalar(value: &Json) -> Option<String> {
    match value {
        Json::String(text) if !text.is_empty() => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::String(_) | Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
    }
}

/// Seconds, milliseconds or microseconds since 1970, as a number or a string: told apart by their size.
fn timestamp(text: &str) -> Option<Timestamp> {
    let number: i64 = text.split('.').next()?.parse().ok()?;
    let ms = match number.unsigned_abs() {
        0..100_000_000_000 => number.checked_mul(1000)?,
        100_000_000_000..100_000_000_000_000 => number,
        _ => number / 1000,
    };
    Some(Timestamp::from_ms(ms))
}

/// SendGrid's own id of the event; when it has none, its content.
fn event_id(event: &Map<String, Json>, kind: &str, message: Option<&str>, at: Timestamp) -> String {
    let text = |name: &str| event.get(name).and_then(scalar).unwrap_or_default();
    let id = text("sg_event_id");
    if !id.is_empty() {
        return format!("sendgrid:{id}");
    }
    let (email, url, ip, agent) = (text("email"), text("url"), text("ip"), text("useragent"));
    let message = message.unwrap_or_default();
    let time = at.as_ms().to_le_bytes();
    let parts: [&[u8]; 7] =
        [kind.as_bytes(), message.as_bytes(), email.as_bytes(), &time, url.as_bytes(), ip.as_bytes(), agent.as_bytes()];
    format!("sendgrid:content-{}", Hash128::of("sendgrid content", &parts))
}

/// `blocked` bounces are blocks; the others are refined by the enhanced status code (RFC 3463).
fn bounce_class(event: &Map<String, Json>) -> &'static str {
    let text = |name: &str| event.get(name).and_then(Json::as_str).unwrap_or_default();
    if text("type") == "blocked" {
        return "block";
    }
    match text("status") {
        "5.2.2" | "4.2.2" => "soft",
        status if status.starts_with("5.7") => "block",
        status if status.starts_with('4') => "soft",
        _ => "hard",
    }
}

#[cfg(test)]
mod tests;
