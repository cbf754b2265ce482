//! What a sender is told, and what a fault makes of it.

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper::body::Frame;
use serde_json::json;

use crate::body::Refusal;
use crate::faults::Fault;

/// An answer before it is HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    status: u16,
    /// Absent for success.
    problem: Option<Problem>,
    headers: Vec<(HeaderName, String)>,
    ending: Ending,
    /// Waited before anything is sent or closed.
    pub(crate) delay: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    message: Cow<'static, str>,
    code: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The whole answer.
    Whole,
    /// The head of an answer and less body than it announces.
    Cut,
    /// No answer.
    None(ConnectionEnd),
}

/// How a connection ends without an answer. As a response extension it tells the connection to do so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectionEnd {
    /// With a TCP RST.
    #[error("an injected fault resets the connection")]
    Reset,
    /// With a TCP FIN.
    #[error("an injected fault closes the connection")]
    Close,
}

const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const INVALID_REQUEST: &str = "invalid_request";
const INJECTED: &str = "injected_fault";
/// Added to the length that a cut answer announces.
const CUT_BYTES: usize = 64;

impl Answer {
    /// Segment took the bytes.
    pub(crate) fn success() -> Self {
        Self { status: 200, problem: None, headers: Vec::new(), ending: Ending::Whole, delay: Duration::ZERO }
    }

    /// 400 for a body that cannot be taken.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::problem(400, Cow::Borrowed(refusal.message()), INVALID_REQUEST)
    }

    /// 400 of the strict mode, where Segment would discard something in silence.
    pub(crate) fn would_drop(item: Option<usize>, reason: &'static str) -> Self {
        let message = match item {
            Some(at) => Cow::Owned(format!("item {at} would be dropped: {reason}")),
            None => Cow::Borrowed(reason),
        };
        Self::problem(400, message, INVALID_REQUEST)
    }

    /// 401 of the strict mode, for a key that is not configured.
    pub(crate) fn unknown_key() -> Self {
        Self::problem(401, Cow::Borrowed("unknown write key"), "unauthorized")
    }

    fn problem(status: u16, message: Cow<'static, str>, code: &'static str) -> Self {
        Self { status, problem: Some(Problem { message, code }), ..Self::success() }
    }

    fn injected(code: u16) -> Self {
        if (200..300).contains(&code) {
            return Self { status: code, ..Self::success() };
        }
        Self::problem(code, Cow::Borrowed("injected fault"), INJECTED)
    }

    /// What the fault leaves of this answer.
    pub(crate) fn under(self, fault: &Fault) -> Self {
        match fault {
            Fault::Status { code, retry_after, rate_limit_reset } => {
                let headers = [(header::RETRY_AFTER, retry_after), (X_RATELIMIT_RESET, rate_limit_reset)];
                let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect();
                Self { headers, ..Self::injected(*code) }
            }
            Fault::StatusAfterCommit { code } => Self::injected(*code),
            Fault::ResetBeforeCommit | Fault::ResetAfterCommit => self.ending(Ending::None(ConnectionEnd::Reset)),
            Fault::Hang { ms, .. } => {
                Self { delay: Duration::from_millis(*ms), ..self.ending(Ending::None(ConnectionEnd::Close)) }
            }
            Fault::Slow { ms } => Self { delay: Duration::from_millis(*ms), ..self },
            Fault::CutAnswer => self.ending(Ending::Cut),
            Fault::RejectItem { .. } => Self::problem(400, Cow::Borrowed("injected fault"), INVALID_REQUEST),
            Fault::Redirect { location } => {
                Self { headers: vec![(header::LOCATION, location.clone())], ..Self::injected(307) }
            }
        }
    }

    /// The status the sender sees, if it sees one.
    pub(crate) fn status_seen(&self) -> Option<u16> {
        match self.ending {
            Ending::Whole | Ending::Cut => Some(self.status),
            Ending::None(_) => None,
        }
    }

    /// The HTTP form. The delay is the caller's.
    pub(crate) fn into_response(self) -> Response {
        let text = match &self.problem {
            None => json!({"success": true}).to_string(),
            Some(problem) => json!({"success": false, "message": problem.message, "code": problem.code}).to_string(),
        };
        let announced = HeaderValue::from(text.len() + CUT_BYTES);
        let mut response = match self.ending {
            Ending::Whole => Response::new(Body::from(text)),
            Ending::Cut => Response::new(Body::new(CutBody { unsent: Some(Bytes::from(text)), flushed: false })),
            Ending::None(_) => Response::new(Body::empty()),
        };
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.ending == Ending::Cut {
            headers.insert(header::CONTENT_LENGTH, announced);
        }
        for (name, value) in &self.headers {
            // Garbage is welcome, as far as HTTP can carry it.
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                headers.insert(name, value);
            }
        }
        if let Ending::None(end) = self.ending {
            response.extensions_mut().insert(end);
        }
        response
    }

    fn ending(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }
}

/// Whether the calls are taken in spite of the fault.
pub(crate) fn commits(fault: &Fault) -> bool {
    match fault {
        Fault::StatusAfterCommit { .. } | Fault::ResetAfterCommit | Fault::Slow { .. } | Fault::CutAnswer => true,
        Fault::Hang { commit, .. } => *commit,
        Fault::Status { .. } | Fault::ResetBeforeCommit | Fault::RejectItem { .. } | Fault::Redirect { .. } => false,
    }
}

/// Sends what it has and then fails, which closes the connection in the middle of the answer.
struct CutBody {
    unsent: Option<Bytes>,
    flushed: bool,
}

impl HttpBody for CutBody {
    type Data = Bytes;
    type Error = ConnectionEnd;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionEnd>>> {
        if let Some(unsent) = self.unsent.take() {
            return Poll::Ready(Some(Ok(Frame::data(unsent))));
        }
        if !self.flushed {
            // One pause lets the connection flush; without it the failure would overtake the bytes.
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(ConnectionEnd::Close)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_commits_and_answers_as_it_says() {
        let status = |code| Fault::Status { code, retry_after: None, rate_limit_reset: None };
        let text = || String::from("x");
        let table = [
            (status(503), false, Some(503)),
            (status(204), false, Some(204)),
            (Fault::StatusAfterCommit { code: 500 }, true, Some(500)),
            (Fault::ResetBeforeCommit, false, None),
            (Fault::ResetAfterCommit, true, None),
            (Fault::Hang { ms: 1, commit: false }, false, None),
            (Fault::Hang { ms: 1, commit: true }, true, None),
            (Fault::Slow { ms: 1 }, true, Some(200)),
            (Fault::CutAnswer, true, Some(200)),
            (Fault::RejectItem { contains: text() }, false, Some(400)),
            (Fault::Redirect { location: text() }, false, Some(307)),
        ];
        for (fault, commit, seen) in table {
            assert_eq!((commits(&fault), Answer::success().under(&fault).status_seen()), (commit, seen), "{fault:?}");
        }
    }

    #[test]
    fn garbage_in_a_header_goes_through() {
        let fault = Fault::Status {
            code: 429,
            retry_after: Some("soon é".to_owned()),
            rate_limit_reset: Some("1\n2".to_owned()),
        };
        let response = Answer::success().under(&fault).into_response();
        assert_eq!(response.headers().get("retry-after").unwrap().as_bytes(), "soon é".as_bytes());
        assert!(response.headers().get("x-ratelimit-reset").is_none());
    }
}
