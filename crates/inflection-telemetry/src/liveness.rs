//! Whether a process is alive: its runtime still runs tasks, and no loop has been at one piece of work for too long.
//!
//! Waiting is not work. A loop that waits for the bus, for Segment or for something to do is well, however long it takes: an
//! outage must never have pods restarted. Only what a loop does by itself is watched.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long the runtime may run no task: it is asked for a sign of life every second.
pub const RUNTIME_SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long a loop may be at one piece of work: a message or a step of at most a megabyte, which take milliseconds.
pub const WORK_MAX: Duration = Duration::from_secs(60);
/// How often the runtime gives a sign of life.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);

/// The runtime and the loops of a process. Clones share them.
#[derive(Debug, Clone)]
pub struct Liveness(Arc<Signs>);

#[derive(Debug)]
struct Signs {
    started: Instant,
    /// When the runtime last ran a task, in milliseconds since the start.
    beat: AtomicU64,
    loops: Mutex<Vec<Weak<Loop>>>,
}

#[derive(Debug)]
struct Loop {
    name: &'static str,
    /// When the work in hand began, in milliseconds since the start, plus one; 0 while it waits.
    since: AtomicU64,
}

/// A loop's own hand on its sign of life. A loop that has ended is not watched any more.
#[derive(Debug, Clone)]
pub struct Pulse {
    started: Instant,
    this: Arc<Loop>,
}

/// A piece of work, until it is dropped.
#[derive(Debug)]
pub struct Work<'p>(&'p Pulse);

/// Why a process is taken for dead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// The runtime runs no tasks.
    #[error("the runtime has run no task for {} s", .0.as_secs())]
    Runtime(Duration),
    /// A loop does not come to an end with one piece of work.
    #[error("{name} has been at one piece of work for {} s", .working.as_secs())]
    Loop {
        /// Its name.
        name: &'static str,
        /// For how long.
        working: Duration,
    },
}

impl Default for Liveness {
    fn default() -> Self {
        Self(Arc::new(Signs { started: Instant::now(), beat: AtomicU64::new(0), loops: Mutex::default() }))
    }
}

impl Liveness {
    /// Notes that the runtime runs tasks.
    pub fn beat(&self) {
        self.0.beat.store(ms(self.0.started.elapsed()), Ordering::Relaxed);
    }

    /// A loop that is watched from now on.
    #[must_use]
    pub fn watch(&self, name: &'static str) -> Pulse {
        let this = Arc::new(Loop { name, since: AtomicU64::new(0) });
        let mut loops = self.0.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.retain(|other| other.strong_count() > 0);
        loops.push(Arc::downgrade(&this));
        Pulse { started: self.0.started, this }
    }

    /// Whether the process is alive.
    ///
    /// # Errors
    /// [`Stuck`] when it should be started anew.
    pub fn check(&self) -> Result<(), Stuck> {
        let now = self.0.started.elapsed();
        let beat = Duration::from_millis(self.0.beat.load(Ordering::Relaxed));
        let loops = self.0.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let work = loops.iter().filter_map(Weak::upgrade).filter_map(|one| {
            let since = one.since.load(Ordering::Relaxed).checked_sub(1)?;
            Some((one.name, Duration::from_millis(since)))
        });
        judge(now, beat, work)
    }
}

impl Pulse {
    /// Begins a piece of work, which must come to an end by itself: nothing outside of this process is waited for in it.
    #[must_use]
    pub fn work(&self) -> Work<'_> {
        self.this.since.store(ms(self.started.elapsed()).saturating_add(1), Ordering::Relaxed);
        Work(self)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.this.since.store(0, Ordering::Relaxed);
    }
}

/// The rule. All moments are since the start. A process that was stopped and goes on may be judged before it has had time to
/// give a sign; who asks is to ask again before it kills (Kubernetes does, three times).
fn judge(now: Duration, beat: Duration, mut work: impl Iterator<Item = (&'static str, Duration)>) -> Result<(), Stuck> {
    let silent = now.saturating_sub(beat);
    if silent > RUNTIME_SILENCE_MAX {
        return Err(Stuck::Runtime(silent));
    }
    let stuck = work.find_map(|(name, since)| {
        let working = now.saturating_sub(since);
        (working > WORK_MAX).then_some(Stuck::Loop { name, working })
    });
    stuck.map_or(Ok(()), Err)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(now: u64, beat: u64, work: &[(&'static str, u64)], expected: Result<(), &str>) {
        let seconds = Duration::from_secs;
        let found = judge(seconds(now), seconds(beat), work.iter().map(|(name, since)| (*name, seconds(*since))));
        let expected = expected.map_err(str::to_owned);
        assert_eq!(found.map_err(|stuck| stuck.to_string()), expected, "{now} {beat} {work:?}");
    }

    #[test]
    fn the_runtime_must_run_tasks() {
        check(0, 0, &[], Ok(()));
        check(15, 0, &[], Ok(()));
        check(16, 0, &[], Err("the runtime has run no task for 16 s"));
        check(100_000, 99_999, &[], Ok(()));
        // Clocks of two threads: the beat may be the later one.
        check(5, 6, &[], Ok(()));
    }

    #[test]
    fn a_loop_may_wait_for_ever_and_work_for_a_minute() {
        check(1_000, 1_000, &[], Ok(()));
        check(1_000, 1_000, &[("identity", 940)], Ok(()));
        check(1_000, 1_000, &[("identity", 939)], Err("identity has been at one piece of work for 61 s"));
        check(
            1_000,
            1_000,
            &[("ingest", 999), ("delivery", 900)],
            Err("delivery has been at one piece of work for 100 s"),
        );
        check(1_000, 900, &[("delivery", 900)], Err("the runtime has run no task for 100 s"));
    }

    #[test]
    fn work_is_watched_while_it_is_done() {
        let liveness = Liveness::default();
        let at_work = || {
            let loops = liveness.0.loops.lock().unwrap();
            loops.iter().filter_map(Weak::upgrade).filter(|one| one.since.load(Ordering::Relaxed) > 0).count()
        };
        let (one, other) = (liveness.watch("one"), liveness.watch("other"));
        assert_eq!(at_work(), 0);
        let (first, second) = (one.work(), other.work());
        assert_eq!(at_work(), 2);
        drop(first);
        assert_eq!(at_work(), 1);
        // A loop that is dropped at its work takes its sign of life along.
        std::mem::forget(second);
        drop(other);
        assert_eq!(at_work(), 0);
        liveness.beat();
        assert_eq!(liveness.check(), Ok(()));
    }
}
