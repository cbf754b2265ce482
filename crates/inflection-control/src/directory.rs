//! The workspaces as they are configured now: what changes while a process runs.

use std::sync::Arc;

use tokio::sync::watch;

use crate::Workspace;

/// The workspaces as they are configured now, and a way to hear of changes. Clones follow the same configuration.
#[derive(Debug, Clone)]
pub struct Directory(watch::Receiver<Arc<Vec<Workspace>>>);

/// Whoever reads the configuration writes it here.
#[derive(Debug)]
pub struct DirectoryWriter(watch::Sender<Arc<Vec<Workspace>>>);

impl Directory {
    /// A directory of these workspaces, and its writer.
    #[must_use]
    pub fn new(workspaces: Vec<Workspace>) -> (DirectoryWriter, Self) {
        let (writer, reader) = watch::channel(Arc::new(workspaces));
        (DirectoryWriter(writer), Self(reader))
    }

    /// The workspaces now.
    #[must_use]
    pub fn current(&self) -> Arc<Vec<Workspace>> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits for a change that this clone has not seen, and gives what holds then. Never returns when the writer is gone:
    /// then nothing changes any more.
    ///
    /// # Cancel safety
    /// A dropped call has seen nothing.
    pub async fn changed(&mut self) -> Arc<Vec<Workspace>> {
        match self.0.changed().await {
            Ok(()) => Arc::clone(&self.0.borrow_and_update()),
            Err(_writer_gone) => std::future::pending().await,
        }
    }
}

impl DirectoryWriter {
    /// Puts these workspaces into force.
    pub fn replace(&self, workspaces: Vec<Workspace>) {
        self.0.send_replace(Arc::new(workspaces));
    }
}
