//! Where to send.

use std::fmt;

use url::Url;

/// Segment's regions. A write key belongs to one; the wrong one loses data silently (Segment docs, regional Segment).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Region {
    /// Oregon.
    #[default]
    Us,
    /// Dublin.
    Eu,
}

impl Region {
    /// The region of a name in configuration.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "us" => Some(Self::Us),
            "eu" => Some(Self::Eu),
            _ => None,
        }
    }

    /// The region's Tracking API.
    #[must_use]
    pub fn base(self) -> &'static str {
        match self {
            Self::Us => "https://api.segment.io",
            Self::Eu => "https://events.eu1.segmentapis.com",
        }
    }
}

/// Why an address may not be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Not an absolute URL with a host.
    #[error("is not an absolute URL")]
    Malformed,
    /// Plain http, or another scheme.
    #[error("must be https (plain http is for loopback only, and must be allowed)")]
    NotHttps,
    /// User, password, query or fragment.
    #[error("may only consist of scheme, host, port and path")]
    Extras,
}

/// A checked address of a Tracking API.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    batch: Url,
    custom: bool,
}

impl Endpoint {
    /// Segment's own address of a region.
    ///
    /// # Panics
    /// Never: both addresses are constants that parse.
    #[must_use]
    #[expect(clippy::expect_used, reason = "both addresses are constants, tested below")]
    pub fn of_region(region: Region) -> Self {
        let parsed = Self::parse(region.base(), false).expect("the region's address is a constant that parses");
        Self { custom: false, ..parsed }
    }

    /// Checks another address. A trailing `/` or `/v1` is taken off. Plain http is allowed to loopback, if `insecure`.
    ///
    /// # Errors
    /// [`InvalidEndpoint`] says why not.
    pub fn parse(text: &str, insecure: bool) -> Result<Self, InvalidEndpoint> {
        let url = Url::parse(text.trim()).map_err(|_malformed| InvalidEndpoint::Malformed)?;
        let loopback = match url.host().ok_or(InvalidEndpoint::Malformed)? {
            url::Host::Ipv4(ip) => ip.is_loopback(),
            url::Host::Ipv6(ip) => ip.is_loopback(),
            url::Host::Domain(name) => name == "localhost",
        };
        match url.scheme() {
            "https" => {}
            "http" if loopback && insecure => {}
            _ => return Err(InvalidEndpoint::NotHttps),
        }
        let extras =
            !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some();
        if extras {
            return Err(InvalidEndpoint::Extras);
        }
        let base = url.as_str().trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let batch = Url::parse(&format!("{base}/v1/batch")).map_err(|_malformed| InvalidEndpoint::Malformed)?;
        Ok(Self { batch, custom: true })
    }

    /// Where batches are posted.
    #[must_use]
    pub fn batch_url(&self) -> &Url {
        &self.batch
    }

    /// Whether the address was chosen by the customer, and is not Segment's own.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        self.custom
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let parse = |text: &str, insecure| Endpoint::parse(text, insecure).map(|endpoint| endpoint.batch.to_string());
        assert_eq!(parse("https://x.example/", false).as_deref(), Ok("https://x.example/v1/batch"));
        assert_eq!(parse("https://x.example/v1", false).as_deref(), Ok("https://x.example/v1/batch"));
        assert_eq!(parse("https://x.example/p/v1/", false).as_deref(), Ok("https://x.example/p/v1/batch"));
        assert_eq!(parse("http://127.0.0.1:9000", true).as_deref(), Ok("http://127.0.0.1:9000/v1/batch"));
        for (text, insecure, expected) in [
            ("http://127.0.0.1:9000", false, InvalidEndpoint::NotHttps),
            ("http://x.example", true, InvalidEndpoint::NotHttps),
            ("file:///etc/passwd", true, InvalidEndpoint::Malformed),
            ("gopher://x.example", true, InvalidEndpoint::NotHttps),
            ("https://user:pass@x.example", false, InvalidEndpoint::Extras),
            ("https://x.example/?a=b", false, InvalidEndpoint::Extras),
            ("x.example", false, InvalidEndpoint::Malformed),
        ] {
            assert_eq!(parse(text, insecure), Err(expected), "{text}");
        }
        assert_eq!(Endpoint::of_region(Region::Us).batch_url().as_str(), "https://api.segment.io/v1/batch");
        assert_eq!(Endpoint::of_region(Region::Eu).batch_url().host_str(), Some("events.eu1.segmentapis.com"));
    }
}
