//! The file that is read: what it is known again by, and its text, unpacked.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use inflection_domain::Hash128;

/// Bytes at the beginning of a file that it is known again by, beside its length.
const HEAD_BYTES: u64 = 64 * 1024;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// What a file is known again by.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Fingerprint {
    /// Its length, compressed if it is.
    pub(super) bytes: u64,
    /// A hash of its first 64 KiB.
    pub(super) head: String,
}

/// A file that is open.
pub(super) struct Input {
    /// Its text.
    pub(super) text: Box<dyn Read + Send>,
    /// How many bytes of the file have been read.
    pub(super) read: Arc<AtomicU64>,
    /// None for standard input.
    pub(super) fingerprint: Option<Fingerprint>,
}

impl Input {
    /// Opens a file; `-` is standard input.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if super::is_standard_input(path) {
            return Self::of(io::stdin(), None);
        }
        let file = File::open(path)?;
        let about = file.metadata()?;
        // What is no file (a pipe) has no length, and is not the same when it is opened again.
        Self::of(file, about.is_file().then_some(about.len()))
    }

    fn of(mut file: impl Read + Send + 'static, bytes: Option<u64>) -> io::Result<Self> {
        let mut head = Vec::new();
        file.by_ref().take(HEAD_BYTES).read_to_end(&mut head)?;
        let fingerprint = bytes.map(|bytes| Fingerprint { bytes, head: hash(&head) });
        let is_gzip = head.starts_with(GZIP_MAGIC);
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted { input: Cursor::new(head).chain(file), read: Arc::clone(&read) };
        let text: Box<dyn Read + Send> =
            if is_gzip { Box::new(MultiGzDecoder::new(BufReader::new(counted))) } else { Box::new(counted) };
        Ok(Self { text, read, fingerprint })
    }
}

pub(super) fn hash(bytes: &[u8]) -> String {
    Hash128::of("import file", &[bytes]).to_string()
}

/// Counts what is read.
struct Counted<R> {
    input: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn compressed_or_not_is_told_by_content() {
        let text = b"a line\n".repeat(20_000);
        let parts = [gzip(&text[..70]), gzip(&text[70..])].concat();
        for file in [text.clone(), gzip(&text), parts] {
            let bytes = file.len() as u64;
            let mut input = Input::of(Cursor::new(file), Some(bytes)).unwrap();
            let mut unpacked = Vec::new();
            input.text.read_to_end(&mut unpacked).unwrap();
            assert!(unpacked == text);
            assert_eq!(input.read.load(Ordering::Relaxed), bytes);
            assert_eq!(input.fingerprint.map(|print| print.bytes), Some(bytes));
        }
    }

    #[test]
    fn a_cut_stream_is_an_error_and_not_an_end() {
        let whole = gzip(&b"a line\n".repeat(1000));
        let mut input = Input::of(Cursor::new(whole[..whole.len() - 20].to_vec()), None).unwrap();
        assert!(input.text.read_to_end(&mut Vec::new()).is_err());
    }
}
