//! From a call to facts. Tracks under the names of the email events become those; everything else is passed on as it is.

use std::borrow::Cow;

use inflection_domain::{
    CallKind, EmailAddress, Fact, FactKind, Hash128, PersonId, Timestamp, UserId, is_blocked_user_id, is_placeholder,
};

use super::batch::Envelope;
use super::clock;
use super::item::{Call, Item, object};
use crate::answer::Code;
use crate::fact::{Context, Outline, Rejection, bad_type, check_size, complete, text};
use crate::input::Input;
use crate::json::{Member, Value, members};

/// Most bytes of an event's name: more is no table of any warehouse.
const EVENT_NAME_BYTES_MAX: usize = 255;
/// Most bytes of a group's id: Unify drops calls with longer ones.
const GROUP_ID_BYTES_MAX: usize = 500;

/// What is known beside the item itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival<'e, 'a> {
    pub(super) context: Context<'e>,
    pub(super) envelope: &'e Envelope<'a>,
    /// An id that no other item has.
    pub(super) fresh_id: &'e str,
}

/// What becomes of an item.
#[derive(Debug)]
pub(super) enum Mapped<'a> {
    /// Its fact; and of an identify perhaps a second one.
    Facts(Vec<Fact<'a>>),
    /// Nothing, and why.
    Ignored(Ignored),
}

/// Why an item that is in order is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ignored {
    /// One of the three events that we derive ourselves: taken as well, it would be told twice.
    DerivedEvent,
    /// An alias. Segment's own identity resolution does not use it, and its `previousId` may be a user's as well as an
    /// anonymous id; two users that are joined by a wrong guess stay joined.
    Alias,
}

impl Ignored {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DerivedEvent => "derived_event",
            Self::Alias => "alias",
        }
    }
}

/// What a track means by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Email(FactKind),
    Derived,
    Custom,
}

/// Names as Inflection documents them, and as Segment's email specification has them.
fn meaning(event: &str) -> Meaning {
    match event {
        "Email Delivered" => Meaning::Email(FactKind::EmailDelivered),
        "Email Opened" => Meaning::Email(FactKind::EmailOpened),
        "Email Bounced" => Meaning::Email(FactKind::EmailBounced),
        "Email Reported as Spam" | "Email Marked as Spam" => Meaning::Email(FactKind::EmailReportedAsSpam),
        "Link Clicked" | "Email Link Clicked" => Meaning::Email(FactKind::LinkClicked),
        "Email Unsubscribed" | "Unsubscribed" => Meaning::Email(FactKind::EmailUnsubscribed),
        name if CallKind::ALL.iter().any(|kind| kind.is_derived() && kind.event_name() == Some(name)) => {
            Meaning::Derived
        }
        _ => Meaning::Custom,
    }
}

/// Makes facts of an item.
pub(super) fn map<'a>(call: Call, item: &Item<'a>, arrival: Arrival<'_, 'a>) -> Result<Mapped<'a>, Rejection> {
    check_size(item.written.len())?;
    let fact = match call {
        Call::Alias => return Ok(Mapped::Ignored(Ignored::Alias)),
        Call::Track => {
            let event = text("event", item.event.clone())?.filter(|event| !event.trim().is_empty());
            let event = event.ok_or_else(|| Rejection::new(Code::MissingField, "event is required for a track"))?;
            let properties = members(object("properties", item.properties.as_ref())?).unwrap_or_default();
            match meaning(&event) {
                Meaning::Derived => return Ok(Mapped::Ignored(Ignored::DerivedEvent)),
                Meaning::Email(kind) if !(event == "Link Clicked" && link(&properties)?.is_none()) => {
                    email_event(kind, item, properties, arrival)?
                }
                // A "Link Clicked" without a link is no mail's: many products call clicks of their own so.
                Meaning::Email(_) | Meaning::Custom => custom_track(event, item, arrival)?,
            }
        }
        Call::Identify => return identify(item, arrival).map(Mapped::Facts),
        Call::Page => view(FactKind::Page, item, arrival)?,
        Call::Screen => view(FactKind::Screen, item, arrival)?,
        Call::Group => group(item, arrival)?,
    };
    Ok(Mapped::Facts(vec![fact]))
}

