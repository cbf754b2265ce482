//! A fact: one thing that happened to one mail or one person, as its sender tells it.

use std::borrow::Cow;

use crate::{EmailAddress, EventId, Hash128, MachineCheck, PersonId, Timestamp, UserId, WorkspaceId};

/// What kind of fact it is: the nine types that `POST /v1/events` takes, and two that only Segment's own SDKs send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FactKind {
    /// The receiving server accepted the mail.
    EmailDelivered,
    /// The mail's pixel was fetched.
    EmailOpened,
    /// The receiving server refused the mail, at once or later.
    EmailBounced,
    /// The recipient reported the mail as spam.
    EmailReportedAsSpam,
    /// A tracked link was fetched.
    LinkClicked,
    /// The recipient asked for no more mail.
    EmailUnsubscribed,
    /// The sender says who a person is.
    Identify,
    /// A page was seen.
    Page,
    /// A person belongs to a group.
    Group,
    /// A track of the sender's own: passed on under its own name, with identity resolved.
    CustomTrack,
    /// A screen of an app was seen; passed on likewise.
    Screen,
}

impl FactKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::EmailDelivered,
        Self::EmailOpened,
        Self::EmailBounced,
        Self::EmailReportedAsSpam,
        Self::LinkClicked,
        Self::EmailUnsubscribed,
        Self::Identify,
        Self::Page,
        Self::Group,
        Self::CustomTrack,
        Self::Screen,
    ];

    /// The kinds that `POST /v1/events` takes.
    pub const OF_EVENTS: [Self; 9] = [
        Self::EmailDelivered,
        Self::EmailOpened,
        Self::EmailBounced,
        Self::EmailReportedAsSpam,
        Self::LinkClicked,
        Self::EmailUnsubscribed,
        Self::Identify,
        Self::Page,
        Self::Group,
    ];

    /// The name in the ingest API (`type`), or in the manner of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EmailDelivered => "email_delivered",
            Self::EmailOpened => "email_opened",
            Self::EmailBounced => "email_bounced",
            Self::EmailReportedAsSpam => "email_reported_as_spam",
            Self::LinkClicked => "link_clicked",
            Self::EmailUnsubscribed => "email_unsubscribed",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Group => "group",
            Self::CustomTrack => "custom_track",
            Self::Screen => "screen",
        }
    }

    /// The kind of a `type` that `POST /v1/events` takes, exactly as written there.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::OF_EVENTS.into_iter().find(|kind| kind.name() == name)
    }
}

/// Why a mail bounced, in the classes that reports are made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BounceClass {
    /// The address does not exist.
    Hard,
    /// Given up after a temporary fault (mailbox full, server away).
    Soft,
    /// Refused for reputation or policy.
    Block,
    /// The sender does not say.
    #[default]
    Undetermined,
}

impl BounceClass {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Hard, Self::Soft, Self::Block, Self::Undetermined];

    /// The name in the ingest API and in `bounce_class` at Segment.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
            Self::Block => "block",
            Self::Undetermined => "undetermined",
        }
    }

    /// The class of a name. Unknown words are [`BounceClass::Undetermined`]: providers invent new ones.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|class| class.name().eq_ignore_ascii_case(name)).unwrap_or_default()
    }
}

/// What a clicked link is for. Clicks on the mail's own housekeeping links say nothing about interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LinkKind {
    /// Content: its clicks count.
    #[default]
    Content,
    /// The unsubscribe link.
    Unsubscribe,
    /// The preference page.
    Preference,
}

impl LinkKind {
    /// The name in the ingest API and in `link_kind` at Segment; content links have none.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Content => None,
            Self::Unsubscribe => Some("unsubscribe"),
            Self::Preference => Some("preference"),
        }
    }
}

/// Which mail a fact is about, and how surely that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MailRef {
    /// The delivery key `D`: workspace, campaign run, email and person.
    pub key: Hash128,
    /// Whether the sender named the mail at all (a run, an email or a provider's message id). When not, facts that
    /// happen once per mail are told apart by their event id only; opens and clicks count as of one mail per person.
    pub known: bool,
}

