//! The measured processes: started, asked for their CPU and memory, killed and started again, stopped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use inflection_bus::{Bus, NatsConfig};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::args::{BenchArgs, BenchBus};
use super::load::INGEST_KEY;
use super::servers;

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
    servers: Vec<Process>,
    stages: Vec<Process>,
    dir: TempDir,
}

/// One process, and what it has used in earlier lives.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    command: Command,
    child: Child,
    admin: SocketAddr,
    earlier: ProcessUsage,
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
    /// Memory held now, in MiB.
    pub(super) resident_mib: f64,
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

impl Process {
    /// Starts it.
    pub(super) fn spawn(name: &'static str, mut command: Command, admin: SocketAddr) -> std::io::Result<Self> {
        let child = command.spawn()?;
        let earlier = ProcessUsage { name, cpu_seconds: 0.0, resident_mib: 0.0, peak_mib: 0.0 };
        Ok(Self { name, command, child, admin, earlier })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// SIGKILL, and the same again.
    pub(super) async fn kill_and_start(&mut self) -> anyhow::Result<()> {
        self.earlier = self.usage()?;
        self.child.kill().await?;
        self.child = self.command.spawn().context(self.name)?;
        ready(self.admin, "/readyz").await
    }

    /// CPU and memory, from /proc (Linux).
    fn usage(&self) -> anyhow::Result<ProcessUsage> {
        /// Clock ticks a second in /proc on every Linux we run on.
        const TICKS: f64 = 100.0;
        let (name, earlier) = (self.name, &self.earlier);
        let id = self.child.id().with_context(|| format!("{name} has ended"))?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("/proc/stat")?.1.split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("/proc/stat");
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let mib = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).context("/proc/status")?;
            Ok::<_, anyhow::Error>(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
        };
        Ok(ProcessUsage {
            name,
            cpu_seconds: earlier.cpu_seconds + (ticks(11)? + ticks(12)?) / TICKS,
            resident_mib: mib("VmRSS:")?,
            peak_mib: earlier.peak_mib.max(mib("VmHWM:")?),
        })
    }

    /// SIGTERM; whoever does not leave is killed.
    async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        if tokio::time::timeout(STOP_DEADLINE, self.child.wait()).await.is_err() {
            tracing::warn!(process = self.name, "did not leave in time and is killed");
            self.child.kill().await?;
        }
        Ok(())
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
        let (ingest, admin) = (free()?, free()?);
        let mut started = Self { ingest, admin, bus: None, servers: Vec::new(), stages: Vec::new(), dir };
        match args.bus {
            BenchBus::Embedded => started.standalone(args, &config).await?,
            BenchBus::NatsAlways | BenchBus::NatsDefault => started.fleet(args, &config).await?,
        }
        Ok(started)
    }

    /// Where everything is kept.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    async fn standalone(&mut self, args: &BenchArgs, config: &Path) -> anyhow::Result<()> {
        let mut command = stage("standalone", config, self.admin)?;
        command.arg("--data-dir").arg(self.dir().join("data")).arg("--listen").arg(self.ingest.to_string());
        command.args(["--partitions", &args.partitions.to_string(), "--linger-ms", &args.linger_ms.to_string()]);
        self.stages.push(Process::spawn("standalone", command, self.admin).context("standalone")?);
        ready(self.admin, "/readyz").await
    }

    async fn fleet(&mut self, args: &BenchArgs, config: &Path) -> anyhow::Result<()> {
        let servers::Servers { processes, url } = servers::start(args, self.dir.path()).await?;
        self.servers = processes;
        let urls = url.split(',').map(str::to_owned).collect();
        let config_nats = NatsConfig { urls, name: "bench".into(), ..NatsConfig::default() };
        let bus = crate::commands::stage::connect(config_nats).await?;
        provision(args, &url).await?;
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
            self.stages.push(Process::spawn(name, command, admin).context(name)?);
            ready(admin, "/readyz").await?;
        }
        self.bus = Some(bus);
        Ok(())
    }

    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        Ok(Usage(self.servers.iter().chain(&self.stages).map(Process::usage).collect::<anyhow::Result<_>>()?))
    }

    /// The stages, to be killed.
    pub(super) fn stages_mut(&mut self) -> &mut [Process] {
        &mut self.stages
    }

    /// The sum of a metric over the stages.
    pub(super) async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut sum = 0;
        for process in &self.stages {
            let text = client.get(format!("http://{}/metrics", process.admin)).send().await?.text().await?;
            sum += metric(&text, name);
        }
        Ok(sum)
    }

    /// Bytes on disk of each stream, or of the embedded bus.
    pub(super) fn disk(&self) -> BTreeMap<String, u64> {
        let mut sizes = BTreeMap::new();
        let streams = |server: usize| self.dir().join(format!("nats-{server}/jetstream/$G/streams"));
        let folders: Vec<PathBuf> = (0..self.servers.len()).map(streams).collect();
        for stream in folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten() {
            *sizes.entry(stream.file_name().to_string_lossy().into_owned()).or_default() += size(&stream.path());
        }
        if folders.is_empty() {
            sizes.insert("data".to_owned(), size(&self.dir().join("data")));
        }
        sizes
    }

    /// Stops the stages, upstream first; the bus stays.
    pub(super) async fn stop_stages(&mut self) -> anyhow::Result<()> {
        for process in self.stages.iter_mut().rev() {
            process.stop().await?;
        }
        Ok(())
    }

    /// Stops everything.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop_stages().await?;
        if let Some(bus) = &self.bus {
            bus.close().await;
        }
        for process in &mut self.servers {
            process.stop().await?;
        }
        Ok(())
    }
}

