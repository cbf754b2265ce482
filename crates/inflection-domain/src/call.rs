//! A call: one thing that Segment is told, and the ids under which it is told once.

use std::fmt;

use crate::{ConnectionId, Hash128, InstallationId, MachineTimes, WorkspaceId};

/// What Segment is told: the nine documented events, the sender's own tracks, and the calls that are no track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// `Email Delivered`
    EmailDelivered,
    /// `Email Opened`
    EmailOpened,
    /// `Email Unique Opens`
    EmailUniqueOpens,
    /// `Email Bounced`
    EmailBounced,
    /// `Email Reported as Spam`
    EmailReportedAsSpam,
    /// `Link Clicked`
    LinkClicked,
    /// `Unique Link Click`
    UniqueLinkClick,
    /// `Unique Link Click per Unique Open`
    UniqueLinkClickPerUniqueOpen,
    /// `Email Unsubscribed`
    EmailUnsubscribed,
    /// An identify call.
    Identify,
    /// A page call.
    Page,
    /// A group call.
    Group,
    /// A track of the sender's own, under its own name.
    CustomTrack,
    /// A screen call.
    Screen,
    /// `Email Machine Opened`, as Segment Engage calls it
    EmailMachineOpened,
    /// `Link Machine Clicked`
    LinkMachineClicked,
}

impl CallKind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::EmailDelivered,
        Self::EmailOpened,
        Self::EmailUniqueOpens,
        Self::EmailBounced,
        Self::EmailReportedAsSpam,
        Self::LinkClicked,
        Self::UniqueLinkClick,
        Self::UniqueLinkClickPerUniqueOpen,
        Self::EmailUnsubscribed,
        Self::Identify,
        Self::Page,
        Self::Group,
        Self::CustomTrack,
        Self::Screen,
        Self::EmailMachineOpened,
        Self::LinkMachineClicked,
    ];

    /// The name of an event at Segment, literally as Inflection documents it; `None` for calls that are none of the nine, nor
    /// of the two that take the place of raw ones where machines are told apart (`MachinePolicy::Separate`).
    #[must_use]
    pub fn event_name(self) -> Option<&'static str> {
        Some(match self {
            Self::EmailDelivered => "Email Delivered",
            Self::EmailOpened => "Email Opened",
            Self::EmailUniqueOpens => "Email Unique Opens",
            Self::EmailBounced => "Email Bounced",
            Self::EmailReportedAsSpam => "Email Reported as Spam",
            Self::LinkClicked => "Link Clicked",
            Self::UniqueLinkClick => "Unique Link Click",
            Self::UniqueLinkClickPerUniqueOpen => "Unique Link Click per Unique Open",
            Self::EmailUnsubscribed => "Email Unsubscribed",
            Self::EmailMachineOpened => "Email Machine Opened",
            Self::LinkMachineClicked => "Link Machine Clicked",
            Self::Identify | Self::Page | Self::Group | Self::CustomTrack | Self::Screen => return None,
        })
    }

    /// The name in configuration, logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EmailDelivered => "email_delivered",
            Self::EmailOpened => "email_opened",
            Self::EmailUniqueOpens => "email_unique_opens",
            Self::EmailBounced => "email_bounced",
            Self::EmailReportedAsSpam => "email_reported_as_spam",
            Self::LinkClicked => "link_clicked",
            Self::UniqueLinkClick => "unique_link_click",
            Self::UniqueLinkClickPerUniqueOpen => "unique_link_click_per_unique_open",
            Self::EmailUnsubscribed => "email_unsubscribed",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Group => "group",
            Self::CustomTrack => "custom_track",
            Self::Screen => "screen",
            Self::EmailMachineOpened => "email_machine_opened",
            Self::LinkMachineClicked => "link_machine_clicked",
        }
    }

    /// Whether the call is one of the three derived events.
    #[must_use]
    pub fn is_derived(self) -> bool {
        matches!(self, Self::EmailUniqueOpens | Self::UniqueLinkClick | Self::UniqueLinkClickPerUniqueOpen)
    }
}

/// Names of the properties we write ourselves. A sender's own value under one of them would shadow or be shadowed, so it
/// is refused; the first ten are Inflection's documented ones.
pub const OUR_PROPERTIES: [&str; 24] = [
    "event",
    "userId",
    "email_id",
    "campaign_id",
    "campaign_run_id",
    "campaign_name",
    "email_subject",
    "email_link_url",
    "is_unique_open",
    "is_unique_click",
    "email_event",
    "prospect_id",
    "is_machine",
    "machine_reason",
    "classifier_version",
    "bounce_class",
    "bounce_reason",
    "open_source",
    "link_id",
    "link_kind",
    "link_url",
    "provider",
    "provider_message_id",
    "unsubscribe_scope",
];

