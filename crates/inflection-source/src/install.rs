//! The installation's identity: made once, kept in the bus; and the version of what is on it.

use anyhow::{Context as _, bail};
use inflection_bus::{Bus, Expected, ProvisionConfig, RecordError, StreamSpec, WhenFull};
use inflection_control::InstallationSettings;
use inflection_domain::{InstallationId, InstallationKey, PartitionCount};
use inflection_wire::{Installation, OLDEST_READER, SCHEMA_VERSION};
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

/// Reads the installation, or makes it when `partitions` says how many; whoever may make it also takes a bus of an older
/// version over for this one.
pub(crate) async fn load(
    bus: &Bus,
    settings: &InstallationSettings,
    partitions: Option<PartitionCount>,
) -> anyhow::Result<Installation> {
    if let Some((found, revision)) = read(bus).await? {
        let found = checked(found, settings)?;
        return if partitions.is_some() { take_over(bus, found, revision).await } else { Ok(found) };
    }
    let Some(partitions) = partitions else {
        bail!("the bus has no installation yet: run `inflection-source provision` first");
    };
    let made = make(settings, partitions)?;
    match bus.put_record(RECORD, Expected::Absent, made.encode()).await {
        Ok(_) => Ok(made),
        // Somebody was faster; theirs it is.
        Err(RecordError::Conflict) => match read(bus).await? {
            Some((found, _)) => checked(found, settings),
            None => bail!("the installation record comes and goes"),
        },
        Err(error) => Err(error).context("the installation cannot be stored"),
    }
}

/// Reads the installation for a stage: it writes messages of its own version, and so only where that is known of.
pub(crate) async fn serve(bus: &Bus, settings: &InstallationSettings) -> anyhow::Result<Installation> {
    let found = load(bus, settings, None).await?;
    if found.schema_version < SCHEMA_VERSION {
        bail!(
            "the bus has messages of version {}, this program writes {SCHEMA_VERSION}: run its `inflection-source provision` first",
            found.schema_version
        );
    }
    Ok(found)
}

/// Notes that this version writes here now, if an older one did before.
async fn take_over(bus: &Bus, found: Installation, revision: u64) -> anyhow::Result<Installation> {
    if found.schema_version >= SCHEMA_VERSION {
        return Ok(found);
    }
    let oldest_reader = found.oldest_reader.max(OLDEST_READER);
    let taken = Installation { schema_version: SCHEMA_VERSION, oldest_reader, ..found };
    match bus.put_record(RECORD, Expected::Revision(revision), taken.encode()).await {
        Ok(_) => Ok(taken),
        Err(RecordError::Conflict) => bail!("somebody else has just changed the installation; try again"),
        Err(error) => Err(error).context("the installation cannot be stored"),
    }
}

/// The installation, and the revision of its record.
async fn read(bus: &Bus) -> anyhow::Result<Option<(Installation, u64)>> {
    let Some(record) = bus.get_record(RECORD).await.context("the installation cannot be read")? else {
        return Ok(None);
    };
    let found = Installation::decode(&record.value).context("the installation record is damaged")?;
    Ok(Some((found, record.revision)))
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
        oldest_reader: OLDEST_READER,
    })
}

/// Ids at Segment are made from the installation: another one than configured would double every event there.
fn checked(found: Installation, settings: &InstallationSettings) -> anyhow::Result<Installation> {
    if found.oldest_reader > SCHEMA_VERSION {
        bail!(
            "the bus has messages of version {}, which programs from version {} on can read; this one knows {SCHEMA_VERSION}: upgrade it",
            found.schema_version,
            found.oldest_reader
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

#[cfg(test)]
mod tests {
    use inflection_bus::EmbeddedConfig;

    use super::*;

    #[test]
    fn the_fill_of_every_stream_is_told() {
        let made: Vec<&str> = streams(0, 0, 1).streams.iter().map(|stream| stream.name).collect();
        assert_eq!(made, STREAMS);
    }

    /// A bus with an installation whose messages have a version, and are for readers from another one on.
    async fn bus(folder: &tempfile::TempDir, schema_version: u32, oldest_reader: u32) -> Bus {
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        let made = make(&InstallationSettings::default(), PartitionCount::new(4).unwrap()).unwrap();
        let record = Installation { schema_version, oldest_reader, ..made }.encode();
        bus.put_record(RECORD, Expected::Absent, record).await.unwrap();
        bus
    }

    async fn load_for(bus: &Bus, makes: bool) -> Result<Installation, String> {
        let partitions = makes.then(|| PartitionCount::new(4).unwrap());
        load(bus, &InstallationSettings::default(), partitions).await.map_err(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn the_next_version_may_work_beside_this_one_if_it_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let bus = bus(&folder, SCHEMA_VERSION + 1, SCHEMA_VERSION).await;
        let found = serve(&bus, &InstallationSettings::default()).await.unwrap();
        // Provisioning by an older program takes nothing back.
        assert_eq!(load_for(&bus, true).await, Ok(found));
        assert_eq!(read(&bus).await.unwrap().unwrap().0.schema_version, SCHEMA_VERSION + 1);
        bus.close().await;
    }

    #[tokio::test]
    async fn what_this_version_cannot_read_is_refused_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let bus = bus(&folder, SCHEMA_VERSION + 2, SCHEMA_VERSION + 1).await;
        for makes in [false, true] {
            let why = load_for(&bus, makes).await.unwrap_err();
            let expected = format!(
                "the bus has messages of version {}, which programs from version {} on can read; this one knows {SCHEMA_VERSION}: upgrade it",
                SCHEMA_VERSION + 2,
                SCHEMA_VERSION + 1
            );
            assert_eq!(why, expected);
        }
        bus.close().await;
    }

    #[tokio::test]
    async fn an_older_bus_is_taken_over_by_who_provisions_and_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let bus = bus(&folder, SCHEMA_VERSION - 1, SCHEMA_VERSION - 1).await;
        // Who only looks needs no upgrade.
        let before = load_for(&bus, false).await.unwrap();
        let why = serve(&bus, &InstallationSettings::default()).await.unwrap_err().to_string();
        assert!(why.contains("run its `inflection-source provision` first"), "{why}");
        let after = load_for(&bus, true).await.unwrap();
        let expected = Installation { schema_version: SCHEMA_VERSION, oldest_reader: OLDEST_READER, ..before.clone() };
        assert_eq!((&after, &after.id, &after.key), (&expected, &before.id, &before.key));
        assert_eq!(serve(&bus, &InstallationSettings::default()).await.unwrap(), after);
        bus.close().await;
    }
}
