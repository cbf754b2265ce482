//! Postmark.
//!
//! Sources: Postmark developer docs, webhooks. Clicks come once per recipient and link, and opens once per mail when
//! `PostFirstOpenOnly` is set, so raw counts are lower than elsewhere.

use inflection_domain::{BounceClass, FactKind};
use serde_json::Value as Json;

use super::adapter::{Adapter, Delivery, Reading, one_or_many};
use super::metadata::Metadata;
use super::proof::credentials;
use super::report::Report;
use super::values::{at, moment, text, word};

/// Types that are none of our events.
const IGNORED: [&str; 4] = ["Bounce", "SubscriptionChange", "Inbound", "SMTPApiError"];

pub(crate) static ADAPTER: Adapter =
    Adapter { headers: &[], certificate: None, verify: credentials, events: one_or_many, read };

fn read(event: &Json, delivery: &Delivery<'_>) -> Vec<Reading> {
    let name = word(event, &["RecordType"]);
    let (kind, time) = match name {
        Some("Delivery") => (FactKind::EmailDelivered, "DeliveredAt"),
        Some("Open") => (FactKind::EmailOpened, "ReceivedAt"),
        Some("Click") => (FactKind::LinkClicked, "ReceivedAt"),
        Some("SpamComplaint") => (FactKind::EmailReportedAsSpam, "BouncedAt"),
        Some("SubscriptionChange") if is_unsubscribe(event) => (FactKind::EmailUnsubscribed, "ChangedAt"),
        Some("Bounce") => match kind_of_bounce(word(event, &["Type"])) {
            Some(kind) => (kind, "BouncedAt"),
            None => return Reading::ignored(name, &IGNORED),
        },
        _ => return Reading::ignored(name, &IGNORED),
    };
    let mut metadata = Metadata::of(delivery.webhook);
    metadata.add_object(at(event, &["Metadata"]));
    if let Some(tag) = word(event, &["Tag"]) {
        metadata.add_tag(tag);
    }
    let scope = || text(event, &["MessageStream"]).map_or_else(|| "global".to_owned(), |id| format!("stream:{id}"));
    vec![Reading::Report(Box::new(Report {
        // Bounces and complaints have an id; it is a number, and one row of numbers serves both.
        id: text(event, &["ID"]).map(|id| format!("{}-{id}", kind.name())),
        at: moment(event, &[time]),
        email: text(event, &["Recipient"]).or_else(|| text(event, &["Email"])),
        message_id: text(event, &["MessageID"]),
        url: text(event, &["OriginalLink"]),
        user_agent: text(event, &["UserAgent"]),
        ip: text(event, &["Geo", "IP"]),
        bounce_class: bounce_class(word(event, &["Type"])),
        bounce_reason: text(event, &["Details"]).or_else(|| text(event, &["Description"])),
        unsubscribe_scope: (kind == FactKind::EmailUnsubscribed).then(scope),
        ..Report::new(kind, metadata)
    }))]
}

/// Suppressions for other reasons repeat bounces and complaints that were reported already; the end of one is none of ours.
fn is_unsubscribe(event: &Json) -> bool {
    let suppressed = at(event, &["SuppressSending"]).and_then(Json::as_bool) == Some(true);
    suppressed && word(event, &["SuppressionReason"]) == Some("ManualSuppression")
}

/// What a bounce is a report of. `Transient` ones are still tried; others no server has sent, or are no bounces.
fn kind_of_bounce(name: Option<&str>) -> Option<FactKind> {
    match name? {
        "HardBounce" | "BadEmailAddress" | "SoftBounce" | "DnsError" | "Blocked" | "SpamNotification"
        | "DMARCPolicy" | "VirusNotification" => Some(FactKind::EmailBounced),
        "SpamComplaint" => Some(FactKind::EmailReportedAsSpam),
        "Unsubscribe" => Some(FactKind::EmailUnsubscribed),
        _ => None,
    }
}

fn bounce_class(name: Option<&str>) -> BounceClass {
    match name {
        Some("HardBounce" | "BadEmailAddress") => BounceClass::Hard,
        Some("SoftBounce" | "DnsError") => BounceClass::Soft,
        Some("Blocked" | "SpamNotification" | "DMARCPolicy" | "VirusNotification") => BounceClass::Block,
        _ => BounceClass::Undetermined,
    }
}

#[cfg(test)]
mod tests {
    use inflection_control::Provider::Postmark;

    use super::*;
    use crate::webhooks::testing::{check_day, one};

    #[test]
    fn a_day_of_events() {
        check_day(Postmark);
    }

    #[test]
    fn bounces_have_classes() {
        for (name, class) in [
            ("HardBounce", BounceClass::Hard),
            ("BadEmailAddress", BounceClass::Hard),
            ("SoftBounce", BounceClass::Soft),
            ("DnsError", BounceClass::Soft),
            ("Blocked", BounceClass::Block),
            ("SpamNotification", BounceClass::Block),
            ("DMARCPolicy", BounceClass::Block),
            ("VirusNotification", BounceClass::Block),
        ] {
            let body = format!(r#"{{"RecordType":"Bounce","Type":"{name}","ID":7,"Email":"a@corp.example"}}"#);
            assert_eq!(one(Postmark, &body).body.bounce_class, Some(class), "{name}");
        }
        for none in ["Transient", "AutoResponder", "AddressChange", "ManuallyDeactivated", "Unknown", "New"] {
            assert_eq!(kind_of_bounce(Some(none)), None, "{none}");
        }
    }
}
