//! Amazon SES, through SNS.
//!
//! Sources: SES developer guide, contents of event data published to SNS; SNS developer guide, verifying signatures of
//! messages. A signature of SNS proves only that somebody's topic sent the message: the topic must be one of the webhook's.

use std::borrow::Cow;
use std::iter::Take;
use std::slice::Iter;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use inflection_control::{Certificate, Digest, Field, Webhook};
use inflection_domain::{BounceClass, FactKind};
use reqwest::Url;
use serde_json::Value as Json;

use super::adapter::{Adapter, Delivery, Events, Proof, Reading, invalid};
use super::elements;
use super::metadata::Metadata;
use super::proof::credentials;
use super::report::{Report, class_of_ses};
use super::values::{at, moment, text, word};
use crate::answer::Refusal;
use crate::json::{Fault, Keys, Reader, Value};

const TYPE: &str = "x-amz-sns-message-type";
const MESSAGE_ID: &str = "x-amz-sns-message-id";
/// Of what is delivered as it was published, without an envelope and so without a signature.
pub(crate) const RAW: &str = "x-amz-sns-rawdelivery";

/// Most members of a message of SNS; it has some ten.
const MEMBERS_MAX: usize = 64;
/// Most recipients of one mail: SES takes no more.
const RECIPIENTS_MAX: usize = 50;
/// Most topics of a contact list: SES has no more.
const TOPICS_MAX: usize = 20;
/// Most hexadecimal digits in the name of a certificate; they are 32.
const CERTIFICATE_DIGITS_MAX: usize = 64;
/// The type of a message that asks to confirm a subscription.
const CONFIRMATION: &str = "SubscriptionConfirmation";
/// How the text begins by which SES says that a destination works.
const DESTINATION_WORKS: &str = "Successfully validated SNS topic";

/// Types that are none of our events.
const IGNORED: [&str; 8] = [
    "Send",
    "Reject",
    "Rendering Failure",
    "DeliveryDelay",
    "Bounce",
    "Complaint",
    "Subscription",
    "AmazonSnsSubscriptionSucceeded",
];

pub(crate) static ADAPTER: Adapter = Adapter { headers: &[TYPE], certificate: Some(certificate), verify, events, read };

/// A message of SNS: its members that are texts. Each is there once, or the message is none: what is signed is what is read.
#[derive(Debug)]
struct Envelope<'b>(Vec<(Cow<'b, str>, Cow<'b, str>)>);

impl<'b> Envelope<'b> {
    fn read(body: &'b [u8]) -> Result<Self, Fault> {
        let (mut reader, mut members) = (Reader::new(body)?, Vec::new());
        let (mut keys, mut left) = (Keys::default(), MEMBERS_MAX);
        reader.object(|key, reader| {
            left = left.checked_sub(1).ok_or(Fault::Syntax)?;
            keys.insert(key.clone())?;
            // A null subject is as good as none.
            if let Value::Text(value) = reader.value(2)? {
                members.push((key, value));
            }
            Ok::<_, Fault>(())
        })?;
        reader.end()?;
        Ok(Self(members))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// The address of the certificate, which Lambda spells otherwise: in the topic's own region.
    fn certificate_url(&self) -> Result<Url, Refusal> {
        let text = self.get("SigningCertURL").or_else(|| self.get("SigningCertUrl"));
        let url = text.and_then(|text| Url::parse(text).ok());
        url.filter(|url| is_certificate_url(url, self.get("TopicArn").unwrap_or_default())).ok_or_else(invalid)
    }

    /// What SNS signs: names and values of these members, as far as they are there, a line each.
    fn signed(&self) -> Option<String> {
        let names: &[&str] = match self.get("Type")? {
            "Notification" => &["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"],
            CONFIRMATION | "UnsubscribeConfirmation" => {
                &["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
            }
            _ => return None,
        };
        let mut signed = String::new();
        for (name, value) in names.iter().filter_map(|name| Some((name, self.get(name)?))) {
            for part in [name, value] {
                signed.push_str(part);
                signed.push('\n');
            }
        }
        Some(signed)
    }
}

/// The envelope of a message to the webhook's topic.
fn envelope<'d>(delivery: &Delivery<'d>) -> Result<Envelope<'d>, Refusal> {
    let envelope = Envelope::read(delivery.body).map_err(|_fault| invalid())?;
    let same =
        |header: &str, member: &str| delivery.header(header).is_none_or(|value| envelope.get(member) == Some(value));
    let good =
        is_ours(delivery.webhook, envelope.get("TopicArn")) && same(TYPE, "Type") && same(MESSAGE_ID, "MessageId");
    if good { Ok(envelope) } else { Err(invalid()) }
}

