//! How workers of a stage share partitions.

use bytes::Bytes;
use prost::Message as _;

use crate::{DecodeError, pb};

/// A worker's sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented in proto/inflection/v1/ownership.proto")]
pub struct MemberRecord {
    pub incarnation: u64,
    pub beat: u64,
    pub leaving: bool,
}

impl MemberRecord {
    /// Writes the record.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let Self { incarnation, beat, leaving } = self;
        pb::Member { incarnation, beat, leaving }.encode_to_vec().into()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let pb::Member { incarnation, beat, leaving } = pb::Member::decode(bytes)?;
        Ok(Self { incarnation, beat, leaving })
    }
}

/// Who serves a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "documented in proto/inflection/v1/ownership.proto")]
pub struct OwnerRecord {
    pub worker: String,
    pub incarnation: u64,
}

impl OwnerRecord {
    /// Writes the record.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        pb::Owner { worker: self.worker.clone(), incarnation: self.incarnation }.encode_to_vec().into()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let pb::Owner { worker, incarnation } = pb::Owner::decode(bytes)?;
        Ok(Self { worker, incarnation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_undoes_encode() {
        let member = MemberRecord { incarnation: 7, beat: 8, leaving: true };
        assert_eq!(MemberRecord::decode(&member.encode()).unwrap(), member);
        let owner = OwnerRecord { worker: "w".into(), incarnation: 9 };
        assert_eq!(OwnerRecord::decode(&owner.encode()).unwrap(), owner);
    }
}
