//! The configuration file.

mod machine;
mod read;
mod secrets;
mod webhooks;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use inflection_domain::{
    CallKind, ConnectionId, InstallationId, InstallationKey, KnownMachines, MachineRules, Policy, WorkspaceId,
};
use inflection_segment::Endpoint;
use toml::de::DeTable;
use zeroize::Zeroizing;

use self::read::Context;
use self::secrets::Master;
use crate::document::{Mistakes, Table};
use crate::{MasterKey, Secret, Webhook};

/// Everything that is configured.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The installation's identity, if it is given and not made by the bus.
    pub installation: InstallationSettings,
    /// The bus.
    pub bus: BusSettings,
    /// Machines that are known in every workspace, those that flags make included.
    pub known: Arc<KnownMachines>,
    /// The customers.
    pub workspaces: Vec<Workspace>,
}

/// The installation's identity, to be set so that a rebuilt bus keeps its ids.
#[derive(Debug, Clone, Default)]
pub struct InstallationSettings {
    /// Goes into every messageId.
    pub id: Option<InstallationId>,
    /// Persons are derived from addresses under it.
    pub key: Option<InstallationKey>,
    /// Opens the sealed secrets of the file.
    pub master_key: Option<MasterKey>,
}

/// Which bus, and where. Flags win over what stands here.
#[derive(Debug, Clone, Default)]
pub struct BusSettings {
    /// Directory of the embedded store.
    pub data_dir: Option<PathBuf>,
    /// Most bytes the embedded store may take on disk.
    pub disk_bytes_max: Option<u64>,
    /// NATS servers.
    pub urls: Vec<String>,
    /// NATS credentials file.
    pub creds_file: Option<PathBuf>,
    /// Certificate authorities for TLS to NATS, PEM.
    pub ca_file: Option<PathBuf>,
    /// Monitoring addresses of the NATS servers.
    pub monitor_urls: Vec<String>,
}

/// A customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Its name.
    pub id: WorkspaceId,
    /// Keys under which events are sent.
    pub ingest_keys: Vec<Secret>,
    /// Most events a second that are taken; more are answered 429.
    pub ingest_events_per_second: Option<u32>,
    /// What each of its ingest keys and webhooks may send.
    pub ingest_limits: IngestLimits,
    /// How uniqueness is decided.
    pub policy: Policy,
    /// How machines are told from people.
    pub machine: MachineRules,
    /// Where its calls go.
    pub connections: Vec<Connection>,
    /// Where email service providers report to.
    pub webhooks: Vec<Webhook>,
}

/// What one ingest key or one webhook may send to one process; more is answered 429. No limit unless it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IngestLimits {
    /// Most requests a second.
    pub requests_per_second: Option<u32>,
    /// Most events a second.
    pub events_per_second: Option<u32>,
}

/// One Segment source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its name, unique in the workspace.
    pub id: ConnectionId,
    /// The source's write key.
    pub write_key: Secret,
    /// Where to send.
    pub endpoint: Endpoint,
    /// Which names events and properties have.
    pub naming: Naming,
    /// Whether derived events are sent.
    pub uniqueness: Uniqueness,
    /// The calls this connection gets; `None` is all.
    pub calls: Option<HashSet<CallKind>>,
    /// Most calls a second, when it is set; see [`Connection::rate`].
    pub events_per_second: Option<u32>,
    /// What is sent of a recipient's address.
    pub email: EmailPolicy,
    /// Whether bodies are compressed.
    pub gzip: bool,
    /// Whether properties whose names collide with columns of a warehouse, `event` and `userId`, are also sent under
    /// names that do not: `email_event` and `prospect_id`.
    pub warehouse_names: bool,
    /// Calls that an outage kept for so long go to the dead letters as `expired`.
    pub expire_after: Duration,
}

impl Connection {
    /// Seven days, unless it is set.
    pub const EXPIRE_AFTER_DEFAULT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    /// A connection that has what it cannot do without, and the defaults of everything else.
    #[must_use]
    pub fn new(id: ConnectionId, write_key: Secret, endpoint: Endpoint) -> Self {
        Self {
            id,
            write_key,
            endpoint,
            naming: Naming::default(),
            uniqueness: Uniqueness::default(),
            calls: None,
            events_per_second: None,
            email: EmailPolicy::default(),
            gzip: true,
            warehouse_names: true,
            expire_after: Self::EXPIRE_AFTER_DEFAULT,
        }
    }

