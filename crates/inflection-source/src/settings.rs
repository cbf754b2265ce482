//! From flags and a file to what the stages are told.

use std::sync::Arc;
use std::time::Duration;

use inflection_bus::NatsConfig;
use inflection_control::{Config, Connection, IngestLimits, Options, Secret, Workspace};
use inflection_delivery::Limits;
use inflection_domain::{ConnectionId, MachineRules, Policy, Timestamp, WorkspaceId};
use inflection_identity::StateBudget;
use inflection_ingest::SignatureClock;
use inflection_ownership::WorkerId;
use inflection_segment::{Endpoint, Region};
use inflection_telemetry::TraceSettings;

use crate::admin::keys::Keys;
use crate::cli::{ConfigFileArgs, FoldingArgs, ListenArgs, NatsArgs, SendingArgs, StandaloneArgs, TestClockArgs};
use crate::{Failure, memory};

/// Name of the workspace and connection that flags make.
const DEFAULT_NAME: &str = "default";

/// Reads the configuration file, if one is given.
pub(crate) fn file(args: &ConfigFileArgs) -> Result<Config, Failure> {
    let options = Options { allow_insecure_endpoint: args.allow_insecure_endpoint };
    match &args.config {
        Some(path) => Config::load(path, options).map_err(|error| Failure::Usage(error.to_string())),
        None => Ok(Config::default()),
    }
}

/// The configuration of `standalone`: the file, and flags that win over it.
pub(crate) fn standalone(args: &StandaloneArgs) -> Result<Config, Failure> {
    let mut config = file(&args.file)?;
    let mut mistakes = Vec::new();
    if config.workspaces.is_empty() && (args.ingest_key.is_none() || args.write_key.is_none()) {
        mistakes.push("give --ingest-key and --write-key, or a --config file with workspaces".to_owned());
    }
    let region = args
        .region
        .as_deref()
        .map(|name| Region::from_name(name).ok_or_else(|| format!("--region must be us or eu, not {name:?}")));
    let region = region.transpose().unwrap_or_else(|mistake| {
        mistakes.push(mistake);
        None
    });
    let endpoint = args.segment_endpoint.as_deref().map(|text| {
        Endpoint::parse(text, args.file.allow_insecure_endpoint)
            .map_err(|error| format!("--segment-endpoint {error}; plain http also needs --allow-insecure-endpoint"))
    });
    let endpoint = endpoint.transpose().unwrap_or_else(|mistake| {
        mistakes.push(mistake);
        None
    });
    if let Err(mistake) = default_workspace(args, region, &mut config) {
        mistakes.push(mistake);
    }
    if let Some(endpoint) = endpoint {
        let connections = config.workspaces.iter_mut().flat_map(|workspace| &mut workspace.connections);
        connections.for_each(|connection| connection.endpoint = endpoint.clone());
    }
    if args.data_dir.is_none() && config.bus.data_dir.is_none() {
        mistakes.push("give --data-dir, the directory of the embedded bus".to_owned());
    }
    if mistakes.is_empty() { Ok(config) } else { Err(Failure::Usage(mistakes.join("\n"))) }
}

/// Adds or changes the workspace that flags make.
fn default_workspace(args: &StandaloneArgs, region: Option<Region>, config: &mut Config) -> Result<(), String> {
    let secret = |flag: &str, text: &Option<String>| match text {
        Some(text) => Secret::new(text).map(Some).ok_or_else(|| format!("{flag} is empty")),
        None => Ok(None),
    };
    let (ingest_key, write_key) = (secret("--ingest-key", &args.ingest_key)?, secret("--write-key", &args.write_key)?);
    if ingest_key.is_none() && write_key.is_none() && region.is_none() {
        return Ok(());
    }
    let id = WorkspaceId::new(DEFAULT_NAME).map_err(|error| error.to_string())?;
    let at = config.workspaces.iter().position(|workspace| workspace.id == id).unwrap_or_else(|| {
        config.workspaces.push(Workspace {
            id,
            ingest_keys: Vec::new(),
            ingest_events_per_second: None,
            ingest_limits: IngestLimits::default(),
            policy: Policy::default(),
            machine: MachineRules { known: Arc::clone(&config.known), ..MachineRules::default() },
            connections: Vec::new(),
            webhooks: Vec::new(),
        });
        config.workspaces.len() - 1
    });
    let Some(workspace) = config.workspaces.get_mut(at) else { return Ok(()) };
    if let Some(key) = ingest_key {
        workspace.ingest_keys = vec![key];
    }
    let connection = ConnectionId::new(DEFAULT_NAME).map_err(|error| error.to_string())?;
    let existing = workspace.connections.iter_mut().find(|known| known.id == connection);
    match (existing, write_key) {
        (Some(existing), write_key) => {
            existing.write_key = write_key.unwrap_or_else(|| existing.write_key.clone());
            if let Some(region) = region {
                existing.endpoint = Endpoint::of_region(region);
            }
        }
        (None, Some(write_key)) => {
            let endpoint = Endpoint::of_region(region.unwrap_or_default());
            workspace.connections.push(Connection::new(connection, write_key, endpoint));
        }
        (None, None) => {}
    }
    Ok(())
}

