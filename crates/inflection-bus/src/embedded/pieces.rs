//! What a round writes: small frames put together, payloads where they are. A payload is most of what is written, and in
//! memory already; it is not copied once more to be written.

use std::io::IoSlice;

use bytes::Bytes;

use super::frame;

/// Bytes that follow one another in a file.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Everything but the payloads.
    small: Vec<u8>,
    /// Payloads, and how many of the small bytes come before each.
    payloads: Vec<(usize, Bytes)>,
    payload_bytes: usize,
}

impl Pieces {
    /// How many bytes they are together.
    pub(super) fn len(&self) -> usize {
        self.small.len() + self.payload_bytes
    }

    /// Where frames without a payload of their own are written to.
    pub(super) fn small(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    /// Adds a message.
    pub(super) fn append(&mut self, log: &str, sequence: u64, payload: Bytes) {
        frame::encode_append_head(log, sequence, &payload, &mut self.small);
        self.payload_bytes += payload.len();
        self.payloads.push((self.small.len(), payload));
    }

    /// Forgets everything but the memory it took.
    pub(super) fn clear(&mut self) {
        self.small.clear();
        self.payloads.clear();
        self.payload_bytes = 0;
    }

    /// The bytes in their order.
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(2 * self.payloads.len() + 1);
        let mut from = 0;
        for (before, payload) in &self.payloads {
            slices.push(IoSlice::new(self.small.get(from..*before).unwrap_or_default()));
            slices.push(IoSlice::new(payload));
            from = *before;
        }
        slices.push(IoSlice::new(self.small.get(from..).unwrap_or_default()));
        slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::frame::Frame;

    #[test]
    fn pieces_are_the_frames_in_their_order() {
        let (mut pieces, mut whole) = (Pieces::default(), Vec::new());
        let payloads = [&b"first"[..], b"", b"third"];
        for round in 0..2 {
            for (sequence, payload) in (1..).zip(payloads) {
                pieces.append("events.1", sequence, Bytes::from_static(payload));
                Frame::Append { log: "events.1", sequence, payload }.encode(&mut whole);
                let purge = Frame::Purge { log: "events.2", through: sequence };
                purge.encode(pieces.small());
                purge.encode(&mut whole);
            }
            let written: Vec<u8> = pieces.slices().iter().flat_map(|slice| slice.iter().copied()).collect();
            assert_eq!((&written, pieces.len()), (&whole, whole.len()), "{round}");
            pieces.clear();
            whole.clear();
            assert_eq!(pieces.len(), 0);
        }
    }
}
