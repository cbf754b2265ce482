//! Twilio SendGrid's Event Webhook.
//!
//! Sources: SendGrid docs, Event Webhook reference and security features.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use inflection_control::{Field, KeyForm};
use inflection_domain::{BounceClass, FactKind};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde_json::Value as Json;

use super::adapter::{Adapter, Delivery, Proof, Reading, array, invalid};
use super::metadata::Metadata;
use super::report::{Report, class_of_status};
use super::values::{moment, text, word};
use crate::answer::Refusal;

const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";

/// Types that are none of our events.
const IGNORED: [&str; 4] = ["processed", "deferred", "dropped", "group_resubscribe"];

pub(crate) static ADAPTER: Adapter =
    Adapter { headers: &[SIGNATURE, TIMESTAMP], certificate: None, verify, events: array, read };

/// An ECDSA signature over the bytes of the timestamp header and the body. It does not grow old: SendGrid repeats for a day,
/// and repeats are known by their ids.
fn verify(delivery: &Delivery<'_>) -> Result<Proof, Refusal> {
    let (Some(signature), Some(timestamp)) = (delivery.header(SIGNATURE), delivery.header(TIMESTAMP)) else {
        return Err(invalid());
    };
    // Timestamp and body are signed as one text: a byte of one must not pass for one of the other.
    if timestamp.is_empty() || !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let signature = STANDARD.decode(signature).map_err(|_not_base64| invalid())?;
    let signed = [timestamp.as_bytes(), delivery.body].concat();
    let valid =
        |point: Vec<u8>| UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(&signed, &signature).is_ok();
    if delivery.webhook.secrets.iter().filter_map(|key| KeyForm::P256PublicKey.decode(key)).any(valid) {
        Ok(Proof::Whole)
    } else {
        Err(invalid())
    }
}

fn read(event: &Json, delivery: &Delivery<'_>) -> Vec<Reading> {
    let name = word(event, &["event"]);
    let kind = match name {
        Some("delivered") => FactKind::EmailDelivered,
        Some("open") => FactKind::EmailOpened,
        Some("click") => FactKind::LinkClicked,
        Some("bounce") => FactKind::EmailBounced,
        Some("spamreport") => FactKind::EmailReportedAsSpam,
        Some("unsubscribe" | "group_unsubscribe") => FactKind::EmailUnsubscribed,
        _ => return Reading::ignored(name, &IGNORED),
    };
    // SendGrid flattens custom arguments into the event.
    let mut metadata = Metadata::of(delivery.webhook);
    metadata.add_object(Some(event));
    let metadata = metadata
        .or(Field::EmailId, text(event, &["singlesend_id"]))
        .or(Field::CampaignId, text(event, &["marketing_campaign_id"]))
        .or(Field::CampaignName, text(event, &["marketing_campaign_name"]))
        .or(Field::CampaignName, text(event, &["singlesend_name"]));
    let message = word(event, &["sg_message_id"]).and_then(|id| id.split('.').next()).map(str::to_owned);
    let scope = match name {
        Some("group_unsubscribe") => Some(format!("group:{}", text(event, &["asm_group_id"]).unwrap_or_default())),
        Some("unsubscribe") => Some("global".to_owned()),
        _ => None,
    };
    vec![Reading::Report(Box::new(Report {
        id: text(event, &["sg_event_id"]),
        at: moment(event, &["timestamp"]),
        email: text(event, &["email"]),
        message_id: message.filter(|id| !id.is_empty()).or_else(|| text(event, &["smtp-id"])),
        url: text(event, &["url"]),
        user_agent: text(event, &["useragent"]),
        ip: text(event, &["ip"]),
        // What it does not take for a machine may be one that it does not know: our own judgement stands then.
        is_machine: (event.get("sg_machine_open").and_then(Json::as_bool) == Some(true)).then_some(true),
        bounce_class: bounce_class(event),
        bounce_reason: text(event, &["reason"]),
        unsubscribe_scope: scope,
        ..Report::new(kind, metadata)
    }))]
}

/// `blocked` bounces are blocks; the others are refined by the enhanced status code.
fn bounce_class(event: &Json) -> BounceClass {
    if word(event, &["type"]) == Some("blocked") {
        return BounceClass::Block;
    }
    word(event, &["status"]).and_then(class_of_status).unwrap_or(BounceClass::Hard)
}

#[cfg(test)]
mod tests;
