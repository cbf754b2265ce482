//! Runs the domain's fold over each partition and appends what it decides, fenced.
//!
//! * `step`: the fold of what was read into the next decision message; pure, a state machine;
//! * `partition`: the loop around it: read, fold, append, purge, and recovery;
//! * `snapshots`: the state as a blob now and then, so that recovery is short and the log can be truncated;
//! * `budget`: how much memory the states of a process may take;
//! * `trace`: the spans of traced events, around the fold;
//! * `audit`: whether all ways to a state end in the same one;
//! * `run`: all partitions.
//!
//! Nothing is decided here: the rules are `inflection-domain`'s. Nothing is sent from here: that is delivery's.

mod audit;
mod budget;
mod metrics;
mod partition;
mod snapshots;
mod step;
mod trace;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use inflection_bus::{Bus, InvalidName};
use inflection_control::{Directory, Workspace};
use inflection_domain::{InstallationKey, PartitionCount, Policy, WorkspaceId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use audit::{Audit, AuditError, Replay, audit};
pub use budget::{Exceeded, StateBudget};
use inflection_ownership::{Change, Shares, StopWait};
pub use metrics::IdentityMetrics;
pub use partition::PartitionError;
use partition::Worker;
use snapshots::SnapshotConfig;
pub use step::{Position, Step};

/// Snapshots a process takes at the same time: each holds a copy of a partition's state.
const SNAPSHOTS_AT_ONCE: usize = 1;
/// Least time between two that a partition takes because somebody was erased: whoever erases many, one by one, would else
/// have the whole state written for each.
const ERASED_EVERY: Duration = Duration::from_secs(10);
/// How long the last one may take when everything else has ended.
const LAST_SNAPSHOT: Duration = Duration::from_secs(2);

/// What identity is told.
#[derive(Debug)]
pub struct IdentityConfig {
    /// How many partitions there are.
    pub partitions: PartitionCount,
    /// The workspaces, with each one's choices. A change applies to facts folded after it.
    pub directory: Directory,
    /// The installation's key: suppressed persons are known by what it makes of them.
    pub key: InstallationKey,
    /// Bytes of decisions after which a partition takes a snapshot; a state of more than half of that waits for twice its
    /// own size.
    pub snapshot_every_bytes: u64,
    /// What the states of all partitions served here may take together.
    pub state_budget: StateBudget,
}

/// Each workspace's choices; those that are not configured get the default. And the key, which is the same for all.
#[derive(Debug, Clone)]
pub(crate) struct Policies {
    by_workspace: BTreeMap<WorkspaceId, Policy>,
    key: InstallationKey,
}

impl Policies {
    /// The choices of these workspaces.
    fn of(workspaces: &[Workspace], key: &InstallationKey) -> Self {
        let by_workspace = workspaces.iter().map(|workspace| (workspace.id.clone(), workspace.policy)).collect();
        Self { by_workspace, key: key.clone() }
    }

    fn get(&self, workspace: &WorkspaceId) -> Policy {
        self.by_workspace.get(workspace).copied().unwrap_or_default()
    }
}

/// Why identity stopped.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A log has no valid name: a defect.
    #[error("partition logs cannot be named")]
    Name(#[from] InvalidName),
    /// A partition cannot go on.
    #[error("partition {partition} cannot go on")]
    Partition {
        /// Its number.
        partition: u16,
        /// Why.
        source: PartitionError,
    },
    /// A partition's task panicked: a defect.
    #[error("a partition's task has failed")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Folds the partitions it is given, each until it is taken away: then the step in hand is finished.
///
/// # Errors
/// [`IdentityError`] when a partition's log is damaged or the store has failed: the process should end, so that whoever
/// restarts it looks at why.
pub async fn run(
    config: IdentityConfig,
    bus: Bus,
    metrics: IdentityMetrics,
    mut shares: Shares,
) -> Result<(), IdentityError> {
    let mut tasks: JoinSet<Result<u16, IdentityError>> = JoinSet::new();
    let mut served: HashMap<u16, (CancellationToken, Option<StopWait>)> = HashMap::new();
    let snapshots = SnapshotConfig {
        every_bytes: config.snapshot_every_bytes,
        gate: Arc::new(Semaphore::new(SNAPSHOTS_AT_ONCE)),
        erased_every: ERASED_EVERY,
    };
    metrics.state_budget.set(i64::try_from(config.state_budget.bytes()).unwrap_or(i64::MAX));
    let mut open = true;
    while open || !tasks.is_empty() {
        tokio::select! {
            change = shares.next(), if open => match change {
                Some(Change::Start(number)) => {
                    let Some(partition) = config.partitions.all().find(|one| one.index() == number) else { continue };
                    let snapshots = snapshots.clone();
                    let worker = Worker::new(partition, &bus, &config, snapshots, metrics.clone())?;
                    let stop = CancellationToken::new();
                    served.insert(number, (stop.clone(), None));
                    tasks.spawn(async move {
                        let named = |source| IdentityError::Partition { partition: number, source };
                        worker.run(stop).await.map(|()| number).map_err(named)
                    });
                }
                Some(Change::Stop(number, wait)) => {
                    if let Some((stop, waiting)) = served.get_mut(&number) {
                        stop.cancel();
                        *waiting = Some(wait);
                    }
                }
                None => open = false,
            },
            Some(ended) = tasks.join_next() => {
                // Whoever waits for the partition is told by this.
                served.remove(&ended.map_err(IdentityError::Panicked)??);
            }
        }
    }
    // Who holds the gate is still writing one. The partitions are free already.
    let _written_or_late = tokio::time::timeout(LAST_SNAPSHOT, snapshots.gate.acquire()).await;
    Ok(())
}
