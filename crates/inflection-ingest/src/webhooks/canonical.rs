//! Events in our own vocabulary, from senders that sign with Standard Webhooks (through Svix or by themselves).
//!
//! An event is `{"type", "timestamp", "data": {…}}`; `data` has the fields of the ingest API. Types are those of the ingest
//! API (`email_opened`) or their dotted form (`email.opened`).

use inflection_domain::{BounceClass, FactKind};
use serde_json::Value as Json;

use super::adapter::{Adapter, Delivery, Reading, one_or_many};
use super::metadata::Metadata;
use super::report::Report;
use super::svix::{lone_message_id, verify};
use super::values::{at, moment, text, word};

pub(crate) static ADAPTER: Adapter = Adapter { headers: &[], certificate: None, verify, events: one_or_many, read };

fn read(event: &Json, delivery: &Delivery<'_>) -> Vec<Reading> {
    let Some(kind) = word(event, &["type"]).and_then(kind_of) else { return vec![Reading::Ignored("other")] };
    let own = text(event, &["data", "id"]).or_else(|| text(event, &["id"]));
    let id = own.or_else(|| lone_message_id(delivery).map(str::to_owned));
    vec![report(kind, id, event, delivery)]
}

/// The kind of a type, in either notation.
pub(crate) fn kind_of(name: &str) -> Option<FactKind> {
    let kind = match name {
        "email.delivered" => FactKind::EmailDelivered,
        "email.opened" => FactKind::EmailOpened,
        "email.bounced" => FactKind::EmailBounced,
        "email.spam_reported" | "email.reported_as_spam" => FactKind::EmailReportedAsSpam,
        "email.link_clicked" | "link.clicked" => FactKind::LinkClicked,
        "email.unsubscribed" => FactKind::EmailUnsubscribed,
        name => FactKind::from_name(name)?,
    };
    // Persons and pages are the ingest API's own: it knows their traits.
    (!matches!(kind, FactKind::Identify | FactKind::Page | FactKind::Group)).then_some(kind)
}

/// The report of an event whose `data` has the fields of the ingest API.
pub(crate) fn report(kind: FactKind, id: Option<String>, event: &Json, delivery: &Delivery<'_>) -> Reading {
    let data = |name: &str| text(event, &["data", name]);
    let mut metadata = Metadata::of(delivery.webhook);
    metadata.add_object(at(event, &["data"]));
    let class = word(event, &["data", "bounce_class"]).map(BounceClass::from_name).unwrap_or_default();
    Reading::Report(Box::new(Report {
        id,
        at: moment(event, &["data", "timestamp"])
            .or_else(|| moment(event, &["timestamp"]))
            .or_else(|| moment(event, &["time"])),
        email: data("email").or_else(|| text(event, &["subject"]).filter(|subject| subject.contains('@'))),
        message_id: data("provider_message_id"),
        url: data("email_link_url"),
        user_agent: data("user_agent"),
        ip: data("ip"),
        is_machine: at(event, &["data", "is_machine"]).and_then(Json::as_bool),
        bounce_class: class,
        bounce_reason: data("bounce_reason"),
        unsubscribe_scope: data("unsubscribe_scope"),
        ..Report::new(kind, metadata)
    }))
}

#[cfg(test)]
mod tests {
    use inflection_control::Provider::{StandardWebhooks, Svix};

    use crate::webhooks::testing::{check_day, parsed, webhook};

    #[test]
    fn a_day_of_events() {
        check_day(Svix);
        check_day(StandardWebhooks);
    }

    #[test]
    fn several_events_of_one_message_are_several() {
        let event = |name: &str| {
            format!(r#"{{"type":"{name}","timestamp":"2026-11-23T08:00:00Z","data":{{"person_id":"p"}}}}"#)
        };
        let read = |body: String| parsed(&webhook(Svix, &[]), &[("svix-id", "msg_1")], body.as_bytes()).unwrap().facts;
        let two = read(format!("[{},{}]", event("email.opened"), event("email_delivered")));
        assert_ne!(two[0].body.event_id, two[1].body.event_id);
        assert_eq!(read(event("email.opened"))[0].body.event_id.as_str(), "svix:msg_1");
        assert!(read(event("identify")).is_empty());
    }
}
