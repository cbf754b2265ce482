//! A real nats-server, restartable on the same store and port. Three of them in a cluster: [`crate::cluster`].

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::binary::root;
use crate::http::{Answer, Client, Request};
use crate::ports;
use crate::process::Process;
use crate::wait::SOON;

/// What streams may reserve together, which is not what they use: left to itself a server takes a share of the free disk, and
/// what can be provisioned would depend on the machine.
const STORE_BYTES_MAX: u64 = 1 << 40;

/// Long enough for a server to write down what it has and to hand over what it leads.
const STOPPED: Duration = Duration::from_secs(30);

/// One server with JetStream, every append synced to disk.
#[derive(Debug)]
pub struct NatsServer {
    name: String,
    address: SocketAddr,
    monitor: SocketAddr,
    config: PathBuf,
    log: PathBuf,
    process: Process,
}

impl NatsServer {
    /// Starts a server that keeps everything below `folder`; returns when it accepts clients.
    pub fn start(folder: &Path) -> Self {
        let mut server = Self::launch("e2e", folder, "");
        server.until_ready();
        server
    }

    /// Starts a server of that name with more configuration; does not wait for it.
    pub(crate) fn launch(name: &str, folder: &Path, more: &str) -> Self {
        let (address, monitor) = (ports::free(), ports::free());
        let store = folder.join(format!("jetstream-{name}"));
        let (config, log) = (folder.join(format!("{name}.conf")), folder.join(format!("{name}.log")));
        let text = format!(
            "listen: \"{address}\"\nhttp: \"{monitor}\"\nserver_name: {name}\n\
             jetstream {{\n  store_dir: {:?}\n  sync_interval: always\n  max_file_store: {STORE_BYTES_MAX}\n}}\n{more}",
            store.display().to_string()
        );
        fs::write(&config, text).expect("a configuration can be written");
        let process = spawn(&config, &log);
        Self { name: name.to_owned(), address, monitor, config, log, process }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address as `--nats-url` takes it.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The address as `--nats-monitor-url` takes it.
    pub fn monitor_url(&self) -> String {
        format!("http://{}", self.monitor)
    }

    /// What its monitoring listener answers to `GET`.
    ///
    /// # Errors
    ///
    /// When no answer comes.
    pub fn monitor(&self, path: &str) -> std::io::Result<Answer> {
        Client::new(self.monitor).call(&Request::new("GET", path).header("Connection", "close"))
    }

    /// Whether it runs, and is not paused.
    pub fn is_running(&mut self) -> bool {
        self.process.ended().is_none() && !self.process.is_paused()
    }

    /// Ends it with SIGTERM: it hands over what it leads, and goes.
    #[track_caller]
    pub fn terminate(&mut self) {
        self.process.terminate(STOPPED);
    }

    /// Stops it where it stands with SIGSTOP: its clients stay connected, and get no answer.
    pub fn pause(&mut self) {
        self.process.pause();
    }

    /// Lets it go on with SIGCONT.
    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// Sends one request to a subject, without a body, and returns the answer's body.
    ///
    /// # Errors
    ///
    /// When no answer comes.
    pub fn request(&self, subject: &str) -> std::io::Result<String> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(SOON))?;
        let inbox = format!("_INBOX.check.{}", self.process.id());
        let ask = "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}";
        write!(&stream, "{ask}\r\nSUB {inbox} 1\r\nPUB {subject} {inbox} 0\r\n\r\n")?;
        let mut lines = BufReader::new(stream).lines();
        while let Some(line) = lines.next().transpose()? {
            if line.starts_with("MSG ") {
                return lines.next().unwrap_or_else(|| Err(ErrorKind::UnexpectedEof.into()));
            }
            if line.starts_with("HMSG ") {
                return Err(std::io::Error::other("nobody answers this subject"));
            }
        }
        Err(ErrorKind::UnexpectedEof.into())
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
    pub(crate) fn until_ready(&mut self) {
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
