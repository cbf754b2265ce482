//! Where to send.
//!
//! A customer may choose the address, so it is judged as an attack on our own network. What the text may hold is
//! checked before it is parsed, because parsers differ in what they make of odd text; what was parsed is checked
//! after. Names are judged a second time, by their addresses, when a connection is made (`resolve`).

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use crate::address::Reach;

/// Besides 443, ports below this belong to services that are not ours to talk to (SSH, SMTP, ...).
const PORT_FREE_MIN: u16 = 1024;

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
    /// Characters that parsers drop, or take for others.
    #[error("may not contain white space, control characters or backslashes")]
    Characters,
    /// A host that does not read as what it is.
    #[error(
        "must name its host in ASCII letters, digits and hyphens (no xn-- names, no dot at the end, IPv4 as four \
         decimal numbers)"
    )]
    Host,
    /// An address within a machine or a network, or a name for one.
    #[error("must lead to a public address (loopback must be allowed)")]
    Forbidden,
    /// A port of another service.
    #[error("must have port 443, or one from 1024 on")]
    Port,
}

/// A checked address of a Tracking API.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    batch: Url,
    custom: bool,
    reach: Reach,
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

    /// Checks another address. A trailing `/` or `/v1` is taken off. With `insecure`, loopback is allowed too, even
    /// with plain http; no other address that is not public ever is.
    ///
    /// # Errors
    /// [`InvalidEndpoint`] says why not.
    pub fn parse(text: &str, insecure: bool) -> Result<Self, InvalidEndpoint> {
        let text = text.trim();
        check_characters(text)?;
        let name = written_name(text)?;
        let url = Url::parse(text).map_err(|_malformed| InvalidEndpoint::Malformed)?;
        let reach = checked_reach(&url, insecure)?;
        // What is connected to must be what was read: to a parser `0x7f.1` is an IPv4 address.
        let alike = |name: &str| url.host_str().is_some_and(|host| host.eq_ignore_ascii_case(name));
        if name.is_some_and(|name| !alike(name)) {
            return Err(InvalidEndpoint::Host);
        }
        check_port(&url)?;
        let base = url.as_str().trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let batch = Url::parse(&format!("{base}/v1/batch")).map_err(|_malformed| InvalidEndpoint::Malformed)?;
        Ok(Self { batch, custom: true, reach })
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

    /// What its host may resolve to.
    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.batch)
    }
}

/// Refuses what a parser drops or reads as something else, and every part beyond scheme, host, port and path.
fn check_characters(text: &str) -> Result<(), InvalidEndpoint> {
    if text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err(InvalidEndpoint::Characters);
    }
    if text.contains(['@', '?', '#']) { Err(InvalidEndpoint::Extras) } else { Ok(()) }
}

/// The host as it was written; nothing for IPv6 in brackets, which can only be read in one way.
fn written_name(text: &str) -> Result<Option<&str>, InvalidEndpoint> {
    let (scheme, rest) = text.split_once("://").ok_or(InvalidEndpoint::Malformed)?;
    let authority = rest.split_once('/').map_or(rest, |(authority, _path)| authority);
    // A parser also takes `https:host/` and `https:///host`; then this `://` would not be where the host begins.
    if authority.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(InvalidEndpoint::Malformed);
    }
    if authority.starts_with('[') {
        return Ok(None);
    }
    let name = authority.split_once(':').map_or(authority, |(name, _port)| name);
    if name.split('.').all(is_plain_label) { Ok(Some(name)) } else { Err(InvalidEndpoint::Host) }
}

