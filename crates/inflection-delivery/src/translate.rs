//! From a decision to rendered items, under a connection's settings. Pure.

use std::borrow::Cow;

use inflection_control::{Connection, EmailPolicy, Naming, Uniqueness};
use inflection_domain::{
    Body, Call, CallKind, EmailAddress, Hash128, Head, InstallationId, MachineTimes, MessageId, members,
};
use inflection_segment::json::Object;
use inflection_segment::{Call as SegmentCall, Invalid, Kind};
use inflection_wire::Decided;
use ring::digest::{SHA256, digest};

/// What every context says of us; Segment asks every partner for its own name in the first member.
const INTEGRATION: &str =
    concat!("\"integration\":{\"name\":\"Inflection\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}");
/// The library that makes the calls, unless the sender's is known.
const LIBRARY: &str =
    concat!("\"library\":{\"name\":\"inflection-source\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}");

/// One call of a decision on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    /// Appended to the buffer, to be sent.
    Rendered(Rendered),
    /// The connection's settings leave it out.
    Filtered,
    /// Segment would drop it; it goes to the dead letters.
    Invalid(Invalid),
}

/// Where in the buffer a call lies: the sender's event id, and then the item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rendered {
    /// Where the event id begins.
    pub start: usize,
    /// Where the item begins.
    pub item: usize,
    /// Where it ends.
    pub end: usize,
    /// First half of the messageId's hash.
    pub id: u64,
    /// Key of the person.
    pub person: Hash128,
}

/// Renders one call into `out`. The bytes depend on nothing but the arguments: a retry, replay or restart gives the same.
pub fn translate(
    installation: &InstallationId,
    connection: &Connection,
    decided: &Decided,
    body: &Body<'_>,
    call: &Call,
    out: &mut Vec<u8>,
) -> Translation {
    if !wants(connection, call) {
        return Translation::Filtered;
    }
    let id = MessageId::new(installation, &decided.workspace, &connection.id, call.key);
    let (message_id, timestamp) = (id.to_ascii(), decided.occurred_at.to_rfc3339());
    let email = body.email.as_ref().and_then(|address| email(connection.email, address));
    let anonymous = decided.user.is_none() || call.links;
    let kind = kind(connection.naming, body, call);
    let segment = SegmentCall {
        kind,
        // ASCII by construction, both.
        message_id: std::str::from_utf8(&message_id).unwrap_or_default(),
        timestamp: std::str::from_utf8(&timestamp).unwrap_or_default(),
        user_id: decided.user.as_ref().map(|user| user.as_str()),
        anonymous_id: anonymous.then(|| body.person.as_str()),
        integrations: if of_another_call(decided, body, call) { "" } else { &body.integrations },
    };
    let start = out.len();
    out.extend_from_slice(body.event_id.as_str().as_bytes());
    let item = out.len();
    let trait_email = email.as_deref().filter(|_| sends_trait(connection.email, body));
    let rendered = segment.render(
        out,
        |context| write_context(context, connection.email, trait_email, &body.context),
        |object| match kind {
            Kind::Identify => write_traits(object, connection.email, trait_email, of_person(decided, body)),
            Kind::Group { .. } => write_own_traits(object, connection.email, &body.traits),
            Kind::Page { .. } | Kind::Screen { .. } => write_page(object, body),
            Kind::Track { .. } if call.kind == CallKind::CustomTrack => object.members(&body.properties),
            Kind::Track { event } => write_track(object, connection, event, email.as_deref(), body, call),
        },
    );
    match rendered {
        Ok(()) => Translation::Rendered(Rendered {
            start,
            item,
            end: out.len(),
            id: id.high(),
            person: person_key(decided, body),
        }),
        Err(invalid) => {
            out.truncate(start);
            Translation::Invalid(invalid)
        }
    }
}

