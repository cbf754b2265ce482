//! The installation's identity: made once, kept in the bus.

use anyhow::{Context as _, bail};
use inflection_bus::{Bus, Expected, ProvisionConfig, RecordError, StreamSpec, WhenFull};
use inflection_control::InstallationSettings;
use inflection_domain::{InstallationId, InstallationKey, PartitionCount};
use inflection_wire::{Installation, SCHEMA_VERSION};
use ring::rand::{SecureRandom as _, SystemRandom};

/// The record it is kept in.
const RECORD: &str = "installation";
/// Most bytes of dead letters, and of requests that could not be read.
const DEAD_BYTES_MAX: i64 = 1 << 30;
const UNPARSED_BYTES_MAX: i64 = 256 << 20;

/// The streams of an install on NATS, whose fill level is told.
pub(crate) const STREAMS: [&str; 5] = ["events", "decisions", "parked", "dead", "unparsed"];

/// The streams of an install on NATS, as they are made.
pub(crate) fn streams(events_bytes_max: i64, decisions_bytes_max: i64, replicas: usize) -> ProvisionConfig {
    let kept = |name, bytes_max| StreamSpec { name, bytes_max, when_full: WhenFull::Refuse };
    // Nobody empties it: a full one must not be in the way of what comes with what is kept there.
    let unparsed = StreamSpec { name: "unparsed", bytes_max: UNPARSED_BYTES_MAX, when_full: WhenFull::EvictOldest };
    ProvisionConfig {
        streams: vec![
            kept("events", events_bytes_max),
            kept("decisions", decisions_bytes_max),
            kept("parked", decisions_bytes_max),
            kept("dead", DEAD_BYTES_MAX),
            unparsed,
        ],
        replicas,
    }
}

/// Reads the installation, or makes it when `partitions` says how many.
pub(crate) async fn load(
    bus: &Bus,
    settings: &InstallationSettings,
    partitions: Option<PartitionCount>,
) -> anyhow::Result<Installation> {
    if let Some(found) = read(bus).await? {
        return checked(found, settings);
    }
    let Some(partitions) = partitions else {
        bail!("the bus has no installation yet: run `inflection-source provision` first");
    };
    let made = make(settings, partitions)?;
    match bus.put_record(RECORD, Expected::Absent, made.encode()).await {
        Ok(_) => Ok(made),
        // Somebody was faster; theirs it is.
        Err(RecordError::Conflict) => match read(bus).await? {
            Some(found) => checked(found, settings),
            None => bail!("the installation record comes and goes"),
        },
        Err(error) => Err(error).context("the installation cannot be stored"),
    }
}

async fn read(bus: &Bus) -> anyhow::Result<Option<Installation>> {
    let record = bus.get_record(RECORD).await.context("the installation cannot be read")?;
    record.map(|record| Installation::decode(&record.value).context("the installation record is damaged")).transpose()
}

fn make(settings: &InstallationSettings, partitions: PartitionCount) -> anyhow::Result<Installation> {
    let mut random = [0u8; 48];
    SystemRandom::new().fill(&mut random).ok().context("the system gives no randomness")?;
    let (key, id) = random.split_at(32);
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Installation {
        id: settings.id.clone().map_or_else(|| InstallationId::new(&id), Ok)?,
        key: settings.key.clone().map_or_else(|| key.try_into().map(InstallationKey::new), Ok)?,
        partitions,
        schema_version: SCHEMA_VERSION,
    })
}

/// Ids at Segment are made from the installation: another one than configured would double every event there.
fn checked(found: Installation, settings: &InstallationSettings) -> anyhow::Result<Installation> {
    if found.schema_version > SCHEMA_VERSION {
        bail!(
            "the bus has messages of version {}, this program knows {SCHEMA_VERSION}: upgrade it",
            found.schema_version
        );
    }
    if settings.id.as_ref().is_some_and(|id| *id != found.id) {
        bail!("installation.id is {}, the bus says {}", settings.id.as_ref().map_or("", |id| id.as_str()), found.id);
    }
    if settings.key.as_ref().is_some_and(|key| *key != found.key) {
        bail!("installation.key is not the one the bus was made with");
    }
    Ok(found)
}
