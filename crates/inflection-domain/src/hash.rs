//! The one hash of the project: 128 bits of BLAKE3 over a domain name and length-prefixed parts.
//!
//! Ids made from it reach Segment and the logs of running installs, so its output is frozen by golden vectors.

use std::fmt;

/// A 128-bit hash, compared and stored by value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Hash128(u128);

impl Hash128 {
    /// Hashes `parts` under `domain`. Each part is preceded by its length, so ("ab", "c") and ("a", "bc") differ.
    #[must_use]
    pub fn of(domain: &str, parts: &[&[u8]]) -> Self {
        Self::of_each(domain, parts.iter().copied())
    }

    /// As [`Hash128::of`], of parts that stand in no list.
    pub(crate) fn of_each<'p>(domain: &str, parts: impl Iterator<Item = &'p [u8]>) -> Self {
        Self::pieces(domain, parts.map(|part| [part]))
    }

    /// As [`Hash128::of`], each part in pieces.
    pub(crate) fn pieces<'p, const N: usize>(domain: &str, parts: impl Iterator<Item = [&'p [u8]; N]>) -> Self {
        Text::of(None, domain, parts).hash()
    }

    /// As [`Hash128::of`], with a secret key: without the key the parts can be neither found nor confirmed.
    #[must_use]
    pub fn keyed(key: &[u8; 32], domain: &str, parts: &[&[u8]]) -> Self {
        Text::of(Some(key), domain, parts.iter().map(|part| [*part])).hash()
    }

    /// The first half of BLAKE3's 256 bits.
    pub(crate) fn first(hash: &blake3::Hash) -> Self {
        let (half, _) = hash.as_bytes().split_at(16);
        Self(half.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)))
    }

    /// The hash as bytes, most significant first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The inverse of [`Hash128::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The most significant half: enough where a rare collision costs a flag, not an event.
    #[must_use]
    pub fn high(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.to_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// 32 lower-case hexadecimal digits, in ASCII.
    #[must_use]
    pub fn to_hex(self) -> [u8; 32] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'0'; 32];
        let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or(b'0');
        for ([high, low], byte) in text.as_chunks_mut().0.iter_mut().zip(self.to_bytes()) {
            (*high, *low) = (digit(byte >> 4), digit(byte & 15));
        }
        text
    }

    /// 26 characters of lower-case base32 (RFC 4648 alphabet, no padding).
    #[must_use]
    pub fn to_base32(self) -> String {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        // 26 digits of 5 bits are 130 bits: the two missing ones are zeros at the end.
        (0..26u32)
            .map(|digit| {
                let shifted = if digit < 25 { self.0 >> (123 - 5 * digit) } else { self.0 << 2 };
                char::from(ALPHABET.get((shifted & 31) as usize).copied().unwrap_or(b'a'))
            })
            .collect()
    }
}

/// What is hashed by one call: most ids and keys with their names.
const SHORT_BYTES: usize = 256;

/// What is hashed. Most is short and put together first: one call over a few hundred bytes is several times faster than many
/// over a few each. What is longer goes through a hasher, and is not copied.
struct Text<'k> {
    key: Option<&'k [u8; 32]>,
    short: [u8; SHORT_BYTES],
    used: usize,
    /// Everything so far, once it is longer than that.
    long: Option<Box<blake3::Hasher>>,
}

impl<'k> Text<'k> {
    fn of<'p, const N: usize>(
        key: Option<&'k [u8; 32]>,
        domain: &str,
        parts: impl Iterator<Item = [&'p [u8]; N]>,
    ) -> Self {
        let mut text = Self { key, short: [0; SHORT_BYTES], used: 0, long: None };
        text.part(&[domain.as_bytes()]);
        parts.for_each(|part| text.part(&part));
        text
    }

    // Inlined, so that lengths and names that are constants are written as such.
    #[inline]
    fn part(&mut self, pieces: &[&[u8]]) {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let length = (length as u64).to_le_bytes();
        // A number is stored as one, not copied by its bytes.
        match self.short.get_mut(self.used..).and_then(|rest| rest.first_chunk_mut()) {
            Some(place) if self.long.is_none() => {
                *place = length;
                self.used += length.len();
            }
            _ => self.put_long(&length),
        }
        pieces.iter().for_each(|piece| self.put(piece));
    }

    #[inline]
    fn put(&mut self, piece: &[u8]) {
        if self.long.is_none()
            && let Some(place) = self.short.get_mut(self.used..self.used + piece.len())
        {
            place.copy_from_slice(piece);
            self.used += piece.len();
            return;
        }
        self.put_long(piece);
    }

    #[cold]
    fn put_long(&mut self, piece: &[u8]) {
        let short = self.short.get(..self.used).unwrap_or_default();
        let long = self.long.get_or_insert_with(|| {
            let mut hasher = Box::new(self.key.map_or_else(blake3::Hasher::new, blake3::Hasher::new_keyed));
            hasher.update(short);
            hasher
        });
        long.update(piece);
    }

    fn hash(&self) -> Hash128 {
        let short = self.short.get(..self.used).unwrap_or_default();
        Hash128::first(&match (&self.long, self.key) {
            (Some(long), _) => long.finalize(),
            (None, Some(key)) => blake3::keyed_hash(key, short),
            (None, None) => blake3::hash(short),
        })
    }
}

impl fmt::Display for Hash128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Hash128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept_apart() {
        assert_ne!(Hash128::of("d", &[b"ab", b"c"]), Hash128::of("d", &[b"a", b"bc"]));
        assert_ne!(Hash128::of("d", &[b"ab"]), Hash128::of("e", &[b"ab"]));
        assert_ne!(Hash128::of("d", &[b"ab"]), Hash128::keyed(&[0; 32], "d", &[b"ab"]));
    }

    /// What the format says, in the simplest words.
    fn plain(mut hasher: blake3::Hasher, parts: &[&[u8]]) -> [u8; 16] {
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        *hasher.finalize().as_bytes().first_chunk().unwrap()
    }

    #[test]
    fn every_length_has_the_same_format() {
        let (key, bytes) = ([7; 32], [b'x'; 600]);
        for length in 0..bytes.len() {
            let parts = ["d".as_bytes(), &bytes[..length], b"more"];
            let (hash, keyed) = (Hash128::of("d", &parts[1..]), Hash128::keyed(&key, "d", &parts[1..]));
            assert_eq!(hash.to_bytes(), plain(blake3::Hasher::new(), &parts), "{length}");
            assert_eq!(keyed.to_bytes(), plain(blake3::Hasher::new_keyed(&key), &parts), "{length}");
        }
    }

    #[test]
    fn bytes_and_text_are_stable() {
        let hash = Hash128::from_bytes(*b"0123456789abcdef");
        assert_eq!(hash.to_string(), "30313233343536373839616263646566");
        let letters = Hash128::from_bytes([0xfe; 16]);
        assert_eq!(letters.to_hex(), [b'f', b'e'].repeat(16)[..]);
        assert_eq!(hash.to_hex(), hash.to_string().as_bytes());
        // `printf 0123456789abcdef | base32`, lower-cased, without padding.
        assert_eq!(hash.to_base32(), "gaytemzugu3doobzmfrggzdfmy");
        assert_eq!(Hash128::from_bytes(hash.to_bytes()), hash);
    }
}
