//! The destinations that the processes of an agent's cgroups may connect to, as eBPF programs.
//! Closed are the cluster's own ports, and the services that give cloud hosts their credentials.
//!
//! The programs run for every address that a process connects or sends to, whatever its network,
//! the name that it resolved and the family of its socket. An IPv4 address may be written in IPv6
//! form. They are attached once, to the group of all containers, and outlive the agent; attaching
//! them again replaces them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::Path;

use argosy_host::sys;
use argosy_host::sys::bpf::ProgramKind;

use crate::confinement::ebpf::{
    AND, BpfProgram, CALL, CONTEXT, COPY, FROM_NETWORK, JUMP, JUMP_IF_EQUAL, JUMP_IF_GREATER,
    JUMP_IF_LESS, JUMP_UNLESS_EQUAL_32, JUMP_UNLESS_SAME, LOAD_WORD, instruction, load_long,
    return_value,
};
use crate::confinement::port_filter::ranges;

/// The destinations that are closed to all tasks of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedDestinations {
    /// Ports, at every address; a container with a separate network may use them on its own
    /// loopback.
    pub ports: Vec<u16>,
    /// Whether the metadata services of clouds are closed, except for DNS: IPv4 link-local
    /// addresses and [`METADATA`]. They return the host's credentials.
    pub metadata: bool,
}

/// Link-local addresses: instance metadata of AWS, Google Cloud, Azure, OpenStack and others.
const LINK_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 0);
/// Hosts of Google Cloud have their name server at a link-local address, and those of Azure at that
/// of its platform service.
const DNS: u16 = 53;
/// Other addresses of metadata services: Azure's platform service and that of Alibaba Cloud; AWS,
/// Google Cloud and OpenStack by IPv6.
pub const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
];

/// The prefix by which IPv6 hosts reach IPv4 through a translator.
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// From linux/bpf.h: the type of programs that check socket addresses, and where they are attached:
/// connect and sendmsg.
const ADDRESSES: u32 = 18;
const ATTACH_TYPES_4: [u32; 2] = [10, 14];
const ATTACH_TYPES_6: [u32; 2] = [11, 15];
/// The helper that returns the cookie of a socket's network namespace.
const GET_NETNS_COOKIE: u32 = 122;

/// Offsets of the address and the port in the context, in network order.
const ADDRESS_4: i16 = 4;
const ADDRESS_6: i16 = 8;
const PORT: i16 = 24;

/// Registers: the context, which survives calls of helpers; the port; and the compared value.
const SAVED_CONTEXT: u8 = 6;
const REQUESTED: u8 = 7;
const VALUE: u8 = 2;
const HOST: u8 = 3;

/// Words of an address that a rule compares: offset in the context, mask and value, in the kernel's
/// memory format.
type AddressWords = Vec<(i16, u32, u32)>;

/// An address family: the form of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IpFamily {
    V4,
    V6,
}

impl BlockedDestinations {
    /// Closes these destinations to the processes of a cgroup and of its descendants. Replaces an
    /// earlier set.
    ///
    /// # Errors
    /// The kernel's answer: it does not support such programs, or this process may not attach any.
    pub fn apply(&self, group: &Path) -> io::Result<()> {
        let host = sys::netns_cookie()?;
        let group = std::fs::File::open(group)?;
        for (family, places) in [
            (IpFamily::V4, ATTACH_TYPES_4),
            (IpFamily::V6, ATTACH_TYPES_6),
        ] {
            let instructions = self.instructions(family, host);
            for place in places {
                let kind = ProgramKind {
                    program: ADDRESSES,
                    expected: place,
                    attach_type: place,
                };
                BpfProgram::load(kind, &instructions)?.replace(group.as_fd())?;
            }
        }
        Ok(())
    }

