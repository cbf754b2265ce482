//! Whose request it is.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use inflection_control::IngestKeys;

use crate::answer::{Code, Refusal};
use crate::limits::{Sender, Source};

/// The sender with the ingest key in `Authorization: Bearer <key>`, or Basic with the key as user name.
pub(crate) fn sender(headers: &HeaderMap, keys: &IngestKeys) -> Result<Sender, Refusal> {
    let refuse = |code, message: &str| Err(Refusal::new(code, message));
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (header, second) = (given.next(), given.next());
    let Some(header) = header else {
        return refuse(Code::AuthMissing, "send the ingest key as `Authorization: Bearer <key>`");
    };
    if second.is_some() {
        return refuse(Code::BadHeader, "more than one Authorization header");
    }
    let Ok(text) = header.to_str() else {
        return refuse(Code::BadHeader, "the Authorization header has characters that are not ASCII");
    };
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    let key = if scheme.eq_ignore_ascii_case("bearer") {
        Some(rest.trim().to_owned())
    } else if scheme.eq_ignore_ascii_case("basic") {
        basic_user(rest.trim())
    } else {
        return refuse(Code::AuthScheme, "use Bearer, or Basic with the ingest key as user name");
    };
    key.as_deref().map_or_else(|| Err(unknown()), |key| of_key(key, keys))
}

/// The sender with this ingest key.
pub(crate) fn of_key(key: &str, keys: &IngestKeys) -> Result<Sender, Refusal> {
    let (workspace, id) = keys.find(key).ok_or_else(unknown)?;
    Ok(Sender { workspace: workspace.clone(), source: Source::Key(id) })
}

fn unknown() -> Refusal {
    Refusal::new(Code::AuthInvalid, "the ingest key is not known")
}

fn basic_user(encoded: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    decoded.split_once(':').map(|(user, _)| user.to_owned())
}
