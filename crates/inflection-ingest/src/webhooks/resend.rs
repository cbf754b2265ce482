//! Resend.
//!
//! Sources: Resend docs, webhooks. Its bounces use the vocabulary of Amazon SES, on which it is built.

use inflection_control::Field;
use inflection_domain::{BounceClass, FactKind};
use serde_json::Value as Json;

use super::adapter::{Adapter, Delivery, Reading, one_or_many};
use super::metadata::Metadata;
use super::report::{Report, class_of_ses};
use super::svix::{lone_message_id, verify};
use super::values::{at, moment, text, word};

/// Types that are none of our events.
const IGNORED: [&str; 8] = [
    "email.sent",
    "email.delivery_delayed",
    "email.failed",
    "email.scheduled",
    "email.suppressed",
    "email.received",
    "email.bounced",
    "contact.updated",
];

pub(crate) static ADAPTER: Adapter = Adapter { headers: &[], certificate: None, verify, events: one_or_many, read };

fn read(event: &Json, delivery: &Delivery<'_>) -> Vec<Reading> {
    let name = word(event, &["type"]);
    let class = at(event, &["data", "bounce"]).and_then(class_of_bounce);
    let kind = match name {
        Some("email.delivered") => FactKind::EmailDelivered,
        Some("email.opened") => FactKind::EmailOpened,
        Some("email.clicked") => FactKind::LinkClicked,
        Some("email.bounced") if class.is_some() => FactKind::EmailBounced,
        Some("email.complained") => FactKind::EmailReportedAsSpam,
        Some("contact.updated") if at(event, &["data", "unsubscribed"]).and_then(Json::as_bool) == Some(true) => {
            FactKind::EmailUnsubscribed
        }
        _ => return Reading::ignored(name, &IGNORED),
    };
    let recipients: Vec<&str> = match at(event, &["data", "to"]) {
        Some(Json::Array(to)) => to.iter().filter_map(Json::as_str).collect(),
        Some(Json::String(to)) => vec![to],
        _ => word(event, &["data", "email"]).into_iter().collect(),
    };
    if recipients.len() > 1 {
        return vec![Reading::Ambiguous];
    }
    vec![Reading::Report(Box::new(Report {
        id: lone_message_id(delivery).map(str::to_owned),
        // Of a click the event's own moment, else when the event was made.
        at: moment(event, &["data", "click", "timestamp"]).or_else(|| moment(event, &["created_at"])),
        email: recipients.first().map(|to| (*to).to_owned()),
        message_id: text(event, &["data", "email_id"]),
        url: text(event, &["data", "click", "link"]),
        user_agent: text(event, &["data", "click", "userAgent"])
            .or_else(|| text(event, &["data", "open", "userAgent"])),
        ip: text(event, &["data", "click", "ipAddress"]).or_else(|| text(event, &["data", "open", "ipAddress"])),
        bounce_class: class.unwrap_or_default(),
        bounce_reason: text(event, &["data", "bounce", "message"]),
        unsubscribe_scope: (kind == FactKind::EmailUnsubscribed).then(|| "global".to_owned()),
        ..Report::new(kind, metadata(event, delivery))
    }))]
}

fn metadata(event: &Json, delivery: &Delivery<'_>) -> Metadata {
    let mut metadata = Metadata::of(delivery.webhook);
    // Tags come in either form.
    let tags = at(event, &["data", "tags"]);
    metadata.add_object(tags);
    metadata.add_pairs(tags);
    metadata.add_pairs(at(event, &["data", "headers"]));
    metadata
        .or(Field::CampaignId, text(event, &["data", "broadcast_id"]))
        .or(Field::EmailSubject, text(event, &["data", "subject"]))
}

/// The class of a bounce by its `type` and `subType`.
fn class_of_bounce(bounce: &Json) -> Option<BounceClass> {
    let either = |names: [&str; 2]| names.into_iter().find_map(|name| word(bounce, &[name])).unwrap_or_default();
    class_of_ses(either(["type", "bounceType"]), either(["subType", "bounceSubType"]))
}

#[cfg(test)]
mod tests {
    use inflection_control::Provider::Resend;

    use crate::webhooks::testing::{check_day, parsed, webhook};

    #[test]
    fn a_day_of_events() {
        check_day(Resend);
    }

    #[test]
    fn several_events_of_one_message_are_several() {
        let event = |to: &str| {
            format!(
                r#"{{"type":"email.delivered","created_at":"2026-11-23T08:00:00Z","data":{{"to":["{to}@corp.example"]}}}}"#
            )
        };
        let read = |body: &str| parsed(&webhook(Resend, &[]), &[("svix-id", "msg_1")], body.as_bytes()).unwrap().facts;
        let two = read(&format!("[{},{}]", event("ann"), event("bob")));
        assert_ne!(two[0].body.event_id, two[1].body.event_id);
        assert_eq!(read(&event("ann"))[0].body.event_id.as_str(), "resend:msg_1");
    }
}
