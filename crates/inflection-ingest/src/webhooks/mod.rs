//! `POST /v1/webhooks/{provider}/{token}`: the door for email service providers.
//!
//! Providers understand fewer answers than senders of ours: success is exactly 200, everything that may come again is 429
//! (some throw events away on any 5xx), an unknown token and a wrong proof look alike. One request is stored whole before it
//! is answered, or comes again; its events have the same ids then.
//!
//! Here is the shell. What differs between providers is pure: `adapter` says what a provider is made of, and there is a file
//! for each.

mod adapter;
mod amazon;
mod brevo;
mod canonical;
mod cloudevents;
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
mod testing;
mod values;

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ALLOW, EXPECT, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use inflection_bus::Log;
use inflection_control::{AuthFailure, Certificate, Provider, Webhook, Workspace};
use inflection_domain::{Timestamp, WorkspaceId};
use ring::digest::{SHA256, digest};

use self::adapter::{Adapter, Delivery, Parsed, Proof, adapter, invalid};
pub(crate) use self::amazon::Amazon;
pub(crate) use self::once::Tokens;
use crate::answer::{Code, Refusal};
use crate::fact::Context;
use crate::service::Service;
use crate::writer::now;
use crate::{body, request};

/// Most bytes of a provider's request (SendGrid flushes at 768 KB).
const BODY_BYTES_MAX: usize = 5 * 1024 * 1024;
/// Bytes of one message of an unreadable request that is kept for a person to look at.
const UNPARSED_PIECE_BYTES: usize = 512 * 1024;
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
    workspace: WorkspaceId,
    webhook: Webhook,
    adapter: &'static Adapter,
}

/// All webhooks, by provider and the hash of their token.
#[derive(Debug, Default)]
pub(crate) struct Webhooks(HashMap<(Provider, [u8; 32]), Hook>);

impl Webhooks {
    pub(crate) fn of(workspaces: &[Workspace]) -> Self {
        let hooks =
            workspaces.iter().flat_map(|workspace| workspace.webhooks.iter().map(move |hook| (workspace, hook)));
        let entry = |(workspace, webhook): (&Workspace, &Webhook)| {
            let hook =
                Hook { workspace: workspace.id.clone(), webhook: webhook.clone(), adapter: adapter(webhook.provider) };
            ((webhook.provider, hash(webhook.token.expose())), hook)
        };
        Self(hooks.map(entry).collect())
    }

    fn find(&self, provider: Provider, token: &str) -> Option<&Hook> {
        self.0.get(&(provider, hash(token)))
    }
}

fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

impl Hook {
    /// What is answered to a request whose proof is wrong.
    fn doubt(&self, refusal: Refusal) -> Refusal {
        let deferred = self.webhook.on_auth_failure == AuthFailure::Defer;
        let wrong = refusal.code.status() == StatusCode::UNAUTHORIZED;
        if wrong && deferred { Refusal { retry_after: Some(RETRY_SECONDS), ..refusal } } else { refusal }
    }
}

