//! A budget of so many a second.

use std::time::Duration;

/// Lets through at most a rate, in bursts of up to one second's worth. A state machine without a clock: the moment of a
/// request is an argument (time since any fixed start, never going back).
#[derive(Debug, Clone)]
pub struct RateBudget {
    per_second: u32,
    /// What is left, in billionths.
    left: u128,
    at: Duration,
}

/// Billionths of one.
const UNIT: u128 = 1_000_000_000;

impl RateBudget {
    /// A full budget.
    #[must_use]
    pub fn new(per_second: u32, now: Duration) -> Self {
        Self { per_second, left: u128::from(per_second) * UNIT, at: now }
    }

    /// The rate.
    #[must_use]
    pub fn per_second(&self) -> u32 {
        self.per_second
    }

    fn refill(&mut self, now: Duration) {
        let full = u128::from(self.per_second) * UNIT;
        let gained = now.saturating_sub(self.at).as_nanos() * u128::from(self.per_second);
        self.left = (self.left + gained).min(full);
        self.at = self.at.max(now);
    }

    /// Takes `count` at once, or says how long to wait until that is possible. More than a second's worth is let through
    /// when the budget is full, and then paid for by waiting: a request larger than the budget must not wait for ever.
    ///
    /// # Errors
    /// The wait.
    pub fn take(&mut self, count: u32, now: Duration) -> Result<(), Duration> {
        self.refill(now);
        let wanted = u128::from(count) * UNIT;
        let needed = wanted.min(u128::from(self.per_second) * UNIT);
        if self.left >= needed {
            self.left = self.left.saturating_sub(wanted);
            // What was taken beyond the budget delays the next refill.
            let debt = (wanted - needed) / u128::from(self.per_second.max(1));
            self.at += Duration::from_nanos(u64::try_from(debt).unwrap_or(u64::MAX));
            return Ok(());
        }
        let missing = (needed - self.left).div_ceil(u128::from(self.per_second.max(1)));
        let debt = self.at.saturating_sub(now);
        Err(debt + Duration::from_nanos(u64::try_from(missing).unwrap_or(u64::MAX)))
    }

    /// How many could be taken now.
    pub fn available(&mut self, now: Duration) -> u32 {
        self.refill(now);
        u32::try_from(self.left / UNIT).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_any_requests() {
        for size in [1, 7, 100, 250] {
            let mut budget = RateBudget::new(100, Duration::ZERO);
            let (mut now, mut taken) = (Duration::ZERO, 0u32);
            while now < Duration::from_secs(20) {
                match budget.take(size, now) {
                    Ok(()) => taken += size,
                    Err(wait) => now += wait,
                }
            }
            assert!((1900..=2100 + size).contains(&taken), "{taken} of size {size} in 20 s at 100/s");
        }
    }

    #[test]
    fn a_wait_is_long_enough() {
        let mut budget = RateBudget::new(10, Duration::ZERO);
        budget.take(10, Duration::ZERO).unwrap();
        let wait = budget.take(3, Duration::ZERO).unwrap_err();
        assert!(wait >= Duration::from_millis(300) && wait < Duration::from_millis(301), "{wait:?}");
        budget.take(3, wait).unwrap();
        assert_eq!(budget.available(wait), 0);
    }
}
