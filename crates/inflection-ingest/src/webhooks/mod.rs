//! `POST /v1/webhooks/{provider}/{token}`: the door for email service providers.
//!
//! Providers understand fewer answers than senders of ours: success is exactly 200, everything that may come again is 429
//! (some throw events away on any 5xx), an unknown token and a wrong proof look alike. One request is stored whole before it
//! is answered, or comes again; its events have the same ids then.
//!
//! Here is the shell. What differs between providers is pure: `adapter` says what a provider is made of, and there is a file
//! for each.

pub(crate) mod adapter;
mod amazon;
mod brevo;
mod canonical;
mod cloudevents;
mod elements;
mod mailersend;
mod mailgun;
mod mailjet;
mod mandrill;
mod metadata;
mod once;
mod postmark;
mod proof;
mod report;
mod resend;
mod sendgrid;
mod ses;
mod sparkpost;
mod svix;
#[cfg(test)]
pub(crate) mod testing;
mod unparsed;
mod values;

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ALLOW, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use inflection_bus::AppendError;
use inflection_control::{AuthFailure, Certificate, Provider, Webhook, Workspace};
use inflection_domain::Timestamp;
use tokio::time::Instant;

use self::adapter::{Adapter, Delivery, Events, Parsed, Proof, adapter, invalid};
pub(crate) use self::amazon::Amazon;
pub(crate) use self::once::Tokens;
use crate::answer::{Code, Refusal};
use crate::fact::Context;
use crate::limits::{Sender, Source};
use crate::priority::Priority;
use crate::senders::Senders;
use crate::service::{STORE_WAIT, Service};
use crate::trace::RequestTrace;
use crate::writer::{InHand, now};
use crate::{body, request};

/// Most bytes of a provider's request (SendGrid flushes at 768 KB).
const BODY_BYTES_MAX: usize = 5 * 1024 * 1024;
/// Bytes that one event takes in memory when it has become a fact, about: they are reserved like the bytes of a body.
const FACT_BYTES: usize = 1024;
/// Seconds after which a provider may try again.
const RETRY_SECONDS: u64 = 5;

/// What time it is to signatures that grow old.
#[derive(Debug, Clone, Copy, Default)]
pub enum SignatureClock {
    /// The system's.
    #[default]
    System,
    /// Always this moment, for tests with requests that were signed long ago.
    Fixed(Timestamp),
}

impl SignatureClock {
    fn now(self) -> Timestamp {
        match self {
            Self::System => now(),
            Self::Fixed(moment) => moment,
        }
    }
}

/// One configured webhook.
#[derive(Debug)]
struct Hook {
    sender: Sender,
    webhook: Webhook,
    adapter: &'static Adapter,
}

/// All webhooks, by what a request shows to be let in.
#[derive(Debug, Default)]
pub(crate) struct Webhooks(HashMap<Source, Hook>);

impl Webhooks {
    pub(crate) fn of(workspaces: &[Workspace]) -> Self {
        let hooks =
            workspaces.iter().flat_map(|workspace| workspace.webhooks.iter().map(move |hook| (workspace, hook)));
        let entry = |(workspace, webhook): (&Workspace, &Webhook)| {
            let source = Source::webhook(webhook.provider, webhook.token.expose());
            let sender = Sender { workspace: workspace.id.clone(), source };
            (source, Hook { sender, webhook: webhook.clone(), adapter: adapter(webhook.provider) })
        };
        Self(hooks.map(entry).collect())
    }

    fn find(&self, provider: Provider, token: &str) -> Option<&Hook> {
        self.0.get(&Source::webhook(provider, token))
    }
}

impl Hook {
    /// What is answered to a request whose proof is wrong. Who sends credentials only after having been asked for them is
    /// asked: coming again unasked would not help.
    fn doubt(&self, refusal: Refusal, headers: &HeaderMap) -> Refusal {
        let deferred = self.webhook.on_auth_failure == AuthFailure::Defer && !proof::must_ask(&self.webhook, headers);
        let wrong = refusal.code.status() == StatusCode::UNAUTHORIZED;
        if wrong && deferred { Refusal { retry_after: Some(RETRY_SECONDS), ..refusal } } else { refusal }
    }
}

impl Service {
    pub(crate) async fn webhook(
        &self,
        request: Request<Body>,
        (provider, token): (&str, &str),
        id: &str,
        trace: &mut RequestTrace,
    ) -> Response<Body> {
        // Consoles probe with unsigned reads before they show a key.
        if request.method() == Method::GET || request.method() == Method::HEAD {
            return Response::new(Body::empty());
        }
        if request.method() == Method::OPTIONS {
            return self.handshake(&request, provider, token);
        }
        if request.method() != Method::POST {
            return self.refuse_webhook(&Refusal::new(Code::MethodNotAllowed, "webhooks are posted"), id);
        }
        match self.take_webhook(request, provider, token, trace).await {
            Ok(()) => Response::new(Body::from("ok")),
            Err(refusal) => self.refuse_webhook(&refusal, id),
        }
    }

