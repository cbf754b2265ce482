//! How many events were refused.

use bytes::Bytes;
use prost::Message as _;

use crate::pb;

/// A count of refused events of one workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RejectedEvents {
    /// The count.
    pub count: u64,
}

impl RejectedEvents {
    /// Writes the record.
    #[must_use]
    pub fn encode(self) -> Bytes {
        pb::RejectedEvents { count: self.count }.encode_to_vec().into()
    }

    /// Reads the record; what cannot be read counts as nothing: the count is for people only.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        Self { count: pb::RejectedEvents::decode(bytes).map_or(0, |pb| pb.count) }
    }
}
