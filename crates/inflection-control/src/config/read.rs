//! From tables to settings. Every function reads its whole table before it gives up, so that no mistake hides another.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use inflection_domain::{
    CallKind, ClickPerOpen, ConnectionId, InstallationId, InstallationKey, InvalidId, KnownMachines, MachineRules,
    Policy, WorkspaceId,
};
use inflection_segment::{Endpoint, Region};

use super::machine;
use super::secrets::{Master, Opener, hex_key, required_secret, secrets};
use super::webhooks::webhook;
use super::{
    BusSettings, Connection, EmailPolicy, IngestLimits, InstallationSettings, Naming, Options, Uniqueness, Workspace,
};
use crate::Binding;
use crate::document::Table;
use crate::secret::key_bytes;

/// Longest time that a call may wait for an outage to end: a year.
const EXPIRE_SECONDS_MAX: u64 = 31_536_000;

/// What the tables of workspaces are read under.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) master: &'a Master,
    pub(super) options: Options,
    pub(super) known: &'a Arc<KnownMachines>,
}

pub(super) fn installation(table: Table<'_, '_>, master: &Master) -> InstallationSettings {
    let id = table.parsed("id", "1 to 64 letters, digits, '-' and '_'", |text| InstallationId::new(text).ok());
    let key = hex_key(&table, "key", |text| key_bytes(text).map(|bytes| InstallationKey::new(*bytes)));
    table.finish();
    InstallationSettings { id, key, master_key: master.key().cloned() }
}

pub(super) fn bus(table: Table<'_, '_>) -> BusSettings {
    let kind = table.parsed("kind", "\"embedded\" or \"nats\"", |kind| {
        ["embedded", "nats"].contains(&kind).then(|| kind.to_owned())
    });
    let settings = BusSettings {
        data_dir: table.text("data_dir").map(|at| at.value.into()),
        disk_bytes_max: table.number("disk_bytes_max", 1_048_576..u64::MAX),
        urls: table.texts("urls").unwrap_or_default().into_iter().map(|at| at.value.to_owned()).collect(),
        creds_file: table.text("creds_file").map(|at| at.value.into()),
        ca_file: table.text("ca_file").map(|at| at.value.into()),
        // One address, or several separated by commas, as the flag takes them.
        monitor_urls: table
            .text("monitor_url")
            .map(|at| at.value.split(',').map(|url| url.trim().to_owned()).collect())
            .unwrap_or_default(),
    };
    if kind.as_deref() == Some("nats") && settings.urls.is_empty() {
        table.wrong(table.span(), "bus.urls is missing: a bus of kind \"nats\" needs at least one server");
    }
    table.finish();
    settings
}

pub(super) fn workspaces(root: &Table<'_, '_>, context: Context<'_>) -> Vec<Workspace> {
    let (mut ids, mut tokens) = (HashSet::new(), HashSet::new());
    let tables = root.tables("workspaces").into_iter();
    tables.filter_map(|table| workspace(table, &mut ids, &mut tokens, context)).collect()
}

fn workspace(
    table: Table<'_, '_>,
    ids: &mut HashSet<WorkspaceId>,
    tokens: &mut HashSet<String>,
    context: Context<'_>,
) -> Option<Workspace> {
    let id = name(&table, "id", WorkspaceId::new);
    if let Some(id) = id.as_ref().filter(|id| !ids.insert((*id).clone())) {
        table.wrong(table.span(), format!("workspace {id} stands here twice"));
    }
    let opener = |binding: fn(&WorkspaceId) -> Binding| Opener::new(context.master, id.as_ref().map(binding));
    let ingest_keys = secrets(&table, "ingest_keys", &opener(Binding::ingest_key));
    let ingest_events_per_second = per_second(&table, "ingest_events_per_second");
    let ingest_limits = table.table("ingest_limits").map(ingest_limits).unwrap_or_default();
    let engagement = table.table("engagement").map(|table| engagement(table, context.known));
    let (policy, machine) = engagement.unwrap_or_else(|| {
        (Policy::default(), MachineRules { known: Arc::clone(context.known), ..MachineRules::default() })
    });
    let mut connection_ids = HashSet::new();
    let connections = table
        .tables("connections")
        .into_iter()
        .filter_map(|connection| self::connection(connection, id.as_ref(), &mut connection_ids, context))
        .collect();
    let hook_opener = opener(Binding::webhook);
    let webhooks =
        table.tables("webhooks").into_iter().filter_map(|hook| webhook(hook, tokens, &hook_opener)).collect();
    table.finish();
    Some(Workspace {
        id: id?,
        ingest_keys,
        ingest_events_per_second,
        ingest_limits,
        policy,
        machine,
        connections,
        webhooks,
    })
}