    /// Most calls a second: what is set, else Segment's own ceiling for a workspace; another receiver has none.
    #[must_use]
    pub fn rate(&self) -> Option<u32> {
        let ceiling = (!self.endpoint.is_custom()).then_some(inflection_segment::limits::EVENTS_PER_SECOND);
        self.events_per_second.or(ceiling)
    }
}

/// Which names events and properties have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Naming {
    /// Inflection's documented names.
    #[default]
    Inflection,
    /// Segment's email specification's, where it has one.
    SegmentSpec,
    /// Inflection's event names, and properties under both.
    Both,
}

/// Whether derived events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Uniqueness {
    /// The documented nine.
    #[default]
    Events,
    /// Only the six raw events, with flags.
    Flags,
    /// Raw opens and clicks only when they are the first, and no derived events.
    FirstOnly,
}

/// What is sent of a recipient's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmailPolicy {
    /// The address.
    #[default]
    Plain,
    /// Its SHA-256 in hexadecimal digits, of the lower-case form.
    Sha256,
    /// Nothing.
    Omit,
}

/// What the command line says about how a file may be read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether endpoints may be plain http on loopback.
    pub allow_insecure_endpoint: bool,
}

/// One thing wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A configuration file that cannot be used.
#[derive(Debug)]
pub enum ConfigError {
    /// It cannot be read.
    Unreadable(PathBuf, std::io::Error),
    /// It has these mistakes.
    Mistakes(PathBuf, Vec<Mistake>),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Mistakes(path, mistakes) => {
                for (index, mistake) in mistakes.iter().enumerate() {
                    let end = if index == 0 { "" } else { "\n" };
                    write!(f, "{end}{}: line {}: {}", path.display(), mistake.line, mistake.message)?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a file and the secrets it points to.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake.
    pub fn load(path: &Path, options: Options) -> Result<Self, ConfigError> {
        Self::parse(&text_of(path)?, options).map_err(|mistakes| ConfigError::Mistakes(path.to_path_buf(), mistakes))
    }

    /// Reads a file's master key, whatever else is wrong with the file: the secret that is missing in it is sealed with
    /// this key.
    ///
    /// # Errors
    /// [`ConfigError`] when it is no TOML, or the key is none.
    pub fn load_master_key(path: &Path) -> Result<Option<MasterKey>, ConfigError> {
        let text = text_of(path)?;
        let mistakes = Mistakes::new(&text);
        let key = match DeTable::parse(&text) {
            Ok(document) => Table::root(&document, &mistakes).table("installation").map(|table| Master::of(&table)),
            Err(error) => {
                mistakes.add(&error.span().unwrap_or(0..0), error.message());
                None
            }
        };
        let list = mistakes.into_list();
        if !list.is_empty() {
            return Err(ConfigError::Mistakes(path.to_path_buf(), list));
        }
        Ok(key.and_then(|master| master.key().cloned()))
    }

    /// Reads a text.
    ///
    /// # Errors
    /// Every mistake, by line.
    pub fn parse(text: &str, options: Options) -> Result<Self, Vec<Mistake>> {
        let mistakes = Mistakes::new(text);
        let document = match DeTable::parse(text) {
            Ok(document) => document,
            Err(error) => {
                mistakes.add(&error.span().unwrap_or(0..0), error.message());
                return Err(mistakes.into_list());
            }
        };
        let root = Table::root(&document, &mistakes);
        let installation = root.table("installation");
        let master = installation.as_ref().map_or(Master::Absent, Master::of);
        let known = root.table("machine").map(machine::known).unwrap_or_default();
        let context = Context { master: &master, options, known: &known };
        let config = Self {
            installation: installation.map(|table| read::installation(table, &master)).unwrap_or_default(),
            bus: root.table("bus").map(read::bus).unwrap_or_default(),
            workspaces: read::workspaces(&root, context),
            known,
        };
        root.finish();
        let list = mistakes.into_list();
        if list.is_empty() { Ok(config) } else { Err(list) }
    }
}

/// The text of a file. It may hold secrets, so it is wiped like them.
fn text_of(path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| ConfigError::Unreadable(path.to_path_buf(), error))
}

#[cfg(test)]
mod tests;
