//! `sandbox`.

use anyhow::Context as _;
use inflection_sandbox::{Faults, Mode, Sandbox, SandboxConfig};
use tokio_util::sync::CancellationToken;

use crate::cli::SandboxArgs;
use crate::commands::{bind, say};
use crate::{End, Failure, stages};

pub(crate) async fn run(args: SandboxArgs) -> Result<End, Failure> {
    let faults = match &args.faults {
        Some(text) => {
            serde_json::from_str::<Faults>(text).map_err(|error| Failure::Usage(format!("--faults {error}")))?
        }
        None => Faults::default(),
    };
    let listener = bind("--listen", args.listen).await?;
    let address = listener.local_addr().context("the listener has no address")?;
    let config = SandboxConfig {
        mode: if args.strict { Mode::Strict } else { Mode::Faithful },
        write_keys: args.write_key,
        faults,
        calls_max: args.calls_max,
        ..SandboxConfig::default()
    };
    say(&format!("sandbox: send to http://{address}, look at http://{address}/"));
    let shutdown = CancellationToken::new();
    let sandbox = Sandbox::new(config);
    let serve = sandbox.serve(listener, shutdown.clone());
    tokio::pin!(serve);
    tokio::select! {
        ended = &mut serve => ended.context("the sandbox has ended")?,
        _ = stages::signal() => {
            shutdown.cancel();
            serve.await.context("the sandbox has ended")?;
        }
    }
    Ok(End::Done)
}
