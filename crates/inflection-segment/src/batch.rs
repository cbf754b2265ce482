//! The envelope around rendered items.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::limits;

/// The body of a batch request: rendered items and the moment of this attempt. Of two attempts with the same items only
/// `sentAt` differs: Segment corrects clocks by it, so it must be fresh.
///
/// With `gzip` it is compressed as it is put together, at level 1: most of the gain for a third of the work of level 6.
#[must_use]
pub fn batch_body<'a>(items: impl Iterator<Item = &'a [u8]> + Clone, sent_at: &str, gzip: bool) -> Vec<u8> {
    let bytes = items.clone().map(|item| item.len() + 1).sum::<usize>() + limits::ENVELOPE_BYTES;
    if !gzip {
        let mut body = Vec::with_capacity(bytes);
        put_together(items, sent_at, |part| body.extend_from_slice(part));
        return body;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes / 8), Compression::fast());
    let mut written = Ok(());
    put_together(items, sent_at, |part| {
        if written.is_ok() {
            written = encoder.write_all(part);
        }
    });
    // A Vec takes every write.
    written.and_then(|()| encoder.finish()).unwrap_or_default()
}

fn put_together<'a>(items: impl Iterator<Item = &'a [u8]>, sent_at: &str, mut put: impl FnMut(&[u8])) {
    put(b"{\"batch\":[");
    for (index, item) in items.enumerate() {
        if index > 0 {
            put(b",");
        }
        put(item);
    }
    put(b"],\"sentAt\":\"");
    put(sent_at.as_bytes());
    put(b"\"}");
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_envelope_is_json_and_fits_its_allowance() {
        let items: [&[u8]; 2] = [b"{\"a\":1}", b"{}"];
        let body = batch_body(items.into_iter(), "2026-11-23T10:00:00.000Z", false);
        assert_eq!(body, br#"{"batch":[{"a":1},{}],"sentAt":"2026-11-23T10:00:00.000Z"}"#);
        let around = body.len() - items.iter().map(|item| item.len() + 1).sum::<usize>();
        assert!(around <= limits::ENVELOPE_BYTES);
        let mut read = Vec::new();
        let compressed = batch_body(items.into_iter(), "2026-11-23T10:00:00.000Z", true);
        flate2::read::GzDecoder::new(&compressed[..]).read_to_end(&mut read).unwrap();
        assert_eq!(read, body);
    }
}
