//! Mailchimp Transactional (Mandrill).
//!
//! Sources: mailchimp.com/developer/transactional, webhooks and authenticating webhook requests.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use inflection_control::Field;
use inflection_domain::{BounceClass, FactKind};
use ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
use serde_json::Value as Json;

use super::adapter::{Adapter, Delivery, Events, Proof, Reading, invalid};
use super::elements;
use super::metadata::Metadata;
use super::proof::is_signed;
use super::report::{Report, block_or};
use super::values::{at, moment, text, word};
use crate::answer::Refusal;

const SIGNATURE: &str = "x-mandrill-signature";
/// The field of the form that carries the events.
const EVENTS: &[u8] = b"mandrill_events";
/// Most fields of a form. Mandrill sends one.
const FIELDS_MAX: usize = 16;

/// Types that are none of our events.
const IGNORED: [&str; 4] = ["send", "deferral", "reject", "inbound"];

pub(crate) static ADAPTER: Adapter = Adapter { headers: &[SIGNATURE], certificate: None, verify, events, read };

/// An HMAC over the address as it was typed in at Mandrill, and all fields of the form by name. The address is configuration:
/// behind a proxy nobody here knows what it looked like. Nothing in it grows old; repeats are known by their ids.
fn verify(delivery: &Delivery<'_>) -> Result<Proof, Refusal> {
    let url = delivery.webhook.signed_url.as_ref().ok_or_else(invalid)?;
    let tag = delivery.header(SIGNATURE).and_then(|text| STANDARD.decode(text).ok()).ok_or_else(invalid)?;
    let mut signed = url.expose().as_bytes().to_vec();
    for (name, value) in form(delivery.body).ok_or_else(invalid)? {
        signed.extend_from_slice(&name);
        signed.extend_from_slice(&value);
    }
    let genuine = is_signed(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &delivery.webhook.secrets, &signed, &tag);
    if genuine { Ok(Proof::Whole) } else { Err(invalid()) }
}

/// The fields of `application/x-www-form-urlencoded`, decoded, by name. `None` when a name stands twice: it would be
/// signed in one of two orders.
fn form(body: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut fields = BTreeMap::new();
    for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (name, value) = (pair.get(..equals)?, pair.get(equals + 1..).unwrap_or_default());
        if fields.insert(decoded(name)?, decoded(value)?).is_some() || fields.len() > FIELDS_MAX {
            return None;
        }
    }
    Some(fields)
}

/// `%41` and `+` decoded. `None` for a `%` without two digits.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(*digit).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => *other,
        });
    }
    Some(bytes)
}

fn events<'d>(delivery: &Delivery<'d>) -> Option<Events<'d>> {
    let text = String::from_utf8(form(delivery.body)?.remove(EVENTS)?).ok()?;
    Some(elements::array(&text)?.into_iter().map(|event| Cow::Owned(event.to_owned())).collect())
}

fn read(event: &Json, delivery: &Delivery<'_>) -> Vec<Reading> {
    let name = word(event, &["event"]);
    let kind = match name {
        Some("delivered") => FactKind::EmailDelivered,
        Some("send") if delivery.webhook.send_is_delivered => FactKind::EmailDelivered,
        Some("open") => FactKind::EmailOpened,
        Some("click") => FactKind::LinkClicked,
        Some("hard_bounce" | "soft_bounce") => FactKind::EmailBounced,
        Some("spam") => FactKind::EmailReportedAsSpam,
        Some("unsub") => FactKind::EmailUnsubscribed,
        _ => return Reading::ignored(name, &IGNORED),
    };
    let mut metadata = Metadata::of(delivery.webhook);
    metadata.add_object(at(event, &["msg", "metadata"]));
    metadata.add_tags(at(event, &["msg", "tags"]));
    let metadata = metadata.or(Field::EmailSubject, text(event, &["msg", "subject"]));
    let told = if name == Some("hard_bounce") { BounceClass::Hard } else { BounceClass::Soft };
    vec![Reading::Report(Box::new(Report {
        at: moment(event, &["ts"]),
        email: text(event, &["msg", "email"]),
        message_id: text(event, &["msg", "_id"]).or_else(|| text(event, &["_id"])),
        url: text(event, &["url"]),
        user_agent: text(event, &["user_agent"]),
        ip: text(event, &["ip"]),
        bounce_class: block_or(told, word(event, &["msg", "diag"])),
        bounce_reason: text(event, &["msg", "diag"]).or_else(|| text(event, &["msg", "bounce_description"])),
        unsubscribe_scope: (kind == FactKind::EmailUnsubscribed).then(|| "global".to_owned()),
        ..Report::new(kind, metadata)
    }))]
}

