//! `POST /v1/webhooks/{provider}/{token}`: the door for email service providers.
//!
//! Providers understand fewer answers than senders of ours: success is exactly 200, overload is 429 (some throw events
//! away on any 5xx), an unknown token and a wrong signature look alike.

use std::collections::HashMap;

use axum::body::Body;
use axum::http::header::EXPECT;
use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use inflection_bus::Log;
use inflection_control::{Secret, Workspace};
use inflection_domain::WorkspaceId;
use ring::digest::{SHA256, digest};

use crate::answer::{Code, Refusal};
use crate::fact::Context;
use crate::sendgrid;
use crate::service::Service;
use crate::writer::now;
use crate::{body, request};

/// Most bytes of a provider's request (SendGrid flushes at 768 KB).
const BODY_BYTES_MAX: usize = 5 * 1024 * 1024;
/// Most events of one request.
pub(crate) const EVENTS_MAX: usize = 10_000;
/// Bytes of one message of an unreadable request that is kept for a person to look at.
const UNPARSED_PIECE_BYTES: usize = 512 * 1024;

/// One configured webhook.
#[derive(Debug)]
struct Hook {
    workspace: WorkspaceId,
    keys: Vec<Secret>,
}

/// All webhooks, by provider and the hash of their token.
#[derive(Debug, Default)]
pub(crate) struct Webhooks(HashMap<(String, [u8; 32]), Hook>);

impl Webhooks {
    pub(crate) fn of(workspaces: &[Workspace]) -> Self {
        let hooks =
            workspaces.iter().flat_map(|workspace| workspace.webhooks.iter().map(move |hook| (workspace, hook)));
        let entry = |(workspace, hook): (&Workspace, &inflection_control::Webhook)| {
            let key = (hook.provider.clone(), hash(hook.token.expose()));
            (key, Hook { workspace: workspace.id.clone(), keys: hook.secrets.clone() })
        };
        Self(hooks.map(entry).collect())
    }

    fn find(&self, provider: &str, token: &str) -> Option<&Hook> {
        self.0.get(&(provider.to_owned(), hash(token)))
    }
}

fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
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
        if request.method() != Method::POST {
            return Refusal::new(Code::MethodNotAllowed, "webhooks are posted").answer(id, None);
        }
        match self.take_webhook(request, provider, token).await {
            Ok(()) => Response::new(Body::from("ok")),
            Err(refusal) => {
                self.metrics.rejected.with(&[("code", refusal.code.name())]).add(1);
                let status = refusal.code.status().is_server_error().then_some(StatusCode::TOO_MANY_REQUESTS);
                refusal.answer(id, status)
            }
        }
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
        let senders = self.senders();
        let hook = senders.webhooks.find(provider, token);
        sendgrid::require_signature(request.headers())?;
        let Some(hook) = hook else {
            return Err(Refusal::new(Code::SignatureInvalid, sendgrid::SIGNATURE_INVALID));
        };
        let in_hand = self.reserve_webhook(announced.filter(|_| !gzip).unwrap_or(BODY_BYTES_MAX))?;
        let headers = request.headers().clone();
        let body = self.read(request.into_body(), BODY_BYTES_MAX, gzip).await?;
        sendgrid::verify(&headers, &body, &hook.keys)?;
        let context = Context { workspace: &hook.workspace, key: &self.installation, now: now(), clamp_time: true };
        let Some(mapped) = sendgrid::parse(&body, context) else {
            tracing::error!(workspace = %hook.workspace, provider, bytes = body.len(),
                "a signed webhook request cannot be read; it is kept in the dead letters");
            return self.keep_unparsed(&hook.workspace, provider, &body).await;
        };
        self.metrics.unmapped.with(&[("provider", provider)]).add(mapped.unmapped);
        self.rejected.add(&hook.workspace, mapped.rejected.len());
        for (why, raw) in &mapped.rejected {
            self.metrics.rejected.with(&[("code", why.code.name())]).add(1);
            self.keep_unparsed(&hook.workspace, provider, raw).await?;
        }
        self.store(&mapped.facts, in_hand).await?;
        self.metrics.accepted.with(&[("workspace", hook.workspace.as_str())]).add(mapped.facts.len() as u64);
        Ok(())
    }

    /// Sending it again would not help, so it is taken and kept as it came, in pieces that fit into messages.
    async fn keep_unparsed(&self, workspace: &WorkspaceId, provider: &str, body: &Bytes) -> Result<(), Refusal> {
        let later = || Refusal::later(Code::StorageUnavailable, "the request cannot be stored now", 5);
        let log = Log::new(&format!("unparsed.{workspace}.{provider}")).map_err(|_invalid| later())?;
        for start in (0..body.len()).step_by(UNPARSED_PIECE_BYTES) {
            let piece = body.slice(start..body.len().min(start + UNPARSED_PIECE_BYTES));
            self.bus.append(&log, None, piece).await.map_err(|_unavailable| later())?;
        }
        Ok(())
    }
}
