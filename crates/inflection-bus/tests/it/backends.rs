//! The two backends, started for one test.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use inflection_bus::{Bus, EmbeddedConfig, Log, NatsConfig, ProvisionConfig, StreamSpec, WhenFull};
use tempfile::TempDir;

/// A nats-server of its own in a directory of its own; killed when dropped.
pub(crate) struct NatsServer {
    binary: String,
    dir: TempDir,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl NatsServer {
    pub(crate) fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/nats-server");
        let found = Command::new(script).stderr(Stdio::inherit()).output().expect("scripts/nats-server can be run");
        assert!(
            found.status.success(),
            "these tests need a nats-server; scripts/nats-server says above why there is none"
        );
        let binary = String::from_utf8(found.stdout).expect("a path").trim().to_owned();
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let mut server = Self { binary, dir, port, child: None };
        server.restart();
        server
    }

    /// Starts the server, or starts it again on the same port and data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let store = self.dir.path().join("store");
        let config = self.dir.path().join("nats.conf");
        let text = format!(
            "port: {}\nhost: 127.0.0.1\njetstream {{ store_dir: {:?}, sync_interval: always }}\n",
            self.port,
            store.display().to_string()
        );
        std::fs::write(&config, text).expect("the configuration is written");
        let child = Command::new(&self.binary).arg("-c").arg(&config).stderr(Stdio::null()).spawn().expect("it starts");
        self.child = Some(child);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is killed");
            child.wait().expect("it is reaped");
        }
    }

    /// Connects once the server answers, and provisions.
    pub(crate) async fn bus(&self, bytes_max: i64) -> Bus {
        let config = NatsConfig {
            urls: vec![format!("nats://127.0.0.1:{}", self.port)],
            name: "test".into(),
            ..NatsConfig::default()
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let bus = loop {
            match Bus::connect_nats(config.clone()).await {
                Ok(bus) => break bus,
                Err(error) if std::time::Instant::now() > deadline => panic!("{error:?}"),
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let streams = vec![StreamSpec { name: "events", bytes_max, when_full: WhenFull::Refuse }];
        let done = bus.provision(&ProvisionConfig { streams, replicas: 1 }).await.expect("it provisions");
        assert_eq!(done.created.len() + done.found.len(), 3);
        bus
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

pub(crate) fn embedded_config(dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig::new(dir.to_path_buf())
}

pub(crate) fn log(name: &str) -> Log {
    Log::new(name).expect("a name")
}
