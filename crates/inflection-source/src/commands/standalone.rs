//! `standalone`.

use anyhow::Context as _;
use inflection_bus::{Bus, EmbeddedConfig};
use inflection_control::Secret;
use inflection_domain::PartitionCount;

use crate::cli::StandaloneArgs;
use crate::commands::bind;
use crate::reload::Read;
use crate::stages::{Setup, Stages, Wanted};
use crate::{End, Failure, install, settings};

pub(crate) async fn run(args: StandaloneArgs) -> Result<End, Failure> {
    let config = settings::standalone(&args)?;
    let traces = (settings::traces()?, "inflection-standalone");
    let data_dir = args.data_dir.clone().or_else(|| config.bus.data_dir.clone()).context("checked by settings")?;
    let mut embedded = EmbeddedConfig::new(data_dir.clone());
    embedded.disk_bytes_max = config.bus.disk_bytes_max.unwrap_or(embedded.disk_bytes_max);
    let listener = bind("--listen", args.listen.listen).await?;
    let admin_listener = bind("--admin-listen", args.listen.admin_listen).await?;
    let bus = Bus::open_embedded(embedded).await.context("the embedded bus cannot be opened")?;
    let partitions = PartitionCount::new(args.partitions).context("checked by the command line")?;
    let installation = install::load(&bus, &config.installation, Some(partitions)).await?;
    tracing::info!(
        data_dir = %data_dir.display(),
        installation = %installation.id,
        partitions = installation.partitions.get(),
        listen = %args.listen.listen,
        admin = %args.listen.admin_listen,
        "standalone is ready"
    );
    let clock = settings::signature_clock(&args.clock);
    let (admin_key, sending) =
        (args.listen.admin_key.as_deref().and_then(Secret::new), settings::sending(&args.sending));
    let identity = Some(args.folding.snapshot_every_bytes);
    let read = Read::new(move || settings::standalone(&args));
    let setup = Setup { bus, config, read, installation, admin_listener, admin_key, traces };
    let wanted = Wanted { ingest: Some((listener, clock)), identity, delivery: Some(sending), worker: None };
    Stages::start(setup, wanted).await?.until_signal().await?;
    Ok(End::Done)
}
