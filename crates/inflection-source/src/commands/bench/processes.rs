//! The measured processes: started, asked for their CPU and memory, stopped.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use inflection_bus::{Bus, NatsConfig};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::load::INGEST_KEY;
use crate::cli::{BenchArgs, BenchBus};

/// How long a process may take until it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a process may take to leave after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// A running pipeline.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) ingest: SocketAddr,
    pub(super) admin: SocketAddr,
    /// The bus itself, when the stages are apart.
    pub(super) bus: Option<Bus>,
    processes: Vec<(&'static str, Child)>,
    _dir: TempDir,
}

/// What the processes have used.
#[derive(Debug, Clone, Default)]
pub(super) struct Usage(pub(super) Vec<ProcessUsage>);

/// What one process has used.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct ProcessUsage {
    pub(super) name: &'static str,
    /// User and system time, in seconds.
    pub(super) cpu_seconds: f64,
    /// Most memory held at any time, in MiB.
    pub(super) peak_mib: f64,
}

impl Usage {
    pub(super) fn since(mut self, before: &Self) -> Self {
        for (now, before) in self.0.iter_mut().zip(&before.0) {
            now.cpu_seconds -= before.cpu_seconds;
        }
        self
    }
}

impl Pipeline {
    pub(super) async fn start(args: &BenchArgs, sink: SocketAddr) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("config.toml");
        let text = format!(
            "[[workspaces]]\nid = \"bench\"\ningest_keys = [{{ value = \"{INGEST_KEY}\" }}]\n\
             [[workspaces.connections]]\nid = \"sink\"\nwrite_key = {{ value = \"bench-write-key\" }}\nendpoint = \"http://{sink}\"\n"
        );
        tokio::fs::write(&config, text).await?;
        let mut started = Self { ingest: free()?, admin: free()?, bus: None, processes: Vec::new(), _dir: dir };
        match args.bus {
            BenchBus::Embedded => started.standalone(args, &config).await?,
            BenchBus::NatsAlways | BenchBus::NatsDefault => started.fleet(args, &config).await?,
        }
        Ok(started)
    }

    async fn standalone(&mut self, args: &BenchArgs, config: &Path) -> anyhow::Result<()> {
        let data = self._dir.path().join("data");
        let mut command = stage("standalone", config, self.admin)?;
        command.arg("--data-dir").arg(data).arg("--listen").arg(self.ingest.to_string());
        command.args(["--partitions", &args.partitions.to_string(), "--linger-ms", &args.linger_ms.to_string()]);
        self.processes.push(("standalone", command.spawn().context("standalone")?));
        ready(self.admin).await
    }

    async fn fleet(&mut self, args: &BenchArgs, config: &Path) -> anyhow::Result<()> {
        let nats = free()?;
        let store = self._dir.path().join("nats");
        let sync = if args.bus == BenchBus::NatsAlways { ", sync_interval: always" } else { "" };
        let text = format!(
            "host: 127.0.0.1\nport: {}\njetstream {{ store_dir: {:?}{sync} }}\n",
            nats.port(),
            store.display().to_string()
        );
        let file = self._dir.path().join("nats.conf");
        tokio::fs::write(&file, text).await?;
        let mut server = Command::new(&args.nats_server);
        server.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let hint = || format!("{} cannot be run; give a nats-server with --nats-server", args.nats_server.display());
        self.processes.push(("nats-server", server.spawn().with_context(hint)?));
        let url = format!("nats://{nats}");
        let config_nats = NatsConfig { urls: vec![url.clone()], name: "bench".into(), ..NatsConfig::default() };
        let bus = crate::commands::stage::connect(config_nats).await?;
        let mut provision = Command::new(std::env::current_exe()?);
        provision.args([
            "provision",
            "--replicas",
            "1",
            "--allow-degraded",
            "--log-level",
            "error",
            "--nats-url",
            &url,
        ]);
        provision.args(["--partitions", &args.partitions.to_string()]).stdout(Stdio::null());
        if !provision.status().await?.success() {
            bail!("provision failed");
        }
        let workers = usize::from(args.workers);
        let sharing = std::iter::repeat_n("delivery", workers).chain(std::iter::repeat_n("identity", workers));
        for name in sharing.chain(["ingest"]) {
            let admin = if name == "ingest" { self.admin } else { free()? };
            let mut command = stage(name, config, admin)?;
            command.args(["--nats-url", &url, "--allow-degraded"]);
            command.args(["--linger-ms", &args.linger_ms.to_string()]);
            if name == "ingest" {
                command.arg("--listen").arg(self.ingest.to_string());
            }
            self.processes.push((name, command.spawn().context(name)?));
            ready(admin).await?;
        }
        self.bus = Some(bus);
        Ok(())
    }

    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        let usage = |(name, child): &(&'static str, Child)| {
            let id = child.id().with_context(|| format!("{name} has ended"))?;
            process_usage(name, id)
        };
        Ok(Usage(self.processes.iter().map(usage).collect::<anyhow::Result<_>>()?))
    }

    /// SIGTERM to all, upstream first; whoever does not leave is killed.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        for (name, child) in self.processes.iter_mut().rev() {
            if let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            }
            if tokio::time::timeout(STOP_DEADLINE, child.wait()).await.is_err() {
                tracing::warn!(process = name, "did not leave in time and is killed");
                child.kill().await?;
            }
        }
        Ok(())
    }
}

fn stage(name: &str, config: &Path, admin: SocketAddr) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(name).arg("--config").arg(config).arg("--admin-listen").arg(admin.to_string());
    command.args(["--allow-insecure-endpoint", "--log-level", "error"]);
    command.stdout(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn ready(admin: SocketAddr) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let deadline = Instant::now() + READY_DEADLINE;
    while Instant::now() < deadline {
        if client.get(format!("http://{admin}/readyz")).send().await.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("a process is not ready in time")
}

/// CPU and memory of a process, from /proc (Linux).
fn process_usage(name: &'static str, id: u32) -> anyhow::Result<ProcessUsage> {
    /// Clock ticks a second in /proc on every Linux we run on.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("/proc/stat")?.1.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("/proc/stat");
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("/proc/status")?;
    let peak_kib: f64 = peak.trim().trim_end_matches(" kB").parse()?;
    Ok(ProcessUsage { name, cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS, peak_mib: peak_kib / 1024.0 })
}
