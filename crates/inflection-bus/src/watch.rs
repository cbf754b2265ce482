//! Following keyed records.

use bytes::Bytes;

use crate::{ReadError, embedded, nats};

/// A record that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordChange {
    /// Its key.
    pub key: String,
    /// What it holds now. Deletions are not told.
    pub value: Bytes,
    /// Its revision.
    pub revision: u64,
}

/// Follows the records under a prefix.
#[derive(Debug)]
pub struct Watch(Backend);

#[derive(Debug)]
enum Backend {
    Nats(Box<nats::Watch>),
    Embedded(embedded::Watch),
}

impl Watch {
    pub(crate) fn nats(watch: nats::Watch) -> Self {
        Self(Backend::Nats(Box::new(watch)))
    }

    pub(crate) fn embedded(watch: embedded::Watch) -> Self {
        Self(Backend::Embedded(watch))
    }

    /// The next changes. The first call answers at once with what there is, which may be nothing; later ones wait for at
    /// least one change.
    ///
    /// # Errors
    /// [`ReadError`] when the embedded store has failed. A lost connection is not an error: the watch goes on, and tells
    /// what it missed, when the bus is back.
    ///
    /// # Cancel safety
    /// A dropped call has consumed nothing.
    pub async fn next(&mut self) -> Result<Vec<RecordChange>, ReadError> {
        match &mut self.0 {
            Backend::Nats(watch) => Ok(watch.next().await),
            Backend::Embedded(watch) => watch.next().await,
        }
    }
}
