//! The installation's identity: made once, kept in the bus.

use bytes::Bytes;
use inflection_domain::{InstallationId, InstallationKey, PartitionCount};
use prost::Message as _;

use crate::{DecodeError, pb};

/// Version of the messages in `proto/`. A bus that carries a newer one is refused.
pub const SCHEMA_VERSION: u32 = 1;

/// What makes two installations different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Goes into every messageId.
    pub id: InstallationId,
    /// Persons are derived from addresses under it.
    pub key: InstallationKey,
    /// Number of partitions; never changed.
    pub partitions: PartitionCount,
    /// Version of the messages on the bus.
    pub schema_version: u32,
}

impl Installation {
    /// Writes the record.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        pb::Installation {
            id: self.id.as_str().to_owned(),
            key: Bytes::copy_from_slice(self.key.expose()),
            partitions: u32::from(self.partitions.get()),
            schema_version: self.schema_version,
        }
        .encode_to_vec()
        .into()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no installation record.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let pb = pb::Installation::decode(bytes)?;
        let key = <[u8; 32]>::try_from(&*pb.key).ok().ok_or(DecodeError::Field("key"))?;
        let partitions = u16::try_from(pb.partitions).ok().and_then(PartitionCount::new);
        Ok(Self {
            id: InstallationId::new(&pb.id).ok().ok_or(DecodeError::Field("id"))?,
            key: InstallationKey::new(key),
            partitions: partitions.ok_or(DecodeError::Field("partitions"))?,
            schema_version: pb.schema_version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_undoes_encode() {
        let installation = Installation {
            id: InstallationId::new("i-1").unwrap(),
            key: InstallationKey::new([9; 32]),
            partitions: PartitionCount::new(16).unwrap(),
            schema_version: SCHEMA_VERSION,
        };
        assert_eq!(Installation::decode(&installation.encode()).unwrap(), installation);
        assert!(Installation::decode(b"").is_err());
    }
}
