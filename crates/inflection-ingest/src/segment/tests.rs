//! What becomes of each call, and of what is wrong with one.

use inflection_domain::{FactKind, InstallationKey, MachineRules, OUR_PROPERTIES, Timestamp, WorkspaceId};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::desk::Desk;

const NOW: &str = "2026-11-23T10:00:00Z";
const AT: &str = "2026-11-23T09:59:00.000Z";

fn read<T>(body: &[u8], endpoint: Endpoint, then: impl FnOnce(Result<Taken<'_>, Refusal>) -> T) -> T {
    let (workspace, key) = (WorkspaceId::new("acme").unwrap(), InstallationKey::new([1; 32]));
    let now = Timestamp::parse(NOW).unwrap();
    let machine = MachineRules::default();
    let context = Context { workspace: &workspace, key: &key, now, machine: &machine };
    match Envelope::read(body, endpoint) {
        Ok(envelope) => then(batch::take(&envelope, context, "req_1")),
        Err(refusal) => then(Err(refusal)),
    }
}

/// What is said of a fact: what it is, of whom, and what is passed on. What is absent is left out.
fn story(fact: &inflection_domain::Fact<'_>) -> Json {
    let body = &fact.body;
    let object = |members: &str| serde_json::from_str::<Json>(&format!("{{{members}}}")).unwrap();
    let mut story = json!({
        "kind": fact.head.kind.name(), "id": body.event_id.as_str(), "at": fact.head.occurred_at.to_string(),
        "user": fact.head.user.as_ref().map(|user| user.as_str()), "email": body.email.as_ref().map(|e| e.as_str()),
        "person": body.person.as_str(), "event": body.event, "name": body.name, "category": body.category,
        "group": body.group_id, "email_id": body.email_id, "campaign": body.campaign_id, "run": body.campaign_run_id,
        "campaign_name": body.campaign_name, "subject": body.email_subject, "link": body.email_link_url,
        "link_id": body.link_id, "link_kind": body.link_kind.name(), "class": body.bounce_class.map(|c| c.name()),
        "reason": body.bounce_reason, "scope": body.unsubscribe_scope, "provider": body.provider,
        "message": body.provider_message_id, "machine": body.is_machine.then_some(true),
        "properties": object(&body.properties), "traits": object(&body.traits), "context": object(&body.context),
        "integrations": object(&body.integrations),
    });
    story.as_object_mut().unwrap().retain(|_, value| !value.is_null() && *value != json!({}));
    story
}

/// The facts of one call sent by itself in a batch.
#[track_caller]
fn facts(item: &Json) -> Vec<Json> {
    let body = json!({ "batch": [item] }).to_string();
    read(body.as_bytes(), Endpoint::Batch, |taken| taken.unwrap().facts.iter().map(story).collect())
}

fn with(base: Json, more: Json) -> Json {
    let (mut base, Json::Object(more)) = (base, more) else { panic!("an object") };
    base.as_object_mut().unwrap().extend(more);
    base
}

/// A call and the one fact it becomes; ids and time are the same in all.
#[track_caller]
fn check(call: Json, fact: Json) {
    let call = with(json!({ "messageId": "m1", "timestamp": AT }), call);
    let expected = with(json!({ "id": "m1", "at": AT }), fact);
    assert_eq!(facts(&call), [expected], "{call}");
}

/// The code under which one call is refused.
#[track_caller]
fn check_refused(call: Json, code: Code) {
    let call = with(json!({ "type": "track", "messageId": "m1", "event": "Order Placed", "userId": "u" }), call);
    let body = json!({ "batch": [call, {"type": "track", "event": "Good", "userId": "u"}] }).to_string();
    read(body.as_bytes(), Endpoint::Batch, |taken| {
        let taken = taken.unwrap();
        assert_eq!(
            taken.rejected.iter().map(|(index, why)| (*index, why.code)).collect::<Vec<_>>(),
            [(0, code)],
            "{body}"
        );
        assert_eq!(taken.accepted, 1, "the good one is taken");
    });
}

#[test]
fn paths_are_known() {
    for (path, expected) in [
        ("/v1/batch", Some(Endpoint::Batch)),
        ("/v1/import", Some(Endpoint::Batch)),
        ("/v1/b", Some(Endpoint::Batch)),
        ("/v1/track", Some(Endpoint::Single(Call::Track))),
        ("/v1/identify", Some(Endpoint::Single(Call::Identify))),
        ("/v1/page", Some(Endpoint::Single(Call::Page))),
        ("/v1/screen", Some(Endpoint::Single(Call::Screen))),
        ("/v1/group", Some(Endpoint::Single(Call::Group))),
        ("/v1/alias", Some(Endpoint::Single(Call::Alias))),
        ("/v1/events", None),
        ("/v1/Track", None),
        ("/v1/track/", None),
        ("/v2/track", None),
    ] {
        assert_eq!(Endpoint::of(path), expected, "{path}");
    }
}

#[test]
fn names_of_the_email_events_become_facts() {
    for (name, kind) in [
        ("Email Delivered", FactKind::EmailDelivered),
        ("Email Opened", FactKind::EmailOpened),
        ("Email Bounced", FactKind::EmailBounced),
        ("Email Reported as Spam", FactKind::EmailReportedAsSpam),
        ("Email Marked as Spam", FactKind::EmailReportedAsSpam),
        ("Link Clicked", FactKind::LinkClicked),
        ("Email Link Clicked", FactKind::LinkClicked),
        ("Email Unsubscribed", FactKind::EmailUnsubscribed),
        ("Unsubscribed", FactKind::EmailUnsubscribed),
        ("email opened", FactKind::CustomTrack),
        ("Email Opened ", FactKind::CustomTrack),
        ("Order Placed", FactKind::CustomTrack),
    ] {
        let properties = json!({ "email_id": "mail", "link_url": "https://a.example" });
        let track = json!({ "type": "track", "event": name, "anonymousId": "p", "properties": properties });
        assert_eq!(facts(&track)[0]["kind"], kind.name(), "{name}");
    }
}

#[test]
fn a_mails_properties_become_fields() {
    let all = json!({
        "email_id": 7, "campaign_id": "c", "campaign_run_id": "r", "campaign_name": "Spring", "email_subject": "Hi",
        "email_link_url": "https://ours.example", "link_url": "https://theirs.example", "link_id": 12,
        "link_kind": "preference", "provider": "ses", "provider_message_id": "pm", "is_machine": true,
        "event": "x", "email_event": "x", "userId": "ann@example.com", "prospect_id": "x", "is_unique_open": true,
        "is_unique_click": "yes", "open_source": "x", "machine_reason": "x", "bounce_class": null,
        "plan": "pro", "list": [1],
    });
    check(
        json!({ "type": "track", "event": "Link Clicked", "anonymousId": "p", "userId": "u", "properties": all,
            "integrations": { "All": false } }),
        json!({
            "kind": "link_clicked", "person": "p", "user": "u", "email": "ann@example.com", "email_id": "7",
            "campaign": "c", "run": "r", "campaign_name": "Spring", "subject": "Hi", "link": "https://ours.example",
            "link_id": "12", "link_kind": "preference", "provider": "ses", "message": "pm", "machine": true,
            "properties": { "plan": "pro", "list": [1] }, "integrations": { "All": false },
        }),
    );
    check(
        json!({ "type": "track", "event": "Email Bounced", "anonymousId": "p",
            "properties": { "bounce_class": "soft", "bounce_reason": "full" } }),
        json!({ "kind": "email_bounced", "person": "p", "class": "soft", "reason": "full" }),
    );
    check(
        json!({ "type": "track", "event": "Unsubscribed", "anonymousId": "p",
            "properties": { "list_id": "l1", "list_name": "News" } }),
        json!({ "kind": "email_unsubscribed", "person": "p", "scope": "l1",
            "properties": { "list_id": "l1", "list_name": "News" } }),
    );
}

/// What delivery writes itself may not come in as a property too, or an item would have it twice.
#[test]
fn no_property_of_a_mail_has_a_name_of_ours() {
    let properties: Map<String, Json> = OUR_PROPERTIES.iter().map(|name| ((*name).to_owned(), json!(null))).collect();
    let track = json!({ "type": "track", "event": "Email Opened", "userId": "u", "properties": properties });
    assert_eq!(facts(&track)[0].get("properties"), None);
}

#[test]
fn a_machines_open_is_known_by_its_agent() {
    for (context, machine) in [
        (json!({ "userAgent": "Mozilla/5.0" }), Some(true)),
        (json!({ "user_agent": "Mozilla/5.0" }), Some(true)),
        (json!({ "userAgent": "Mozilla/5.0 (X11)" }), None),
        (json!({}), None),
    ] {
        let track = json!({ "type": "track", "event": "Email Opened", "anonymousId": "p", "context": context });
        let fact = &facts(&track)[0];
        assert_eq!((fact.get("machine").and_then(Json::as_bool), fact.get("context")), (machine, None), "{track}");
    }
}

#[test]
fn everything_else_is_passed_on() {
    let context = json!({ "ip": "203.0.113.7", "library": { "name": "x" } });
    let (properties, integrations) = (json!({ "event": "own", "total": 9.50, "n": null }), json!({ "All": true }));
    let base = |kind: &str| json!({ "type": kind, "userId": "u", "anonymousId": "p", "context": context, "integrations": integrations });
    let expected = |kind: &str| json!({ "kind": kind, "user": "u", "person": "p", "context": context, "integrations": integrations });
    check(
        with(base("track"), json!({ "event": "Order Placed", "properties": properties })),
        with(expected("custom_track"), json!({ "event": "Order Placed", "properties": properties })),
    );
    for kind in ["page", "screen"] {
        let more = json!({ "name": "Docs", "category": "Help", "properties": properties });
        check(with(base(kind), more.clone()), with(expected(kind), more));
    }
    check(
        with(base("group"), json!({ "groupId": "g", "traits": { "name": "Acme" } })),
        with(expected("group"), json!({ "group": "g", "traits": { "name": "Acme" } })),
    );
    check(
        with(base("identify"), json!({ "traits": { "plan": "pro", "email": "a@example.com" } })),
        with(
            expected("identify"),
            json!({ "email": "a@example.com", "traits": { "plan": "pro", "email": "a@example.com" } }),
        ),
    );
}

#[test]
fn what_envelope_and_item_say_of_context_is_merged() {
    // The Go client's envelope has a messageId too, and nanoseconds in its times.
    let batch = json!({
        "messageId": "envelope", "sentAt": "2026-11-23T09:59:58.123456789Z",
        "context": { "ip": "1.1.1.1", "locale": "de" }, "integrations": { "All": false },
        "batch": [
            { "type": "track", "event": "A", "userId": "u", "context": { "ip": "2.2.2.2" } },
            { "type": "track", "event": "B", "userId": "u", "integrations": { "All": true } },
        ],
    });
    read(batch.to_string().as_bytes(), Endpoint::Batch, |taken| {
        let facts: Vec<Json> = taken.unwrap().facts.iter().map(story).collect();
        assert_eq!(facts[0]["context"], json!({ "ip": "2.2.2.2", "locale": "de" }));
        assert_eq!(facts[0]["integrations"], json!({ "All": false }));
        assert_eq!(facts[1]["context"], json!({ "ip": "1.1.1.1", "locale": "de" }));
        assert_eq!(facts[1]["integrations"], json!({ "All": true }));
    });
}

/// A batch of items with an envelope's `context` of so many bytes.
fn batch_with_context(context_bytes: usize, items: &[Json]) -> Vec<u8> {
    let context = json!({ "a": "x".repeat(context_bytes - r#""a":"","#.len()) });
    json!({ "context": context, "batch": items }).to_string().into_bytes()
}

#[test]
fn what_is_merged_is_bounded() {
    let item = json!({ "type": "track", "event": "A", "userId": "u", "context": { "ip": "1.1.1.1" } });
    let outcome = |context_bytes: usize, items: usize| {
        let body = batch_with_context(context_bytes, &vec![item.clone(); items]);
        let added = Envelope::read(&body, Endpoint::Batch).map(|envelope| envelope.added_bytes()).unwrap_or_default();
        read(&body, Endpoint::Batch, |taken| {
            let taken = taken.map_err(|why| (why.code, why.rejected.len()))?;
            let merged: usize = taken.facts.iter().map(|fact| fact.body.context.len()).sum();
            // What is taken room for: the facts, and as much again for what is made of them.
            assert!(2 * merged <= added + 2 * body.len(), "{merged} bytes of {context_bytes} in {items} items");
            assert!(added <= 2 * batch::SHARED_BYTES_MAX);
            Ok((taken.accepted, added))
        })
    };
    assert_eq!(outcome(20_000, 50), Ok((50, 2 * 50 * 20_000)));
    assert_eq!(outcome(20_000, 60), Err((Code::BodyTooLarge, 0)));
    assert_eq!(outcome(420, 2_400), Ok((2_400, 2 * 2_400 * 420)));
    assert_eq!(outcome(420, 2_500), Err((Code::BodyTooLarge, 0)));
    assert_eq!(outcome(33_000, 1), Err((Code::EventTooLarge, 0)), "no item could carry it: none is read");
    assert_eq!(outcome(31_000, 1), Err((Code::EventTooLarge, 1)));
}

#[test]
fn room_is_taken_for_both_facts_of_an_identify() {
    let item = json!({ "type": "identify", "userId": "u", "traits": { "email": "ann@example.com" }, "integrations": { "a": 1 } });
    let body = json!({ "integrations": { "b": "x".repeat(10_000) }, "batch": vec![item; 20] }).to_string();
    let added = Envelope::read(body.as_bytes(), Endpoint::Batch).unwrap().added_bytes();
    read(body.as_bytes(), Endpoint::Batch, |taken| {
        let facts = taken.unwrap().facts;
        let merged: usize = facts.iter().map(|fact| fact.body.integrations.len() - r#""a":1"#.len()).sum();
        assert_eq!((facts.len(), 2 * merged), (40, added));
    });
}

#[test]
fn many_keys_around_many_keys_are_refused_unread() {
    let keys = |count: usize, name: &str| -> Json {
        (0..count).map(|key| (format!("{name}{key:x}"), json!(1))).collect::<Map<_, _>>().into()
    };
    let item = json!({ "type": "track", "event": "A", "userId": "u", "context": keys(2_000, "o") });
    let outcome = |shared: usize, items: &[Json]| {
        let body = json!({ "context": keys(shared, "s"), "batch": items }).to_string();
        read(body.as_bytes(), Endpoint::Batch, |taken| {
            taken.map(|taken| (taken.accepted, taken.rejected.len())).map_err(|why| (why.code, why.rejected.len()))
        })
    };
    assert_eq!(outcome(80_000, &vec![item.clone(); 8]), Err((Code::EventTooLarge, 0)));
    // An item that with what is shared is too large is refused, before the two are merged; the others are not.
    let small = json!({ "type": "track", "event": "A", "userId": "u" });
    assert_eq!(outcome(1_500, &[item.clone(), small]), Ok((1, 1)));
    assert_eq!(outcome(100, &[item]), Ok((1, 0)));
}

#[test]
fn what_the_envelope_says_has_its_meaning() {
    let batch = |item: Json, context: Json| {
        let item = with(json!({ "type": "track", "event": "Email Opened", "messageId": "m" }), item);
        let body = json!({ "context": context, "batch": [item] }).to_string();
        read(body.as_bytes(), Endpoint::Batch, |taken| story(&taken.unwrap().facts[0]))
    };
    let address = json!({ "traits": { "email": "ann@example.com" } });
    let opened = batch(json!({}), address.clone());
    assert_eq!(opened["email"], "ann@example.com");
    assert_eq!(opened["person"], batch(json!({ "context": address }), json!({}))["person"]);
    let other = json!({ "context": { "traits": { "email": "bob@example.com" } } });
    assert_eq!(batch(other, address.clone())["email"], "bob@example.com");
    let plan = json!({ "userId": "u", "context": { "traits": { "plan": "pro" } } });
    assert_eq!(batch(plan, address.clone()).get("email"), None, "traits win as a whole");
    assert_eq!(batch(json!({ "event": "A", "userId": "u" }), address.clone())["email"], "ann@example.com");
    assert_eq!(batch(json!({ "type": "identify", "userId": "u" }), address)["email"], "ann@example.com");
    let agent = json!({ "userAgent": "Mozilla/5.0" });
    assert_eq!(batch(json!({ "userId": "u" }), agent.clone())["machine"], true);
    let own = json!({ "userId": "u", "context": { "userAgent": "Mozilla/5.0 (X11)" } });
    assert_eq!(batch(own, agent).get("machine"), None);
}

#[test]
fn people_are_who_the_call_says() {
    let person = |call: Json| {
        let call = with(json!({ "type": "track", "event": "A", "messageId": "m" }), call);
        let fact = facts(&call).remove(0);
        (fact["person"].as_str().unwrap().to_owned(), fact["user"].as_str().map(str::to_owned))
    };
    let (of_user, user) = person(json!({ "userId": "u" }));
    assert!(of_user.starts_with("per_") && user.as_deref() == Some("u"));
    let email = json!({ "traits": { "email": "ann@example.com" } });
    // A user's own calls keep their order whether or not one of them names an address.
    assert_eq!(person(json!({ "userId": "u", "context": email })).0, of_user);
    assert_eq!(
        person(json!({ "type": "identify", "userId": "u", "traits": { "email": "ann@example.com" } })).0,
        of_user
    );
    assert_eq!(person(json!({ "userId": "u", "anonymousId": "p" })), ("p".into(), Some("u".into())));
    assert_eq!(person(json!({ "userId": "null", "anonymousId": "p" })), ("p".into(), None));
    assert_eq!(person(json!({ "userId": null, "anonymousId": "p" })), ("p".into(), None));
    assert_eq!(person(json!({ "userId": "u", "anonymousId": "" })).0, of_user);
    // Facts of a mail go where those of its provider go: to the person of the address.
    let (of_address, user) = person(json!({ "event": "Email Opened", "userId": "u", "context": email }));
    assert_eq!((of_address.starts_with("per_"), user.as_deref()), (true, Some("u")));
    assert_ne!(of_address, of_user);
    assert_eq!(person(json!({ "event": "Email Opened", "context": email })).0, of_address);
    assert_eq!(person(json!({ "event": "Email Opened", "properties": { "email": "ANN@example.com" } })).0, of_address);
    assert_eq!(person(json!({ "context": email })).0, of_address);
}

#[test]
fn an_identify_also_says_whose_the_address_is() {
    let identify = |more: Json| {
        let call = json!({ "type": "identify", "messageId": "m", "userId": "u", "timestamp": AT });
        facts(&with(call, more))
    };
    let both = identify(json!({ "traits": { "email": "ann@example.com", "plan": "pro" } }));
    assert_eq!(both.len(), 2);
    let of_address =
        facts(&json!({ "type": "track", "event": "Email Opened", "properties": { "email": "ann@example.com" } }));
    assert_eq!(both[1]["person"], of_address[0]["person"]);
    assert_eq!((&both[1]["user"], &both[1]["kind"], both[1].get("traits")), (&json!("u"), &json!("identify"), None));
    assert_ne!(both[0]["id"], both[1]["id"]);
    assert_eq!(
        both,
        identify(json!({ "traits": { "email": "ann@example.com", "plan": "pro" } })),
        "a retry's ids are the same"
    );
    // One word of one person: nothing to add.
    assert_eq!(identify(json!({ "anonymousId": "p", "traits": { "email": "ann@example.com" } })).len(), 1);
    assert_eq!(identify(json!({ "traits": { "email": "info@example.com" } })).len(), 1, "a role's mailbox is nobody's");
    assert_eq!(identify(json!({ "traits": { "email": "no address" } })).len(), 1);
    assert_eq!(identify(json!({ "traits": { "plan": "pro" } })).len(), 1);
}

#[test]
fn ids_are_the_senders_or_the_contents_or_new() {
    let id = |call: Json| facts(&with(json!({ "type": "track", "event": "A", "userId": "u" }), call))[0]["id"].clone();
    assert_eq!(id(json!({ "messageId": "m" })), "m");
    let dated = id(json!({ "timestamp": AT }));
    assert!(dated.as_str().unwrap().starts_with("content-"));
    // An SDK that tries again says so in `sentAt`; and a key may have been exchanged meanwhile.
    for same in [
        json!({}),
        json!({ "sentAt": "2026-11-23T09:59:01Z" }),
        json!({ "sentAt": "2026-11-23T09:59:31Z", "writeKey": "k" }),
        json!({ "writeKey": "other", "_metadata": { "failedAttempts": 1 } }),
        json!({ "properties": {} }),
    ] {
        assert_eq!(dated, id(with(json!({ "timestamp": AT }), same.clone())), "{same}");
    }
    let mut ids = std::collections::HashSet::from([dated]);
    for other in [
        json!({ "type": "page" }),
        json!({ "timestamp": "2026-11-23T09:59:00.001Z" }),
        json!({ "originalTimestamp": AT }),
        json!({ "event": "B" }),
        json!({ "userId": "v" }),
        json!({ "userId": "uA", "event": "" , "type": "page" }),
        json!({ "anonymousId": "p" }),
        json!({ "name": "A" }),
        json!({ "category": "A" }),
        json!({ "groupId": "A" }),
        json!({ "properties": { "a": 1 } }),
        json!({ "traits": { "a": 1 } }),
        json!({ "context": { "a": 1 } }),
        json!({ "integrations": { "a": 1 } }),
    ] {
        assert!(ids.insert(id(with(json!({ "timestamp": AT }), other.clone()))), "{other}");
    }
    let single = |path: Call| {
        let body = json!({ "userId": "u", "timestamp": AT, "event": "A" }).to_string();
        read(body.as_bytes(), Endpoint::Single(path), |taken| story(&taken.unwrap().facts[0])["id"].clone())
    };
    assert_eq!(single(Call::Track), id(json!({ "timestamp": AT })));
    assert_ne!(single(Call::Track), single(Call::Page));
    assert_eq!(id(json!({})), "req_1-0");
    assert_eq!(id(json!({ "messageId": null })), "req_1-0");
}

#[test]
fn what_we_derive_and_aliases_are_ignored() {
    let derived = ["Email Unique Opens", "Unique Link Click", "Unique Link Click per Unique Open"];
    let mut items: Vec<Json> = derived.map(|name| json!({ "type": "track", "event": name, "userId": "u" })).to_vec();
    items.push(json!({ "type": "alias", "previousId": "p", "userId": "u" }));
    read(json!({ "batch": items }).to_string().as_bytes(), Endpoint::Batch, |taken| {
        let taken = taken.unwrap();
        assert_eq!((taken.facts.len(), taken.accepted, taken.rejected.len()), (0, 0, 0));
        let codes: Vec<(usize, &str)> = taken.ignored.iter().map(|(index, why)| (*index, why.name())).collect();
        assert_eq!(codes, [(0, "derived_event"), (1, "derived_event"), (2, "derived_event"), (3, "alias")]);
    });
}

#[test]
fn one_bad_item_costs_no_other() {
    let long = |bytes: usize| "x".repeat(bytes);
    for (call, code) in [
        (json!({ "type": null }), Code::MissingField),
        (json!({ "type": "purchase" }), Code::UnknownEvent),
        (json!({ "type": 1 }), Code::BadType),
        (json!({ "event": "" }), Code::MissingField),
        (json!({ "event": "  " }), Code::MissingField),
        (json!({ "event": 1 }), Code::BadType),
        (json!({ "event": long(256) }), Code::FieldTooLong),
        (json!({ "event": "a\u{0}b" }), Code::ControlCharacter),
        (json!({ "userId": null }), Code::MissingIdentity),
        (json!({ "userId": "", "anonymousId": "null" }), Code::MissingIdentity),
        (json!({ "userId": 12 }), Code::BadType),
        (json!({ "anonymousId": { "a": 1 } }), Code::BadType),
        (json!({ "anonymousId": long(257) }), Code::FieldTooLong),
        (json!({ "anonymousId": "a\u{0}" }), Code::ControlCharacter),
        (json!({ "messageId": 1 }), Code::BadType),
        (json!({ "messageId": long(257) }), Code::BadId),
        (json!({ "messageId": "a\nb" }), Code::BadId),
        (json!({ "properties": [] }), Code::BadType),
        (json!({ "context": "x" }), Code::BadType),
        (json!({ "integrations": true }), Code::BadType),
        (json!({ "timestamp": "2026-11-23T09:00:00" }), Code::BadTimestamp),
        (json!({ "timestamp": "2024-11-23T09:00:00Z" }), Code::TimestampOutOfRange),
        (json!({ "properties": { "a": long(33_000) } }), Code::EventTooLarge),
        (json!({ "properties": { "a": long(30_500) } }), Code::EventTooLarge),
        (json!({ "context": { "a": long(30_500) } }), Code::EventTooLarge),
        (json!({ "type": "identify", "traits": "x" }), Code::BadType),
        (json!({ "type": "group" }), Code::MissingField),
        (json!({ "type": "group", "groupId": long(501) }), Code::FieldTooLong),
        (json!({ "type": "page", "name": 1 }), Code::BadType),
        (json!({ "event": "Email Link Clicked" }), Code::MissingField),
        (json!({ "event": "Email Opened", "properties": { "email_id": [] } }), Code::BadType),
        (json!({ "event": "Email Opened", "properties": { "is_machine": "yes" } }), Code::BadType),
        (json!({ "event": "Email Opened", "properties": { "campaign_name": long(9_000) } }), Code::FieldTooLong),
    ] {
        check_refused(call, code);
    }
    let many: Map<String, Json> = (0..400).map(|key| (format!("k{key}"), json!(key))).collect();
    check(
        json!({ "type": "track", "event": "A", "anonymousId": "p", "properties": many }),
        json!({ "kind": "custom_track", "person": "p", "event": "A", "properties": many }),
    );
    check(
        json!({ "type": "track", "event": "Link Clicked", "anonymousId": "p", "properties": { "href": "/a" } }),
        json!({ "kind": "custom_track", "person": "p", "event": "Link Clicked", "properties": { "href": "/a" } }),
    );
}

#[test]
fn faults_of_an_items_text_are_the_items() {
    let deep = format!("{}1{}", "[".repeat(17), "]".repeat(17));
    for (bad, code) in [
        (r#"{"type":"track","type":"page"}"#, Code::DuplicateKey),
        (r#"{"type":"track","properties":{"a":1,"\u0061":2}}"#, Code::DuplicateKey),
        (r#"{"type":"track","event":"\ud83d"}"#, Code::BadUtf8),
        (r#"{"type":"track","properties":{"a":NaN}}"#, Code::BadNumber),
        (&format!(r#"{{"type":"track","properties":{deep}}}"#), Code::TooDeep),
        ("[1]", Code::NotAnObject),
        ("null", Code::NotAnObject),
        (" \"},{\" ", Code::NotAnObject),
        ("NaN", Code::BadNumber),
        ("-Infinity", Code::BadNumber),
        ("[1e999]", Code::BadNumber),
        (r#""\ud83d""#, Code::BadUtf8),
    ] {
        let good = |id: u8| format!(r#"{{"type":"track","event":"A","userId":"u","messageId":"{id}"}}"#);
        let body = format!(r#"{{"batch":[{},{bad},{}]}}"#, good(1), good(2));
        read(body.as_bytes(), Endpoint::Batch, |taken| {
            let taken = taken.unwrap();
            assert_eq!(
                taken.rejected.iter().map(|(index, why)| (*index, why.code)).collect::<Vec<_>>(),
                [(1, code)],
                "{bad}"
            );
            assert_eq!(taken.accepted, 2, "{bad}");
        });
    }
}

#[test]
fn faults_of_the_body_take_nothing() {
    let refusal = |body: &str, endpoint: Endpoint| {
        read(body.as_bytes(), endpoint, |taken| taken.map(|_| ()).map_err(|why| (why.code, why.rejected.len())))
    };
    let item = r#"{"type":"track","event":"A","userId":"u"}"#;
    let bad = r#"{"type":"track","userId":"u"}"#;
    for (body, code, rejected) in [
        ("", Code::BadJson, 0),
        ("[]", Code::NotAnObject, 0),
        (&format!("[{item}]"), Code::NotAnObject, 0),
        ("{}", Code::EmptyBatch, 0),
        (r#"{"batch":[]}"#, Code::EmptyBatch, 0),
        (r#"{"batch":{}}"#, Code::BadType, 0),
        (&format!("{{\"batch\":[{item}],\"batch\":[]}}"), Code::DuplicateKey, 0),
        (&format!("{{\"batch\":[{item}]}}x"), Code::BadJson, 0),
        (&format!("{{\"batch\":[{item},]}}"), Code::BadJson, 0),
        (&format!("{{\"batch\":[{item}}}"), Code::BadJson, 0),
        (&format!("{{\"batch\":[{item},{{'a':1}}]}}"), Code::BadJson, 0),
        (&format!("{{\"batch\":[{bad},{bad}]}}"), Code::MissingField, 2),
        (&format!("{{\"batch\":[{item},nul]}}"), Code::BadJson, 0),
        (&format!("{{\"batch\":[{item} 1]}}"), Code::BadJson, 0),
        (&format!("{{\"batch\":[{item},,{item}]}}"), Code::BadJson, 0),
    ] {
        let name: String = body.chars().take(80).collect();
        assert_eq!(refusal(body, Endpoint::Batch), Err((code, rejected)), "{name}");
    }
    let track = Endpoint::Single(Call::Track);
    assert_eq!(refusal(r#"{"userId":"u"}"#, track), Err((Code::MissingField, 1)));
    assert_eq!(refusal(r#"{"userId":"u","userId":"u"}"#, track), Err((Code::DuplicateKey, 0)));
    assert_eq!(refusal(r#"{"userId":"u","event":"A"}"#, track), Ok(()));
}

#[test]
fn only_what_is_too_much_is_refused() {
    let outcome = |items: usize| {
        let body = json!({ "batch": vec![json!({ "type": "track", "event": "A", "userId": "u" }); items] }).to_string();
        read(body.as_bytes(), Endpoint::Batch, |taken| {
            let taken = taken.unwrap();
            let rejected: Vec<_> = taken.rejected.iter().map(|(index, why)| (*index, why.code)).collect();
            (taken.accepted, rejected, taken.unnamed)
        })
    };
    assert_eq!(outcome(ITEMS_MAX), (ITEMS_MAX, vec![], 0));
    assert_eq!(outcome(ITEMS_MAX + 1), (ITEMS_MAX, vec![(ITEMS_MAX, Code::TooManyEvents)], 0));
    assert_eq!(outcome(ITEMS_MAX + 40), (ITEMS_MAX, vec![(ITEMS_MAX, Code::TooManyEvents)], 39));
}

#[tokio::test]
async fn all_that_is_refused_is_counted() {
    let desk = Desk::open(Vec::new()).await;
    let body = json!({ "batch": vec![1; ITEMS_MAX + 3] }).to_string();
    assert_eq!(desk.call("POST", "/v1/batch", body).await.status(), StatusCode::BAD_REQUEST);
    // One under an index of its own, and two behind it.
    desk.counted(r#"inflection_ingest_events_rejected_total{code="not_an_object"} 2503"#);
}

#[tokio::test]
async fn what_is_ignored_is_counted_by_why() {
    let desk = Desk::open(Vec::new()).await;
    let derived = json!({ "type": "track", "event": "Email Unique Opens", "userId": "u" });
    let alias = json!({ "type": "alias", "previousId": "a", "userId": "u" });
    let body = json!({ "batch": [derived, alias, alias] }).to_string();
    assert_eq!(desk.call("POST", "/v1/batch", body).await.status(), StatusCode::OK);
    desk.counted(r#"inflection_ingest_events_unmapped_total{provider="segment",type="derived_event"} 1"#);
    desk.counted(r#"inflection_ingest_events_unmapped_total{provider="segment",type="alias"} 2"#);
}

#[test]
fn what_segment_takes_is_not_refused() {
    let body = r#"{"batch":[{"type":"track","event":"A","anonymousId":"p","properties":{"a":-0.0,"b":[-0]}}],"x":-0}"#;
    read(body.as_bytes(), Endpoint::Batch, |taken| {
        assert_eq!(taken.unwrap().facts[0].body.properties, r#""a":-0.0,"b":[-0]"#);
    });
    let custom = |event: &str, properties: Json| {
        check(
            json!({ "type": "track", "event": event, "anonymousId": "p", "properties": properties }),
            json!({ "kind": "custom_track", "person": "p", "event": event, "properties": properties }),
        );
    };
    custom("Link Clicked", json!({ "link_url": { "href": "/a" } }));
    custom("Link Clicked", json!({ "link_url": ["/a"], "email_link_url": true }));
    custom("Unsubscribed", json!({ "plan": "gold" }));
    custom(
        "Unsubscribed",
        json!({ "plan": "gold", "email_id": null, "list_id": "", "email": "no address", "userId": 7 }),
    );
    check(
        json!({ "type": "track", "event": "Email Opened", "anonymousId": "p", "properties": { "list_id": [1], "link_url": {} } }),
        json!({ "kind": "email_opened", "person": "p", "properties": { "list_id": [1] } }),
    );
}

#[test]
fn an_unsubscribed_is_a_mails_when_it_says_which() {
    for properties in [
        json!({ "email_id": 7 }),
        json!({ "campaign_id": "c" }),
        json!({ "campaign_run_id": "r" }),
        json!({ "list_id": 7 }),
        json!({ "unsubscribe_scope": "s" }),
        json!({ "provider_message_id": "pm" }),
        json!({ "email": "ann@example.com" }),
        json!({ "Userid": "ann@example.com" }),
    ] {
        let track = json!({ "type": "track", "event": "Unsubscribed", "anonymousId": "p", "properties": properties });
        assert_eq!(facts(&track)[0]["kind"], "email_unsubscribed", "{properties}");
    }
    let named = json!({ "type": "track", "event": "Email Unsubscribed", "anonymousId": "p" });
    assert_eq!(facts(&named)[0]["kind"], "email_unsubscribed");
}

#[test]
fn an_address_among_a_mails_properties_is_its_address_in_any_case() {
    for name in ["email", "Email", "EMAIL", "userId", "userid", "UserID"] {
        check(
            json!({ "type": "track", "event": "Email Opened", "anonymousId": "p", "properties": { name: "ann@example.com", "a": 1 } }),
            json!({ "kind": "email_opened", "person": "p", "email": "ann@example.com", "properties": { "a": 1 } }),
        );
        check(
            json!({ "type": "track", "event": "Email Opened", "anonymousId": "p", "properties": { name: ["ann@example.com"] } }),
            json!({ "kind": "email_opened", "person": "p" }),
        );
    }
}

#[test]
fn what_cannot_be_stored_now_is_told_so_that_sdks_wait() {
    for (code, status) in [(Code::StorageUnavailable, 503), (Code::Overloaded, 503), (Code::RateLimited, 429)] {
        let answer = refused(&Refusal::later(code, "later", 7), "req_1");
        let wait = answer.headers().get("retry-after").map(|value| value.to_str().unwrap());
        assert_eq!((answer.status().as_u16(), wait), (status, Some("7")), "{code:?}");
    }
}

#[test]
fn a_path_says_which_call_it_is() {
    let body = br#"{"type":"identify","userId":"u","event":"A","writeKey":"k"}"#;
    read(body, Endpoint::Single(Call::Track), |taken| {
        assert_eq!(story(&taken.unwrap().facts[0])["kind"], "custom_track");
    });
    assert_eq!(Envelope::read(body, Endpoint::Single(Call::Track)).unwrap().write_key.as_deref(), Some("k"));
    let batch = br#"{"batch":[{"type":"track","writeKey":"item"}],"writeKey":"k"}"#;
    assert_eq!(Envelope::read(batch, Endpoint::Batch).unwrap().write_key.as_deref(), Some("k"));
}

#[test]
fn an_id_twice_in_a_batch() {
    let item = |properties: &str| {
        format!(r#"{{"type":"track","event":"A","userId":"u","messageId":"m","properties":{properties}}}"#)
    };
    let body = format!(r#"{{"batch":[{},{},{}]}}"#, item("{}"), item("{}"), item(r#"{"a":1}"#));
    read(body.as_bytes(), Endpoint::Batch, |taken| {
        let taken = taken.unwrap();
        assert_eq!((taken.accepted, taken.facts.len()), (2, 2));
        assert_eq!(
            taken.rejected.iter().map(|(index, why)| (*index, why.code)).collect::<Vec<_>>(),
            [(2, Code::IdConflict)]
        );
    });
}

/// Any value of a field of an item, sound or not.
fn value() -> impl Strategy<Value = Json> {
    let words =
        ["track", "identify", "alias", "Email Opened", "Unique Link Click", "null", "u", "", "2026-11-23T09:00:00Z"];
    prop_oneof![
        4 => proptest::sample::select(words.to_vec()).prop_map(Json::from),
        1 => Just(Json::Null),
        1 => any::<i64>().prop_map(Json::from),
        1 => any::<String>().prop_map(Json::from),
        1 => Just(json!({ "traits": { "email": "ann@example.com" } })),
        1 => Just(json!([1])),
    ]
}

fn item() -> impl Strategy<Value = Json> {
    const KEYS: [&str; 11] = [
        "type",
        "event",
        "userId",
        "anonymousId",
        "messageId",
        "timestamp",
        "properties",
        "traits",
        "context",
        "groupId",
        "name",
    ];
    proptest::collection::btree_map(proptest::sample::select(KEYS.to_vec()), value(), 0..11)
        .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>().into())
}

proptest! {
    #[test]
    fn every_item_is_answered_for_once(items in proptest::collection::vec(prop_oneof![9 => item(), 1 => value()], 1..12)) {
        let body = json!({ "batch": items }).to_string();
        read(body.as_bytes(), Endpoint::Batch, |taken| {
            let mut indexes: Vec<usize> = match &taken {
                Ok(taken) => {
                    let refused = taken.rejected.iter().map(|(index, _)| *index);
                    refused.chain(taken.ignored.iter().map(|(index, _)| *index)).collect()
                }
                Err(refusal) => {
                    refusal.rejected.iter().map(|one| usize::try_from(one["index"].as_u64().unwrap()).unwrap()).collect()
                }
            };
            let answered = indexes.len() + taken.as_ref().map_or(0, |taken| taken.accepted);
            prop_assert_eq!(answered, items.len());
            indexes.sort_unstable();
            indexes.dedup();
            prop_assert_eq!(indexes.len() + taken.map_or(0, |taken| taken.accepted), items.len(), "each index once");
            Ok(())
        })?;
    }

    #[test]
    fn garbage_is_refused_and_no_panic(text in "[\\[\\]{}:,\"a0-9e.\\-\\\\ntrufls ]{0,40}") {
        for body in [text.clone(), format!("{{\"batch\":[{text}]}}"), format!("{{\"batch\":[{{{text}}}]}}")] {
            read(body.as_bytes(), Endpoint::Batch, |taken| {
                prop_assert!(taken.is_err(), "{}", body);
                Ok(())
            })?;
        }
    }
}
