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
    /// More configuration.
    more: String,
    child: Option<Child>,
}

impl NatsServer {
    pub(crate) fn start() -> Self {
        Self::start_with(String::new())
    }

    fn start_with(more: String) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/nats-server");
        let found = Command::new(script).stderr(Stdio::inherit()).output().expect("scripts/nats-server can be run");
        assert!(
            found.status.success(),
            "these tests need a nats-server; scripts/nats-server says above why there is none"
        );
        let binary = String::from_utf8(found.stdout).expect("a path").trim().to_owned();
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let mut server = Self { binary, dir, port, more, child: None };
        server.restart();
        server
    }

    /// Starts the server, or starts it again on the same port and data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let store = self.dir.path().join("store");
        let config = self.dir.path().join("nats.conf");
        // Left to itself a server takes a share of the free disk: what fits would depend on the machine.
        let text = format!(
            "port: {}\nhost: 127.0.0.1\njetstream {{ store_dir: {:?}, sync_interval: always, max_file_store: 1TB }}\n{}",
            self.port,
            store.display().to_string(),
            self.more
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
        bus(vec![self.url()], bytes_max, 1).await
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

/// Connects once a server answers, and provisions as soon as it can: a cluster elects a leader first.
async fn bus(urls: Vec<String>, bytes_max: i64, replicas: usize) -> Bus {
    let config = NatsConfig { urls, name: "test".into(), ..NatsConfig::default() };
    let wanted = ProvisionConfig {
        streams: vec![StreamSpec { name: "events", bytes_max, when_full: WhenFull::Refuse }],
        replicas,
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let done = match Bus::connect_nats(config.clone()).await {
            Ok(bus) => bus.provision(&wanted).await.map(|done| (bus, done)),
            Err(error) => Err(error),
        };
        match done {
            Ok((bus, done)) => {
                assert_eq!(done.created.len() + done.found.len(), 3);
                return bus;
            }
            Err(error) if std::time::Instant::now() > deadline => panic!("{error:?}"),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Three servers in one cluster.
pub(crate) struct NatsCluster {
    pub(crate) servers: Vec<NatsServer>,
}

impl NatsCluster {
    pub(crate) fn start() -> Self {
        let ports = [free_port(), free_port(), free_port()];
        let routes = ports.map(|port| format!("\"nats-route://127.0.0.1:{port}\"")).join(", ");
        let server = |port: u16| {
            NatsServer::start_with(format!(
                "server_name: n{port}\ncluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}\n"
            ))
        };
        Self { servers: ports.map(server).into() }
    }

    /// Connects to all of them, and provisions three replicas.
    pub(crate) async fn bus(&self, bytes_max: i64) -> Bus {
        bus(self.servers.iter().map(NatsServer::url).collect(), bytes_max, 3).await
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
