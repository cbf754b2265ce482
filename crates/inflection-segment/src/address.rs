//! Which addresses may be sent to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// First address and prefix length of a block.
type Block<Ip> = (Ip, u32);

/// IPv4 that is not public (IANA, IPv4 special-purpose address registry).
const NOT_PUBLIC_V4: &[Block<Ipv4Addr>] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),        // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),    // shared by carriers, and Alibaba's metadata
    (Ipv4Addr::new(127, 0, 0, 0), 8),      // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32), // not in the registry: Azure's host agent, seen from every machine there
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local, and the metadata of most clouds
    (Ipv4Addr::new(172, 16, 0, 0), 12),    // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),     // protocol assignments, and Oracle's metadata
    (Ipv4Addr::new(192, 0, 2, 0), 24),     // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),   // former 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),   // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarking
    (Ipv4Addr::new(198, 51, 100, 0), 24),  // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),   // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),      // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),      // reserved, and broadcast
];

/// The only IPv6 that is given out for public use: private, link-local and multicast lie outside.
const GLOBAL_V6: Block<Ipv6Addr> = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// What is not public within it (IANA, IPv6 special-purpose address registry).
const NOT_PUBLIC_V6: &[Block<Ipv6Addr>] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments: Teredo, benchmarking, ORCHID
    (Ipv6Addr::new(0x2001, 0x0db8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// Where an endpoint may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To public addresses only.
    Public,
    /// To this machine only, for tests and trials: what is sent there without TLS does not leave it.
    Loopback,
}

impl Reach {
    /// The reach that an address needs; none has it if it is neither public nor loopback.
    pub(crate) fn of(ip: IpAddr) -> Option<Self> {
        if ip.is_loopback() { Some(Self::Loopback) } else { is_public(ip).then_some(Self::Public) }
    }

    /// Whether an address may be connected to.
    pub(crate) fn permits(self, ip: IpAddr) -> bool {
        Self::of(ip) == Some(self)
    }
}

/// Whether an address is one that anybody on the internet could connect to. When in doubt it is not.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => carried_v4(ip).map_or_else(|| is_public_v6(ip), is_public_v4),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    !NOT_PUBLIC_V4.iter().any(|&(start, length)| (ip.to_bits() ^ start.to_bits()) >> (32 - length) == 0)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let within = |(start, length): Block<Ipv6Addr>| (ip.to_bits() ^ start.to_bits()) >> (128 - length) == 0;
    within(GLOBAL_V6) && !NOT_PUBLIC_V6.iter().copied().any(within)
}

/// The IPv4 address that a packet to this one may end at: it is what must be judged.
fn carried_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)));
    match ip.segments() {
        // IPv4-compatible (`::` and `::1` look like it, and are judged rightly) and IPv4-mapped.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => v4(high, low),
        // NAT64.
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        // 6to4.
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(public: bool, addresses: &[&str]) {
        for address in addresses {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn public_v4_ends_where_the_blocks_begin() {
        check(true, &["1.0.0.0", "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"]);
        check(true, &["126.255.255.255", "128.0.0.1", "168.63.129.15", "169.253.255.255", "169.255.0.0"]);
        check(true, &["172.15.255.255", "172.32.0.0", "192.0.1.0", "192.0.3.0", "192.88.98.255", "192.167.255.255"]);
        check(
            true,
            &["192.169.0.0", "198.17.255.255", "198.20.0.0", "198.51.101.0", "203.0.112.255", "223.255.255.255"],
        );
        check(false, &["0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255"]);
        check(false, &["127.0.0.1", "127.255.255.255", "168.63.129.16", "169.254.0.0", "169.254.169.254"]);
        check(false, &["172.16.0.0", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1"]);
        check(false, &["192.168.0.0", "192.168.255.255", "198.18.0.0", "198.19.255.255", "198.51.100.1"]);
        check(false, &["203.0.113.255", "224.0.0.1", "239.255.255.255", "240.0.0.0", "255.255.255.255"]);
    }

    #[test]
    fn public_v6_is_global_unicast() {
        check(true, &["2001:200::1", "2001:4860:4860::8888", "2606:4700:4700::1111", "2a00::1", "2001:db9::1"]);
        check(false, &["::", "::1", "100::1", "fc00::1", "fd00::1", "fd00:ec2::254", "fe80::1", "fec0::1"]);
        check(false, &["ff02::1", "ff0e::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1"]);
        check(false, &["2001:10::1", "2001:1ff::1", "2001:db8::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1"]);
    }

    #[test]
    fn v4_within_v6_is_judged_as_v4() {
        check(true, &["::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]);
        check(false, &["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::10.0.0.1"]);
        check(false, &["64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8", "::ffff:0:8.8.8.8"]);
        check(false, &["2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::1", "2002:a9fe:a9fe::1"]);
    }

    #[test]
    fn each_reach_excludes_the_other() {
        for (address, expected) in [
            ("8.8.8.8", Some(Reach::Public)),
            ("2606:4700::1", Some(Reach::Public)),
            ("127.0.0.1", Some(Reach::Loopback)),
            ("::1", Some(Reach::Loopback)),
            ("::ffff:127.0.0.1", None),
            ("0.0.0.0", None),
            ("10.0.0.1", None),
        ] {
            let ip: IpAddr = address.parse().unwrap();
            assert_eq!(Reach::of(ip), expected, "{address}");
            assert_eq!(Reach::Public.permits(ip), expected == Some(Reach::Public), "{address}");
            assert_eq!(Reach::Loopback.permits(ip), expected == Some(Reach::Loopback), "{address}");
        }
    }
}
