//! The stand-in for Segment, on a runtime of its own inside the test.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use inflection_sandbox::{
    Fault, FaultRule, Faults, Mode, Outcome, ReceivedCall, ReceivedRequest, Sandbox, SandboxConfig,
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::arrived::Arrived;
use crate::fact::parse_rfc3339;

/// Calls kept: more than any run of these checks makes.
const CALLS_MAX: usize = 4_000_000;

/// Bytes of them: 1 KiB each.
const CALLS_BYTES_MAX: usize = CALLS_MAX * 1024;

/// A running stand-in; it stops when dropped.
#[derive(Debug)]
pub struct Segment {
    sandbox: Sandbox,
    address: SocketAddr,
    shutdown: CancellationToken,
    server: Option<JoinHandle<()>>,
}

impl Segment {
    /// Starts one that takes every write key and answers as Segment does.
    pub fn start() -> Self {
        let config = SandboxConfig {
            mode: Mode::Faithful,
            calls_max: CALLS_MAX,
            calls_bytes_max: CALLS_BYTES_MAX,
            ..SandboxConfig::default()
        };
        let sandbox = Sandbox::new(config);
        let shutdown = CancellationToken::new();
        let (tell, told) = mpsc::sync_channel(1);
        let (serving, stop) = (sandbox.clone(), shutdown.clone());
        let server = thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port for the stand-in");
                tell.send(listener.local_addr().expect("a bound port")).expect("the test waits for the port");
                serving.serve(listener, stop).await.expect("the stand-in serves");
            });
        });
        let address = told.recv().expect("the stand-in starts");
        Self { sandbox, address, shutdown, server: Some(server) }
    }

    /// Its base address, as `--segment-endpoint` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every call received, in order of arrival, repeats included.
    pub fn calls(&self) -> Vec<Arrived> {
        self.sandbox.calls().into_iter().map(arrived).collect()
    }

    /// Shows every call received, in order of arrival, one by one: for more of them than fit into memory as values.
    pub fn for_each_call(&self, mut look: impl FnMut(Arrived)) {
        self.sandbox.for_each_call(|call| look(arrived(call)));
    }

    /// Every request received.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.sandbox.requests()
    }

    /// How many requests suffered a fault of that name.
    pub fn suffered(&self, fault: &str) -> usize {
        self.requests().iter().filter(|request| request.fault == Some(fault)).count()
    }

    /// Puts these faults in force instead of those before.
    pub fn set_faults(&self, rules: Vec<FaultRule>) {
        self.sandbox.set_faults(Faults { rules });
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.set_faults(Vec::new());
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(server) = self.server.take() {
            // Its panic, if there was one, has been printed; the check has its own result.
            server.join().ok();
        }
    }
}

/// A fault that answers with a status, and takes nothing.
pub fn status(code: u16, retry_after: Option<&str>) -> Fault {
    Fault::Status { code, retry_after: retry_after.map(str::to_owned), rate_limit_reset: None }
}

fn arrived(call: ReceivedCall) -> Arrived {
    let mut body = call.body;
    let own = body.as_object_mut().and_then(|fields| fields.remove("sentAt"));
    let sent_at = call.sent_at.or_else(|| own.as_ref().and_then(Value::as_str).map(str::to_owned));
    Arrived {
        received_at_ms: call.received_at_ms,
        write_key: call.write_key,
        kind: call.kind,
        // Not the one the stand-in would assign to a call without any.
        message_id: body.get("messageId").and_then(Value::as_str).unwrap_or_default().to_owned(),
        body,
        sent_at_ms: sent_at.as_deref().and_then(parse_rfc3339),
        dropped: match call.outcome {
            Outcome::Dropped { reason } => Some(reason.to_owned()),
            Outcome::Accepted | Outcome::Duplicate { .. } => None,
        },
    }
}
