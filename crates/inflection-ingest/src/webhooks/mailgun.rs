//! Mailgun.
//!
//! Sources: Mailgun docs, securing webhooks and events; help.mailgun.com, Webhooks.

use std::borrow::Cow;

use inflection_domain::{BounceClass, FactKind, Hash128, Timestamp};
use ring::hmac::HMAC_SHA256;
use serde_json::Value as Json;

use super::adapter::{Adapter, Delivery, Events, Proof, Reading, invalid};
use super::elements;
use super::metadata::Metadata;
use super::proof::{hex, is_signed};
use super::report::{Report, class_of_status, status_in};
use super::values::{at, moment, text, word};
use crate::answer::{Code, Refusal};
use crate::json::{Fault, Reader, Value};

/// How old a signature may be: retries span eight hours, and whether they are signed anew is not documented.
const AGE_MAX_MS: i64 = 12 * 3600 * 1000;
/// How far ahead of our clock a signature may be.
const AHEAD_MAX_MS: i64 = 5 * 60 * 1000;

/// Types that are none of our events.
const IGNORED: [&str; 4] = ["accepted", "rejected", "stored", "failed"];

pub(crate) static ADAPTER: Adapter = Adapter { headers: &[], certificate: None, verify, events, read };

/// Digits of a signature's timestamp. With as many as one likes, digits could move between it and the token: what is signed
/// is the two written together.
const TIMESTAMP_DIGITS: usize = 10;

/// What is signed, the signature, and the event, which is not signed: all of it stands in the body.
#[derive(Debug, Default)]
struct Signature<'b> {
    timestamp: Cow<'b, str>,
    token: Cow<'b, str>,
    signature: Cow<'b, str>,
    /// Of a sub-account's event: the same under the key of the account above it.
    parent: Cow<'b, str>,
    event: Option<&'b str>,
}

/// An HMAC over a timestamp and a token, which the body carries beside the event. The event itself is not covered, so all of it
/// is what the token vouches for.
fn verify(delivery: &Delivery<'_>) -> Result<Proof, Refusal> {
    let signature = signature(delivery.body).map_err(|_fault| invalid())?;
    let message = format!("{}{}", signature.timestamp, signature.token);
    let genuine = |tag: &str| {
        hex(tag).is_some_and(|tag| is_signed(HMAC_SHA256, &delivery.webhook.secrets, message.as_bytes(), &tag))
    };
    if signature.token.is_empty() || !(genuine(&signature.signature) || genuine(&signature.parent)) {
        return Err(invalid());
    }
    let age = delivery.now.as_ms() - signature.signed_at().ok_or_else(invalid)?.as_ms();
    if !(-AHEAD_MAX_MS..=AGE_MAX_MS).contains(&age) {
        return Err(Refusal::new(Code::SignatureStale, "the signature is older than 12 hours, or ahead of our clock"));
    }
    let webhook = delivery.webhook.token.expose().as_bytes();
    let token = Hash128::of("mailgun token", &[webhook, message.as_bytes()]);
    let content = signature.event.map_or_else(
        || delivery.body.to_vec(),
        // However it is written the next time.
        |text| elements::build(text).map_or_else(|_| text.to_owned(), |event| event.to_string()).into_bytes(),
    );
    Ok(Proof::Token { token, content: Hash128::of("mailgun content", &[&content]) })
}

impl Signature<'_> {
    fn signed_at(&self) -> Option<Timestamp> {
        let is_plain =
            self.timestamp.len() == TIMESTAMP_DIGITS && self.timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let seconds: i64 = self.timestamp.parse().ok().filter(|_| is_plain)?;
        Some(Timestamp::from_ms(seconds * 1000))
    }
}

/// The signature of a body, and where its event is; nothing else of it is built.
fn signature(body: &[u8]) -> Result<Signature<'_>, Fault> {
    let (mut reader, mut signature, mut found) = (Reader::new(body)?, Signature::default(), false);
    reader.object(|key, reader| {
        if key == "signature" {
            if std::mem::replace(&mut found, true) {
                return Err(Fault::DuplicateKey);
            }
            return reader.object(|key, reader| {
                let Value::Text(value) = reader.value(3)? else { return Ok(()) };
                match &*key {
                    "timestamp" => signature.timestamp = value,
                    "token" => signature.token = value,
                    "signature" => signature.signature = value,
                    "parent-signature" => signature.parent = value,
                    _ => {}
                }
                Ok(())
            });
        }
        let is_event = key == "event-data";
        reader.peek();
        let start = reader.position();
        reader.value(2)?;
        if is_event && signature.event.replace(reader.since(start)).is_some() {
            return Err(Fault::DuplicateKey);
        }
        Ok(())
    })?;
    reader.end()?;
    Ok(signature)
}

fn events<'d>(delivery: &Delivery<'d>) -> Option<Events<'d>> {
    let event = signature(delivery.body).ok()?.event.and_then(elements::object)?;
    Some(vec![Cow::Borrowed(event)])
}

