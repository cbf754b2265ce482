//! Following keyed records of the embedded store.

use std::sync::Arc;

use tokio::sync::watch;

use super::Shared;
use crate::{ReadError, RecordChange};

/// Follows the records under a prefix.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    /// With the dot.
    prefix: String,
    /// Everything up to this revision was told; `None` before the first look.
    told: Option<u64>,
    revisions: watch::Receiver<u64>,
    closed: watch::Receiver<bool>,
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>, prefix: &str) -> Self {
        let revisions = shared.index().revisions();
        let closed = shared.closed.subscribe();
        Self { shared, prefix: format!("{prefix}."), told: None, revisions, closed }
    }

    pub(crate) async fn next(&mut self) -> Result<Vec<RecordChange>, ReadError> {
        loop {
            // Before looking: what is written between the look and the wait must wake us.
            let latest = *self.revisions.borrow_and_update();
            let first = self.told.is_none();
            let changes = self.shared.index().records_after(&self.prefix, self.told.unwrap_or(0));
            if first || !changes.is_empty() {
                // A record written after `latest` was read may be among them; it is told again, which is no harm.
                self.told = Some(latest);
                return Ok(changes);
            }
            tokio::select! {
                _ = self.revisions.changed() => {}
                _ = self.closed.wait_for(|closed| *closed) => {
                    return Err(self.shared.ended());
                }
            }
        }
    }
}
