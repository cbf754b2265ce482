//! The connections of a process: which there are, and what they are told.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use inflection_control::{Connection, Directory, Workspace};
use inflection_domain::WorkspaceId;
use inflection_segment::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::books::ConnectionKey;
use crate::connection::{Command, ConnectionState, ConnectionStatus, INBOX_MAX, Sender, Shared, parked_log};
use crate::control::Control;
use crate::dead_letters::dead_letter_log;
use crate::dispatcher::Limits;
use crate::partition::{Common, Outlet, Outlets};
use crate::service::DeliveryError;

/// How often gauges of what lies parked are set.
const GAUGES_EVERY: Duration = Duration::from_secs(2);
/// What Segment sees as our name.
const USER_AGENT: &str = concat!("inflection-source/", env!("CARGO_PKG_VERSION"));

/// A connection as others see it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) outlet: Outlet,
    pub(crate) client: Client,
    pub(crate) status: Arc<Mutex<ConnectionStatus>>,
}

/// All connections of a process.
pub(crate) type Entries = Arc<RwLock<BTreeMap<ConnectionKey, Entry>>>;

/// Starts, changes and ends connections.
#[derive(Debug)]
pub(crate) struct Hub {
    shared: Shared,
    common: Arc<Common>,
    control: Control,
    limits: Limits,
    entries: Entries,
    senders: JoinSet<Result<(), DeliveryError>>,
    shutdown: CancellationToken,
}

impl Hub {
    pub(crate) fn new(
        shared: Shared,
        common: Arc<Common>,
        control: Control,
        limits: Limits,
        shutdown: CancellationToken,
    ) -> Self {
        Self { shared, common, control, limits, entries: Entries::default(), senders: JoinSet::new(), shutdown }
    }

    pub(crate) fn entries(&self) -> Entries {
        Arc::clone(&self.entries)
    }

