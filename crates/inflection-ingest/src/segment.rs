//! `POST /v1/batch`, `/v1/track` and their like: the door for Segment's own SDKs, unchanged but for the host.
//!
//! SDKs throw a whole batch away on most 4xx, so only what concerns a request as a whole is answered so; what is wrong with
//! one item is told beside the 200 that the others get. See `docs/api.md`, "Segment's SDKs".

mod batch;
mod clock;
mod facts;
mod item;
mod mail;
mod shared;

use axum::body::Body;
use axum::http::header::AUTHORIZATION;
use axum::http::{Method, Request, Response, StatusCode};
use inflection_domain::WorkspaceId;
use serde_json::{Map, Value, json};

use crate::answer::{Code, Refusal, json_answer};
use crate::events::rejected_list;
use crate::fact::Context;
use crate::limits::Sender;
use crate::priority::Priority;
use crate::senders::Senders;
use crate::service::Service;
use crate::trace::RequestTrace;
use crate::writer::now;
use crate::{auth, body, request};

use self::batch::{Envelope, Taken};
use self::facts::Ignored;
use self::item::Call;

/// Most bytes of a batch, compressed and unpacked alike. Segment's own limit is 500 KB, and one SDK goes beyond it.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Most items of a batch, Segment's own limit: beyond it Segment answers 200 and drops the rest.
const ITEMS_MAX: usize = 2_500;
/// Most bytes of a single call: more than an event may have, so that a large one is named for what it is.
const CALL_BYTES_MAX: usize = 64 * 1024;

/// What SDKs send JSON as. The mobile ones call it plain text.
const MEDIA_TYPES: [&str; 2] = ["application/json", "text/plain"];

/// A path that Segment's SDKs send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/v1/batch`, its old name `/v1/import`, and `/v1/b`, which the mobile SDKs send to.
    Batch,
    /// `/v1/track` and the other single calls.
    Single(Call),
}

impl Endpoint {
    /// The endpoint of a path, if it is one.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/v1/")? {
            "batch" | "import" | "b" => Some(Self::Batch),
            single => Call::from_name(single).map(Self::Single),
        }
    }

    fn bytes_max(self) -> usize {
        match self {
            Self::Batch => BATCH_BYTES_MAX,
            Self::Single(_) => CALL_BYTES_MAX,
        }
    }
}

impl Service {
    /// Answers one request of an SDK.
    pub(crate) async fn segment(
        &self,
        request: Request<Body>,
        endpoint: Endpoint,
        id: &str,
        trace: &mut RequestTrace,
    ) -> Response<Body> {
        if request.method() != Method::POST {
            return self.refuse_calls(&Refusal::new(Code::MethodNotAllowed, "calls are posted"), id);
        }
        match self.take_calls(request, endpoint, id, trace).await {
            Ok(answer) => answer,
            Err(refusal) => self.refuse_calls(&refusal, id),
        }
    }

    /// Counts and answers what is refused as a whole.
    pub(crate) fn refuse_calls(&self, refusal: &Refusal, id: &str) -> Response<Body> {
        self.count_refused(refusal);
        refused(refusal, id)
    }

    async fn take_calls(
        &self,
        request: Request<Body>,
        endpoint: Endpoint,
        id: &str,
        trace: &mut RequestTrace,
    ) -> Result<Response<Body>, Refusal> {
        let senders = self.senders();
        let (head, body) = request.into_parts();
        let headers = &head.headers;
        let by_header = headers.contains_key(AUTHORIZATION);
        let known = if by_header { Some(auth::sender(headers, &senders.keys)?) } else { None };
        let body = match &known {
            Some(sender) => self.admit_request(&senders, sender, headers, body).await?,
            None => body,
        };
        request::media_type(headers, &MEDIA_TYPES)?;
        let gzip = request::is_gzip(headers)?;
        let bytes_max = endpoint.bytes_max();
        let (room, body) = body::expected(headers, body, gzip, bytes_max).await?;
        // Who has shown no key yet takes from the share of those who have not.
        let mut in_hand = match &known {
            Some(sender) => self.reserve_events(&sender.workspace, room)?,
            None => self.reserve_webhook(None, room)?,
        };
        let bytes = self.read(body, bytes_max, gzip).await?;
        let envelope = Envelope::read(&bytes, endpoint)?;
        let sender = match known {
            Some(sender) => sender,
            None => {
                let sender = by_body(&envelope, &senders)?;
                self.admit(&senders, &sender)?;
                sender
            }
        };
        let workspace = &sender.workspace;
        self.reserve_more(&mut in_hand, workspace, envelope.added_bytes())?;
        let machine = senders.machine(workspace);
        let context = Context { workspace, key: &self.installation, now: now(), machine };
        let mut taken = batch::take(&envelope, context, id).inspect_err(|refusal| {
            self.rejected.add(workspace, refusal.events());
        })?;
        drop(envelope);
        self.admit_events(&senders, &sender, taken.facts.len())?;
        self.store(&mut taken.facts, in_hand, trace, Priority::Live).await?;
        self.count(&taken, workspace);
        Ok(answer(&taken))
    }

