//! From a call to facts. Tracks under the names of the email events become those; everything else is passed on as it is.

use std::borrow::Cow;

use inflection_domain::{
    EmailAddress, Fact, FactKind, Hash128, PersonId, UserId, is_blocked_user_id, is_placeholder, members,
};

use super::batch::Envelope;
use super::clock;
use super::item::{Call, Item};
use super::mail::{Meaning, email_event, meaning};
use super::shared::Merged;
use crate::answer::Code;
use crate::fact::{Context, Outline, Rejection, check_size, complete, object, text};
use crate::input::Input;
use crate::json::{Value, read_again};

/// Most bytes of an event's name: more is no table of any warehouse.
const EVENT_NAME_BYTES_MAX: usize = 255;
/// Most bytes of a group's id: Unify drops calls with longer ones.
const GROUP_ID_BYTES_MAX: usize = 500;

/// What is known beside the item itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival<'e, 'a> {
    pub(super) context: Context<'e>,
    pub(super) envelope: &'e Envelope<'a>,
    pub(super) call: Call,
    pub(super) request_id: &'e str,
    /// Which item of the request it is.
    pub(super) index: usize,
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

/// Makes facts of an item.
pub(super) fn map<'a>(item: &Item<'a>, arrival: Arrival<'_, 'a>) -> Result<Mapped<'a>, Rejection> {
    // Before anything is merged: what is refused must not have cost more than it brought.
    check_size(item.written.len() + arrival.envelope.shared_bytes())?;
    let context = || Ok(Merged::of(object("context", item.context.as_ref())?, &arrival.envelope.context));
    let fact = match arrival.call {
        Call::Alias => return Ok(Mapped::Ignored(Ignored::Alias)),
        Call::Track => {
            let event = text("event", item.event.clone())?.filter(|event| !event.trim().is_empty());
            let event = event.ok_or_else(|| Rejection::new(Code::MissingField, "event is required for a track"))?;
            match meaning(&event, object("properties", item.properties.as_ref())?) {
                Meaning::Derived => return Ok(Mapped::Ignored(Ignored::DerivedEvent)),
                Meaning::Email(kind) => email_event(kind, item, context()?, arrival)?,
                Meaning::Custom => custom_track(event, item, context()?, arrival)?,
            }
        }
        Call::Identify => return identify(item, context()?, arrival).map(Mapped::Facts),
        Call::Page => view(FactKind::Page, item, context()?, arrival)?,
        Call::Screen => view(FactKind::Screen, item, context()?, arrival)?,
        Call::Group => group(item, context()?, arrival)?,
    };
    Ok(Mapped::Facts(vec![fact]))
}

fn custom_track<'a>(
    event: Cow<'a, str>,
    item: &Item<'a>,
    context: Merged<'_, 'a>,
    arrival: Arrival<'_, 'a>,
) -> Result<Fact<'a>, Rejection> {
    if event.len() > EVENT_NAME_BYTES_MAX {
        let message = format!("event is longer than {EVENT_NAME_BYTES_MAX} bytes");
        return Err(Rejection::new(Code::FieldTooLong, message));
    }
    let mut input = Input { email: context_email(context).map(Value::Text), ..passed_on(item, arrival)? };
    let outline =
        Outline { event: Some(event), context: context.written(), ..outline(FactKind::CustomTrack, item, arrival)? };
    complete(&mut input, outline, arrival.context)
}

fn view<'a>(
    kind: FactKind,
    item: &Item<'a>,
    context: Merged<'_, 'a>,
    arrival: Arrival<'_, 'a>,
) -> Result<Fact<'a>, Rejection> {
    let name = text("name", item.name.clone())?.map(Value::Text);
    let mut input = Input { name, email: context_email(context).map(Value::Text), ..passed_on(item, arrival)? };
    let category = text("category", item.category.clone())?;
    let outline = Outline { category, context: context.written(), ..outline(kind, item, arrival)? };
    complete(&mut input, outline, arrival.context)
}

fn group<'a>(item: &Item<'a>, context: Merged<'_, 'a>, arrival: Arrival<'_, 'a>) -> Result<Fact<'a>, Rejection> {
    let group_id = text("groupId", item.group_id.clone())?.filter(|id| !id.trim().is_empty());
    let group_id = group_id.ok_or_else(|| Rejection::new(Code::MissingField, "groupId is required for a group"))?;
    if group_id.len() > GROUP_ID_BYTES_MAX {
        return Err(Rejection::new(Code::FieldTooLong, format!("groupId is longer than {GROUP_ID_BYTES_MAX} bytes")));
    }
    let email = context_email(context).map(Value::Text);
    let mut input = Input { group_id: Some(Value::Text(group_id)), email, ..passed_on(item, arrival)? };
    let outline = Outline { context: context.written(), ..outline(FactKind::Group, item, arrival)? };
    complete(&mut input, outline, arrival.context)
}