impl Service {
    pub(crate) async fn webhook(
        &self,
        request: Request<Body>,
        provider: &str,
        token: &str,
        id: &str,
    ) -> Response<Body> {
        // Consoles probe with unsigned reads before they show a key.
        if request.method() == Method::GET || request.method() == Method::HEAD {
            return Response::new(Body::empty());
        }
        if request.method() == Method::OPTIONS {
            return self.handshake(&request, provider, token);
        }
        if request.method() != Method::POST {
            return Refusal::new(Code::MethodNotAllowed, "webhooks are posted").answer(id, None);
        }
        match self.take_webhook(request, provider, token).await {
            Ok(()) => Response::new(Body::from("ok")),
            Err(refusal) => {
                self.metrics.rejected.with(&[("code", refusal.code.name())]).add(1);
                refused(&refusal, id)
            }
        }
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

    async fn take_webhook(&self, request: Request<Body>, provider: &str, token: &str) -> Result<(), Refusal> {
        let gzip = request::is_gzip(request.headers())?;
        let announced = match request::announced_bytes(request.headers(), BODY_BYTES_MAX) {
            Ok(announced) => announced,
            Err(refusal) => {
                if !request.headers().contains_key(EXPECT) {
                    body::linger(request.into_body()).await;
                }
                return Err(refusal);
            }
        };
        // Nothing is reserved or read for those who do not even claim to know a key.
        let provider = Provider::from_name(provider).ok_or_else(invalid)?;
        let claimed = adapter(provider).require_headers(request.headers());
        let senders = self.senders();
        let Some(hook) = senders.webhooks.find(provider, token) else {
            return Err(claimed.err().unwrap_or_else(invalid));
        };
        claimed.map_err(|refusal| hook.doubt(refusal))?;
        let in_hand = self.reserve_webhook(announced.filter(|_| !gzip).unwrap_or(BODY_BYTES_MAX))?;
        let headers = request.headers().clone();
        let body = self.read(request.into_body(), BODY_BYTES_MAX, gzip).await?;
        let mut delivery = Delivery {
            webhook: &hook.webhook,
            headers: &headers,
            body: &body,
            now: self.signature_clock.now(),
            certificates: &hook.webhook.certificates,
        };
        let fetched = self.certificate(hook, &delivery).await.map_err(|refusal| hook.doubt(refusal))?;
        if let Some(certificate) = &fetched {
            delivery.certificates = std::slice::from_ref(certificate);
        }
        let proof = (hook.adapter.verify)(&delivery).map_err(|refusal| hook.doubt(refusal))?;
        let context = Context { workspace: &hook.workspace, key: &self.installation, now: now(), clamp_time: true };
        let Some(mut parsed) = hook.adapter.parse(&delivery, context) else {
            tracing::error!(workspace = %hook.workspace, %provider, bytes = body.len(),
                "a genuine webhook request cannot be read; it is kept in the dead letters");
            return self.keep_unparsed(hook, &body).await;
        };
        if let Proof::Token(token) = proof
            && !self.tokens.admit(token, parsed.content())
        {
            return Err(hook.doubt(invalid()));
        }
        if let Some(url) = parsed.confirm.take() {
            self.amazon.confirm(url).await.map_err(|error| unreachable(&error))?;
            tracing::info!(workspace = %hook.workspace, "a subscription to a topic of SNS is confirmed");
        }
        self.keep_rejected(hook, &mut parsed).await?;
        self.store(&parsed.facts, in_hand).await?;
        for (name, count) in &parsed.ignored {
            self.metrics.unmapped.with(&[("provider", provider.name()), ("type", name)]).add(*count);
        }
        self.metrics.accepted.with(&[("workspace", hook.workspace.as_str())]).add(parsed.facts.len() as u64);
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

    /// Counts what could not become a fact, and keeps it.
    async fn keep_rejected(&self, hook: &Hook, parsed: &mut Parsed) -> Result<(), Refusal> {
        if parsed.rejected.is_empty() {
            return Ok(());
        }
        self.keep_unparsed(hook, &parsed.take_kept()).await?;
        self.rejected.add(&hook.workspace, parsed.rejected.len());
        for why in &parsed.rejected {
            self.metrics.rejected.with(&[("code", why.code.name())]).add(1);
        }
        let (events, code) = (parsed.rejected.len(), parsed.rejected.first().map_or("", |why| why.code.name()));
        tracing::warn!(workspace = %hook.workspace, provider = %hook.webhook.provider, events, code,
            "events of a webhook cannot be taken; they are kept in the dead letters");
        Ok(())
    }

    /// Sending it again would not help, so it is taken and kept as it came, in pieces that fit into messages.
    async fn keep_unparsed(&self, hook: &Hook, body: &Bytes) -> Result<(), Refusal> {
        let later = || Refusal::later(Code::StorageUnavailable, "the request cannot be stored now", RETRY_SECONDS);
        let name = format!("unparsed.{}.{}", hook.workspace, hook.webhook.provider);
        let log = Log::new(&name).map_err(|_invalid| later())?;
        for start in (0..body.len()).step_by(UNPARSED_PIECE_BYTES) {
            let piece = body.slice(start..body.len().min(start + UNPARSED_PIECE_BYTES));
            self.bus.append(&log, None, piece).await.map_err(|_unavailable| later())?;
        }
        Ok(())
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
pub(crate) fn refused(refusal: &Refusal, id: &str) -> Response<Body> {
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
