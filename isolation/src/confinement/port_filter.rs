//! The host ports that the processes of a cgroup may use, as eBPF programs.
//!
//! For commands in the host's network. Landlock supports ports from version 4, and only binding of
//! TCP ports: there this layer backs it up, and everything else is covered by this layer alone.
//! Ports that the kernel picks for a process that connects or sends without binding are not
//! restricted. A TCP port that the kernel picked for a process that listens without binding accepts
//! no connection. The kernel runs no program on that call, so the check is at the first incoming
//! packet.

use std::io;
use std::os::fd::BorrowedFd;

use argosy_host::sys::bpf::ProgramKind;
use nix::errno::Errno;

use crate::confinement::ebpf::{
    BpfProgram, CONTEXT, FROM_NETWORK, JUMP_IF_EQUAL, JUMP_IF_GREATER, JUMP_IF_LESS,
    JUMP_UNLESS_EQUAL, LOAD_POINTER, LOAD_WORD, instruction, return_value,
};

/// From linux/bpf.h: binding an IPv4 or an IPv6 address.
const BINDS: [ProgramKind; 2] = [
    ProgramKind {
        program: 18,
        expected: 8,
        attach_type: 8,
    },
    ProgramKind {
        program: 18,
        expected: 9,
        attach_type: 9,
    },
];
/// From linux/bpf.h: creating a socket.
const SOCKETS: ProgramKind = ProgramKind {
    program: 9,
    expected: 2,
    attach_type: 2,
};
/// From linux/bpf.h: incoming packets of a socket.
const PACKETS: ProgramKind = ProgramKind {
    program: 8,
    expected: 0,
    attach_type: 0,
};

/// Offsets in the context of a bind: the port, in network order, and the socket's type.
const PORT: i16 = 24;
const TYPE: i16 = 32;
/// The offset of the socket in the context of a packet; the offsets of protocol, port and state in
/// a socket.
const OF_PACKET: i16 = 168;
const PROTOCOL: i16 = 12;
const OWN_PORT: i16 = 44;
const STATE: i16 = 72;
/// The type of a datagram socket.
const DATAGRAMS: u32 = 2;
/// The state of a listening socket.
const LISTENS: u32 = 10;

/// The protocols that these programs cover: TCP, also multipath, and UDP; and ICMP, which has no
/// ports. Some others (SCTP) run no program on bind, and all of them have ports.
const PROTOCOLS: [u16; 5] = [6, 262, 17, 1, 58];

/// Registers for the fields of the context.
const REQUESTED: u8 = 2;
const SOCKET: u8 = 3;

/// Programs that are loaded once and attached to every cgroup.
#[derive(Debug)]
pub(crate) struct PortFilter {
    sockets: BpfProgram,
    no_ports: PortPrograms,
}

/// Programs for commands that may use these ports: one per address family, and one for incoming
/// packets.
#[derive(Debug)]
struct PortPrograms([BpfProgram; 3]);

impl PortFilter {
    /// # Errors
    /// If the kernel does not support such programs, or this process may not load any.
    pub(crate) fn load() -> Result<Self, Errno> {
        Ok(Self {
            sockets: BpfProgram::load(SOCKETS, &sockets())?,
            no_ports: PortPrograms::load(&[])?,
        })
    }

    /// Attaches the programs to a cgroup for its lifetime; its commands may use these ports. 0
    /// stands for any port that the kernel picks; a datagram socket gets one anyway.
    pub(crate) fn attach(&self, group: BorrowedFd<'_>, ports: &[u16]) -> Result<(), Errno> {
        // Each program that can be attached is, even if another cannot.
        let ports = match ports {
            [] => self.no_ports.attach(group),
            ports => PortPrograms::load(ports).and_then(|ports| ports.attach(group)),
        };
        self.sockets.attach(group).and(ports)
    }
}

impl PortPrograms {
    fn load(ports: &[u16]) -> Result<Self, Errno> {
        let bound = binds(ports);
        let [four, six] = BINDS;
        Ok(Self([
            BpfProgram::load(four, &bound)?,
            BpfProgram::load(six, &bound)?,
            BpfProgram::load(PACKETS, &packets(ports))?,
        ]))
    }

    fn attach(&self, group: BorrowedFd<'_>) -> Result<(), Errno> {
        let put_on = self.0.iter().map(|program| program.attach(group));
        put_on.fold(Ok(()), Result::and)
    }
}

/// Checks whether this host lets this process restrict ports by such programs.
///
/// # Errors
/// The kernel's answer.
pub fn supported() -> io::Result<()> {
    PortFilter::load().map(drop).map_err(Into::into)
}

/// Returns the name that is reported as not enforced without this filter; `landlock` is whether a
/// command has that layer.
#[must_use]
pub fn unenforced_name(landlock: bool) -> &'static str {
    match landlock && crate::confinement::drop_privileges::supports_ports() {
        true => "udp-ports",
        false => "ports",
    }
}

/// Builds a program that returns 1 if a port may be bound, and 0 otherwise.
fn binds(ports: &[u16]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD_WORD, REQUESTED, CONTEXT, PORT, 0),
        instruction(FROM_NETWORK, REQUESTED, 0, 0, 16),
        instruction(LOAD_WORD, SOCKET, CONTEXT, TYPE, 0),
        // Jumps over the answer, unless a datagram socket binds any port.
        instruction(JUMP_UNLESS_EQUAL, REQUESTED, 0, 3, 0),
        instruction(JUMP_UNLESS_EQUAL, SOCKET, 0, 2, DATAGRAMS),
    ];
    program.extend(return_value(1));
    program.extend(allow_ports(ports));
    program
}

