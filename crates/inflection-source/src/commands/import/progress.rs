//! What a person sees while it goes on: a bar on a terminal, else a line of log now and then.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::state::Counts;

/// Without a terminal, how far it is is logged so often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How far an import is.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
    told: Cell<Instant>,
    /// Why it waits now, if it does.
    waiting: Cell<bool>,
}

impl Progress {
    /// Of a file of so many bytes, of which some are done; of a stream without an end without.
    pub(super) fn new(bytes: Option<u64>, done: u64) -> Self {
        let bar = match bytes {
            Some(bytes) => ProgressBar::new(bytes),
            None => ProgressBar::no_length(),
        };
        let template = if bytes.is_some() {
            "{bar:30} {percent:>3}%  {msg}  {elapsed}, {eta} to go"
        } else {
            "{spinner} {msg}  {elapsed}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_position(done);
        bar.reset_eta();
        let now = Instant::now();
        Self { bar, started: now, told: Cell::new(now), waiting: Cell::new(false) }
    }

    /// So many bytes of the file have come to an end, with these counts in this run.
    pub(super) fn advance(&self, bytes: u64, counts: Counts) {
        let per_second = per_second(counts.read, self.started.elapsed());
        let Counts { read, accepted, rejected } = counts;
        self.bar.set_position(bytes);
        self.bar.set_message(format!("{accepted} accepted, {rejected} rejected, {per_second}/s"));
        if self.bar.is_hidden() && self.told.get().elapsed() >= TELL_EVERY {
            self.told.set(Instant::now());
            tracing::info!(read, accepted, rejected, per_second, "importing");
        }
    }

    /// It cannot go on for a while, and why.
    pub(super) fn waits(&self, why: &str, wait: Duration) {
        self.bar.set_message(format!("{why}; again in {:.1} s", wait.as_secs_f64()));
        // Told once, and then like progress: an import may wait for hours.
        let first = !self.waiting.replace(true);
        if self.bar.is_hidden() && (first || self.told.get().elapsed() >= TELL_EVERY) {
            self.told.set(Instant::now());
            tracing::warn!(why, wait_ms = wait.as_millis(), "ingest takes nothing now; it is tried again");
        }
    }

    pub(super) fn goes_on(&self) {
        self.waiting.set(false);
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// A rate as a whole number.
pub(super) fn per_second(count: u64, time: Duration) -> u64 {
    let ms = time.as_millis().max(1);
    u64::try_from(u128::from(count) * 1000 / ms).unwrap_or(u64::MAX)
}
