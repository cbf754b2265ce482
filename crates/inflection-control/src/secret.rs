//! Texts that must not be seen.

use std::path::Path;
use std::{fmt, io};

use zeroize::Zeroizing;

/// A write key, ingest key or signing secret. It is never printed; whoever needs the text says so. Its memory is wiped
/// when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Box<str>>);

impl Secret {
    /// Takes a secret, without the white space that editors leave at the end of files. `None` when nothing is left: an
    /// empty secret protects nothing.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(Zeroizing::new(text.into())))
    }

    /// The secrets of a file, one a line; empty lines are none.
    ///
    /// # Errors
    /// When it cannot be read, or is no text.
    pub fn lines_of(path: &Path) -> io::Result<Vec<Self>> {
        let text = Zeroizing::new(std::fs::read_to_string(path)?);
        Ok(text.lines().filter_map(Self::new).collect())
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

/// The 32 bytes of a key that is written as 64 hexadecimal digits.
pub(crate) fn key_bytes(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let mut key = Zeroizing::new([0_u8; 32]);
    if pairs.len() != key.len() {
        return None;
    }
    for (byte, [high, low]) in key.iter_mut().zip(pairs) {
        *byte = (hex_digit(*high)? << 4) | hex_digit(*low)?;
    }
    Some(key)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
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

    #[test]
    fn a_key_is_64_hexadecimal_digits() {
        let digits = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
        let counted: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        assert_eq!(*key_bytes(digits).unwrap(), counted);
        let (odd, short) = (digits.get(1..).unwrap(), digits.get(2..).unwrap());
        for wrong in ["", odd, short, &format!("{digits}00"), &digits.replace("1A", "+A")] {
            assert!(key_bytes(wrong).is_none(), "{wrong:?}");
        }
    }
}
