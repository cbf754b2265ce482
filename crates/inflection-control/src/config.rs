//! The configuration file.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use inflection_domain::{
    CallKind, ClickPerOpen, ConnectionId, InstallationId, InstallationKey, MachinePolicy, Policy, WorkspaceId,
};
use inflection_segment::{Endpoint, Region};
use toml::de::DeTable;

use crate::Secret;
use crate::document::{Mistakes, Table};

/// Everything that is configured.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The installation's identity, if it is given and not made by the bus.
    pub installation: InstallationSettings,
    /// The bus.
    pub bus: BusSettings,
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
    /// Monitoring address of a NATS server.
    pub monitor_url: Option<String>,
}

/// A customer.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Its name.
    pub id: WorkspaceId,
    /// Keys under which events are sent.
    pub ingest_keys: Vec<Secret>,
    /// Most events a second that are taken; more are answered 429.
    pub ingest_events_per_second: Option<u32>,
    /// How uniqueness is decided.
    pub policy: Policy,
    /// Where its calls go.
    pub connections: Vec<Connection>,
    /// Where email service providers report to.
    pub webhooks: Vec<Webhook>,
}

/// One Segment source.
#[derive(Debug, Clone)]
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
}

impl Connection {
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

/// An email service provider's webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// The provider's name in the path.
    pub provider: String,
    /// The unguessable part of the path.
    pub token: Secret,
    /// Signing secrets or public keys, newest first.
    pub secrets: Vec<Secret>,
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
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable(path.to_path_buf(), error))?;
        Self::parse(&text, options).map_err(|mistakes| ConfigError::Mistakes(path.to_path_buf(), mistakes))
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
        let config = Self {
            installation: root.table("installation").map(installation).unwrap_or_default(),
            bus: root.table("bus").map(bus).unwrap_or_default(),
            workspaces: workspaces(&root, options),
        };
        root.finish();
        let list = mistakes.into_list();
        if list.is_empty() { Ok(config) } else { Err(list) }
    }
}