fn name<T>(table: &Table<'_, '_>, key: &'static str, new: fn(&str) -> Result<T, InvalidId>) -> Option<T> {
    let text = table.required_text(key)?;
    new(text.value).map_err(|error| table.wrong(&text.span, format!("{key} {:?} {error}", text.value))).ok()
}

fn per_second(table: &Table<'_, '_>, key: &'static str) -> Option<u32> {
    table.number(key, 1..1_000_000_000).and_then(|rate| u32::try_from(rate).ok())
}

fn ingest_limits(table: Table<'_, '_>) -> IngestLimits {
    let limits = IngestLimits {
        requests_per_second: per_second(&table, "requests_per_second"),
        events_per_second: per_second(&table, "events_per_second"),
    };
    table.finish();
    limits
}

fn engagement(table: Table<'_, '_>, known: &Arc<KnownMachines>) -> (Policy, MachineRules) {
    let machine = machine::rules(&table, known);
    let scope = |text: &str| match text {
        "message" => Some(ClickPerOpen::Message),
        "link" => Some(ClickPerOpen::Link),
        _ => None,
    };
    let policy = Policy {
        implied_open: table.flag("implied_open").unwrap_or_default(),
        click_per_open: table.parsed("click_per_open", "\"message\" or \"link\"", scope).unwrap_or_default(),
        machine_opens: machine.opens,
        machine_clicks: machine.clicks,
    };
    table.finish();
    (policy, machine)
}

fn connection(
    table: Table<'_, '_>,
    workspace: Option<&WorkspaceId>,
    ids: &mut HashSet<ConnectionId>,
    context: Context<'_>,
) -> Option<Connection> {
    let id = name(&table, "id", ConnectionId::new);
    if let Some(id) = id.as_ref().filter(|id| !ids.insert((*id).clone())) {
        table.wrong(table.span(), format!("connection {id} stands in this workspace twice"));
    }
    let binding = workspace.zip(id.as_ref()).map(|(workspace, id)| Binding::write_key(workspace, id));
    let write_key = required_secret(&table, "write_key", &Opener::new(context.master, binding));
    let endpoint = endpoint(&table, context.options);
    let (naming, uniqueness, email) = (naming(&table), uniqueness(&table), email(&table));
    let calls = calls(&table);
    let events_per_second = per_second(&table, "events_per_second");
    let (gzip, warehouse_names) = (table.flag("gzip"), table.flag("warehouse_names"));
    let expire_after = table.number("expire_after_seconds", 1..EXPIRE_SECONDS_MAX + 1).map(Duration::from_secs);
    table.finish();
    let defaults = Connection::new(id?, write_key?, endpoint?);
    Some(Connection {
        naming,
        uniqueness,
        calls,
        events_per_second,
        email,
        gzip: gzip.unwrap_or(defaults.gzip),
        warehouse_names: warehouse_names.unwrap_or(defaults.warehouse_names),
        expire_after: expire_after.unwrap_or(defaults.expire_after),
        ..defaults
    })
}

/// A region of Segment, or an address of one's own.
fn endpoint(table: &Table<'_, '_>, options: Options) -> Option<Endpoint> {
    let region = table.parsed("region", "\"us\" or \"eu\"", Region::from_name);
    let custom = table.text("endpoint");
    if region.is_some() && custom.is_some() {
        table.wrong(table.span(), "region and endpoint exclude each other");
    }
    let Some(custom) = custom else { return Some(Endpoint::of_region(region.unwrap_or_default())) };
    Endpoint::parse(custom.value, options.allow_insecure_endpoint)
        .map_err(|error| table.wrong(&custom.span, format!("endpoint {error}")))
        .ok()
}

fn naming(table: &Table<'_, '_>) -> Naming {
    let named = |text: &str| match text {
        "inflection" => Some(Naming::Inflection),
        "segment-spec" => Some(Naming::SegmentSpec),
        "both" => Some(Naming::Both),
        _ => None,
    };
    table.parsed("naming", "\"inflection\", \"segment-spec\" or \"both\"", named).unwrap_or_default()
}

fn uniqueness(table: &Table<'_, '_>) -> Uniqueness {
    let named = |text: &str| match text {
        "events" => Some(Uniqueness::Events),
        "flags" => Some(Uniqueness::Flags),
        "first-only" => Some(Uniqueness::FirstOnly),
        _ => None,
    };
    table.parsed("uniqueness", "\"events\", \"flags\" or \"first-only\"", named).unwrap_or_default()
}

fn email(table: &Table<'_, '_>) -> EmailPolicy {
    let named = |text: &str| match text {
        "plain" => Some(EmailPolicy::Plain),
        "sha256" => Some(EmailPolicy::Sha256),
        "omit" => Some(EmailPolicy::Omit),
        _ => None,
    };
    table.parsed("email", "\"plain\", \"sha256\" or \"omit\"", named).unwrap_or_default()
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