/// The key of the person that a decision is about.
pub(crate) fn person_key(decided: &Decided, body: &Body<'_>) -> Hash128 {
    decided.person.unwrap_or_else(|| Head::person_key(&decided.workspace, &body.person))
}

/// User and person as a rendered item names them: its own members, ahead of everything that a sender wrote.
pub(crate) fn ids(item: &str) -> (Option<String>, Option<String>) {
    let members = inside(item, '{', '}').unwrap_or_default();
    let (mut user, mut person) = (None, None);
    for member in members::of(members).take_while(|member| member.key != "context") {
        match &*member.key {
            "userId" => user = members::string(member.value).map(String::from),
            "anonymousId" => person = members::string(member.value).map(String::from),
            _ => {}
        }
    }
    (user, person)
}

fn wants(connection: &Connection, call: &Call) -> bool {
    let listed = connection.calls.as_ref().is_none_or(|calls| calls.contains(&call.kind));
    let repeat = is_raw(call.kind) && call.unique != Some(true);
    listed
        && match connection.uniqueness {
            Uniqueness::Events => true,
            Uniqueness::Flags => !call.kind.is_derived(),
            Uniqueness::FirstOnly => !call.kind.is_derived() && !repeat,
        }
}

/// Whether a call tells of every open or click.
fn is_raw(kind: CallKind) -> bool {
    matches!(
        kind,
        CallKind::EmailOpened | CallKind::LinkClicked | CallKind::EmailMachineOpened | CallKind::LinkMachineClicked
    )
}

fn kind<'a>(naming: Naming, body: &'a Body<'_>, call: &Call) -> Kind<'a> {
    match call.kind {
        CallKind::Identify => Kind::Identify,
        CallKind::Page => Kind::Page { name: body.name.as_deref(), category: body.category.as_deref() },
        CallKind::Screen => Kind::Screen { name: body.name.as_deref(), category: body.category.as_deref() },
        CallKind::CustomTrack => Kind::Track { event: body.event.as_deref().unwrap_or_default() },
        CallKind::Group => Kind::Group { group_id: body.group_id.as_deref().unwrap_or_default() },
        CallKind::EmailDelivered
        | CallKind::EmailOpened
        | CallKind::EmailUniqueOpens
        | CallKind::EmailBounced
        | CallKind::EmailReportedAsSpam
        | CallKind::LinkClicked
        | CallKind::UniqueLinkClick
        | CallKind::UniqueLinkClickPerUniqueOpen
        | CallKind::EmailUnsubscribed
        | CallKind::EmailMachineOpened
        | CallKind::LinkMachineClicked => Kind::Track { event: event_name(naming, call.kind) },
    }
}

/// The event's name. Segment's email specification has other names for three of ours, and none for the derived ones.
fn event_name(naming: Naming, kind: CallKind) -> &'static str {
    match (naming, kind) {
        (Naming::SegmentSpec, CallKind::LinkClicked) => "Email Link Clicked",
        (Naming::SegmentSpec, CallKind::EmailReportedAsSpam) => "Email Marked as Spam",
        (Naming::SegmentSpec, CallKind::EmailUnsubscribed) => "Unsubscribed",
        (_, kind) => kind.event_name().unwrap_or_default(),
    }
}

/// The address as this connection passes it on.
fn email(policy: EmailPolicy, address: &EmailAddress) -> Option<Cow<'_, str>> {
    match policy {
        EmailPolicy::Plain => Some(address.as_str().into()),
        EmailPolicy::Sha256 => {
            let hash = digest(&SHA256, address.lookup_key().as_bytes());
            Some(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
        }
        EmailPolicy::Omit => None,
    }
}

