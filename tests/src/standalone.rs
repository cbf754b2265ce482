//! `inflection-source standalone`: one process, restartable on the same data and the same ports.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use tempfile::TempDir;

use crate::admin::Admin;
use crate::binary::binary;
use crate::config::{self, Workspace};
use crate::ports;
use crate::process::Process;
use crate::segment::Segment;
use crate::wait::SOON;

/// Little, so that restarts under load are restarts from snapshots, with most of the log gone.
pub(crate) const SNAPSHOT_EVERY_BYTES: &str = "65536";

/// Ingest key of an install that is configured by flags alone.
pub const INGEST_KEY: &str = "ik_flags_51b7e0c2d94f4a3890aa";

/// Write key of an install that is configured by flags alone.
pub const WRITE_KEY: &str = "wkflagsZt9LxVb4RkPw3Ns6Qm2Hd8Jc5";

/// Connection of an install that is configured by flags alone.
pub const CONNECTION: &str = "default";

/// The grace a process has after SIGTERM, and a little.
pub const GRACE: Duration = Duration::from_secs(35);

/// Name of the configuration file in the install's directory.
const CONFIG_FILE: &str = "inflection.toml";

/// A standalone install in a temporary directory.
#[derive(Debug)]
pub struct Standalone {
    folder: TempDir,
    listen: SocketAddr,
    admin_listen: SocketAddr,
    arguments: Vec<String>,
    process: Process,
}

impl Standalone {
    /// Starts with `--ingest-key` and `--write-key` alone: workspace and connection `default`.
    pub fn start(segment: &Segment) -> Self {
        Self::start_by_flags(segment, &[])
    }

    /// Starts with `--ingest-key` and `--write-key`, and with further arguments.
    pub fn start_by_flags(segment: &Segment, more: &[&str]) -> Self {
        let endpoint = segment.url();
        let flags = ["--ingest-key", INGEST_KEY, "--write-key", WRITE_KEY, "--segment-endpoint", &endpoint];
        Self::spawn(more, |_| flags.map(str::to_owned).to_vec())
    }

    /// Starts with a configuration file for these workspaces.
    pub fn start_with(segment: &Segment, workspaces: &[Workspace]) -> Self {
        Self::start_with_arguments(segment, workspaces, &[])
    }

    /// Starts with a configuration file for these workspaces, and with further arguments.
    pub fn start_with_arguments(segment: &Segment, workspaces: &[Workspace], more: &[&str]) -> Self {
        let text = config::render(workspaces, &segment.url());
        Self::spawn(more, |folder| {
            let file = folder.path().join(CONFIG_FILE);
            fs::write(&file, text).expect("a configuration can be written");
            vec!["--config".to_owned(), file.display().to_string()]
        })
    }

    fn spawn(more: &[&str], configured: impl FnOnce(&TempDir) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (listen, admin_listen) = (ports::free(), ports::free());
        let mut arguments = vec![
            "standalone".to_owned(),
            "--data-dir".to_owned(),
            folder.path().join("data").display().to_string(),
            "--listen".to_owned(),
            listen.to_string(),
            "--admin-listen".to_owned(),
            admin_listen.to_string(),
            "--allow-insecure-endpoint".to_owned(),
            "--snapshot-every-bytes".to_owned(),
            SNAPSHOT_EVERY_BYTES.to_owned(),
        ];
        arguments.extend(configured(&folder));
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let process = Process::spawn("standalone", binary(), &arguments, &folder.path().join("log"));
        let mut standalone = Self { folder, listen, admin_listen, arguments, process };
        standalone.until_ready();
        standalone
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it with SIGTERM.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.terminate(GRACE)
    }

    /// Starts it again, after it was ended, on the same data and ports; returns when it is ready.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.process = Process::spawn("standalone", binary(), &self.arguments, &self.log_path());
        self.until_ready();
    }

    /// Gives it another value of a flag when it is started again.
    #[track_caller]
    pub fn replace_argument(&mut self, old: &str, new: &str) {
        let argument = self.arguments.iter_mut().find(|argument| *argument == old);
        new.clone_into(argument.expect("it was started with that argument"));
    }

    /// Replaces the configuration file of an install that was started with one; it is not restarted.
    pub fn reconfigure(&self, segment: &Segment, workspaces: &[Workspace]) {
        self.replace_config(&config::render(workspaces, &segment.url()));
    }

    /// Replaces the configuration file by any text.
    pub fn replace_config(&self, text: &str) {
        config::replace(&self.folder.path().join(CONFIG_FILE), text);
    }

    /// The public listener.
    pub fn ingest(&self) -> SocketAddr {
        self.listen
    }

    /// The admin listener.
    pub fn admin(&self) -> Admin {
        Admin::new(self.admin_listen)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// All it has logged, over all its lives.
    pub fn log_text(&self) -> String {
        self.process.log_text()
    }

    /// Where it keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    #[track_caller]
    fn until_ready(&mut self) {
        let admin = self.admin();
        self.process.until_ready(SOON, || admin.is_ready());
    }
}
