//! `ingest`, `identity` and `delivery`: one stage, on NATS.

use std::time::Duration;

use anyhow::Context as _;
use inflection_bus::{Bus, NatsConfig, OpenError};

use crate::cli::{StageArgs, TestClockArgs};
use crate::commands::{bind, provision};
use crate::reload::Read;
use crate::stages::{Setup, Stages, Wanted};
use crate::{End, Failure, install, settings};

/// How long a stage waits for a bus that is away when it starts; an orchestrator starts things in any order.
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_WAIT: Duration = Duration::from_millis(500);

/// Which stage.
#[derive(Debug)]
pub(crate) enum Stage {
    /// With the clock that it judges signatures by.
    Ingest(TestClockArgs),
    Identity,
    Delivery,
}

impl Stage {
    fn name(&self) -> &'static str {
        match self {
            Self::Ingest(_) => "ingest",
            Self::Identity => "identity",
            Self::Delivery => "delivery",
        }
    }

    /// The name of the service in traces.
    fn service(&self) -> &'static str {
        match self {
            Self::Ingest(_) => "inflection-ingest",
            Self::Identity => "inflection-identity",
            Self::Delivery => "inflection-delivery",
        }
    }
}

/// Runs one stage.
pub(crate) async fn run(args: StageArgs, stage: Stage) -> Result<End, Failure> {
    let config = settings::file(&args.file)?;
    let traces = (settings::traces()?, stage.service());
    let admin_keys = settings::admin_keys(&args.listen).map_err(Failure::Usage)?;
    if config.workspaces.is_empty() {
        return Err(Failure::Usage("give a --config file with workspaces".to_owned()));
    }
    let nats = settings::nats(&args.nats, &config, stage.name())?;
    let admin_listener = bind("--admin-listen", args.listen.admin_listen).await?;
    let ingest = match &stage {
        Stage::Ingest(clock) => Some((bind("--listen", args.listen.listen).await?, settings::signature_clock(clock))),
        Stage::Identity | Stage::Delivery => None,
    };
    let bus = connect(nats).await?;
    provision::require_durability(&bus, args.nats.allow_degraded).await?;
    let installation = install::serve(&bus, &config.installation).await?;
    tracing::info!(
        stage = stage.name(),
        installation = %installation.id,
        partitions = installation.partitions.get(),
        admin = %args.listen.admin_listen,
        "stage is ready"
    );
    let worker = settings::worker(args.worker_id.as_deref(), args.listen.admin_listen);
    let file = args.file;
    let read = Read::new(move || settings::file(&file));
    let setup = Setup { bus, config, read, installation, admin_listener, admin_keys, traces };
    let wanted = Wanted {
        ingest,
        identity: matches!(stage, Stage::Identity).then(|| settings::folding(&args.folding)),
        delivery: matches!(stage, Stage::Delivery).then(|| settings::sending(&args.sending)),
        worker: Some(worker),
    };
    Stages::start(setup, wanted).await?.until_signal().await?;
    Ok(End::Done)
}

/// Connects, waiting a while for a server that is not there yet.
pub(crate) async fn connect(config: NatsConfig) -> anyhow::Result<Bus> {
    let deadline = tokio::time::Instant::now() + CONNECT_DEADLINE;
    loop {
        match Bus::connect_nats(config.clone()).await {
            Ok(bus) => return Ok(bus),
            Err(error @ OpenError::Connect { .. }) if tokio::time::Instant::now() < deadline => {
                tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "waiting for NATS");
                tokio::time::sleep(CONNECT_WAIT).await;
            }
            Err(error) => return Err(error).context("the bus cannot be used"),
        }
    }
}
