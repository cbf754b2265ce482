//! `explain`.

use anyhow::{Context as _, anyhow};
use inflection_bus::Bus;

use crate::cli::ExplainArgs;
use crate::commands::{look, say};
use crate::explain::{Explanation, explain};
use crate::{End, Failure, install};

pub(crate) async fn run(args: ExplainArgs) -> Result<End, Failure> {
    let told = match look::bus(&args.look.bus).await? {
        Some(bus) => {
            let told = from_bus(&bus, &args).await;
            bus.close().await;
            told?
        }
        None => {
            let path = format!("/v1/explain/{}?addresses={}", look::escape(&args.id), args.addresses);
            let answer = look::client(&args.look.listener)?.get(&path).await?;
            serde_json::from_value::<Explanation>(answer).context("the answer is no explanation")?
        }
    };
    if told.events.is_empty() {
        return Err(Failure::Failed(anyhow!(told.note.unwrap_or_default())));
    }
    if args.look.bus.json {
        say(&serde_json::to_string(&told).context("the explanation cannot be written")?);
    } else {
        say(&told.to_string());
    }
    Ok(End::Done)
}

/// Without a configuration file, the bus itself knows the connections.
async fn from_bus(bus: &Bus, args: &ExplainArgs) -> anyhow::Result<Explanation> {
    let installation = install::load(bus, &Default::default(), None).await?;
    let connections = look::known_connections(bus, &installation).await?;
    explain(bus, &installation, &connections, None, &args.id, args.addresses).await
}
