//! `healthcheck`.

use std::time::Duration;

use anyhow::{Context as _, anyhow};

use crate::cli::HealthcheckArgs;
use crate::{End, Failure};

const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: HealthcheckArgs) -> Result<End, Failure> {
    let client =
        reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build().context("the HTTP client cannot start")?;
    let answer = client.get(&args.url).send().await.with_context(|| args.url.clone())?;
    match answer.status().as_u16() {
        200 => Ok(End::Done),
        status => Err(anyhow!("{} answers {status}", args.url).into()),
    }
}