/// Where the certificate is. For a topic that is not the webhook's, nothing is fetched.
fn certificate(delivery: &Delivery<'_>) -> Result<Option<Url>, Refusal> {
    if is_raw(delivery) {
        return Ok(None);
    }
    envelope(delivery)?.certificate_url().map(Some)
}

/// An RSA signature over the envelope, or, for raw delivery, which carries none, credentials.
fn verify(delivery: &Delivery<'_>) -> Result<Proof, Refusal> {
    if is_raw(delivery) {
        let ours = is_ours(delivery.webhook, delivery.header("x-amz-sns-topic-arn"));
        let guarded = ours && !delivery.webhook.secrets.is_empty();
        return if guarded { credentials(delivery) } else { Err(invalid()) };
    }
    let envelope = envelope(delivery)?;
    envelope.certificate_url()?;
    let digest = match envelope.get("SignatureVersion") {
        Some("1") => Digest::Sha1,
        Some("2") => Digest::Sha256,
        _ => return Err(invalid()),
    };
    let signed = envelope.signed().ok_or_else(invalid)?;
    let signature = envelope.get("Signature").and_then(|text| STANDARD.decode(text).ok()).ok_or_else(invalid)?;
    let genuine = |certificate: &Certificate| {
        certificate.is_valid_at(delivery.now) && certificate.has_signed(digest, signed.as_bytes(), &signature)
    };
    if delivery.certificates.iter().any(genuine) { Ok(Proof::Whole) } else { Err(invalid()) }
}

fn is_raw(delivery: &Delivery<'_>) -> bool {
    delivery.header(RAW) == Some("true")
}

fn is_ours(webhook: &Webhook, topic: Option<&str>) -> bool {
    topic.is_some_and(|topic| webhook.topic_arns.iter().any(|known| known == topic))
}

/// `https://sns.<region>.amazonaws.com/SimpleNotificationService-<hexadecimal digits>.pem` in the topic's region, and nothing
/// that looks like it.
fn is_certificate_url(url: &Url, topic: &str) -> bool {
    let digits = url.path().strip_prefix("/SimpleNotificationService-").and_then(|rest| rest.strip_suffix(".pem"));
    let named = digits.is_some_and(|digits| {
        (1..=CERTIFICATE_DIGITS_MAX).contains(&digits.len())
            && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    });
    named && is_in_region(url, topic) && url.query().is_none()
}

/// Where a subscription to a topic is confirmed: at the topic's own region, by the one action.
fn is_confirmation_url(url: &Url, topic: &str) -> bool {
    let mut actions = url.query_pairs().filter(|(name, _)| name == "Action");
    let confirms =
        actions.next().is_some_and(|(_, action)| action == "ConfirmSubscription") && actions.next().is_none();
    confirms && url.path() == "/" && is_in_region(url, topic)
}

fn is_in_region(url: &Url, topic: &str) -> bool {
    region(url).is_some_and(|region| topic.split(':').nth(3) == Some(region))
}

/// The region of an address of SNS: https on its usual port, no user, no fragment. `sns.s3-<region>.amazonaws.com` is somebody's
/// bucket of the name `sns`.
fn region(url: &Url) -> Option<&str> {
    let plain = url.scheme() == "https"
        && url.port().is_none()
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none();
    let host = url.host_str().filter(|_| plain)?.strip_prefix("sns.")?;
    let region = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (region.len() >= 3 && !region.starts_with("s3") && region.bytes().all(is_name)).then_some(region)
}

