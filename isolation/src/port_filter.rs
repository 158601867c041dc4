//! Which ports of the host the processes of a control group may bind, as programs for the kernel (eBPF).
//!
//! For commands in the host's network. Landlock knows ports from version 4, and those of TCP only: this wall stands behind
//! it for TCP, and alone for UDP and on older kernels. What the kernel picks by itself, for who connects or sends without
//! having bound anything, is nobody's question.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use crate::ebpf::{
    FROM_NETWORK, JUMP_IF_GREATER, JUMP_IF_LESS, JUMP_UNLESS_EQUAL, LOAD_WORD, Program, QUESTION,
    answer, instruction,
};
use crate::sys::ProgramKind;

/// Of linux/bpf.h: addresses of version 4, and of version 6.
const BINDS: [ProgramKind; 2] = [
    ProgramKind {
        program: 18,
        expected: 8,
        place: 8,
    },
    ProgramKind {
        program: 18,
        expected: 9,
        place: 9,
    },
];
/// Where the question has the port, in the network's order, and the socket's type.
const PORT: i16 = 24;
const TYPE: i16 = 32;
/// The type of a socket that sends datagrams.
const DATAGRAMS: u32 = 2;

/// Registers for what is taken of the question.
const ASKED: u8 = 2;
const SOCKET: u8 = 3;

/// A program for each kind of address.
#[derive(Debug)]
pub(crate) struct PortFilter([Program; 2]);

impl PortFilter {
    /// For commands that may bind these ports. 0 stands for any that the kernel picks; who sends datagrams gets one anyway.
    ///
    /// # Errors
    /// If the kernel has no such programs, or this process may load none.
    pub(crate) fn load(ports: &[u16]) -> Result<Self, Errno> {
        let program = program(ports);
        let [four, six] = BINDS;
        Ok(Self([
            Program::load(four, &program)?,
            Program::load(six, &program)?,
        ]))
    }

    /// Puts it on a group, for as long as that lives.
    pub(crate) fn put_on(&self, group: BorrowedFd<'_>) -> Result<(), Errno> {
        self.0.iter().try_for_each(|program| program.put_on(group))
    }
}

/// Whether this host lets this process keep commands from ports by such programs.
///
/// # Errors
/// The kernel's answer.
pub fn supported() -> io::Result<()> {
    PortFilter::load(&[]).map(drop).map_err(Into::into)
}

/// What is told as not enforced where there is no such filter; `landlock` is whether a command has that wall.
#[must_use]
pub fn left_open(landlock: bool) -> &'static str {
    match landlock && crate::confinement::knows_ports() {
        true => "udp-ports",
        false => "ports",
    }
}

/// Answers 1 for what is allowed and 0 for everything else.
fn program(ports: &[u16]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD_WORD, ASKED, QUESTION, PORT, 0),
        instruction(FROM_NETWORK, ASKED, 0, 0, 16),
        instruction(LOAD_WORD, SOCKET, QUESTION, TYPE, 0),
        // Over the answer, unless somebody who sends datagrams wants any port.
        instruction(JUMP_UNLESS_EQUAL, ASKED, 0, 3, 0),
        instruction(JUMP_UNLESS_EQUAL, SOCKET, 0, 2, DATAGRAMS),
    ];
    program.extend(answer(1));
    for (first, last) in ranges(ports) {
        // Over what is left of this range.
        program.push(instruction(JUMP_IF_LESS, ASKED, 0, 3, first.into()));
        program.push(instruction(JUMP_IF_GREATER, ASKED, 0, 2, last.into()));
        program.extend(answer(1));
    }
    program.extend(answer(0));
    program
}

/// The same ports as few ranges: an agent's ports are one, and so mostly are a task's.
fn ranges(ports: &[u16]) -> Vec<(u16, u16)> {
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
    use crate::ebpf::run;

    const STREAM: u32 = 1;

    fn may_bind(program: &[u64], port: u16, kind: u32) -> bool {
        let mut question = [0; 10];
        question[PORT as usize / 4] = port.to_be().into();
        question[TYPE as usize / 4] = kind;
        run(program, &question) == 1
    }

    #[test]
    fn every_port_is_answered_as_it_was_asked_for() {
        for ports in [
            &[][..],
            &[31_000],
            &[31_001, 31_000, 31_005, 31_002],
            &[1, 65_535, 80],
            &[80, 80, 81],
        ] {
            let program = program(ports);
            for port in 1..=u16::MAX {
                for kind in [STREAM, DATAGRAMS] {
                    let may = may_bind(&program, port, kind);
                    assert_eq!(may, ports.contains(&port), "{port} of {ports:?}");
                }
            }
        }
    }

    #[test]
    fn any_port_is_for_datagrams_and_for_who_may_bind_any() {
        for (ports, stream) in [(&[31_000][..], false), (&[], false), (&[0, 31_000], true)] {
            let program = program(ports);
            assert!(may_bind(&program, 0, DATAGRAMS));
            assert_eq!(may_bind(&program, 0, STREAM), stream, "{ports:?}");
        }
    }

    #[test]
    fn ports_side_by_side_are_one_range() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        assert_eq!(ranges(&all), [(0, u16::MAX)]);
        assert_eq!(ranges(&[5, 3, 4, 9, 9]), [(3, 5), (9, 9)]);
    }
}