impl MailRef {
    /// The delivery key of a fact. The provider's message id takes the place of a missing run or email id.
    #[must_use]
    pub fn new(person: Hash128, run: Option<&str>, email: Option<&str>, provider_message: Option<&str>) -> Self {
        let run = run.or(provider_message);
        let email = email.or(provider_message);
        let person = person.to_bytes();
        let parts = [[&person[..], b""], part(run), part(email)];
        let key = Hash128::pieces("delivery", parts.into_iter());
        Self { key, known: run.is_some() || email.is_some() }
    }
}

/// A part of a key that may be absent. An absent part is empty, a present one begins with a sign: an empty text is not
/// an absent one.
fn part(text: Option<&str>) -> [&[u8]; 2] {
    text.map_or([b"", b""], |text| [b"=", text.as_bytes()])
}

/// A clicked link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LinkRef {
    /// The link key `L`, unique within one mail.
    pub key: u64,
    /// The address as clicked, kept for the event that may complete only when the mail is opened.
    pub url: Box<str>,
}

impl LinkRef {
    /// The link of a click: `link_id` tells links apart when the sender has one, else the normalised address.
    #[must_use]
    pub fn new(link_id: Option<&str>, url: &str) -> Self {
        let key = match link_id {
            Some(id) => Hash128::of("link id", &[id.as_bytes()]),
            None => Hash128::of("link url", &[normalise_url(url).as_bytes()]),
        };
        Self { key: key.high(), url: url.into() }
    }
}

/// What the fold needs of a fact, and nothing more: keys instead of texts, so that the identity stage neither hashes
/// nor copies what it only passes on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Head {
    /// Whose fact it is.
    pub workspace: WorkspaceId,
    /// Kind of the fact.
    pub kind: FactKind,
    /// Key of the sender's event id, within the workspace.
    pub event: Hash128,
    /// Key of the person, within the workspace.
    pub person: Hash128,
    /// The user id this fact gives as evidence.
    pub user: Option<UserId>,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// Which mail.
    pub mail: MailRef,
    /// Which link, for clicks.
    pub link: Option<LinkRef>,
    /// What the link is for.
    pub link_kind: LinkKind,
    /// Whether a machine did it, of opens and clicks, and what to do then.
    pub machine: MachineCheck,
    /// Class of a bounce.
    pub bounce_class: BounceClass,
    /// Key of an unsubscribe's scope (all mail, one list).
    pub scope: u64,
    /// Whether an identify carries traits worth sending again.
    pub has_traits: bool,
}

impl Head {
    /// The key of an event id within its workspace.
    #[must_use]
    pub fn event_key(workspace: &WorkspaceId, event: &EventId) -> Hash128 {
        Hash128::of("event", &[workspace.as_str().as_bytes(), event.as_str().as_bytes()])
    }

    /// The key of a person within its workspace.
    #[must_use]
    pub fn person_key(workspace: &WorkspaceId, person: &PersonId) -> Hash128 {
        Hash128::of("person", &[workspace.as_str().as_bytes(), person.as_str().as_bytes()])
    }

    /// The key of an unsubscribe's scope.
    #[must_use]
    pub fn scope_key(scope: Option<&str>) -> u64 {
        Hash128::of("scope", &[scope.unwrap_or_default().as_bytes()]).high()
    }
}