fn events<'d>(delivery: &Delivery<'d>) -> Option<Events<'d>> {
    if is_raw(delivery) {
        let text = delivery.text()?;
        let works = text.trim_start().starts_with(DESTINATION_WORKS);
        return if works { Some(Vec::new()) } else { elements::object(text).map(|event| vec![Cow::Borrowed(event)]) };
    }
    let envelope = Envelope::read(delivery.body).ok()?;
    match envelope.get("Type")? {
        "Notification" => {
            // SES says in plain words that a destination works.
            let event = elements::object(envelope.get("Message")?);
            Some(event.into_iter().map(|event| Cow::Owned(event.to_owned())).collect())
        }
        CONFIRMATION => Some(vec![Cow::Borrowed(delivery.text()?)]),
        // Whoever has ended the subscription meant it.
        _ => Some(Vec::new()),
    }
}

/// Whether the request asks to confirm a subscription. Its envelope says so, which is signed, and never what is published. Of a
/// confirmation the envelope is the event, so it is read again for those only that say so themselves.
fn is_confirmation(event: &Json, delivery: &Delivery<'_>) -> bool {
    let is_told = |envelope: Envelope<'_>| envelope.get("Type") == Some(CONFIRMATION);
    word(event, &["Type"]) == Some(CONFIRMATION)
        && !is_raw(delivery)
        && Envelope::read(delivery.body).is_ok_and(is_told)
}

fn confirm(envelope: &Json) -> Reading {
    let topic = word(envelope, &["TopicArn"]).unwrap_or_default();
    let url = word(envelope, &["SubscribeURL"]).and_then(|url| Url::parse(url).ok());
    url.filter(|url| is_confirmation_url(url, topic)).map_or(
        Reading::Malformed("the address where a subscription would be confirmed is not the topic's"),
        Reading::Confirm,
    )
}

fn read(event: &Json, delivery: &Delivery<'_>) -> Vec<Reading> {
    if is_confirmation(event, delivery) {
        return vec![confirm(event)];
    }
    // Publishing by configuration set, and by identity.
    let name = word(event, &["eventType"]).or_else(|| word(event, &["notificationType"]));
    match name {
        Some("Delivery") => {
            each(event, delivery, FactKind::EmailDelivered, "delivery", recipients(event, &["delivery", "recipients"]))
        }
        Some("Open") => {
            lone(event, delivery, FactKind::EmailOpened, "open", recipients(event, &["mail", "destination"]))
        }
        Some("Click") => {
            lone(event, delivery, FactKind::LinkClicked, "click", recipients(event, &["mail", "destination"]))
        }
        Some("Bounce") if class(event).is_some() => {
            each(event, delivery, FactKind::EmailBounced, "bounce", recipients(event, &["bounce", "bouncedRecipients"]))
        }
        Some("Complaint") if is_complaint(event) => {
            let recipients = recipients(event, &["complaint", "complainedRecipients"]);
            lone(event, delivery, FactKind::EmailReportedAsSpam, "complaint", recipients)
        }
        Some("Subscription") if is_unsubscribe(event) => lone(
            event,
            delivery,
            FactKind::EmailUnsubscribed,
            "subscription",
            recipients(event, &["mail", "destination"]),
        ),
        _ => Reading::ignored(name, &IGNORED),
    }
}

/// Addresses, as texts or as `{"emailAddress":…}`.
fn recipients<'e>(event: &'e Json, path: &[&str]) -> Vec<&'e str> {
    let list = at(event, path).and_then(Json::as_array).into_iter().flatten();
    list.filter_map(|one| one.as_str().or_else(|| word(one, &["emailAddress"]))).collect()
}

/// Mailbox providers hide who complained and readers are not told apart, so several addresses are candidates, not recipients.
fn lone(event: &Json, delivery: &Delivery<'_>, kind: FactKind, part: &str, recipients: Vec<&str>) -> Vec<Reading> {
    if recipients.len() > 1 { vec![Reading::Ambiguous] } else { each(event, delivery, kind, part, recipients) }
}

