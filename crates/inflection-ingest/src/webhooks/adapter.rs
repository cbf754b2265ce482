//! What every provider is made of: a proof, the events of a body, and what one event says.
//!
//! All of it is pure: keys, headers, body and time are arguments. `mod.rs` is the shell around it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::http::HeaderMap;
use inflection_control::{Certificate, Provider, Webhook};
use inflection_domain::{Fact, Hash128, Timestamp};
use reqwest::Url;
use serde_json::Value as Json;

use super::report::Report;
use super::{
    brevo, canonical, cloudevents, elements, mailersend, mailgun, mailjet, mandrill, postmark, resend, sendgrid, ses,
    sparkpost,
};
use crate::answer::{Code, Refusal};
use crate::fact::{Context, Rejection};

/// Most events of one request.
pub(crate) const EVENTS_MAX: usize = 10_000;

/// A request to a webhook.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery<'a> {
    /// The webhook it came to.
    pub(crate) webhook: &'a Webhook,
    pub(crate) headers: &'a HeaderMap,
    /// The bytes as they came: signatures are over these.
    pub(crate) body: &'a [u8],
    /// What time it is, to those signatures that grow old.
    pub(crate) now: Timestamp,
    /// Certificates under which it may be signed.
    pub(crate) certificates: &'a [Certificate],
}

impl<'a> Delivery<'a> {
    /// The text of a header that is there once.
    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }

    /// The body, if it is text.
    pub(crate) fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.body).ok()
    }
}

/// How far a proof goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It is over the whole request, or there is none beyond the credentials.
    Whole,
    /// It is over a token alone, which must not vouch for more than one content.
    Token {
        /// All that is signed.
        token: Hash128,
        /// All that is read.
        content: Hash128,
    },
}

/// Finds where a request's certificate is, if it has one and may be fetched.
pub(crate) type CertificateOf = fn(&Delivery<'_>) -> Result<Option<Url>, Refusal>;

/// The events of a body, as texts.
pub(crate) type Events<'d> = Vec<Cow<'d, str>>;

/// A provider, as functions.
#[derive(Debug)]
pub(crate) struct Adapter {
    /// Headers without which a request cannot be genuine; nothing is read before they are there.
    pub(crate) headers: &'static [&'static str],
    /// Where the certificate is under which a request claims to be signed, for providers that have certificates.
    pub(crate) certificate: Option<CertificateOf>,
    /// Whether the request comes from the provider. It parses no more of the body than the signature needs.
    pub(crate) verify: fn(&Delivery<'_>) -> Result<Proof, Refusal>,
    /// The events of a verified body, at most [`EVENTS_MAX`]; `None` when it is none of the provider's.
    pub(crate) events: for<'d> fn(&Delivery<'d>) -> Option<Events<'d>>,
    /// What an event says; several things when it is about several recipients.
    pub(crate) read: fn(&Json, &Delivery<'_>) -> Vec<Reading>,
}

/// The functions of a provider.
pub(crate) fn adapter(provider: Provider) -> &'static Adapter {
    match provider {
        Provider::Ses => &ses::ADAPTER,
        Provider::Sendgrid => &sendgrid::ADAPTER,
        Provider::Mailgun => &mailgun::ADAPTER,
        Provider::Postmark => &postmark::ADAPTER,
        Provider::Resend => &resend::ADAPTER,
        Provider::Svix | Provider::StandardWebhooks => &canonical::ADAPTER,
        Provider::Sparkpost => &sparkpost::ADAPTER,
        Provider::Mandrill => &mandrill::ADAPTER,
        Provider::Brevo => &brevo::ADAPTER,
        Provider::Mailjet => &mailjet::ADAPTER,
        Provider::Mailersend => &mailersend::ADAPTER,
        Provider::Cloudevents => &cloudevents::ADAPTER,
    }
}

