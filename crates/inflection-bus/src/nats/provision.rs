//! Streams and buckets, and whether they keep what we promise.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, kv, object_store};

use super::{Client, PREFIX, blobs_bucket, blobs_stream, bucket_name, bucket_stream, monitor, stream_name};
use crate::error::OpenError;

/// The server's own removal of repeated appends reaches this far back: longer than an append is repeated.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Replicas that survive the loss of a server.
const REPLICAS_DURABLE: usize = 3;

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
    /// The server syncs in the background: a power failure loses what it had acknowledged.
    SyncInBackground,
    /// Whether the server syncs every write could not be read.
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
            Self::SyncInBackground => {
                write!(f, "the server syncs in the background: set `sync_interval: always` in its jetstream block")
            }
            Self::SyncUnknown(why) => write!(
                f,
                "whether the server syncs every write is unknown ({why}): give its monitoring address with \
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
            let existed = self.exists(&name).await;
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
            let refused = |source: jetstream::context::CreateStreamError| OpenError::Refused {
                what: format!("create or update stream {name}"),
                source: source.into(),
            };
            self.context.create_or_update_stream(wanted).await.map_err(refused)?;
            if existed { &mut done.found } else { &mut done.created }.push(name);
        }
        let bucket = bucket_name();
        let existed = self.exists(&bucket_stream()).await;
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
        self.provision_blobs(config, &mut done).await?;
        done.gaps = self.check(config).await?;
        Ok(done)
    }

    async fn provision_blobs(&self, config: &ProvisionConfig, done: &mut Provisioned) -> Result<(), OpenError> {
        let bucket = blobs_bucket();
        if self.exists(&blobs_stream()).await {
            done.found.push(bucket);
            return Ok(());
        }
        let wanted = object_store::Config {
            bucket: bucket.clone(),
            description: Some("inflection-source: snapshots".into()),
            storage: StorageType::File,
            num_replicas: config.replicas,
            ..object_store::Config::default()
        };
        self.context
            .create_object_store(wanted)
            .await
            .map_err(|source| OpenError::Refused { what: format!("create bucket {bucket}"), source: source.into() })?;
        done.created.push(bucket);
        Ok(())
    }

    async fn exists(&self, stream: &str) -> bool {
        self.context.get_stream(stream).await.is_ok()
    }

    /// Compares what is there with the policy.
    pub(crate) async fn check(&self, config: &ProvisionConfig) -> Result<Vec<DurabilityGap>, OpenError> {
        let mut gaps = Vec::new();
        let names = config.streams.iter().map(|spec| stream_name(spec.name)).chain([bucket_stream(), blobs_stream()]);
        for name in names {
            let Ok(stream) = self.context.get_stream(&name).await else { return Err(OpenError::NotProvisioned(name)) };
            let found = &stream.cached_info().config;
            if found.num_replicas < REPLICAS_DURABLE {
                gaps.push(DurabilityGap::Replicas { stream: name.clone(), found: found.num_replicas });
            }
            if found.storage != StorageType::File {
                gaps.push(DurabilityGap::NotOnDisk(name.clone()));
            }
            if found.persist_mode == Some(PersistenceMode::Async) {
                gaps.push(DurabilityGap::AsyncPersist(name.clone()));
            }
            let log = name != bucket_stream() && name != blobs_stream();
            let may_evict = config
                .streams
                .iter()
                .any(|spec| spec.when_full == WhenFull::EvictOldest && stream_name(spec.name) == name);
            let evicts = (found.discard != DiscardPolicy::New && !may_evict)
                || found.max_messages > 0
                || found.max_messages_per_subject > 0;
            if !found.max_age.is_zero() || (log && evicts) {
                gaps.push(DurabilityGap::Evicts(name.clone()));
            }
        }
        match monitor::syncs_always(&self.monitor_url()).await {
            Ok(true) => {}
            Ok(false) => gaps.push(DurabilityGap::SyncInBackground),
            Err(error) => gaps.push(DurabilityGap::SyncUnknown(error.to_string())),
        }
        Ok(gaps)
    }

    /// The given monitoring address, or the usual port of the server we are connected to.
    fn monitor_url(&self) -> String {
        let usual = || {
            let first = self.config.urls.first().map_or("", String::as_str);
            let host = first.rsplit("//").next().unwrap_or_default();
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("http://{}:8222", host.rsplit_once(':').map_or(host, |(host, _)| host))
        };
        self.config.monitor_url.clone().unwrap_or_else(usual)
    }
}