    fn entry(&self, key: &ConnectionKey) -> Option<Entry> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Puts a configuration into force: what is new starts, what has changed is told so, what is gone leaves.
    pub(crate) async fn configure(&mut self, workspaces: &[Workspace]) -> Result<(), DeliveryError> {
        // A partition that opens meanwhile must be told to every connection.
        let opening = Arc::clone(&self.shared.opening);
        let _opening = opening.lock().await;
        let mut wanted = BTreeMap::new();
        for workspace in workspaces {
            for connection in &workspace.connections {
                wanted.insert((workspace.id.clone(), connection.id.clone()), connection);
            }
        }
        let mut next = BTreeMap::new();
        for (key, settings) in &wanted {
            let entry = match self.entry(key) {
                Some(entry) if *entry.outlet.settings == **settings => entry,
                Some(entry) => self.change(entry, settings).await?,
                None => self.connect(key, settings).await?,
            };
            next.insert(key.clone(), entry);
        }
        let before = {
            let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *entries, next.clone())
        };
        // Readers stop rendering for what is gone before it leaves: what they still hand it is left out.
        let mut outlets: Outlets = HashMap::new();
        for ((workspace, _), entry) in next {
            outlets.entry(workspace).or_default().push(entry.outlet);
        }
        self.common.set_outlets(outlets);
        for (key, entry) in before.into_iter().filter(|(key, _)| !wanted.contains_key(key)) {
            tracing::info!(workspace = %key.0, connection = %key.1, "the connection is not configured any more");
            tell(&entry, Command::Leave).await;
        }
        Ok(())
    }

    fn client(&self, workspace: &WorkspaceId, settings: &Connection) -> Result<Client, DeliveryError> {
        let client = Client::new(settings.endpoint.clone(), settings.write_key.expose(), USER_AGENT);
        client.map_err(|source| DeliveryError::Client {
            workspace: workspace.clone(),
            connection: settings.id.clone(),
            source,
        })
    }

    async fn change(&self, entry: Entry, settings: &Connection) -> Result<Entry, DeliveryError> {
        let client = self.client(&entry.outlet.key.0, settings)?;
        tell(&entry, Command::Settings(Box::new(settings.clone()), client.clone())).await;
        tracing::info!(workspace = %entry.outlet.key.0, connection = %settings.id, "the connection has new settings");
        Ok(Entry { client, outlet: Outlet { settings: Arc::new(settings.clone()), ..entry.outlet }, ..entry })
    }

    async fn connect(&mut self, key: &ConnectionKey, settings: &Connection) -> Result<Entry, DeliveryError> {
        let client = self.client(&key.0, settings)?;
        let (inbox, commands) = mpsc::channel(INBOX_MAX);
        let shared = self.shared.clone();
        let mut sender = Sender::new(key.clone(), settings.clone(), client.clone(), self.limits, commands, shared)?;
        // Before it sends anything.
        self.control.of(key).into_iter().for_each(|command| sender.obey(command));
        sender.obey(self.shared.share.command());
        for (partition, tracked) in (0u16..).zip(self.shared.tracked.iter()) {
            if tracked.has_parked(key)
                && let Some(last) = self.shared.bus.last(&parked_log(key, partition)?).await?
            {
                sender.obey(Command::Open { partition, last: last.sequence });
            }
        }
        let dead = dead_letter_log(&key.0, &key.1)?;
        let outlet =
            Outlet { key: key.clone(), settings: Arc::new(settings.clone()), inbox, flags: sender.flags(), dead };
        let entry = Entry { outlet, client, status: sender.status() };
        let (key, shutdown) = (key.clone(), self.shutdown.clone());
        self.senders.spawn(async move {
            let outcome = sender.run(shutdown).await;
            outcome.map_err(|source| DeliveryError::Connection { workspace: key.0, connection: key.1, source })
        });
        Ok(entry)
    }

    /// Keeps connections up with what is configured and wanted, until shutdown; then waits for them.
    ///
    /// # Errors
    /// [`DeliveryError`] when a connection cannot go on.
    pub(crate) async fn run(mut self, mut directory: Directory) -> Result<(), DeliveryError> {
        let mut outcome = Ok(());
        let mut gauges = tokio::time::interval(GAUGES_EVERY);
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                Some(ended) = self.senders.join_next() => {
                    outcome = ended.map_err(DeliveryError::Panicked).flatten();
                    if outcome.is_err() {
                        self.shutdown.cancel();
                    }
                }
                told = self.control.next() => match told {
                    Ok(told) => self.tell_all(told).await,
                    Err(error) => {
                        outcome = Err(error.into());
                        self.shutdown.cancel();
                    }
                },
                workspaces = directory.changed() => {
                    if let Err(error) = self.configure(&workspaces).await {
                        tracing::error!(error = ?error, "a changed configuration could not be put into force");
                    }
                }
                _ = gauges.tick() => self.set_gauges(),
            }
        }
        while let Some(ended) = self.senders.join_next().await {
            outcome = outcome.and(ended.map_err(DeliveryError::Panicked).flatten());
        }
        outcome
    }

    async fn tell_all(&self, told: Vec<(ConnectionKey, Command)>) {
        for (key, command) in told {
            if let Some(entry) = self.entry(&key) {
                tell(&entry, command).await;
            }
        }
    }

    fn set_gauges(&self) {
        let metrics = &self.common.metrics;
        metrics.room_bytes.set(i64::try_from(self.shared.room.held_bytes()).unwrap_or(i64::MAX));
        for (key, entry) in self.entries.read().unwrap_or_else(PoisonError::into_inner).iter() {
            let parked: u64 = self.shared.tracked.iter().map(|tracked| tracked.parked(key)).sum();
            let labels = [("workspace", key.0.as_str()), ("connection", key.1.as_str())];
            metrics.parked.with(&labels).set(i64::try_from(parked).unwrap_or(i64::MAX));
            let state = entry.status.lock().unwrap_or_else(PoisonError::into_inner).state;
            for one in ConnectionState::ALL {
                let labels = [labels[0], labels[1], ("state", one.name())];
                metrics.state.with(&labels).set(i64::from(one == state));
            }
        }
    }
}

/// Tells a connection something. One that has ended has nothing in hand.
pub(crate) async fn tell(entry: &Entry, command: Command) {
    if entry.outlet.inbox.send(command).await.is_err() {
        tracing::debug!(connection = %entry.outlet.key.1, "a connection has ended");
    }
}
