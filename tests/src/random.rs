//! Seeded randomness, announced so that a failure can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::announce::announce;
use crate::settings;

/// A small generator (SplitMix64): equal seeds, equal sequences, on every platform and for ever.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Starts from `INFLECTION_SEED` or from the clock, and prints which, with the command that repeats it.
    pub fn announced(test: &str) -> Self {
        let seed = settings::seed().unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| u64::from(now.subsec_nanos()) ^ now.as_secs())
        });
        announce(&format!("{test}: INFLECTION_SEED={seed}"));
        Self::new(seed)
    }

    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("a usize fits into 64 bits");
        usize::try_from(self.draw() % bound).expect("below a usize")
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A generator of its own for another thread.
    pub fn fork(&mut self) -> Self {
        Self::new(self.draw())
    }

    /// A short word that sets the ids of this run apart from those of every other.
    pub fn word(&mut self) -> String {
        format!("{:08x}", self.draw() >> 32)
    }
}
