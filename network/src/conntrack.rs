//! The kernel's connection tracking entries of published ports.
//!
//! The kernel applies the maps of `rules` to the first packet of a flow only. The flow's entry
//! stores the result for all later packets, and each of them renews the entry. So UDP packets from
//! a client that keeps its own port would reach the address of a task that has ended, and the next
//! task that has this address. A client that sends before a port is published would never reach the
//! task. Entries of TCP connections without an orderly end stay for up to five days. Therefore the
//! entries are deleted when ports are withdrawn and published.
//!
//! The kernel has no index by port: each list reads its whole table, which takes 9 ms if it is
//! empty, and 30 ms with 100,000 entries. Entries are deleted while they are listed, so that the
//! memory is constant.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netlink_packet_core::{NLA_F_NESTED, NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_DUMP, NlasIterator};

use super::link::NetlinkSocket;
use super::netfilter::{NetfilterMessage, attribute, open};
use super::rules::PortMapping;
use super::{NetworkError, Protocol, network_error};

// Types of messages, from linux/netfilter/nfnetlink_conntrack.h.
const GET: u16 = CONNTRACK | 1;
const DELETE: u16 = CONNTRACK | 2;
const GET_STATISTICS: u16 = CONNTRACK | 5;
const CONNTRACK: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8;

// Types of attributes, from the same file (CTA_*).
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IPV4_SOURCE: u16 = 1;
const IPV4_DESTINATION: u16 = 2;
const IPV6_SOURCE: u16 = 3;
const IPV6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;
const FILTER_ORIGINAL: u16 = 1;
/// The fields by which [`FILTER`] selects entries: protocol number and destination port.
const BY_PORT: u32 = 1 << 3 | 1 << 5;

/// The maximum number of destinations of which it is known whether they are the host's.
const KNOWN_DESTINATIONS: usize = 1024;

/// The entry of a flow by TCP or UDP.
#[derive(Debug, PartialEq, Eq)]
struct FlowEntry {
    protocol: Protocol,
    /// The destination of the client's packets before the translation.
    destination: SocketAddr,
    /// The address that answers, which is the destination after the translation.
    answers_from: IpAddr,
}

/// Checks that the kernel lists and deletes entries.
///
/// # Errors
/// If the kernel lacks the module for it.
pub(super) fn check() -> Result<(), NetworkError> {
    let wanted = NetfilterMessage {
        kind: GET_STATISTICS,
        family: libc::AF_UNSPEC as u8,
        attributes: Vec::new(),
    };
    let answered = open().and_then(|mut kernel| kernel.request(wanted, NLM_F_ACK, |_| Ok(())));
    answered.map_err(network_error(
        "query connection tracking: load the kernel module nf_conntrack_netlink",
    ))
}

/// Deletes the entries that lead to ports of containers. Call it when the rules of these ports are
/// withdrawn, and before their ports and addresses are assigned again.
///
/// # Errors
/// If the kernel refuses it. Packets may then still reach the ports and addresses.
pub(super) fn delete_withdrawn(mappings: &[PortMapping]) -> Result<(), NetworkError> {
    delete(mappings, |flow, mapping| Ok(flow.leads_to(mapping))).map_err(network_error(
        "delete the connection tracking entries of withdrawn ports",
    ))
}

/// Deletes the UDP entries of clients that sent to published ports before the rules existed. A TCP
/// client needs no deletion: its next connection gets a new entry.
///
/// # Errors
/// If the kernel refuses it. These clients then reach the ports only if they pause until their
/// entries expire.
pub(super) fn delete_earlier(mappings: &[PortMapping]) -> io::Result<()> {
    let is_udp = |mapping: &&PortMapping| mapping.protocol == Protocol::Udp;
    let udp: Vec<_> = mappings.iter().filter(is_udp).copied().collect();
    if udp.is_empty() {
        return Ok(());
    }
    let mut links = NetlinkSocket::open()?;
    let mut known = BTreeMap::new();
    delete(&udp, |flow, mapping| {
        let address = flow.destination.ip();
        if flow.leads_to(mapping) {
            return Ok(false);
        }
        // Flows to the same port of another host are not this port's clients.
        if let Some(is_local) = known.get(&address) {
            return Ok(*is_local);
        }
        if known.len() == KNOWN_DESTINATIONS {
            known.clear();
        }
        let is_local = links.is_local(address)?;
        known.insert(address, is_local);
        Ok(is_local)
    })
}

