//! What the head of a request says about its body.

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST};

use crate::answer::{Code, Refusal};
use crate::body::too_large;
use crate::framing::Ambiguity;

/// How the events of a body are laid out, and its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One object, an array, or `{"events": […]}`.
    Json,
    /// One object a line.
    Lines,
}

impl Layout {
    /// Most bytes, compressed and unpacked alike.
    pub(crate) const fn bytes_max(self) -> usize {
        match self {
            Self::Json => 1024 * 1024,
            Self::Lines => 8 * 1024 * 1024,
        }
    }

    pub(crate) const fn events_max(self) -> usize {
        match self {
            Self::Json => 1_000,
            Self::Lines => 10_000,
        }
    }
}

/// Refuses heads that are ambiguous or not HTTP/1.1.
pub(crate) fn check_head(headers: &HeaderMap, ambiguity: Option<Ambiguity>) -> Result<(), Refusal> {
    match ambiguity {
        Some(Ambiguity::Framing) => {
            return Err(Refusal::new(Code::BadFraming, "the body is framed in more than one way"));
        }
        Some(Ambiguity::Header) => {
            let refusal = Refusal::new(Code::BadHeader, "a header line does not end in CR LF, or is folded");
            return Err(refusal);
        }
        None => {}
    }
    if headers.get_all(HOST).iter().count() == 1 {
        Ok(())
    } else {
        Err(Refusal::new(Code::BadHeader, "exactly one Host header is needed"))
    }
}

/// The layout of a body by its content type.
pub(crate) fn layout(headers: &HeaderMap) -> Result<Layout, Refusal> {
    match media_type(headers, &["application/json", "application/x-ndjson", "application/ndjson"])? {
        "application/json" => Ok(Layout::Json),
        _ => Ok(Layout::Lines),
    }
}

/// Which of the `known` types a body is, in UTF-8.
pub(crate) fn media_type<'k>(headers: &HeaderMap, known: &[&'k str]) -> Result<&'k str, Refusal> {
    let unsupported = || Refusal::new(Code::UnsupportedMediaType, format!("send {}", known.join(" or ")));
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).ok_or_else(unsupported)?;
    let mut parts = text.split(';').map(str::trim);
    let named = parts.next().unwrap_or_default();
    let found = known.iter().find(|known| named.eq_ignore_ascii_case(known)).ok_or_else(unsupported)?;
    for parameter in parts {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        let utf8 = ["utf-8", "utf8"].iter().any(|name| value.trim().trim_matches('"').eq_ignore_ascii_case(name));
        if name.trim().eq_ignore_ascii_case("charset") && !utf8 {
            return Err(Refusal::new(Code::UnsupportedCharset, "only UTF-8 is taken"));
        }
    }
    Ok(*found)
}

/// Whether the body is compressed.
pub(crate) fn is_gzip(headers: &HeaderMap) -> Result<bool, Refusal> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let encoding = encodings.next().map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    match (encoding.as_deref(), encodings.next()) {
        (None | Some("identity"), None) => Ok(false),
        (Some("gzip"), None) => Ok(true),
        _ => Err(Refusal::new(Code::UnsupportedEncoding, "only gzip is taken, once")),
    }
}

/// The announced length of the body; larger ones are refused before they are read.
pub(crate) fn announced_bytes(headers: &HeaderMap, bytes_max: usize) -> Result<Option<usize>, Refusal> {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    match length {
        Some(length) if length > bytes_max => Err(too_large(bytes_max)),
        length => Ok(length),
    }
}
