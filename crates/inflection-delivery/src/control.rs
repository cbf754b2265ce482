//! What all workers of a fleet know: closed windows of connections, what operators want of them, and who is suppressed.
//! Keyed records, watched.

use std::collections::BTreeMap;

use inflection_bus::{Bus, Expected, ReadError, RecordChange, RecordError, Watch};
use inflection_domain::{ConnectionId, WorkspaceId};
use inflection_wire::{ClosedWindow, DecodeError, OperatorHold, SuppressedPersons};

use crate::books::ConnectionKey;
use crate::connection::Command;
use crate::dead_letters::now;
use crate::service::DeliveryError;
use crate::suppression::Announcer;

/// Prefixes of the records.
const CLOSED: &str = "closed";
const PAUSE: &str = "pause";
/// Tries to write an operator's wish while others write too.
const TRIES: usize = 10;

/// The record of a connection's closed window.
pub(crate) fn closed_key((workspace, connection): &ConnectionKey) -> String {
    format!("{CLOSED}.{workspace}.{connection}")
}

fn pause_key((workspace, connection): &ConnectionKey) -> String {
    format!("{PAUSE}.{workspace}.{connection}")
}

/// Why an operator's wish could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The bus does not take it.
    #[error("it cannot be stored")]
    Record(#[from] RecordError),
    /// The record is none.
    #[error("the record is damaged")]
    Damaged(#[from] DecodeError),
}

/// Stores what an operator wants of a connection; every worker is told within moments.
pub(crate) async fn hold(bus: &Bus, connection: &ConnectionKey, paused: bool) -> Result<(), HoldError> {
    let key = pause_key(connection);
    for _ in 0..TRIES {
        let found = bus.get_record(&key).await?;
        let (before, expected) = match &found {
            Some(record) => (OperatorHold::decode(&record.value)?, Expected::Revision(record.revision)),
            None => (OperatorHold::default(), Expected::Absent),
        };
        let resumes = before.resumes + u64::from(!paused);
        match bus.put_record(&key, expected, OperatorHold { paused, resumes, at: now() }.encode()).await {
            Err(RecordError::Conflict) => {}
            outcome => return Ok(outcome.map(drop)?),
        }
    }
    Err(RecordError::Conflict.into())
}

/// Follows what is known of all connections.
#[derive(Debug)]
pub(crate) struct Control {
    closed: Watch,
    pause: Watch,
    suppressed: Watch,
    announcer: Announcer,
    /// The newest of each, for connections that come later.
    known: BTreeMap<ConnectionKey, Known>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Known {
    hold: Option<OperatorHold>,
    closed: Option<ClosedWindow>,
}

impl Control {
    /// Begins with what there is.
    pub(crate) async fn start(bus: &Bus, announcer: Announcer) -> Result<Self, DeliveryError> {
        let (closed, pause, suppressed) = (bus.watch(CLOSED), bus.watch(PAUSE), bus.watch(SuppressedPersons::RECORDS));
        let mut control = Self { closed, pause, suppressed, announcer, known: BTreeMap::new() };
        let (closed, pause) = (control.closed.next().await?, control.pause.next().await?);
        let suppressed = control.suppressed.next().await?;
        // Without it nobody would know whose calls must not be sent.
        control.announce(suppressed).map_err(DeliveryError::Suppressed)?;
        control.note(closed, pause);
        Ok(control)
    }

    /// What a connection that begins now must be told.
    pub(crate) fn of(&self, key: &ConnectionKey) -> Vec<Command> {
        let Known { hold, closed } = self.known.get(key).copied().unwrap_or_default();
        let hold = hold.map(Command::Hold);
        hold.into_iter().chain(closed.map(|closed| Command::Closed(closed.until))).collect()
    }

    /// Waits for changes, and gives whom to tell what.
    pub(crate) async fn next(&mut self) -> Result<Vec<(ConnectionKey, Command)>, ReadError> {
        let (closed, pause) = tokio::select! {
            closed = self.closed.next() => (closed?, Vec::new()),
            pause = self.pause.next() => (Vec::new(), pause?),
            suppressed = self.suppressed.next() => {
                if let Err(error) = self.announce(suppressed?) {
                    tracing::error!(%error, "the record of suppressed persons is damaged; the one before it holds");
                }
                (Vec::new(), Vec::new())
            }
        };
        Ok(self.note(closed, pause))
    }

    fn announce(&self, suppressed: Vec<RecordChange>) -> Result<(), DecodeError> {
        for change in suppressed.into_iter().filter(|change| change.key == SuppressedPersons::RECORD) {
            self.announcer.announce(SuppressedPersons::decode(&change.value)?, change.revision);
        }
        Ok(())
    }

    fn note(&mut self, closed: Vec<RecordChange>, pause: Vec<RecordChange>) -> Vec<(ConnectionKey, Command)> {
        let mut told = Vec::new();
        for change in closed {
            let window = ClosedWindow::decode(&change.value);
            if let (Some(key), Ok(window)) = (connection(&change.key), window) {
                self.known.entry(key.clone()).or_default().closed = Some(window);
                told.push((key, Command::Closed(window.until)));
            }
        }
        for change in pause {
            let hold = OperatorHold::decode(&change.value);
            if let (Some(key), Ok(hold)) = (connection(&change.key), hold) {
                self.known.entry(key.clone()).or_default().hold = Some(hold);
                told.push((key, Command::Hold(hold)));
            }
        }
        told
    }
}

/// The connection a record is about.
fn connection(key: &str) -> Option<ConnectionKey> {
    let (_, rest) = key.split_once('.')?;
    let (workspace, connection) = rest.split_once('.')?;
    Some((WorkspaceId::new(workspace).ok()?, ConnectionId::new(connection).ok()?))
}
