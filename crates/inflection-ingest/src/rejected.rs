//! How many events were refused, over all processes and restarts: a count for people, by workspace.
//!
//! What is refused is not stored, so its count is not exact either: what a process has counted in the last second before
//! it is killed is missing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inflection_bus::{Bus, Expected, RecordError};
use inflection_domain::WorkspaceId;
use inflection_wire::RejectedEvents;
use tokio_util::sync::CancellationToken;

/// Counts are stored this often.
const STORE_EVERY: Duration = Duration::from_secs(1);
/// Tries to add to a count while other processes add too.
const TRIES: usize = 10;

/// Prefix of the records that count refused events: `rejected.<workspace>`.
pub const REJECTED_RECORDS: &str = "rejected";

fn rejected_key(workspace: &WorkspaceId) -> String {
    format!("{REJECTED_RECORDS}.{workspace}")
}

/// What was counted since it was last stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rejected(Arc<Mutex<BTreeMap<WorkspaceId, u64>>>);

impl Rejected {
    pub(crate) fn add(&self, workspace: &WorkspaceId, events: usize) {
        if events == 0 {
            return;
        }
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(workspace.clone()).or_default() += events as u64;
    }

    /// Stores counts until `shutdown`, and then once more.
    pub(crate) async fn keep(self, bus: Bus, shutdown: CancellationToken) {
        loop {
            let last = tokio::select! {
                () = shutdown.cancelled() => true,
                () = tokio::time::sleep(STORE_EVERY) => false,
            };
            let counts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            for (workspace, count) in counts {
                if let Err(error) = add(&bus, &workspace, count).await {
                    tracing::debug!(%error, "a count of refused events is stored later");
                    *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(workspace).or_default() += count;
                }
            }
            if last {
                return;
            }
        }
    }
}

async fn add(bus: &Bus, workspace: &WorkspaceId, count: u64) -> Result<(), RecordError> {
    let key = rejected_key(workspace);
    for _ in 0..TRIES {
        let (before, expected) = match bus.get_record(&key).await? {
            Some(record) => (RejectedEvents::decode(&record.value), Expected::Revision(record.revision)),
            None => (RejectedEvents::default(), Expected::Absent),
        };
        let after = RejectedEvents { count: before.count + count };
        match bus.put_record(&key, expected, after.encode()).await {
            Err(RecordError::Conflict) => {}
            outcome => return outcome.map(drop),
        }
    }
    Err(RecordError::Conflict)
}
