//! What the workers of a fleet tell each other of a connection, each a keyed record.

use inflection_domain::Timestamp;
use prost::Message as _;

use bytes::Bytes;

use crate::{DecodeError, pb};

/// A connection asked not to be sent to until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedWindow {
    /// The end of it.
    pub until: Timestamp,
}

impl ClosedWindow {
    /// Writes the record.
    #[must_use]
    pub fn encode(self) -> Bytes {
        pb::ClosedWindow { until_ms: self.until.as_ms() }.encode_to_vec().into()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { until: Timestamp::from_ms(pb::ClosedWindow::decode(bytes)?.until_ms) })
    }
}

/// What an operator wants of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OperatorHold {
    /// Nothing is to be sent.
    pub paused: bool,
    /// How often an operator has said "resume".
    pub resumes: u64,
    /// When an operator last said something.
    pub at: Timestamp,
}

impl OperatorHold {
    /// Writes the record.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let Self { paused, resumes, at } = self;
        pb::OperatorHold { paused, resumes, at_ms: at.as_ms() }.encode_to_vec().into()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let pb::OperatorHold { paused, resumes, at_ms } = pb::OperatorHold::decode(bytes)?;
        Ok(Self { paused, resumes, at: Timestamp::from_ms(at_ms) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_undoes_encode() {
        let window = ClosedWindow { until: Timestamp::from_ms(7) };
        assert_eq!(ClosedWindow::decode(&window.encode()).unwrap(), window);
        let hold = OperatorHold { paused: true, resumes: 3, at: Timestamp::from_ms(9) };
        assert_eq!(OperatorHold::decode(&hold.encode()).unwrap(), hold);
        assert_eq!(OperatorHold::decode(b"").unwrap(), OperatorHold::default());
    }
}
