//! How many requests of a connection may be under way: more while it answers fast, fewer when it pushes back. Pure.

use std::time::Duration;

/// An answer slower than this, and than so many times the fastest known, is a sign of too many requests.
const SLOW: Duration = Duration::from_secs(1);
const SLOW_TIMES: u32 = 4;
/// What is left after push-back, and after a slow answer.
const AFTER_PUSH_BACK: f64 = 0.5;
const AFTER_SLOW: f64 = 0.8;

/// Additive increase, multiplicative decrease.
#[derive(Debug)]
pub(super) struct Concurrency {
    limit: f64,
    max: f64,
    /// The fastest answer known; it fades, so that a connection may become slower for good.
    fastest: Option<Duration>,
    /// No second decrease before this moment: one round of answers is one sign.
    calm_until: Duration,
}

impl Concurrency {
    pub(super) fn new(max: usize) -> Self {
        let max = f64::from(u32::try_from(max.max(1)).unwrap_or(u32::MAX));
        Self { limit: max, max, fastest: None, calm_until: Duration::ZERO }
    }

    /// Requests that may be under way at once; at least one.
    pub(super) fn limit(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to a configured maximum")]
        let limit = self.limit as usize;
        limit.max(1)
    }

    /// A request was answered well after `time`: about one more may go after a whole round of such answers.
    pub(super) fn answered(&mut self, time: Duration, now: Duration) {
        let fastest = self.fastest.map_or(time, |fastest| time.min(fastest + fastest / 64));
        self.fastest = Some(fastest);
        if time > SLOW && time > fastest * SLOW_TIMES {
            self.decrease(AFTER_SLOW, time, now);
        } else {
            self.limit = (self.limit + 1.0 / self.limit).min(self.max);
        }
    }

    /// The connection pushed back, or failed.
    pub(super) fn pushed_back(&mut self, time: Duration, now: Duration) {
        self.decrease(AFTER_PUSH_BACK, time, now);
    }

    /// The connection is back after an outage: it is not to be met by everybody at once.
    pub(super) fn begin_again(&mut self) {
        self.limit = 1.0;
    }

    fn decrease(&mut self, factor: f64, time: Duration, now: Duration) {
        if now >= self.calm_until {
            self.limit = (self.limit * factor).max(1.0);
            self.calm_until = now + time;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(20);

    #[test]
    fn push_back_halves_once_a_round_and_good_answers_add_one_a_round() {
        let mut concurrency = Concurrency::new(8);
        assert_eq!(concurrency.limit(), 8);
        let mut now = Duration::from_secs(1);
        for _ in 0..8 {
            concurrency.pushed_back(FAST, now);
        }
        assert_eq!(concurrency.limit(), 4, "eight answers of one round are one sign");
        for _ in 0..4 {
            now += FAST;
            concurrency.pushed_back(FAST, now);
        }
        assert_eq!(concurrency.limit(), 1);
        let mut answers = 0;
        while concurrency.limit() < 8 {
            concurrency.answered(FAST, now);
            answers += 1;
        }
        assert!((28..=40).contains(&answers), "1 + 2 + … + 7 answers and a few, not {answers}");
        (0..100).for_each(|_| concurrency.answered(FAST, now));
        assert_eq!(concurrency.limit(), 8, "never more than the maximum");
    }

    #[test]
    fn much_slower_answers_are_a_sign() {
        let mut concurrency = Concurrency::new(8);
        concurrency.answered(FAST, Duration::ZERO);
        concurrency.answered(Duration::from_millis(900), Duration::from_secs(1));
        assert_eq!(concurrency.limit(), 8, "slower, but not slow");
        concurrency.answered(Duration::from_secs(3), Duration::from_secs(5));
        assert_eq!(concurrency.limit(), 6);
        let mut always = Concurrency::new(8);
        (0..9).for_each(|at| always.answered(Duration::from_secs(3), Duration::from_secs(3 * at)));
        assert_eq!(always.limit(), 8, "slow as always is no sign");
    }
}
