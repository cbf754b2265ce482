//! HTTP/1.1 by hand: these tests look at what a client library would hide.

use std::io;
use std::net::SocketAddr;

use inflection_sandbox::{Sandbox, SandboxConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A sandbox that listens.
pub(crate) struct Server {
    pub(crate) sandbox: Sandbox,
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// An answer as it came over the wire.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Server {
    pub(crate) async fn start(config: SandboxConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sandbox, shutdown, tasks) = (Sandbox::new(config), CancellationToken::new(), TaskTracker::new());
        let (served, stop) = (sandbox.clone(), shutdown.clone());
        tasks.spawn(async move { served.serve(listener, stop).await.unwrap() });
        Self { sandbox, address, shutdown, tasks }
    }

    /// Returns when every connection is closed.
    pub(crate) async fn stop(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// One request on its own connection; all bytes that come back until it ends, and how it ends.
    pub(crate) async fn raw(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (Vec<u8>, io::Result<()>) {
        let mut stream = self.connect().await;
        stream.write_all(&request(method, path, &format!("Connection: close\r\n{headers}"), body)).await.unwrap();
        let mut received = Vec::new();
        let end = stream.read_to_end(&mut received).await;
        (received, end.map(|_bytes| ()))
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let (received, end) = self.raw(method, path, headers, body).await;
        end.unwrap();
        Answer::read(&received)
    }

    /// Posts a batch under the key `key`.
    pub(crate) async fn batch(&self, body: &str) -> Answer {
        self.ask("POST", "/v1/batch", BASIC_KEY, body.as_bytes()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, "", b"").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }
}

impl Answer {
    pub(crate) fn read(received: &[u8]) -> Self {
        let text = String::from_utf8(received.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn has_header(&self, line: &str) -> bool {
        self.head.lines().any(|found| found == line)
    }
}

/// `key:` in Basic.
pub(crate) const BASIC_KEY: &str = "Authorization: Basic a2V5Og==\r\n";

pub(crate) fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: sandbox\r\nContent-Length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}