#[cfg(test)]
mod tests {
    use inflection_control::Provider::Mandrill;
    use inflection_control::{Secret, Webhook};

    use super::*;
    use crate::webhooks::testing::{NOW, at as moment_of, check_day, every_bit_counts, parsed, verified, webhook};

    const URL: &str = "https://user:pass@hooks.example/v1/webhooks/mandrill/0123456789abcdef";
    const BODY: &[u8] = b"mandrill_events=%5B%7B%22event%22%3A%22open%22%2C%22u%22%3A%22a+b%5C%2F%22%7D%5D";
    /// Over [`URL`], `mandrill_events` and `[{"event":"open","u":"a b\/"}]` under `mandrill-key`, computed with OpenSSL.
    const TAG: &str = "2dNuP4pBXwpwug8MOFvMfLtZsnk=";

    fn hook(keys: &[&str]) -> Webhook {
        Webhook { signed_url: Secret::new(URL), ..webhook(Mandrill, keys) }
    }

    #[test]
    fn a_day_of_events() {
        check_day(Mandrill);
    }

    #[test]
    fn address_and_fields_are_signed() {
        let now = moment_of(NOW);
        assert_eq!(verified(&hook(&["newer", "mandrill-key"]), &[(SIGNATURE, TAG)], BODY, now), Ok(Proof::Whole));
        let elsewhere = Webhook { signed_url: Secret::new("https://hooks.example/"), ..hook(&["mandrill-key"]) };
        assert!(verified(&elsewhere, &[(SIGNATURE, TAG)], BODY, now).is_err());
        assert!(verified(&hook(&["another"]), &[(SIGNATURE, TAG)], BODY, now).is_err());
        let twice = [BODY, b"&mandrill_events=%5B%5D"].concat();
        assert!(verified(&hook(&["mandrill-key"]), &[(SIGNATURE, TAG)], &twice, now).is_err());
        // Written out, what is signed is in the order of names, whatever the order of the form.
        assert_eq!(form(b"b=2&a=1"), form(b"a=1&b=2"));
        // Digits of an escape may be in either case: one bit there need not count. So a body without letters in escapes.
        let plain = b"mandrill_events=[1]";
        every_bit_counts(&hook(&["mandrill-key"]), &[(SIGNATURE, "4iGnFs55NkdlLx6LuXvCM6O7OFU=")], plain, now);
    }

    #[test]
    fn a_send_counts_where_it_is_said_to() {
        let body = br#"mandrill_events=[{"event":"send","ts":1795420800,"msg":{"_id":"m","email":"a@corp.example"}}]"#;
        let kinds = |send_is_delivered| {
            let hook = Webhook { send_is_delivered, ..webhook(Mandrill, &[]) };
            parsed(&hook, &[], body).unwrap().facts.iter().map(|fact| fact.head.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(false), []);
        assert_eq!(kinds(true), [FactKind::EmailDelivered]);
    }

    #[test]
    fn forms_are_decoded() {
        assert_eq!(decoded(b"a%20b+c%C3%a9"), Some("a b cé".into()));
        for wrong in [&b"%"[..], b"%4", b"%4g", b"%%41"] {
            assert_eq!(decoded(wrong), None);
        }
        assert_eq!(form(b"a=1&a=2"), None);
        assert_eq!(form(b"").map(|fields| fields.len()), Some(0));
        assert_eq!(form(b"a&b=").map(|fields| fields.len()), Some(2));
    }
}
