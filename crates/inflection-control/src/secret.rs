//! Texts that must not be seen.

use std::fmt;

/// A write key, ingest key or signing secret. It is never printed; whoever needs the text says so.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes a secret, without the white space that editors leave at the end of files. `None` when nothing is left: an
    /// empty secret protects nothing.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The last four characters, for people to tell keys apart; nothing of a secret shorter than twelve.
    #[must_use]
    pub fn hint(&self) -> String {
        let count = self.0.chars().count();
        let shown = if count >= 12 { self.0.chars().skip(count - 4).collect() } else { String::new() };
        format!("…{shown}")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(<redacted>)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let secret = Secret::new("0123456789abcdef\n").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(<redacted>)");
        assert_eq!(secret.hint(), "…cdef");
        assert_eq!(secret.expose(), "0123456789abcdef");
        assert_eq!(Secret::new("short").unwrap().hint(), "…");
        assert_eq!(Secret::new(" \n"), None);
    }
}
