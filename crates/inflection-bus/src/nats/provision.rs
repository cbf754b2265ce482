//! Streams and buckets, and whether they keep what we promise.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType};
use async_nats::jetstream::{ErrorCode, kv, object_store};
use tokio::time::{Instant, timeout};

use super::backoff::Backoff;
use super::client::ANSWER_WAIT;
use super::{Client, PREFIX, blobs_bucket, blobs_stream, bucket_name, bucket_stream, monitor, stream_name};
use crate::error::OpenError;

/// The server's own removal of repeated appends reaches this far back: longer than an append is repeated.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Replicas that survive the loss of a server.
const REPLICAS_DURABLE: usize = 3;
/// How long a stream may be without a leader before that is an error.
const FOUND_DEADLINE: Duration = Duration::from_secs(20);
/// A single server, or a cluster with fewer servers than replicas.
const TOO_FEW_SERVERS: [ErrorCode; 2] = [ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED, ErrorCode::CLUSTER_NO_PEERS];

/// One stream: all logs whose name begins with `name`.
#[derive(Debug, Clone)]
pub struct StreamSpec {
    /// First token of the logs' names.
    pub name: &'static str,
    /// Most bytes.
    pub bytes_max: i64,
    /// What becomes of an append beyond them.
    pub when_full: WhenFull,
}

/// What a full stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It refuses appends, and keeps what it has: nothing is lost that was acknowledged.
    Refuse,
    /// It evicts its oldest messages: for what people may look at and nothing reads.
    EvictOldest,
}

impl WhenFull {
    fn discard(self) -> DiscardPolicy {
        match self {
            Self::Refuse => DiscardPolicy::New,
            Self::EvictOldest => DiscardPolicy::Old,
        }
    }
}

/// What the bus should consist of.
#[derive(Debug, Clone)]
pub struct ProvisionConfig {
    /// The streams.
    pub streams: Vec<StreamSpec>,
    /// Copies of every stream and bucket.
    pub replicas: usize,
}

/// What `provision` did.
#[derive(Debug, Default)]
pub struct Provisioned {
    /// Streams and buckets that were made.
    pub created: Vec<String>,
    /// Streams and buckets that were there.
    pub found: Vec<String>,
    /// Where the bus keeps less than we promise.
    pub gaps: Vec<DurabilityGap>,
}

/// One way in which a bus keeps less than the durability policy asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DurabilityGap {
    /// Fewer than three replicas: one lost disk loses what it held.
    Replicas {
        /// The stream.
        stream: String,
        /// Its replicas.
        found: usize,
    },
    /// A stream in memory.
    NotOnDisk(String),
    /// A stream that evicts old messages when it is full, or by age or count.
    Evicts(String),
    /// A stream that acknowledges before it writes.
    AsyncPersist(String),
    /// The server with this monitoring address syncs in the background: a power failure loses what it had acknowledged.
    SyncInBackground(String),
    /// Whether a server syncs every write could not be read.
    SyncUnknown(String),
}

impl DurabilityGap {
    /// Whether the policy is known not to be met (and not merely unknown).
    #[must_use]
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::SyncUnknown(_))
    }
}

impl fmt::Display for DurabilityGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replicas { stream, found } => {
                write!(f, "stream {stream} has {found} replica(s): run `provision --replicas 3` on a cluster of three")
            }
            Self::NotOnDisk(stream) => write!(f, "stream {stream} is kept in memory: recreate it with file storage"),
            Self::Evicts(stream) => {
                write!(f, "stream {stream} evicts messages: set discard to \"new\" and remove age and count limits")
            }
            Self::AsyncPersist(stream) => {
                write!(f, "stream {stream} acknowledges before it writes: unset persist_mode")
            }
            Self::SyncInBackground(url) => {
                write!(
                    f,
                    "the server at {url} syncs in the background: set `sync_interval: always` in its jetstream block"
                )
            }
            Self::SyncUnknown(why) => write!(
                f,
                "whether a server syncs every write is unknown ({why}): give the monitoring address of each with \
                 --nats-monitor-url, and set `sync_interval: always` in its jetstream block"
            ),
        }
    }
}

impl Client {
    pub(crate) async fn provision(&self, config: &ProvisionConfig) -> Result<Provisioned, OpenError> {
        let mut done = Provisioned::default();
        for spec in &config.streams {
            let name = stream_name(spec.name);
            let existed = self.find(&name).await?.is_some();
            let wanted = Config {
                name: name.clone(),
                subjects: vec![format!("{PREFIX}.{}.>", spec.name)],
                description: Some(format!("inflection-source: {} logs, one subject a log", spec.name)),
                retention: RetentionPolicy::Limits,
                discard: spec.when_full.discard(),
                max_bytes: spec.bytes_max,
                storage: StorageType::File,
                num_replicas: config.replicas,
                duplicate_window: DUPLICATE_WINDOW,
                ..Config::default()
            };
            let made = self.context.create_or_update_stream(wanted).await;
            made.map_err(|error| unplaceable(error, config.replicas, format!("create or update stream {name}")))?;
            if existed { &mut done.found } else { &mut done.created }.push(name);
        }
        self.provision_records(config, &mut done).await?;
        self.provision_blobs(config, &mut done).await?;
        done.gaps = self.check(config).await?;
        Ok(done)
    }

