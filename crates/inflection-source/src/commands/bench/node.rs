//! The yardstick for a sender: Segment's own Node SDK, posting to the same sink.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use inflection_sandbox::Sandbox;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

const SCRIPT: &str = include_str!("node.cjs");
/// The script's exit code when the SDK is not where it should be.
const NO_SDK: i32 = 3;
/// The SDK holds what it has not sent, some 17 KB a call, so it is not given more than these.
const CALLS_MAX: u64 = 100_000;

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum NodeOutcome {
    Measured(NodeMeasured),
    NotMeasured { why: String },
}

/// What the SDK did.
#[derive(Debug, Serialize)]
pub(super) struct NodeMeasured {
    pub(super) calls: u64,
    pub(super) calls_per_second: f64,
    pub(super) cpu_us_per_call: f64,
    pub(super) peak_mib: f64,
    /// Calls that did not arrive.
    pub(super) lost: u64,
}

/// What the script prints.
#[derive(Debug, Deserialize)]
struct Printed {
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
    failed: u64,
}

/// Lets the SDK in `folder` post as many calls as a run has made, at most [`CALLS_MAX`]. That there is no node, or no SDK,
/// is an outcome and no error.
pub(super) async fn post(
    folder: &Path,
    sink: &Sandbox,
    address: SocketAddr,
    calls: u64,
) -> anyhow::Result<NodeOutcome> {
    let calls = calls.clamp(1, CALLS_MAX);
    let modules = if folder.ends_with("node_modules") { folder.to_owned() } else { folder.join("node_modules") };
    let mut command = Command::new("node");
    command.args(["-e", SCRIPT, &format!("http://{address}"), "bench-node-key", &calls.to_string()]);
    command.env("NODE_PATH", modules).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let before = sink.summary().accepted;
    let done = match command.output().await {
        Ok(done) => done,
        Err(error) => return Ok(NodeOutcome::NotMeasured { why: format!("node cannot be run ({error})") }),
    };
    if done.status.code() == Some(NO_SDK) {
        let why = format!("@segment/analytics-node is not installed in {}", folder.display());
        return Ok(NodeOutcome::NotMeasured { why });
    }
    if !done.status.success() {
        bail!("the Node SDK ended with {}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    }
    let printed: Printed = serde_json::from_slice(&done.stdout).context("the Node SDK's script says nothing")?;
    let arrived = sink.summary().accepted - before;
    if printed.failed > 0 {
        tracing::warn!(failed = printed.failed, "the Node SDK has given up requests");
    }
    let calls_counted = super::report::ratio(calls, 1.0);
    Ok(NodeOutcome::Measured(NodeMeasured {
        calls,
        calls_per_second: calls_counted / printed.seconds,
        cpu_us_per_call: printed.cpu_seconds * 1e6 / calls_counted,
        peak_mib: printed.peak_mib,
        lost: calls.saturating_sub(arrived),
    }))
}