/// Deletes the entries of these host ports that are stale.
fn delete(
    mappings: &[PortMapping],
    mut is_stale: impl FnMut(&FlowEntry, &PortMapping) -> io::Result<bool>,
) -> io::Result<()> {
    let of_port = |mapping: &PortMapping| (mapping.protocol, mapping.host_port);
    let ports: BTreeMap<_, _> = mappings.iter().map(|at| (of_port(at), at)).collect();
    let (mut entries, mut deletions) = (open()?, open()?);
    for request in lists(mappings) {
        entries.request(request, NLM_F_DUMP, |answer: NetfilterMessage| {
            let Some(flow) = FlowEntry::of(&answer) else {
                return Ok(());
            };
            let Some(mapping) = ports.get(&(flow.protocol, flow.destination.port())) else {
                return Ok(());
            };
            if !is_stale(&flow, mapping)? {
                return Ok(());
            }
            let Some(deletion) = answer.deletion() else {
                return Ok(());
            };
            match deletions.request(deletion, NLM_F_ACK, |_| Ok(())) {
                // It has expired.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                deleted => deleted,
            }
        })?;
    }
    Ok(())
}

/// Returns the requests that list the entries of these ports. The kernel selects them by one port;
/// with several, one list of all entries is faster.
fn lists(mappings: &[PortMapping]) -> Vec<NetfilterMessage> {
    let list = |family: i32, attributes| NetfilterMessage {
        kind: GET,
        family: family as u8,
        attributes,
    };
    match mappings {
        [] => Vec::new(),
        // The kernel selects within one family.
        [mapping] => [libc::AF_INET, libc::AF_INET6]
            .map(|family| list(family, filter(mapping)))
            .into(),
        _ => vec![list(libc::AF_UNSPEC, Vec::new())],
    }
}

/// Returns the attributes that select the entries of a host port. A kernel before 5.8 ignores them
/// and lists all entries.
fn filter(mapping: &PortMapping) -> Vec<u8> {
    let mut protocol = attribute(PROTOCOL_NUMBER, &[number(mapping.protocol)]);
    protocol.extend(attribute(
        DESTINATION_PORT,
        &mapping.host_port.to_be_bytes(),
    ));
    let tuple = attribute(TUPLE_PROTOCOL | NLA_F_NESTED, &protocol);
    let fields = attribute(FILTER_ORIGINAL, &BY_PORT.to_ne_bytes());
    let mut attributes = attribute(TUPLE_ORIGINAL | NLA_F_NESTED, &tuple);
    attributes.extend(attribute(FILTER | NLA_F_NESTED, &fields));
    attributes
}

impl FlowEntry {
    /// Returns the entry in an answer of the kernel; `None` for protocols without ports.
    fn of(answer: &NetfilterMessage) -> Option<Self> {
        let original = value(&answer.attributes, TUPLE_ORIGINAL)?;
        let reply = value(&answer.attributes, TUPLE_REPLY)?;
        let ends = value(original, TUPLE_PROTOCOL)?;
        let of_entry = value(ends, PROTOCOL_NUMBER)?.first()?;
        let protocol = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .find(|protocol| number(*protocol) == *of_entry)?;
        let port = value(ends, DESTINATION_PORT)?.try_into().ok()?;
        let destination = address(original, IPV4_DESTINATION, IPV6_DESTINATION)?;
        Some(Self {
            protocol,
            destination: SocketAddr::new(destination, u16::from_be_bytes(port)),
            answers_from: address(reply, IPV4_SOURCE, IPV6_SOURCE)?,
        })
    }

    /// Returns whether the kernel sends the flow's packets to the container of this port.
    fn leads_to(&self, mapping: &PortMapping) -> bool {
        let container = match self.answers_from {
            IpAddr::V4(address) => address,
            // A container's IPv6 address ends with its IPv4 address.
            IpAddr::V6(address) => Ipv4Addr::from_bits(address.to_bits() as u32),
        };
        container == *mapping.to.ip()
    }
}

impl NetfilterMessage {
    /// Returns the request that deletes exactly this entry, and not a later one of the same flow.
    /// `None` if the entry has no addresses: the kernel would delete all entries.
    fn deletion(&self) -> Option<Self> {
        let mut attributes = Vec::new();
        let tuple = with_header(&self.attributes, TUPLE_ORIGINAL)?;
        let others = [ZONE, ID].map(|kind| with_header(&self.attributes, kind));
        for copied in [tuple].into_iter().chain(others.into_iter().flatten()) {
            attributes.extend(copied);
            attributes.resize(attributes.len().next_multiple_of(4), 0);
        }
        Some(Self {
            kind: DELETE,
            family: self.family,
            attributes,
        })
    }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
    }
}

/// Returns the attribute of this type, with its header.
fn with_header(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut all = NlasIterator::new(attributes).map_while(Result::ok);
    let found = all.find(|attribute| attribute.kind() == kind)?;
    let length = usize::from(found.length());
    found.into_inner().get(..length)
}