/// What a fact says beyond its head: passed on unread by identity, rendered by delivery. Its texts are borrowed from the
/// request or message they came in, where they can be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the ingest API's own, documented in the contract")]
pub struct Body<'a> {
    pub event_id: EventId,
    pub person: PersonId,
    /// Whether the sender named only the address, and an identify had said whose it is.
    pub routed_by_address: bool,
    pub email: Option<EmailAddress>,
    pub email_id: Option<Cow<'a, str>>,
    pub campaign_id: Option<Cow<'a, str>>,
    pub campaign_run_id: Option<Cow<'a, str>>,
    pub campaign_name: Option<Cow<'a, str>>,
    pub email_subject: Option<Cow<'a, str>>,
    pub email_link_url: Option<Cow<'a, str>>,
    pub link_id: Option<Cow<'a, str>>,
    pub link_kind: LinkKind,
    pub is_machine: bool,
    pub machine_reason: Option<Cow<'a, str>>,
    /// Version of the rules by which it was judged whether a machine did it; 0: nobody judged, or the sender said it.
    pub classifier_version: u32,
    pub bounce_class: Option<BounceClass>,
    pub bounce_reason: Option<Cow<'a, str>>,
    pub unsubscribe_scope: Option<Cow<'a, str>>,
    pub provider: Option<Cow<'a, str>>,
    pub provider_message_id: Option<Cow<'a, str>>,
    pub group_id: Option<Cow<'a, str>>,
    pub name: Option<Cow<'a, str>>,
    pub url: Option<Cow<'a, str>>,
    pub title: Option<Cow<'a, str>>,
    pub referrer: Option<Cow<'a, str>>,
    /// Name of a custom track.
    pub event: Option<Cow<'a, str>>,
    /// Category of a page or screen.
    pub category: Option<Cow<'a, str>>,
    /// A checked JSON object as text, without its braces; empty when there is none.
    pub properties: Cow<'a, str>,
    /// A checked JSON object as text, without its braces; empty when there is none.
    pub traits: Cow<'a, str>,
    /// The context that a Segment SDK gave, likewise; passed on where the call is the sender's own.
    pub context: Cow<'a, str>,
    /// The sender's switches of destinations, likewise.
    pub integrations: Cow<'a, str>,
}

impl Body<'_> {
    /// Which mail it is about, of the person with this key.
    #[must_use]
    pub fn mail(&self, person: Hash128) -> MailRef {
        MailRef::new(
            person,
            self.campaign_run_id.as_deref(),
            self.email_id.as_deref(),
            self.provider_message_id.as_deref(),
        )
    }

    /// A body of which nothing else is known.
    #[must_use]
    pub fn new(event_id: EventId, person: PersonId) -> Self {
        Self {
            event_id,
            person,
            routed_by_address: false,
            email: None,
            email_id: None,
            campaign_id: None,
            campaign_run_id: None,
            campaign_name: None,
            email_subject: None,
            email_link_url: None,
            link_id: None,
            link_kind: LinkKind::Content,
            is_machine: false,
            machine_reason: None,
            classifier_version: 0,
            bounce_class: None,
            bounce_reason: None,
            unsubscribe_scope: None,
            provider: None,
            provider_message_id: None,
            group_id: None,
            name: None,
            url: None,
            title: None,
            referrer: None,
            event: None,
            category: None,
            properties: Cow::Borrowed(""),
            traits: Cow::Borrowed(""),
            context: Cow::Borrowed(""),
            integrations: Cow::Borrowed(""),
        }
    }

    /// The same, free of what it was read from.
    #[must_use]
    pub fn into_owned(self) -> Body<'static> {
        let owned = |text: Option<Cow<'_, str>>| text.map(|text| Cow::Owned(text.into_owned()));
        Body {
            event_id: self.event_id,
            person: self.person,
            routed_by_address: self.routed_by_address,
            email: self.email,
            link_kind: self.link_kind,
            is_machine: self.is_machine,
            classifier_version: self.classifier_version,
            bounce_class: self.bounce_class,
            email_id: owned(self.email_id),
            campaign_id: owned(self.campaign_id),
            campaign_run_id: owned(self.campaign_run_id),
            campaign_name: owned(self.campaign_name),
            email_subject: owned(self.email_subject),
            email_link_url: owned(self.email_link_url),
            link_id: owned(self.link_id),
            machine_reason: owned(self.machine_reason),
            bounce_reason: owned(self.bounce_reason),
            unsubscribe_scope: owned(self.unsubscribe_scope),
            provider: owned(self.provider),
            provider_message_id: owned(self.provider_message_id),
            group_id: owned(self.group_id),
            name: owned(self.name),
            url: owned(self.url),
            title: owned(self.title),
            referrer: owned(self.referrer),
            event: owned(self.event),
            category: owned(self.category),
            properties: Cow::Owned(self.properties.into_owned()),
            traits: Cow::Owned(self.traits.into_owned()),
            context: Cow::Owned(self.context.into_owned()),
            integrations: Cow::Owned(self.integrations.into_owned()),
        }
    }
}