/// How a unique open came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenSource {
    /// A person's pixel.
    Pixel,
    /// A machine's pixel and a person's click: the click proves the open.
    ConfirmedByClick,
    /// A click alone, under the policy that a click implies an open.
    ImpliedByClick,
}

impl OpenSource {
    /// The value of `open_source` at Segment.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pixel => "pixel",
            Self::ConfirmedByClick => "confirmed_by_click",
            Self::ImpliedByClick => "implied_by_click",
        }
    }
}

/// What makes a call the same call: its kind and what it happens once for. It never contains the user id of a track,
/// so a fact that is processed again after its person became known keeps its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallKey(Hash128);

impl CallKey {
    /// The key of a call of `kind` that happens once for `once_for`.
    #[must_use]
    pub fn new(kind: CallKind, once_for: &[&[u8]]) -> Self {
        let parts = std::iter::once(kind.name().as_bytes()).chain(once_for.iter().copied());
        Self(Hash128::of_each("call", parts))
    }

    /// Bytes for the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    /// The inverse of [`CallKey::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Hash128::from_bytes(bytes))
    }
}

/// One call that identity decided on. Who it is about stands once in the [`crate::Decision`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What is told.
    pub kind: CallKind,
    /// What makes it the same call.
    pub key: CallKey,
    /// Whether an identify joins the person's anonymous id to the user id.
    pub links: bool,
    /// `is_unique_open` or `is_unique_click`, where the event has one.
    pub unique: Option<bool>,
    /// What times showed of a raw open or click: then it is a machine's, whatever its body says.
    pub machine: Option<MachineTimes>,
    /// `open_source`, on unique opens.
    pub open_source: Option<OpenSource>,
    /// The link of an earlier click, on a per-unique-open event that an open completed.
    pub link_url: Option<Box<str>>,
}

impl Call {
    /// A call without flags.
    #[must_use]
    pub fn plain(kind: CallKind, key: CallKey) -> Self {
        Self { kind, key, links: false, unique: None, machine: None, open_source: None, link_url: None }
    }
}

/// Segment's id of a call on one connection: `infl_` and 32 hexadecimal digits (Segment allows fewer than 100
/// characters and remembers ids across all its customers, so the installation and the connection go into it).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Hash128);

impl MessageId {
    /// The id of a call on a connection: stable over retries, replays, restarts and versions.
    #[must_use]
    pub fn new(
        installation: &InstallationId,
        workspace: &WorkspaceId,
        connection: &ConnectionId,
        call: CallKey,
    ) -> Self {
        Self(Hash128::of(
            "message",
            &[
                installation.as_str().as_bytes(),
                workspace.as_str().as_bytes(),
                connection.as_str().as_bytes(),
                &call.to_bytes(),
            ],
        ))
    }

    /// The id in ASCII.
    #[must_use]
    pub fn to_ascii(self) -> [u8; 37] {
        let mut text = *b"infl_00000000000000000000000000000000";
        if let Some((_prefix, digits)) = text.split_last_chunk_mut() {
            *digits = self.0.to_hex();
        }
        text
    }

    /// First half of the hash: the first sixteen digits after the prefix. Enough to tell calls of one process apart.
    #[must_use]
    pub fn high(self) -> u64 {
        self.0.high()
    }

    /// The same, of an id as text; 0 if it is none of ours.
    #[must_use]
    pub fn high_of(text: &str) -> u64 {
        let digits = text.strip_prefix("infl_").and_then(|digits| digits.get(..16));
        digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "infl_{}", self.0)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_are_frozen() {
        let installation = InstallationId::new("inst-1").unwrap();
        let workspace = WorkspaceId::new("acme").unwrap();
        let key = CallKey::new(CallKind::EmailOpened, &[b"event-1"]);
        let on = |connection: &str| {
            MessageId::new(&installation, &workspace, &ConnectionId::new(connection).unwrap(), key).to_string()
        };
        assert_eq!(on("prod"), "infl_99df3e7a26023136c1c143b9853a70f1");
        let prod = MessageId::new(&installation, &workspace, &ConnectionId::new("prod").unwrap(), key);
        assert_eq!(&prod.to_ascii(), b"infl_99df3e7a26023136c1c143b9853a70f1");
        assert_ne!(on("prod"), on("test"));
        assert!(on("prod").len() < 100);
        assert_eq!((MessageId::high_of(&on("prod")), MessageId::high_of("other")), (prod.high(), 0));
    }

    #[test]
    fn kinds_have_distinct_keys_and_names() {
        let keys: std::collections::HashSet<CallKey> =
            CallKind::ALL.iter().map(|kind| CallKey::new(*kind, &[b"x"])).collect();
        assert_eq!(keys.len(), CallKind::ALL.len());
        assert_eq!(CallKind::ALL.iter().filter_map(|kind| kind.event_name()).count(), 9 + 2);
    }
}