    /// `host` is the cookie of the network namespace in which loopback is not the container's own.
    fn instructions(&self, family: IpFamily, host: u64) -> Vec<u64> {
        let mut program = vec![
            instruction(COPY, SAVED_CONTEXT, CONTEXT, 0, 0),
            instruction(LOAD_WORD, REQUESTED, SAVED_CONTEXT, PORT, 0),
            instruction(FROM_NETWORK, REQUESTED, 0, 0, 16),
        ];
        if self.metadata {
            let mut all_but_dns = vec![instruction(JUMP_IF_EQUAL, REQUESTED, 0, 2, DNS.into())];
            all_but_dns.extend(return_value(0));
            let mut closed = family.forms_of_4(LINK_LOCAL, 16);
            for address in METADATA {
                match address {
                    IpAddr::V4(address) => closed.extend(family.forms_of_4(address, 32)),
                    IpAddr::V6(address) if family == IpFamily::V6 => closed.push(words_6(address)),
                    IpAddr::V6(_) => {}
                }
            }
            for words in closed {
                program.extend(if_address(&words, all_but_dns.clone()));
            }
        }
        // In a separate network a container's loopback is private: skip these where the namespace
        // is the host's.
        let own: Vec<_> = (family.own_addresses().iter())
            .flat_map(|own| if_address(own, return_value(1).to_vec()))
            .collect();
        let over = i16::try_from(own.len()).expect("a few addresses");
        program.push(instruction(COPY, CONTEXT, SAVED_CONTEXT, 0, 0));
        program.push(instruction(CALL, 0, 0, 0, GET_NETNS_COOKIE));
        program.extend(load_long(HOST, host));
        program.push(instruction(JUMP_UNLESS_SAME, 0, HOST, 1, 0));
        program.push(instruction(JUMP, 0, 0, over, 0));
        program.extend(own);
        for (first, last) in ranges(&self.ports) {
            program.push(instruction(JUMP_IF_LESS, REQUESTED, 0, 3, first.into()));
            program.push(instruction(JUMP_IF_GREATER, REQUESTED, 0, 2, last.into()));
            program.extend(return_value(0));
        }
        program.extend(return_value(1));
        program
    }
}

impl IpFamily {
    /// Returns the words of an IPv4 network with this prefix length: 8, 16 or 32.
    fn network_4(self, address: Ipv4Addr, bits: u8) -> AddressWords {
        let mask = (!0_u32 << (32 - u32::from(bits))).to_be();
        let value = u32::from_ne_bytes(address.octets()) & mask;
        match self {
            Self::V4 => vec![(ADDRESS_4, mask, value)],
            Self::V6 => embedded(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), mask, value),
        }
    }

    /// Returns the same in each form of this family that leads there: for IPv6 also through a
    /// translator (RFC 6052).
    fn forms_of_4(self, address: Ipv4Addr, bits: u8) -> Vec<AddressWords> {
        let mut forms = vec![self.network_4(address, bits)];
        if self == Self::V6 {
            let (_, mask, value) = Self::V4.network_4(address, bits)[0];
            forms.push(embedded(NAT64, mask, value));
        }
        forms
    }

    /// Returns a container's own addresses: loopback, and the unspecified one, which stands for it.
    fn own_addresses(self) -> Vec<AddressWords> {
        let mut own = vec![
            self.network_4(Ipv4Addr::LOCALHOST, 8),
            self.network_4(Ipv4Addr::UNSPECIFIED, 32),
        ];
        if self == Self::V6 {
            own.push(words_6(Ipv6Addr::LOCALHOST));
            own.push(words_6(Ipv6Addr::UNSPECIFIED));
        }
        own
    }
}

/// Returns the words of an IPv4 address in IPv6 form, with this prefix of 96 bits.
fn embedded(prefix: Ipv6Addr, mask: u32, value: u32) -> AddressWords {
    let mut words = words_6(prefix);
    words.pop();
    words.push((ADDRESS_6 + 12, mask, value));
    words
}

fn words_6(address: Ipv6Addr) -> AddressWords {
    let octets = address.octets();
    let words = octets.chunks_exact(4).zip(0_i16..);
    let word = |(four, at): (&[u8], i16)| {
        let value = u32::from_ne_bytes(four.try_into().expect("four bytes"));
        (ADDRESS_6 + 4 * at, !0, value)
    };
    words.map(word).collect()
}

