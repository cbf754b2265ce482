//! Names of logs.

use std::fmt;
use std::sync::Arc;

/// A position in a log: larger is later; 0 is before the first message. Sequences of one log need not be contiguous.
pub type Sequence = u64;

/// Why a text is no name of a log or key of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("names are 1 to 200 bytes of letters, digits, '-', '_' and single dots between them")]
pub struct InvalidName;

/// The name of a log: a stream's name, a dot, and the rest (`events.3`, `dead.acme.prod`). The part before the first dot
/// says which stream of a NATS server holds it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Log(Arc<str>);

impl Log {
    /// Checks and takes a name of at least two tokens.
    ///
    /// # Errors
    /// [`InvalidName`] when a token is empty or has another character.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        if name.contains('.') && is_name(name) { Ok(Self(name.into())) } else { Err(InvalidName) }
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The stream's part of the name.
    #[must_use]
    pub fn stream(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }
}

pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.len() <= 200 && name.split('.').all(|token| !token.is_empty() && token.bytes().all(allowed))
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_carry_wildcards() {
        for bad in ["", "events", "events.", ".x", "a..b", "events.*", "events.>", "a b.c", "a.\u{e9}"] {
            assert_eq!(Log::new(bad).err(), Some(InvalidName), "{bad:?}");
        }
        assert_eq!(Log::new("dead.acme.prod").unwrap().stream(), "dead");
    }
}
