//! The endpoints for senders.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};

use crate::answer::Answer;
use crate::auth::Credentials;
use crate::body::Refusal;
use crate::decode::Encoding;
use crate::kind::Endpoint;
use crate::sandbox::Delivered;
use crate::server::Shell;

/// Most bytes read of a body. Well above every limit, so that a body that is too large is told so instead of being cut off.
const WIRE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest wait for a body to arrive.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);

/// `POST /v1/{call}`.
pub(crate) async fn receive(State(shell): State<Shell>, Path(call): Path<String>, request: Request) -> Response {
    let Some(endpoint) = Endpoint::from_name(&call) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (parts, body) = request.into_parts();
    let Ok(wire) = tokio::time::timeout(BODY_WAIT_MAX, to_bytes(body, WIRE_BYTES_MAX)).await else {
        return StatusCode::REQUEST_TIMEOUT.into_response();
    };
    let wire = wire.as_deref().map_err(|_too_large_or_broken_off| Refusal::BodyTooLarge);
    let answer = shell.sandbox.receive(delivered(endpoint, &parts.headers, wire));
    perform(answer, &shell).await
}

fn delivered<'a>(endpoint: Endpoint, headers: &HeaderMap, wire: Result<&'a [u8], Refusal>) -> Delivered<'a> {
    Delivered { endpoint, credentials: Credentials::read(headers), encoding: Encoding::read(headers), wire }
}

async fn perform(answer: Answer, shell: &Shell) -> Response {
    if !answer.delay.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(answer.delay) => {}
            () = shell.shutdown.cancelled() => {}
        }
    }
    answer.into_response()
}
