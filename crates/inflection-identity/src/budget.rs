//! How much memory the states of a process may take together, and what happens when they take more.
//!
//! Nothing is ever dropped to make room: a forgotten mail or event id would let something be told as unique a second time.
//! Above the budget the partitions hold still instead, ARCHITECTURE.md says why.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use inflection_telemetry::Gauge;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::metrics::IdentityMetrics;

/// Of the budget, in percent, from which on it is said that it comes to an end.
const NEAR_PERCENT: u64 = 80;
const MIB: u64 = 1024 * 1024;
/// Partitions whose state is loaded at once: what a process takes over before it is counted.
const RECOVERIES_MAX: usize = 2;

/// Where use stands against the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Within,
    /// Four fifths and more: time to add workers or memory.
    Near,
    /// More than there is: the partitions hold still.
    Over,
}

impl Level {
    fn of(used: u64, budget: u64) -> Self {
        match budget {
            0 => Self::Within,
            _ if used > budget => Self::Over,
            // In this order nothing is lost to rounding and nothing overflows.
            _ if used / NEAR_PERCENT >= budget / 100 => Self::Near,
            _ => Self::Within,
        }
    }
}

/// The budget of all partitions that a process serves. Clones share it.
#[derive(Debug, Clone)]
pub struct StateBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// 0 is no budget.
    bytes: u64,
    used: Mutex<Used>,
    recovering: Semaphore,
}

#[derive(Debug)]
struct Used {
    bytes: u64,
    level: Level,
}

/// What there is and what is used, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    used: u64,
    budget: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, budget) = (self.used / MIB, self.budget / MIB);
        write!(
            f,
            "identity's state takes {used} MiB of a budget of {budget} MiB and holds still: what is accepted waits; add \
             workers of identity, or memory and --state-budget-mib"
        )
    }
}

impl StateBudget {
    /// A budget of so many bytes; 0 is none.
    #[must_use]
    pub fn of_bytes(bytes: u64) -> Self {
        let used = Mutex::new(Used { bytes: 0, level: Level::Within });
        Self(Arc::new(Shared { bytes, used, recovering: Semaphore::new(RECOVERIES_MAX) }))
    }

    /// The budget, in bytes; 0 is none.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Whether more is used than there is. What two seconds bring may come on top before it is seen.
    #[must_use]
    pub fn exceeded(&self) -> Option<Exceeded> {
        let used = self.0.used.lock().unwrap_or_else(PoisonError::into_inner);
        (used.level == Level::Over).then_some(Exceeded { used: used.bytes, budget: self.0.bytes })
    }

    /// Leave to load the state of one more partition, until it is counted: the memory that a dead worker's partitions take is
    /// not known before they are loaded, and loading all of them at once could take what there is not. `None` while more is
    /// used than there is.
    pub(crate) async fn admit(&self) -> Option<SemaphorePermit<'_>> {
        let permit = self.0.recovering.acquire().await.ok()?;
        self.exceeded().is_none().then_some(permit)
    }

    /// Notes that a state takes `now` instead of `before`, and says when that passes a mark.
    fn change(&self, before: u64, now: u64, held: &Gauge) {
        let mut used = self.0.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.bytes = used.bytes.saturating_sub(before) + now;
        let level = Level::of(used.bytes, self.0.bytes);
        if level == used.level {
            return;
        }
        used.level = level;
        held.set(i64::from(level == Level::Over));
        let (used_mib, budget_mib) = (used.bytes / MIB, self.0.bytes / MIB);
        match level {
            Level::Within => tracing::info!(used_mib, budget_mib, "identity's state is well within its budget again"),
            Level::Near => tracing::warn!(
                used_mib,
                budget_mib,
                "identity's state comes near its budget; add workers of identity, or memory and --state-budget-mib"
            ),
            Level::Over => tracing::error!(
                used_mib,
                budget_mib,
                "identity's state is over its budget; its partitions hold still until workers are added, or memory and \
                 --state-budget-mib"
            ),
        }
    }
}

