//! Calls that cannot be sent now, on their way into and out of a parked log.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use inflection_domain::{Hash128, Timestamp};
use prost::Message as _;

use crate::{CarriedTrace, ConnectionTotals, DecodeError, carried_trace, key_bytes, optional_key, pb};

/// One message of a parked log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedBatch {
    /// The connection's books in this partition, these calls counted as parked.
    pub totals: ConnectionTotals,
    /// The calls, in order.
    pub calls: Vec<ParkedCall>,
}

/// One parked call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented in proto/inflection/v1/delivery.proto")]
pub struct ParkedCall {
    pub call: Bytes,
    pub event_id_bytes: u32,
    pub received_at: Timestamp,
    pub id: u64,
    pub person: Option<Hash128>,
    pub trace: CarriedTrace,
}

impl ParkedBatch {
    /// Most bytes of calls before compression that fit into a message, whatever they are: deflate makes nothing longer
    /// than by a few bytes in a thousand.
    pub const CALLS_BYTES_MAX: usize = 512 * 1024;

    /// Writes the bus message.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let calls = self.calls.into_iter().map(|call| pb::ParkedCall {
            call: call.call,
            event_id_bytes: call.event_id_bytes,
            received_at_ms: call.received_at.as_ms(),
            id: call.id,
            person_key: key_bytes(call.person),
            trace: call.trace.map_or(Bytes::new(), |trace| Bytes::copy_from_slice(&trace[..])),
        });
        let calls = pb::ParkedCalls { calls: calls.collect() }.encode_to_vec();
        let mut encoder = DeflateEncoder::new(Vec::with_capacity(calls.len() / 8), Compression::fast());
        // A Vec takes every write.
        let compressed = encoder.write_all(&calls).and_then(|()| encoder.finish()).unwrap_or_default();
        let pb = pb::ParkedBatch {
            totals: Some(self.totals.to_pb()),
            calls: compressed.into(),
            calls_bytes: u32::try_from(calls.len()).unwrap_or(u32::MAX),
        };
        pb.encode_to_vec().into()
    }

    /// Reads a bus message.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none; a parked log has no entries that may be skipped.
    pub fn decode(message: Bytes) -> Result<Self, DecodeError> {
        let pb = pb::ParkedBatch::decode(message)?;
        let totals = ConnectionTotals::from_pb(&pb.totals.ok_or(DecodeError::Field("totals"))?)?;
        let mut calls = Vec::with_capacity(pb.calls_bytes as usize);
        // One byte more than was promised is enough to see that the promise is wrong.
        let mut plain = DeflateDecoder::new(&*pb.calls).take(u64::from(pb.calls_bytes) + 1);
        let read = plain.read_to_end(&mut calls);
        if read.ok() != Some(pb.calls_bytes as usize) {
            return Err(DecodeError::Field("calls"));
        }
        let calls = pb::ParkedCalls::decode(Bytes::from(calls))?.calls.into_iter().map(|call| {
            Ok(ParkedCall {
                call: call.call,
                event_id_bytes: call.event_id_bytes,
                received_at: Timestamp::from_ms(call.received_at_ms),
                id: call.id,
                person: optional_key("person_key", &call.person_key)?,
                trace: carried_trace(&call.trace),
            })
        });
        Ok(Self { totals, calls: calls.collect::<Result<_, DecodeError>>()? })
    }

    /// Reads only the books of a bus message, and whether it has calls.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none.
    pub fn decode_totals(message: Bytes) -> Result<(ConnectionTotals, bool), DecodeError> {
        let pb = pb::ParkedBatch::decode(message)?;
        let totals = ConnectionTotals::from_pb(&pb.totals.ok_or(DecodeError::Field("totals"))?)?;
        Ok((totals, pb.calls_bytes > 0))
    }
}

#[cfg(test)]
mod tests {
    use inflection_domain::{ConnectionId, WorkspaceId};

    use super::*;
    use crate::CallPosition;

    fn batch(calls: Vec<ParkedCall>) -> ParkedBatch {
        let (workspace, connection) = (WorkspaceId::new("acme").unwrap(), ConnectionId::new("prod").unwrap());
        let ended = CallPosition { through: 41, calls: 2 };
        let totals = ConnectionTotals { parked: 3, ..ConnectionTotals::new(workspace, connection, 0, ended) };
        ParkedBatch { totals, calls }
    }

    fn call(number: u64, call: Bytes) -> ParkedCall {
        ParkedCall {
            call,
            event_id_bytes: 2,
            received_at: Timestamp::from_ms(5),
            id: number,
            person: number.is_multiple_of(2).then(Hash128::default),
            trace: number.is_multiple_of(10).then(|| Box::new([7; 24])),
        }
    }

    #[test]
    fn decode_undoes_encode() {
        let batch = batch((0..100).map(|number| call(number, Bytes::from(vec![b'x'; 800]))).collect());
        let message = batch.clone().encode();
        assert!(message.len() < 8_000, "compressed: {}", message.len());
        assert_eq!(ParkedBatch::decode_totals(message.clone()).unwrap(), (batch.totals.clone(), true));
        assert_eq!(ParkedBatch::decode(message).unwrap(), batch);
        let empty = ParkedBatch { calls: Vec::new(), ..batch };
        assert_eq!(ParkedBatch::decode_totals(empty.clone().encode()).unwrap(), (empty.totals.clone(), false));
        assert_eq!(ParkedBatch::decode(empty.clone().encode()).unwrap(), empty);
    }

    #[test]
    fn what_cannot_be_compressed_still_fits() {
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let item: Vec<u8> = (0..ParkedBatch::CALLS_BYTES_MAX).map(|_| noise()).collect();
        assert!(batch(vec![call(1, item.into())]).encode().len() < 1024 * 1024);
    }

    #[test]
    fn a_damaged_message_is_refused() {
        let mut message = batch(vec![call(1, Bytes::from_static(b"{}"))]).encode().to_vec();
        let end = message.len() - 4;
        message[end] ^= 0xff;
        assert!(ParkedBatch::decode(message.into()).is_err());
    }
}
