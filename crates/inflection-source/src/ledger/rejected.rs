//! Counts of refused events, of all processes.
//!
//! Followed by a task of its own: a watch that is looked at now and then, without waiting, never comes back after a
//! reconnect.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use inflection_bus::{Bus, Watch};
use inflection_ingest::REJECTED_RECORDS;
use inflection_wire::RejectedEvents;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long may pass until it is known how many events were refused.
const PATIENCE: Duration = Duration::from_secs(2);

/// By workspace; `None` until what there is was told.
type Counts = Option<BTreeMap<String, u64>>;

/// The counts as they are now.
#[derive(Debug)]
pub(super) struct Rejected {
    counts: watch::Receiver<Counts>,
    /// Ends when this is dropped.
    _following: JoinSet<()>,
}

impl Rejected {
    pub(super) fn follow(bus: &Bus) -> Self {
        let (told, counts) = watch::channel(None);
        let mut following = JoinSet::new();
        following.spawn(follow(bus.watch(REJECTED_RECORDS), told));
        Self { counts, _following: following }
    }

    /// The counts; nothing when they cannot be had now.
    pub(super) async fn counts(&mut self) -> anyhow::Result<BTreeMap<String, u64>> {
        match tokio::time::timeout(PATIENCE, self.counts.wait_for(Option::is_some)).await {
            Ok(counts) => {
                Ok(counts.context("the counts of refused events cannot be read")?.clone().unwrap_or_default())
            }
            Err(_elapsed) => Ok(BTreeMap::new()),
        }
    }
}

/// Until the bus ends. A watch tells first, perhaps with nothing, what there is; then what is new.
async fn follow(mut records: Watch, told: watch::Sender<Counts>) {
    while let Ok(changes) = records.next().await {
        told.send_modify(|counts| {
            let counts = counts.get_or_insert_default();
            for record in changes {
                if let Some((_, workspace)) = record.key.split_once('.') {
                    counts.insert(workspace.to_owned(), RejectedEvents::decode(&record.value).count);
                }
            }
        });
    }
}
