//! Which trace and which span.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use opentelemetry::trace::{SpanId, TraceId};

/// A span of a sampled trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
}

/// What a caller says of its own trace (W3C Trace Context, the header `traceparent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The caller's span.
    pub context: TraceContext,
    /// Whether the caller keeps it.
    pub sampled: bool,
}

impl TraceContext {
    /// Bytes of it in a message: the trace's 16 and the span's 8.
    pub const BYTES: usize = 24;

    /// A new trace.
    #[must_use]
    pub fn root() -> Self {
        let trace = u128::from(random()) << 64 | u128::from(random());
        Self { trace: trace.into(), span: random().into() }
    }

    /// A new span of the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span: random().into(), ..*self }
    }

    /// As it is written in a message.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes
            .iter_mut()
            .zip(self.trace.to_bytes().into_iter().chain(self.span.to_bytes()))
            .for_each(|(to, from)| *to = from);
        bytes
    }

    /// The inverse of [`TraceContext::to_bytes`]; `None` when trace or span is zero, which is no id.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        Self::valid(TraceId::from_bytes(*bytes.first_chunk()?), SpanId::from_bytes(*bytes.last_chunk()?))
    }

    /// The trace's id, as dashboards show it: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.trace.to_string()
    }

    fn valid(trace: TraceId, span: SpanId) -> Option<Self> {
        (trace != TraceId::INVALID && span != SpanId::INVALID).then_some(Self { trace, span })
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.trace, self.span)
    }
}

impl TraceParent {
    /// Reads a `traceparent`. One that is not valid is none: the specification asks to begin a new trace then.
    ///
    /// Versions above 00 may say more behind what is known (W3C Trace Context, "Versioning of traceparent").
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim_ascii().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version] = unhex::<1>(version)?;
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace, span, [flags]) =
            (TraceId::from_bytes(unhex(trace)?), SpanId::from_bytes(unhex(span)?), unhex(flags)?);
        let context = TraceContext::valid(trace, span)?;
        Some(Self { context, sampled: flags & 1 == 1 })
    }
}

/// 64 random bits, never 0: keyed hashes under keys that the system's randomness gives each thread. Ids must differ, and need
/// not be secret.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one("trace ids").max(1)
}

/// Exactly so many bytes; only lower-case digits, as the specification asks.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[track_caller]
    fn check(text: &str, expected: Option<bool>) {
        let parent = TraceParent::parse(text);
        assert_eq!(parent.map(|parent| parent.sampled), expected, "{text}");
        if let Some(parent) = parent {
            assert_eq!(format!("{:?}", parent.context), format!("{TRACE}-{SPAN}"), "{text}");
        }
    }

    #[test]
    fn a_traceparent_is_read_as_the_specification_says() {
        check(&format!("00-{TRACE}-{SPAN}-01"), Some(true));
        check(&format!(" 00-{TRACE}-{SPAN}-01\t"), Some(true));
        check(&format!("00-{TRACE}-{SPAN}-00"), Some(false));
        // Flags of later versions of the specification beside ours.
        check(&format!("00-{TRACE}-{SPAN}-03"), Some(true));
        check(&format!("00-{TRACE}-{SPAN}-fe"), Some(false));
        // A later version may say more, this one may not.
        check(&format!("cc-{TRACE}-{SPAN}-01-more"), Some(true));
        check(&format!("00-{TRACE}-{SPAN}-01-more"), None);
        check(&format!("00-{TRACE}-{SPAN}-01-"), None);
        check(&format!("ff-{TRACE}-{SPAN}-01"), None);
        for broken in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "a".repeat(30)),
            format!("00-{TRACE}00-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01"),
        ] {
            check(&broken, None);
        }
    }

    #[test]
    fn contexts_survive_a_message_and_differ() {
        let root = TraceContext::root();
        assert_eq!(TraceContext::from_bytes(&root.to_bytes()), Some(root));
        let child = root.child();
        assert_eq!(child.trace_id(), root.trace_id());
        assert_ne!(child, root);
        assert_eq!(root.trace_id().len(), 32);
        assert_ne!(TraceContext::root().trace_id(), root.trace_id());
        let mut bytes = root.to_bytes();
        bytes[16..].fill(0);
        assert_eq!(TraceContext::from_bytes(&bytes), None);
        assert_eq!(TraceContext::from_bytes(&[0; 24]), None);
    }
}
