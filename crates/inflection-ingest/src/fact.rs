//! From what a sender claims to a fact of the domain, or a rejection that says what to change.

use std::borrow::Cow;

use inflection_domain::{
    Body, BounceClass, EmailAddress, EventId, Fact, FactKind, Hash128, Head, InstallationKey, InvalidAddress,
    InvalidId, InvalidTimestamp, LinkKind, LinkRef, MachineCheck, MachineRules, OUR_PROPERTIES, PersonId, Timestamp,
    UserId, WorkspaceId, is_blocked_user_id, is_placeholder,
};

use crate::answer::Code;
use crate::input::Input;
use crate::json::{Fault, Reader, Value};
use crate::machine::{self, Clock, Who};

/// Most bytes of one event as written.
pub(crate) const EVENT_BYTES_MAX: usize = 32 * 1024;
/// Most bytes of a text field; of a link the same.
const TEXT_BYTES_MAX: usize = 8 * 1024;
/// Most keys of `properties` or `traits`, nested ones included: Unify drops events with more than 300, ours included.
const KEYS_MAX: usize = 250;
/// Most bytes of texts in an item: 32,000 (Segment), less names, ids, context and punctuation of the largest call.
const ITEM_TEXT_BYTES_MAX: usize = 32_000 - 2_200;
/// A fact may be this far ahead of our clock.
pub(crate) const AHEAD_MAX_MS: i64 = 5 * 60 * 1000;
/// A fact may be this old.
pub(crate) const AGE_MAX_MS: i64 = 366 * 24 * 3600 * 1000;
/// A fact of a history that is imported may be this old: 20 years.
pub(crate) const HISTORY_AGE_MAX_MS: i64 = 20 * AGE_MAX_MS;

/// Why one event is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Rejection {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// What is known beside the event itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) workspace: &'a WorkspaceId,
    pub(crate) key: &'a InstallationKey,
    pub(crate) now: Timestamp,
    pub(crate) machine: &'a MachineRules,
}

impl Context<'_> {
    /// Whether a fact may have happened then: in the past year, or as little ahead as clocks differ.
    pub(crate) fn is_in_range(&self, at: Timestamp) -> bool {
        self.is_within(at, AGE_MAX_MS)
    }

    fn is_within(&self, at: Timestamp, age_max_ms: i64) -> bool {
        (-age_max_ms..=AHEAD_MAX_MS).contains(&(at.as_ms() - self.now.as_ms()))
    }
}

/// Checks everything a sender claims of a fact that may be so old. Texts are moved or borrowed, never copied.
pub(crate) fn check<'a>(input: &mut Input<'a>, context: Context<'_>, age_max_ms: i64) -> Result<Fact<'a>, Rejection> {
    let properties = members("properties", input.properties.as_ref())?;
    let traits = members("traits", input.traits.as_ref())?;
    check_size(input.bytes)?;
    let kind = kind(input)?;
    let occurred_at = timestamp(input, context, age_max_ms)?;
    no_claims(input)?;
    refuse_reserved(properties)?;
    let outline = Outline { properties: properties.into(), traits: traits.into(), ..Outline::new(kind, occurred_at) };
    complete(input, outline, context)
}

/// What is known of a fact before its identity and its texts are read. Objects are members without braces.
#[derive(Debug)]
pub(crate) struct Outline<'a> {
    pub(crate) kind: FactKind,
    pub(crate) occurred_at: Timestamp,
    pub(crate) clock: Clock,
    pub(crate) event: Option<Cow<'a, str>>,
    pub(crate) category: Option<Cow<'a, str>>,
    pub(crate) properties: Cow<'a, str>,
    pub(crate) traits: Cow<'a, str>,
    pub(crate) context: Cow<'a, str>,
    pub(crate) integrations: Cow<'a, str>,
}

impl Outline<'_> {
    /// Of a fact that says nothing more than when it happened.
    pub(crate) fn new(kind: FactKind, occurred_at: Timestamp) -> Self {
        let none = Cow::Borrowed("");
        let (properties, traits, context, integrations) = (none.clone(), none.clone(), none.clone(), none);
        let clock = Clock::Sender;
        Self { kind, occurred_at, clock, event: None, category: None, properties, traits, context, integrations }
    }
}

