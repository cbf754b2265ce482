//! Which events are traced.

use std::sync::{Mutex, PoisonError};

/// Most events of one request that are traced: one request must not fill the queue of spans.
pub(super) const EVENTS_A_REQUEST_MAX: usize = 32;

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampling {
    /// The share of events without a sampled parent, from 0 to 1.
    pub(super) ratio: f64,
    /// Whether a caller's sampled flag counts for all events of its request.
    pub(super) parent_based: bool,
}

/// Draws the share.
///
/// Not a draw an event: how many events pass until the next sampled one is drawn once for each sampled event, so that the
/// others cost a subtraction a request.
#[derive(Debug)]
pub(super) struct Draw {
    ratio: f64,
    /// Events to pass before the next sampled one.
    left: Mutex<u64>,
}

impl Draw {
    pub(super) fn new(ratio: f64) -> Self {
        Self { ratio, left: Mutex::new(gap(ratio, chance())) }
    }

    /// Which of the next so many events are sampled, by their numbers; at most [`EVENTS_A_REQUEST_MAX`] of them.
    pub(super) fn take(&self, events: usize) -> Vec<usize> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        take(&mut left, events, || gap(self.ratio, chance()))
    }
}

fn take(left: &mut u64, events: usize, mut next: impl FnMut() -> u64) -> Vec<usize> {
    let (mut taken, mut at) = (Vec::new(), 0);
    // `at` is the first event that is not passed yet.
    while let Some(sampled) =
        usize::try_from(*left).ok().and_then(|left| left.checked_add(at)).filter(|at| *at < events)
    {
        if taken.len() == EVENTS_A_REQUEST_MAX {
            // The rest of the request is passed over, and the next event after it is as good as any.
            return taken;
        }
        taken.push(sampled);
        at = sampled + 1;
        *left = next();
    }
    *left = left.saturating_sub((events - at) as u64);
    taken
}

/// Events between two sampled ones: geometric, so that every event has the same chance whatever was sampled before it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates at both ends, which is what is meant"
)]
fn gap(ratio: f64, chance: f64) -> u64 {
    if ratio >= 1.0 {
        return 0;
    }
    if ratio <= 0.0 {
        return u64::MAX;
    }
    // `ln(1 - chance)`: the chance may be 0 and is never 1.
    ((-chance).ln_1p() / (-ratio).ln_1p()) as u64
}

/// A number from 0 up to, and without, 1.
fn chance() -> f64 {
    let random = super::context::random() >> 32;
    u32::try_from(random).map_or(0.5, |random| f64::from(random) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The k-th of 10,000 chances that lie evenly between 0 and 1, in an order that repeats nothing.
    fn even(k: u32) -> f64 {
        f64::from(k.wrapping_mul(7919) % 10_000) / 10_000.0
    }

    #[test]
    fn the_share_is_what_was_asked_for() {
        for (ratio, requests) in [(0.01, 1), (0.01, 7), (0.25, 3), (0.5, 20)] {
            let (mut left, mut drawn) = (0, 0);
            let (mut sampled, mut events) = (0_u32, 0_u32);
            while drawn < 10_000 {
                let taken = take(&mut left, requests, || {
                    drawn += 1;
                    gap(ratio, even(drawn))
                });
                assert!(taken.is_sorted() && taken.iter().all(|at| *at < requests), "{taken:?}");
                sampled += u32::try_from(taken.len()).unwrap();
                events += u32::try_from(requests).unwrap();
            }
            let share = f64::from(sampled) / f64::from(events);
            assert!((share / ratio - 1.0).abs() < 0.03, "{share} instead of {ratio}");
        }
    }

    #[test]
    fn all_and_none_are_exact() {
        let (all, none) = (Draw::new(1.0), Draw::new(0.0));
        for events in [0, 1, 5, EVENTS_A_REQUEST_MAX] {
            assert_eq!(all.take(events), (0..events).collect::<Vec<_>>());
            assert_eq!(none.take(events), Vec::<usize>::new());
        }
        assert_eq!(all.take(10_000).len(), EVENTS_A_REQUEST_MAX, "bounded");
        assert_eq!(all.take(2), [0, 1], "and the next request has its own");
    }

    #[test]
    fn chances_are_spread_and_below_one() {
        let chances: Vec<f64> = (0..1_000).map(|_| chance()).collect();
        assert!(chances.iter().all(|chance| (0.0..1.0).contains(chance)));
        let mean = chances.iter().sum::<f64>() / 1_000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
    }
}
