//! Identifiers, each its own type. Constructors check; what exists is valid.

use std::fmt;
use std::sync::Arc;

use crate::Hash128;
use crate::address::EmailAddress;

/// Why a text is no identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// No characters.
    #[error("is empty")]
    Empty,
    /// More bytes than the type's `BYTES_MAX`.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// A control character (for ids of persons and users: NUL).
    #[error("has a control character")]
    ControlCharacter,
    /// A character that this kind of id does not allow.
    #[error("may only have letters, digits, '-' and '_'")]
    BadCharacter,
}

fn check_text(text: &str, bytes_max: usize, has_forbidden: fn(&str) -> bool) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.len() > bytes_max {
        return Err(InvalidId::TooLong(bytes_max));
    }
    if has_forbidden(text) {
        return Err(InvalidId::ControlCharacter);
    }
    Ok(())
}

/// Whether a text has a control character. Most have none, and nearly all are ASCII, where each byte tells by itself; the
/// controls beyond it all begin with one byte.
pub(crate) fn has_control(text: &str) -> bool {
    const BEYOND_ASCII: u8 = 0xc2;
    let suspect = |byte: u8| byte < 0x20 || byte == 0x7f || byte == BEYOND_ASCII;
    text.bytes().fold(false, |found, byte| found | suspect(byte)) && text.chars().any(char::is_control)
}

/// What no store along the way keeps. Line breaks and the like in a person's id are odd, but the sender's own.
fn has_nul(text: &str) -> bool {
    text.bytes().fold(false, |found, byte| found | (byte == 0))
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:literal, $has_forbidden:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// Most bytes of one id.
            pub const BYTES_MAX: usize = $max;

            /// Checks and takes a text.
            ///
            /// # Errors
            /// [`InvalidId`] when it is empty, too long, or has a character that is
            /// not allowed.
            pub fn new(text: impl Into<Box<str>>) -> Result<Self, InvalidId> {
                let text = text.into();
                check_text(&text, Self::BYTES_MAX, $has_forbidden)?;
                Ok(Self(text))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            /// Ids name people; a log shows only that there is one.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(<redacted>)"))
            }
        }
    };
}

text_id! {
    /// The sender's id of a fact: the idempotency key.
    EventId, 256, has_control
}
text_id! {
    /// Inflection's id of a person; `anonymousId` at Segment while no user id is known.
    PersonId, 256, has_nul
}
text_id! {
    /// The customer's own id of a person; `userId` at Segment.
    UserId, 255, has_nul
}

/// Begins the ids of derived persons; 26 letters of base 32 follow.
const DERIVED_PREFIX: &str = "per_";

impl PersonId {
    /// The stable person of an address: the same key and address give the same person, with no look-up, and without
    /// the key the address can be neither read nor confirmed.
    #[must_use]
    pub fn from_address(key: &InstallationKey, workspace: &WorkspaceId, address: &EmailAddress) -> Self {
        Self::derived(key, "person from address", workspace, address.lookup_key().as_bytes())
    }

    /// The stable person of a user id, for facts that carry neither a person nor an address.
    #[must_use]
    pub fn from_user(key: &InstallationKey, workspace: &WorkspaceId, user: &UserId) -> Self {
        Self::derived(key, "person from user", workspace, user.as_str().as_bytes())
    }

    /// Whether it has the form of a derived id: what has not is a sender's own.
    #[must_use]
    pub fn may_be_derived(&self) -> bool {
        self.0.len() == DERIVED_PREFIX.len() + 26 && self.0.starts_with(DERIVED_PREFIX)
    }

    fn derived(key: &InstallationKey, domain: &str, workspace: &WorkspaceId, identifier: &[u8]) -> Self {
        let hash = Hash128::keyed(&key.0, domain, &[workspace.as_str().as_bytes(), identifier]);
        Self(format!("{DERIVED_PREFIX}{}", hash.to_base32()).into())
    }
}

/// Whether a text is one of the placeholders that clients send for "no user": Segment's own default blocked values
/// (zeros and dashes, `-1`, `null`, `anonymous`; Segment docs, identity resolution settings) and close relatives.
#[must_use]
pub fn is_blocked_user_id(text: &str) -> bool {
    is_placeholder(text) || text.len() > UserId::BYTES_MAX
}

