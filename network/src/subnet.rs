//! A range of IPv4 addresses for containers.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The shortest prefix, so the largest pool: the number of an address must fit into a device name.
const MIN_BITS: u8 = 8;
/// The longest prefix, so the smallest pool: 13 containers.
const MAX_BITS: u8 = 28;

/// An IPv4 subnet of 16 to 16,777,216 addresses, written `10.183.0.0/16`. The first and the last
/// address are unused; the second is the host's, as seen by containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: u32,
    bits: u8,
}

/// The error for text that is not a valid subnet for containers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subnet {text:?} is not valid: {remedy}")]
pub struct SubnetError {
    text: String,
    remedy: &'static str,
}

impl Subnet {
    /// `10.183.0.0/16`: private, and not the default of any other known container software.
    pub const DEFAULT: Self = Self {
        first: u32::from_be_bytes([10, 183, 0, 0]),
        bits: 16,
    };

    fn mask(bits: u8) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(bits))
            .unwrap_or_default()
    }

    fn last(self) -> u32 {
        self.first | !Self::mask(self.bits)
    }

    /// Returns the host's address, as seen by containers.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.first + 1)
    }

    /// Returns the maximum number of containers with an address at a time.
    #[must_use]
    pub fn capacity(self) -> u32 {
        self.last() - self.first - 2
    }

    /// Returns the address of this number, modulo the capacity.
    pub(super) fn address(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first + 2 + number % self.capacity())
    }

    /// Returns the number of a container's address; `None` if no container can have it.
    pub(super) fn number(self, address: Ipv4Addr) -> Option<u32> {
        let number = u32::from(address).checked_sub(self.first + 2)?;
        (number < self.capacity()).then_some(number)
    }

    /// Whether the address is in the subnet.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.overlaps(address, 32)
    }

    /// Whether the two subnets have an address in common.
    pub(super) fn overlaps(self, other: Ipv4Addr, bits: u8) -> bool {
        let mask = Self::mask(self.bits.min(bits));
        self.first & mask == u32::from(other) & mask
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let error = |remedy| SubnetError {
            text: text.to_owned(),
            remedy,
        };
        let form = "write it as 10.183.0.0/16";
        let (first, bits) = text.split_once('/').ok_or_else(|| error(form))?;
        let first: Ipv4Addr = first.parse().map_err(|_| error(form))?;
        let bits: u8 = bits.parse().map_err(|_| error(form))?;
        if !(MIN_BITS..=MAX_BITS).contains(&bits) {
            return Err(error("give /8 to /28"));
        }
        let first = u32::from(first);
        if first & !Self::mask(bits) != 0 {
            return Err(error(
                "begin with its first address: what follows the prefix must be 0",
            ));
        }
        let here = Ipv4Addr::from(first);
        if here.is_loopback() || here.is_link_local() || here.is_multicast() || first == 0 {
            return Err(error("give a private one, such as a part of 10.0.0.0/8"));
        }
        Ok(Self { first, bits })
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", Ipv4Addr::from(self.first), self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_round_trip_as_text() {
        let subnet: Subnet = "10.183.0.0/16".parse().unwrap();
        assert_eq!(subnet, Subnet::DEFAULT);
        assert_eq!(subnet.to_string(), "10.183.0.0/16");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 183, 0, 1));
        assert_eq!(subnet.capacity(), 65_533);
    }

    #[test]
    fn invalid_subnets_are_rejected_with_a_remedy() {
        for (text, remedy) in [
            ("10.183.0.0", "write it as"),
            ("10.183.0/16", "write it as"),
            ("10.183.0.1/16", "begin with its first address"),
            ("10.183.0.0/29", "/8 to /28"),
            ("0.0.0.0/8", "private"),
            ("127.0.0.0/8", "private"),
            ("169.254.0.0/16", "private"),
        ] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains(remedy), "{error}");
        }
    }

    #[test]
    fn address_numbers_wrap_and_skip_the_hosts() {
        let subnet: Subnet = "192.168.9.16/28".parse().unwrap();
        let all: Vec<_> = (0..14).map(|number| subnet.address(number)).collect();
        assert_eq!(all[0], Ipv4Addr::new(192, 168, 9, 18));
        assert_eq!(all[12], Ipv4Addr::new(192, 168, 9, 30));
        assert_eq!(all[13], all[0]);
        assert_eq!(subnet.number(all[12]), Some(12));
        assert_eq!(subnet.number(subnet.gateway()), None);
        assert_eq!(subnet.number(Ipv4Addr::new(192, 168, 9, 31)), None);
    }

    #[test]
    fn overlaps_are_detected_in_both_directions() {
        let overlaps = |other: [u8; 4], bits| Subnet::DEFAULT.overlaps(other.into(), bits);
        assert!(overlaps([10, 0, 0, 0], 8));
        assert!(overlaps([10, 183, 4, 0], 24));
        assert!(overlaps([10, 183, 255, 255], 32));
        assert!(!overlaps([10, 184, 0, 0], 16));
        assert!(!overlaps([192, 168, 0, 0], 16));
    }
}
