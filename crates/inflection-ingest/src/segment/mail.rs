//! Tracks about a mail: which they are, and what their properties say.

use std::net::IpAddr;

use inflection_domain::members::{self, Member};
use inflection_domain::{CallKind, Fact, FactKind};

use super::facts::{Arrival, address, context_email, identified, outline, shown};
use super::item::Item;
use super::shared::Merged;
use crate::fact::{Outline, Rejection, bad_type, complete, object};
use crate::input::Input;
use crate::json::{Value, read_again};

/// What a track means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Email(FactKind),
    Derived,
    Custom,
}

/// By its name, as Inflection documents it and as Segment's email specification has it. Two names are also used for other
/// things; then the properties (members without braces) decide.
pub(super) fn meaning(event: &str, properties: &str) -> Meaning {
    match event {
        "Email Delivered" => Meaning::Email(FactKind::EmailDelivered),
        "Email Opened" => Meaning::Email(FactKind::EmailOpened),
        "Email Bounced" => Meaning::Email(FactKind::EmailBounced),
        "Email Reported as Spam" | "Email Marked as Spam" => Meaning::Email(FactKind::EmailReportedAsSpam),
        // Many products call clicks of their own so.
        "Link Clicked" if link(properties).is_none() => Meaning::Custom,
        "Link Clicked" | "Email Link Clicked" => Meaning::Email(FactKind::LinkClicked),
        // And the end of a subscription that is no mail's.
        "Unsubscribed" if !names_a_mail(properties) => Meaning::Custom,
        "Email Unsubscribed" | "Unsubscribed" => Meaning::Email(FactKind::EmailUnsubscribed),
        name if CallKind::ALL.iter().any(|kind| kind.is_derived() && kind.event_name() == Some(name)) => {
            Meaning::Derived
        }
        _ => Meaning::Custom,
    }
}

/// A fact about a mail. The properties that have a name of ours become its fields; the others stay properties.
pub(super) fn email_event<'a>(
    kind: FactKind,
    item: &Item<'a>,
    context: Merged<'_, 'a>,
    arrival: Arrival<'_, 'a>,
) -> Result<Fact<'a>, Rejection> {
    let properties = object("properties", item.properties.as_ref())?;
    let mut input = Input { user_agent: user_agent(context), ip: ip(context), ..identified(item, arrival)? };
    input.email_link_url = link(properties);
    let (mut own, mut addresses, mut list) = (String::new(), [None, None], None);
    for member in members::of(properties) {
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
                input.is_machine = Some(read_again(member.value)).filter(|value| *value != Value::Null);
                continue;
            }
            // Read already, or ours to say.
            "email_link_url" | "link_url" | "event" | "email_event" | "prospect_id" | "is_unique_open"
            | "is_unique_click" | "open_source" | "machine_reason" | "classifier_version" => continue,
            key if names_an_address(key) => {
                let [user_id, email] = &mut addresses;
                let slot = if key.eq_ignore_ascii_case("email") { email } else { user_id };
                *slot = slot.take().or_else(|| address(read_again(member.value)));
                continue;
            }
            key => {
                if key == "list_id" && kind == FactKind::EmailUnsubscribed {
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
    input.email = context_email(context).or_else(|| addresses.into_iter().flatten().next()).map(Value::Text);
    // What the mail's reader used is not passed on, whichever door the fact came by.
    let outline = Outline { properties: own.into(), ..outline(kind, item, arrival)? };
    complete(&mut input, outline, arrival.context)
}

/// Properties that hold the recipient's address, whatever their case: warehouses do not tell it apart either. They become
/// the fact's address, so that what a connection does with addresses holds for them; what is none is left out.
fn names_an_address(key: &str) -> bool {
    key.eq_ignore_ascii_case("userId") || key.eq_ignore_ascii_case("email")
}

/// Whether properties say which mail, list or recipient they are about.
fn names_a_mail(properties: &str) -> bool {
    members::of(properties).any(|member| match &*member.key {
        "email_id" | "campaign_id" | "campaign_run_id" | "list_id" | "unsubscribe_scope" | "provider_message_id" => {
            shown(read_again(member.value)).is_some()
        }
        key => names_an_address(key) && address(read_again(member.value)).is_some(),
    })
}

/// The address of a clicked link, under our name or Segment's. Anything but a text or a number is none.
fn link(properties: &str) -> Option<Value<'_>> {
    let named = |name| shown(read_again(members::value(properties, name)?));
    named("email_link_url").or_else(|| named("link_url")).map(Value::Text)
}

/// A property that is a text of ours. Ids are often numbers in the sender's database; they are taken as they are written.
fn word<'a>(member: &Member<'a>) -> Result<Option<Value<'a>>, Rejection> {
    match read_again(member.value) {
        Value::Bool(_) | Value::Array | Value::Object { .. } => {
            Err(bad_type(&format!("properties.{}", member.key), "a string"))
        }
        value @ (Value::Null | Value::Number(_) | Value::Text(_)) => Ok(shown(value).map(Value::Text)),
    }
}

fn ip<'a>(context: Merged<'_, 'a>) -> Option<Value<'a>> {
    let ip = context.get("ip").map(read_again);
    ip.filter(|value| matches!(value, Value::Text(text) if text.parse::<IpAddr>().is_ok()))
}

fn user_agent<'a>(context: Merged<'_, 'a>) -> Option<Value<'a>> {
    let agent = ["userAgent", "user_agent"].into_iter().find_map(|name| context.get(name)).map(read_again);
    agent.filter(|value| matches!(value, Value::Text(_)))
}
