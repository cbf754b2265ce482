//! Secrets at rest. Each is encrypted under a fresh data key, and that key under the installation's master key; both
//! together are one text that may lie in a file others read. A sealed secret is bound to what it belongs to: moved to
//! another connection or workspace it does not open.
//!
//! The text is `v1.` and, in base64url without padding, two boxes of AES-256-GCM: the data key's, then the secret's.
//! A box is its nonce, the ciphertext and the tag.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use inflection_domain::{ConnectionId, WorkspaceId};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use crate::Secret;
use crate::secret::key_bytes;

/// What every sealed secret begins with.
const VERSION: &str = "v1.";
const KEY_BYTES: usize = 32;
/// What a box adds to what is in it.
const OVERHEAD_BYTES: usize = NONCE_LEN + MAX_TAG_LEN;

/// Why a secret was not sealed or opened. It names no part of the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is nothing to seal.
    #[error("an empty secret protects nothing")]
    Empty,
    /// The system gave no randomness, or the cipher would not take a secret of this size.
    #[error("the system has no randomness to seal with, or the secret is too large")]
    Cipher,
    /// The text is no sealed secret, whatever the key.
    #[error("a sealed secret is \"v1.\" and what follows it, whole, as it was printed when it was sealed")]
    Malformed,
    /// It was sealed for something else or under another key, or it was changed.
    #[error("the sealed secret does not belong here, or the master key is another one")]
    Foreign,
}

/// What a sealed secret belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding(String);

impl Binding {
    /// The write key of a connection.
    #[must_use]
    pub fn write_key(workspace: &WorkspaceId, connection: &ConnectionId) -> Self {
        Self::new("write key", workspace, connection.as_str())
    }

    /// The ingest keys of a workspace.
    #[must_use]
    pub fn ingest_key(workspace: &WorkspaceId) -> Self {
        Self::new("ingest key", workspace, "ingest")
    }

    /// The secrets of a workspace's webhooks.
    #[must_use]
    pub fn webhook(workspace: &WorkspaceId) -> Self {
        Self::new("webhook secret", workspace, "webhooks")
    }

    fn new(purpose: &str, workspace: &WorkspaceId, name: &str) -> Self {
        // No part has a NUL in it (names are letters, digits, '-' and '_'), so different parts never give one text.
        Self(format!("inflection sealed {VERSION}\0{purpose}\0{workspace}\0{name}"))
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The installation's key of keys. Never printed; its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct MasterKey(
    // Boxed, so that moving it leaves no copies behind.
    Box<Zeroizing<[u8; KEY_BYTES]>>,
);

impl MasterKey {
    /// Reads 64 hexadecimal digits, and white space around them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        key_bytes(text.trim()).map(|bytes| Self(Box::new(bytes)))
    }

    /// Seals a secret for what it belongs to. No two texts are alike, even of one secret.
    ///
    /// # Errors
    /// [`SealError::Empty`], or [`SealError::Cipher`] when the system gives no randomness.
    pub fn seal(&self, binding: &Binding, secret: &str) -> Result<String, SealError> {
        let secret = Secret::new(secret).ok_or(SealError::Empty)?;
        let boxes = self.boxes(binding, &secret).map_err(|_unspecified| SealError::Cipher)?;
        Ok(format!("{VERSION}{}", URL_SAFE_NO_PAD.encode(boxes)))
    }

    fn boxes(&self, binding: &Binding, secret: &Secret) -> Result<Vec<u8>, Unspecified> {
        let mut data_key = Zeroizing::new([0_u8; KEY_BYTES]);
        SystemRandom::new().fill(data_key.as_mut_slice())?;
        let mut boxes = encrypt(self.0.as_slice(), binding, data_key.as_slice())?;
        boxes.extend(encrypt(data_key.as_slice(), binding, secret.expose().as_bytes())?);
        Ok(boxes)
    }

    /// Opens what was sealed for the same thing under the same key.
    ///
    /// # Errors
    /// [`SealError::Malformed`] and [`SealError::Foreign`].
    pub fn open(&self, binding: &Binding, sealed: &str) -> Result<Secret, SealError> {
        // Both boxes are opened where they lie, and wiped there.
        let mut boxes = decoded(sealed).ok_or(SealError::Malformed)?;
        let (first, second) = boxes.split_at_mut_checked(KEY_BYTES + OVERHEAD_BYTES).ok_or(SealError::Malformed)?;
        if second.len() <= OVERHEAD_BYTES {
            return Err(SealError::Malformed);
        }
        let data_key = decrypt(self.0.as_slice(), binding, first).ok_or(SealError::Foreign)?;
        let secret = decrypt(data_key, binding, second).ok_or(SealError::Foreign)?;
        std::str::from_utf8(secret).ok().and_then(Secret::new).ok_or(SealError::Malformed)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(<redacted>)")
    }
}

fn decoded(sealed: &str) -> Option<Zeroizing<Vec<u8>>> {
    let text = sealed.strip_prefix(VERSION)?;
    URL_SAFE_NO_PAD.decode(text).ok().map(Zeroizing::new)
}

fn cipher(key: &[u8]) -> Result<LessSafeKey, Unspecified> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new)
}

