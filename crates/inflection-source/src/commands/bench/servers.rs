//! nats-servers of the bench's own: one, or three in a cluster.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Command;

use super::args::{BenchArgs, BenchBus};
use super::processes::{Process, free, ready};

pub(super) const NAME: &str = "nats-server";

/// Servers that answer, and have found each other.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) processes: Vec<Process>,
    /// All of them, as `--nats-url` takes them.
    pub(super) url: String,
}

/// One server's addresses.
struct Addresses {
    clients: SocketAddr,
    monitor: SocketAddr,
    route: SocketAddr,
}

/// Starts as many servers as there are replicas, which keep everything below `folder`.
pub(super) async fn start(args: &BenchArgs, folder: &Path) -> anyhow::Result<Servers> {
    let some = (0..args.replicas).map(|_| Ok(Addresses { clients: free()?, monitor: free()?, route: free()? }));
    let all = some.collect::<anyhow::Result<Vec<_>>>()?;
    let mut processes = Vec::new();
    for (number, addresses) in all.iter().enumerate() {
        let file = folder.join(format!("nats-{number}.conf"));
        tokio::fs::write(&file, config(args, folder, number, addresses, &all)).await?;
        let mut command = Command::new(&args.nats_server);
        command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let hint = || format!("{} cannot be run; give a nats-server with --nats-server", args.nats_server.display());
        processes.push(Process::spawn(NAME, command, addresses.monitor).with_context(hint)?);
    }
    for addresses in &all {
        ready(addresses.monitor, "/healthz").await?;
    }
    let url = all.iter().map(|addresses| format!("nats://{}", addresses.clients)).collect::<Vec<_>>().join(",");
    Ok(Servers { processes, url })
}

/// A server that takes no share of the disk as its limit, or what can be provisioned would depend on the machine.
fn config(args: &BenchArgs, folder: &Path, number: usize, own: &Addresses, all: &[Addresses]) -> String {
    let store = folder.join(format!("nats-{number}")).display().to_string();
    let sync = if args.bus == BenchBus::NatsAlways { ", sync_interval: always" } else { "" };
    let routes: Vec<String> = all.iter().map(|one| format!("\"nats-route://{}\"", one.route)).collect();
    let cluster = match all {
        [_] => String::new(),
        _ => format!("cluster {{ name: bench, listen: \"{}\", routes: [{}] }}\n", own.route, routes.join(", ")),
    };
    format!(
        "listen: \"{}\"\nhttp: \"{}\"\nserver_name: n{number}\n\
         jetstream {{ store_dir: {store:?}, max_file_store: 1TB{sync} }}\n{cluster}",
        own.clients, own.monitor
    )
}
