//! The envelope around rendered items.

use std::cell::RefCell;

use flate2::{Compress, Compression, FlushCompress, Status};

use crate::limits;

/// Bytes that are handed to the compressor at once: each call costs as much as a few hundred bytes of it.
const CHUNK_BYTES: usize = 32 * 1024;
/// Room for what is compressed, in bytes, by which a body grows.
const ROOM_BYTES: usize = 16 * 1024;
/// Binary logarithm of how far back equal text is found: as far as deflate goes.
const WINDOW_BITS: u8 = 15;

/// The body of a batch request: rendered items and the moment of this attempt. Of two attempts with the same items only
/// `sentAt` differs: Segment corrects clocks by it, so it must be fresh.
///
/// With `gzip` it is compressed as it is put together, at level 1: most of the gain for a third of the work of level 6.
#[must_use]
pub fn batch_body<'a>(items: impl Iterator<Item = &'a [u8]> + Clone, sent_at: &str, gzip: bool) -> Vec<u8> {
    let bytes = items.clone().map(|item| item.len() + 1).sum::<usize>() + limits::ENVELOPE_BYTES;
    if gzip {
        return Gzip::with(|gzip| {
            gzip.begin(bytes / 8);
            put_together(items, sent_at, |part| gzip.put(part));
            gzip.finish()
        });
    }
    let mut body = Vec::with_capacity(bytes);
    put_together(items, sent_at, |part| body.extend_from_slice(part));
    body
}

/// A compressor and what it has compressed. Its tables are a third of a megabyte, so a thread makes them once and not for
/// every request.
struct Gzip {
    deflate: Compress,
    /// What is not yet handed to it.
    chunk: Vec<u8>,
    body: Vec<u8>,
}

impl Gzip {
    /// Uses this thread's own.
    fn with<R>(compress: impl FnOnce(&mut Self) -> R) -> R {
        thread_local!(static GZIP: RefCell<Gzip> = RefCell::new(Gzip::new()));
        GZIP.with_borrow_mut(compress)
    }

    fn new() -> Self {
        let deflate = Compress::new_gzip(Compression::fast(), WINDOW_BITS);
        Self { deflate, chunk: Vec::with_capacity(CHUNK_BYTES), body: Vec::new() }
    }

    /// Begins a body of about `expected` bytes.
    fn begin(&mut self, expected: usize) {
        self.deflate.reset();
        self.chunk.clear();
        self.body = Vec::with_capacity(expected);
    }

    fn put(&mut self, part: &[u8]) {
        if self.chunk.len() + part.len() > CHUNK_BYTES {
            self.compress(FlushCompress::None);
        }
        self.chunk.extend_from_slice(part);
    }

    fn finish(&mut self) -> Vec<u8> {
        self.compress(FlushCompress::Finish);
        std::mem::take(&mut self.body)
    }

    /// Compresses what is in the chunk, and with [`FlushCompress::Finish`] ends the stream.
    #[expect(clippy::expect_used, reason = "a compressor fails only when it is used after its end")]
    fn compress(&mut self, flush: FlushCompress) {
        let mut done = 0;
        loop {
            self.body.reserve(ROOM_BYTES);
            let (before, rest) = (self.deflate.total_in(), self.chunk.get(done..).unwrap_or_default());
            let status = self.deflate.compress_vec(rest, &mut self.body, flush).expect("it was begun and not ended");
            done += usize::try_from(self.deflate.total_in() - before).unwrap_or(0);
            let finishes = flush == FlushCompress::Finish;
            if (finishes && status == Status::StreamEnd) || (!finishes && done == self.chunk.len()) {
                self.chunk.clear();
                return;
            }
        }
    }
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

    fn unpacked(body: &[u8]) -> Vec<u8> {
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(body).read_to_end(&mut read).unwrap();
        read
    }

    #[test]
    fn the_envelope_is_json_and_fits_its_allowance() {
        let items: [&[u8]; 2] = [b"{\"a\":1}", b"{}"];
        let body = batch_body(items.into_iter(), "2026-11-23T10:00:00.000Z", false);
        assert_eq!(body, br#"{"batch":[{"a":1},{}],"sentAt":"2026-11-23T10:00:00.000Z"}"#);
        let around = body.len() - items.iter().map(|item| item.len() + 1).sum::<usize>();
        assert!(around <= limits::ENVELOPE_BYTES);
        assert_eq!(unpacked(&batch_body(items.into_iter(), "2026-11-23T10:00:00.000Z", true)), body);
    }

    /// One compressor serves many bodies, of every size and however well they can be compressed.
    #[test]
    fn what_is_compressed_is_what_was_put_together() {
        let mut noise = 1_u64;
        for size in [0, 1, 31, 800, 32_000, CHUNK_BYTES - 11, CHUNK_BYTES, 3 * CHUNK_BYTES, 70] {
            let random: Vec<u8> = std::iter::repeat_with(|| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                noise.to_be_bytes()[0]
            })
            .take(size)
            .collect();
            for items in [vec![&random[..]; 3], vec![&vec![b'x'; size][..]; 20], Vec::new()] {
                let plain = batch_body(items.iter().copied(), "now", false);
                assert_eq!(unpacked(&batch_body(items.iter().copied(), "now", true)), plain, "{size}");
            }
        }
    }
}
