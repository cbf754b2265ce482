//! From files to an index.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;

use super::committer::{Active, ROUND_BYTES_MAX};
use super::frame::{self, Frame, Next};
use super::index::{Index, Place};
use super::segment::Segment;
use super::{EmbeddedConfig, PAYLOAD_BYTES_MAX};
use crate::Log;
use crate::error::OpenError;

/// Most bytes of one write: a round, its last message, and what is moved along.
const TORN_BYTES_MAX: usize = ROUND_BYTES_MAX + 2 * PAYLOAD_BYTES_MAX;

/// What a store starts from.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) active: Active,
    /// Held for as long as the store is open.
    pub(super) lock: File,
}

/// Reads the journal of a directory, or starts one.
pub(super) fn recover(config: &EmbeddedConfig) -> Result<Recovered, OpenError> {
    let dir = &config.data_dir;
    let io = |source| OpenError::Io { path: dir.clone(), source };
    std::fs::create_dir_all(dir).map_err(io)?;
    let lock = lock(dir)?;
    let mut index = Index::default();
    let numbers = Segment::list(dir).map_err(io)?;
    let mut active = None;
    for number in &numbers {
        let segment = Segment::open(dir, *number).map_err(io)?;
        index.add_segment(segment.clone());
        let newest = numbers.last() == Some(number);
        let end = scan(&segment, newest, &mut index)?;
        index.seal(*number, end);
        active = Some(Active { segment, end });
    }
    let active = match active {
        Some(active) => active,
        None => {
            let segment = Segment::create(dir, 1, config.segment_bytes, &[]).map_err(io)?;
            index.add_segment(segment.clone());
            Active { segment, end: 0 }
        }
    };
    Ok(Recovered { index, active, lock })
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|source| OpenError::Io { path, source })?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse(dir.to_path_buf())),
        Err(errno) => Err(OpenError::Io { path: dir.to_path_buf(), source: errno.into() }),
    }
}

/// Applies the frames of one file and gives the offset where they end. Only the newest file can have been cut short by
/// a crash: an older one was synced before the next began, so a broken frame in it is damage.
fn scan(segment: &Segment, newest: bool, index: &mut Index) -> Result<u64, OpenError> {
    let path = || segment.path.as_path().to_path_buf();
    let bytes = segment.read_all().map_err(|source| OpenError::Io { path: path(), source })?;
    // A file begins with all records there are: what it does not name was deleted before.
    index.forget_records();
    let mut at = 0;
    loop {
        match frame::next(bytes.get(at..).unwrap_or_default()) {
            Next::Frame(frame, length) => {
                apply(&frame, segment, at, index)
                    .ok_or_else(|| OpenError::Damaged { path: path(), offset: at as u64 })?;
                at += length;
            }
            Next::End | Next::Broken if newest => {
                let torn = without_zeros(bytes.get(at..).unwrap_or_default()).len();
                if torn == 0 {
                    return Ok(at as u64);
                }
                // One write is all that a crash can cut short; what reaches further was whole once.
                if torn > TORN_BYTES_MAX {
                    return Err(OpenError::Damaged { path: path(), offset: at as u64 });
                }
                tracing::warn!(path = %segment.path.display(), offset = at, bytes = torn,
                    "the journal ends in a write that a crash cut short; it was never acknowledged and is dropped");
                segment.clear_from(at as u64).map_err(|source| OpenError::Io { path: path(), source })?;
                return Ok(at as u64);
            }
            Next::End => return Ok(at as u64),
            Next::Broken => return Err(OpenError::Damaged { path: path(), offset: at as u64 }),
        }
    }
}

/// What is left of a slice without the zeros at its end. Almost all of a fresh file is zeros, so they are compared by the
/// page.
fn without_zeros(mut bytes: &[u8]) -> &[u8] {
    const ZEROS: [u8; 4096] = [0; 4096];
    while let Some((rest, page)) = bytes.split_last_chunk()
        && *page == ZEROS
    {
        bytes = rest;
    }
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.get(..end).unwrap_or_default()
}

fn apply(frame: &Frame<'_>, segment: &Segment, at: usize, index: &mut Index) -> Option<()> {
    match *frame {
        Frame::Append { log, sequence, payload } => {
            let place = Place {
                offset: u32::try_from(at + frame::payload_offset(log)).ok()?,
                length: u32::try_from(payload.len()).ok()?,
            };
            index.insert(&Log::new(log).ok()?, sequence, segment.number, place);
        }
        Frame::Purge { log, through } => index.purge(&Log::new(log).ok()?, through),
        Frame::Position { log, purged, last } => index.set_position(&Log::new(log).ok()?, purged, last),
        Frame::Record { key, revision, value } => index.set_record(key, revision, Some(Bytes::copy_from_slice(value))),
        Frame::Delete { key, revision } => index.set_record(key, revision, None),
    }
    Some(())
}