/// A fact about a mail. The properties that have a name of ours become its fields; the others stay properties.
fn email_event<'a>(
    kind: FactKind,
    item: &Item<'a>,
    properties: Vec<Member<'a>>,
    arrival: Arrival<'_, 'a>,
) -> Result<Fact<'a>, Rejection> {
    let mut input = Input { user_agent: user_agent(item)?, ..identified(item, arrival)? };
    input.email_link_url = link(&properties)?;
    let (mut own, mut addresses, mut list) = (String::new(), [None, None], None);
    for member in properties {
        let slot = match &*member.key {
            "email_id" => &mut input.email_id,
            "campaign_id" => &mut input.campaign_id,
            "campaign_run_id" => &mut input.campaign_run_id,
            "campaign_name" => &mut input.campaign_name,
            "email_subject" => &mut input.email_subject,
            "link_id" => &mut input.link_id,
            "link_kind" => &mut input.link_kind,
            "bounce_class" => &mut input.bounce_class,
            "bounce_reason" => &mut input.bounce_reason,
            "unsubscribe_scope" => &mut input.unsubscribe_scope,
            "provider" => &mut input.provider,
            "provider_message_id" => &mut input.provider_message_id,
            "is_machine" => {
                input.is_machine = Some(member.value).filter(|value| *value != Value::Null);
                continue;
            }
            "userId" => &mut addresses[0],
            "email" => &mut addresses[1],
            // Read already, or ours to say.
            "email_link_url" | "link_url" | "event" | "email_event" | "prospect_id" | "is_unique_open"
            | "is_unique_click" | "open_source" | "machine_reason" => continue,
            other => {
                if other == "list_id" {
                    list = word(&member)?;
                }
                own.push_str(if own.is_empty() { "" } else { "," });
                own.push_str(member.written);
                continue;
            }
        };
        *slot = word(&member)?;
    }
    let scope = input.unsubscribe_scope.take().or(list);
    input.unsubscribe_scope = scope;
    let stated = addresses.into_iter().flatten().find_map(|value| address(Some(value)));
    input.email = context_email(item).or(stated).map(Value::Text);
    // What the mail's reader used is not passed on, whichever door the fact came by.
    let outline = Outline { properties: own.into(), context: "".into(), ..outline(kind, item, arrival)? };
    complete(input, outline, arrival.context)
}

fn custom_track<'a>(event: Cow<'a, str>, item: &Item<'a>, arrival: Arrival<'_, 'a>) -> Result<Fact<'a>, Rejection> {
    if event.len() > EVENT_NAME_BYTES_MAX {
        let message = format!("event is longer than {EVENT_NAME_BYTES_MAX} bytes");
        return Err(Rejection::new(Code::FieldTooLong, message));
    }
    let input = Input { email: context_email(item).map(Value::Text), ..passed_on(item, arrival)? };
    complete(input, Outline { event: Some(event), ..outline(FactKind::CustomTrack, item, arrival)? }, arrival.context)
}

fn view<'a>(kind: FactKind, item: &Item<'a>, arrival: Arrival<'_, 'a>) -> Result<Fact<'a>, Rejection> {
    let name = text("name", item.name.clone())?.map(Value::Text);
    let input = Input { name, email: context_email(item).map(Value::Text), ..passed_on(item, arrival)? };
    let category = text("category", item.category.clone())?;
    complete(input, Outline { category, ..outline(kind, item, arrival)? }, arrival.context)
}

