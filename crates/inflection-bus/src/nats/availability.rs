//! Whether the streams this process uses have leaders that answer.
//!
//! A connection alone says little: a server that has lost the majority of its cluster keeps its clients and stores nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::stream::ClusterInfo;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::{Client, bucket_stream};

/// How long a leader may take to say that it is one: less than a prober waits for us (Kubernetes: 1 s).
const PROBE_WAIT: Duration = Duration::from_millis(700);
/// How long an answer counts, so that many questions cost one.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A replica that its leader has not heard of for so long is not counted any more; they talk every second.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What is known of the streams of the bus; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Availability(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Whether `silent` holds anything: looked at for every message.
    any_silent: AtomicBool,
    /// Streams that have not answered since some try went unanswered. As many as there are streams.
    silent: Mutex<BTreeMap<String, Silent>>,
    /// The newest answer to "can it be used", and when. Who asks while it is being found out waits for that.
    newest: tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>,
}

/// A stream that does not answer.
#[derive(Debug, Clone, Copy)]
struct Silent {
    since: Instant,
    /// Whether a message was given up meanwhile, and the log has been told.
    told: bool,
}

impl Availability {
    /// Since when a stream has not answered, if it does not.
    pub(super) fn silent_since(&self, stream: &str) -> Option<Instant> {
        if !self.0.any_silent.load(Ordering::Relaxed) {
            return None;
        }
        self.silent(|silent| silent.get(stream).map(|silent| silent.since))
    }

    /// Notes that a stream has not answered; returns since when it has not.
    pub(super) fn fell_silent(&self, stream: &str) -> Instant {
        let now = Silent { since: Instant::now(), told: false };
        self.silent(|silent| silent.entry(stream.to_owned()).or_insert(now).since)
    }

    /// Notes that a message to a silent stream was given up.
    pub(super) fn gave_up(&self, stream: &str, why: &str) {
        let told = |silent: &mut BTreeMap<String, Silent>| {
            silent.get_mut(stream).is_none_or(|silent| std::mem::replace(&mut silent.told, true))
        };
        if !self.silent(told) {
            tracing::warn!(stream, why, "the stream does not answer");
        }
    }

    /// Notes that a stream has answered.
    pub(super) fn answers(&self, stream: &str) {
        if self.0.any_silent.load(Ordering::Relaxed)
            && let Some(Silent { since, told: true }) = self.silent(|silent| silent.remove(stream))
        {
            tracing::info!(stream, silence = ?since.elapsed(), "the stream answers again");
        }
    }

    fn silent<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Silent>) -> T) -> T {
        let mut silent = self.0.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut silent);
        self.0.any_silent.store(!silent.is_empty(), Ordering::Relaxed);
        changed
    }
}

impl Client {
    pub(crate) async fn health(&self) -> Result<(), String> {
        match self.client.connection_state() {
            State::Connected => {}
            State::Pending | State::Disconnected => return Err("not connected to NATS".into()),
        }
        let mut newest = self.availability.0.newest.lock().await;
        if let Some((at, answer)) = &*newest
            && at.elapsed() < PROBE_EVERY
        {
            return answer.clone();
        }
        let answer = self.probe().await;
        *newest = Some((Instant::now(), answer.clone()));
        answer
    }

    /// Asks the leaders of the records, which all stages use, and of streams that were silent.
    async fn probe(&self) -> Result<(), String> {
        let mut streams: Vec<String> = self.availability.silent(|silent| silent.keys().cloned().collect());
        streams.push(bucket_stream());
        let answers = join_all(streams.iter().map(|stream| self.ask_leader(stream))).await;
        for (stream, answer) in streams.iter().zip(&answers) {
            if answer.is_ok() {
                self.availability.answers(stream);
            }
        }
        answers.into_iter().collect()
    }

    async fn ask_leader(&self, stream: &str) -> Result<(), String> {
        match timeout(PROBE_WAIT, self.context.get_stream(stream)).await {
            Ok(Ok(found)) => has_majority(stream, found.cached_info().cluster.as_ref()),
            Ok(Err(error)) => Err(format!("stream {stream} has no leader that answers: {error}")),
            Err(_elapsed) => Err(format!("stream {stream} has no leader that answers")),
        }
    }
}

/// Whether a leader sees enough of its replicas to store anything. A single server has no cluster.
fn has_majority(stream: &str, cluster: Option<&ClusterInfo>) -> Result<(), String> {
    let Some(cluster) = cluster.filter(|cluster| !cluster.replicas.is_empty()) else { return Ok(()) };
    if cluster.leader.is_none() {
        return Err(format!("stream {stream} has no leader"));
    }
    let seen = cluster.replicas.iter().filter(|replica| !replica.offline && replica.active < SILENCE_MAX).count();
    let (there, replicas) = (seen + 1, cluster.replicas.len() + 1);
    if there * 2 > replicas {
        return Ok(());
    }
    Err(format!("stream {stream}: its leader has {there} of {replicas} replicas, and needs a majority"))
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream::PeerInfo;

    use super::*;

    fn replica(offline: bool, silent_s: u64) -> PeerInfo {
        PeerInfo { name: "n".into(), current: true, active: Duration::from_secs(silent_s), offline, lag: None }
    }

    #[track_caller]
    fn check(leader: Option<&str>, replicas: Vec<PeerInfo>, expected: bool) {
        let cluster = ClusterInfo {
            name: None,
            raft_group: None,
            leader: leader.map(str::to_owned),
            leader_since: None,
            system_account: false,
            traffic_account: None,
            replicas,
        };
        assert_eq!(has_majority("S", Some(&cluster)).is_ok(), expected, "{cluster:?}");
    }

    #[test]
    fn a_leader_needs_a_majority() {
        check(Some("n"), vec![replica(false, 0), replica(false, 1)], true);
        check(Some("n"), vec![replica(true, 0), replica(false, 1)], true);
        check(Some("n"), vec![replica(true, 0), replica(false, 20)], false);
        check(Some("n"), vec![replica(true, 0), replica(true, 0)], false);
        check(None, vec![replica(false, 0), replica(false, 1)], false);
        check(Some("n"), vec![], true);
        assert_eq!(has_majority("S", None), Ok(()));
    }

    #[test]
    fn a_stream_is_silent_from_the_first_unanswered_try_to_the_next_answer() {
        let availability = Availability::default();
        assert_eq!(availability.silent_since("A"), None);
        let since = availability.fell_silent("A");
        let other = availability.fell_silent("B");
        assert_eq!(availability.fell_silent("A"), since);
        availability.gave_up("A", "no leader");
        assert_eq!(availability.silent_since("A"), Some(since));
        availability.answers("A");
        assert_eq!((availability.silent_since("A"), availability.silent_since("B")), (None, Some(other)));
        availability.answers("B");
        assert!(!availability.0.any_silent.load(Ordering::Relaxed));
    }
}
