//! SparkPost (Bird).
//!
//! Sources: SparkPost docs, webhooks and event reference; support.sparkpost.com, webhook data streams and bounce classes.

use inflection_control::Field;
use inflection_domain::{BounceClass, FactKind};
use serde_json::Value as Json;

use super::adapter::{Adapter, Delivery, Reading, array};
use super::metadata::Metadata;
use super::proof::credentials;
use super::report::Report;
use super::values::{at, moment, text, word};

/// Types that are none of our events. One view of a mail loads a pixel at its top (`initial_open`) and one at its end
/// (`open`): only one of the two counts.
const IGNORED: [&str; 11] = [
    "injection",
    "delay",
    "policy_rejection",
    "generation_failure",
    "generation_rejection",
    "open",
    "amp_open",
    "initial_open",
    "amp_initial_open",
    "bounce",
    "out_of_band",
];

pub(crate) static ADAPTER: Adapter =
    Adapter { headers: &[], certificate: None, verify: credentials, events: array, read };

fn read(wrapped: &Json, delivery: &Delivery<'_>) -> Vec<Reading> {
    let classes = ["message_event", "track_event", "gen_event", "unsubscribe_event"];
    let system = at(wrapped, &["msys"]).and_then(Json::as_object);
    let event = system.and_then(|system| classes.iter().find_map(|class| system.get(*class)));
    let Some(event) = event else {
        let is_probe = system.is_some_and(serde_json::Map::is_empty);
        return vec![Reading::Ignored(if is_probe { "ping" } else { "other" })];
    };
    let name = word(event, &["type"]);
    let bounce = judge_bounce(text(event, &["bounce_class"]).as_deref());
    let kind = match name {
        Some("delivery") => FactKind::EmailDelivered,
        Some("open" | "amp_open") if !delivery.webhook.initial_opens => FactKind::EmailOpened,
        Some("initial_open" | "amp_initial_open") if delivery.webhook.initial_opens => FactKind::EmailOpened,
        Some("click" | "amp_click") => FactKind::LinkClicked,
        Some("bounce" | "out_of_band") => match bounce {
            Bounce::Of(_) => FactKind::EmailBounced,
            Bounce::Unsubscribe => FactKind::EmailUnsubscribed,
            Bounce::None => return Reading::ignored(name, &IGNORED),
        },
        Some("spam_complaint") => FactKind::EmailReportedAsSpam,
        Some("list_unsubscribe" | "link_unsubscribe") => FactKind::EmailUnsubscribed,
        _ => return Reading::ignored(name, &IGNORED),
    };
    let mut metadata = Metadata::of(delivery.webhook);
    metadata.add_object(at(event, &["rcpt_meta"]));
    metadata.add_tags(at(event, &["rcpt_tags"]));
    let metadata = metadata
        .or(Field::CampaignId, text(event, &["campaign_id"]))
        .or(Field::EmailSubject, text(event, &["subject"]))
        .or(Field::LinkId, text(event, &["target_link_name"]));
    // On other events the address is the receiving host's.
    let by_reader = matches!(kind, FactKind::EmailOpened | FactKind::LinkClicked);
    let prefetched = at(event, &["is_prefetched"]).is_some_and(|flag| flag == true || flag == "true");
    let class = match bounce {
        Bounce::Of(class) => class,
        Bounce::Unsubscribe | Bounce::None => BounceClass::Undetermined,
    };
    vec![Reading::Report(Box::new(Report {
        id: text(event, &["event_id"]),
        at: moment(event, &["timestamp"]),
        email: text(event, &["raw_rcpt_to"]).or_else(|| text(event, &["rcpt_to"])),
        message_id: text(event, &["message_id"]),
        url: text(event, &["target_link_url"]),
        user_agent: text(event, &["user_agent"]),
        ip: text(event, &["ip_address"]).filter(|_| by_reader),
        is_machine: prefetched.then_some(true),
        bounce_class: class,
        bounce_reason: text(event, &["raw_reason"]).or_else(|| text(event, &["reason"])),
        unsubscribe_scope: (kind == FactKind::EmailUnsubscribed).then(|| "global".to_owned()),
        ..Report::new(kind, metadata)
    }))]
}

/// What a bounce is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bounce {
    Of(BounceClass),
    /// A mail back that asks for no more mail.
    Unsubscribe,
    /// An automatic answer, or a mail to come.
    None,
}

/// By SparkPost's own number of it.
fn judge_bounce(number: Option<&str>) -> Bounce {
    match number.unwrap_or_default() {
        "10" | "30" => Bounce::Of(BounceClass::Hard),
        "20" | "21" | "22" | "23" | "24" | "40" | "70" => Bounce::Of(BounceClass::Soft),
        "25" | "50" | "51" | "52" | "53" | "54" => Bounce::Of(BounceClass::Block),
        "60" | "80" | "100" => Bounce::None,
        "90" => Bounce::Unsubscribe,
        _ => Bounce::Of(BounceClass::Undetermined),
    }
}

#[cfg(test)]
mod tests {
    use inflection_control::Provider::Sparkpost;

    use super::*;
    use crate::webhooks::testing::{check_day, parsed, webhook};

    #[test]
    fn a_day_of_events() {
        check_day(Sparkpost);
    }

    #[test]
    fn bounces_are_judged_by_number() {
        for (number, judged) in [
            ("1", Bounce::Of(BounceClass::Undetermined)),
            ("10", Bounce::Of(BounceClass::Hard)),
            ("21", Bounce::Of(BounceClass::Soft)),
            ("25", Bounce::Of(BounceClass::Block)),
            ("54", Bounce::Of(BounceClass::Block)),
            ("60", Bounce::None),
            ("90", Bounce::Unsubscribe),
            ("100", Bounce::None),
        ] {
            assert_eq!(judge_bounce(Some(number)), judged, "{number}");
        }
    }

    #[test]
    fn one_of_the_two_pixels_counts() {
        let event = |name: &str| {
            format!(
                r#"{{"msys":{{"track_event":{{"type":"{name}","event_id":"{name}","rcpt_to":"a@corp.example","timestamp":"1795420800"}}}}}}"#
            )
        };
        let body = format!("[{},{},{}]", event("open"), event("initial_open"), event("amp_open"));
        let count = |initial_opens| {
            let hook = inflection_control::Webhook { initial_opens, ..webhook(Sparkpost, &[]) };
            parsed(&hook, &[], body.as_bytes()).unwrap().facts.len()
        };
        assert_eq!((count(false), count(true)), (2, 1));
    }
}
