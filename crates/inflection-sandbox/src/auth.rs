//! Under which write key a request comes.

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What the `Authorization` header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Basic: the user name is the write key; the password is not looked at. Keys without the colon work, as at Segment.
    Basic(String),
    /// No header, or a Bearer token, which is not checked: the write key stands in the body.
    InBody,
    /// A header that cannot be read.
    Unreadable,
}

impl Credentials {
    /// Reads the header.
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Self::InBody;
        };
        let Some((scheme, credentials)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return Self::Unreadable;
        };
        if scheme.eq_ignore_ascii_case("bearer") {
            return Self::InBody;
        }
        let decoded = STANDARD.decode(credentials.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded {
            Some(text) if scheme.eq_ignore_ascii_case("basic") => {
                Self::Basic(text.split_once(':').map_or(text.as_str(), |(key, _password)| key).to_owned())
            }
            Some(_) | None => Self::Unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: Option<&str>, expected: &Credentials) {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert("authorization", header.parse().unwrap());
        }
        assert_eq!(&Credentials::read(&headers), expected, "{header:?}");
    }

    #[test]
    fn the_three_ways() {
        check(None, &Credentials::InBody);
        check(Some("Bearer abc"), &Credentials::InBody);
        check(Some("Basic a2V5Og=="), &Credentials::Basic("key".to_owned()));
        check(Some("basic a2V5"), &Credentials::Basic("key".to_owned()));
        check(Some("Basic Og=="), &Credentials::Basic(String::new()));
        check(Some("Basic %%%"), &Credentials::Unreadable);
        check(Some("Digest a2V5Og=="), &Credentials::Unreadable);
        check(Some("nonsense"), &Credentials::Unreadable);
    }
}
