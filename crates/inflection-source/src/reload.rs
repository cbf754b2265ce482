//! Follows the configuration file and the secrets it names while a process runs.

use std::sync::Arc;
use std::time::Duration;

use inflection_control::{Config, Directory, DirectoryWriter, Workspace};
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::metrics::ReloadMetrics;

/// How often files are read again. They are small, and content is compared: this also sees what watching for changes of
/// files misses, like the swapped links of a mounted secret.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Reads the configuration as it was read at the start, flags included.
#[derive(Clone)]
pub(crate) struct Read(Arc<dyn Fn() -> Result<Config, Failure> + Send + Sync>);

impl Read {
    pub(crate) fn new(read: impl Fn() -> Result<Config, Failure> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Read").finish_non_exhaustive()
    }
}

/// A configuration that is followed.
#[derive(Debug)]
pub(crate) struct Followed {
    read: Read,
    writer: DirectoryWriter,
    workspaces: Arc<Vec<Workspace>>,
}

/// The directory of a configuration, and what keeps it up with the file.
pub(crate) fn follow(config: &Config, read: Read) -> (Directory, Followed) {
    let (writer, directory) = Directory::new(config.workspaces.clone());
    let workspaces = directory.current();
    (directory, Followed { read, writer, workspaces })
}

impl Followed {
    /// Reads again and again until `shutdown`. A change that cannot be used changes nothing, and is said once.
    pub(crate) async fn run(mut self, metrics: ReloadMetrics, shutdown: CancellationToken) {
        let mut told = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(READ_EVERY) => {}
            }
            let read = self.read.clone();
            let Ok(outcome) = tokio::task::spawn_blocking(move || (read.0)()).await else { return };
            metrics.read(outcome.is_ok());
            match outcome {
                Ok(config) => {
                    told = None;
                    if config.workspaces != *self.workspaces {
                        tracing::info!(workspaces = config.workspaces.len(), "the configuration has changed");
                        self.workspaces = Arc::new(config.workspaces.clone());
                        self.writer.replace(config.workspaces);
                    }
                }
                Err(failure) => {
                    let why = failure.to_string();
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(why, "the changed configuration cannot be used; the one before stays in force");
                        told = Some(why);
                    }
                }
            }
        }
    }
}