fn installation(table: Table<'_, '_>) -> InstallationSettings {
    let id = table.parsed("id", "1 to 64 letters, digits, '-' and '_'", |text| InstallationId::new(text).ok());
    let key = table.table("key").and_then(secret).and_then(|(secret, span)| {
        let bytes: Option<Vec<u8>> = (0..64)
            .step_by(2)
            .map(|at| secret.expose().get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect();
        let key = bytes.filter(|_| secret.expose().len() == 64).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        if key.is_none() {
            table.wrong(&span, "installation.key must be 64 hexadecimal digits");
        }
        key.map(InstallationKey::new)
    });
    table.finish();
    InstallationSettings { id, key }
}

fn bus(table: Table<'_, '_>) -> BusSettings {
    let kind = table.parsed("kind", "\"embedded\" or \"nats\"", |kind| {
        ["embedded", "nats"].contains(&kind).then(|| kind.to_owned())
    });
    let settings = BusSettings {
        data_dir: table.text("data_dir").map(|at| at.value.into()),
        disk_bytes_max: table.number("disk_bytes_max", 1_048_576..u64::MAX),
        urls: table.texts("urls").unwrap_or_default().into_iter().map(|at| at.value.to_owned()).collect(),
        creds_file: table.text("creds_file").map(|at| at.value.into()),
        ca_file: table.text("ca_file").map(|at| at.value.into()),
        monitor_url: table.text("monitor_url").map(|at| at.value.to_owned()),
    };
    if kind.as_deref() == Some("nats") && settings.urls.is_empty() {
        table.wrong(table.span(), "bus.urls is missing: a bus of kind \"nats\" needs at least one server");
    }
    table.finish();
    settings
}

fn workspaces(root: &Table<'_, '_>, options: Options) -> Vec<Workspace> {
    let (mut ids, mut tokens) = (HashSet::new(), HashSet::new());
    let mut list = Vec::new();
    for table in root.tables("workspaces") {
        let id = name(&table, "id", WorkspaceId::new);
        if let Some(id) = id.as_ref().filter(|id| !ids.insert((*id).clone())) {
            table.wrong(table.span(), format!("workspace {id} stands here twice"));
        }
        let ingest_keys = secrets(&table, "ingest_keys");
        let rate = table.number("ingest_events_per_second", 1..1_000_000_000).and_then(|rate| u32::try_from(rate).ok());
        let policy = table.table("engagement").map(policy).unwrap_or_default();
        let mut connection_ids = HashSet::new();
        let connections: Vec<Connection> = table
            .tables("connections")
            .into_iter()
            .filter_map(|connection| self::connection(connection, &mut connection_ids, options))
            .collect();
        let webhooks = table.tables("webhooks").into_iter().filter_map(|hook| webhook(hook, &mut tokens)).collect();
        table.finish();
        list.extend(id.map(|id| Workspace {
            id,
            ingest_keys,
            ingest_events_per_second: rate,
            policy,
            connections,
            webhooks,
        }));
    }
    list
}

fn name<T>(
    table: &Table<'_, '_>,
    key: &'static str,
    new: fn(&str) -> Result<T, inflection_domain::InvalidId>,
) -> Option<T> {
    let text = table.required_text(key)?;
    new(text.value).map_err(|error| table.wrong(&text.span, format!("{key} {:?} {error}", text.value))).ok()
}

fn policy(table: Table<'_, '_>) -> Policy {
    let machine = |text: &str| match text {
        "flag" => Some(MachinePolicy::Flag),
        "include" => Some(MachinePolicy::Include),
        "drop" => Some(MachinePolicy::Drop),
        _ => None,
    };
    let scope = |text: &str| match text {
        "message" => Some(ClickPerOpen::Message),
        "link" => Some(ClickPerOpen::Link),
        _ => None,
    };
    let words = "\"flag\", \"include\" or \"drop\"";
    let policy = Policy {
        implied_open: table.flag("implied_open").unwrap_or_default(),
        click_per_open: table.parsed("click_per_open", "\"message\" or \"link\"", scope).unwrap_or_default(),
        machine_opens: table.parsed("machine_opens", words, machine).unwrap_or_default(),
        machine_clicks: table.parsed("machine_clicks", words, machine).unwrap_or_default(),
    };
    table.finish();
    policy
}

fn connection(table: Table<'_, '_>, ids: &mut HashSet<ConnectionId>, options: Options) -> Option<Connection> {
    let id = name(&table, "id", ConnectionId::new);
    if let Some(id) = id.as_ref().filter(|id| !ids.insert((*id).clone())) {
        table.wrong(table.span(), format!("connection {id} stands in this workspace twice"));
    }
    let write_key = required_secret(&table, "write_key");
    let region = table.parsed("region", "\"us\" or \"eu\"", Region::from_name);
    let endpoint = table.text("endpoint").map(|text| {
        let parsed = Endpoint::parse(text.value, options.allow_insecure_endpoint);
        parsed.map_err(|error| table.wrong(&text.span, format!("endpoint {error}"))).ok()
    });
    if region.is_some() && endpoint.is_some() {
        table.wrong(table.span(), "region and endpoint exclude each other");
    }
    let naming = |text: &str| match text {
        "inflection" => Some(Naming::Inflection),
        "segment-spec" => Some(Naming::SegmentSpec),
        "both" => Some(Naming::Both),
        _ => None,
    };
    let uniqueness = |text: &str| match text {
        "events" => Some(Uniqueness::Events),
        "flags" => Some(Uniqueness::Flags),
        "first-only" => Some(Uniqueness::FirstOnly),
        _ => None,
    };
    let email = |text: &str| match text {
        "plain" => Some(EmailPolicy::Plain),
        "sha256" => Some(EmailPolicy::Sha256),
        "omit" => Some(EmailPolicy::Omit),
        _ => None,
    };
    let naming = table.parsed("naming", "\"inflection\", \"segment-spec\" or \"both\"", naming).unwrap_or_default();
    let uniqueness =
        table.parsed("uniqueness", "\"events\", \"flags\" or \"first-only\"", uniqueness).unwrap_or_default();
    let email = table.parsed("email", "\"plain\", \"sha256\" or \"omit\"", email).unwrap_or_default();
    let calls = calls(&table);
    let per_second = table.number("events_per_second", 1..1_000_000_000).and_then(|rate| u32::try_from(rate).ok());
    let gzip = table.flag("gzip").unwrap_or(true);
    table.finish();
    let endpoint = endpoint.unwrap_or_else(|| Some(Endpoint::of_region(region.unwrap_or_default())))?;
    Some(Connection {
        id: id?,
        write_key: write_key?,
        endpoint,
        naming,
        uniqueness,
        calls,
        events_per_second: per_second,
        email,
        gzip,
    })
}

/// The `events` list: names as in configuration (`email_opened`), as at Segment (`Email Opened`), or `*`.
fn calls(table: &Table<'_, '_>) -> Option<HashSet<CallKind>> {
    let list = table.texts("events")?;
    let mut calls = HashSet::new();
    for text in list {
        let named = |kind: &CallKind| kind.name() == text.value || kind.event_name() == Some(text.value);
        if text.value == "*" {
            return None;
        }
        match CallKind::ALL.into_iter().find(named) {
            Some(kind) => {
                calls.insert(kind);
            }
            None => {
                let known = CallKind::ALL.map(CallKind::name).join(", ");
                table.wrong(&text.span, format!("events: {:?} is unknown; known: *, {known}", text.value));
            }
        }
    }
    Some(calls)
}

fn webhook(table: Table<'_, '_>, tokens: &mut HashSet<String>) -> Option<Webhook> {
    let provider = table.required_text("provider");
    if let Some(provider) = provider.as_ref().filter(|provider| provider.value != "sendgrid") {
        table.wrong(&provider.span, format!("provider {:?} is unknown; known: sendgrid", provider.value));
    }
    let token = table.required_text("token");
    let token = token.and_then(|text| {
        let plain = text.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if text.value.len() < 16 || !plain {
            table.wrong(&text.span, "token must be at least 16 letters, digits, '-' or '_', and hard to guess");
        } else if !tokens.insert(text.value.to_owned()) {
            table.wrong(&text.span, "token is used by another webhook");
        }
        Secret::new(text.value)
    });
    let secrets = secrets(&table, "secrets");
    if secrets.is_empty() {
        table.wrong(table.span(), "secrets is missing or empty: without it anybody could send events");
    }
    table.finish();
    Some(Webhook { provider: provider?.value.to_owned(), token: token?, secrets })
}

fn secrets(table: &Table<'_, '_>, key: &'static str) -> Vec<Secret> {
    table.tables(key).into_iter().filter_map(secret).map(|(secret, _)| secret).collect()
}

fn required_secret(table: &Table<'_, '_>, key: &'static str) -> Option<Secret> {
    match table.table(key) {
        Some(found) => secret(found).map(|(secret, _)| secret),
        None => {
            table.wrong(table.span(), format!("{key} is missing: {{ file = \"…\" }} or {{ value = \"…\" }}"));
            None
        }
    }
}

/// `{ file = "…" }` or `{ value = "…" }`.
fn secret(table: Table<'_, '_>) -> Option<(Secret, std::ops::Range<usize>)> {
    let (file, value) = (table.text("file"), table.text("value"));
    let span = table.span().clone();
    let secret = match (&file, &value) {
        (Some(file), None) => match std::fs::read_to_string(file.value) {
            Ok(text) => Secret::new(&text),
            Err(error) => {
                table.wrong(&file.span, format!("{} cannot be read: {error}", file.value));
                table.finish();
                return None;
            }
        },
        (None, Some(value)) => Secret::new(value.value),
        _ => None,
    };
    if secret.is_none() {
        table.wrong(&span, "a secret is { file = \"…\" } or { value = \"…\" }, one of them, and not empty");
    }
    table.finish();
    secret.map(|secret| (secret, span))
}

#[cfg(test)]
mod tests;