/// What an event says.
#[derive(Debug)]
pub(crate) enum Reading {
    /// One of our facts.
    Report(Box<Report>),
    /// None of ours, of this type. Providers add types without notice, so the type is one the adapter knows, or `other`.
    Ignored(&'static str),
    /// It is about one of several recipients and does not say which: a fact about all of them would be invented.
    Ambiguous,
    /// It is not what the provider's own rules ask for.
    Malformed(&'static str),
    /// A subscription is to be confirmed by fetching this address.
    Confirm(Url),
}

impl Reading {
    /// An event that is none of ours: its type, if it is one of `known`, else `other`.
    pub(crate) fn ignored(found: Option<&str>, known: &[&'static str]) -> Vec<Self> {
        let name = known.iter().find(|name| Some(**name) == found).copied().unwrap_or("other");
        vec![Self::Ignored(name)]
    }
}

/// A request whose proof is wrong. Equal for every reason, and for webhooks that do not exist.
pub(crate) fn invalid() -> Refusal {
    Refusal::new(Code::SignatureInvalid, "the request does not prove that it is the provider's")
}

impl Adapter {
    /// Whether a request claims to be genuine at all.
    pub(crate) fn require_headers(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.headers.iter().all(|name| headers.contains_key(*name)) {
            Ok(())
        } else {
            Err(Refusal::new(Code::SignatureMissing, "the signature headers are missing"))
        }
    }

    /// Reads the events of a verified body, one at a time.
    pub(crate) fn parse(&self, events: &[Cow<'_, str>], delivery: &Delivery<'_>, context: Context<'_>) -> Parsed {
        let mut parsed = Parsed::default();
        for text in events {
            let before = parsed.rejected.len();
            match elements::build(text) {
                Ok(event) => {
                    (self.read)(&event, delivery)
                        .into_iter()
                        .for_each(|reading| parsed.take(reading, delivery.webhook.provider, context));
                }
                Err(why) => parsed.rejected.push(why),
            }
            // Once, whatever it says of however many recipients.
            if parsed.rejected.len() > before {
                parsed.kept.extend_from_slice(text.as_bytes());
                parsed.kept.push(b'\n');
            }
        }
        parsed
    }
}

/// What a body consists of.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) facts: Vec<Fact<'static>>,
    /// How many events were none of ours, by type.
    pub(crate) ignored: BTreeMap<&'static str, u64>,
    /// Why events could not become facts.
    pub(crate) rejected: Vec<Rejection>,
    /// Those events, each once and as it came, a line each, for a person to look at.
    pub(crate) kept: Vec<u8>,
    /// What to fetch to confirm a subscription.
    pub(crate) confirm: Option<Url>,
}

impl Parsed {
    fn take(&mut self, reading: Reading, provider: Provider, context: Context<'_>) {
        match reading {
            Reading::Report(report) => match report.into_fact(provider, context) {
                Ok(fact) => self.facts.push(fact),
                Err(why) => self.rejected.push(why),
            },
            Reading::Ignored(name) => *self.ignored.entry(name).or_default() += 1,
            Reading::Malformed(message) => self.rejected.push(Rejection::new(Code::MissingField, message)),
            Reading::Confirm(url) => self.confirm = Some(url),
            Reading::Ambiguous => {
                let message = "the event is about one of several recipients and does not say which";
                self.rejected.push(Rejection::new(Code::AmbiguousRecipient, message));
            }
        }
    }
}

/// A body that is an array of events.
pub(crate) fn array<'d>(delivery: &Delivery<'d>) -> Option<Events<'d>> {
    texts(elements::array(delivery.text()?))
}

/// A body that is one event, or an array of events.
pub(crate) fn one_or_many<'d>(delivery: &Delivery<'d>) -> Option<Events<'d>> {
    texts(elements::one_or_many(delivery.text()?))
}

fn texts(events: Option<Vec<&str>>) -> Option<Events<'_>> {
    events.map(|events| events.into_iter().map(Cow::Borrowed).collect())
}
