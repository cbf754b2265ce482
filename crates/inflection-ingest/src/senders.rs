//! Who may send, and how much, as it is configured now.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use inflection_control::{IngestKeys, Workspace};
use inflection_domain::{MachineRules, WorkspaceId};

use crate::limits::Limits;
use crate::webhooks::Webhooks;

/// One state of the configuration; it is replaced as a whole when the configuration changes.
#[derive(Debug)]
pub(crate) struct Senders {
    pub(crate) keys: IngestKeys,
    pub(crate) webhooks: Webhooks,
    connections: HashMap<WorkspaceId, HashSet<String>>,
    pub(crate) limits: Limits,
    machine: HashMap<WorkspaceId, MachineRules>,
    default_machine: MachineRules,
}

impl Senders {
    /// The senders of these workspaces; what `before` has let through counts on.
    pub(crate) fn of(workspaces: &[Workspace], before: Option<&Self>, now: Duration) -> Self {
        let names =
            |workspace: &Workspace| workspace.connections.iter().map(|one| one.id.as_str().to_owned()).collect();
        Self {
            keys: IngestKeys::of(workspaces),
            webhooks: Webhooks::of(workspaces),
            connections: workspaces.iter().map(|workspace| (workspace.id.clone(), names(workspace))).collect(),
            limits: Limits::of(workspaces, before.map(|before| &before.limits), now),
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
}