/// Returns the value of the attribute of this type.
fn value(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    with_header(attributes, kind)?.get(NLA_HEADER_SIZE..)
}

/// Returns an address of one direction of a flow, by its types for IPv4 and IPv6.
fn address(tuple: &[u8], ipv4: u16, ipv6: u16) -> Option<IpAddr> {
    let addresses = value(tuple, TUPLE_IP)?;
    if let Some(bytes) = value(addresses, ipv4) {
        return <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    }
    let bytes = value(addresses, ipv6)?;
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the kernel's message for the entry of a UDP flow to port 53 of the host.
    fn entry(destination: &str, answers_from: &str) -> NetfilterMessage {
        let ip = |address: &str, [ipv4, ipv6]: [u16; 2]| {
            let address = match address.parse().unwrap() {
                IpAddr::V4(address) => attribute(ipv4, &address.octets()),
                IpAddr::V6(address) => attribute(ipv6, &address.octets()),
            };
            attribute(TUPLE_IP | NLA_F_NESTED, &address)
        };
        let mut original = ip(destination, [IPV4_DESTINATION, IPV6_DESTINATION]);
        let mut protocol = attribute(PROTOCOL_NUMBER, &[17]);
        protocol.extend(attribute(DESTINATION_PORT, &[0, 53]));
        original.extend(attribute(TUPLE_PROTOCOL | NLA_F_NESTED, &protocol));
        let reply = ip(answers_from, [IPV4_SOURCE, IPV6_SOURCE]);
        let attributes = [
            attribute(TUPLE_ORIGINAL | NLA_F_NESTED, &original),
            attribute(TUPLE_REPLY | NLA_F_NESTED, &reply),
            attribute(3, &[0, 0, 1, 2]),
            attribute(ID, &[1, 2, 3, 4]),
        ];
        NetfilterMessage {
            kind: 0,
            family: 2,
            attributes: attributes.concat(),
        }
    }

    fn mapping(to: &str) -> PortMapping {
        PortMapping {
            protocol: Protocol::Udp,
            host_port: 53,
            to: to.parse().unwrap(),
        }
    }

    #[test]
    fn an_entry_leads_to_the_container_that_answers_over_ipv4_and_ipv6() {
        for (destination, answers_from) in [
            ("192.0.2.1", "10.183.0.2"),
            ("2001:db8::1", "fd12:3456:789a::ab7:2"),
        ] {
            let flow = FlowEntry::of(&entry(destination, answers_from)).unwrap();
            let expected = FlowEntry {
                protocol: Protocol::Udp,
                destination: SocketAddr::new(destination.parse().unwrap(), 53),
                answers_from: answers_from.parse().unwrap(),
            };
            assert_eq!(flow, expected);
            assert!(flow.leads_to(&mapping("10.183.0.2:80")), "{flow:?}");
            assert!(!flow.leads_to(&mapping("10.183.0.3:80")), "{flow:?}");
        }
    }

    #[test]
    fn a_deletion_names_one_entry() {
        let listed = entry("192.0.2.1", "10.183.0.2");
        let deletion = listed.deletion().unwrap();
        for kind in [TUPLE_ORIGINAL, ID] {
            let copied = with_header(&deletion.attributes, kind);
            assert_eq!(copied, with_header(&listed.attributes, kind));
        }
        assert_eq!(with_header(&deletion.attributes, TUPLE_REPLY), None);
        let without = NetfilterMessage {
            attributes: attribute(ID, &[1, 2, 3, 4]),
            ..listed
        };
        assert!(without.deletion().is_none(), "it would delete all entries");
        assert_eq!(FlowEntry::of(&without), None);
    }

    #[test]
    fn damaged_attributes_are_no_entry() {
        let listed = entry("192.0.2.1", "10.183.0.2");
        for length in 0..listed.attributes.len() {
            let attributes = listed.attributes[..length].to_vec();
            let cut = NetfilterMessage {
                attributes,
                ..entry("192.0.2.1", "10.183.0.2")
            };
            let flow = FlowEntry::of(&cut);
            assert!(flow.is_none() || cut.deletion().is_some(), "{length}");
        }
    }

    #[test]
    fn a_single_port_is_selected_by_the_kernel() {
        let one = lists(&[mapping("10.183.0.2:80")]);
        let families: Vec<_> = one.iter().map(|request| request.family).collect();
        assert_eq!(families, [2, 10]);
        assert!(one.iter().all(|request| {
            value(&request.attributes, FILTER).is_some()
                && value(&request.attributes, TUPLE_ORIGINAL).is_some()
        }));
        let all = lists(&[mapping("10.183.0.2:80"), mapping("10.183.0.3:80")]);
        assert_eq!(all.len(), 1);
        assert!(all[0].attributes.is_empty());
        assert!(lists(&[]).is_empty());
    }
}
