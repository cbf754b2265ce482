//! A recipient's address.

use std::fmt;

use crate::ids::has_control;

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// A control character: a header injection, or an accident.
    #[error("has a control character")]
    ControlCharacter,
    /// No local part, no host, a space, or more than 254 bytes.
    #[error("is not an email address")]
    Malformed,
}

/// A recipient's address. `Debug` shows only the host, so it is safe in spans and panics.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EmailAddress(Box<str>);

impl EmailAddress {
    /// Most bytes of an address (RFC 5321, 4.5.3.1.3, less the angle brackets).
    pub const BYTES_MAX: usize = 254;

    /// Checks and takes an address, bare or as `Name <address>`. The text is kept as the sender wrote it.
    ///
    /// # Errors
    /// [`InvalidAddress`] says what is wrong.
    pub fn new(text: &str) -> Result<Self, InvalidAddress> {
        if has_control(text) {
            return Err(InvalidAddress::ControlCharacter);
        }
        let bare = match text.trim().strip_suffix('>').and_then(|named| named.rsplit_once('<')) {
            Some((_, address)) => address,
            None => text.trim(),
        };
        let (local, host) = bare.rsplit_once('@').ok_or(InvalidAddress::Malformed)?;
        // Of white space in ASCII only the blank is no control character.
        let apart = |byte: u8| matches!(byte, b' ' | b'<' | b'>');
        let plain = |part: &str| {
            let (apart, ascii) =
                part.bytes().fold((false, true), |(found, ascii), byte| (found | apart(byte), ascii & byte.is_ascii()));
            !part.is_empty() && !apart && (ascii || !part.contains(char::is_whitespace))
        };
        let host_ok = plain(host) && !host.contains('@') && !host.starts_with('.') && !host.ends_with('.');
        if bare.len() > Self::BYTES_MAX || local.len() > 64 || !plain(local) || !host_ok {
            return Err(InvalidAddress::Malformed);
        }
        Ok(Self(bare.into()))
    }

    /// The address as the sender wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form under which equal mailboxes compare equal: lower case. Dots and plus parts stay, they belong to the
    /// mailbox's owner.
    #[must_use]
    pub fn lookup_key(&self) -> String {
        self.0.to_lowercase()
    }

    /// Whether the mailbox stands for a role and is read by several people. Such an address must not be sent as an
    /// identifying trait, or Segment glues those people together.
    #[must_use]
    pub fn is_role(&self) -> bool {
        const ROLES: [&str; 20] = [
            "abuse",
            "accounts",
            "admin",
            "billing",
            "contact",
            "finance",
            "hello",
            "help",
            "hr",
            "info",
            "jobs",
            "marketing",
            "noreply",
            "office",
            "postmaster",
            "sales",
            "security",
            "support",
            "team",
            "webmaster",
        ];
        let local = self.0.rsplit_once('@').map_or("", |(local, _)| local);
        let name = local.split_once('+').map_or(local, |(name, _)| name);
        ROLES.iter().any(|role| name.eq_ignore_ascii_case(role))
    }
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.rsplit_once('@').map_or("", |(_, host)| host);
        write!(f, "<redacted>@{host}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let long = format!("{}@example.com", "a".repeat(310));
        let cases: [(&str, Result<&str, InvalidAddress>); 9] = [
            ("ann@example.com", Ok("ann@example.com")),
            ("Ann <ann@example.com>", Ok("ann@example.com")),
            ("a+b@x", Ok("a+b@x")),
            ("ann", Err(InvalidAddress::Malformed)),
            ("@example.com", Err(InvalidAddress::Malformed)),
            ("ann@", Err(InvalidAddress::Malformed)),
            ("an n@example.com", Err(InvalidAddress::Malformed)),
            ("ann@example.com\r\nBcc: x@y", Err(InvalidAddress::ControlCharacter)),
            (&long, Err(InvalidAddress::Malformed)),
        ];
        for (text, expected) in cases {
            assert_eq!(
                EmailAddress::new(text).as_ref().map(EmailAddress::as_str),
                expected.as_ref().map(|s| *s),
                "{text:?}"
            );
        }
    }

    #[test]
    fn debug_hides_the_mailbox_and_roles_are_known() {
        assert_eq!(format!("{:?}", EmailAddress::new("ann@example.com").unwrap()), "<redacted>@example.com");
        assert!(EmailAddress::new("Info+x@example.com").unwrap().is_role());
        assert!(!EmailAddress::new("ann@example.com").unwrap().is_role());
    }
}
