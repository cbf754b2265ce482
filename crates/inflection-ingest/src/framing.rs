//! A guard against requests that two HTTP implementations would read differently.
//!
//! hyper is lenient where RFC 9112 allows it: it lets `Transfer-Encoding` win over `Content-Length`, and takes bare line
//! feeds. Behind a proxy that decides otherwise, such a request smuggles a second one. The guard watches the bytes on
//! their way to hyper, judges every request head, and the service refuses what is ambiguous.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Most bytes of one header line that are looked at; the rest of a longer one cannot be about framing.
const LINE_BYTES_MAX: usize = 256;

/// What is wrong with a request head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ambiguity {
    /// Both framings, or an encoding that is not plain `chunked`.
    Framing,
    /// A bare line feed or a folded line.
    Header,
}

/// Judgements of the requests of one connection, in the order of the requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdicts(Arc<Mutex<VecDeque<Option<Ambiguity>>>>);

impl Verdicts {
    /// The judgement of the request that hyper hands out now.
    pub(crate) fn next(&self) -> Option<Ambiguity> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front().flatten()
    }

    fn add(&self, verdict: Option<Ambiguity>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(verdict);
    }
}

/// A connection whose incoming bytes are watched.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: TcpStream,
    watcher: Watcher,
}

impl Guarded {
    pub(crate) fn new(stream: TcpStream) -> (Self, Verdicts) {
        let verdicts = Verdicts::default();
        (Self { stream, watcher: Watcher::new(verdicts.clone()) }, verdicts)
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        self.watcher.watch(fresh);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Where in a request the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Head,
    Body(u64),
    ChunkSize(u64, bool),
    ChunkData(u64),
    ChunkEnd,
    Trailer,
    /// The framing is in doubt; whatever follows is not looked at, the connection ends here.
    Lost,
}

#[derive(Debug)]
struct Watcher {
    place: Place,
    /// The line of a head or trailer so far, cut at the limit.
    line: Vec<u8>,
    last: u8,
    first_line: bool,
    length: Option<u64>,
    lengths: u32,
    encodings: u32,
    chunked: bool,
    wrong: Option<Ambiguity>,
    verdicts: Verdicts,
}

impl Watcher {
    fn new(verdicts: Verdicts) -> Self {
        Self {
            place: Place::Head,
            line: Vec::new(),
            last: 0,
            first_line: true,
            length: None,
            lengths: 0,
            encodings: 0,
            chunked: false,
            wrong: None,
            verdicts,
        }
    }

    fn watch(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            bytes = rest;
            match self.place {
                Place::Lost => return,
                Place::Body(left) | Place::ChunkData(left) => {
                    // `byte` is the first of what is skipped at once.
                    let more = usize::try_from(left - 1).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = bytes.get(more..).unwrap_or_default();
                    self.skipped(left - 1 - more as u64);
                }
                Place::Head => self.head_byte(byte),
                Place::ChunkSize(size, extension) => self.chunk_size_byte(size, extension, byte),
                Place::ChunkEnd => {
                    if byte == b'\n' {
                        self.place = Place::ChunkSize(0, false);
                    }
                }
                Place::Trailer => {
                    if byte == b'\n' {
                        let end = self.line.is_empty();
                        self.line.clear();
                        if end {
                            self.begin_head();
                        }
                    } else if byte != b'\r' && self.line.len() < LINE_BYTES_MAX {
                        self.line.push(byte);
                    }
                }
            }
        }
    }

    fn skipped(&mut self, left: u64) {
        self.place = match (self.place, left) {
            (Place::Body(_), 0) => {
                self.begin_head();
                return;
            }
            (Place::Body(_), left) => Place::Body(left),
            (_, 0) => Place::ChunkEnd,
            (_, left) => Place::ChunkData(left),
        };
    }

    fn begin_head(&mut self) {
        *self = Self { place: Place::Head, ..Self::new(self.verdicts.clone()) };
    }