/// Whether a call is the identify that some other fact made necessary. Where that fact's own calls go is no word on where the
/// person is made known: the identify comes once, and would be missing there for all that follow.
fn of_another_call(decided: &Decided, body: &Body<'_>, call: &Call) -> bool {
    // An identify makes no other call and is of no mail. A mail's fact may make no other call either, where its kind was told
    // of that mail before, or where machines are not told of.
    let mail = body.email_id.is_some() || body.campaign_run_id.is_some() || body.provider_message_id.is_some();
    // A held click's other calls are made later, in a decision of their own; whatever is known of it, it has a link.
    let engaged = body.is_machine || body.classifier_version > 0 || body.email_link_url.is_some();
    let others = decided.calls.iter().any(|call| call.kind != CallKind::Identify);
    call.links && (others || mail || engaged)
}

/// The traits of the person in a fact: a group's are the group's, also where the fact makes its person known.
fn of_person<'b>(decided: &Decided, body: &'b Body<'_>) -> &'b str {
    if decided.calls.iter().any(|call| call.kind == CallKind::Group) { "" } else { &body.traits }
}

/// Only a plain address of one person is an identifying trait: a role's mailbox would glue its readers together.
fn sends_trait(policy: EmailPolicy, body: &Body<'_>) -> bool {
    policy == EmailPolicy::Plain && body.email.as_ref().is_some_and(|address| !address.is_role())
}

/// `given` is the context of the sender's own call; most facts have none.
fn write_context(context: &mut Object<'_>, policy: EmailPolicy, trait_email: Option<&str>, given: &str) {
    context.members(INTEGRATION);
    if !members::has(given, "library") {
        context.members(LIBRARY);
    }
    let mut traits = "";
    for member in members::of(given) {
        match &*member.key {
            // Segment asks every partner for its own name here.
            "integration" => {}
            "traits" => traits = inside(member.value, '{', '}').unwrap_or(""),
            "externalIds" => write_external_ids(context, policy, &member),
            _ => context.members(member.written),
        }
    }
    if trait_email.is_some() || !traits.trim().is_empty() {
        context.object("traits", |object| write_traits(object, policy, trait_email, traits));
    }
}

fn write_traits(object: &mut Object<'_>, policy: EmailPolicy, trait_email: Option<&str>, own: &str) {
    // The sender's own word on the address wins over the one its mail went to.
    if !members::has(own, "email") {
        object.text_if("email", trait_email);
    }
    write_own_traits(object, policy, own.trim());
}

/// The sender's own traits. An address among them falls under the connection's setting as the recipient's does; what
/// cannot be read as an address is left out with it.
fn write_own_traits(object: &mut Object<'_>, policy: EmailPolicy, traits: &str) {
    if policy == EmailPolicy::Plain {
        return object.members(traits);
    }
    for member in members::of(traits) {
        // Segment matches the names of group traits without regard to case (Segment docs, Spec: Group).
        if member.key.eq_ignore_ascii_case("email") {
            let address = members::string(member.value).and_then(|text| EmailAddress::new(&text).ok());
            let email = address.as_ref().and_then(|address| email(policy, address));
            object.text_if(&member.key, email.as_deref());
        } else {
            object.members(member.written);
        }
    }
}

/// Ids of the person elsewhere, of which an address may be one (Segment docs, Identity Resolution: External IDs). What cannot
/// be read is left out where an address may be in it.
fn write_external_ids(context: &mut Object<'_>, policy: EmailPolicy, member: &members::Member<'_>) {
    if policy == EmailPolicy::Plain {
        return context.members(member.written);
    }
    let Some(ids) = inside(member.value, '[', ']') else { return };
    let kept: Vec<String> = members::elements(ids).filter_map(|id| external_id(policy, id)).collect();
    if !kept.is_empty() {
        context.members(&format!("\"externalIds\":[{}]", kept.join(",")));
    }
}