    /// Counts and answers what is not taken.
    pub(crate) fn refuse_webhook(&self, refusal: &Refusal, id: &str) -> Response<Body> {
        self.count_refused(refusal);
        refused(refusal, id)
    }

    /// The handshake of CloudEvents' webhooks: a sender asks whether it may send, and is told so if its origin is known.
    fn handshake(&self, request: &Request<Body>, provider: &str, token: &str) -> Response<Body> {
        let mut answer = Response::new(Body::empty());
        let senders = self.senders();
        let hook = Provider::from_name(provider).and_then(|provider| senders.webhooks.find(provider, token));
        let origin = request.headers().get("webhook-request-origin");
        if let (Some(hook), Some(origin)) = (hook, origin)
            && hook.webhook.allowed_origins.iter().any(|known| known.as_bytes() == origin.as_bytes())
        {
            answer.headers_mut().insert("webhook-allowed-origin", origin.clone());
            answer.headers_mut().insert("webhook-allowed-rate", HeaderValue::from_static("*"));
        }
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        answer
    }

    async fn take_webhook(
        &self,
        request: Request<Body>,
        provider: &str,
        token: &str,
        trace: &mut RequestTrace,
    ) -> Result<(), Refusal> {
        let (head, body) = request.into_parts();
        let headers = &head.headers;
        let gzip = request::is_gzip(headers)?;
        let (room, body) = body::expected(headers, body, gzip, BODY_BYTES_MAX).await?;
        // Nothing is reserved or read for those who do not even claim to know a key.
        let provider = Provider::from_name(provider).ok_or_else(invalid)?;
        let claimed = adapter(provider).require_headers(headers);
        let senders = self.senders();
        let Some(hook) = senders.webhooks.find(provider, token) else {
            return Err(claimed.err().unwrap_or_else(invalid));
        };
        claimed.map_err(|refusal| hook.doubt(refusal, headers))?;
        let body = self.admit_request(&senders, &hook.sender, headers, body).await?;
        let in_hand = self.reserve_webhook(Some(&hook.sender.workspace), room)?;
        let body = self.read(body, BODY_BYTES_MAX, gzip).await?;
        let mut delivery = Delivery {
            webhook: &hook.webhook,
            headers,
            body: &body,
            now: self.signature_clock.now(),
            certificates: &hook.webhook.certificates,
        };
        let fetched = self.certificate(hook, &delivery).await.map_err(|refusal| hook.doubt(refusal, headers))?;
        if let Some(certificate) = &fetched {
            delivery.certificates = std::slice::from_ref(certificate);
        }
        let proof = (hook.adapter.verify)(&delivery).map_err(|refusal| hook.doubt(refusal, headers))?;
        if let Proof::Token { token, content } = proof
            && !self.tokens.admit(token, content)
        {
            return Err(hook.doubt(invalid(), headers));
        }
        match (hook.adapter.events)(&delivery) {
            Some(events) => self.take_events(&senders, hook, &delivery, &events, in_hand, trace).await,
            None => self.take_unreadable(hook, &body).await,
        }
    }

    /// Stores what can become facts, and keeps what cannot.
    async fn take_events(
        &self,
        senders: &Senders,
        hook: &Hook,
        delivery: &Delivery<'_>,
        events: &Events<'_>,
        in_hand: InHand,
        trace: &mut RequestTrace,
    ) -> Result<(), Refusal> {
        let _facts_in_hand = self.reserve_webhook(Some(&hook.sender.workspace), events.len() * FACT_BYTES)?;
        let machine = senders.machine(&hook.sender.workspace);
        let context = Context { workspace: &hook.sender.workspace, key: &self.installation, now: now(), machine };
        let mut parsed = hook.adapter.parse(events, delivery, context);
        self.admit_events(senders, &hook.sender, parsed.facts.len())?;
        if let Some(url) = parsed.confirm.take() {
            self.amazon.confirm(url).await.map_err(|error| unreachable(&error))?;
            tracing::info!(workspace = %hook.sender.workspace, "a subscription to a topic of SNS is confirmed");
        }
        // Over both: a provider waits for its answer once.
        let by = Instant::now() + STORE_WAIT;
        self.store(&mut parsed.facts, in_hand, trace, Priority::Live).await?;
        self.keep_rejected(hook, &mut parsed, by).await;
        for (name, count) in &parsed.ignored {
            self.metrics.unmapped.with(&[("provider", hook.webhook.provider.name()), ("type", name)]).add(*count);
        }
        self.metrics.accepted.with(&[("workspace", hook.sender.workspace.as_str())]).add(parsed.facts.len() as u64);
        Ok(())
    }