/// The admin API shows and changes everything: off loopback it needs a key.
pub(crate) fn admin_keys(listen: &ListenArgs) -> Result<Keys, String> {
    let keys = Keys::of(listen.admin_key.as_deref(), listen.admin_key_file.as_deref());
    let keys = keys.map_err(|error| error.to_string())?;
    if !keys.any() && !listen.admin_listen.ip().is_loopback() {
        return Err("--admin-listen is not loopback: give an --admin-key or --admin-key-file".to_owned());
    }
    Ok(keys)
}

/// How to reach NATS: flags, else the file.
pub(crate) fn nats(args: &NatsArgs, config: &Config, name: &str) -> Result<NatsConfig, Failure> {
    let urls = if args.nats_url.is_empty() { config.bus.urls.clone() } else { args.nats_url.clone() };
    if urls.is_empty() {
        return Err(Failure::Usage("give --nats-url, or bus.urls in the configuration file".to_owned()));
    }
    let monitor_urls =
        if args.nats_monitor_url.is_empty() { config.bus.monitor_urls.clone() } else { args.nats_monitor_url.clone() };
    Ok(NatsConfig {
        urls,
        creds_file: args.nats_creds.clone().or_else(|| config.bus.creds_file.clone()),
        ca_file: config.bus.ca_file.clone(),
        monitor_urls,
        name: format!("inflection-source-{name}"),
    })
}

/// A worker's name among those of its stage: the same again when it is started again, so that it gets back at once what it
/// had. Two on one machine differ by their admin listeners.
pub(crate) fn worker(id: Option<&str>, admin: std::net::SocketAddr) -> WorkerId {
    let machine = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    id.map_or_else(|| WorkerId::new(format!("{}-{}", machine(), admin.port())), WorkerId::new)
}

/// Where traces go, from OpenTelemetry's own variables.
pub(crate) fn traces() -> Result<Option<TraceSettings>, Failure> {
    #[expect(clippy::disallowed_methods, reason = "the names are OpenTelemetry's, for all programs alike; read once")]
    let variable = |name: &str| std::env::var(name).ok();
    TraceSettings::read(variable).map_err(|error| Failure::Usage(error.to_string()))
}

/// How delivery sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sending {
    pub(crate) limits: Limits,
    pub(crate) park_after: Duration,
}

pub(crate) fn sending(args: &SendingArgs) -> Sending {
    let limits = Limits {
        linger: Duration::from_millis(args.linger_ms),
        in_flight_max: usize::from(args.in_flight_max),
        ..Limits::default()
    };
    Sending { limits, park_after: Duration::from_secs(args.park_after_seconds) }
}

/// How identity keeps its state.
#[derive(Debug, Clone)]
pub(crate) struct Folding {
    pub(crate) snapshot_every_bytes: u64,
    pub(crate) budget: StateBudget,
}

pub(crate) fn folding(args: &FoldingArgs) -> Folding {
    let given = args.state_budget_mib.map(|mib| mib.saturating_mul(1024 * 1024));
    // Half: a state takes a third more than is counted of it, and the rest of the process needs room beside it.
    let bytes = given.or_else(|| memory::available().map(|bytes| bytes / 2)).unwrap_or(0);
    Folding { snapshot_every_bytes: args.snapshot_every_bytes, budget: StateBudget::of_bytes(bytes) }
}

/// What time it is to signatures: a test's, if it is given and allowed.
pub(crate) fn signature_clock(args: &TestClockArgs) -> SignatureClock {
    let Some(seconds) = args.test_now_unix.filter(|_| args.allow_test_clock) else { return SignatureClock::System };
    tracing::warn!(seconds, "the clock that signatures of webhooks are judged by stands still; this is for tests only");
    SignatureClock::Fixed(Timestamp::from_ms(seconds.saturating_mul(1000)))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use inflection_domain::{Engaged, Traces};

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn the_workspace_that_flags_make_knows_the_machines_of_the_file() {
        let text = "[machine]\nagents = [\"acmescan\"]\n[[workspaces]]\nid = \"acme\"\n";
        let mut config = Config::parse(text, Options::default()).unwrap();
        let line = ["inflection-source", "standalone", "--ingest-key", "k", "--write-key", "w"];
        let Command::Standalone(args) = Cli::try_parse_from(line).unwrap().command else { panic!("standalone") };
        default_workspace(&args, None, &mut config).unwrap();
        let traces = Traces { user_agent: Some("acmescan/1"), ..Traces::default() };
        let reasons = config
            .workspaces
            .iter()
            .map(|workspace| (workspace.id.as_str(), workspace.machine.known.judge(Engaged::Click, &traces).reason));
        let expected = [("acme", Some("configured_agent")), (DEFAULT_NAME, Some("configured_agent"))];
        assert_eq!(reasons.collect::<Vec<_>>(), expected);
    }
}