fn read(event: &Json, delivery: &Delivery<'_>) -> Vec<Reading> {
    let name = word(event, &["event"]);
    let kind = match name {
        Some("delivered") => FactKind::EmailDelivered,
        Some("opened") => FactKind::EmailOpened,
        Some("clicked") => FactKind::LinkClicked,
        Some("complained") => FactKind::EmailReportedAsSpam,
        Some("unsubscribed") => FactKind::EmailUnsubscribed,
        // Temporary failures are tried again; what was suppressed no server has refused.
        Some("failed") if word(event, &["severity"]) == Some("permanent") && !is_suppressed(event) => {
            FactKind::EmailBounced
        }
        _ => return Reading::ignored(name, &IGNORED),
    };
    let mut metadata = Metadata::of(delivery.webhook);
    metadata.add_object(at(event, &["user-variables"]));
    metadata.add_tags(at(event, &["tags"]));
    let happened_at = moment(event, &["timestamp"]);
    let bot = word(event, &["client-info", "bot"]).is_some_and(|bot| !bot.is_empty());
    vec![Reading::Report(Box::new(Report {
        id: event_id(event, happened_at),
        at: happened_at,
        email: text(event, &["recipient"]),
        message_id: text(event, &["message", "headers", "message-id"]),
        url: text(event, &["url"]),
        user_agent: text(event, &["client-info", "user-agent"]),
        ip: text(event, &["ip"]),
        is_machine: bot.then_some(true),
        bounce_class: bounce_class(event),
        bounce_reason: text(event, &["delivery-status", "message"])
            .or_else(|| text(event, &["delivery-status", "description"])),
        unsubscribe_scope: (kind == FactKind::EmailUnsubscribed).then(|| "global".to_owned()),
        ..Report::new(kind, metadata)
    }))]
}

/// Mailgun's ids are unique within a day only. Not the token: several webhooks get one event under different tokens.
fn event_id(event: &Json, at: Option<Timestamp>) -> Option<String> {
    let id = text(event, &["id"])?;
    Some(format!("{}:{id}", at.map(Timestamp::day).unwrap_or_default()))
}

fn is_suppressed(event: &Json) -> bool {
    word(event, &["reason"]).is_some_and(|reason| reason.starts_with("suppress-"))
}

/// A permanent failure is hard, unless it is the end of temporary ones, or its status says more.
fn bounce_class(event: &Json) -> BounceClass {
    let code = text(event, &["delivery-status", "code"]).unwrap_or_default();
    let message = word(event, &["delivery-status", "message"]).unwrap_or_default();
    let description = word(event, &["delivery-status", "description"]).unwrap_or_default();
    if code.starts_with('4') || description.contains("Too old") || message.contains("Too old") {
        return BounceClass::Soft;
    }
    status_in(message).and_then(class_of_status).unwrap_or(BounceClass::Hard)
}

#[cfg(test)]
mod tests {
    use inflection_control::Provider::Mailgun;

    use super::*;
    use crate::webhooks::testing::{at as moment_of, check_day, parsed, verified, webhook};

    const KEY: &str = "key-3ax6xnjp29jd6fds4gc373sgvjxteol0";
    const TOKEN: &str = "a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0";
    /// Of `1795420800` and [`TOKEN`] under [`KEY`], computed with OpenSSL.
    const TAG: &str = "f97c2a376e90a6640641caf17e082bfbcb2b7d931756be1f881c99a6a9975ce9";

    fn body(timestamp: &str, token: &str, tag: &str) -> String {
        format!(
            r#"{{"signature":{{"timestamp":"{timestamp}","token":"{token}","signature":"{tag}"}},"event-data":{{"event":"opened","id":"x","timestamp":1795420800.5,"recipient":"ann@corp.example"}}}}"#
        )
    }

    fn check(keys: &[&str], body: &str, now: &str) -> Result<Proof, Code> {
        verified(&webhook(Mailgun, keys), &[], body.as_bytes(), moment_of(now))
    }

    #[test]
    fn a_day_of_events() {
        check_day(Mailgun);
    }

