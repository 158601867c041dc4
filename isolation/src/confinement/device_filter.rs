//! The devices that the processes of a cgroup may open, as an eBPF program. It backs up the device
//! layer of the mounts: a container sees no other nodes and can create none.
//!
//! The devices that every container has, and its configured devices, are allowed. Every other
//! device, and creating any device node, is refused.

use std::io;
use std::os::fd::BorrowedFd;

use argosy_host::sys::bpf::ProgramKind;
use nix::errno::Errno;

use crate::confinement::ebpf::{
    AND, BpfProgram, CONTEXT, COPY, JUMP_UNLESS_EQUAL, LOAD_WORD, RESULT, SET, SHIFT_RIGHT, exit,
    instruction, return_value,
};

/// The device type: block or character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceType {
    Block,
    Character,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) kind: DeviceType,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// The devices of every container, by major and minor number of character devices: null, zero,
/// full, random, urandom, tty and ptmx. The terminals below are allowed in addition.
const DEFAULT_DEVICES: [(u32, u32); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
/// The terminals of devpts; the container's devpts instance restricts them to its own.
const TERMINALS: u32 = 136;

// From linux/bpf.h.
const KIND_BLOCK: u32 = 1;
const KIND_CHARACTER: u32 = 2;
const MAKE_NODE: u32 = 1;
/// Offsets in the kernel's context: access in the upper half and type in the lower, then major and
/// minor.
const ACCESS_AND_KIND: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;

/// Registers for the fields of the context.
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const NUMBER_MAJOR: u8 = 4;
const NUMBER_MINOR: u8 = 5;

/// From linux/bpf.h.
const DEVICES: ProgramKind = ProgramKind {
    program: 15,
    expected: 0,
    attach_type: 6,
};

/// A loaded program, ready to be attached to cgroups.
#[derive(Debug)]
pub(crate) struct DeviceFilter(BpfProgram);

impl DeviceFilter {
    /// Loads a filter for containers that have these devices in addition to the usual ones.
    ///
    /// # Errors
    /// If the kernel does not support such programs, or this process may not load any.
    pub(crate) fn load(own: &[Device]) -> Result<Self, Errno> {
        BpfProgram::load(DEVICES, &program(own)).map(Self)
    }

    /// Attaches the filter to a cgroup for the cgroup's lifetime. The filters of its ancestors
    /// apply as well.
    pub(crate) fn attach(&self, group: BorrowedFd<'_>) -> Result<(), Errno> {
        self.0.attach(group)
    }
}

/// Checks whether this host lets this process restrict devices with such a program.
///
/// # Errors
/// The kernel's answer.
pub fn supported() -> io::Result<()> {
    DeviceFilter::load(&[]).map(drop).map_err(Into::into)
}

/// Builds a program that returns 1 for an allowed access and 0 for every other.
fn program(own: &[Device]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, ACCESS_AND_KIND, 0),
        instruction(COPY, ACCESS, KIND, 0, 0),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(AND, ACCESS, 0, 0, MAKE_NODE),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(LOAD_WORD, NUMBER_MAJOR, CONTEXT, MAJOR, 0),
        instruction(LOAD_WORD, NUMBER_MINOR, CONTEXT, MINOR, 0),
    ];
    // Jumps over the refusal, unless the access creates a node.
    program.push(instruction(SET, RESULT, 0, 0, 0));
    program.push(instruction(JUMP_UNLESS_EQUAL, ACCESS, 0, 1, MAKE_NODE));
    program.push(exit());
    let usual = DEFAULT_DEVICES.map(|(major, minor)| (KIND_CHARACTER, major, Some(minor)));
    let terminals = [(KIND_CHARACTER, TERMINALS, None)];
    let own = own.iter().map(|device| {
        let kind = match device.kind {
            DeviceType::Block => KIND_BLOCK,
            DeviceType::Character => KIND_CHARACTER,
        };
        (kind, device.major, Some(device.minor))
    });
    for (kind, major, minor) in usual.into_iter().chain(terminals).chain(own) {
        let mut tests = vec![(KIND, kind), (NUMBER_MAJOR, major)];
        tests.extend(minor.map(|minor| (NUMBER_MINOR, minor)));
        let count = tests.len();
        for (at, (register, value)) in tests.into_iter().enumerate() {
            // Jumps over the remaining tests of this device and the answer.
            let rest = (count - at - 1 + return_value(1).len()) as i16;
            program.push(instruction(JUMP_UNLESS_EQUAL, register, 0, rest, value));
        }
        program.extend(return_value(1));
    }
    program.extend(return_value(0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confinement::ebpf::run;

    const READ: u32 = 2;
    const WRITE: u32 = 4;

    fn access(access: u32, kind: u32, major: u32, minor: u32) -> [u32; 3] {
        [access << 16 | kind, major, minor]
    }

    #[test]
    fn only_the_default_devices_are_allowed() {
        let program = program(&[]);
        for (major, minor) in DEFAULT_DEVICES {
            for mode in [READ, WRITE, READ | WRITE] {
                assert_eq!(
                    run(&program, &access(mode, KIND_CHARACTER, major, minor)),
                    1
                );
            }
            assert_eq!(run(&program, &access(READ, KIND_BLOCK, major, minor)), 0);
        }
        assert_eq!(
            run(&program, &access(READ, KIND_CHARACTER, TERMINALS, 77)),
            1
        );
        // Memory, the kernel log, a disk, a console.
        for (kind, major, minor) in [
            (KIND_CHARACTER, 1, 1),
            (KIND_CHARACTER, 1, 11),
            (KIND_BLOCK, 8, 0),
            (KIND_CHARACTER, 5, 1),
        ] {
            assert_eq!(run(&program, &access(READ, kind, major, minor)), 0);
        }
    }

    #[test]
    fn only_the_containers_own_devices_are_allowed() {
        let own = [
            Device {
                kind: DeviceType::Character,
                major: 195,
                minor: 0,
            },
            Device {
                kind: DeviceType::Block,
                major: 7,
                minor: 1 << 19,
            },
        ];
        let program = program(&own);
        let both = READ | WRITE;
        assert_eq!(run(&program, &access(both, KIND_CHARACTER, 195, 0)), 1);
        assert_eq!(run(&program, &access(both, KIND_CHARACTER, 195, 1)), 0);
        assert_eq!(run(&program, &access(both, KIND_BLOCK, 7, 1 << 19)), 1);
        assert_eq!(run(&program, &access(both, KIND_BLOCK, 7, 0)), 0);
        assert_eq!(run(&program, &access(both, KIND_CHARACTER, 7, 1 << 19)), 0);
    }

    #[test]
    fn no_device_node_can_be_created() {
        let program = program(&[]);
        for mode in [MAKE_NODE, MAKE_NODE | READ | WRITE] {
            assert_eq!(run(&program, &access(mode, KIND_CHARACTER, 1, 3)), 0);
        }
    }
}
