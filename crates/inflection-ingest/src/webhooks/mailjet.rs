//! Mailjet.
//!
//! Sources: Mailjet docs, Event API (webhooks); documentation.mailjet.com.

use inflection_control::Field;
use inflection_domain::{BounceClass, FactKind};
use serde_json::Value as Json;

use super::adapter::{Adapter, Delivery, Reading, one_or_many};
use super::metadata::Metadata;
use super::proof::credentials;
use super::report::Report;
use super::values::{at, moment, text, word};

/// Types that are none of our events.
const IGNORED: [&str; 2] = ["bounce", "blocked"];

pub(crate) static ADAPTER: Adapter =
    Adapter { headers: &[], certificate: None, verify: credentials, events: one_or_many, read };

fn read(event: &Json, delivery: &Delivery<'_>) -> Vec<Reading> {
    let name = word(event, &["event"]);
    let class = bounce_class(event, name);
    let kind = match name {
        // The receiving server has taken it.
        Some("sent") => FactKind::EmailDelivered,
        Some("open") => FactKind::EmailOpened,
        Some("click") => FactKind::LinkClicked,
        Some("bounce" | "blocked") if class.is_some() => FactKind::EmailBounced,
        Some("spam") => FactKind::EmailReportedAsSpam,
        Some("unsub") => FactKind::EmailUnsubscribed,
        _ => return Reading::ignored(name, &IGNORED),
    };
    let mut metadata = Metadata::of(delivery.webhook);
    metadata.add_json_text(word(event, &["Payload"]));
    metadata.add_json_text(word(event, &["CustomID"]));
    let metadata = metadata
        .or(Field::CampaignId, text(event, &["customcampaign"]))
        .or(Field::CampaignId, number(event, "mj_campaign_id"));
    let scope = number(event, "mj_list_id").map_or_else(|| "global".to_owned(), |list| format!("list:{list}"));
    vec![Reading::Report(Box::new(Report {
        at: moment(event, &["time"]),
        email: text(event, &["email"]),
        message_id: text(event, &["MessageID"]),
        url: text(event, &["url"]),
        user_agent: text(event, &["agent"]),
        ip: text(event, &["ip"]),
        bounce_class: class.unwrap_or_default(),
        bounce_reason: text(event, &["comment"]).or_else(|| text(event, &["error"])),
        unsubscribe_scope: (kind == FactKind::EmailUnsubscribed).then_some(scope),
        ..Report::new(kind, metadata)
    }))]
}

/// A number that is not zero, which Mailjet writes where there is none.
fn number(event: &Json, name: &str) -> Option<String> {
    text(event, &[name]).filter(|number| number != "0")
}

/// `None` when no server has refused the mail: it was held back, or is still tried.
fn bounce_class(event: &Json, name: Option<&str>) -> Option<BounceClass> {
    let error = word(event, &["error"]).unwrap_or_default();
    let related_to = word(event, &["error_related_to"]).unwrap_or_default();
    let hard = at(event, &["hard_bounce"]).is_some_and(|flag| flag == true || flag == 1);
    if name == Some("blocked") {
        let held_back = error == "preblocked" || error.contains("duplicate in campaign");
        return (!held_back).then_some(BounceClass::Block);
    }
    match (hard, related_to, error) {
        (_, "spam", _) => Some(BounceClass::Block),
        (true, ..) => Some(BounceClass::Hard),
        (false, _, "greylisted") => None,
        (false, ..) => Some(BounceClass::Soft),
    }
}

#[cfg(test)]
mod tests {
    use inflection_control::Provider::Mailjet;
    use serde_json::json;

    use super::*;
    use crate::webhooks::testing::check_day;

    #[test]
    fn a_day_of_events() {
        check_day(Mailjet);
    }

    #[test]
    fn bounces_have_classes() {
        let class = |name, event: Json| bounce_class(&event, Some(name));
        assert_eq!(class("bounce", json!({"hard_bounce": true})), Some(BounceClass::Hard));
        assert_eq!(class("bounce", json!({"hard_bounce": false})), Some(BounceClass::Soft));
        assert_eq!(class("bounce", json!({"hard_bounce": false, "error": "greylisted"})), None);
        assert_eq!(class("bounce", json!({"hard_bounce": true, "error": "greylisted"})), Some(BounceClass::Hard));
        assert_eq!(class("bounce", json!({"hard_bounce": true, "error_related_to": "spam"})), Some(BounceClass::Block));
        assert_eq!(class("blocked", json!({"error": "preblocked"})), None);
        assert_eq!(class("blocked", json!({"error": "duplicate in campaign"})), None);
        assert_eq!(class("blocked", json!({"error_related_to": "content"})), Some(BounceClass::Block));
    }
}
