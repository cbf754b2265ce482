//! Reading a log in order from one's own position.

use bytes::Bytes;

use crate::{ReadError, Sequence, embedded, nats};

/// One message of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its place in the log.
    pub sequence: Sequence,
    /// What was appended.
    pub payload: Bytes,
}

/// Reads a log in order, without gaps, and waits at its end.
#[derive(Debug)]
pub struct Reader(Backend);

#[derive(Debug)]
enum Backend {
    Nats(Box<nats::Reader>),
    Embedded(embedded::Reader),
}

impl Reader {
    pub(crate) fn nats(reader: nats::Reader) -> Self {
        Self(Backend::Nats(Box::new(reader)))
    }

    pub(crate) fn embedded(reader: embedded::Reader) -> Self {
        Self(Backend::Embedded(reader))
    }

    /// The next messages in order: at least one, and then as many as are there already within `bytes_max` bytes.
    ///
    /// # Errors
    /// [`ReadError`] when a stored message is damaged or the store has failed. A lost connection is not an error: the
    /// reader goes on from its position when the bus is back.
    ///
    /// # Cancel safety
    /// A dropped call has consumed nothing.
    pub async fn next(&mut self, bytes_max: usize) -> Result<Vec<Message>, ReadError> {
        match &mut self.0 {
            Backend::Nats(reader) => reader.next(bytes_max).await,
            Backend::Embedded(reader) => reader.next(bytes_max).await,
        }
    }
}