    /// Takes and keeps a genuine request that cannot be read, as sending it again would not help; an empty one is a probe.
    async fn take_unreadable(&self, hook: &Hook, body: &Bytes) -> Result<(), Refusal> {
        let provider = hook.webhook.provider;
        if body.trim_ascii().is_empty() {
            self.metrics.unmapped.with(&[("provider", provider.name()), ("type", "empty")]).add(1);
            return Ok(());
        }
        match unparsed::keep(&self.bus, &hook.sender.workspace, provider, body, Instant::now() + STORE_WAIT).await {
            Ok(()) => {}
            Err(AppendError::Unavailable(_)) => {
                let message = "the request cannot be stored now";
                return Err(Refusal::later(Code::StorageUnavailable, message, RETRY_SECONDS));
            }
            Err(error) => self.cannot_keep(hook, &error),
        }
        self.rejected.add(&hook.sender.workspace, 1);
        self.metrics.reject(Code::BadJson, 1);
        tracing::error!(workspace = %hook.sender.workspace, %provider, bytes = body.len(),
            "a genuine webhook request cannot be read; it goes to the log unparsed.<workspace>.<provider>");
        Ok(())
    }

    /// The certificate that a request claims to be signed under, if it must be fetched.
    async fn certificate(&self, hook: &Hook, delivery: &Delivery<'_>) -> Result<Option<Arc<Certificate>>, Refusal> {
        let Some(certificate) = hook.adapter.certificate.filter(|_| hook.webhook.certificates.is_empty()) else {
            return Ok(None);
        };
        let Some(url) = certificate(delivery)? else { return Ok(None) };
        self.amazon.certificate(&url).await.map(Some).map_err(|error| unreachable(&error))
    }

    /// Counts what could not become a fact, and keeps it if that is possible in time. The facts beside it are stored by now,
    /// and shall not come again because of it.
    async fn keep_rejected(&self, hook: &Hook, parsed: &mut Parsed, by: Instant) {
        let Some(first) = parsed.rejected.first() else { return };
        let kept = std::mem::take(&mut parsed.kept).into();
        if let Err(error) = unparsed::keep(&self.bus, &hook.sender.workspace, hook.webhook.provider, &kept, by).await {
            self.cannot_keep(hook, &error);
        }
        self.rejected.add(&hook.sender.workspace, parsed.rejected.len());
        for why in &parsed.rejected {
            self.metrics.reject(why.code, 1);
        }
        let (events, code) = (parsed.rejected.len(), first.code.name());
        tracing::warn!(workspace = %hook.sender.workspace, provider = %hook.webhook.provider, events, code,
            "events of a webhook cannot be taken; they go to the log unparsed.<workspace>.<provider>");
    }

    fn cannot_keep(&self, hook: &Hook, error: &AppendError) {
        let provider = hook.webhook.provider;
        self.metrics.unkept.with(&[("provider", provider.name())]).add(1);
        tracing::warn!(workspace = %hook.sender.workspace, %provider, %error, "what a webhook refuses could not be kept");
    }
}

/// Amazon does not answer us: it shall send again.
fn unreachable(error: &amazon::FetchError) -> Refusal {
    use std::error::Error as _;
    let cause = error.source().map(ToString::to_string);
    if error.is_news() {
        tracing::warn!(%error, cause, "a webhook of SNS needs what cannot be fetched");
    } else {
        tracing::debug!(%error, "a webhook of SNS needs what is not fetched now");
    }
    Refusal::later(Code::UpstreamUnavailable, "what this request needs cannot be fetched now", RETRY_SECONDS)
}

/// The answer to a request that is not taken. Whatever may be better another time is 429, the one code on which every
/// provider tries again.
fn refused(refusal: &Refusal, id: &str) -> Response<Body> {
    let again = refusal.retry_after.is_some()
        || refusal.code == Code::RequestTimeout
        || refusal.code.status().is_server_error();
    let mut answer = refusal.answer(id, again.then_some(StatusCode::TOO_MANY_REQUESTS));
    if answer.status() == StatusCode::UNAUTHORIZED {
        // Some send their credentials only after they were asked for them.
        let basic = HeaderValue::from_static("Basic realm=\"webhook\"");
        answer.headers_mut().insert(WWW_AUTHENTICATE, basic);
    }
    answer
}

#[cfg(test)]
mod tests;
