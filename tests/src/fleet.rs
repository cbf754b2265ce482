//! The three stages as processes of their own on a nats-server, or on a cluster of three.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::admin::{Admin, Ledger};
use crate::binary::{self, Finished, binary};
use crate::cluster::NatsCluster;
use crate::config::{self, Workspace};
use crate::nats::NatsServer;
use crate::ports;
use crate::process::Process;
use crate::segment::Segment;
use crate::standalone::{GRACE, SNAPSHOT_EVERY_BYTES};
use crate::wait::{SOON, eventually, holds};

/// Partitions that a fleet is provisioned with.
pub const PARTITIONS: u16 = 16;

/// What a worker logs when it begins to serve a partition …
const SERVES: &str = "this worker serves a partition";

/// … and when it lets go of one.
const LETS_GO: &str = "this worker lets go of a partition";

/// A stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// `inflection-source ingest`
    Ingest,
    /// `inflection-source identity`
    Identity,
    /// `inflection-source delivery`
    Delivery,
}

impl Stage {
    /// All of them, in the order data walks.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Identity, Self::Delivery];

    fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Identity => "identity",
            Self::Delivery => "delivery",
        }
    }
}

/// One process of a stage, restartable under its name and on its ports.
#[derive(Debug)]
pub struct Worker {
    stage: Stage,
    admin: Admin,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    binary: PathBuf,
    process: Process,
}

/// What a fleet talks to.
#[derive(Debug)]
enum Nats {
    /// One server. That is below the durability policy, and the stages are told to use it all the same.
    One(NatsServer),
    /// Three servers, and three replicas of everything.
    Cluster(NatsCluster),
}

impl Nats {
    fn url(&self) -> String {
        match self {
            Self::One(server) => server.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    /// What `provision` and the stages are told of it.
    fn arguments(&self) -> Vec<String> {
        let policy = match self {
            Self::One(_) => vec!["--allow-degraded".to_owned()],
            Self::Cluster(cluster) => vec!["--nats-monitor-url".to_owned(), cluster.monitor_url()],
        };
        [vec!["--nats-url".to_owned(), self.url()], policy].concat()
    }

    fn replicas(&self) -> &'static str {
        match self {
            Self::One(_) => "1",
            Self::Cluster(_) => "3",
        }
    }
}

/// A fleet with at least one process per stage.
#[derive(Debug)]
pub struct Fleet {
    // Stages go before the server they talk to, and everything before the directory.
    workers: Vec<Worker>,
    nats: Nats,
    listen: SocketAddr,
    /// Environment variables of all workers.
    environment: Vec<(String, String)>,
    folder: TempDir,
}

impl Fleet {
    /// Starts the server, provisions it and starts the stages; returns when all are ready.
    pub fn start(segment: &Segment, workspaces: &[Workspace]) -> Self {
        Self::start_with(segment, workspaces, &[])
    }

    /// Starts like [`Fleet::start`], delivery with further arguments.
    pub fn start_with(segment: &Segment, workspaces: &[Workspace], delivery: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let nats = Nats::One(NatsServer::start(folder.path()));
        Self::start_on(nats, folder, segment, workspaces, delivery, &[])
    }

    /// Starts like [`Fleet::start`], all workers with environment variables.
    pub fn start_in(environment: &[(&str, &str)], segment: &Segment, workspaces: &[Workspace]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let nats = Nats::One(NatsServer::start(folder.path()));
        Self::start_on(nats, folder, segment, workspaces, &[], environment)
    }

    /// Starts a cluster of three servers and the stages on it, without leave to use less than the durability policy.
    pub fn start_on_cluster(segment: &Segment, workspaces: &[Workspace]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let nats = Nats::Cluster(NatsCluster::start(folder.path()));
        Self::start_on(nats, folder, segment, workspaces, &[], &[])
    }

    fn start_on(
        nats: Nats,
        folder: TempDir,
        segment: &Segment,
        workspaces: &[Workspace],
        delivery: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let config = folder.path().join("inflection.toml");
        fs::write(&config, config::render(workspaces, &segment.url())).expect("a configuration can be written");
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut fleet = Self { workers: Vec::new(), nats, listen: ports::free(), environment, folder };
        fleet.provision();
        for stage in Stage::ALL {
            let more = if stage == Stage::Delivery { delivery } else { &[] };
            let worker = fleet.launch(binary(), stage, more);
            fleet.workers.push(worker);
        }
        for worker in &mut fleet.workers {
            worker.until_ready();
        }
        fleet
    }

