//! What is answered, and under which code.

use axum::body::Body;
use axum::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use serde_json::json;

/// Why a request or an event was not taken. The names are the API's error codes; `docs/api.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Code {
    AuthMissing,
    AuthScheme,
    AuthInvalid,
    BadHeader,
    BadFraming,
    ConnectionForbidden,
    MethodNotAllowed,
    NotFound,
    UnsupportedMediaType,
    UnsupportedCharset,
    UnsupportedEncoding,
    RequestTimeout,
    BodyTooLarge,
    BodyCut,
    DecompressedTooLarge,
    BadGzip,
    BadJson,
    BadUtf8,
    TooDeep,
    DuplicateKey,
    BadNumber,
    NotAnObject,
    EmptyBatch,
    TooManyEvents,
    EventTooLarge,
    TooManyFields,
    MissingField,
    MissingIdentity,
    BadType,
    BadId,
    BadEmail,
    BadTimestamp,
    TimestampOutOfRange,
    UnknownEvent,
    ControlCharacter,
    FieldTooLong,
    ReservedProperty,
    IdConflict,
    SignatureMissing,
    SignatureInvalid,
    SignatureStale,
    AmbiguousRecipient,
    RateLimited,
    Overloaded,
    StorageUnavailable,
    UpstreamUnavailable,
    ShuttingDown,
}

impl Code {
    /// The code's name in answers and metrics, and its status.
    pub(crate) fn parts(self) -> (&'static str, StatusCode) {
        match self {
            Self::AuthMissing => ("auth_missing", StatusCode::UNAUTHORIZED),
            Self::AuthScheme => ("auth_scheme", StatusCode::UNAUTHORIZED),
            Self::AuthInvalid => ("auth_invalid", StatusCode::UNAUTHORIZED),
            Self::BadHeader => ("bad_header", StatusCode::BAD_REQUEST),
            Self::BadFraming => ("bad_framing", StatusCode::BAD_REQUEST),
            Self::ConnectionForbidden => ("connection_forbidden", StatusCode::FORBIDDEN),
            Self::MethodNotAllowed => ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED),
            Self::NotFound => ("not_found", StatusCode::NOT_FOUND),
            Self::UnsupportedMediaType => ("unsupported_media_type", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Self::UnsupportedCharset => ("unsupported_charset", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Self::UnsupportedEncoding => ("unsupported_encoding", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Self::RequestTimeout => ("request_timeout", StatusCode::REQUEST_TIMEOUT),
            Self::BodyTooLarge => ("body_too_large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::BodyCut => ("bad_framing", StatusCode::BAD_REQUEST),
            Self::DecompressedTooLarge => ("decompressed_too_large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::BadGzip => ("bad_gzip", StatusCode::BAD_REQUEST),
            Self::BadJson => ("bad_json", StatusCode::BAD_REQUEST),
            Self::BadUtf8 => ("bad_utf8", StatusCode::BAD_REQUEST),
            Self::TooDeep => ("too_deep", StatusCode::BAD_REQUEST),
            Self::DuplicateKey => ("duplicate_key", StatusCode::BAD_REQUEST),
            Self::BadNumber => ("bad_number", StatusCode::BAD_REQUEST),
            Self::NotAnObject => ("not_an_object", StatusCode::BAD_REQUEST),
            Self::EmptyBatch => ("empty_batch", StatusCode::UNPROCESSABLE_ENTITY),
            Self::TooManyEvents => ("too_many_events", StatusCode::PAYLOAD_TOO_LARGE),
            Self::EventTooLarge => ("event_too_large", StatusCode::UNPROCESSABLE_ENTITY),
            Self::TooManyFields => ("too_many_fields", StatusCode::UNPROCESSABLE_ENTITY),
            Self::MissingField => ("missing_field", StatusCode::UNPROCESSABLE_ENTITY),
            Self::MissingIdentity => ("missing_identity", StatusCode::UNPROCESSABLE_ENTITY),
            Self::BadType => ("bad_type", StatusCode::UNPROCESSABLE_ENTITY),
            Self::BadId => ("bad_id", StatusCode::UNPROCESSABLE_ENTITY),
            Self::BadEmail => ("bad_email", StatusCode::UNPROCESSABLE_ENTITY),
            Self::BadTimestamp => ("bad_timestamp", StatusCode::UNPROCESSABLE_ENTITY),
            Self::TimestampOutOfRange => ("timestamp_out_of_range", StatusCode::UNPROCESSABLE_ENTITY),
            Self::UnknownEvent => ("unknown_event", StatusCode::UNPROCESSABLE_ENTITY),
            Self::ControlCharacter => ("control_character", StatusCode::UNPROCESSABLE_ENTITY),
            Self::FieldTooLong => ("field_too_long", StatusCode::UNPROCESSABLE_ENTITY),
            Self::ReservedProperty => ("reserved_property", StatusCode::UNPROCESSABLE_ENTITY),
            Self::IdConflict => ("id_conflict", StatusCode::CONFLICT),
            Self::SignatureMissing => ("signature_missing", StatusCode::UNAUTHORIZED),
            Self::SignatureInvalid => ("signature_invalid", StatusCode::UNAUTHORIZED),
            Self::SignatureStale => ("signature_stale", StatusCode::UNAUTHORIZED),
            Self::AmbiguousRecipient => ("ambiguous_recipient", StatusCode::UNPROCESSABLE_ENTITY),
            Self::RateLimited => ("rate_limited", StatusCode::TOO_MANY_REQUESTS),
            Self::Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE),
            Self::StorageUnavailable => ("storage_unavailable", StatusCode::SERVICE_UNAVAILABLE),
            Self::UpstreamUnavailable => ("upstream_unavailable", StatusCode::SERVICE_UNAVAILABLE),
            Self::ShuttingDown => ("shutting_down", StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        self.parts().0
    }

    pub(crate) fn status(self) -> StatusCode {
        self.parts().1
    }

    /// Whether the connection must not be used again: its framing is in doubt, or we are leaving.
    fn closes(self) -> bool {
        matches!(
            self,
            Self::BadFraming
                | Self::BadHeader
                | Self::BodyCut
                | Self::BodyTooLarge
                | Self::RequestTimeout
                | Self::ShuttingDown
        )
    }
}

/// Why a request as a whole was not taken. Never carries what the sender wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// Seconds after which trying again makes sense.
    pub(crate) retry_after: Option<u64>,
    /// Events and why each was refused, when the request consists of refused events only.
    pub(crate) rejected: Vec<serde_json::Value>,
    /// How many more were refused than are named.
    pub(crate) unnamed: usize,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, rejected: Vec::new(), unnamed: 0 }
    }

    pub(crate) fn later(code: Code, message: impl Into<String>, seconds: u64) -> Self {
        Self { retry_after: Some(seconds.max(1)), ..Self::new(code, message) }
    }

    /// How many events were refused; none when the request was for another reason.
    pub(crate) fn events(&self) -> usize {
        self.rejected.len() + self.unnamed
    }

    /// The answer. `status` replaces the code's own, for routes whose callers understand other ones.
    pub(crate) fn answer(&self, request_id: &str, status: Option<StatusCode>) -> Response<Body> {
        let error = json!({"code": self.code.name(), "message": self.message, "request_id": request_id});
        let body = if self.rejected.is_empty() {
            json!({ "error": error })
        } else {
            json!({ "error": error, "rejected": self.rejected })
        };
        let mut response = json_answer(status.unwrap_or(self.code.status()), &body);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Code::MethodNotAllowed {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        if self.code.closes() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

pub(crate) fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
