//! What a journal consists of.
//!
//! A frame is `length: u32 | crc32c: u32 | body`, little-endian, the checksum over the body. A length of 0 is the end of
//! what was written (files are allocated ahead and full of zeros). The body is `kind: u8` and its fields; texts are
//! preceded by a one-byte length.

use bytes::{Buf, BufMut};

/// Bytes before the body.
pub(super) const HEADER_BYTES: usize = 8;
/// Largest body: a payload, a name and their framing.
const BODY_BYTES_MAX: usize = super::PAYLOAD_BYTES_MAX + 1024;

const APPEND: u8 = 1;
const PURGE: u8 = 2;
const RECORD: u8 = 3;
const DELETE: u8 = 4;
const POSITION: u8 = 5;

/// One entry of the journal, borrowing from the buffer it was read from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A message of a log.
    Append { log: &'a str, sequence: u64, payload: &'a [u8] },
    /// The messages of a log up to a sequence are gone.
    Purge { log: &'a str, through: u64 },
    /// A record was written.
    Record { key: &'a str, revision: u64, value: &'a [u8] },
    /// A record was deleted.
    Delete { key: &'a str, revision: u64 },
    /// Where a log stands, repeated at the head of each file so that older files may go: the sequence before its first
    /// message, and its last sequence.
    Position { log: &'a str, purged: u64, last: u64 },
}

/// Appends to a buffer what comes before the payload in the frame of a message.
pub(super) fn encode_append_head(log: &str, sequence: u64, payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.put_u64_le(0); // the header, known at the end
    put(out, APPEND, log, sequence);
    let head = out.get(start + HEADER_BYTES..).unwrap_or_default();
    let (length, crc) = (head.len() + payload.len(), crc32c::crc32c_append(crc32c::crc32c(head), payload));
    put_header(out, start, length, crc);
}

impl Frame<'_> {
    /// Appends the frame to a buffer.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u64_le(0); // the header, known at the end
        match *self {
            Frame::Append { log, sequence, payload } => {
                put(out, APPEND, log, sequence);
                out.put_slice(payload);
            }
            Frame::Purge { log, through } => put(out, PURGE, log, through),
            Frame::Record { key, revision, value } => {
                put(out, RECORD, key, revision);
                out.put_slice(value);
            }
            Frame::Delete { key, revision } => put(out, DELETE, key, revision),
            Frame::Position { log, purged, last } => {
                put(out, POSITION, log, purged);
                out.put_u64_le(last);
            }
        }
        let body = out.get(start + HEADER_BYTES..).unwrap_or_default();
        let (length, crc) = (body.len(), crc32c::crc32c(body));
        put_header(out, start, length, crc);
    }
}

fn put_header(out: &mut [u8], start: usize, length: usize, crc: u32) {
    if let Some(mut header) = out.get_mut(start..start + HEADER_BYTES) {
        header.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
        header.put_u32_le(crc);
    }
}

fn put(out: &mut Vec<u8>, kind: u8, name: &str, number: u64) {
    out.put_u8(kind);
    out.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX)); // names are at most 200 bytes
    out.put_slice(name.as_bytes());
    out.put_u64_le(number);
}

/// What lies at the front of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A whole frame of this many bytes.
    Frame(Frame<'a>, usize),
    /// Nothing was written here.
    End,
    /// Something that is no whole frame: cut short, or damaged.
    Broken,
}

/// Reads the frame at the front of `bytes`.
pub(super) fn next(bytes: &[u8]) -> Next<'_> {
    let Some((mut header, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        return if bytes.iter().all(|byte| *byte == 0) { Next::End } else { Next::Broken };
    };
    let (length, crc) = (header.get_u32_le() as usize, header.get_u32_le());
    if length == 0 && crc == 0 {
        return Next::End;
    }
    let body = rest.get(..length).filter(|body| length <= BODY_BYTES_MAX && crc32c::crc32c(body) == crc);
    match body.and_then(decode) {
        Some(frame) => Next::Frame(frame, HEADER_BYTES + length),
        None => Next::Broken,
    }
}

fn decode(mut body: &[u8]) -> Option<Frame<'_>> {
    let kind = body.try_get_u8().ok()?;
    let name_bytes = usize::from(body.try_get_u8().ok()?);
    let (name, mut rest) = body.split_at_checked(name_bytes)?;
    let name = std::str::from_utf8(name).ok()?;
    let number = rest.try_get_u64_le().ok()?;
    Some(match kind {
        APPEND => Frame::Append { log: name, sequence: number, payload: rest },
        PURGE => Frame::Purge { log: name, through: number },
        RECORD => Frame::Record { key: name, revision: number, value: rest },
        DELETE => Frame::Delete { key: name, revision: number },
        POSITION => Frame::Position { log: name, purged: number, last: rest.try_get_u64_le().ok()? },
        _ => return None,
    })
}

/// Bytes from the start of an append frame to its payload.
pub(super) fn payload_offset(log: &str) -> usize {
    HEADER_BYTES + 2 + log.len() + 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> Vec<Frame<'static>> {
        vec![
            Frame::Append { log: "events.1", sequence: 7, payload: b"payload" },
            Frame::Purge { log: "events.1", through: 7 },
            Frame::Record { key: "k", revision: 1, value: b"" },
            Frame::Delete { key: "k", revision: 2 },
            Frame::Position { log: "events.1", purged: 3, last: 9 },
        ]
    }

    #[test]
    fn frames_are_read_as_written_and_zeros_are_the_end() {
        let mut bytes = Vec::new();
        frames().iter().for_each(|frame| frame.encode(&mut bytes));
        bytes.extend([0; 32]);
        let mut at = 0;
        for expected in frames() {
            let Next::Frame(frame, length) = next(&bytes[at..]) else { panic!("broken at {at}") };
            assert_eq!(frame, expected);
            at += length;
        }
        assert_eq!(next(&bytes[at..]), Next::End);
        assert_eq!(next(&[]), Next::End);
    }

    #[test]
    fn the_payload_is_where_it_is_said_to_be() {
        let mut bytes = Vec::new();
        frames()[0].encode(&mut bytes);
        assert_eq!(&bytes[payload_offset("events.1")..], b"payload");
    }

    proptest! {
        #[test]
        fn a_changed_or_missing_byte_is_noticed(cut in 0usize..40, flip in 1u8..) {
            let mut bytes = Vec::new();
            frames()[0].encode(&mut bytes);
            let at = cut % bytes.len();
            if at > 0 {
                prop_assert_eq!(next(&bytes[..at]), Next::Broken);
            }
            bytes[at] ^= flip;
            prop_assert_eq!(next(&bytes), Next::Broken);
        }
    }
}
