//! The envelope around rendered items.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::limits;

/// The body of a batch request: rendered items and the moment of this attempt. Of two attempts with the same items only
/// `sentAt` differs: Segment corrects clocks by it, so it must be fresh.
#[must_use]
pub fn batch_body<'a>(items: impl IntoIterator<Item = &'a [u8]>, sent_at: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(limits::BATCH_BYTES_MAX);
    body.extend_from_slice(b"{\"batch\":[");
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(item);
    }
    body.extend_from_slice(b"],\"sentAt\":\"");
    body.extend_from_slice(sent_at.as_bytes());
    body.extend_from_slice(b"\"}");
    body
}

/// Compresses a body with gzip at level 1: most of the gain for a third of the work of level 6.
#[must_use]
pub fn compress(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    // A Vec takes every write.
    written.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_envelope_is_json_and_fits_its_allowance() {
        let items: [&[u8]; 2] = [b"{\"a\":1}", b"{}"];
        let body = batch_body(items, "2026-11-23T10:00:00.000Z");
        assert_eq!(body, br#"{"batch":[{"a":1},{}],"sentAt":"2026-11-23T10:00:00.000Z"}"#);
        let around = body.len() - items.iter().map(|item| item.len() + 1).sum::<usize>();
        assert!(around <= limits::ENVELOPE_BYTES);
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(&compress(&body)[..]).read_to_end(&mut read).unwrap();
        assert_eq!(read, body);
    }
}
