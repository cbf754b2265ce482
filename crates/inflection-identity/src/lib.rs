//! Runs the domain's fold over each partition and appends what it decides, fenced.
//!
//! * `step`: the fold of what was read into the next decision message; pure, a state machine;
//! * `partition`: the loop around it: read, fold, append, purge, and recovery from the log;
//! * `run`: all partitions.
//!
//! Nothing is decided here: the rules are `inflection-domain`'s. Nothing is sent from here: that is delivery's.

mod metrics;
mod partition;
mod step;

use std::collections::HashMap;

use inflection_bus::{Bus, InvalidName};
use inflection_control::{Directory, Workspace};
use inflection_domain::{PartitionCount, Policy, WorkspaceId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use metrics::IdentityMetrics;
pub use partition::PartitionError;
pub use step::{Position, Step};

/// What identity is told.
#[derive(Debug)]
pub struct IdentityConfig {
    /// How many partitions there are.
    pub partitions: PartitionCount,
    /// The workspaces, with each one's choices. A change applies to facts folded after it.
    pub directory: Directory,
}

/// Each workspace's choices; those that are not configured get the default.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policies(HashMap<WorkspaceId, Policy>);

impl Policies {
    /// The choices of these workspaces.
    fn of(workspaces: &[Workspace]) -> Self {
        Self(workspaces.iter().map(|workspace| (workspace.id.clone(), workspace.policy)).collect())
    }

    fn get(&self, workspace: &WorkspaceId) -> Policy {
        self.0.get(workspace).copied().unwrap_or_default()
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

/// Folds all partitions until `shutdown`, then finishes the steps in hand.
///
/// # Errors
/// [`IdentityError`] when a partition's log is damaged or the store has failed: the process should end, so that whoever
/// restarts it looks at why.
pub async fn run(
    config: IdentityConfig,
    bus: Bus,
    metrics: IdentityMetrics,
    shutdown: CancellationToken,
) -> Result<(), IdentityError> {
    let mut tasks = JoinSet::new();
    for partition in config.partitions.all() {
        let worker = partition::Worker::new(partition, &bus, config.directory.clone(), metrics.clone())?;
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            let named = |source| IdentityError::Partition { partition: partition.index(), source };
            worker.run(shutdown).await.map_err(named)
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(IdentityError::Panicked)??;
    }
    Ok(())
}