    fn chunk_size_byte(&mut self, size: u64, extension: bool, byte: u8) {
        self.place = match (byte, char::from(byte).to_digit(16)) {
            (b'\n', _) if size == 0 => Place::Trailer,
            (b'\n', _) => Place::ChunkData(size),
            (_, Some(digit)) if !extension => match size.checked_mul(16) {
                Some(size) => Place::ChunkSize(size + u64::from(digit), false),
                None => Place::Lost, // hyper refuses such a size
            },
            _ => Place::ChunkSize(size, true),
        };
    }

    fn head_byte(&mut self, byte: u8) {
        let last = std::mem::replace(&mut self.last, byte);
        if byte != b'\n' {
            if byte != b'\r' && self.line.len() < LINE_BYTES_MAX {
                self.line.push(byte);
            }
            return;
        }
        if last != b'\r' {
            self.wrong = self.wrong.or(Some(Ambiguity::Header));
        }
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            if !self.first_line {
                self.end_head();
            }
        } else if std::mem::take(&mut self.first_line) {
            // The request line is hyper's to judge.
        } else {
            self.header(&line);
        }
    }

    fn header(&mut self, line: &[u8]) {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            self.wrong = self.wrong.or(Some(Ambiguity::Header));
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            self.lengths += 1;
            self.length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.encodings += 1;
            self.chunked = value.eq_ignore_ascii_case(b"chunked");
        }
    }

    fn end_head(&mut self) {
        let doubtful = self.encodings > 0 && (self.lengths > 0 || self.encodings > 1 || !self.chunked);
        if doubtful || self.lengths > 1 {
            self.wrong = Some(Ambiguity::Framing);
        }
        self.verdicts.add(self.wrong);
        self.place = match (self.wrong, self.chunked, self.length) {
            (Some(_), ..) => Place::Lost,
            (None, true, _) => Place::ChunkSize(0, false),
            (None, false, Some(length)) if length > 0 => Place::Body(length),
            (None, false, _) => {
                self.begin_head();
                return;
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdicts(bytes: &[u8], step: usize) -> Vec<Option<Ambiguity>> {
        let verdicts = Verdicts::default();
        let mut watcher = Watcher::new(verdicts.clone());
        bytes.chunks(step).for_each(|chunk| watcher.watch(chunk));
        std::mem::take(&mut *verdicts.0.lock().unwrap()).into()
    }

    #[test]
    fn ambiguous_heads_are_told_from_plain_ones() {
        let head = |headers: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        for (headers, expected) in [
            ("Content-Length: 0\r\n", None),
            ("Transfer-Encoding: chunked\r\n", None),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", Some(Ambiguity::Framing)),
            ("transfer-encoding: chunked\r\ncontent-length: 1\r\n", Some(Ambiguity::Framing)),
            ("Transfer-Encoding: identity, chunked\r\n", Some(Ambiguity::Framing)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Some(Ambiguity::Framing)),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", Some(Ambiguity::Framing)),
            ("X: a\n", Some(Ambiguity::Header)),
            ("X: a\r\n b\r\n", Some(Ambiguity::Header)),
        ] {
            assert_eq!(verdicts(head(headers).as_bytes(), 7), [expected], "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn bodies_are_not_taken_for_heads(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..5),
            chunked in any::<bool>(),
            step in 1usize..50,
        ) {
            let mut bytes = Vec::new();
            for body in &bodies {
                bytes.extend(b"POST / HTTP/1.1\r\nHost: a\r\n");
                if chunked {
                    bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                    for chunk in body.chunks(17) {
                        bytes.extend(format!("{:x};ext=1\r\n", chunk.len()).into_bytes());
                        bytes.extend(chunk);
                        bytes.extend(b"\r\n");
                    }
                    bytes.extend(b"0\r\nTrailer: x\r\n\r\n");
                } else {
                    bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
                    bytes.extend(body);
                }
            }
            prop_assert_eq!(verdicts(&bytes, step), vec![None; bodies.len()]);
        }
    }
}
