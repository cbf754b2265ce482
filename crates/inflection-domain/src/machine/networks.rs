//! Networks of addresses.

use std::net::IpAddr;

/// A set of networks, in which an address is found by halves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks(Vec<(u128, u128)>);

impl Networks {
    /// Most networks of one set. Apple's list of relays has about 300,000.
    pub const COUNT_MAX: usize = 500_000;

    /// Networks as they are written: `203.0.113.0/24`, `2001:db8::/32`, or a single address.
    ///
    /// # Errors
    /// The first text that is none.
    pub fn read<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self, &'t str> {
        let mut ranges = Vec::new();
        for text in texts {
            ranges.push(range(text).ok_or(text)?);
        }
        ranges.sort_unstable();
        // Overlapping ones become one: then the last that begins before an address is the only one that can have it.
        let mut merged: Vec<(u128, u128)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                Some(_) | None => merged.push((first, last)),
            }
        }
        Ok(Self(merged))
    }

    /// Whether one of them has this address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = number(address);
        let after = self.0.partition_point(|(first, _)| *first <= address);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| address <= *last)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// First and last address of a network.
fn range(text: &str) -> Option<(u128, u128)> {
    let text = text.trim();
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix: u32 = prefix.map_or(Some(bits), |prefix| prefix.parse().ok())?;
    let hosts = bits.checked_sub(prefix)?;
    let mask = u128::MAX.checked_shr(128 - hosts).unwrap_or(0);
    let first = number(address) & !mask;
    Some((first, first | mask))
}

/// An address as a number: those of version 4 as they are mapped into version 6.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_their_networks() {
        let texts =
            ["203.0.113.0/24", "198.51.100.7", "203.0.113.128/25", "2001:db8::/32", "192.0.2.0/31", "10.0.0.0/8"];
        let networks = Networks::read(texts).unwrap();
        for (address, inside) in [
            ("203.0.113.0", true),
            ("203.0.113.255", true),
            ("::ffff:203.0.113.9", true),
            ("203.0.114.0", false),
            ("203.0.112.255", false),
            ("198.51.100.7", true),
            ("198.51.100.8", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("::1", false),
        ] {
            assert_eq!(networks.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert!(!Networks::default().contains("203.0.113.1".parse().unwrap()));
        let everything = Networks::read(["::/0"]).unwrap();
        assert!(everything.contains("203.0.113.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_named() {
        for text in ["203.0.113.0/33", "203.0.113", "2001:db8::/129", "", "203.0.113.0/", "203.0.113.0/-1", "name/8"] {
            assert_eq!(Networks::read(["10.0.0.0/8", text]), Err(text));
        }
    }
}
