//! Looking into running delivery, and steering it.

use std::sync::PoisonError;

use inflection_control::Connection;
use inflection_domain::{ConnectionId, WorkspaceId};
use inflection_wire::DeliveryProgress;

use crate::books::ConnectionKey;
use crate::check::{self, Check};
use crate::connection::{Command, ConnectionStatus, Shared};
use crate::control::{self, HoldError};
use crate::dead_letters::id_of;
use crate::hub::{Entries, Entry};
use crate::journal::Attempt;

/// A handle to a running delivery stage.
#[derive(Debug, Clone)]
pub struct DeliveryHandle {
    shared: Shared,
    entries: Entries,
}

/// A connection, its settings and what is known of it.
#[derive(Debug, Clone)]
pub struct ConnectionView {
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its settings.
    pub settings: Connection,
    /// What it does.
    pub status: ConnectionStatus,
}

/// Why a connection could not be told something.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such connection here.
    #[error("there is no connection {1} in workspace {0}")]
    NoConnection(WorkspaceId, ConnectionId),
    /// It could not be stored.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// The stage is stopping.
    #[error("delivery is stopping")]
    Stopping,
}

impl DeliveryHandle {
    pub(crate) fn new(shared: Shared, entries: Entries) -> Self {
        Self { shared, entries }
    }

    fn entry(&self, workspace: &WorkspaceId, connection: &ConnectionId) -> Result<Entry, ControlError> {
        let key = (workspace.clone(), connection.clone());
        let found = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        found.ok_or(ControlError::NoConnection(key.0, key.1))
    }

    /// All connections, by workspace and name.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionView> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|(key, entry)| self.view(key, entry)).collect()
    }

    fn view(&self, key: &ConnectionKey, entry: &Entry) -> ConnectionView {
        let mut status = entry.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.parked = self.shared.tracked.iter().map(|tracked| tracked.parked(key)).sum();
        ConnectionView { workspace: key.0.clone(), settings: (*entry.outlet.settings).clone(), status }
    }

    /// Holds everything of a connection, or lets it go on: for all workers, and over restarts. It is stored when this
    /// returns.
    ///
    /// # Errors
    /// [`ControlError`] says why not.
    pub async fn hold(
        &self,
        workspace: &WorkspaceId,
        connection: &ConnectionId,
        paused: bool,
    ) -> Result<(), ControlError> {
        let entry = self.entry(workspace, connection)?;
        Ok(control::hold(&self.shared.bus, &entry.outlet.key, paused).await?)
    }

    /// Tries a connection out, as far as that can be told from here.
    ///
    /// # Errors
    /// [`ControlError::NoConnection`].
    pub async fn check(&self, workspace: &WorkspaceId, connection: &ConnectionId) -> Result<Check, ControlError> {
        let entry = self.entry(workspace, connection)?;
        Ok(check::check(&entry.client, &entry.outlet.settings).await)
    }

    /// Sends dead letters again, by their places in the connection's log, under the same messageIds: in a lane of their
    /// own, slowly, below everything else.
    ///
    /// # Errors
    /// [`ControlError`] says why not.
    pub async fn replay(
        &self,
        workspace: &WorkspaceId,
        connection: &ConnectionId,
        letters: Vec<u64>,
    ) -> Result<(), ControlError> {
        let entry = self.entry(workspace, connection)?;
        entry.outlet.inbox.send(Command::Replay(letters)).await.map_err(|_ended| ControlError::Stopping)
    }

    /// Waits until everybody who sends here goes by this revision of the record of suppressed persons, or a later one:
    /// from then on no request begins with a call of one of them.
    pub async fn suppresses(&self, revision: u64) {
        self.shared.suppression.reached(revision).await;
    }

    /// The newest requests that had the call with this messageId, oldest first.
    #[must_use]
    pub fn attempts(&self, message_id: &str) -> Vec<Attempt> {
        self.shared.journal.lock().unwrap_or_else(PoisonError::into_inner).of(id_of(message_id))
    }

    /// How far a partition has come now, if it is served here; what is stored may be some moments older.
    #[must_use]
    pub fn progress(&self, partition: u16) -> Option<DeliveryProgress> {
        self.shared.tracked.get(usize::from(partition)).and_then(|tracked| tracked.progress())
    }
}
