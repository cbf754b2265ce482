//! The one place that waits.

use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(10);

/// Long enough for a process to start or for a few events to pass through an idle install, on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Long enough for a backlog of some ten thousand events after the last fault has ended.
pub const DRAINED: Duration = Duration::from_secs(120);

/// Looks at a condition until it holds; returns what it found.
///
/// Panics with `what` and the last complaint when it does not hold within `limit`.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    match within(limit, &mut look) {
        Ok(found) => found,
        Err(complaint) => panic!("{what}: not within {limit:?}; last look: {complaint}"),
    }
}

/// Looks at a condition until it holds or `limit` is over.
///
/// # Errors
///
/// The complaint of the last look.
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(complaint) if Instant::now() >= deadline => return Err(complaint),
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// Waits for a moment of a schedule. For pacing, never for a guess at how long something takes.
pub fn await_moment(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// `Ok` if `condition`, else the complaint: the usual last line of a look.
///
/// # Errors
///
/// The complaint, when the condition does not hold.
pub fn holds(condition: bool, complaint: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(complaint()) }
}