pub(crate) fn check_size(event_bytes: usize) -> Result<(), Rejection> {
    if event_bytes > EVENT_BYTES_MAX {
        return Err(Rejection::new(Code::EventTooLarge, format!("an event may be {EVENT_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// Checks the rest: who it is about, the texts, and whether its calls will fit. Every door's facts come through here.
pub(crate) fn complete<'a>(
    input: &mut Input<'a>,
    outline: Outline<'a>,
    context: Context<'_>,
) -> Result<Fact<'a>, Rejection> {
    let kind = outline.kind;
    let identity = identity(input, context)?;
    let texts = texts(input)?;
    if kind == FactKind::Group && texts.group_id.is_none() {
        return Err(Rejection::new(Code::MissingField, "group_id is required for a group"));
    }
    if kind == FactKind::LinkClicked && texts.email_link_url.is_none() {
        return Err(Rejection::new(Code::MissingField, "email_link_url is required for a click"));
    }
    let who = Who::read(input)?;
    let judged = machine::judge(kind, &who, texts.provider.is_some(), outline.clock, context.machine);
    let event_id = match &input.id {
        Some(value) => event_id(value)?,
        None => derived_id(kind, outline.occurred_at, &identity, &texts, &who, [&outline.properties, &outline.traits]),
    };
    let body = Body {
        event_id,
        person: identity.person,
        routed_by_address: false,
        email: identity.email,
        is_machine: judged.is_machine,
        machine_reason: judged.reason.map(Cow::Borrowed),
        classifier_version: judged.classifier_version,
        bounce_class: (kind == FactKind::EmailBounced)
            .then(|| texts.bounce_class.as_deref().map(BounceClass::from_name).unwrap_or_default()),
        email_id: texts.email_id,
        campaign_id: texts.campaign_id,
        campaign_run_id: texts.campaign_run_id,
        campaign_name: texts.campaign_name,
        email_subject: texts.email_subject,
        email_link_url: texts.email_link_url.filter(|_| kind == FactKind::LinkClicked),
        link_id: texts.link_id,
        link_kind: link_kind(texts.link_kind.as_deref()),
        bounce_reason: texts.bounce_reason,
        unsubscribe_scope: texts.unsubscribe_scope,
        provider: texts.provider,
        provider_message_id: texts.provider_message_id,
        group_id: texts.group_id,
        name: texts.name,
        url: texts.url,
        title: texts.title,
        referrer: texts.referrer,
        event: outline.event,
        category: outline.category,
        properties: outline.properties,
        traits: outline.traits,
        context: outline.context,
        integrations: outline.integrations,
    };
    let fact = assemble(kind, outline.occurred_at, identity.user, body, judged.check, context.workspace);
    fits_an_item(input.bytes, &fact)?;
    Ok(fact)
}

/// Computes the keys that identity decides by.
#[inline]
fn assemble<'a>(
    kind: FactKind,
    occurred_at: Timestamp,
    user: Option<UserId>,
    body: Body<'a>,
    machine: MachineCheck,
    workspace: &WorkspaceId,
) -> Fact<'a> {
    let person = Head::person_key(workspace, &body.person);
    let head = Head {
        workspace: workspace.clone(),
        kind,
        event: Head::event_key(workspace, &body.event_id),
        person,
        user,
        occurred_at,
        mail: body.mail(person),
        link: body.email_link_url.as_deref().map(|url| LinkRef::new(body.link_id.as_deref(), url)),
        link_kind: body.link_kind,
        machine,
        bounce_class: body.bounce_class.unwrap_or_default(),
        // Nothing else is told apart by it.
        scope: if kind == FactKind::EmailUnsubscribed { Head::scope_key(body.unsubscribe_scope.as_deref()) } else { 0 },
        has_traits: !body.traits.is_empty(),
    };
    Fact { head, body }
}

fn kind(input: &Input<'_>) -> Result<FactKind, Rejection> {
    match &input.kind {
        None => Err(Rejection::new(Code::MissingField, "type is missing")),
        Some(Value::Text(name)) => FactKind::from_name(name).ok_or_else(|| {
            let known = FactKind::OF_EVENTS.map(FactKind::name).join(", ");
            Rejection::new(Code::UnknownEvent, format!("type is none of {known}"))
        }),
        Some(_) => Err(bad_type("type", "a string")),
    }
}

fn timestamp(input: &Input<'_>, context: Context<'_>, age_max_ms: i64) -> Result<Timestamp, Rejection> {
    let Some(value) = &input.timestamp else {
        return Err(Rejection::new(Code::MissingField, "timestamp is missing"));
    };
    let at = moment("timestamp", value, "an RFC 3339 string with a zone, or epoch milliseconds")?;
    if context.is_within(at, age_max_ms) {
        Ok(at)
    } else {
        let age = if age_max_ms == AGE_MAX_MS { "a year" } else { "20 years" };
        let message = format!("timestamp is more than 5 minutes ahead of our clock or more than {age} old");
        Err(Rejection::new(Code::TimestampOutOfRange, message))
    }
}

/// Flags that we decide are allowed in an event, as other systems' exports carry them, but only as what they are.
fn no_claims(input: &Input<'_>) -> Result<(), Rejection> {
    flag("is_unique_open", input.is_unique_open.as_ref())?;
    flag("is_unique_click", input.is_unique_click.as_ref())?;
    Ok(())
}

fn refuse_reserved(properties: &str) -> Result<(), Rejection> {
    if properties.is_empty() {
        return Ok(());
    }
    let mut refused = None;
    let walked: Result<(), Fault> = Reader::of(properties).members(|key, reader| {
        let value = reader.value(2)?;
        if OUR_PROPERTIES.contains(&&*key) && refused.is_none() {
            let no_flag = key.starts_with("is_unique") && !matches!(value, Value::Bool(_));
            refused = Some(if no_flag {
                bad_type(&format!("properties.{key}"), "a boolean")
            } else {
                Rejection::new(Code::ReservedProperty, format!("properties.{key} is a name of ours"))
            });
        }
        Ok(())
    });
    // The text was checked when the event was read.
    debug_assert_eq!(walked, Ok(()));
    refused.map_or(Ok(()), Err)
}

/// Who a fact is about.
struct Identity {
    person: PersonId,
    user: Option<UserId>,
    email: Option<EmailAddress>,
}

fn identity(input: &Input<'_>, context: Context<'_>) -> Result<Identity, Rejection> {
    let invalid = |field: &str, error: InvalidId| {
        let long = matches!(error, InvalidId::TooLong(_));
        let code = if long { Code::FieldTooLong } else { Code::ControlCharacter };
        Rejection::new(code, format!("{field} {error}"))
    };
    let email = match string("email", input.email.as_ref())? {
        None => None,
        Some(text) => Some(EmailAddress::new(text).map_err(|error| {
            let code = match error {
                InvalidAddress::ControlCharacter => Code::ControlCharacter,
                InvalidAddress::Malformed => Code::BadEmail,
            };
            Rejection::new(code, format!("email {error}"))
        })?),
    };
    let user = match string("user_id", input.user_id.as_ref())?.filter(|text| !is_blocked_user_id(text)) {
        None => None,
        Some(text) => Some(UserId::new(text).map_err(|error| invalid("user_id", error))?),
    };
    let person = match string("person_id", input.person_id.as_ref())?.filter(|text| !is_placeholder(text)) {
        Some(text) => PersonId::new(text).map_err(|error| invalid("person_id", error))?,
        None => match (&email, &user) {
            (Some(email), _) => PersonId::from_address(context.key, context.workspace, email),
            (None, Some(user)) => PersonId::from_user(context.key, context.workspace, user),
            (None, None) => {
                let message = "one of person_id, user_id and email must say who this is about";
                return Err(Rejection::new(Code::MissingIdentity, message));
            }
        },
    };
    Ok(Identity { person, user, email })
}

/// Optional texts, checked alike.
#[derive(Debug, Default)]
struct Texts<'a> {
    email_id: Option<Cow<'a, str>>,
    campaign_id: Option<Cow<'a, str>>,
    campaign_run_id: Option<Cow<'a, str>>,
    campaign_name: Option<Cow<'a, str>>,
    email_subject: Option<Cow<'a, str>>,
    email_link_url: Option<Cow<'a, str>>,
    link_id: Option<Cow<'a, str>>,
    link_kind: Option<Cow<'a, str>>,
    bounce_class: Option<Cow<'a, str>>,
    bounce_reason: Option<Cow<'a, str>>,
    unsubscribe_scope: Option<Cow<'a, str>>,
    provider: Option<Cow<'a, str>>,
    provider_message_id: Option<Cow<'a, str>>,
    group_id: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
    url: Option<Cow<'a, str>>,
    title: Option<Cow<'a, str>>,
    referrer: Option<Cow<'a, str>>,
}

