//! Whether there is any alias yet.
//!
//! Before the first alias of an installation is made, a mark is. A process that has looked and found no mark relies on that
//! for `BELIEF`, and looks again then. Who makes an alias has therefore only to wait, once, until `BELIEF` has gone by since it
//! first knew of the mark: from then on nobody believes any more that there is none. Each process goes by its own clock, and by
//! how long something takes only.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long it is relied on that there was no alias.
pub(super) const BELIEF: Duration = Duration::from_millis(250);

/// What this process knows, without a clock: moments are arguments, since any fixed start.
#[derive(Debug, Default)]
pub(super) struct Begun(Mutex<State>);

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Unknown,
    /// There was none at this moment, or later.
    Not(Duration),
    /// There is one; known since.
    Has(Duration),
}

impl Begun {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it may be relied on that there is no alias.
    pub(super) fn is_not(&self, now: Duration) -> bool {
        matches!(*self.state(), State::Not(at) if now < at + BELIEF)
    }

    /// Whether it is known that there is one.
    pub(super) fn is(&self) -> bool {
        matches!(*self.state(), State::Has(_))
    }

    /// There was none when it was `asked`.
    pub(super) fn was_not(&self, asked: Duration) {
        let mut state = self.state();
        match *state {
            // What others have found out meanwhile counts for more.
            State::Has(_) => {}
            State::Not(at) => *state = State::Not(at.max(asked)),
            State::Unknown => *state = State::Not(asked),
        }
    }

    /// There is one.
    pub(super) fn has(&self, now: Duration) {
        let mut state = self.state();
        if !matches!(*state, State::Has(_)) {
            *state = State::Has(now);
        }
    }

    /// How long until no process believes any more that there is none.
    pub(super) fn until_all_know(&self, now: Duration) -> Duration {
        match *self.state() {
            State::Has(since) => (since + BELIEF).saturating_sub(now),
            State::Unknown | State::Not(_) => BELIEF,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn that_there_is_none_is_relied_on_for_a_while() {
        let begun = Begun::default();
        assert!(!begun.is_not(ms(0)) && !begun.is(), "nothing is known at first");
        begun.was_not(ms(100));
        assert!(begun.is_not(ms(349)));
        assert!(!begun.is_not(ms(350)));
        begun.was_not(ms(400));
        begun.was_not(ms(300));
        assert!(begun.is_not(ms(649)), "a late answer to an early question takes nothing back");
        begun.has(ms(500));
        begun.was_not(ms(499));
        assert!(begun.is() && !begun.is_not(ms(500)), "there is one, for good");
    }

    #[test]
    fn the_first_alias_waits_until_nobody_believes_that_there_is_none() {
        let begun = Begun::default();
        begun.has(ms(1_000));
        assert_eq!(begun.until_all_know(ms(1_000)), BELIEF);
        assert_eq!(begun.until_all_know(ms(1_249)), ms(1));
        begun.has(ms(1_240));
        assert_eq!(begun.until_all_know(ms(1_250)), Duration::ZERO);
        assert_eq!(begun.until_all_know(ms(9_000)), Duration::ZERO);
    }
}
