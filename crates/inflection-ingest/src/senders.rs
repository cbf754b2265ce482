//! Who may send, and how much, as it is configured now.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use inflection_control::{IngestKeys, RateBudget, Workspace};
use inflection_domain::{MachineRules, WorkspaceId};

use crate::answer::{Code, Refusal};
use crate::webhooks::Webhooks;

/// One state of the configuration; it is replaced as a whole when the configuration changes.
#[derive(Debug)]
pub(crate) struct Senders {
    pub(crate) keys: IngestKeys,
    pub(crate) webhooks: Webhooks,
    connections: HashMap<WorkspaceId, HashSet<String>>,
    rates: HashMap<WorkspaceId, (u32, Mutex<RateBudget>)>,
    machine: HashMap<WorkspaceId, MachineRules>,
    default_machine: MachineRules,
}

impl Senders {
    /// The senders of these workspaces; what `before` has let through counts on.
    pub(crate) fn of(workspaces: &[Workspace], before: Option<&Self>, now: Duration) -> Self {
        let names =
            |workspace: &Workspace| workspace.connections.iter().map(|one| one.id.as_str().to_owned()).collect();
        let rate = |workspace: &Workspace| {
            let per_second = workspace.ingest_events_per_second?;
            let budget = match before.and_then(|before| before.rates.get(&workspace.id)) {
                Some((same, budget)) if *same == per_second => {
                    budget.lock().unwrap_or_else(PoisonError::into_inner).clone()
                }
                Some(_) | None => RateBudget::new(per_second, now),
            };
            Some((workspace.id.clone(), (per_second, Mutex::new(budget))))
        };
        Self {
            keys: IngestKeys::of(workspaces),
            webhooks: Webhooks::of(workspaces),
            connections: workspaces.iter().map(|workspace| (workspace.id.clone(), names(workspace))).collect(),
            rates: workspaces.iter().filter_map(rate).collect(),
            machine: workspaces.iter().map(|workspace| (workspace.id.clone(), workspace.machine.clone())).collect(),
            default_machine: MachineRules::default(),
        }
    }

    /// Whether a workspace has a connection of this name.
    pub(crate) fn has_connection(&self, workspace: &WorkspaceId, connection: &str) -> bool {
        self.connections.get(workspace).is_some_and(|known| known.contains(connection))
    }

    /// How a workspace tells machines from people.
    pub(crate) fn machine(&self, workspace: &WorkspaceId) -> &MachineRules {
        self.machine.get(workspace).unwrap_or(&self.default_machine)
    }

    /// Refuses what is over the workspace's rate.
    pub(crate) fn admit(&self, workspace: &WorkspaceId, events: usize, now: Duration) -> Result<(), Refusal> {
        let Some((_, rate)) = self.rates.get(workspace) else { return Ok(()) };
        let count = u32::try_from(events).unwrap_or(u32::MAX);
        let outcome = rate.lock().unwrap_or_else(PoisonError::into_inner).take(count, now);
        outcome.map_err(|wait| {
            let message = "this workspace sends more events a second than it may";
            Refusal::later(Code::RateLimited, message, wait.as_secs() + 1)
        })
    }
}
