//! MailerSend.
//!
//! Sources: developers.mailersend.com, webhooks. It has no custom data: fields of ours travel as tags like
//! `campaign_id:spring`.

use inflection_control::Field;
use inflection_domain::{BounceClass, FactKind};
use ring::hmac::HMAC_SHA256;
use serde_json::Value as Json;

use super::adapter::{Adapter, Delivery, Proof, Reading, invalid, one_or_many};
use super::metadata::Metadata;
use super::proof::{hex, is_signed};
use super::report::{Report, block_or};
use super::values::{at, moment, text, word};
use crate::answer::Refusal;

const SIGNATURE: &str = "signature";

/// Types that are none of our events. The unique ones are second notices of an action that is reported plainly, too.
const IGNORED: [&str; 5] = [
    "activity.sent",
    "activity.opened_unique",
    "activity.clicked_unique",
    "activity.survey_opened",
    "activity.deferred",
];

pub(crate) static ADAPTER: Adapter =
    Adapter { headers: &[SIGNATURE], certificate: None, verify, events: one_or_many, read };

/// An HMAC over the body. It does not grow old; repeats are known by their ids.
fn verify(delivery: &Delivery<'_>) -> Result<Proof, Refusal> {
    let tag = delivery.header(SIGNATURE).and_then(hex).ok_or_else(invalid)?;
    let genuine = is_signed(HMAC_SHA256, &delivery.webhook.secrets, delivery.body, &tag);
    if genuine { Ok(Proof::Whole) } else { Err(invalid()) }
}

fn read(event: &Json, delivery: &Delivery<'_>) -> Vec<Reading> {
    let name = word(event, &["type"]);
    let kind = match name {
        Some("activity.delivered") => FactKind::EmailDelivered,
        Some("activity.opened") => FactKind::EmailOpened,
        Some("activity.clicked") => FactKind::LinkClicked,
        Some("activity.soft_bounced" | "activity.hard_bounced") => FactKind::EmailBounced,
        Some("activity.spam_complaint") => FactKind::EmailReportedAsSpam,
        Some("activity.unsubscribed") => FactKind::EmailUnsubscribed,
        _ => return Reading::ignored(name, &IGNORED),
    };
    let mut metadata = Metadata::of(delivery.webhook);
    metadata.add_tags(at(event, &["data", "email", "tags"]));
    let metadata = metadata.or(Field::EmailSubject, text(event, &["data", "email", "subject"]));
    let reason = text(event, &["data", "morph", "readable_reason"])
        .or_else(|| text(event, &["data", "morph", "reason"]))
        .filter(|_| kind == FactKind::EmailBounced);
    let told = if name == Some("activity.hard_bounced") { BounceClass::Hard } else { BounceClass::Soft };
    vec![Reading::Report(Box::new(Report {
        id: text(event, &["data", "id"]),
        at: moment(event, &["data", "created_at"]),
        email: text(event, &["data", "email", "recipient", "email"]),
        message_id: text(event, &["data", "email", "message", "id"]),
        url: text(event, &["data", "morph", "url"]),
        ip: text(event, &["data", "morph", "ip"]),
        bounce_class: block_or(told, reason.as_deref()),
        bounce_reason: reason,
        unsubscribe_scope: (kind == FactKind::EmailUnsubscribed).then(|| "global".to_owned()),
        ..Report::new(kind, metadata)
    }))]
}

#[cfg(test)]
mod tests {
    use inflection_control::Provider::Mailersend;

    use super::*;
    use crate::webhooks::testing::{NOW, at as moment_of, check_day, every_bit_counts, verified, webhook};

    #[test]
    fn a_day_of_events() {
        check_day(Mailersend);
    }

    #[test]
    fn the_body_is_signed() {
        let (body, now) = (br#"{"type":"activity.sent","data":{"url":"https:\/\/x"}}"#, moment_of(NOW));
        // Computed with OpenSSL under `mailersend-key`.
        let tag = "df79429cff58a8d80ed7ed9514f77ec72be73fb0eb1dde4df5471ad1463948a1";
        every_bit_counts(&webhook(Mailersend, &["newer", "mailersend-key"]), &[(SIGNATURE, tag)], body, now);
        for tag in ["", &tag.to_uppercase(), tag.get(..62).unwrap()] {
            assert!(verified(&webhook(Mailersend, &["mailersend-key"]), &[(SIGNATURE, tag)], body, now).is_err());
        }
    }
}
