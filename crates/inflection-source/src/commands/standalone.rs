//! `standalone`.

use anyhow::Context as _;
use inflection_bus::{Bus, EmbeddedConfig};
use inflection_domain::PartitionCount;

use crate::cli::StandaloneArgs;
use crate::commands::bind;
use crate::reload::Read;
use crate::stages::{Setup, Stages, Wanted};
use crate::{End, Failure, install, settings};

pub(crate) async fn run(args: StandaloneArgs) -> Result<End, Failure> {
    let (config, admin_keys) = match (settings::standalone(&args), settings::admin_keys(&args.listen)) {
        (Ok(config), Ok(keys)) => (config, keys),
        (Ok(_), Err(mistake)) => return Err(Failure::Usage(mistake)),
        // All mistakes at once.
        (Err(Failure::Usage(mistakes)), Err(mistake)) => return Err(Failure::Usage(format!("{mistakes}\n{mistake}"))),
        (Err(failure), _) => return Err(failure),
    };
    let traces = (settings::traces()?, "inflection-standalone");
    let data_dir = args.data_dir.clone().or_else(|| config.bus.data_dir.clone()).context("checked by settings")?;
    let mut embedded = EmbeddedConfig::new(data_dir.clone());
    embedded.many_records = inflection_wire::ALIAS_RECORDS;
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
    let sending = settings::sending(&args.sending);
    let identity = Some(settings::folding(&args.folding));
    let read = Read::new(move || settings::standalone(&args));
    let setup = Setup { bus, config, read, installation, admin_listener, admin_keys, traces };
    let wanted = Wanted { ingest: Some((listener, clock)), identity, delivery: Some(sending), worker: None };
    Stages::start(setup, wanted).await?.until_signal().await?;
    Ok(End::Done)
}
