//! SendGrid's side of a webhook: a key pair and signed requests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use crate::http::Request;

/// SubjectPublicKeyInfo of a P-256 key, up to the point itself.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Header of the signature.
pub const SIGNATURE: &str = "X-Twilio-Email-Event-Webhook-Signature";

/// Header of the signed timestamp.
pub const TIMESTAMP: &str = "X-Twilio-Email-Event-Webhook-Timestamp";

/// A sender's signing key.
#[derive(Debug)]
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl SigningKey {
    /// Makes a key.
    pub fn generate() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key can be made");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("a key just made is one");
        Self { pair, random }
    }

    /// The public key as SendGrid's console shows it: base64 of its DER, without armour.
    pub fn public(&self) -> String {
        let mut der = SPKI_PREFIX.to_vec();
        der.extend_from_slice(self.pair.public_key().as_ref());
        STANDARD.encode(der)
    }

    /// The signature over the timestamp's bytes and the body.
    pub fn sign(&self, timestamp: &str, body: &[u8]) -> String {
        let message = [timestamp.as_bytes(), body].concat();
        STANDARD.encode(self.pair.sign(&self.random, &message).expect("a message can be signed"))
    }

    /// A signed request to `path`.
    pub fn request(&self, path: &str, timestamp: &str, body: &[u8]) -> Request {
        Request::json(path, body).header(SIGNATURE, &self.sign(timestamp, body)).header(TIMESTAMP, timestamp)
    }
}
