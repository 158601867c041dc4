//! The IPv6 prefix of containers, which have an IPv6 address in addition to the IPv4 address.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The shortest prefix: that of one site.
const MIN_BITS: u8 = 32;
/// The longest prefix: an IPv4 address must fit behind it.
const MAX_BITS: u8 = 96;
/// Unicast addresses of the internet.
const GLOBAL: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Unique local addresses (RFC 4193).
const UNIQUE_LOCAL: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

/// An IPv6 prefix, written `fd12:3456:789a::/64`. An address in it ends with the IPv4 address of
/// the same container, which is unique on its host: `fd12:3456:789a::ab7:5` belongs to
/// `10.183.0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet6 {
    first: u128,
    bits: u8,
}

/// The error for text that is not a valid IPv6 prefix for containers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("prefix {text:?} is not valid: {remedy}")]
pub struct Subnet6Error {
    text: String,
    remedy: &'static str,
}

impl Subnet6 {
    /// Returns the first /64 of the unique local /48 with this global identifier (RFC 4193, section
    /// 3). The identifier must be random.
    #[must_use]
    pub fn unique_local(identifier: [u8; 5]) -> Self {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&identifier);
        Self {
            first: u128::from_be_bytes(octets),
            bits: 64,
        }
    }

    /// Returns the IPv6 address that corresponds to this IPv4 address.
    pub(super) fn address(self, of: Ipv4Addr) -> Ipv6Addr {
        Ipv6Addr::from(self.first | u128::from(u32::from(of)))
    }

    /// Whether the address is in the prefix.
    #[must_use]
    pub fn contains(self, address: Ipv6Addr) -> bool {
        self.overlaps(address, 128)
    }

    /// Whether the two prefixes have an address in common.
    pub(super) fn overlaps(self, other: Ipv6Addr, bits: u8) -> bool {
        let mask = mask(self.bits.min(bits));
        self.first & mask == u128::from(other) & mask
    }

    fn is_in(self, (network, bits): (Ipv6Addr, u8)) -> bool {
        self.bits >= bits && self.overlaps(network, bits)
    }
}

fn mask(bits: u8) -> u128 {
    u128::MAX
        .checked_shl(128 - u32::from(bits))
        .unwrap_or_default()
}

impl FromStr for Subnet6 {
    type Err = Subnet6Error;

    fn from_str(text: &str) -> Result<Self, Subnet6Error> {
        let error = |remedy| Subnet6Error {
            text: text.to_owned(),
            remedy,
        };
        let form = "write it as fd12:3456:789a::/64";
        let (first, bits) = text.split_once('/').ok_or_else(|| error(form))?;
        let first: Ipv6Addr = first.parse().map_err(|_| error(form))?;
        let bits: u8 = bits.parse().map_err(|_| error(form))?;
        if !(MIN_BITS..=MAX_BITS).contains(&bits) {
            return Err(error("give /32 to /96"));
        }
        let first = u128::from(first);
        if first & !mask(bits) != 0 {
            return Err(error(
                "begin with its first address: what follows the prefix must be 0",
            ));
        }
        let subnet = Self { first, bits };
        if !subnet.is_in(UNIQUE_LOCAL) && !subnet.is_in(GLOBAL) {
            return Err(error("give a unique local one, such as a part of fd00::/8"));
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet6 {
    type Error = Subnet6Error;

    fn try_from(text: String) -> Result<Self, Subnet6Error> {
        text.parse()
    }
}

impl From<Subnet6> for String {
    fn from(subnet: Subnet6) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet6 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", Ipv6Addr::from(self.first), self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual() -> Subnet6 {
        Subnet6::unique_local([0x12, 0x34, 0x56, 0x78, 0x9a])
    }

    #[test]
    fn prefixes_round_trip_as_text() {
        assert_eq!(usual().to_string(), "fd12:3456:789a::/64");
        assert_eq!("fd12:3456:789a::/64".parse(), Ok(usual()));
        assert!("2001:db8:1::/48".parse::<Subnet6>().is_ok());
    }

    #[test]
    fn an_address_ends_with_the_ipv4_address_of_its_container() {
        let address = usual().address(Ipv4Addr::new(10, 183, 0, 5));
        assert_eq!(
            address,
            "fd12:3456:789a::10.183.0.5".parse::<Ipv6Addr>().unwrap()
        );
        let longest: Subnet6 = "fd12:3456:789a:1:2:3::/96".parse().unwrap();
        let address = longest.address(Ipv4Addr::new(255, 255, 255, 254));
        assert_eq!(address.to_string(), "fd12:3456:789a:1:2:3:ffff:fffe");
    }

    #[test]
    fn invalid_prefixes_are_rejected_with_a_remedy() {
        for (text, remedy) in [
            ("fd12::", "write it as"),
            ("10.183.0.0/16", "write it as"),
            ("fd12::1/64", "begin with its first address"),
            ("fd12::/97", "/32 to /96"),
            ("fd00::/8", "/32 to /96"),
            ("::/64", "unique local"),
            ("::ffff:0:0/96", "unique local"),
            ("64:ff9b::/96", "unique local"),
            ("fe80::/64", "unique local"),
            ("ff02::/64", "unique local"),
        ] {
            let error = text.parse::<Subnet6>().unwrap_err().to_string();
            assert!(error.contains(remedy), "{error}");
        }
    }

    #[test]
    fn overlaps_are_detected_in_both_directions() {
        let overlaps = |other: &str, bits| usual().overlaps(other.parse().unwrap(), bits);
        assert!(overlaps("fd12::", 16));
        assert!(overlaps("fd12:3456:789a::", 64));
        assert!(overlaps("fd12:3456:789a::7", 128));
        assert!(!overlaps("fd12:3456:789b::", 48));
        assert!(!overlaps("2001:db8::", 32));
    }
}