// Inlined, like what puts it into a fact: it is half a kilobyte.
#[inline]
fn texts<'a>(input: &mut Input<'a>) -> Result<Texts<'a>, Rejection> {
    Ok(Texts {
        email_id: text("email_id", input.email_id.take())?,
        campaign_id: text("campaign_id", input.campaign_id.take())?,
        campaign_run_id: text("campaign_run_id", input.campaign_run_id.take())?,
        campaign_name: text("campaign_name", input.campaign_name.take())?,
        email_subject: text("email_subject", input.email_subject.take())?,
        email_link_url: text("email_link_url", input.email_link_url.take())?,
        link_id: text("link_id", input.link_id.take())?,
        link_kind: text("link_kind", input.link_kind.take())?,
        bounce_class: text("bounce_class", input.bounce_class.take())?,
        bounce_reason: text("bounce_reason", input.bounce_reason.take())?,
        unsubscribe_scope: text("unsubscribe_scope", input.unsubscribe_scope.take())?,
        provider: text("provider", input.provider.take())?,
        provider_message_id: text("provider_message_id", input.provider_message_id.take())?,
        group_id: text("group_id", input.group_id.take())?,
        name: text("name", input.name.take())?,
        url: text("url", input.url.take())?,
        title: text("title", input.title.take())?,
        referrer: text("referrer", input.referrer.take())?,
    })
}