/// Runs `then` if the address has these words, and continues after it otherwise.
fn if_address(words: &AddressWords, then: Vec<u64>) -> Vec<u64> {
    let mut program = then;
    for (place, mask, value) in words.iter().rev() {
        let mut compare = vec![instruction(LOAD_WORD, VALUE, SAVED_CONTEXT, *place, 0)];
        if *mask != !0 {
            compare.push(instruction(AND, VALUE, 0, 0, *mask));
        }
        let over = i16::try_from(program.len()).expect("a few words");
        compare.push(instruction(JUMP_UNLESS_EQUAL_32, VALUE, 0, over, *value));
        compare.append(&mut program);
        program = compare;
    }
    program
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;
    use crate::confinement::ebpf::run_in;

    const HOSTS: u64 = 1;
    const OTHER: u64 = 4_711;

    fn may_connect(closed: &BlockedDestinations, to: &str, namespace: u64) -> bool {
        let to: SocketAddr = to.parse().unwrap();
        let mut question = [0_u32; 16];
        question[PORT as usize / 4] = to.port().to_be().into();
        let family = match to.ip() {
            IpAddr::V4(address) => {
                question[1] = u32::from_ne_bytes(address.octets());
                IpFamily::V4
            }
            IpAddr::V6(address) => {
                for (word, four) in question[2..].iter_mut().zip(address.octets().chunks(4)) {
                    *word = u32::from_ne_bytes(four.try_into().unwrap());
                }
                IpFamily::V6
            }
        };
        let program = closed.instructions(family, HOSTS);
        run_in(&program, &question, namespace) == 1
    }

    fn usual() -> BlockedDestinations {
        BlockedDestinations {
            ports: vec![5_050, 5_051, 5_052, 40_123],
            metadata: true,
        }
    }

    #[test]
    fn cluster_ports_are_blocked_at_every_address_form() {
        for address in ["127.0.0.1", "0.0.0.0", "10.1.2.3", "203.0.113.9"] {
            for port in [5_050, 5_051, 5_052, 40_123] {
                for form in [
                    format!("{address}:{port}"),
                    format!("[::ffff:{address}]:{port}"),
                ] {
                    assert!(!may_connect(&usual(), &form, HOSTS), "{form}");
                }
            }
            for port in [80, 5_049, 5_053, 40_122, 40_124, 65_535] {
                let form = format!("{address}:{port}");
                assert!(may_connect(&usual(), &form, HOSTS), "{form}");
                assert!(may_connect(&usual(), &form, OTHER), "{form}");
            }
        }
        for form in ["[::1]:5051", "[2001:db8::1]:5050", "[::]:5051"] {
            assert!(!may_connect(&usual(), form, HOSTS), "{form}");
        }
    }

    #[test]
    fn loopback_is_open_in_a_separate_network() {
        for form in [
            "127.0.0.1:5050",
            "127.9.9.9:5051",
            "0.0.0.0:5051",
            "[::1]:5051",
            "[::]:5052",
            "[::ffff:127.0.0.1]:5051",
        ] {
            assert!(may_connect(&usual(), form, OTHER), "{form}");
            assert!(!may_connect(&usual(), form, HOSTS), "{form}");
        }
        for form in ["10.0.0.1:5051", "[fd00::1]:5050", "[::ffff:10.0.0.1]:5052"] {
            assert!(!may_connect(&usual(), form, OTHER), "{form}");
        }
    }

    #[test]
    fn metadata_services_are_blocked_by_default() {
        let open = BlockedDestinations {
            metadata: false,
            ..usual()
        };
        for form in [
            "169.254.169.254:80",
            "169.254.170.2:80",
            "[::ffff:169.254.169.254]:80",
            "168.63.129.16:32526",
            "100.100.100.200:80",
            "[::ffff:100.100.100.200]:80",
            "[64:ff9b::169.254.169.254]:80",
            "[64:ff9b::168.63.129.16]:80",
            "[fd00:ec2::254]:80",
            "[fd20:ce::254]:80",
            "[fe80::a9fe:a9fe]:80",
        ] {
            for namespace in [HOSTS, OTHER] {
                assert!(!may_connect(&usual(), form, namespace), "{form}");
                assert!(may_connect(&open, form, namespace), "{form}");
            }
        }
        for form in [
            "169.254.169.254:53",
            "168.63.129.16:53",
            "[::ffff:168.63.129.16]:53",
            "[fd20:ce::254]:53",
            "169.253.255.255:80",
            "169.255.0.0:80",
            "100.100.100.201:80",
            "[fd00:ec2::255]:80",
            "[fe80::1]:80",
            "[a9fe:a9fe::]:80",
            "[64:ff9b::10.0.0.1]:80",
            "[64:ff9b::169.254.169.254]:53",
            "[64:ff9c::169.254.169.254]:80",
        ] {
            assert!(may_connect(&usual(), form, HOSTS), "{form}");
        }
    }

    #[test]
    fn an_empty_set_blocks_nothing() {
        let none = BlockedDestinations {
            ports: Vec::new(),
            metadata: false,
        };
        for form in ["127.0.0.1:5050", "169.254.169.254:80", "[::1]:5051"] {
            assert!(may_connect(&none, form, HOSTS), "{form}");
        }
    }
}
