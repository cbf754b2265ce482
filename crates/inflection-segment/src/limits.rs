//! Segment's limits, read in the safe direction where the documentation is ambiguous ("KB" is 1,000 bytes).
//!
//! Sources: Segment docs, HTTP Tracking API (limits) and rate limits.

/// Most bytes of one item, serialized.
pub const ITEM_BYTES_MAX: usize = 32_000;
/// Most bytes of one batch request before compression, envelope included (Segment: 500 KB).
pub const BATCH_BYTES_MAX: usize = 480_000;
/// Most items of one batch. Segment takes 2,500 and silently drops the rest; a 400 is easier to bisect in fewer.
pub const BATCH_ITEMS_MAX: usize = 500;
/// Most characters of a messageId (documented both as "under 100" and "at most 100").
pub const MESSAGE_ID_CHARS_MAX: usize = 99;
/// Most characters of an event name: warehouses cut at 512, tables earlier.
pub const EVENT_NAME_BYTES_MAX: usize = 255;
/// Most bytes of a group id; Unify drops events with longer ones.
pub const GROUP_ID_BYTES_MAX: usize = 500;
/// Bytes of a batch that are not items: the envelope around them.
pub const ENVELOPE_BYTES: usize = 64;
/// What one workspace may send a second without arrangement.
pub const EVENTS_PER_SECOND: u32 = 1_000;