fn link_kind(name: Option<&str>) -> LinkKind {
    match name {
        Some("unsubscribe") => LinkKind::Unsubscribe,
        Some("preference") => LinkKind::Preference,
        _ => LinkKind::Content,
    }
}

fn event_id(value: &Value<'_>) -> Result<EventId, Rejection> {
    let Value::Text(text) = value else { return Err(bad_type("id", "a string")) };
    EventId::new(&**text).map_err(|error| Rejection::new(Code::BadId, format!("id {error}")))
}

/// The id of an event without one: equal content has an equal id, so a repeat is a duplicate.
fn derived_id(
    kind: FactKind,
    at: Timestamp,
    identity: &Identity,
    texts: &Texts<'_>,
    who: &Who<'_>,
    members: [&str; 2],
) -> EventId {
    let Texts {
        email_id,
        campaign_id,
        campaign_run_id,
        campaign_name,
        email_subject,
        email_link_url,
        link_id,
        link_kind,
        bounce_class,
        bounce_reason,
        unsubscribe_scope,
        provider,
        provider_message_id,
        group_id,
        name,
        url,
        title,
        referrer,
    } = texts;
    let texts = [
        email_id,
        campaign_id,
        campaign_run_id,
        campaign_name,
        email_subject,
        email_link_url,
        link_id,
        link_kind,
        bounce_class,
        bounce_reason,
        unsubscribe_scope,
        provider,
        provider_message_id,
        group_id,
        name,
        url,
        title,
        referrer,
    ];
    let user = identity.user.as_ref().map_or("", |user| user.as_str());
    let email = identity.email.as_ref().map_or("", |email| email.as_str());
    let time = at.as_ms().to_le_bytes();
    let mut parts: Vec<&[u8]> =
        vec![kind.name().as_bytes(), &time, identity.person.as_str().as_bytes(), user.as_bytes(), email.as_bytes()];
    parts.extend(texts.iter().map(|text| text.as_deref().unwrap_or_default().as_bytes()));
    parts.extend(who.parts().iter().map(|text| text.as_bytes()));
    parts.extend(members.iter().map(|text| text.as_bytes()));
    parts.extend(who.later_parts().map(str::as_bytes));
    let id = format!("content-{}", Hash128::of("event content", &parts));
    EventId::new(id).unwrap_or_else(|_| unreachable_id())
}

/// `content-` and 32 hexadecimal digits are always an event id.
#[expect(clippy::expect_used, reason = "a constant that is an id")]
fn unreachable_id() -> EventId {
    EventId::new("content").expect("seven letters are an id")
}