/// What the state of one partition takes, in the gauges and of the budget, as long as this is here.
#[derive(Debug)]
pub(crate) struct StateSize {
    keys: Gauge,
    bytes: Gauge,
    held: Gauge,
    budget: StateBudget,
    counted: u64,
}

impl StateSize {
    pub(crate) fn of(partition: u16, budget: &StateBudget, metrics: &IdentityMetrics) -> Self {
        let partition = partition.to_string();
        let labels = [("partition", partition.as_str())];
        let (keys, bytes) = (metrics.state_keys.with(&labels), metrics.state_bytes.with(&labels));
        Self { keys, bytes, held: metrics.state_held.clone(), budget: budget.clone(), counted: 0 }
    }

    /// Takes over what a state measures now.
    pub(crate) fn set(&mut self, keys: usize, bytes: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.keys.set(number(keys));
        self.bytes.set(number(bytes));
        let bytes = bytes as u64;
        self.budget.change(self.counted, bytes, &self.held);
        self.counted = bytes;
    }
}

impl Drop for StateSize {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

#[cfg(test)]
mod tests {
    use inflection_telemetry::Registry;

    use super::*;

    #[test]
    fn marks_are_four_fifths_and_the_whole() {
        let level = |used| Level::of(used, 1000);
        assert_eq!(
            [0, 799, 800, 1000, 1001].map(level),
            [Level::Within, Level::Within, Level::Near, Level::Near, Level::Over]
        );
        assert_eq!(Level::of(u64::MAX, 0), Level::Within, "no budget is never exceeded");
        assert_eq!(Level::of(u64::MAX, u64::MAX), Level::Near);
    }

    #[test]
    fn a_process_has_one_budget_for_all_its_partitions_and_gets_back_what_leaves() {
        let registry = Registry::default();
        let (metrics, budget) = (IdentityMetrics::new(&registry), StateBudget::of_bytes(3 * MIB));
        let held = || registry.render().contains("\ninflection_identity_state_held 1\n");
        let mib = usize::try_from(MIB).unwrap();
        let [mut one, mut two] = [0, 1].map(|partition| StateSize::of(partition, &budget, &metrics));
        one.set(1, 2 * mib);
        two.set(1, mib);
        assert_eq!(budget.exceeded(), None, "the budget itself may be used up");
        two.set(1, mib + 1);
        assert_eq!(budget.exceeded(), Some(Exceeded { used: 3 * MIB + 1, budget: 3 * MIB }));
        assert!(held());
        // The same size again is counted once.
        two.set(1, mib + 1);
        one.set(1, mib);
        assert_eq!(budget.exceeded(), None);
        assert!(!held());
        one.set(1, 3 * mib);
        assert!(budget.exceeded().is_some());
        // The partition goes to another worker.
        drop(one);
        assert_eq!(budget.exceeded(), None);
        assert_eq!(budget.0.used.lock().unwrap().bytes, MIB + 1);
    }

    #[tokio::test]
    async fn states_are_loaded_two_at_a_time_and_none_above_the_budget() {
        let metrics = IdentityMetrics::new(&Registry::default());
        let budget = StateBudget::of_bytes(MIB);
        let (one, two) = (budget.admit().await, budget.admit().await);
        assert!(one.is_some() && two.is_some());
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), budget.admit()).await.is_err());
        let mut size = StateSize::of(0, &budget, &metrics);
        size.set(1, 2 * usize::try_from(MIB).unwrap());
        drop(one);
        assert!(budget.admit().await.is_none(), "what one has loaded is counted before the next");
        size.set(0, 0);
        assert!(budget.admit().await.is_some());
    }

    #[test]
    fn what_is_said_names_the_figures_and_what_to_do() {
        let text = Exceeded { used: 700 * MIB, budget: 512 * MIB }.to_string();
        assert!(text.contains("700 MiB") && text.contains("512 MiB") && text.contains("--state-budget-mib"), "{text}");
    }
}