/// An identify, and, where it says whose an address is but not whose anonymous id, the same of the person that facts with
/// nothing but the address belong to: mail that is sent to it is then known to be the user's.
fn identify<'a>(
    item: &Item<'a>,
    context: Merged<'_, 'a>,
    arrival: Arrival<'_, 'a>,
) -> Result<Vec<Fact<'a>>, Rejection> {
    let traits = object("traits", item.traits.as_ref())?;
    let email = email_of(traits).or_else(|| context_email(context));
    let mut input = Input { email: email.clone().map(Value::Text), ..passed_on(item, arrival)? };
    let outline = Outline { context: context.written(), ..outline(FactKind::Identify, item, arrival)? };
    let (occurred_at, integrations) = (outline.occurred_at, outline.integrations.clone());
    let fact = complete(&mut input, outline, arrival.context)?;
    let personal = email.filter(|text| EmailAddress::new(text).is_ok_and(|address| !address.is_role()));
    let (Some(user), Some(email), None) = (&fact.head.user, personal, anonymous_id(item)?) else {
        return Ok(vec![fact]);
    };
    let id = format!("address-{}", Hash128::of("identify of an address", &[fact.body.event_id.as_str().as_bytes()]));
    let mut evidence = Input {
        id: Some(Value::Text(id.into())),
        user_id: Some(Value::Text(Cow::Owned(user.as_str().to_owned()))),
        email: Some(Value::Text(email)),
        ..Input::default()
    };
    let outline = Outline { integrations, ..Outline::new(FactKind::Identify, occurred_at) };
    let of_address = complete(&mut evidence, outline, arrival.context)?;
    Ok(vec![fact, of_address])
}

/// Ids of the item: what every fact begins with.
pub(super) fn identified<'a>(item: &Item<'a>, arrival: Arrival<'_, 'a>) -> Result<Input<'a>, Rejection> {
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
        content_id(arrival.call, item)
    } else {
        format!("{}-{}", arrival.request_id, arrival.index)
    }))
}

/// The id of what makes the fact. Neither `sentAt` nor the write key does: they differ between two attempts, or between two
/// keys of one workspace.
fn content_id(call: Call, item: &Item<'_>) -> String {
    let fields = [
        &item.user_id,
        &item.anonymous_id,
        &item.timestamp,
        &item.original_timestamp,
        &item.event,
        &item.name,
        &item.category,
        &item.group_id,
        &item.properties,
        &item.traits,
        &item.context,
        &item.integrations,
    ];
    let mut parts = vec![call.name().as_bytes()];
    parts.extend(fields.map(content));
    format!("content-{}", Hash128::of("segment item", &parts))
}

fn content<'v>(field: &'v Option<Value<'_>>) -> &'v [u8] {
    match field {
        Some(Value::Text(text)) => text.as_bytes(),
        Some(Value::Number(written) | Value::Object { members: written, .. }) => written.as_bytes(),
        Some(Value::Null | Value::Bool(_) | Value::Array) | None => &[],
    }
}

/// What every fact says, but for `context`.
pub(super) fn outline<'a>(kind: FactKind, item: &Item<'a>, arrival: Arrival<'_, 'a>) -> Result<Outline<'a>, Rejection> {
    let envelope = arrival.envelope;
    let (occurred_at, clock) = clock::occurred_at(item, envelope.sent_at.as_ref(), arrival.context.now)?;
    let (properties, traits) = if matches!(kind, FactKind::Identify | FactKind::Group) {
        ("", object("traits", item.traits.as_ref())?)
    } else {
        (object("properties", item.properties.as_ref())?, "")
    };
    Ok(Outline {
        properties: properties.into(),
        traits: traits.into(),
        integrations: Merged::of(object("integrations", item.integrations.as_ref())?, &envelope.integrations).written(),
        clock,
        ..Outline::new(kind, occurred_at)
    })
}

/// The recipient's address in `context.traits`, where Segment's email specification wants it.
pub(super) fn context_email<'a>(context: Merged<'_, 'a>) -> Option<Cow<'a, str>> {
    let Value::Object { members, .. } = read_again(context.get("traits")?) else { return None };
    email_of(members)
}

fn email_of(traits: &str) -> Option<Cow<'_, str>> {
    address(read_again(members::value(traits, "email")?))
}

/// A text or a number as a text, unless it is empty.
pub(super) fn shown(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value {
        Value::Text(text) => Some(text).filter(|text| !text.is_empty()),
        Value::Number(digits) => Some(Cow::Borrowed(digits)),
        Value::Null | Value::Bool(_) | Value::Array | Value::Object { .. } => None,
    }
}

/// A trait may be anything: what is no address says nothing of whose it is, and is passed on all the same.
pub(super) fn address(value: Value<'_>) -> Option<Cow<'_, str>> {
    let Value::Text(text) = value else { return None };
    Some(text).filter(|text| EmailAddress::new(text).is_ok())
}