    #[test]
    fn timestamp_and_token_are_signed() {
        let now = "1795420860";
        let good = body("1795420800", TOKEN, TAG);
        assert!(check(&[KEY], &good, now).is_ok());
        assert!(check(&["another", KEY], &good, now).is_ok(), "rotation");
        let of_parent = good.replace(r#""signature":""#, r#""signature":"00","parent-signature":""#);
        assert!(check(&[KEY], &of_parent, now).is_ok(), "sub-account");
        for (part, text) in [("timestamp", "1795420800"), ("token", TOKEN), ("signature", TAG)] {
            for at in 0..text.len() * 8 {
                let mut changed = text.as_bytes().to_vec();
                changed[at / 8] ^= 1 << (at % 8);
                let Ok(changed) = String::from_utf8(changed) else { continue };
                let body = good.replace(&format!(r#""{part}":"{text}""#), &format!(r#""{part}":"{changed}""#));
                assert!(check(&[KEY], &body, now).is_err(), "bit {at} of {part} does not count");
            }
        }
        for (name, body) in [
            ("another key", good.replace(TAG, &TAG.replace('a', "b"))),
            ("upper case", good.replace(TAG, &TAG.to_uppercase())),
            ("cut", good.replace(TAG, "")),
            ("no signature", good.replace("\"signature\":{", "\"signatur\":{")),
            ("two", good.replacen('{', r#"{"signature":{"timestamp":"1"},"#, 1)),
            ("no json", "signature".to_owned()),
            ("empty", String::new()),
        ] {
            assert_eq!(check(&[KEY], &body, now), Err(Code::SignatureInvalid), "{name}");
        }
        assert_eq!(check(&[], &good, now), Err(Code::SignatureInvalid));
    }

    #[test]
    fn a_signature_grows_old() {
        let good = body("1795420800", TOKEN, TAG);
        let at_age = |seconds: i64| check(&[KEY], &good, &(1_795_420_800 + seconds).to_string()).err();
        assert_eq!(at_age(12 * 3600), None);
        assert_eq!(at_age(12 * 3600 + 1), Some(Code::SignatureStale));
        assert_eq!(at_age(-300), None);
        assert_eq!(at_age(-301), Some(Code::SignatureStale));
    }

    #[test]
    fn a_token_vouches_for_the_whole_event() {
        let good = body("1795420800", TOKEN, TAG);
        let content = |body: &str| match check(&[KEY], body, "1795420860") {
            Ok(Proof::Token { token, content }) => (token, content),
            other => panic!("{body}: {other:?}"),
        };
        let as_written_otherwise = good.replace(r#""event":"opened","id":"x""#, r#""id": "x", "event": "opened""#);
        assert_eq!(content(&good), content(&as_written_otherwise));
        for (part, other) in [
            ("ann@corp.example", "bob@corp.example"),
            ("opened", "clicked"),
            ("1795420800.5", "1795420800.6"),
            (r#""id":"x""#, r#""id":"y""#),
            (r#""id":"x""#, r#""id":"x","user-variables":{"person_id":"p"}"#),
        ] {
            let changed = content(&good.replace(part, other));
            assert_eq!(changed.0, content(&good).0);
            assert_ne!(changed.1, content(&good).1, "{other}");
        }
        let [one, other] = ["[1]", "[2]"]
            .map(|event| content(&good.replace("\"event-data\":{", &format!("\"event-data\":{event},\"x\":{{"))));
        assert_ne!(one.1, other.1, "what cannot be read is vouched for too");
        let [one, other] =
            ["1", "2"].map(|more| content(&good.replace("\"event-data\"", &format!("\"x\":{more},\"event-dat\""))));
        assert_ne!(one.1, other.1, "without an event, all of the body");
        let twice = good.replace("\"event-data\"", "\"event-data\":{},\"event-data\"");
        assert!(check(&[KEY], &twice, "1795420860").is_err());
    }

    #[test]
    fn no_digit_moves_between_timestamp_and_token() {
        // What is signed stays the same, and the moment would too: milliseconds, or a fraction.
        let whole = format!("1795420800{TOKEN}");
        let is_taken = |at: usize| {
            let (timestamp, token) = whole.split_at(at);
            check(&[KEY], &body(timestamp, token, TAG), "1795420860").is_ok()
        };
        assert!(is_taken(10));
        assert!((0..10).chain(11..whole.len()).all(|at| !is_taken(at)));
        // A token of digits: what is left of it is a token still, and ten digits and three are milliseconds.
        let token = "123456789";
        let tag = ring::hmac::sign(
            &ring::hmac::Key::new(HMAC_SHA256, KEY.as_bytes()),
            format!("1795420800{token}").as_bytes(),
        );
        let tag: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(check(&[KEY], &body("1795420800", token, &tag), "1795420860").is_ok());
        assert!(check(&[KEY], &body("1795420800123", "456789", &tag), "1795420860").is_err());
    }

    #[test]
    fn an_event_keeps_its_id_under_another_token() {
        let hook = webhook(Mailgun, &[KEY]);
        let ids = |body: &str| {
            let facts = parsed(&hook, &[], body.as_bytes()).unwrap().facts;
            facts.iter().map(|fact| fact.body.event_id.as_str().to_owned()).collect::<Vec<_>>()
        };
        let (one, other) = (body("1795420800", TOKEN, TAG), body("1795420801", "another", "00"));
        assert_eq!(ids(&one), ids(&other));
        assert_ne!(ids(&one), ids(&one.replace(r#""id":"x""#, r#""id":"y""#)));
        assert!(parsed(&hook, &[], b"{}").is_none() && parsed(&hook, &[], b"[]").is_none());
    }
}
