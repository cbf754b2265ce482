//! The three stages as processes of their own on a nats-server.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::admin::{Admin, Ledger};
use crate::binary::{self, binary};
use crate::config::{self, Workspace};
use crate::nats::NatsServer;
use crate::ports;
use crate::process::Process;
use crate::segment::Segment;
use crate::standalone::GRACE;
use crate::wait::SOON;

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

    fn index(self) -> usize {
        match self {
            Self::Ingest => 0,
            Self::Identity => 1,
            Self::Delivery => 2,
        }
    }
}

/// One stage's process and what it takes to start it again.
#[derive(Debug)]
struct Worker {
    stage: Stage,
    admin: Admin,
    arguments: Vec<String>,
    log: PathBuf,
    process: Process,
}

/// A fleet with one process per stage.
#[derive(Debug)]
pub struct Fleet {
    // Stages go before the server they talk to, and everything before the directory.
    workers: Vec<Worker>,
    nats: NatsServer,
    listen: SocketAddr,
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
        let config = folder.path().join("inflection.toml");
        fs::write(&config, config::render(workspaces, &segment.url())).expect("a configuration can be written");
        let nats = NatsServer::start(folder.path());
        let mut fleet = Self { workers: Vec::new(), nats, listen: ports::free(), folder };
        fleet.provision();
        for stage in Stage::ALL {
            let more = if stage == Stage::Delivery { delivery } else { &[] };
            let worker = fleet.worker(stage, more);
            fleet.workers.push(worker);
        }
        for worker in &mut fleet.workers {
            worker.until_ready();
        }
        fleet
    }

    /// Starts one more worker of a stage; returns when it is ready.
    pub fn add(&mut self, stage: Stage, more: &[&str]) {
        let mut worker = self.worker(stage, more);
        worker.until_ready();
        self.workers.push(worker);
    }

    /// Ends one stage with SIGKILL.
    pub fn kill(&mut self, stage: Stage) {
        self.workers[stage.index()].process.kill();
    }

    /// Ends one stage with SIGTERM.
    #[track_caller]
    pub fn terminate(&mut self, stage: Stage) {
        let status = self.workers[stage.index()].process.terminate(GRACE);
        assert!(status.success(), "{} ended with {status} after SIGTERM", stage.name());
    }

    /// Starts one ended stage again; returns when it is ready.
    #[track_caller]
    pub fn start_again(&mut self, stage: Stage) {
        let worker = &mut self.workers[stage.index()];
        worker.spawn();
        worker.until_ready();
    }

    /// The server.
    pub fn nats(&mut self) -> &mut NatsServer {
        &mut self.nats
    }

    /// The server's address as `--nats-url` takes it.
    pub fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// Starts stages again that have ended by themselves, as Kubernetes would; says which.
    #[track_caller]
    pub fn supervise(&mut self) -> Vec<&'static str> {
        let mut restarted = Vec::new();
        for worker in &mut self.workers {
            if worker.process.ended().is_some() {
                restarted.push(worker.stage.name());
                worker.spawn();
            }
        }
        for worker in &mut self.workers {
            worker.until_ready();
        }
        restarted
    }

    /// The public listener of ingest.
    pub fn ingest(&self) -> SocketAddr {
        self.listen
    }

    /// The admin listener of a stage.
    pub fn admin(&self, stage: Stage) -> Admin {
        self.workers[stage.index()].admin
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

    /// All the stages have logged, over all their lives.
    pub fn log_text(&self) -> String {
        self.workers.iter().map(|worker| worker.process.log_text()).collect()
    }

    fn provision(&self) {
        let url = self.nats.url();
        let arguments = ["provision", "--nats-url", &url, "--partitions", "16", "--replicas", "1", "--allow-degraded"];
        let finished = binary::run(&arguments, Duration::from_secs(60));
        assert_eq!(finished.code, Some(0), "provision: {}", finished.output);
    }

    fn worker(&self, stage: Stage, more: &[&str]) -> Worker {
        let admin_listen = ports::free();
        let mut arguments: Vec<String> = [
            stage.name(),
            "--nats-url",
            &self.nats.url(),
            "--config",
            &self.folder.path().join("inflection.toml").display().to_string(),
            "--admin-listen",
            &admin_listen.to_string(),
            "--allow-insecure-endpoint",
            "--allow-degraded",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        if stage == Stage::Ingest {
            arguments.extend(["--listen".to_owned(), self.listen.to_string()]);
        }
        let log = self.folder.path().join(format!("{}-{}.log", stage.name(), self.workers.len()));
        let process = Process::spawn(stage.name(), binary(), &arguments, &log);
        Worker { stage, admin: Admin::new(admin_listen), arguments, log, process }
    }
}

impl Worker {
    fn spawn(&mut self) {
        self.process = Process::spawn(self.stage.name(), binary(), &self.arguments, &self.log);
    }

    #[track_caller]
    fn until_ready(&mut self) {
        let admin = self.admin;
        self.process.until_ready(SOON, || admin.is_ready());
    }
}