/// One of them as it is passed on, if it is.
fn external_id(policy: EmailPolicy, written: &str) -> Option<String> {
    let own = inside(written, '{', '}')?;
    let says = |key: &str| members::value(own, key).and_then(members::string);
    if !says("type").is_some_and(|kind| kind.eq_ignore_ascii_case("email")) {
        return Some(written.to_owned());
    }
    let address = EmailAddress::new(&says("id")?).ok()?;
    let hashed = email(policy, &address)?;
    let members = members::of(own).map(|member| match &*member.key {
        "id" => format!("\"id\":\"{hashed}\""),
        _ => member.written.to_owned(),
    });
    Some(format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
}

/// What is between the brackets of a value.
fn inside(value: &str, opening: char, closing: char) -> Option<&str> {
    value.strip_prefix(opening)?.strip_suffix(closing)
}

fn write_page(object: &mut Object<'_>, body: &Body<'_>) {
    // A sender's properties may name what is also a field; the property wins, so that the name is written once.
    for (name, value) in [("url", &body.url), ("title", &body.title), ("referrer", &body.referrer)] {
        if !members::has(&body.properties, name) {
            object.text_if(name, value.as_deref());
        }
    }
    object.members(&body.properties);
}

/// Whether a machine did it, and why, by which rules. Times show what no fact shows by itself.
fn write_machine(object: &mut Object<'_>, body: &Body<'_>, call: &Call) {
    object.bool("is_machine", body.is_machine || call.machine.is_some());
    let reason = call.machine.map(MachineTimes::name).or(body.machine_reason.as_deref());
    object.text_if("machine_reason", reason);
    if body.classifier_version > 0 {
        object.text("classifier_version", &body.classifier_version.to_string());
    }
}

fn write_track(
    object: &mut Object<'_>,
    connection: &Connection,
    event: &str,
    email: Option<&str>,
    body: &Body<'_>,
    call: &Call,
) {
    let naming = connection.naming;
    let opens = matches!(call.kind, CallKind::EmailOpened | CallKind::EmailUniqueOpens | CallKind::EmailMachineOpened);
    let clicks = matches!(
        call.kind,
        CallKind::LinkClicked
            | CallKind::UniqueLinkClick
            | CallKind::UniqueLinkClickPerUniqueOpen
            | CallKind::LinkMachineClicked
    );
    // Warehouses lose properties named like their own columns. Two documented ones are such; their mirrors survive.
    object.text("event", event);
    object.text_if("email_event", connection.warehouse_names.then_some(event));
    object.text_if("userId", email);
    object.text_if("prospect_id", email.filter(|_| connection.warehouse_names));
    object.text_if("email_id", body.email_id.as_deref());
    object.text_if("campaign_id", body.campaign_id.as_deref());
    object.text_if("campaign_run_id", body.campaign_run_id.as_deref());
    object.text_if("campaign_name", body.campaign_name.as_deref());
    object.text_if("email_subject", body.email_subject.as_deref());
    if clicks {
        let link = call.link_url.as_deref().or(body.email_link_url.as_deref());
        object.text_if("email_link_url", link.filter(|_| naming != Naming::SegmentSpec));
        object.text_if("link_url", link.filter(|_| naming != Naming::Inflection));
        // An open that completes the event says nothing of the link; the id would be another link's.
        object.text_if("link_id", body.link_id.as_deref().filter(|_| call.link_url.is_none()));
        object.text_if("link_kind", body.link_kind.name());
    }
    if let Some(unique) = call.unique {
        object.bool(if opens { "is_unique_open" } else { "is_unique_click" }, unique);
    }
    if is_raw(call.kind) {
        write_machine(object, body, call);
    }
    object.text_if("open_source", call.open_source.map(inflection_domain::OpenSource::name));
    if call.kind == CallKind::EmailBounced {
        object.text_if("bounce_class", body.bounce_class.map(inflection_domain::BounceClass::name));
        object.text_if("bounce_reason", body.bounce_reason.as_deref());
    }
    if call.kind == CallKind::EmailUnsubscribed {
        object.text_if("unsubscribe_scope", body.unsubscribe_scope.as_deref());
    }
    object.text_if("provider", body.provider.as_deref());
    object.text_if("provider_message_id", body.provider_message_id.as_deref());
    object.members(&body.properties);
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