/// Builds a program that accepts a packet, unless it is for a socket that listens at another port.
fn packets(ports: &[u16]) -> Vec<u64> {
    if ports.contains(&0) {
        return return_value(1).to_vec();
    }
    let mut program = vec![
        instruction(LOAD_POINTER, SOCKET, CONTEXT, OF_PACKET, 0),
        // Jumps over the answer, if it is for a listening socket.
        instruction(JUMP_IF_EQUAL, SOCKET, 0, 2, 0),
        instruction(LOAD_WORD, REQUESTED, SOCKET, STATE, 0),
        instruction(JUMP_IF_EQUAL, REQUESTED, 0, 2, LISTENS),
    ];
    program.extend(return_value(1));
    program.push(instruction(LOAD_WORD, REQUESTED, SOCKET, OWN_PORT, 0));
    program.extend(allow_ports(ports));
    program
}

/// Returns 1 if the port is one of these.
fn allow_ports(ports: &[u16]) -> Vec<u64> {
    let mut program = Vec::new();
    for (first, last) in ranges(ports) {
        // Jumps over the rest of this range.
        program.push(instruction(JUMP_IF_LESS, REQUESTED, 0, 3, first.into()));
        program.push(instruction(JUMP_IF_GREATER, REQUESTED, 0, 2, last.into()));
        program.extend(return_value(1));
    }
    program.extend(return_value(0));
    program
}

/// Builds a program that decides whether a socket may be created.
fn sockets() -> Vec<u64> {
    let mut program = vec![instruction(LOAD_WORD, REQUESTED, CONTEXT, PROTOCOL, 0)];
    for protocol in PROTOCOLS {
        program.push(instruction(
            JUMP_UNLESS_EQUAL,
            REQUESTED,
            0,
            2,
            protocol.into(),
        ));
        program.extend(return_value(1));
    }
    program.extend(return_value(0));
    program
}

/// Merges the ports into few ranges: an agent's ports are one, and so mostly are a task's.
pub(crate) fn ranges(ports: &[u16]) -> Vec<(u16, u16)> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if port <= last.saturating_add(1) => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confinement::ebpf::{run, run_with};

    const STREAM: u32 = 1;

    fn may_bind(program: &[u64], port: u16, kind: u32) -> bool {
        let mut question = [0; 10];
        question[PORT as usize / 4] = port.to_be().into();
        question[TYPE as usize / 4] = kind;
        run(program, &question) == 1
    }

    fn accepts_packet(program: &[u64], port: u16, state: u32) -> bool {
        let mut socket = [0; 20];
        socket[OWN_PORT as usize / 4] = port.into();
        socket[STATE as usize / 4] = state;
        run_with(program, &[], Some(&socket)) == 1
    }

    #[test]
    fn only_requested_ports_may_be_bound() {
        for ports in [
            &[][..],
            &[31_000],
            &[31_001, 31_000, 31_005, 31_002],
            &[1, 65_535, 80],
            &[80, 80, 81],
        ] {
            let (program, packets) = (binds(ports), packets(ports));
            for port in 1..=u16::MAX {
                for kind in [STREAM, DATAGRAMS] {
                    let may = may_bind(&program, port, kind);
                    assert_eq!(may, ports.contains(&port), "{port} of {ports:?}");
                }
                let heard = accepts_packet(&packets, port, LISTENS);
                assert_eq!(heard, ports.contains(&port), "{port} of {ports:?}");
            }
        }
    }

    #[test]
    fn port_zero_is_for_datagrams_and_unrestricted_tasks() {
        for (ports, stream) in [(&[31_000][..], false), (&[], false), (&[0, 31_000], true)] {
            let program = binds(ports);
            assert!(may_bind(&program, 0, DATAGRAMS));
            assert_eq!(may_bind(&program, 0, STREAM), stream, "{ports:?}");
            let heard = accepts_packet(&packets(ports), 40_000, LISTENS);
            assert_eq!(heard, stream, "{ports:?}");
        }
    }

    #[test]
    fn packets_to_non_listening_sockets_are_accepted() {
        let program = packets(&[31_000]);
        for state in (1..LISTENS).chain([LISTENS + 1, LISTENS + 2]) {
            assert!(accepts_packet(&program, 40_000, state), "{state}");
        }
        assert_eq!(run_with(&program, &[], None), 1, "it is for no socket");
    }

    #[test]
    fn only_sockets_of_covered_protocols_are_allowed() {
        let program = sockets();
        let made = |protocol: u32| run(&program, &[0, 0, 0, protocol]) == 1;
        let all: Vec<_> = (0..=300).filter(|protocol| made(*protocol)).collect();
        assert_eq!(all, [1, 6, 17, 58, 262]);
    }

    #[test]
    fn adjacent_ports_form_one_range() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        assert_eq!(ranges(&all), [(0, u16::MAX)]);
        assert_eq!(ranges(&[5, 3, 4, 9, 9]), [(3, 5), (9, 9)]);
    }
}
