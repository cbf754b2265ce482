//! The signature of Svix and of the Standard Webhooks specification, which Resend and others use.
//!
//! Sources: Standard Webhooks specification 1.0; svix/svix-webhooks, `rust/src/webhooks.rs`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use inflection_control::KeyForm;
use ring::hmac::HMAC_SHA256;

use super::adapter::{Delivery, Proof, invalid};
use super::proof::is_signed_by;
use crate::answer::{Code, Refusal};

/// How far a signature's time may be from ours. Every attempt is signed anew, so retries are never too old.
const TOLERANCE_MS: u64 = 300 * 1000;

/// Id, timestamp and signature under Svix's names or the specification's.
const NAMES: [[&str; 3]; 2] =
    [["svix-id", "svix-timestamp", "svix-signature"], ["webhook-id", "webhook-timestamp", "webhook-signature"]];

/// The names under which a request is signed. With headers of both families none: who reads must not take an id from the one
/// while the other is signed.
fn names(delivery: &Delivery<'_>) -> Option<&'static [&'static str; 3]> {
    let mut present = NAMES.iter().filter(|names| names.iter().any(|name| delivery.headers.contains_key(*name)));
    let found = present.next()?;
    present.next().is_none().then_some(found)
}

/// The id of a message, the same in all attempts to deliver it, if its event is the only one: of several it is nobody's.
pub(crate) fn lone_message_id<'d>(delivery: &Delivery<'d>) -> Option<&'d str> {
    let [id, ..] = names(delivery)?;
    delivery.header(id).filter(|_| !delivery.body.trim_ascii_start().starts_with(b"["))
}

/// An HMAC over id, timestamp and body; any of several signatures under any of several keys will do.
pub(crate) fn verify(delivery: &Delivery<'_>) -> Result<Proof, Refusal> {
    let [id, timestamp, signatures] = names(delivery).ok_or_else(invalid)?.map(|name| delivery.header(name));
    let (Some(id), Some(timestamp), Some(signatures)) = (id, timestamp, signatures) else { return Err(invalid()) };
    if id.contains('.') {
        // The dot separates what is signed: with one in the id, two messages could be signed alike.
        return Err(invalid());
    }
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", delivery.body].concat();
    let genuine = |key: &[u8]| {
        let tags = signatures.split(' ').filter_map(|one| one.strip_prefix("v1,"));
        let mut tags = tags.filter_map(|tag| STANDARD.decode(tag).ok());
        tags.any(|tag| is_signed_by(HMAC_SHA256, key, &signed, &tag))
    };
    if !delivery.webhook.secrets.iter().filter_map(|key| KeyForm::Base64.decode(key)).any(|key| genuine(&key)) {
        return Err(invalid());
    }
    let signed_at: i64 = timestamp.parse().map_err(|_no_number| invalid())?;
    if delivery.now.as_ms().abs_diff(signed_at.saturating_mul(1000)) > TOLERANCE_MS {
        return Err(Refusal::new(Code::SignatureStale, "the signature is more than 5 minutes from our clock"));
    }
    Ok(Proof::Whole)
}

#[cfg(test)]
mod tests {
    use inflection_control::Provider::{Resend, StandardWebhooks, Svix};

    use super::*;
    use crate::webhooks::testing::{at, every_bit_counts, headers, verified, webhook};

    // The example of Svix's own Rust library (`rust/src/webhooks.rs`, MIT).
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const SIGNED_AT: &str = "1649367553";
    const TAG: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;

    fn check(secrets: &[&str], signature: &str, now: i64) -> Result<Proof, Code> {
        let pairs = [("svix-id", ID), ("svix-timestamp", SIGNED_AT), ("svix-signature", signature)];
        verified(&webhook(Resend, secrets), &pairs, BODY, at(&now.to_string()))
    }

    #[test]
    fn the_published_example_is_genuine() {
        let now = at(SIGNED_AT);
        let svix = [("svix-id", ID), ("svix-timestamp", SIGNED_AT), ("svix-signature", TAG)];
        every_bit_counts(&webhook(Svix, &[SECRET]), &svix, BODY, now);
        let standard = [("webhook-id", ID), ("webhook-timestamp", SIGNED_AT), ("webhook-signature", TAG)];
        every_bit_counts(&webhook(StandardWebhooks, &[SECRET]), &standard, BODY, now);
    }

    #[test]
    fn one_of_several_signatures_and_keys_will_do() {
        let now = 1_649_367_553;
        let wrong = "v1,tFtCZ5RDCPxzWQRWXWPgrCgE2frDBe9gjpbWQxnVfsQ=";
        assert_eq!(check(&[OTHER, SECRET], TAG, now), Ok(Proof::Whole));
        assert_eq!(check(&[SECRET], &format!("{wrong} v2,x {TAG}"), now), Ok(Proof::Whole));
        for signature in [wrong, "", "v1,", "v1", &TAG.replace("v1", "v2"), TAG.get(..9).unwrap(), "v1,%%%"] {
            assert_eq!(check(&[SECRET], signature, now), Err(Code::SignatureInvalid), "{signature}");
        }
        assert_eq!(check(&[OTHER], TAG, now), Err(Code::SignatureInvalid));
        assert_eq!(check(&[], TAG, now), Err(Code::SignatureInvalid));
    }

    #[test]
    fn a_signature_is_good_for_five_minutes_either_way() {
        for (seconds, expected) in [
            (300, Ok(Proof::Whole)),
            (-300, Ok(Proof::Whole)),
            (301, Err(Code::SignatureStale)),
            (-301, Err(Code::SignatureStale)),
        ] {
            assert_eq!(check(&[SECRET], TAG, 1_649_367_553 + seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn headers_that_cannot_be_genuine() {
        let hook = webhook(Resend, &[SECRET]);
        let check = |pairs: &[(&'static str, &str)]| verified(&hook, pairs, BODY, at(SIGNED_AT)).unwrap_err();
        let [id, time, tag] = [("svix-id", ID), ("svix-timestamp", SIGNED_AT), ("svix-signature", TAG)];
        // All of them are answered like a webhook that does not exist.
        for pairs in [
            &[][..],
            &[id, tag],
            &[id, ("webhook-timestamp", SIGNED_AT), tag],
            &[("svix-id", "a.b"), time, tag],
            &[id, time, tag, ("webhook-id", "msg_forged")],
            &[id, time, tag, ("webhook-id", ID), ("webhook-timestamp", SIGNED_AT), ("webhook-signature", TAG)],
        ] {
            assert_eq!(check(pairs), Code::SignatureInvalid, "{pairs:?}");
        }
    }

    #[test]
    fn the_id_is_the_one_that_is_signed() {
        let hook = webhook(Svix, &[SECRET]);
        let id = |pairs: &[(&'static str, &str)], body: &[u8]| {
            let headers = headers(pairs);
            let delivery = Delivery { webhook: &hook, headers: &headers, body, now: at(SIGNED_AT), certificates: &[] };
            lone_message_id(&delivery).map(str::to_owned)
        };
        assert_eq!(id(&[("webhook-id", ID)], b"{}").as_deref(), Some(ID));
        assert_eq!(id(&[("webhook-id", ID), ("svix-id", "msg_forged")], b"{}"), None);
        assert_eq!(id(&[("webhook-id", ID)], b" [{}]"), None);
    }
}
