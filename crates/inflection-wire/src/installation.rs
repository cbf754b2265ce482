//! The installation's identity: made once, kept in the bus.

use bytes::Bytes;
use inflection_domain::{InstallationId, InstallationKey, PartitionCount};
use prost::Message as _;

use crate::{DecodeError, pb};

/// Version of the messages in `proto/`, which goes up with every change of them that a program of before would notice.
/// ARCHITECTURE.md, "Versions side by side", has the rule.
pub const SCHEMA_VERSION: u32 = 2;
/// The oldest version whose programs may work beside this one, while a release rolls out or is taken back. It follows
/// [`SCHEMA_VERSION`] when a program of before would lose something by not knowing what is new.
pub const OLDEST_READER: u32 = 2;

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
    /// The oldest version whose programs may work on the bus.
    pub oldest_reader: u32,
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
            oldest_reader: self.oldest_reader,
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
            oldest_reader: if pb.oldest_reader == 0 { pb.schema_version } else { pb.oldest_reader },
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
            schema_version: 3,
            oldest_reader: 2,
        };
        assert_eq!(Installation::decode(&installation.encode()).unwrap(), installation);
        // A record from before there was an oldest reader: nobody but its own version is known to read it.
        let before = Installation { oldest_reader: 0, ..installation.clone() };
        assert_eq!(Installation::decode(&before.encode()).unwrap(), Installation { oldest_reader: 3, ..installation });
        assert!(Installation::decode(b"").is_err());
    }
}