/// Whether a part of a name is what it looks like: punycode shows letters that are not there.
fn is_plain_label(label: &str) -> bool {
    let punycode = label.get(..4).is_some_and(|head| head.eq_ignore_ascii_case("xn--"));
    !label.is_empty() && !punycode && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Where the parsed address leads, if scheme and host may be used.
fn checked_reach(url: &Url, insecure: bool) -> Result<Reach, InvalidEndpoint> {
    let reach = match url.host().ok_or(InvalidEndpoint::Malformed)? {
        Host::Ipv4(ip) => Reach::of(IpAddr::V4(ip)),
        Host::Ipv6(ip) => Reach::of(IpAddr::V6(ip)),
        // RFC 6761, 6.3: these names are loopback, whoever resolves them.
        Host::Domain(name) if name == "localhost" || name.ends_with(".localhost") => Some(Reach::Loopback),
        Host::Domain(_) => Some(Reach::Public),
    };
    let loopback = insecure && reach == Some(Reach::Loopback);
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        _ => return Err(InvalidEndpoint::NotHttps),
    }
    reach.filter(|reach| loopback || *reach == Reach::Public).ok_or(InvalidEndpoint::Forbidden)
}

/// Plain http has been found to lead to loopback by now, where test servers have any port.
fn check_port(url: &Url) -> Result<(), InvalidEndpoint> {
    let allowed = |port| port == 443 || port >= PORT_FREE_MIN;
    if url.scheme() == "http" || url.port_or_known_default().is_some_and(allowed) {
        Ok(())
    } else {
        Err(InvalidEndpoint::Port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn taken(text: &str, insecure: bool, expected: &str) {
        let batch = Endpoint::parse(text, insecure).map(|endpoint| endpoint.batch.to_string());
        assert_eq!(batch.as_deref(), Ok(expected), "{text}");
    }

    /// With and without leave for loopback.
    #[track_caller]
    fn never(expected: InvalidEndpoint, texts: &[&str]) {
        for text in texts {
            assert_eq!(Endpoint::parse(text, false), Err(expected), "{text}");
            assert_eq!(Endpoint::parse(text, true), Err(expected), "{text}, insecure");
        }
    }

    #[test]
    fn regions_have_addresses() {
        assert_eq!(Endpoint::of_region(Region::Us).batch_url().as_str(), "https://api.segment.io/v1/batch");
        assert_eq!(Endpoint::of_region(Region::Eu).batch_url().host_str(), Some("events.eu1.segmentapis.com"));
    }

    #[test]
    fn public_addresses_are_taken() {
        for insecure in [false, true] {
            taken("https://x.example/", insecure, "https://x.example/v1/batch");
            taken(" https://x.example/v1\n", insecure, "https://x.example/v1/batch");
            taken("https://x.example/p/v1/", insecure, "https://x.example/p/v1/batch");
            taken("HTTPS://X-1.Example:443", insecure, "https://x-1.example/v1/batch");
            taken("https://x.example:8443", insecure, "https://x.example:8443/v1/batch");
            taken("https://x.example:1024", insecure, "https://x.example:1024/v1/batch");
            taken("https://8.8.8.8", insecure, "https://8.8.8.8/v1/batch");
            taken("https://[2606:4700::1111]:8443", insecure, "https://[2606:4700::1111]:8443/v1/batch");
        }
        assert_eq!(Endpoint::parse("https://x.example", true).map(|endpoint| endpoint.reach), Ok(Reach::Public));
    }

    #[test]
    fn loopback_is_taken_when_it_is_allowed() {
        for (text, without) in [
            ("http://127.0.0.1:9000", InvalidEndpoint::NotHttps),
            ("http://127.9.9.9", InvalidEndpoint::NotHttps),
            ("http://localhost:9000", InvalidEndpoint::NotHttps),
            ("http://[::1]:22", InvalidEndpoint::NotHttps),
            ("https://127.0.0.1", InvalidEndpoint::Forbidden),
            ("https://127.0.0.1:9000", InvalidEndpoint::Forbidden),
            ("https://[::1]", InvalidEndpoint::Forbidden),
            ("https://localhost", InvalidEndpoint::Forbidden),
            ("https://LocalHost:8443", InvalidEndpoint::Forbidden),
            ("https://any.localhost", InvalidEndpoint::Forbidden),
        ] {
            assert_eq!(Endpoint::parse(text, false), Err(without), "{text}");
            assert_eq!(Endpoint::parse(text, true).map(|endpoint| endpoint.reach), Ok(Reach::Loopback), "{text}");
        }
        taken("http://127.0.0.1:9000", true, "http://127.0.0.1:9000/v1/batch");
    }

    #[test]
    fn schemes_and_extras_and_ports_are_refused() {
        never(InvalidEndpoint::NotHttps, &["http://x.example", "http://10.0.0.1", "gopher://x.example"]);
        never(InvalidEndpoint::NotHttps, &["ftp://127.0.0.1", "file://x.example/etc/passwd"]);
        never(InvalidEndpoint::Malformed, &["", "x.example", "https://", "file:///etc/passwd", "data:text/plain,x"]);
        never(InvalidEndpoint::Malformed, &["https:x.example", "https:/x.example", "https:///x.example"]);
        never(InvalidEndpoint::Malformed, &["https:xn--x.example/://[", "https://x.example:99999", "https://[::1]x"]);
        never(InvalidEndpoint::Extras, &["https://user:pass@x.example", "https://x.example/?a=b"]);
        never(InvalidEndpoint::Port, &["https://x.example:22", "https://x.example:80", "https://x.example:1023"]);
        never(InvalidEndpoint::Port, &["https://x.example:0", "https://8.8.8.8:22", "https://[2606:4700::1111]:25"]);
        assert_eq!(Endpoint::parse("https://127.0.0.1:22", true), Err(InvalidEndpoint::Port));
    }

    #[test]
    fn addresses_within_a_network_are_refused() {
        let v4 =
            ["10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0", "198.18.0.1"];
        for host in v4.into_iter().chain(["224.0.0.1", "255.255.255.255", "0xa9fea9fe", "012.1", "192.0.0.1"]) {
            never(InvalidEndpoint::Forbidden, &[&format!("https://{host}"), &format!("https://{host}:9000/v1")]);
        }
        let v6 = ["::", "fd00::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1"];
        for host in v6.into_iter().chain(["2002:7f00:1::", "64:ff9b::169.254.169.254", "2001::1", "2001:db8::1"]) {
            never(InvalidEndpoint::Forbidden, &[&format!("https://[{host}]")]);
        }
    }

    #[test]
    fn loopback_in_disguise_is_refused() {
        for text in ["https://0x7f.1", "https://2130706433", "https://0177.0.0.1", "https://127.1"] {
            assert_eq!(Endpoint::parse(text, false), Err(InvalidEndpoint::Forbidden), "{text}");
            assert_eq!(Endpoint::parse(text, true), Err(InvalidEndpoint::Host), "{text}");
        }
        never(InvalidEndpoint::Host, &["https://localhost.", "https://127.0.0.1.", "https://127%2e0.0.1"]);
    }

    #[test]
    fn text_that_reads_as_another_address_is_refused() {
        never(
            InvalidEndpoint::Host,
            &["https://\u{430}pple.example", "https://x\u{3002}example", "https://x\u{200b}.example"],
        );
        never(InvalidEndpoint::Host, &["https://xn--pple-43d.example", "https://a.XN--pple-43d.example"]);
        never(InvalidEndpoint::Host, &["https://x.example.", "https://x..example", "https://.example", "https://:443"]);
        never(InvalidEndpoint::Host, &["https://x%2eexample", "https://x_y.example", "https://134744072"]);
        never(
            InvalidEndpoint::Characters,
            &["https://x.example\\@y.example", "https:\\\\x.example", "https://x\t.example"],
        );
        never(InvalidEndpoint::Characters, &["https://x\n.example", "https://x .example", "https://x\0.example"]);
        never(
            InvalidEndpoint::Characters,
            &["https://x\u{a0}.example", "https://x.example/a b", "https://\u{7f}x.example"],
        );
        never(InvalidEndpoint::Extras, &["https://x.example@y.example", "https://x.example#@y.example"]);
        never(InvalidEndpoint::Extras, &["https://x.example/#y", "https://x.example/a@b"]);
    }
}
