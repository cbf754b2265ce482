//! How full a store is.

/// Bytes that a store holds, and may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The stream; `journal` is the embedded store's one for all.
    pub store: &'static str,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that it may hold; `None` when nothing but the disk bounds it.
    pub bytes_max: Option<u64>,
}