    fn count(&self, taken: &Taken<'_>, workspace: &WorkspaceId) {
        self.metrics.accepted.with(&[("workspace", workspace.as_str())]).add(taken.facts.len() as u64);
        for (_, why) in &taken.ignored {
            self.metrics.unmapped.with(&[("provider", "segment"), ("type", why.name())]).add(1);
        }
        self.rejected.add(workspace, taken.rejected.len() + taken.unnamed);
        for (_, why) in &taken.rejected {
            self.metrics.reject(why.code, 1);
        }
        self.metrics.reject(Code::TooManyEvents, taken.unnamed);
    }
}

/// The sender with the key in the body, where some SDKs put it.
fn by_body(envelope: &Envelope<'_>, senders: &Senders) -> Result<Sender, Refusal> {
    let Some(key) = &envelope.write_key else {
        return Err(Refusal::new(Code::AuthMissing, "send the ingest key as the write key"));
    };
    auth::of_key(key, &senders.keys)
}

/// What Segment answers, and what was not taken.
fn answer(taken: &Taken<'_>) -> Response<Body> {
    let mut body = Map::from_iter([("success".to_owned(), true.into())]);
    if !taken.rejected.is_empty() {
        body.insert("rejected".to_owned(), rejected_list(&taken.rejected).into());
    }
    if !taken.ignored.is_empty() {
        let why = |(index, why): &(usize, Ignored)| json!({ "index": index, "code": why.name() });
        body.insert("ignored".to_owned(), taken.ignored.iter().map(why).collect());
    }
    json_answer(StatusCode::OK, &body.into())
}

/// A refusal in the shape that SDKs read (`code` and `message` on top), with our own beside it.
fn refused(refusal: &Refusal, id: &str) -> Response<Body> {
    // They know 400 and not 409 or 422.
    let status = match refusal.code.status() {
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::CONFLICT => StatusCode::BAD_REQUEST,
        other => other,
    };
    let (code, message) = (refusal.code.name(), refusal.message.as_str());
    let error = json!({ "code": code, "message": message, "request_id": id });
    let mut body = Map::from_iter([
        ("success".to_owned(), false.into()),
        ("code".to_owned(), code.into()),
        ("message".to_owned(), message.into()),
        ("error".to_owned(), error),
    ]);
    if !refusal.rejected.is_empty() {
        body.insert("rejected".to_owned(), refusal.rejected.clone().into());
    }
    let mut response = refusal.answer(id, Some(status));
    *response.body_mut() = Body::from(Value::from(body).to_string());
    response
}

/// Reads bytes as every kind of request, and hands on the facts that they give.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8], context: Context<'_>, mut check: impl FnMut(&[inflection_domain::Fact<'_>])) {
    for endpoint in [Endpoint::Batch, Endpoint::Single(Call::Track), Endpoint::Single(Call::Identify)] {
        let Ok(envelope) = Envelope::read(bytes, endpoint) else { continue };
        if let Ok(taken) = batch::take(&envelope, context, "request") {
            assert!(taken.facts.len() <= 2 * ITEMS_MAX, "more facts than items can give");
            check(&taken.facts);
        }
    }
}

#[cfg(test)]
mod tests;