    /// Starts one more worker of a stage; returns when it is ready.
    pub fn add(&mut self, stage: Stage, more: &[&str]) {
        self.add_of(binary(), stage, more);
    }

    /// The same of another build.
    pub fn add_of(&mut self, binary: &Path, stage: Stage, more: &[&str]) {
        let mut worker = self.launch(binary, stage, more);
        worker.until_ready();
        self.workers.push(worker);
    }

    /// Starts one more ingest on a port of its own; returns where it listens when it is ready.
    pub fn add_ingest(&mut self) -> SocketAddr {
        let listen = ports::free();
        let mut worker = self.launch_at(binary(), Stage::Ingest, &[], listen);
        worker.until_ready();
        self.workers.push(worker);
        listen
    }

    /// The workers of a stage, in the order they were added; those that have ended are among them.
    pub fn workers(&mut self, stage: Stage) -> impl Iterator<Item = &mut Worker> {
        self.workers.iter_mut().filter(move |worker| worker.stage == stage)
    }

    /// One worker of a stage: the first is number 0.
    #[track_caller]
    pub fn worker(&mut self, stage: Stage, number: usize) -> &mut Worker {
        let worker = self.workers(stage).nth(number);
        worker.unwrap_or_else(|| panic!("{} has no worker {number}", stage.name()))
    }

    /// The partitions that each running worker of a stage serves.
    pub fn partitions(&mut self, stage: Stage) -> Vec<BTreeSet<u16>> {
        let workers = self.workers(stage);
        workers.filter_map(|worker| worker.process.ended().is_none().then(|| worker.partitions())).collect()
    }

    /// Ends the first worker of a stage with SIGKILL.
    pub fn kill(&mut self, stage: Stage) {
        self.worker(stage, 0).kill();
    }

    /// Ends the first worker of a stage with SIGTERM.
    #[track_caller]
    pub fn terminate(&mut self, stage: Stage) {
        self.worker(stage, 0).terminate();
    }

    /// Starts the first worker of a stage again after it has ended; returns when it is ready.
    #[track_caller]
    pub fn start_again(&mut self, stage: Stage) {
        self.worker(stage, 0).start_again();
    }

    /// The server, of a fleet on one.
    #[track_caller]
    pub fn nats(&mut self) -> &mut NatsServer {
        match &mut self.nats {
            Nats::One(server) => server,
            Nats::Cluster(_) => panic!("this fleet is on a cluster"),
        }
    }

    /// The cluster, of a fleet on one.
    #[track_caller]
    pub fn cluster(&mut self) -> &mut NatsCluster {
        match &mut self.nats {
            Nats::Cluster(cluster) => cluster,
            Nats::One(_) => panic!("this fleet is on a single server"),
        }
    }

    /// The server's address as `--nats-url` takes it.
    pub fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// Starts workers again that have ended by themselves, as Kubernetes would; says of which stages.
    #[track_caller]
    pub fn supervise(&mut self) -> Vec<&'static str> {
        let mut restarted = Vec::new();
        for worker in &mut self.workers {
            if worker.process.ended().is_some() {
                restarted.push(worker.stage.name());
                worker.spawn();
            }
        }
        for worker in self.workers.iter_mut().filter(|worker| !worker.process.is_paused()) {
            worker.until_ready();
        }
        restarted
    }

    /// The public listener of ingest.
    pub fn ingest(&self) -> SocketAddr {
        self.listen
    }

    /// The admin listener of the first worker of a stage.
    pub fn admin(&self, stage: Stage) -> Admin {
        let first = self.workers.iter().find(|worker| worker.stage == stage);
        first.expect("every stage has a worker").admin
    }

    /// The books of all stages together: balanced if every stage's are, pending what is pending anywhere.
    ///
    /// # Errors
    ///
    /// What was wrong with a stage's answer.
    pub fn ledger(&self) -> Result<Ledger, String> {
        let mut books = self.admin(Stage::Delivery).ledger()?;
        for stage in [Stage::Ingest, Stage::Identity] {
            // A stage without a ledger of its own has nothing to add to that of delivery.
            if let Ok(more) = self.admin(stage).ledger() {
                books.balanced &= more.balanced;
                books.pending += more.pending;
            }
        }
        Ok(books)
    }

