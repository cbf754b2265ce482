//! When a connection that fails is left alone, and how it is tried again. Pure.

use std::time::Duration;

/// Failures in a row after which a connection is left alone.
const FAILURES_MAX: u32 = 5;
/// Shortest and longest wait between two tries of a connection that does not answer or answers 5xx. A try is one
/// request, so the longest is short: it is what a recovery waits for.
const OUTAGE_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Wait between two tries of a connection that a person must put right: a refused key, a wrong address.
const TROUBLE_WAIT: Duration = Duration::from_secs(300);

/// Why nothing but a try now and then is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No answer (0), or 5xx.
    Unavailable(u16),
    /// The write key is refused.
    Unauthorized(u16),
    /// The address is wrong.
    Misconfigured(u16),
    /// The address leads to where nothing may be sent.
    Forbidden,
}

impl Trouble {
    /// Whether only a person can put it right.
    fn needs_a_person(self) -> bool {
        match self {
            Self::Unavailable(_) => false,
            Self::Unauthorized(_) | Self::Misconfigured(_) | Self::Forbidden => true,
        }
    }
}

/// What may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// Everything.
    All,
    /// One request, to see whether it is over.
    Try,
    /// Nothing until this moment.
    Until(Duration),
    /// Nothing until the try under way is answered.
    Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open(Duration),
    HalfOpen,
}

/// The breaker of one connection.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    trouble: Option<Trouble>,
    /// Failures in a row while closed.
    failures: u32,
    /// Tries in a row that failed.
    tries: u32,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self { state: State::Closed, trouble: None, failures: 0, tries: 0 }
    }

    /// Why it is open, if it is.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    pub(super) fn permit(&self, now: Duration) -> Permit {
        match self.state {
            State::Closed => Permit::All,
            State::Open(until) if until <= now => Permit::Try,
            State::Open(until) => Permit::Until(until),
            State::HalfOpen => Permit::Wait,
        }
    }

    /// Notes that a request goes out. Returns whether it is the permitted try.
    pub(super) fn trying(&mut self) -> bool {
        let trying = self.state != State::Closed;
        if trying {
            self.state = State::HalfOpen;
        }
        trying
    }

    /// The connection answered as one that works. Returns whether that ends an outage.
    pub(super) fn works(&mut self) -> bool {
        let ended = self.state != State::Closed;
        *self = Self::new();
        ended
    }

    /// The connection asked for patience: no failure, and nothing that ends an outage. `tried` if it was the try's answer.
    pub(super) fn pushed_back(&mut self, until: Duration, tried: bool) {
        if self.state == State::HalfOpen && tried {
            self.state = State::Open(until);
        }
    }

    /// The connection failed. `tried` if it was the try that did; `chance` is a number from 0 up to 1 that spreads tries.
    pub(super) fn failed(&mut self, trouble: Trouble, tried: bool, now: Duration, chance: f64) {
        // Answers of requests sent before it opened are late: they neither count as a try nor move the next one, unless
        // they say that a person is needed.
        let late = self.state != State::Closed && !tried;
        if late && (!trouble.needs_a_person() || self.trouble.is_some_and(Trouble::needs_a_person)) {
            return;
        }
        let wait = match trouble {
            Trouble::Unavailable(_) if self.state == State::Closed && self.failures + 1 < FAILURES_MAX => {
                self.failures += 1;
                return;
            }
            Trouble::Unavailable(_) => {
                let (shortest, longest) = OUTAGE_WAIT;
                let doubled = shortest.saturating_mul(1 << self.tries.min(16)).min(longest);
                shortest + doubled.saturating_sub(shortest).mul_f64(chance.clamp(0.0, 1.0))
            }
            Trouble::Unauthorized(_) | Trouble::Misconfigured(_) | Trouble::Forbidden => TROUBLE_WAIT,
        };
        self.tries = if self.state == State::HalfOpen { self.tries + 1 } else { 1 };
        self.state = State::Open(now + wait);
        self.trouble = Some(trouble);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let mut breaker = Breaker::new();
        for _ in 0..3 {
            for _ in 1..FAILURES_MAX {
                breaker.failed(Trouble::Unavailable(503), false, SECOND, 0.5);
            }
            assert_eq!(breaker.permit(SECOND), Permit::All);
            assert!(!breaker.works(), "no outage, so none ends");
        }
        for _ in 0..FAILURES_MAX {
            breaker.failed(Trouble::Unavailable(503), false, SECOND, 0.0);
        }
        assert_eq!(breaker.trouble(), Some(Trouble::Unavailable(503)));
        assert_eq!(breaker.permit(SECOND), Permit::Until(SECOND + OUTAGE_WAIT.0));
    }

    #[test]
    fn tries_come_one_at_a_time_and_further_apart() {
        let mut breaker = Breaker::new();
        let mut now = SECOND;
        (0..FAILURES_MAX).for_each(|_| breaker.failed(Trouble::Unavailable(0), false, now, 1.0));
        let mut waits = Vec::new();
        for _ in 0..6 {
            let Permit::Until(at) = breaker.permit(now) else { panic!("open") };
            waits.push((at - now).as_millis());
            now = at;
            assert_eq!(breaker.permit(now), Permit::Try);
            breaker.trying();
            assert_eq!(breaker.permit(now), Permit::Wait);
            breaker.failed(Trouble::Unavailable(0), true, now, 1.0);
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 5000, 5000]);
        let Permit::Until(at) = breaker.permit(now) else { panic!("open") };
        breaker.trying();
        assert!(breaker.works());
        assert_eq!((breaker.permit(at), breaker.trouble()), (Permit::All, None));
    }

    #[test]
    fn a_person_must_put_right_what_only_a_person_can() {
        for trouble in [Trouble::Unauthorized(401), Trouble::Misconfigured(302), Trouble::Forbidden] {
            let mut breaker = Breaker::new();
            breaker.failed(trouble, false, SECOND, 0.5);
            assert_eq!(breaker.permit(SECOND), Permit::Until(SECOND + TROUBLE_WAIT), "{trouble:?}");
        }
    }

    #[test]
    fn late_answers_move_nothing_and_push_back_is_no_failure() {
        let mut breaker = Breaker::new();
        (0..FAILURES_MAX).for_each(|_| breaker.failed(Trouble::Unavailable(503), false, SECOND, 0.0));
        let open = breaker.permit(SECOND);
        breaker.failed(Trouble::Unavailable(500), false, SECOND * 2, 1.0);
        assert_eq!(breaker.permit(SECOND), open);
        breaker.trying();
        breaker.failed(Trouble::Unavailable(503), false, SECOND * 2, 1.0);
        breaker.pushed_back(SECOND * 8, false);
        assert_eq!(breaker.permit(SECOND * 9), Permit::Wait, "the try is still under way");
        breaker.pushed_back(SECOND * 9, true);
        assert_eq!(breaker.permit(SECOND), Permit::Until(SECOND * 9));
        assert_eq!(breaker.trouble(), Some(Trouble::Unavailable(503)), "still not known to work");
        breaker.failed(Trouble::Unauthorized(401), false, SECOND, 1.0);
        assert_eq!(
            breaker.trouble(),
            Some(Trouble::Unauthorized(401)),
            "a person is needed, however late that is told"
        );
    }
}