fn group<'a>(item: &Item<'a>, arrival: Arrival<'_, 'a>) -> Result<Fact<'a>, Rejection> {
    let group_id = text("groupId", item.group_id.clone())?.filter(|id| !id.trim().is_empty());
    let group_id = group_id.ok_or_else(|| Rejection::new(Code::MissingField, "groupId is required for a group"))?;
    if group_id.len() > GROUP_ID_BYTES_MAX {
        return Err(Rejection::new(Code::FieldTooLong, format!("groupId is longer than {GROUP_ID_BYTES_MAX} bytes")));
    }
    let email = context_email(item).map(Value::Text);
    let input = Input { group_id: Some(Value::Text(group_id)), email, ..passed_on(item, arrival)? };
    complete(input, outline(FactKind::Group, item, arrival)?, arrival.context)
}

/// An identify, and, where it says whose an address is but not whose anonymous id, the same of the person that facts with
/// nothing but the address belong to: mail that is sent to it is then known to be the user's.
fn identify<'a>(item: &Item<'a>, arrival: Arrival<'_, 'a>) -> Result<Vec<Fact<'a>>, Rejection> {
    let traits = object("traits", item.traits.as_ref())?;
    let email = email_of(traits).or_else(|| context_email(item));
    let input = Input { email: email.clone().map(Value::Text), ..passed_on(item, arrival)? };
    let outline = outline(FactKind::Identify, item, arrival)?;
    let (occurred_at, integrations) = (outline.occurred_at, outline.integrations.clone());
    let fact = complete(input, outline, arrival.context)?;
    let personal = email.filter(|text| EmailAddress::new(text).is_ok_and(|address| !address.is_role()));
    let (Some(user), Some(email), None) = (&fact.head.user, personal, anonymous_id(item)?) else {
        return Ok(vec![fact]);
    };
    let id = format!("address-{}", Hash128::of("identify of an address", &[fact.body.event_id.as_str().as_bytes()]));
    let evidence = Input {
        id: Some(Value::Text(id.into())),
        user_id: Some(Value::Text(Cow::Owned(user.as_str().to_owned()))),
        email: Some(Value::Text(email)),
        ..Input::default()
    };
    let outline = Outline { integrations, ..Outline::new(FactKind::Identify, occurred_at) };
    let of_address = complete(evidence, outline, arrival.context)?;
    Ok(vec![fact, of_address])
}

/// Ids of the item: what every fact begins with.
fn identified<'a>(item: &Item<'a>, arrival: Arrival<'_, 'a>) -> Result<Input<'a>, Rejection> {
    Ok(Input {
        id: Some(Value::Text(event_id(item, arrival)?)),
        user_id: text("userId", item.user_id.clone())?.map(Value::Text),
        person_id: anonymous_id(item)?.map(Value::Text),
        bytes: item.written.len() + arrival.envelope.shared_bytes(),
        ..Input::default()
    })
}

/// The same for calls that are passed on. Without an anonymous id they are of the user's own person, whether or not one of
/// them names an address, so that they keep their order.
fn passed_on<'a>(item: &Item<'a>, arrival: Arrival<'_, 'a>) -> Result<Input<'a>, Rejection> {
    let mut input = identified(item, arrival)?;
    if let (None, Some(Value::Text(user))) = (&input.person_id, &input.user_id)
        && let Ok(user) = UserId::new(&**user)
        && !is_blocked_user_id(user.as_str())
    {
        let person = PersonId::from_user(arrival.context.key, arrival.context.workspace, &user);
        input.person_id = Some(Value::Text(Cow::Owned(person.as_str().to_owned())));
    }
    Ok(input)
}

fn anonymous_id<'a>(item: &Item<'a>) -> Result<Option<Cow<'a, str>>, Rejection> {
    Ok(text("anonymousId", item.anonymous_id.clone())?.filter(|id| !is_placeholder(id)))
}

/// The messageId, which an SDK keeps over its retries. Without one, a call that says when it happened is told apart by its
/// content; of one that does not, nobody could tell a repeat from a second occurrence, so it counts each time.
fn event_id<'a>(item: &Item<'a>, arrival: Arrival<'_, 'a>) -> Result<Cow<'a, str>, Rejection> {
    if let Some(id) = text("messageId", item.message_id.clone())? {
        return Ok(id);
    }
    let dated = item.timestamp.is_some() || item.original_timestamp.is_some();
    Ok(Cow::Owned(if dated {
        format!("content-{}", Hash128::of("segment item", &[item.written.as_bytes()]))
    } else {
        arrival.fresh_id.to_owned()
    }))
}