/// Refuses an event whose call Segment would refuse: nothing is accepted that cannot be delivered.
fn fits_an_item(event_bytes: usize, fact: &Fact<'_>) -> Result<(), Rejection> {
    if event_bytes < ITEM_TEXT_BYTES_MAX / 6 {
        return Ok(()); // even if every byte needed an escape
    }
    let body = &fact.body;
    let texts = [
        &body.email_id,
        &body.campaign_id,
        &body.campaign_run_id,
        &body.campaign_name,
        &body.email_subject,
        &body.email_link_url,
        &body.link_id,
        &body.bounce_reason,
        &body.unsubscribe_scope,
        &body.provider,
        &body.provider_message_id,
        &body.group_id,
        &body.name,
        &body.url,
        &body.title,
        &body.referrer,
        &body.event,
        &body.category,
    ];
    let escaped = |text: &str| {
        text.bytes().map(|byte| if matches!(byte, b'"' | b'\\' | 0..=0x1f) { 6 } else { 1 }).sum::<usize>()
    };
    // The link may stand twice: as our property and under Segment's own name for it.
    let link = body.email_link_url.as_deref().map_or(0, escaped);
    let bytes = texts.iter().filter_map(|text| text.as_deref()).map(escaped).sum::<usize>()
        + link
        + body.properties.len()
        + body.traits.len()
        + body.context.len()
        + body.integrations.len();
    if bytes > ITEM_TEXT_BYTES_MAX {
        return Err(Rejection::new(
            Code::EventTooLarge,
            "the call made from this event would be larger than Segment takes",
        ));
    }
    Ok(())
}

pub(crate) fn bad_type(field: &str, wanted: &str) -> Rejection {
    Rejection::new(Code::BadType, format!("{field} must be {wanted}"))
}

/// A moment: RFC 3339 with a zone, or milliseconds since 1970. `wanted` is what is said of any other type.
pub(crate) fn moment(field: &str, value: &Value<'_>, wanted: &str) -> Result<Timestamp, Rejection> {
    let parsed = match value {
        Value::Text(text) => Timestamp::parse(text),
        Value::Number(number) => {
            number.parse().map_or(Err(InvalidTimestamp::NotMilliseconds), Timestamp::from_epoch_ms)
        }
        Value::Null | Value::Bool(_) | Value::Array | Value::Object { .. } => return Err(bad_type(field, wanted)),
    };
    parsed.map_err(|error| Rejection::new(Code::BadTimestamp, format!("{field} {error}")))
}

fn string<'v>(field: &str, value: Option<&'v Value<'_>>) -> Result<Option<&'v str>, Rejection> {
    match value {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(_) => Err(bad_type(field, "a string")),
    }
}

/// An optional text: empty counts as absent, NUL and excessive length are refused.
pub(crate) fn text<'a>(field: &str, value: Option<Value<'a>>) -> Result<Option<Cow<'a, str>>, Rejection> {
    let text = match value {
        None => return Ok(None),
        Some(Value::Text(text)) => text,
        Some(_) => return Err(bad_type(field, "a string")),
    };
    if text.len() > TEXT_BYTES_MAX {
        return Err(Rejection::new(Code::FieldTooLong, format!("{field} is longer than {TEXT_BYTES_MAX} bytes")));
    }
    if memchr::memchr(0, text.as_bytes()).is_some() {
        return Err(Rejection::new(Code::ControlCharacter, format!("{field} has a NUL character")));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

pub(crate) fn flag(field: &str, value: Option<&Value<'_>>) -> Result<Option<bool>, Rejection> {
    match value {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(bad_type(field, "a boolean")),
    }
}

fn members<'a>(field: &str, value: Option<&Value<'a>>) -> Result<&'a str, Rejection> {
    match value {
        Some(Value::Object { keys, .. }) if *keys > KEYS_MAX => {
            Err(Rejection::new(Code::TooManyFields, format!("{field} has more than {KEYS_MAX} keys")))
        }
        value => object(field, value),
    }
}

/// The members of an optional object.
pub(crate) fn object<'a>(field: &str, value: Option<&Value<'a>>) -> Result<&'a str, Rejection> {
    match value {
        None => Ok(""),
        Some(Value::Object { members, .. }) => Ok(members),
        Some(_) => Err(bad_type(field, "an object")),
    }
}
