//! As much of an X.509 certificate as a signature of SNS needs: its key and how long it is good.
//!
//! A certificate comes over TLS from Amazon's own host, or stands in the configuration, so who issued it is known without its
//! chain. What is left to do is to find two fields in it, and to fail on whatever is no certificate; a library of X.509 would
//! bring far more code than this walk over a handful of nested values.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use inflection_domain::Timestamp;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RsaParameters, UnparsedPublicKey,
};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

// Tags of DER (X.690) that certificates are made of (RFC 5280, 4.1).
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// `rsaEncryption` with its absent parameters (RFC 3279, 2.3.1).
const RSA_ALGORITHM: [u8; 13] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// A certificate with an RSA key, under which SNS signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The key as RFC 8017 writes it.
    key: Vec<u8>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// With which digest something is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// SNS's signature version 1.
    Sha1,
    /// SNS's signature version 2.
    Sha256,
}

impl Certificate {
    /// Reads a PEM text that holds one certificate and nothing else.
    #[must_use]
    pub fn from_pem(text: &str) -> Option<Self> {
        let body = text.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
        let base64: String = body.split_ascii_whitespace().collect();
        Self::from_der(&STANDARD.decode(base64).ok()?)
    }

    fn from_der(der: &[u8]) -> Option<Self> {
        let (certificate, rest) = take(der, SEQUENCE)?;
        let (mut fields, _signature) = take(certificate, SEQUENCE)?;
        if let Some((_, after)) = take(fields, VERSION) {
            fields = after;
        }
        let (_serial, fields) = take(fields, INTEGER)?;
        let (_algorithm, fields) = take(fields, SEQUENCE)?;
        let (_issuer, fields) = take(fields, SEQUENCE)?;
        let (validity, fields) = take(fields, SEQUENCE)?;
        let (_subject, fields) = take(fields, SEQUENCE)?;
        let (key, _extensions) = take(fields, SEQUENCE)?;
        let (not_before, after) = time(validity)?;
        let (not_after, _) = time(after)?;
        let (algorithm, key) = take(key, SEQUENCE)?;
        let (bits, _) = take(key, BIT_STRING)?;
        // Whole bytes: no unused bits at the end.
        let key = bits.strip_prefix(&[0])?;
        (rest.is_empty() && algorithm == RSA_ALGORITHM).then(|| Self { key: key.to_vec(), not_before, not_after })
    }

    /// Whether the certificate is good at a moment.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// Whether its key has signed a message.
    #[must_use]
    pub fn has_signed(&self, digest: Digest, message: &[u8], signature: &[u8]) -> bool {
        let parameters: &RsaParameters = match digest {
            Digest::Sha1 => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            Digest::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(parameters, &self.key).verify(message, signature).is_ok()
    }
}

/// The content of a value with this tag, and what follows it.
fn take(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        // A length of one or two bytes; nothing here is longer.
        0x81 => rest.split_first().map(|(one, rest)| (usize::from(*one), rest))?,
        0x82 => rest
            .split_at_checked(2)
            .map(|(two, rest)| (two.iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte)), rest))?,
        _ => return None,
    };
    (*found == tag).then(|| rest.split_at_checked(length))?
}

/// A time in either of the two notations, always of UTC, and what follows it.
fn time(bytes: &[u8]) -> Option<(Timestamp, &[u8])> {
    let ((text, rest), century) = match bytes.first()? {
        &UTC_TIME => (take(bytes, UTC_TIME)?, true),
        _ => (take(bytes, GENERALIZED_TIME)?, false),
    };
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    // Two digits of a year mean 1950 to 2049 (RFC 5280, 4.1.2.5.1).
    let text = match century {
        true if text < "50" => format!("20{text}"),
        true => format!("19{text}"),
        false => text.to_owned(),
    };
    if text.len() != 14 || !text.is_ascii() {
        return None;
    }
    let (date, clock) = text.split_at_checked(8)?;
    let part = |text: &str, at: usize, length: usize| text.get(at..at + length).map(str::to_owned);
    let (year, month, day) = (part(date, 0, 4)?, part(date, 4, 2)?, part(date, 6, 2)?);
    let (hour, minute, second) = (part(clock, 0, 2)?, part(clock, 2, 2)?, part(clock, 4, 2)?);
    let moment = Timestamp::parse(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")).ok()?;
    Some((moment, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMAZON: &str = include_str!("../../inflection-ingest/fixtures/ses/sns-2021.pem");

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn dates_and_key_are_found() {
        let certificate = Certificate::from_pem(AMAZON).unwrap();
        assert_eq!(certificate.not_before.to_string(), "2021-09-07T00:00:00.000Z");
        assert_eq!(certificate.not_after.to_string(), "2022-08-17T23:59:59.000Z");
        assert_eq!(certificate.key.len(), 270, "2048 bits, an exponent, and what holds them");
        assert!(certificate.is_valid_at(at("2022-07-28T21:23:58Z")));
        assert!(!certificate.is_valid_at(at("2022-08-18T00:00:00Z")));
        assert!(!certificate.is_valid_at(at("2021-09-06T23:59:59Z")));
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let body: String = AMAZON.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(body).unwrap();
        for end in 0..der.len() {
            assert_eq!(Certificate::from_der(&der[..end]), None, "cut at {end}");
        }
        assert_eq!(Certificate::from_der(&[&der[..], b"x"].concat()), None);
        for text in ["", BEGIN, "<xml>", &format!("x{AMAZON}"), &format!("{AMAZON}{AMAZON}")] {
            assert_eq!(Certificate::from_pem(text), None);
        }
    }
}
