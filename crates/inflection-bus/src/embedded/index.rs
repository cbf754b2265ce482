//! Which message lies where, what records hold, and how much of each file is still needed.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use tokio::sync::watch;

use super::frame::{self, Frame};
use super::newest::Newest;
use super::segment::{Segment, SegmentNumber};
use crate::{Expected, Log, Record, RecordChange, RecordError, Sequence};

/// All records together, in bytes. They are repeated at the head of every file, so they must stay small.
pub(super) const RECORD_BYTES_MAX: usize = 20 * 1024 * 1024;
/// What of them is left free by records that may be many: without those nothing stands still.
pub(super) const RECORD_BYTES_SPARE: usize = 4 * 1024 * 1024;

/// Where a payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// Contiguous messages of one log in one file, from the sequence they are filed under.
#[derive(Debug)]
struct Run {
    segment: SegmentNumber,
    places: Vec<Place>,
}

#[derive(Debug)]
struct LogIndex {
    /// Sequence before the first message.
    purged: Sequence,
    last: Sequence,
    runs: BTreeMap<Sequence, Run>,
    watch: watch::Sender<Sequence>,
}

impl Default for LogIndex {
    fn default() -> Self {
        Self { purged: 0, last: 0, runs: BTreeMap::new(), watch: watch::Sender::new(0) }
    }
}

/// A file and how much of it is still needed.
#[derive(Debug)]
pub(super) struct Usage {
    pub(super) segment: Segment,
    /// Bytes written to it, once it is sealed.
    pub(super) bytes: u64,
    pub(super) live_bytes: u64,
}

/// Everything the store knows without reading its files.
#[derive(Debug, Default)]
pub(crate) struct Index {
    logs: HashMap<Log, LogIndex>,
    newest: Newest,
    records: BTreeMap<String, Record>,
    record_bytes: usize,
    last_revision: watch::Sender<u64>,
    pub(super) segments: BTreeMap<SegmentNumber, Usage>,
}

/// Where to get a message from.
#[derive(Debug)]
pub(super) enum Source {
    Memory(Bytes),
    Disk(Segment, Place),
}

impl Index {
    pub(super) fn add_segment(&mut self, segment: Segment) {
        self.segments.insert(segment.number, Usage { segment, bytes: 0, live_bytes: 0 });
    }

    /// Notes that a file is written to no more, and how much of it was used.
    pub(super) fn seal(&mut self, segment: SegmentNumber, bytes: u64) {
        if let Some(usage) = self.segments.get_mut(&segment) {
            usage.bytes = bytes;
        }
    }

    /// The sequence of the last message that is there: what fences compare with.
    pub(super) fn last(&self, log: &Log) -> Option<Sequence> {
        self.logs.get(log).filter(|index| index.last > index.purged).map(|index| index.last)
    }

    /// The last sequence a log ever had: new messages follow it, also when all older ones are purged.
    pub(super) fn position(&self, log: &Log) -> Sequence {
        self.logs.get(log).map_or(0, |index| index.last)
    }

    pub(super) fn watch(&mut self, log: &Log) -> watch::Receiver<Sequence> {
        self.logs.entry(log.clone()).or_default().watch.subscribe()
    }

    /// Files a message. Its sequence may be old: a copy in a younger file replaces the older copy.
    pub(super) fn insert(&mut self, log: &Log, sequence: Sequence, segment: SegmentNumber, place: Place) {
        let index = self.logs.entry(log.clone()).or_default();
        if sequence <= index.purged {
            return;
        }
        if sequence <= index.last
            && let Some((old, place)) = index.remove(sequence)
        {
            free(&mut self.segments, old, frame_bytes(log, place));
        }
        index.last = index.last.max(sequence);
        index.place(sequence, segment, place);
        if let Some(usage) = self.segments.get_mut(&segment) {
            usage.live_bytes += frame_bytes(log, place);
        }
    }