/// A box: nonce, ciphertext, tag. A random nonce may be trusted not to come twice: a data key is used once, and a
/// master key far fewer times than the 2^32 that NIST SP 800-38D allows.
fn encrypt(key: &[u8], binding: &Binding, plain: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let mut nonce = [0_u8; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce)?;
    // Room for the tag from the start: growing would leave a copy of the text behind.
    let mut body = Vec::with_capacity(plain.len() + MAX_TAG_LEN);
    body.extend_from_slice(plain);
    let aad = Aad::from(binding.as_bytes());
    cipher(key)?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body)?;
    Ok([nonce.as_slice(), body.as_slice()].concat())
}

/// What is in a box, read in place. `None` when key, binding or box are not those of [`encrypt`].
fn decrypt<'a>(key: &[u8], binding: &Binding, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
    let (nonce, body) = sealed.split_first_chunk_mut::<NONCE_LEN>()?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let plain = cipher(key).ok()?.open_in_place(nonce, Aad::from(binding.as_bytes()), body).ok()?;
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "write-key-CANARY";

    fn master(digit: &str) -> MasterKey {
        MasterKey::parse(&format!("{}\n", digit.repeat(64))).unwrap()
    }

    fn workspace(name: &str) -> WorkspaceId {
        WorkspaceId::new(name).unwrap()
    }

    fn write_key(workspace_name: &str, connection: &str) -> Binding {
        Binding::write_key(&workspace(workspace_name), &ConnectionId::new(connection).unwrap())
    }

    #[test]
    fn what_is_sealed_opens() {
        let (key, binding) = (master("a"), write_key("acme", "prod"));
        for secret in ["k", CANARY, "ключ", &"long".repeat(10_000)] {
            let sealed = key.seal(&binding, secret).unwrap();
            assert_eq!(key.open(&binding, &sealed).unwrap().expose(), secret);
        }
        let sealed = key.seal(&binding, " from a file\n").unwrap();
        assert_eq!(key.open(&binding, &sealed).unwrap().expose(), "from a file");
        assert_eq!(key.seal(&binding, " \n"), Err(SealError::Empty));
    }

    #[test]
    fn it_opens_only_where_it_belongs() {
        let bindings = [
            write_key("acme", "prod"),
            write_key("acme", "test"),
            write_key("globex", "prod"),
            write_key("acme", "ingest"),
            write_key("acme", "webhooks"),
            Binding::ingest_key(&workspace("acme")),
            Binding::ingest_key(&workspace("globex")),
            Binding::webhook(&workspace("acme")),
        ];
        let key = master("a");
        for (sealed_for, binding) in bindings.iter().enumerate() {
            let sealed = key.seal(binding, CANARY).unwrap();
            for (opened_for, binding) in bindings.iter().enumerate() {
                let opened = key.open(binding, &sealed);
                let expected = if sealed_for == opened_for { Ok(CANARY) } else { Err(SealError::Foreign) };
                assert_eq!(opened.as_ref().map(Secret::expose).map_err(|error| *error), expected, "{binding:?}");
            }
        }
    }

    #[test]
    fn another_master_key_opens_nothing() {
        let binding = write_key("acme", "prod");
        let sealed = master("a").seal(&binding, CANARY).unwrap();
        assert_eq!(master("b").open(&binding, &sealed), Err(SealError::Foreign));
    }

    #[test]
    fn one_changed_character_is_refused() {
        let (key, binding) = (master("a"), write_key("acme", "prod"));
        let sealed = key.seal(&binding, CANARY).unwrap();
        for at in 0..sealed.len() {
            let other = if sealed.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mut changed = sealed.clone();
            changed.replace_range(at..=at, other);
            assert!(key.open(&binding, &changed).is_err(), "character {at}");
        }
    }

    #[test]
    fn a_part_is_refused() {
        let (key, binding) = (master("a"), write_key("acme", "prod"));
        let sealed = key.seal(&binding, CANARY).unwrap();
        for length in 0..sealed.len() {
            assert!(key.open(&binding, sealed.get(..length).unwrap()).is_err(), "{length} characters");
        }
        for text in ["", "v1.", "v2.AAAA", "v1.AAAA", "v1.????"] {
            assert_eq!(key.open(&binding, text), Err(SealError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn no_two_are_alike() {
        let (key, binding) = (master("a"), write_key("acme", "prod"));
        let [first, second] = [(); 2].map(|()| decoded(&key.seal(&binding, CANARY).unwrap()).unwrap());
        let wrapped_bytes = KEY_BYTES + OVERHEAD_BYTES;
        assert_ne!(first[..wrapped_bytes], second[..wrapped_bytes], "boxes of the data keys");
        assert_ne!(first[wrapped_bytes..], second[wrapped_bytes..], "boxes of the secrets");
    }

    #[test]
    fn the_key_does_not_show() {
        assert_eq!(format!("{:?}", master("a")), "MasterKey(<redacted>)");
        assert!(MasterKey::parse(&"a".repeat(63)).is_none());
        assert!(MasterKey::parse(&"g".repeat(64)).is_none());
    }
}
