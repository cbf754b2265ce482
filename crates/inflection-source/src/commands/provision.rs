//! `provision`, and the check that every stage makes before it starts.

use anyhow::{Context as _, anyhow};
use inflection_bus::{Bus, DurabilityGap};
use inflection_domain::PartitionCount;

use crate::cli::ProvisionArgs;
use crate::commands::{say, stage};
use crate::{End, Failure, install, settings};

/// Partitions of a new install: enough for dozens of workers on a cluster, few syncs on one server.
const PARTITIONS_CLUSTER: u16 = 64;
const PARTITIONS_SINGLE: u16 = 16;

pub(crate) async fn run(args: ProvisionArgs) -> Result<End, Failure> {
    let config = settings::file(&args.file)?;
    let bus = stage::connect(settings::nats(&args.nats, &config, "provision")?).await?;
    if args.replicas < 3 && !args.nats.allow_degraded {
        let message =
            "fewer than 3 replicas do not survive the loss of a server; to use that all the same, add --allow-degraded";
        return Err(Failure::Failed(anyhow!(message)));
    }
    let wanted = install::streams(args.events_bytes_max, args.decisions_bytes_max, usize::from(args.replicas));
    let done = bus.provision(&wanted).await.context("the bus cannot be provisioned")?;
    let usual = if args.replicas >= 3 { PARTITIONS_CLUSTER } else { PARTITIONS_SINGLE };
    let partitions = PartitionCount::new(args.partitions.unwrap_or(usual)).context("checked by the command line")?;
    let installation = install::load(&bus, &config.installation, Some(partitions)).await?;
    for name in &done.created {
        say(&format!("created  {name}"));
    }
    for name in &done.found {
        say(&format!("checked  {name}"));
    }
    say(&format!("installation {} with {} partitions", installation.id, installation.partitions.get()));
    if args.partitions.is_some_and(|wanted| wanted != installation.partitions.get()) {
        say("note: the install exists and keeps its number of partitions");
    }
    let verdict = judge(&done.gaps, args.nats.allow_degraded);
    bus.close().await;
    verdict?;
    Ok(End::Done)
}

/// Refuses a bus below the durability policy, or uses it loudly.
pub(crate) async fn require_durability(bus: &Bus, allow_degraded: bool) -> anyhow::Result<()> {
    let gaps = bus.durability_gaps(&install::streams(0, 0, 0)).await?;
    judge(&gaps, allow_degraded)
}

fn judge(gaps: &[DurabilityGap], allow_degraded: bool) -> anyhow::Result<()> {
    for gap in gaps {
        tracing::warn!(gap = %gap, "DEGRADED: the bus keeps less than we promise");
    }
    let certain: Vec<String> = gaps.iter().filter(|gap| gap.is_certain()).map(ToString::to_string).collect();
    if certain.is_empty() || allow_degraded {
        return Ok(());
    }
    Err(anyhow!(
        "the bus does not meet the durability policy:\n  {}\nto use it all the same, add --allow-degraded",
        certain.join("\n  ")
    ))
}
