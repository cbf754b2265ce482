//! A real nats-server, restartable on the same store and port.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::binary::root;
use crate::ports;
use crate::process::Process;
use crate::wait::SOON;

/// One server with JetStream, every append synced to disk.
#[derive(Debug)]
pub struct NatsServer {
    address: SocketAddr,
    config: PathBuf,
    log: PathBuf,
    process: Process,
}

impl NatsServer {
    /// Starts a server that keeps everything below `folder`.
    pub fn start(folder: &Path) -> Self {
        let address = ports::free();
        let store = folder.join("jetstream");
        let (config, log) = (folder.join("nats.conf"), folder.join("nats.log"));
        let text = format!(
            "listen: \"{address}\"\nserver_name: e2e\njetstream {{\n  store_dir: {:?}\n  sync_interval: always\n}}\n",
            store.display().to_string()
        );
        fs::write(&config, text).expect("a configuration can be written");
        let process = spawn(&config, &log);
        let mut server = Self { address, config, log, process };
        server.until_ready();
        server
    }

    /// The address as `--nats-url` takes it.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after a kill; returns when it accepts clients.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.process = spawn(&self.config, &self.log);
        self.until_ready();
    }

    #[track_caller]
    fn until_ready(&mut self) {
        let address = self.address;
        self.process.until_ready(SOON, || greets(address).unwrap_or(false));
    }
}

/// A server greets a client with `INFO`, once it has recovered its streams.
fn greets(address: SocketAddr) -> std::io::Result<bool> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.starts_with("INFO "))
}

fn spawn(config: &Path, log: &Path) -> Process {
    let arguments = ["--config".to_owned(), config.display().to_string()];
    Process::spawn("nats-server", program(), &arguments, log)
}

/// The server's path, as `scripts/nats-server` prints it. Without one these checks fail; they are never skipped.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let script = root().join("scripts/nats-server");
        let output = Command::new(&script)
            .output()
            .unwrap_or_else(|error| panic!("{} cannot be run, so there is no nats-server: {error}", script.display()));
        assert!(
            output.status.success(),
            "{} found no nats-server: {}",
            script.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        assert!(path.is_file(), "{} printed {:?}, which is no file", script.display(), path);
        path
    })
}