/// One checked fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact<'a> {
    /// What decisions are made from.
    pub head: Head,
    /// What is passed on.
    pub body: Body<'a>,
}

/// The form under which equal links compare equal: scheme and host in lower case, no default port, no fragment,
/// percent-encoding in one form. Queries stay: `utm_*` and the like tell links of one mail apart.
fn normalise_url(url: &str) -> Cow<'_, str> {
    let url = url.split_once('#').map_or(url, |(before, _)| before);
    let Some((scheme, rest)) = url.split_once("://") else { return normalise_escapes(url).into() };
    let host_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at_checked(host_end).unwrap_or((rest, ""));
    let is_lower = |text: &str| !text.bytes().any(|byte| byte.is_ascii_uppercase());
    // As most links are written.
    if is_lower(scheme) && is_lower(host) && !host.contains(':') && !path.is_empty() && !path.contains('%') {
        return url.into();
    }
    let (scheme, host) = (scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    let host = host.strip_suffix(default_port).unwrap_or(&host);
    let path = if path.is_empty() { "/".to_owned() } else { normalise_escapes(path) };
    format!("{scheme}://{host}{path}").into()
}

/// RFC 3986, 6.2.2.2: escapes of unreserved characters are decoded, the others get upper-case digits.
fn normalise_escapes(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escape = match tail {
            [high, low, ..] if byte == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        if let Some((high, low)) = escape {
            let decoded = high * 16 + low;
            if decoded.is_ascii_alphanumeric() || b"-._~".contains(&decoded) {
                out.push(decoded);
            } else {
                out.push(b'%');
                out.extend(tail.iter().take(2).map(u8::to_ascii_uppercase));
            }
            rest = tail.get(2..).unwrap_or_default();
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_links_have_one_key() {
        let key = |url: &str| LinkRef::new(None, url).key;
        for (one, other) in [
            ("https://Example.com/a", "HTTPS://example.COM:443/a#top"),
            ("http://example.com", "http://example.com:80/"),
            ("https://example.com/%7ejane%2fx", "https://example.com/~jane%2Fx"),
        ] {
            assert_eq!(key(one), key(other), "{one} {other}");
        }
        for (one, other) in [
            ("https://example.com/a", "https://example.com/A"),
            ("https://example.com/a?utm_source=x", "https://example.com/a"),
            ("https://example.com/a", "http://example.com/a"),
        ] {
            assert_ne!(key(one), key(other), "{one} {other}");
        }
        assert_eq!(LinkRef::new(Some("l1"), "https://a").key, LinkRef::new(Some("l1"), "https://b").key);
    }

    #[test]
    fn a_providers_message_id_stands_in_for_what_is_missing() {
        let person = Hash128::of("t", &[]);
        let full = MailRef::new(person, Some("r"), Some("e"), Some("m"));
        assert_eq!(full, MailRef::new(person, Some("r"), Some("e"), None));
        assert_eq!(MailRef::new(person, None, Some("e"), Some("m")), MailRef::new(person, Some("m"), Some("e"), None));
        assert!(!MailRef::new(person, None, None, None).known);
        assert_ne!(MailRef::new(person, Some("x"), None, None).key, MailRef::new(person, None, Some("x"), None).key);
    }

    #[test]
    fn names_are_exact() {
        for kind in FactKind::ALL {
            assert_eq!(FactKind::from_name(kind.name()), FactKind::OF_EVENTS.contains(&kind).then_some(kind));
        }
        assert_eq!(FactKind::from_name("Email_Opened"), None);
        assert_eq!(BounceClass::from_name("HARD"), BounceClass::Hard);
        assert_eq!(BounceClass::from_name("weird"), BounceClass::Undetermined);
    }
}