fn each(event: &Json, delivery: &Delivery<'_>, kind: FactKind, part: &str, recipients: Vec<&str>) -> Vec<Reading> {
    let own = |name: &str| text(event, &[part, name]);
    let (message, metadata) = (text(event, &["mail", "messageId"]), metadata(event, delivery));
    let report = |recipient: &str| Report {
        // One event may come by two topics, under two ids of SNS: its own id is what both have.
        id: if kind == FactKind::EmailDelivered {
            message.as_ref().map(|id| format!("delivery|{id}|{recipient}"))
        } else {
            own("feedbackId").map(|id| format!("{id}|{recipient}"))
        },
        // Not when it was published, nor when the mail was sent.
        at: moment(event, &[part, "timestamp"]),
        email: Some(recipient.to_owned()).filter(|recipient| !recipient.is_empty()),
        message_id: message.clone(),
        url: own("link"),
        // Of a complaint the agent is the feedback's generator, not a reader.
        user_agent: own("userAgent").filter(|_| kind != FactKind::EmailReportedAsSpam),
        ip: own("ipAddress"),
        bounce_class: class(event).unwrap_or_default(),
        bounce_reason: diagnostic(event, recipient),
        unsubscribe_scope: (kind == FactKind::EmailUnsubscribed).then(|| scope(event)),
        ..Report::new(kind, metadata.clone())
    };
    if recipients.len() > RECIPIENTS_MAX {
        return vec![Reading::Malformed("the event has more recipients than a mail may have")];
    }
    let recipients = if recipients.is_empty() { vec![""] } else { recipients };
    recipients.into_iter().map(|recipient| Reading::Report(Box::new(report(recipient)))).collect()
}

fn metadata(event: &Json, delivery: &Delivery<'_>) -> Metadata {
    let mut metadata = Metadata::of(delivery.webhook);
    metadata.add_object(at(event, &["mail", "tags"]));
    metadata.add_pairs(at(event, &["mail", "headers"]));
    metadata.add_object(at(event, &["click", "linkTags"]));
    // One mail has one set of tags: of several recipients it names none.
    if recipients(event, &["mail", "destination"]).len() > 1 {
        for field in [Field::PersonId, Field::UserId, Field::GroupId] {
            metadata.take(field);
        }
    }
    metadata.or(Field::EmailSubject, text(event, &["mail", "commonHeaders", "subject"]))
}

fn class(event: &Json) -> Option<BounceClass> {
    let part = |name: &str| word(event, &["bounce", name]).unwrap_or_default();
    class_of_ses(part("bounceType"), part("bounceSubType"))
}

fn diagnostic(event: &Json, recipient: &str) -> Option<String> {
    let list = at(event, &["bounce", "bouncedRecipients"])?.as_array()?;
    let own = list.iter().find(|one| word(one, &["emailAddress"]) == Some(recipient))?;
    text(own, &["diagnosticCode"]).or_else(|| text(own, &["status"]))
}

/// A "not spam" vote is the contrary of a complaint; what SES held back nobody has received.
fn is_complaint(event: &Json) -> bool {
    word(event, &["complaint", "complaintFeedbackType"]) != Some("not-spam")
        && word(event, &["complaint", "complaintSubType"]) != Some("OnAccountSuppressionList")
}

/// Whether preferences have turned to less mail: all of it off that was not, or a topic off that was on.
fn is_unsubscribe(event: &Json) -> bool {
    let all = |which: &str| at(event, &["subscription", which, "unsubscribeAll"]).and_then(Json::as_bool) == Some(true);
    let (old, new) = ("oldTopicPreferences", "newTopicPreferences");
    (all(new) && !all(old)) || !left_topics(event).is_empty()
}

/// Topics that are `OptOut` now and were not.
fn left_topics(event: &Json) -> Vec<&str> {
    let statuses = |which: &str| {
        let list = at(event, &["subscription", which, "topicSubscriptionStatus"]).and_then(Json::as_array);
        list.map(Vec::as_slice).unwrap_or_default().iter().take(TOPICS_MAX)
    };
    let out = |list: Take<Iter<'_, Json>>, topic: &str| {
        let mut of_topic = list.filter(|one| word(one, &["topicName"]) == Some(topic));
        of_topic.any(|one| word(one, &["subscriptionStatus"]) == Some("OptOut"))
    };
    let (before, after) = (statuses("oldTopicPreferences"), statuses("newTopicPreferences"));
    let topics = after.clone().filter_map(|one| word(one, &["topicName"]));
    topics.filter(|topic| out(after.clone(), topic) && !out(before.clone(), topic)).collect()
}

fn scope(event: &Json) -> String {
    match left_topics(event).first() {
        Some(topic) => format!("topic:{topic}"),
        None => "global".to_owned(),
    }
}

#[cfg(test)]
mod tests;
