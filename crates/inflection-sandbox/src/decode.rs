//! From the bytes on the wire to text.

use std::borrow::Cow;
use std::io::Read as _;

use axum::http::{HeaderMap, header};
use flate2::read::MultiGzDecoder;

use crate::body::Refusal;

/// How much a typical gzipped batch grows; only a first guess for the buffer.
const GROWTH_GUESS: usize = 20;

/// How the body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Gzip,
    Unknown,
}

impl Encoding {
    /// Reads the `Content-Encoding` header.
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        match headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or_default()) {
            None => Self::Plain,
            Some(name) if name.eq_ignore_ascii_case("identity") => Self::Plain,
            Some(name) if name.eq_ignore_ascii_case("gzip") => Self::Gzip,
            Some(_) => Self::Unknown,
        }
    }
}

/// Unpacks a body. Whatever it claims to be, no more than `bytes_max` and one byte of it is unpacked.
pub(crate) fn decode(encoding: Encoding, wire: &[u8], bytes_max: usize) -> Result<Cow<'_, [u8]>, Refusal> {
    match encoding {
        Encoding::Plain => Ok(Cow::Borrowed(wire)),
        Encoding::Unknown => Err(Refusal::BadEncoding),
        Encoding::Gzip => {
            let guess = wire.len().saturating_mul(GROWTH_GUESS).min(bytes_max + 1);
            let mut decoded = Vec::with_capacity(guess);
            let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
            let read = MultiGzDecoder::new(wire).take(limit).read_to_end(&mut decoded);
            read.map(|_bytes| Cow::Owned(decoded)).map_err(|_damaged| Refusal::BadEncoding)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write as _;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_comes_back_and_is_never_unpacked_beyond_the_limit() {
        assert_eq!(decode(Encoding::Gzip, &gzip(b"hello"), 10).unwrap().as_ref(), b"hello");
        let bomb = gzip(&vec![b' '; 10_000_000]);
        assert_eq!(decode(Encoding::Gzip, &bomb, 1_000).unwrap().len(), 1_001);
    }

    #[test]
    fn damage_is_refused() {
        let whole = gzip(b"hello hello hello");
        assert_eq!(decode(Encoding::Gzip, &whole[..whole.len() - 9], 100), Err(Refusal::BadEncoding));
        assert_eq!(decode(Encoding::Gzip, b"{}", 100), Err(Refusal::BadEncoding));
        assert_eq!(decode(Encoding::Unknown, b"{}", 100), Err(Refusal::BadEncoding));
    }
}
