//! How a sandbox behaves.

use crate::faults::Faults;

/// Full calls kept for the views unless the configuration says otherwise.
const CALLS_MAX_DEFAULT: usize = 100_000;
/// Memory of those, unless the configuration says otherwise.
const CALLS_BYTES_MAX_DEFAULT: usize = 512 * 1024 * 1024;

/// The settings of a [`Sandbox`](crate::Sandbox), fixed when it is made (the faults can be replaced later).
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Whether mistakes are answered as Segment does or as a test would like to see them.
    pub mode: Mode,
    /// The write keys that exist. Empty: in faithful mode every key is taken, in strict mode none.
    pub write_keys: Vec<String>,
    /// Faults in force from the start.
    pub faults: Faults,
    /// Newest full calls kept for the views; counters, messageIds and tables continue beyond.
    ///
    /// Zero is meant for load tests: accepted calls are only scanned and counted, and warehouse tables are not built.
    pub calls_max: usize,
    /// Bytes of full calls kept; beyond it the oldest leave even before there are `calls_max`.
    pub calls_bytes_max: usize,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Faithful,
            write_keys: Vec::new(),
            faults: Faults::default(),
            calls_max: CALLS_MAX_DEFAULT,
            calls_bytes_max: CALLS_BYTES_MAX_DEFAULT,
        }
    }
}

/// How the sandbox answers what Segment would swallow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// As Segment: 200 for unknown keys and for calls it will drop. Only bad JSON, sizes and an empty key give 400.
    #[default]
    Faithful,
    /// 401 for keys that are not configured, 400 for a request of which Segment would silently drop something.
    Strict,
}
