//! The one thread that writes: it collects what waits, writes it, syncs once, and answers everybody.
//!
//! While a sync is under way, requests pile up; the next round takes them all. No timer and no tuning: idle, a round is
//! one append; busy, rounds grow until the disk keeps up.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::frame::{self, Frame};
use super::index::{Place, RECORD_BYTES_SPARE, Usage};
use super::pieces::Pieces;
use super::segment::Segment;
use super::{EmbeddedConfig, Shared, reader};
use crate::{AppendError, Expected, Log, RecordError, Sequence};

/// Bytes written between two syncs at most, so that a round does not outgrow a file or a caller's patience.
pub(super) const ROUND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Room at the end of a file that only purges and records may use: on a full disk they still work, and make room.
const RESERVE_BYTES: u64 = 1024 * 1024;
/// A file whose live part falls below this share (in percent) is rewritten and deleted.
const LIVE_PERCENT_MIN: u64 = 50;
/// Live bytes moved out of a file between two rounds, so that appends wait little for it.
const MOVE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What is asked of the committer.
#[derive(Debug)]
pub(super) enum Request {
    Append { log: Log, fence: Option<Sequence>, payload: Bytes, reply: oneshot::Sender<Result<Sequence, AppendError>> },
    Purge { log: Log, through: Sequence, reply: oneshot::Sender<Result<(), AppendError>> },
    Record { key: String, expected: Expected, value: Option<Bytes>, reply: oneshot::Sender<Result<u64, RecordError>> },
    Close { reply: oneshot::Sender<()> },
}

/// The file that is written to, and where.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) segment: Segment,
    pub(super) end: u64,
}

/// A request that was taken into the round, to be applied and answered after the sync.
#[derive(Debug)]
enum Taken {
    Append {
        log: Log,
        sequence: Sequence,
        at: usize,
        payload: Bytes,
        reply: oneshot::Sender<Result<Sequence, AppendError>>,
    },
    Purge {
        log: Log,
        through: Sequence,
        reply: oneshot::Sender<Result<(), AppendError>>,
    },
    Record {
        key: String,
        revision: u64,
        value: Option<Bytes>,
        reply: oneshot::Sender<Result<u64, RecordError>>,
    },
}

/// One round: the bytes to be written and who waits for them.
#[derive(Debug, Default)]
struct Round {
    bytes: Pieces,
    taken: Vec<Taken>,
    /// Where logs stand including this round: the last sequence ever given, and that of the last message there is.
    standings: HashMap<Log, (Sequence, Sequence)>,
    /// Revisions including what this round writes; `None` is a deleted record.
    revisions: HashMap<String, Option<u64>>,
    /// Records written in this round.
    records: u64,
    close: Option<oneshot::Sender<()>>,
}

/// Makes it known when the committer ends by a panic: then nothing is written any more.
struct Guard(Option<Arc<Shared>>);

impl Guard {
    /// A closed store is no failed one.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.fail("the committer has panicked".to_owned());
        }
    }
}

/// Why a round could not be written.
#[derive(Debug)]
enum WriteFailure {
    /// No room; nothing has changed.
    Full(String),
    /// The disk has failed; what it holds is unknown, so nothing more is written.
    Failed(String),
}

#[derive(Debug)]
pub(super) struct Committer {
    config: EmbeddedConfig,
    active: Active,
    _lock: File,
    shared: Arc<Shared>,
    waiting: mpsc::Receiver<Request>,
    /// The buffer of the last round, for the next.
    spare: Pieces,
}

impl Committer {
    pub(super) fn new(
        config: EmbeddedConfig,
        active: Active,
        lock: File,
        shared: Arc<Shared>,
        waiting: mpsc::Receiver<Request>,
    ) -> Self {
        Self { config, active, _lock: lock, shared, waiting, spare: Pieces::default() }
    }

    /// Runs until the store is closed or all handles to it are gone.
    pub(super) fn run(mut self) {
        let guard = Guard(Some(Arc::clone(&self.shared)));
        self.serve();
        guard.disarm();
        self.shared.closed.send_replace(true);
    }