    /// Keeps a new message in memory for readers that keep up, and wakes them.
    pub(super) fn announce(&mut self, log: &Log, sequence: Sequence, payload: Bytes) {
        self.newest.push(log, sequence, payload);
        if let Some(index) = self.logs.get_mut(log) {
            index.watch.send_replace(index.last);
        }
    }

    /// Forgets messages up to a sequence.
    pub(super) fn purge(&mut self, log: &Log, through: Sequence) {
        let index = self.logs.entry(log.clone()).or_default();
        let through = through.min(index.last);
        while let Some(entry) = index.runs.first_entry().filter(|entry| *entry.key() <= through) {
            let base = *entry.key();
            let count = usize::try_from(through - base + 1).unwrap_or(usize::MAX);
            let segment = entry.get().segment;
            let kept = entry.get().places.get(count..).unwrap_or_default().to_vec();
            let gone: u64 = entry.get().places.iter().take(count).map(|place| frame_bytes(log, *place)).sum();
            free(&mut self.segments, segment, gone);
            entry.remove();
            if !kept.is_empty() {
                index.runs.insert(through + 1, Run { segment, places: kept });
            }
        }
        index.purged = index.purged.max(through);
        self.newest.purge(log, index.purged);
    }

    /// Takes over where a log stands from the head of a file.
    pub(super) fn set_position(&mut self, log: &Log, purged: Sequence, last: Sequence) {
        self.logs.entry(log.clone()).or_default().last = self.position(log).max(last);
        self.purge(log, purged);
    }

    /// Where the messages after `after` are, in order, within `bytes_max` (at least one if there is any).
    pub(super) fn locate(&self, log: &Log, after: Sequence, bytes_max: usize) -> Vec<(Sequence, Source)> {
        let Some(index) = self.logs.get(log) else { return Vec::new() };
        let (mut found, tail) = (Vec::new(), self.newest.tail(log));
        let (mut bytes, mut sequence) = (0, after.max(index.purged) + 1);
        while sequence <= index.last {
            let newest = tail.and_then(|tail| tail.get(sequence));
            let newest = newest.map(|payload| (Source::Memory(payload.clone()), payload.len()));
            let Some((source, length)) = newest.or_else(|| index.find(sequence, &self.segments)) else { break };
            bytes += length;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push((sequence, source));
            sequence += 1;
        }
        found
    }

    pub(super) fn record(&self, key: &str) -> Option<Record> {
        self.records.get(key).cloned()
    }

    /// Forgets all records; revisions go on.
    pub(super) fn forget_records(&mut self) {
        self.records.clear();
        self.record_bytes = 0;
    }

    /// The revision that the next write gets.
    pub(super) fn next_revision(&self) -> u64 {
        *self.last_revision.borrow() + 1
    }

    /// Whether a write that adds `bytes` (0 for a deletion) and leaves `spare` may happen, that expects `expected` and finds the
    /// revision `found`.
    pub(super) fn check_record(
        &self,
        spare: usize,
        found: Option<u64>,
        expected: Expected,
        bytes: usize,
    ) -> Result<(), RecordError> {
        let bytes_max = RECORD_BYTES_MAX - spare;
        let holds = match expected {
            Expected::Anything => true,
            Expected::Absent => found.is_none(),
            Expected::Revision(revision) => found == Some(revision),
        };
        if !holds {
            Err(RecordError::Conflict)
        } else if bytes > 0 && self.record_bytes + bytes > bytes_max {
            Err(RecordError::Full(format!("all records together may be {bytes_max} bytes")))
        } else {
            Ok(())
        }
    }

    pub(super) fn set_record(&mut self, key: &str, revision: u64, value: Option<Bytes>) {
        let size = |key: &str, value: &Bytes| key.len() + value.len();
        if let Some(old) = self.records.remove(key) {
            self.record_bytes -= size(key, &old.value);
        }
        if let Some(value) = value {
            self.record_bytes += size(key, &value);
            self.records.insert(key.to_owned(), Record { value, revision });
        }
        self.last_revision.send_modify(|last| *last = (*last).max(revision));
    }

