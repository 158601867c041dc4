//! What is closed to containers: addresses outside of the host, and neighbour discovery.

/// IPv6 destinations that are closed to containers: loopback and IPv4 in the forms of IPv6,
/// link-local addresses, multicast.
pub(super) const CLOSED_6: &str = "::/96, ::ffff:0:0/96, fe80::/10, ff00::/8";

/// Metadata services of clouds; some are the name servers of hosts, too. In IPv6 also by NAT64.
pub(super) const METADATA: &str = "169.254.0.0/16, 168.63.129.16, 100.100.100.200";
pub(super) const METADATA_6: &str = "\
64:ff9b::a9fe:0/112, 64:ff9b::a83f:8110, 64:ff9b::6464:64c8, fd00:ec2::254, fd20:ce::254";

/// Containers need no neighbour discovery: both ends of a link know each other.
pub(super) const DISCOVERY: &str = "\
nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect";

/// Returns the rules that close metadata services, except for DNS.
pub(super) fn metadata_rules(blocks: bool, family: &str, addresses: &str) -> String {
    let to = format!("    {family} daddr {{ {addresses} }} meta l4proto");
    match blocks {
        true => format!("{to} != {{ tcp, udp }} drop\n{to} {{ tcp, udp }} th dport != 53 drop\n"),
        false => String::new(),
    }
}
