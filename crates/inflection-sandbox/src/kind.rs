//! The six calls of the Tracking API and the paths that take them.

/// One of Segment's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Track,
    Identify,
    Page,
    Screen,
    Group,
    Alias,
}

impl Kind {
    /// Reads a call's `type`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "track" => Some(Self::Track),
            "identify" => Some(Self::Identify),
            "page" => Some(Self::Page),
            "screen" => Some(Self::Screen),
            "group" => Some(Self::Group),
            "alias" => Some(Self::Alias),
            _ => None,
        }
    }

    /// The call's `type` as Segment writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Group => "group",
            Self::Alias => "alias",
        }
    }
}

/// Largest decoded body of a batch: 500 KB (Segment docs, HTTP Tracking API, limits).
const BATCH_BYTES_MAX: usize = 500 * 1024;
/// Largest single call, and largest item of a batch: 32 KB (same page).
pub(crate) const CALL_BYTES_MAX: usize = 32 * 1024;

/// A path under `/v1/` that takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/v1/batch`, and its old name `/v1/import`.
    Batch { name: &'static str },
    /// `/v1/track` and the other single calls.
    Single(Kind),
}

impl Endpoint {
    /// Reads the last part of the path.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "batch" => Some(Self::Batch { name: "batch" }),
            "import" => Some(Self::Batch { name: "import" }),
            single => Kind::from_name(single).map(Self::Single),
        }
    }

    /// The last part of the path.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Batch { name } => name,
            Self::Single(kind) => kind.name(),
        }
    }

    /// Largest decoded body this path takes.
    pub(crate) fn bytes_max(self) -> usize {
        match self {
            Self::Batch { .. } => BATCH_BYTES_MAX,
            Self::Single(_) => CALL_BYTES_MAX,
        }
    }
}