    async fn provision_records(&self, config: &ProvisionConfig, done: &mut Provisioned) -> Result<(), OpenError> {
        let bucket = bucket_name();
        let existed = self.find(&bucket_stream()).await?.is_some();
        let wanted = kv::Config {
            bucket: bucket.clone(),
            description: "inflection-source: installation, progress, connection states".into(),
            history: 1,
            storage: StorageType::File,
            num_replicas: config.replicas,
            ..kv::Config::default()
        };
        self.context.create_or_update_key_value(wanted).await.map_err(|source| OpenError::Refused {
            what: format!("create or update bucket {bucket}"),
            source: source.into(),
        })?;
        if existed { &mut done.found } else { &mut done.created }.push(bucket);
        Ok(())
    }

    async fn provision_blobs(&self, config: &ProvisionConfig, done: &mut Provisioned) -> Result<(), OpenError> {
        let bucket = blobs_bucket();
        if self.find(&blobs_stream()).await?.is_some() {
            done.found.push(bucket.clone());
        } else {
            let wanted = object_store::Config {
                bucket: bucket.clone(),
                description: Some("inflection-source: snapshots".into()),
                storage: StorageType::File,
                num_replicas: config.replicas,
                ..object_store::Config::default()
            };
            self.context.create_object_store(wanted).await.map_err(|source| OpenError::Refused {
                what: format!("create bucket {bucket}"),
                source: source.into(),
            })?;
            done.created.push(bucket.clone());
        }
        // The client cannot update a bucket of objects, but its stream is one like all others. Direct reads are answered by
        // any replica, also by one that lags behind: a snapshot that was just written must not be missing.
        let Some(found) = self.find(&blobs_stream()).await? else {
            return Err(OpenError::NotProvisioned(blobs_stream()));
        };
        let wanted = Config { num_replicas: config.replicas, allow_direct: false, ..found.clone() };
        if wanted != found {
            let updated = self.context.update_stream(wanted).await;
            updated.map_err(|error| unplaceable(error, config.replicas, format!("update bucket {bucket}")))?;
        }
        Ok(())
    }

    /// How a stream is configured, if it exists. Asks through an election, so that a stream without a leader is not taken
    /// for one that is not there.
    async fn find(&self, stream: &str) -> Result<Option<Config>, OpenError> {
        let (deadline, mut backoff) = (Instant::now() + FOUND_DEADLINE, Backoff::default());
        loop {
            let error: Box<dyn std::error::Error + Send + Sync> =
                match timeout(ANSWER_WAIT, self.context.get_stream(stream)).await {
                    Ok(Ok(found)) => return Ok(Some(found.cached_info().config.clone())),
                    Ok(Err(error)) if is_not_found(&error.kind()) => return Ok(None),
                    Ok(Err(error)) => error.into(),
                    Err(elapsed) => elapsed.into(),
                };
            if Instant::now() + backoff.next() >= deadline {
                return Err(OpenError::NoLeader { stream: stream.to_owned(), source: error });
            }
            tracing::info!(error, stream, "waiting for the stream's leader");
            backoff.pause().await;
        }
    }

    /// Compares what is there with the policy.
    pub(crate) async fn check(&self, config: &ProvisionConfig) -> Result<Vec<DurabilityGap>, OpenError> {
        let mut gaps = Vec::new();
        let logs = config.streams.iter().map(|spec| (stream_name(spec.name), Some(spec.when_full)));
        for (name, when_full) in logs.chain([(bucket_stream(), None), (blobs_stream(), None)]) {
            let Some(found) = self.find(&name).await? else { return Err(OpenError::NotProvisioned(name)) };
            if found.num_replicas < REPLICAS_DURABLE {
                gaps.push(DurabilityGap::Replicas { stream: name.clone(), found: found.num_replicas });
            }
            if found.storage != StorageType::File {
                gaps.push(DurabilityGap::NotOnDisk(name.clone()));
            }
            if found.persist_mode == Some(PersistenceMode::Async) {
                gaps.push(DurabilityGap::AsyncPersist(name.clone()));
            }
            let evicts = when_full.is_some_and(|when_full| {
                (when_full == WhenFull::Refuse && found.discard != DiscardPolicy::New)
                    || found.max_messages > 0
                    || found.max_messages_per_subject > 0
            });
            if !found.max_age.is_zero() || evicts {
                gaps.push(DurabilityGap::Evicts(name.clone()));
            }
        }
        gaps.extend(self.sync_gaps().await);
        Ok(gaps)
    }

    /// Asks every monitoring address.
    async fn sync_gaps(&self) -> Vec<DurabilityGap> {
        let mut gaps = Vec::new();
        for url in self.monitor_urls() {
            let gap = match monitor::syncs_always(&url).await {
                Ok(true) => continue,
                Ok(false) => DurabilityGap::SyncInBackground(url),
                Err(error) => DurabilityGap::SyncUnknown(format!("{url}: {error}")),
            };
            gaps.push(gap);
        }
        gaps
    }

    /// The given monitoring addresses, or the usual port of the first server.
    fn monitor_urls(&self) -> Vec<String> {
        if !self.config.monitor_urls.is_empty() {
            return self.config.monitor_urls.clone();
        }
        let first = self.config.urls.first().map_or("", String::as_str);
        let host = first.rsplit("//").next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        vec![format!("http://{}:8222", host.rsplit_once(':').map_or(host, |(host, _)| host))]
    }
}

fn is_not_found(error: &GetStreamErrorKind) -> bool {
    matches!(error, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// A server's refusal to place a stream: too few servers have a message of their own, because of what there is to do.
fn unplaceable(error: CreateStreamError, replicas: usize, what: String) -> OpenError {
    if let CreateStreamErrorKind::JetStream(ref refused) = error.kind()
        && TOO_FEW_SERVERS.contains(&refused.error_code())
    {
        return OpenError::TooFewServers { replicas, why: refused.to_string() };
    }
    OpenError::Refused { what, source: error.into() }
}