    /// Waits until each partition of a stage has one worker, and no worker more than one more than another.
    /// Returns how many each has, the fewest first.
    #[track_caller]
    pub fn await_even(&mut self, stage: Stage) -> Vec<usize> {
        eventually(&format!("partitions of {stage:?} are spread evenly"), SOON, || {
            let held = self.partitions(stage);
            let mut sizes: Vec<usize> = held.iter().map(BTreeSet::len).collect();
            sizes.sort_unstable();
            let served: BTreeSet<u16> = held.iter().flatten().copied().collect();
            let once = served.len() == usize::from(PARTITIONS) && served.len() == sizes.iter().sum::<usize>();
            let spread = sizes.last().zip(sizes.first()).map_or(0, |(most, fewest)| most - fewest);
            holds(once && spread <= 1, || format!("{held:?}"))?;
            Ok(sizes)
        })
    }

    /// All the stages have logged, over all their lives.
    pub fn log_text(&self) -> String {
        self.workers.iter().map(|worker| worker.process.log_text()).collect()
    }

    /// Runs `provision` of a build.
    #[track_caller]
    pub fn provision_by(&self, binary: &Path) -> Finished {
        let (nats, partitions) = (self.nats.arguments(), PARTITIONS.to_string());
        let mut arguments = vec!["provision", "--partitions", &partitions, "--replicas", self.nats.replicas()];
        arguments.extend(nats.iter().map(String::as_str));
        binary::run_of(binary, &arguments, Duration::from_secs(60))
    }

    fn provision(&self) {
        let finished = self.provision_by(binary());
        assert_eq!(finished.code, Some(0), "provision: {}", finished.output);
    }

    fn launch(&self, binary: &Path, stage: Stage, more: &[&str]) -> Worker {
        self.launch_at(binary, stage, more, self.listen)
    }

    fn launch_at(&self, binary: &Path, stage: Stage, more: &[&str], listen: SocketAddr) -> Worker {
        let admin_listen = ports::free();
        let mut arguments: Vec<String> = [
            stage.name(),
            "--config",
            &self.folder.path().join("inflection.toml").display().to_string(),
            "--admin-listen",
            &admin_listen.to_string(),
            "--allow-insecure-endpoint",
            "--snapshot-every-bytes",
            SNAPSHOT_EVERY_BYTES,
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend(self.nats.arguments());
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        if stage == Stage::Ingest {
            arguments.extend(["--listen".to_owned(), listen.to_string()]);
        }
        let log = self.folder.path().join(format!("{}-{}.log", stage.name(), self.workers.len()));
        let environment = self.environment.clone();
        let process = Process::spawn_in(stage.name(), binary, &arguments, &environment, &log);
        let (admin, binary) = (Admin::new(admin_listen), binary.to_owned());
        Worker { stage, admin, arguments, environment, log, binary, process }
    }
}

impl Worker {
    /// Its admin listener.
    pub fn admin(&self) -> Admin {
        self.admin
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it with SIGTERM.
    #[track_caller]
    pub fn terminate(&mut self) {
        let status = self.process.terminate(GRACE);
        assert!(status.success(), "{} ended with {status} after SIGTERM", self.stage.name());
    }

    /// Stops it where it stands with SIGSTOP.
    pub fn pause(&mut self) {
        self.process.pause();
    }

    /// Lets it go on with SIGCONT.
    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// Starts it again after it has ended; returns when it is ready.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.spawn();
        self.until_ready();
    }

    /// Ends it with SIGTERM and starts it again from another build, as a roll-out does; returns when it is ready.
    #[track_caller]
    pub fn roll_to(&mut self, binary: &Path) {
        self.terminate();
        binary.clone_into(&mut self.binary);
        self.start_again();
    }

    /// Starts it again from a build that is expected to refuse the bus; returns what it says, and its exit code.
    #[track_caller]
    pub fn refused_by(&mut self, binary: &Path) -> (Option<i32>, String) {
        binary.clone_into(&mut self.binary);
        self.spawn();
        let status = self.process.wait(SOON);
        (status.code(), self.process.life_text())
    }

    /// The partitions it serves, by what it has logged in this life; a paused one still names what it had.
    pub fn partitions(&self) -> BTreeSet<u16> {
        let mut served = BTreeSet::new();
        for line in self.process.life_text().lines() {
            let number = line.rsplit_once("partition=").and_then(|(_, number)| number.trim().parse::<u16>().ok());
            let Some(partition) = number else { continue };
            if line.contains(SERVES) {
                served.insert(partition);
            } else if line.contains(LETS_GO) {
                served.remove(&partition);
            }
        }
        served
    }

    fn spawn(&mut self) {
        let (name, environment) = (self.stage.name(), &self.environment);
        self.process = Process::spawn_in(name, &self.binary, &self.arguments, environment, &self.log);
    }

    #[track_caller]
    fn until_ready(&mut self) {
        let admin = self.admin;
        self.process.until_ready(SOON, || admin.is_ready());
    }
}