    /// Tells of every write of a record.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.last_revision.subscribe()
    }

    /// The records under a prefix that were written after a revision.
    pub(super) fn records_after(&self, prefix: &str, revision: u64) -> Vec<RecordChange> {
        let under = self.records.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let after = under.filter(|(_, record)| record.revision > revision);
        let change = |(key, record): (&String, &Record)| RecordChange {
            key: key.clone(),
            value: record.value.clone(),
            revision: record.revision,
        };
        after.map(change).collect()
    }

    /// The logs of a stream that hold messages.
    pub(super) fn logs(&self, stream: &str) -> Vec<Log> {
        let held = self.logs.iter().filter(|(log, index)| log.stream() == stream && index.last > index.purged);
        held.map(|(log, _)| log.clone()).collect()
    }

    /// What a new file must begin with so that every older file may go.
    pub(super) fn head(&self, out: &mut Vec<u8>) {
        for (log, index) in &self.logs {
            Frame::Position { log: log.as_str(), purged: index.purged, last: index.last }.encode(out);
        }
        for (key, record) in &self.records {
            Frame::Record { key, revision: record.revision, value: &record.value }.encode(out);
        }
        // The highest revision may belong to a record that is gone; revisions must not be given twice.
        Frame::Delete { key: "", revision: *self.last_revision.borrow() }.encode(out);
    }

    /// The messages that lie in a file and are still needed.
    pub(super) fn live_in(&self, segment: SegmentNumber) -> Vec<(Log, Sequence, Place)> {
        let runs = self.logs.iter().flat_map(|(log, index)| index.runs.iter().map(move |(base, run)| (log, base, run)));
        runs.filter(|(_, _, run)| run.segment == segment)
            .flat_map(|(log, base, run)| {
                run.places.iter().zip(*base..).map(move |(place, sequence)| (log.clone(), sequence, *place))
            })
            .collect()
    }
}

impl LogIndex {
    fn run_of(&self, sequence: Sequence) -> Option<(Sequence, usize)> {
        let (base, run) = self.runs.range(..=sequence).next_back()?;
        let at = usize::try_from(sequence - base).ok().filter(|at| *at < run.places.len())?;
        Some((*base, at))
    }

    fn find(&self, sequence: Sequence, segments: &BTreeMap<SegmentNumber, Usage>) -> Option<(Source, usize)> {
        let (base, at) = self.run_of(sequence)?;
        let run = self.runs.get(&base)?;
        let place = *run.places.get(at)?;
        let segment = segments.get(&run.segment)?.segment.clone();
        Some((Source::Disk(segment, place), place.length as usize))
    }

    fn place(&mut self, sequence: Sequence, segment: SegmentNumber, place: Place) {
        if let Some((base, run)) = self.runs.range_mut(..=sequence).next_back() {
            let next = base + run.places.len() as u64;
            if run.segment == segment && next == sequence {
                run.places.push(place);
                return;
            }
        }
        self.runs.insert(sequence, Run { segment, places: vec![place] });
    }

    /// Takes one message out of its run; what follows it in the run becomes a run of its own.
    fn remove(&mut self, sequence: Sequence) -> Option<(SegmentNumber, Place)> {
        let (base, at) = self.run_of(sequence)?;
        let run = self.runs.get_mut(&base)?;
        let segment = run.segment;
        let after = run.places.split_off(at + 1);
        let place = run.places.pop()?;
        if run.places.is_empty() {
            self.runs.remove(&base);
        }
        if !after.is_empty() {
            self.runs.insert(sequence + 1, Run { segment, places: after });
        }
        Some((segment, place))
    }
}

/// Bytes that a message takes in its file.
fn frame_bytes(log: &Log, place: Place) -> u64 {
    frame::payload_offset(log.as_str()) as u64 + u64::from(place.length)
}

fn free(segments: &mut BTreeMap<SegmentNumber, Usage>, segment: SegmentNumber, bytes: u64) {
    if let Some(usage) = segments.get_mut(&segment) {
        usage.live_bytes = usage.live_bytes.saturating_sub(bytes);
    }
}
