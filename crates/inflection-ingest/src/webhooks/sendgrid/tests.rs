//! Every event type as a fact, and the signature under every mutation.

use inflection_control::P256_SPKI_PREFIX;
use inflection_control::Provider::Sendgrid;
use inflection_domain::{BounceClass, Fact, FactKind, MachineSignal};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::*;
use crate::answer::Code;
use crate::webhooks::testing::{NOW, at, check_day, every_bit_counts, one, parsed, verified, webhook};

fn event(fields: &str) -> Fact<'static> {
    one(
        Sendgrid,
        &format!(
            r#"[{{"email":"ann@corp.example","timestamp":1795420800,"sg_event_id":"e1","sg_message_id":"m1.recvd-1",{fields}}}]"#
        ),
    )
}

#[test]
fn every_type_has_its_fact() {
    for (fields, kind) in [
        (r#""event":"delivered""#, FactKind::EmailDelivered),
        (r#""event":"open""#, FactKind::EmailOpened),
        (r#""event":"click","url":"https://example.com""#, FactKind::LinkClicked),
        (r#""event":"bounce","type":"bounce""#, FactKind::EmailBounced),
        (r#""event":"spamreport""#, FactKind::EmailReportedAsSpam),
        (r#""event":"unsubscribe""#, FactKind::EmailUnsubscribed),
        (r#""event":"group_unsubscribe","asm_group_id":7"#, FactKind::EmailUnsubscribed),
    ] {
        assert_eq!(event(fields).head.kind, kind, "{fields}");
    }
    let read = |body: &str| parsed(&webhook(Sendgrid, &[]), &[], body.as_bytes());
    let none =
        read(r#"[{"event":"processed"},{"event":"deferred"},{"event":"dropped"},{"event":"new"},{},1]"#).unwrap();
    assert_eq!((none.facts.len(), none.ignored.values().sum::<u64>(), none.ignored["other"]), (0, 6, 3));
    assert!(read("not json").is_none());
    assert!(read("{}").is_none());
    assert!(read("[]\r\n").unwrap().facts.is_empty());
}

#[test]
fn fields_are_carried_over() {
    let fact = event(
        r#""event":"open","sg_machine_open":true,"inflection_campaign_id":"c","campaign_id":"other","inflection_person_id":"p","inflection_campaign_run_id":"r","inflection_email_id":"m""#,
    );
    let body = &fact.body;
    assert_eq!(body.event_id.as_str(), "sendgrid:e1");
    assert_eq!(body.person.as_str(), "p");
    assert_eq!(body.campaign_id.as_deref(), Some("c"));
    assert_eq!(body.provider_message_id.as_deref(), Some("m1"));
    assert!(body.is_machine && fact.head.machine.signal == MachineSignal::Machine);
    assert_eq!(fact.head.occurred_at.to_string(), "2026-11-23T08:00:00.000Z");
    // What SendGrid takes for no machine is still judged here.
    let opened = |says: &str| event(&format!(r#""event":"open","useragent":"Mozilla/5.0"{says}"#)).body;
    assert!(opened("").is_machine, "our own judgement");
    assert!(opened(r#","sg_machine_open":false"#).is_machine);
    assert!(event(r#""event":"open""#).body.person.as_str().starts_with("per_"));
    let class = |fields: &str| event(&format!(r#""event":"bounce",{fields}"#)).body.bounce_class;
    assert_eq!(class(r#""type":"bounce","status":"5.1.1""#), Some(BounceClass::Hard));
    assert_eq!(class(r#""type":"bounce","status":"5.2.2""#), Some(BounceClass::Soft));
    assert_eq!(class(r#""type":"blocked""#), Some(BounceClass::Block));
    assert_ne!(
        event(r#""event":"unsubscribe""#).head.scope,
        event(r#""event":"group_unsubscribe","asm_group_id":7"#).head.scope
    );
}

#[test]
fn a_day_of_events() {
    check_day(Sendgrid);
}

/// The example of SendGrid's own Go library (`helpers/eventwebhook`, MIT): key, timestamp, body and signature.
#[test]
fn the_published_example_is_genuine() {
    let key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEDr2LjtURuePQzplybdC+u4CwrqDqBaWjcMMsTbhdbcwHBcepxo7yAQGhHPTnlvFYPAZFceEu/1FwCM/QmGUhA==";
    let signature = "MEUCIQCtIHJeH93Y+qpYeWrySphQgpNGNr/U+UyUlBkU6n7RAwIgJTz2C+8a8xonZGi6BpSzoQsbVRamr2nlxFDWYNH2j/0=";
    let body = br#"{"category":"example_payload","event":"test_event","message_id":"message_id"}"#;
    let pairs = [(SIGNATURE, signature), (TIMESTAMP, "1588788367")];
    every_bit_counts(&webhook(Sendgrid, &[key]), &pairs, body, at(NOW));
}

#[test]
fn a_signature_is_over_the_bytes_as_they_came() {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
    let key = STANDARD.encode([&P256_SPKI_PREFIX[..], pair.public_key().as_ref()].concat());
    let signature = STANDARD.encode(pair.sign(&random, b"1795420800[]\r\n").unwrap());
    let check = |signature: &str, timestamp: &str, body: &[u8], keys: &[&str]| {
        verified(&webhook(Sendgrid, keys), &[(SIGNATURE, signature), (TIMESTAMP, timestamp)], body, at(NOW))
    };
    // The older of two keys is good too.
    let keys = ["bm90IGEga2V5", key.as_str()];
    assert_eq!(check(&signature, "1795420800", b"[]\r\n", &keys), Ok(Proof::Whole));
    let unsigned = verified(&webhook(Sendgrid, &keys), &[(TIMESTAMP, "1795420800")], b"[]\r\n", at(NOW));
    assert_eq!(unsigned, Err(Code::SignatureMissing));
    for (signature, timestamp, body, keys) in [
        (signature.as_str(), "1795420801", &b"[]\r\n"[..], &keys[..]),
        (&signature, "1795420800", b"[]\n", &keys),
        (&signature, "1795420800", b"[]\r\n", &keys[..1]),
        (&signature, "1795420800", b"[]\r\n", &[]),
        // The same bytes are signed.
        (&signature, "1795420800[", b"]\r\n", &keys),
        (&signature, "", b"1795420800[]\r\n", &keys),
        ("", "1795420800", b"[]\r\n", &keys),
        ("!", "1795420800", b"[]\r\n", &keys),
        ("AAAA", "1795420800", b"[]\r\n", &keys),
    ] {
        assert_eq!(check(signature, timestamp, body, keys), Err(Code::SignatureInvalid));
    }
}
