//! Brevo.
//!
//! Sources: developers.brevo.com, transactional webhooks, batched webhooks, retry mechanism. Which of `opened` and
//! `unique_opened` is the first open, sources disagree on: both are opens, and which is first is decided here.

use inflection_control::Field;
use inflection_domain::{BounceClass, FactKind};
use serde_json::Value as Json;

use super::adapter::{Adapter, Delivery, Reading, one_or_many};
use super::metadata::Metadata;
use super::proof::credentials;
use super::report::{Report, block_or};
use super::values::{at, moment, text, word};

/// Types that are none of our events. `blocked` was never sent: no server has refused it.
const IGNORED: [&str; 5] = ["request", "deferred", "error", "list_addition", "blocked"];

pub(crate) static ADAPTER: Adapter =
    Adapter { headers: &[], certificate: None, verify: credentials, events: one_or_many, read };

fn read(event: &Json, delivery: &Delivery<'_>) -> Vec<Reading> {
    let name = word(event, &["event"]);
    let kind = match name {
        Some("delivered") => FactKind::EmailDelivered,
        Some("opened" | "unique_opened" | "proxy_open" | "unique_proxy_open") => FactKind::EmailOpened,
        Some("click") => FactKind::LinkClicked,
        Some("hard_bounce" | "invalid_email" | "soft_bounce") => FactKind::EmailBounced,
        Some("spam" | "complaint") => FactKind::EmailReportedAsSpam,
        Some("unsubscribe" | "unsubscribed") => FactKind::EmailUnsubscribed,
        _ => return Reading::ignored(name, &IGNORED),
    };
    let mut metadata = Metadata::of(delivery.webhook);
    metadata.add_json_text(word(event, &["X-Mailin-custom"]));
    metadata.add_tags(at(event, &["tags"]));
    if let Some(tag) = word(event, &["tag"]) {
        metadata.add_tag(tag);
    }
    let metadata = metadata.or(Field::EmailSubject, text(event, &["subject"]));
    let told = if name == Some("soft_bounce") { BounceClass::Soft } else { BounceClass::Hard };
    vec![Reading::Report(Box::new(Report {
        // `date` is local time, of a place nobody names.
        at: moment(event, &["ts_epoch"]).or_else(|| moment(event, &["ts_event"])),
        email: text(event, &["email"]),
        message_id: text(event, &["message-id"]).map(|id| id.trim_matches(['<', '>']).to_owned()),
        url: text(event, &["link"]),
        user_agent: text(event, &["user_agent"]),
        ip: text(event, &["ip"]),
        is_machine: matches!(name, Some("proxy_open" | "unique_proxy_open")).then_some(true),
        bounce_class: block_or(told, word(event, &["reason"])),
        bounce_reason: text(event, &["reason"]),
        unsubscribe_scope: (kind == FactKind::EmailUnsubscribed).then(|| "global".to_owned()),
        ..Report::new(kind, metadata)
    }))]
}

#[cfg(test)]
mod tests {
    use inflection_control::Provider::Brevo;

    use crate::webhooks::testing::check_day;

    #[test]
    fn a_day_of_events() {
        check_day(Brevo);
    }
}