/// Makes the streams. A cluster that has just found itself may need a moment to place them.
async fn provision(args: &BenchArgs, url: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_DEADLINE;
    let (replicas, partitions) = (args.replicas.to_string(), args.partitions.to_string());
    loop {
        let mut provision = ourselves()?;
        provision.args(["provision", "--allow-degraded", "--log-level", "error", "--nats-url", url]);
        provision.args(["--replicas", &replicas, "--partitions", &partitions]);
        let done = provision.stdout(Stdio::null()).stderr(Stdio::piped()).output().await?;
        if done.status.success() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("provision failed: {}", String::from_utf8_lossy(&done.stderr));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// This program, without what the environment says of another install: a bench must not send its load there.
fn ourselves() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("INFLECTION_") || name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
    }
    Ok(command)
}

fn stage(name: &str, config: &Path, admin: SocketAddr) -> anyhow::Result<Command> {
    let mut command = ourselves()?;
    command.arg(name).arg("--config").arg(config).arg("--admin-listen").arg(admin.to_string());
    command.args(["--allow-insecure-endpoint", "--log-level", "error"]);
    command.stdout(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// An address on which nobody listens.
pub(super) fn free() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Waits until a probe answers 200.
pub(super) async fn ready(admin: SocketAddr, probe: &str) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let deadline = Instant::now() + READY_DEADLINE;
    while Instant::now() < deadline {
        let answer = client.get(format!("http://{admin}{probe}")).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("a process is not ready in time")
}

/// The sum of a metric over its labels.
fn metric(text: &str, name: &str) -> u64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with([' ', '{']).then(|| rest.rsplit_once(' ')?.1.parse::<u64>().ok())?
    };
    text.lines().filter_map(value).sum()
}

/// Bytes of all files below a folder. What is deleted meanwhile counts nothing.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => size(&entry.path()),
        Ok(found) => found.len(),
        Err(_deleted) => 0,
    };
    entries.flatten().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_other_is_taken_for_it() {
        let text = "# HELP a_bytes Bytes\n# TYPE a_bytes gauge\na_bytes{partition=\"0\"} 3\na_bytes{partition=\"1\"} 4\n\
                    a_bytes_max 100\na_messages_total 7\n# EOF\n";
        assert_eq!(metric(text, "a_bytes"), 7);
        assert_eq!(metric(text, "a_messages_total"), 7);
        assert_eq!(metric(text, "nothing"), 0);
    }

    #[test]
    fn files_are_counted_in_all_folders() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("below")).unwrap();
        std::fs::write(folder.path().join("one"), [0; 10]).unwrap();
        std::fs::write(folder.path().join("below/two"), [0; 5]).unwrap();
        assert_eq!(size(folder.path()), 15);
        assert_eq!(size(&folder.path().join("nowhere")), 0);
    }
}