    fn serve(&mut self) {
        self.shared.used_bytes.store(self.used_bytes(), Ordering::Relaxed);
        while let Some(first) = self.waiting.blocking_recv() {
            let mut round = Round { bytes: std::mem::take(&mut self.spare), ..Round::default() };
            self.take(first, &mut round);
            while round.bytes.len() < ROUND_BYTES_MAX && round.close.is_none() {
                let Ok(next) = self.waiting.try_recv() else { break };
                self.take(next, &mut round);
            }
            let close = round.close.take();
            self.commit(round);
            if let Some(reply) = close {
                self.waiting.close();
                let _caller_left = reply.send(());
                return;
            }
            if self.shared.failure().is_none() {
                self.reclaim();
            }
            self.shared.used_bytes.store(self.used_bytes(), Ordering::Relaxed);
        }
    }

    /// Decides one request against the state including what the round already holds; refusals are answered at once.
    fn take(&self, request: Request, round: &mut Round) {
        match request {
            Request::Close { reply } => round.close = Some(reply),
            Request::Append { log, fence, payload, reply } => self.take_append(log, fence, payload, reply, round),
            Request::Purge { log, through, reply } => {
                let (position, last) = round.standing(&self.shared, &log);
                let last = if through >= position { 0 } else { last };
                round.standings.insert(log.clone(), (position, last));
                round.purge(log, through, reply);
            }
            Request::Record { key, expected, value, reply } => self.take_record(key, expected, value, reply, round),
        }
    }

    fn take_append(
        &self,
        log: Log,
        fence: Option<Sequence>,
        payload: Bytes,
        reply: oneshot::Sender<Result<Sequence, AppendError>>,
        round: &mut Round,
    ) {
        let (position, last) = round.standing(&self.shared, &log);
        let refusal = if let Some(expected) = fence.filter(|expected| *expected != last) {
            AppendError::Fenced { expected }
        } else if self.used_bytes() + round.bytes.len() as u64 + payload.len() as u64 > self.config.disk_bytes_max {
            AppendError::Full(format!("the journal may be {} bytes", self.config.disk_bytes_max))
        } else {
            let (sequence, at) = (position + 1, round.bytes.len());
            round.bytes.append(log.as_str(), sequence, payload.clone());
            round.standings.insert(log.clone(), (sequence, sequence));
            round.taken.push(Taken::Append { log, sequence, at, payload, reply });
            return;
        };
        let _caller_left = reply.send(Err(refusal));
    }

    fn take_record(
        &self,
        key: String,
        expected: Expected,
        value: Option<Bytes>,
        reply: oneshot::Sender<Result<u64, RecordError>>,
        round: &mut Round,
    ) {
        let index = self.shared.index();
        let found = match round.revisions.get(&key) {
            Some(revision) => *revision,
            None => index.record(&key).map(|record| record.revision),
        };
        let old = index.record(&key).map_or(0, |record| key.len() + record.value.len());
        let bytes = value.as_ref().map_or(0, |value| (key.len() + value.len()).saturating_sub(old));
        let revision = index.next_revision() + round.records;
        let many = key.split_once('.').is_some_and(|(first, _)| first == self.config.many_records);
        let spare = if many { RECORD_BYTES_SPARE } else { 0 };
        match index.check_record(spare, found, expected, bytes) {
            Err(error) => {
                let _caller_left = reply.send(Err(error));
            }
            Ok(()) => round.record(key, revision, value, reply),
        }
    }

    fn used_bytes(&self) -> u64 {
        let index = self.shared.index();
        let sealed = index.segments.values().filter(|usage| usage.segment.number != self.active.segment.number);
        sealed.map(|usage| usage.bytes).sum::<u64>() + self.active.end
    }

    /// Writes a round, syncs, applies it and answers. When there is no room, what makes room or is small (purges and
    /// records) is tried again without the appends.
    fn commit(&mut self, mut round: Round) {
        if round.taken.is_empty() {
            self.spare = round.bytes;
            return;
        }
        let appends = round.taken.iter().any(|taken| matches!(taken, Taken::Append { .. }));
        let written = self.write(&round.bytes, if appends { RESERVE_BYTES } else { 0 });
        round.bytes.clear();
        self.spare = round.bytes;
        match written {
            Ok(start) => self.apply(round.taken, start),
            Err(WriteFailure::Full(why)) => {
                let mut rest = Round { bytes: std::mem::take(&mut self.spare), ..Round::default() };
                let appends = round.taken.len();
                for taken in round.taken {
                    match taken {
                        Taken::Append { reply, .. } => {
                            let _caller_left = reply.send(Err(AppendError::Full(why.clone())));
                        }
                        Taken::Purge { log, through, reply } => rest.purge(log, through, reply),
                        Taken::Record { key, revision, value, reply } => rest.record(key, revision, value, reply),
                    }
                }
                if rest.taken.len() < appends {
                    self.commit(rest);
                } else {
                    refuse(rest.taken, &WriteFailure::Full(why));
                }
            }
            Err(failure) => {
                if let WriteFailure::Failed(why) = &failure {
                    self.shared.fail(why.clone());
                }
                refuse(round.taken, &failure);
            }
        }
    }

