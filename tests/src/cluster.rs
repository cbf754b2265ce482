//! Three real nats-servers in one cluster, each killable, restartable on its own store and ports.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::nats::NatsServer;
use crate::ports;
use crate::wait::{DRAINED, eventually, holds};

/// Servers of a cluster.
pub const SERVERS: usize = 3;

/// The streams that carry events, decisions and records.
pub const BUSY_STREAMS: [&str; 3] = ["INFLECTION_EVENTS", "INFLECTION_DECISIONS", "KV_inflection_records"];

/// Three servers; a stream of three replicas lies on each of them.
#[derive(Debug)]
pub struct NatsCluster {
    servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts servers that keep everything below `folder`; returns when streams can be placed on all of them.
    #[track_caller]
    pub fn start(folder: &Path) -> Self {
        let routes: Vec<_> = (0..SERVERS).map(|_| ports::free()).collect();
        let all: Vec<String> = routes.iter().map(|route| format!("\"nats-route://{route}\"")).collect();
        let launch = |(number, route): (usize, _)| {
            let cluster =
                format!("cluster {{\n  name: e2e\n  listen: \"{route}\"\n  routes: [{}]\n}}\n", all.join(", "));
            NatsServer::launch(&format!("n{number}"), folder, &cluster)
        };
        let mut cluster = Self { servers: routes.iter().enumerate().map(launch).collect() };
        cluster.servers.iter_mut().for_each(NatsServer::until_ready);
        cluster.await_whole();
        cluster
    }

    /// All addresses as `--nats-url` takes them.
    pub fn url(&self) -> String {
        self.servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// The monitoring addresses as `--nats-monitor-url` takes them.
    pub fn monitor_url(&self) -> String {
        self.servers.iter().map(NatsServer::monitor_url).collect::<Vec<_>>().join(",")
    }

    /// One server: the first is number 0.
    pub fn server(&mut self, number: usize) -> &mut NatsServer {
        &mut self.servers[number]
    }

    /// The number of the server that leads a stream, when it has a leader that others see too.
    #[track_caller]
    pub fn leader(&mut self, stream: &str) -> usize {
        eventually(&format!("{stream} has a leader"), DRAINED, || {
            let leaders = self.leaders()?;
            let name = leaders.get(stream).ok_or_else(|| format!("{leaders:?}"))?;
            let number = self.servers.iter().position(|server| server.name() == name);
            let number = number.ok_or_else(|| format!("{name} is none of the cluster"))?;
            holds(self.servers[number].is_running(), || format!("{name} is dead"))?;
            Ok(number)
        })
    }

    /// The number of the server to which the client of that name is connected.
    #[track_caller]
    pub fn server_of(&mut self, client: &str) -> usize {
        eventually(&format!("{client} is connected"), DRAINED, || {
            let is_there = |server: &NatsServer| {
                let connections = server.monitor("/connz").map(|answer| answer.json()).unwrap_or_default();
                let list = connections.get("connections").and_then(Value::as_array);
                list.into_iter().flatten().any(|each| each.get("name").and_then(Value::as_str) == Some(client))
            };
            self.servers.iter().position(is_there).ok_or_else(|| "on no server".to_owned())
        })
    }

    /// Asks the leader of a stream to step down; returns when another one leads, or the same again by election.
    #[track_caller]
    pub fn step_down(&mut self, stream: &str) {
        let leader = self.leader(stream);
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
        let answer = self.servers[leader].request(&subject);
        let answer = answer.unwrap_or_else(|error| panic!("{subject} got no answer: {error}"));
        assert!(answer.contains("\"success\":true"), "{subject}: {answer}");
        self.leader(stream);
    }

    /// Starts a server again; returns when it has caught up with the others in everything.
    #[track_caller]
    pub fn start_again(&mut self, number: usize) {
        self.servers[number].start_again();
        self.await_whole();
    }

    /// Lets a paused server go on; returns when it has caught up with the others in everything.
    #[track_caller]
    pub fn resume(&mut self, number: usize) {
        self.servers[number].resume();
        self.await_whole();
    }

    /// Waits until the running servers have a leader that sees all of them, and each is current in all it holds.
    #[track_caller]
    pub fn await_whole(&mut self) {
        let running = self.running();
        let others = running.len().saturating_sub(1);
        eventually("the cluster has a leader, and its servers are current", DRAINED, || {
            let mut seen_by_leader = 0;
            for server in &running {
                let health = server.monitor("/healthz").map_err(|error| error.to_string())?;
                holds(health.status == 200, || format!("{}: {}", server.name(), health.text()))?;
                seen_by_leader = seen_by_leader.max(current_followers(&meta(server)?));
            }
            holds(seen_by_leader >= others, || format!("the leader sees {seen_by_leader} of {others} others"))
        });
    }

    fn running(&mut self) -> Vec<&NatsServer> {
        self.servers.iter_mut().filter_map(|server| server.is_running().then_some(&*server)).collect()
    }

    /// Who leads which stream, as a running server knows it.
    fn leaders(&mut self) -> Result<BTreeMap<String, String>, String> {
        let server = self.running().into_iter().next().ok_or("no server runs")?;
        let answer = server.monitor("/jsz?accounts=true&streams=true").map_err(|error| error.to_string())?;
        let answer = answer.json();
        let accounts = answer.get("account_details").and_then(Value::as_array).into_iter().flatten();
        let streams = accounts.filter_map(|account| account.get("stream_detail")?.as_array()).flatten();
        let leader = |stream: &Value| {
            let leader = stream.get("cluster")?.get("leader")?.as_str().filter(|name| !name.is_empty())?;
            Some((stream.get("name")?.as_str()?.to_owned(), leader.to_owned()))
        };
        Ok(streams.filter_map(leader).collect())
    }
}

/// What a server knows of the group that places streams.
fn meta(server: &NatsServer) -> Result<Value, String> {
    let answer = server.monitor("/jsz").map_err(|error| error.to_string())?.json();
    let meta = answer.get("meta_cluster").cloned().ok_or_else(|| format!("{}: no cluster yet", server.name()))?;
    let leader = meta.get("leader").and_then(Value::as_str).unwrap_or_default();
    holds(!leader.is_empty(), || format!("{} knows no leader", server.name()))?;
    Ok(meta)
}

/// The others that a leader sees, up to date. Only the leader lists them.
fn current_followers(meta: &Value) -> usize {
    let replicas = meta.get("replicas").and_then(Value::as_array);
    let is = |replica: &Value, what: &str| replica.get(what).and_then(Value::as_bool).unwrap_or(false);
    replicas.into_iter().flatten().filter(|replica| is(replica, "current") && !is(replica, "offline")).count()
}