/// Whether a text stands for "nobody": as the id of a user or a person it would make one of many.
#[must_use]
pub fn is_placeholder(text: &str) -> bool {
    let trimmed = text.trim();
    trimmed.bytes().all(|byte| matches!(byte, b'0' | b'-'))
        || ["-1", "null", "undefined", "anonymous", "n/a"].iter().any(|blocked| trimmed.eq_ignore_ascii_case(blocked))
}

fn check_name(text: &str, bytes_max: usize) -> Result<(), InvalidId> {
    check_text(text, bytes_max, has_control)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if text.bytes().all(allowed) { Ok(()) } else { Err(InvalidId::BadCharacter) }
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Most bytes of one name.
            pub const BYTES_MAX: usize = 64;

            /// Checks and takes a name of letters, digits, `-` and `_`.
            ///
            /// # Errors
            /// [`InvalidId`] when it is empty, too long, or has another character.
            pub fn new(text: &str) -> Result<Self, InvalidId> {
                check_name(text, Self::BYTES_MAX)?;
                Ok(Self(text.into()))
            }

            /// The name as text. It is chosen by the operator and safe in logs, metrics and subjects.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

name_id! {
    /// A customer: the owner of ingest keys, connections and persons.
    WorkspaceId
}
name_id! {
    /// One Segment source of a workspace: a write key and how to feed it. Unique within its workspace.
    ConnectionId
}
name_id! {
    /// One installation of the product. It goes into every messageId, so that two installs never collide at Segment.
    InstallationId
}

/// The installation's secret: persons are derived from addresses under it. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct InstallationKey([u8; 32]);

impl InstallationKey {
    /// Takes 32 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the keyed record they are stored in.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for InstallationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InstallationKey(<redacted>)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        assert_eq!(EventId::new("").err(), Some(InvalidId::Empty));
        assert_eq!(EventId::new("a\u{0}").err(), Some(InvalidId::ControlCharacter));
        assert_eq!(EventId::new("x".repeat(257)).err(), Some(InvalidId::TooLong(256)));
        assert!(EventId::new("a.b *>\u{202e} é").is_ok());
        for character in ('\0'..='\u{200}').chain(['\u{2028}', '😀']) {
            assert_eq!(has_control(&format!("é{character}x")), character.is_control(), "{character:?}");
        }
        assert_eq!(WorkspaceId::new("a.b").err(), Some(InvalidId::BadCharacter));
        assert!(WorkspaceId::new("acme-1_x").is_ok());
    }

    #[test]
    fn placeholders_are_no_users() {
        for blocked in ["", "0", "000-00", "-1", "null", "NULL", "undefined", "anonymous", " null ", &"u".repeat(256)] {
            assert!(is_blocked_user_id(blocked), "{blocked:?}");
        }
        for fine in ["u1", "10", "nullable", "anonymous1"] {
            assert!(!is_blocked_user_id(fine), "{fine:?}");
        }
    }

    #[test]
    fn derived_persons_are_frozen() {
        let key = InstallationKey::new([7; 32]);
        let workspace = WorkspaceId::new("acme").unwrap();
        let address = EmailAddress::new("Ann@Example.com").unwrap();
        let same = EmailAddress::new("ann@EXAMPLE.com").unwrap();
        let person = PersonId::from_address(&key, &workspace, &address);
        assert_eq!(person, PersonId::from_address(&key, &workspace, &same));
        assert_eq!(person.as_str(), "per_x3mwcvght3lnt6knzduidneamm");
        assert!(person.may_be_derived() && !PersonId::new("per_1").unwrap().may_be_derived());
        let user = PersonId::from_user(&key, &workspace, &UserId::new("u1").unwrap());
        assert_eq!(user.as_str(), "per_ufwu3dnn2lvbymkz56dxqt3r34");
    }

    #[test]
    fn nothing_personal_is_printed() {
        assert_eq!(format!("{:?}", PersonId::new("per_1").unwrap()), "PersonId(<redacted>)");
        assert_eq!(format!("{:?}", InstallationKey::new([1; 32])), "InstallationKey(<redacted>)");
    }
}