    /// Puts bytes into the active file, or a new one, and syncs. `reserve` bytes of the file stay free. Gives the offset
    /// where they begin.
    fn write(&mut self, bytes: &Pieces, reserve: u64) -> Result<u64, WriteFailure> {
        if let Some(why) = self.shared.failure() {
            return Err(WriteFailure::Failed(why));
        }
        let room = self.active.segment.bytes.saturating_sub(self.active.end);
        if bytes.len() as u64 + reserve.min(self.active.segment.bytes / 8) > room {
            self.roll(bytes.len() as u64)?;
        }
        let start = self.active.end;
        if let Err(error) = self.active.segment.write_slices_at(start, &mut bytes.slices()) {
            // What was refused must not be found by the next start.
            self.active.segment.cut_from(start).map_err(|worse| {
                WriteFailure::Failed(format!("{error}; and what was half written cannot be removed: {worse}"))
            })?;
            return Err(failure(&error));
        }
        // After a failed sync nobody knows what is on disk, and trying again would only pretend to know.
        self.active.segment.sync().map_err(|error| WriteFailure::Failed(format!("sync: {error}")))?;
        self.active.end = start + bytes.len() as u64;
        Ok(start)
    }

    /// Seals the active file and begins the next one with everything that lets older files go.
    fn roll(&mut self, bytes: u64) -> Result<(), WriteFailure> {
        let mut head = Vec::new();
        self.shared.index().head(&mut head);
        let needed = head.len() as u64 + bytes;
        let number = self.active.segment.number + 1;
        let dir = &self.config.data_dir;
        // A nearly full disk may have room for a small file, and so for the purges that make room.
        let segment = Segment::create(dir, number, self.config.segment_bytes.max(needed), &head)
            .or_else(|_no_room| Segment::create(dir, number, needed, &head))
            .map_err(|error| failure(&error))?;
        if let Err(error) = self.active.segment.truncate(self.active.end) {
            tracing::warn!(%error, "a sealed journal file keeps its spare room");
        }
        let mut index = self.shared.index_mut();
        index.seal(self.active.segment.number, self.active.end);
        index.add_segment(segment.clone());
        self.active = Active { segment, end: head.len() as u64 };
        Ok(())
    }

    fn apply(&self, taken: Vec<Taken>, start: u64) {
        let mut index = self.shared.index_mut();
        let mut answers: Vec<Box<dyn FnOnce()>> = Vec::with_capacity(taken.len());
        for taken in taken {
            match taken {
                Taken::Append { log, sequence, at, payload, reply } => {
                    let place = place(start, at, &log, payload.len());
                    index.insert(&log, sequence, self.active.segment.number, place);
                    index.announce(&log, sequence, payload);
                    answers.push(Box::new(move || drop(reply.send(Ok(sequence)))));
                }
                Taken::Purge { log, through, reply } => {
                    index.purge(&log, through);
                    answers.push(Box::new(move || drop(reply.send(Ok(())))));
                }
                Taken::Record { key, revision, value, reply } => {
                    index.set_record(&key, revision, value);
                    answers.push(Box::new(move || drop(reply.send(Ok(revision)))));
                }
            }
        }
        // Answered without the lock: whoever wakes may look at once.
        drop(index);
        answers.into_iter().for_each(|answer| answer());
    }

