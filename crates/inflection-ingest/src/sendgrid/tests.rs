//! Every event type as a fact, and the signature under every mutation.

use inflection_domain::{BounceClass, FactKind, InstallationKey, WorkspaceId};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::*;

fn mapped(body: &str) -> Option<Mapped> {
    let (workspace, key) = (WorkspaceId::new("acme").unwrap(), InstallationKey::new([1; 32]));
    let now = Timestamp::parse("2026-11-23T10:00:00Z").unwrap();
    parse(body.as_bytes(), Context { workspace: &workspace, key: &key, now, clamp_time: true })
}

fn one(fields: &str) -> Fact<'static> {
    let body = format!(
        r#"[{{"email":"ann@corp.example","timestamp":1795420800,"sg_event_id":"e1","sg_message_id":"m1.recvd-1",{fields}}}]"#
    );
    let mut mapped = mapped(&body).unwrap();
    assert!(mapped.rejected.is_empty(), "{:?}", mapped.rejected);
    mapped.facts.remove(0)
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
        assert_eq!(one(fields).head.kind, kind, "{fields}");
    }
    let none =
        mapped(r#"[{"event":"processed"},{"event":"deferred"},{"event":"dropped"},{"event":"new"},{}]"#).unwrap();
    assert_eq!((none.facts.len(), none.unmapped), (0, 5));
    assert!(mapped("not json").is_none());
    assert!(mapped("{}").is_none());
    assert!(mapped("[]\r\n").unwrap().facts.is_empty());
}

#[test]
fn fields_are_carried_over() {
    let fact = one(
        r#""event":"open","sg_machine_open":true,"inflection_campaign_id":"c","campaign_id":"other","inflection_person_id":"p","inflection_campaign_run_id":"r","inflection_email_id":"m""#,
    );
    let body = &fact.body;
    assert_eq!(body.event_id.as_str(), "sendgrid:e1");
    assert_eq!(body.person.as_str(), "p");
    assert_eq!(body.campaign_id.as_deref(), Some("c"));
    assert_eq!(body.provider_message_id.as_deref(), Some("m1"));
    assert!(body.is_machine && fact.head.machine);
    assert_eq!(fact.head.occurred_at.to_string(), "2026-11-23T08:00:00.000Z");
    assert!(one(r#""event":"open""#).body.person.as_str().starts_with("per_"));
    let class = |fields: &str| one(&format!(r#""event":"bounce",{fields}"#)).body.bounce_class;
    assert_eq!(class(r#""type":"bounce","status":"5.1.1""#), Some(BounceClass::Hard));
    assert_eq!(class(r#""type":"bounce","status":"5.2.2""#), Some(BounceClass::Soft));
    assert_eq!(class(r#""type":"blocked""#), Some(BounceClass::Block));
    assert_ne!(
        one(r#""event":"unsubscribe""#).head.scope,
        one(r#""event":"group_unsubscribe","asm_group_id":7"#).head.scope
    );
}

#[test]
fn times_come_in_three_units_and_two_types() {
    for text in ["1795420800", "1795420800000", "1795420800000000"] {
        assert_eq!(timestamp(text).unwrap().to_string(), "2026-11-23T08:00:00.000Z");
    }
    assert_eq!(timestamp("soon"), None);
}

#[test]
fn a_signature_covers_timestamp_and_body() {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
    let spki = [&SPKI_PREFIX[..], pair.public_key().as_ref()].concat();
    let key = Secret::new(&STANDARD.encode(spki)).unwrap();
    let other = Secret::new("bm90IGEga2V5").unwrap();
    let body = b"[]\r\n";
    let signature = STANDARD.encode(pair.sign(&random, b"1795420800[]\r\n").unwrap());
    let check = |signature: Option<&str>, timestamp: &str, body: &[u8], keys: &[Secret]| {
        let mut headers = HeaderMap::new();
        if let Some(signature) = signature {
            headers.insert(SIGNATURE, signature.parse().unwrap());
        }
        headers.insert(TIMESTAMP, timestamp.parse().unwrap());
        verify(&headers, body, keys).map_err(|refusal| refusal.code)
    };
    let keys = [other.clone(), key];
    assert_eq!(check(Some(&signature), "1795420800", body, &keys), Ok(()));
    assert_eq!(check(None, "1795420800", body, &keys), Err(Code::SignatureMissing));
    for (signature, timestamp, body, keys) in [
        (signature.as_str(), "1795420801", &body[..], &keys[..]),
        (&signature, "1795420800", b"[]\n", &keys),
        (&signature, "1795420800", body, &keys[..1]),
        (&signature, "1795420800", body, &[]),
        ("", "1795420800", body, &keys),
        ("!", "1795420800", body, &keys),
        ("AAAA", "1795420800", body, &keys),
    ] {
        assert_eq!(check(Some(signature), timestamp, body, keys), Err(Code::SignatureInvalid));
    }
}
