//! Classes of IP addresses, and the IPv4 addresses embedded in IPv6 addresses.

use std::net::{IpAddr, Ipv4Addr};

use argosy_isolation::reach_filter::METADATA;

/// Returns the embedded IPv4 address, if there is one: mapped, translated (NAT64) or tunnelled
/// (6to4).
pub(super) fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else {
        return address.to_canonical();
    };
    let at = |first: usize| {
        let octets = v6.octets();
        let four = [
            octets[first],
            octets[first + 1],
            octets[first + 2],
            octets[first + 3],
        ];
        IpAddr::V4(Ipv4Addr::from(four))
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => at(12),
        [0x2002, ..] => at(2),
        // Compatible addresses, except the unspecified address and loopback.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => at(12),
        _ => IpAddr::V6(v6),
    }
}

/// Returns the class of an address that tasks may not fetch from.
pub(super) fn kind(address: IpAddr) -> Option<&'static str> {
    if METADATA.contains(&address) {
        return Some("the address of a metadata service");
    }
    let is_unspecified = match address {
        IpAddr::V4(address) => address.octets()[0] == 0,
        IpAddr::V6(address) => address.is_unspecified(),
    };
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let kinds = [
        (is_unspecified, "an unspecified address"),
        (
            address.is_loopback(),
            "a loopback address of the agent's host",
        ),
        (
            is_link_local(address),
            "a link-local address, as those of metadata services are",
        ),
        (
            address.is_multicast() || is_broadcast,
            "a multicast address",
        ),
    ];
    kinds
        .into_iter()
        .find_map(|(is_it, what)| is_it.then_some(what))
}

pub(super) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
