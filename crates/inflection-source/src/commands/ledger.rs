//! `ledger`.

use anyhow::Context as _;

use crate::cli::LedgerArgs;
use crate::commands::{look, say};
use crate::ledger::{Bookkeeper, Ledger};
use crate::{End, Failure, install};

pub(crate) async fn run(args: LedgerArgs) -> Result<End, Failure> {
    let ledger = match look::bus(&args.look.bus).await? {
        Some(bus) => {
            let installation = install::load(&bus, &Default::default(), None).await?;
            let ledger = Bookkeeper::new(bus.clone(), installation.partitions).read().await?;
            bus.close().await;
            ledger
        }
        None => {
            let answer = look::client(&args.look.listener)?.get("/v1/ledger").await?;
            serde_json::from_value::<Ledger>(answer).context("the answer is no ledger")?
        }
    };
    if args.look.bus.json {
        say(&serde_json::to_string(&ledger).context("the ledger cannot be written")?);
    } else {
        say(&ledger.to_string());
    }
    if ledger.balanced {
        Ok(End::Done)
    } else {
        Err(Failure::Failed(anyhow::anyhow!("the ledger does not balance: look at the log of the stages above")))
    }
}
