//! Where a partition's progress is kept.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inflection_bus::{Bus, Expected, RecordError};
use inflection_wire::{DecodeError, DeliveryProgress};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::window::Window;

/// Progress is written at most this often: a crash repeats what was finished since, under equal ids.
const WRITE_EVERY: Duration = Duration::from_millis(25);
/// Wait after a write that failed.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// The record of a partition's progress.
#[must_use]
pub fn progress_key(partition: u16) -> String {
    format!("progress.{partition}")
}

/// Why progress cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    /// The bus does not answer.
    #[error("the progress record cannot be read")]
    Record(#[from] RecordError),
    /// The record is none.
    #[error("the progress record is damaged")]
    Damaged(#[from] DecodeError),
}

/// Reads a partition's progress; a partition that has none is at its beginning.
///
/// # Errors
/// [`ProgressError`] when it cannot be read.
pub async fn load_progress(bus: &Bus, partition: u16) -> Result<DeliveryProgress, ProgressError> {
    match bus.get_record(&progress_key(partition)).await? {
        Some(record) => Ok(DeliveryProgress::decode(&record.value)?),
        None => Ok(DeliveryProgress::default()),
    }
}

/// What the tasks of one partition share.
#[derive(Debug)]
pub(crate) struct Tracked {
    window: Mutex<Window<OwnedSemaphorePermit>>,
    moved: Notify,
}

impl Tracked {
    pub(crate) fn new(progress: DeliveryProgress) -> Arc<Self> {
        Arc::new(Self { window: Mutex::new(Window::new(progress)), moved: Notify::new() })
    }

    /// Changes the window; `change` says whether the cursor moved.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Window<OwnedSemaphorePermit>) -> bool) {
        if change(&mut self.window.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.moved.notify_one();
        }
    }

    fn progress(&self) -> DeliveryProgress {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).progress()
    }

    /// Keeps the stored progress up with the window, until `finish`; then stores it a last time.
    pub(crate) async fn keep(self: Arc<Self>, bus: Bus, partition: u16, finish: CancellationToken) {
        let mut stored = self.progress();
        loop {
            let finishing = tokio::select! {
                biased;
                () = self.moved.notified() => finish.is_cancelled(),
                () = finish.cancelled() => true,
            };
            let progress = self.progress();
            if progress != stored {
                match bus.put_record(&progress_key(partition), Expected::Anything, progress.encode()).await {
                    Ok(_) => stored = progress,
                    Err(error) => {
                        tracing::warn!(partition, %error, "progress could not be stored yet");
                        self.moved.notify_one();
                        pause(RETRY_WAIT, &finish).await;
                    }
                }
            }
            if finishing {
                return;
            }
            pause(WRITE_EVERY, &finish).await;
        }
    }
}

async fn pause(time: Duration, finish: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = finish.cancelled() => {}
    }
}