    /// Makes room: deletes files nobody needs, and moves a little out of one that is mostly not needed.
    fn reclaim(&mut self) {
        let active = self.active.segment.number;
        let victim = {
            let index = self.shared.index();
            let sparse = |usage: &&Usage| {
                usage.segment.number != active && usage.live_bytes * 100 < usage.bytes * LIVE_PERCENT_MIN
            };
            // Files nobody needs go first: they need no room to go.
            let emptiest = index.segments.values().filter(sparse).min_by_key(|usage| usage.live_bytes);
            emptiest.map(|usage| (usage.segment.clone(), index.live_in(usage.segment.number)))
        };
        let Some((segment, live)) = victim else { return };
        if live.is_empty() {
            self.shared.index_mut().segments.remove(&segment.number);
            if let Err(error) = segment.delete(&self.config.data_dir) {
                tracing::warn!(%error, path = %segment.path.display(), "an empty journal file could not be deleted");
            }
        } else if let Err(error) = self.move_out(&segment, live) {
            tracing::warn!(?error, path = %segment.path.display(), "a sparse journal file could not be rewritten");
        }
    }

    fn move_out(&mut self, segment: &Segment, live: Vec<(Log, Sequence, Place)>) -> Result<(), WriteFailure> {
        let (mut bytes, mut moved) = (Pieces::default(), Vec::new());
        for (log, sequence, old) in live {
            if bytes.len() > MOVE_BYTES_MAX.min(usize::try_from(self.config.segment_bytes / 2).unwrap_or(usize::MAX)) {
                break;
            }
            let payload = reader::read_payload(segment, &log, sequence, old)
                .map_err(|error| WriteFailure::Full(error.to_string()))?;
            moved.push((log.clone(), sequence, bytes.len(), payload.len()));
            bytes.append(log.as_str(), sequence, payload);
        }
        let start = self.write(&bytes, RESERVE_BYTES)?;
        let mut index = self.shared.index_mut();
        for (log, sequence, at, length) in moved {
            index.insert(&log, sequence, self.active.segment.number, place(start, at, &log, length));
        }
        Ok(())
    }
}

impl Round {
    /// Where a log stands. One look under one lock: a second read lock in the same thread would wait behind a writer that
    /// waits behind the first.
    fn standing(&self, shared: &Shared, log: &Log) -> (Sequence, Sequence) {
        self.standings.get(log).copied().unwrap_or_else(|| {
            let index = shared.index();
            (index.position(log), index.last(log).unwrap_or(0))
        })
    }

    fn purge(&mut self, log: Log, through: Sequence, reply: oneshot::Sender<Result<(), AppendError>>) {
        Frame::Purge { log: log.as_str(), through }.encode(self.bytes.small());
        self.taken.push(Taken::Purge { log, through, reply });
    }

    fn record(
        &mut self,
        key: String,
        revision: u64,
        value: Option<Bytes>,
        reply: oneshot::Sender<Result<u64, RecordError>>,
    ) {
        match &value {
            Some(value) => Frame::Record { key: &key, revision, value }.encode(self.bytes.small()),
            None => Frame::Delete { key: &key, revision }.encode(self.bytes.small()),
        }
        self.records += 1;
        self.revisions.insert(key.clone(), value.is_some().then_some(revision));
        self.taken.push(Taken::Record { key, revision, value, reply });
    }
}

fn refuse(taken: Vec<Taken>, failure: &WriteFailure) {
    let (append, record) = match failure {
        WriteFailure::Full(why) => (AppendError::Full as fn(String) -> _, (RecordError::Full as fn(String) -> _, why)),
        WriteFailure::Failed(why) => {
            (AppendError::Unavailable as fn(String) -> _, (RecordError::Unavailable as _, why))
        }
    };
    let (record, why) = record;
    for taken in taken {
        match taken {
            Taken::Append { reply, .. } => drop(reply.send(Err(append(why.clone())))),
            Taken::Purge { reply, .. } => drop(reply.send(Err(append(why.clone())))),
            Taken::Record { reply, .. } => drop(reply.send(Err(record(why.clone())))),
        }
    }
}

fn place(start: u64, at: usize, log: &Log, length: usize) -> Place {
    let offset = start + (at + frame::payload_offset(log.as_str())) as u64;
    // Files are at most 64 MiB and one round: far below 4 GiB.
    Place { offset: u32::try_from(offset).unwrap_or(u32::MAX), length: u32::try_from(length).unwrap_or(u32::MAX) }
}

fn failure(error: &io::Error) -> WriteFailure {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let full = matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge);
    if full { WriteFailure::Full(error.to_string()) } else { WriteFailure::Failed(error.to_string()) }
}
