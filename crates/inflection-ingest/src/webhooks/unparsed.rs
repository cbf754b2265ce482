//! What of a genuine request cannot become facts, kept for a person to look at in the log `unparsed.<workspace>.<provider>`.
//!
//! Nothing reads it and nothing depends on it: the newest is kept and the oldest leaves, and what cannot be kept is counted.

use bytes::Bytes;
use inflection_bus::{AppendError, Bus, Log};
use inflection_control::Provider;
use inflection_domain::WorkspaceId;
use tokio::time::{Instant, timeout_at};

/// Bytes of one message; what is longer is kept in several.
const PIECE_BYTES: usize = 512 * 1024;
/// Most messages of a log: at most 256 MiB, what the whole stream has on NATS. There sequences count the stream's messages,
/// so that a log keeps what it has among the newest so many of the stream.
const MESSAGES_MAX: u64 = 512;

/// Keeps a text, in pieces that fit into messages; as many of them as are stored by then.
pub(crate) async fn keep(
    bus: &Bus,
    workspace: &WorkspaceId,
    provider: Provider,
    text: &Bytes,
    by: Instant,
) -> Result<(), AppendError> {
    let late = |_elapsed| Err(AppendError::Unavailable("it is not stored in time".to_owned()));
    timeout_at(by, keep_all(bus, workspace, provider, text)).await.unwrap_or_else(late)
}

async fn keep_all(bus: &Bus, workspace: &WorkspaceId, provider: Provider, text: &Bytes) -> Result<(), AppendError> {
    let name = format!("unparsed.{workspace}.{provider}");
    let log = Log::new(&name).map_err(|invalid| AppendError::Full(invalid.to_string()))?;
    for start in (0..text.len()).step_by(PIECE_BYTES) {
        let piece = text.slice(start..text.len().min(start + PIECE_BYTES));
        let sequence = bus.append(&log, None, piece).await?;
        let through = sequence.saturating_sub(MESSAGES_MAX);
        if through > 0
            && let Err(error) = bus.purge(&log, through).await
        {
            // The next one tries again.
            tracing::debug!(%error, %log, "old unreadable requests are not deleted now");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use inflection_bus::EmbeddedConfig;

    use super::*;

    /// When a text must be kept here, at the latest.
    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[tokio::test]
    async fn what_is_not_stored_in_time_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(dir.path().to_owned())).await.unwrap();
        let workspace = WorkspaceId::new("acme").unwrap();
        // Every piece waits for the disk: at the first it is too late already.
        let long = Bytes::from(vec![b'x'; 8 * PIECE_BYTES]);
        let late = keep(&bus, &workspace, Provider::Ses, &long, Instant::now()).await;
        assert!(matches!(late, Err(AppendError::Unavailable(_))), "{late:?}");
        bus.close().await;
    }

    #[tokio::test]
    async fn the_newest_is_kept_in_pieces_and_the_oldest_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(dir.path().to_owned())).await.unwrap();
        let (workspace, log) = (WorkspaceId::new("acme").unwrap(), Log::new("unparsed.acme.ses").unwrap());
        let long = Bytes::from(vec![b'x'; PIECE_BYTES + 1]);
        keep(&bus, &workspace, Provider::Ses, &long, soon()).await.unwrap();
        assert_eq!(bus.last(&log).await.unwrap().map(|last| (last.sequence, last.payload.len())), Some((2, 1)));
        for number in 0..MESSAGES_MAX {
            keep(&bus, &workspace, Provider::Ses, &Bytes::from(number.to_string()), soon()).await.unwrap();
        }
        let mut reader = bus.read(&log, 0);
        assert_eq!(reader.next(1).await.unwrap()[0].sequence, 3);
        assert_eq!(bus.last(&log).await.unwrap().map(|last| last.sequence), Some(2 + MESSAGES_MAX));
        bus.close().await;
    }
}
