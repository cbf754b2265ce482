//! Proofs that several providers share. All comparisons take the same time wherever two texts differ.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use inflection_control::{Guard, Secret, Webhook};
use ring::digest::{SHA256, digest};
use ring::hmac;
use subtle::ConstantTimeEq as _;

use super::adapter::{Delivery, Proof, invalid};
use super::ses;
use crate::answer::Refusal;

/// A header of ours for providers that can send one but no `Authorization`.
const SECRET_HEADER: &str = "x-webhook-secret";

/// Whether `tag` is the message's under any of the secrets, whose bytes are the key.
pub(crate) fn is_signed(algorithm: hmac::Algorithm, secrets: &[Secret], message: &[u8], tag: &[u8]) -> bool {
    secrets.iter().any(|secret| is_signed_by(algorithm, secret.expose().as_bytes(), message, tag))
}

/// Whether `tag` is the message's under a key. An empty key signs nothing: anybody has it.
pub(crate) fn is_signed_by(algorithm: hmac::Algorithm, key: &[u8], message: &[u8], tag: &[u8]) -> bool {
    !key.is_empty() && hmac::verify(&hmac::Key::new(algorithm, key), message, tag).is_ok()
}

/// Bytes from lower-case hexadecimal digits.
pub(crate) fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// The proof of providers that sign nothing: one of the webhook's secrets, as `Authorization: Basic` (the secret is then
/// `user:password`), as `Authorization: Bearer`, or in a header of ours. Without secrets, the token in the path was the proof.
pub(crate) fn credentials(delivery: &Delivery<'_>) -> Result<Proof, Refusal> {
    let secrets = &delivery.webhook.secrets;
    if secrets.is_empty() {
        return Ok(Proof::Whole);
    }
    let presented = presented(delivery).ok_or_else(invalid)?;
    let presented = digest(&SHA256, &presented);
    let same = |secret: &Secret| {
        let expected = digest(&SHA256, secret.expose().as_bytes());
        bool::from(expected.as_ref().ct_eq(presented.as_ref()))
    };
    // No early end: which of the secrets it is shows in no time.
    let matches = secrets.iter().filter(|secret| same(secret)).count();
    if matches > 0 { Ok(Proof::Whole) } else { Err(invalid()) }
}

/// Whether the request may be one of a sender that shows its credentials only when it is asked for them.
pub(crate) fn must_ask(webhook: &Webhook, headers: &HeaderMap) -> bool {
    let by_credentials = match webhook.provider.guard() {
        Guard::Signed(_) => false,
        Guard::Topics => headers.contains_key(ses::RAW),
        Guard::Credentials => true,
    };
    by_credentials
        && !webhook.secrets.is_empty()
        && !headers.contains_key(AUTHORIZATION)
        && !headers.contains_key(SECRET_HEADER)
}

fn presented(delivery: &Delivery<'_>) -> Option<Vec<u8>> {
    if let Some(secret) = delivery.header(SECRET_HEADER) {
        return Some(secret.as_bytes().to_vec());
    }
    let (scheme, rest) = delivery.header(AUTHORIZATION.as_str())?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("basic") {
        STANDARD.decode(rest.trim()).ok()
    } else if scheme.eq_ignore_ascii_case("bearer") {
        Some(rest.trim().as_bytes().to_vec())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use inflection_control::Provider;

    use super::*;
    use crate::answer::Code;
    use crate::webhooks::testing::{NOW, at, headers, verified, webhook};

    #[test]
    fn credentials_come_in_three_forms() {
        let hook = webhook(Provider::Postmark, &["newer:secret", "older"]);
        let basic = format!("Basic {}", STANDARD.encode("newer:secret"));
        let check = |pairs: &[(&'static str, &str)]| verified(&hook, pairs, b"{}", at(NOW));
        for pairs in [
            &[("authorization", basic.as_str())][..],
            &[("authorization", "bearer older")],
            &[("x-webhook-secret", "newer:secret")],
        ] {
            assert_eq!(check(pairs), Ok(Proof::Whole), "{pairs:?}");
        }
        for pairs in [
            &[][..],
            &[("authorization", "")],
            &[("authorization", "Basic !")],
            &[("authorization", "Bearer newer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Digest older")],
            &[("authorization", "Bearer older"), ("authorization", "Bearer older")],
            &[("x-webhook-secret", "olde")],
            &[("x-webhook-secret", "")],
        ] {
            assert_eq!(check(pairs), Err(Code::SignatureInvalid), "{pairs:?}");
        }
        assert_eq!(verified(&webhook(Provider::Postmark, &[]), &[], b"{}", at(NOW)), Ok(Proof::Whole));
    }

    #[test]
    fn senders_of_credentials_are_asked_for_them() {
        use Provider::{Mailgun, Postmark, Ses};
        let asked = |provider, secrets: &[&str], pairs: &[(&'static str, &str)]| {
            must_ask(&webhook(provider, secrets), &headers(pairs))
        };
        assert!(asked(Postmark, &["user:password"], &[]) && asked(Ses, &["user:password"], &[(ses::RAW, "true")]));
        // They were, or there is nothing to ask for.
        assert!(!asked(Postmark, &["user:password"], &[("authorization", "Basic !")]));
        assert!(!asked(Postmark, &["user:password"], &[("x-webhook-secret", "")]));
        assert!(!asked(Postmark, &[], &[]) && !asked(Ses, &["user:password"], &[]) && !asked(Mailgun, &["key"], &[]));
    }

    #[test]
    fn hexadecimal_digits_are_lower_case_pairs() {
        assert_eq!(hex("00ff1a"), Some(vec![0, 255, 26]));
        assert_eq!(hex(""), Some(vec![]));
        for text in ["0", "0g", "FF", " 00", "é"] {
            assert_eq!(hex(text), None, "{text}");
        }
    }
}