fn outline<'a>(kind: FactKind, item: &Item<'a>, arrival: Arrival<'_, 'a>) -> Result<Outline<'a>, Rejection> {
    let envelope = arrival.envelope;
    let occurred_at: Timestamp = clock::occurred_at(item, envelope.sent_at.as_ref(), arrival.context.now)?;
    let (properties, traits) = if matches!(kind, FactKind::Identify | FactKind::Group) {
        ("", object("traits", item.traits.as_ref())?)
    } else {
        (object("properties", item.properties.as_ref())?, "")
    };
    Ok(Outline {
        properties: properties.into(),
        traits: traits.into(),
        context: merged(object("context", item.context.as_ref())?, &envelope.context),
        integrations: merged(object("integrations", item.integrations.as_ref())?, &envelope.integrations),
        ..Outline::new(kind, occurred_at)
    })
}

/// The item's own members, and those of the envelope that it has none of.
fn merged<'a>(own: &'a str, shared: &[Member<'a>]) -> Cow<'a, str> {
    if shared.is_empty() {
        return Cow::Borrowed(own);
    }
    let known = members(own).unwrap_or_default();
    let missing = shared.iter().filter(|member| known.iter().all(|own| own.key != member.key));
    let parts: Vec<&str> =
        Some(own).filter(|own| !own.is_empty()).into_iter().chain(missing.map(|member| member.written)).collect();
    Cow::Owned(parts.join(","))
}

/// The address of a clicked link, under our name or Segment's.
fn link<'a>(properties: &[Member<'a>]) -> Result<Option<Value<'a>>, Rejection> {
    let named = |name: &str| properties.iter().find(|member| member.key == name);
    for member in [named("email_link_url"), named("link_url")].into_iter().flatten() {
        if let Some(link) = word(member)? {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// A property that is a text of ours. Ids are often numbers in the sender's database; they are taken as they are written.
fn word<'a>(member: &Member<'a>) -> Result<Option<Value<'a>>, Rejection> {
    match &member.value {
        Value::Null => Ok(None),
        Value::Text(text) => Ok(Some(Value::Text(text.clone())).filter(|_| !text.is_empty())),
        Value::Number(digits) => Ok(Some(Value::Text(Cow::Borrowed(digits)))),
        Value::Bool(_) | Value::Array | Value::Object { .. } => {
            Err(bad_type(&format!("properties.{}", member.key), "a string"))
        }
    }
}

fn user_agent<'a>(item: &Item<'a>) -> Result<Option<Value<'a>>, Rejection> {
    let context = members(object("context", item.context.as_ref())?).unwrap_or_default();
    let agent = context.into_iter().find(|member| matches!(&*member.key, "userAgent" | "user_agent"));
    Ok(agent.map(|member| member.value).filter(|value| matches!(value, Value::Text(_))))
}

/// The recipient's address in `context.traits`, where Segment's email specification wants it.
fn context_email<'a>(item: &Item<'a>) -> Option<Cow<'a, str>> {
    let context = members(object("context", item.context.as_ref()).ok()?).ok()?;
    let traits = context.into_iter().find(|member| member.key == "traits")?;
    let Value::Object { members, .. } = traits.value else { return None };
    email_of(members)
}

fn email_of<'a>(traits: &'a str) -> Option<Cow<'a, str>> {
    address(members(traits).ok()?.into_iter().find(|member| member.key == "email").map(|member| member.value))
}

/// A trait may be anything: what is no address says nothing of whose it is, and is passed on all the same.
fn address(value: Option<Value<'_>>) -> Option<Cow<'_, str>> {
    let Some(Value::Text(text)) = value else { return None };
    Some(text).filter(|text| EmailAddress::new(text).is_ok())
}
