//! Small eBPF programs, written by hand: their instructions, and how they are attached to cgroups.
//!
//! The decisions are in `device_filter`, `port_filter` and `reach_filter`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use argosy_host::sys::bpf::{self, ProgramKind};
use nix::errno::Errno;

/// The register of the result: 1 allows, 0 refuses.
pub(crate) const RESULT: u8 = 0;
/// The register that points to the context.
pub(crate) const CONTEXT: u8 = 1;

/// Opcodes, with a constant where they take a second operand.
pub(crate) const LOAD_WORD: u8 = 0x61;
/// Loads a pointer, which may be null.
pub(crate) const LOAD_POINTER: u8 = 0x79;
pub(crate) const COPY: u8 = 0xbf;
pub(crate) const SET: u8 = 0xb7;
pub(crate) const AND: u8 = 0x57;
pub(crate) const SHIFT_RIGHT: u8 = 0x77;
/// Converts as many bits as the constant names from network to host byte order.
pub(crate) const FROM_NETWORK: u8 = 0xdc;
pub(crate) const JUMP_IF_EQUAL: u8 = 0x15;
pub(crate) const JUMP_UNLESS_EQUAL: u8 = 0x55;
pub(crate) const JUMP_IF_GREATER: u8 = 0x25;
pub(crate) const JUMP_IF_LESS: u8 = 0xa5;
/// Compares the lower halves of the registers, so that a constant is not sign-extended.
pub(crate) const JUMP_UNLESS_EQUAL_32: u8 = 0x56;
/// The second operand is a register.
pub(crate) const JUMP_UNLESS_SAME: u8 = 0x5d;
pub(crate) const JUMP: u8 = 0x05;
/// Calls the helper with this number; it may change the registers up to 5.
pub(crate) const CALL: u8 = 0x85;
const SET_LONG: u8 = 0x18;
const EXIT: u8 = 0x95;

/// A program that the kernel has verified, ready to be attached to cgroups.
#[derive(Debug)]
pub(crate) struct BpfProgram {
    kind: ProgramKind,
    program: OwnedFd,
}

impl BpfProgram {
    /// # Errors
    /// If the kernel does not support such programs, or this process may not load any.
    pub(crate) fn load(kind: ProgramKind, instructions: &[u64]) -> Result<Self, Errno> {
        let program = bpf::load_program(kind, instructions)?;
        Ok(Self { kind, program })
    }

    /// Attaches the program to a cgroup for the cgroup's lifetime. The programs of its ancestors
    /// apply as well.
    pub(crate) fn attach(&self, group: BorrowedFd<'_>) -> Result<(), Errno> {
        bpf::attach_program(
            self.kind,
            group,
            self.program.as_fd(),
            bpf::AttachMode::Multi,
        )
    }

    /// Attaches the program in place of an earlier one. Child cgroups can then have no program of
    /// this kind.
    pub(crate) fn replace(&self, group: BorrowedFd<'_>) -> Result<(), Errno> {
        bpf::attach_program(
            self.kind,
            group,
            self.program.as_fd(),
            bpf::AttachMode::Exclusive,
        )
    }
}

/// Encodes one instruction: opcode, register, second register, jump or offset, constant.
pub(crate) fn instruction(operation: u8, to: u8, from: u8, offset: i16, constant: u32) -> u64 {
    let [offset_low, offset_high] = offset.to_le_bytes();
    let [a, b, c, d] = constant.to_le_bytes();
    u64::from_le_bytes([
        operation,
        to | from << 4,
        offset_low,
        offset_high,
        a,
        b,
        c,
        d,
    ])
}

/// Loads a 64-bit number into a register.
pub(crate) fn load_long(to: u8, number: u64) -> [u64; 2] {
    let (low, high) = (number as u32, (number >> 32) as u32);
    [
        instruction(SET_LONG, to, 0, 0, low),
        instruction(0, 0, 0, 0, high),
    ]
}

/// Ends with this result.
pub(crate) fn return_value(allowed: u32) -> [u64; 2] {
    [instruction(SET, RESULT, 0, 0, allowed), exit()]
}

/// Ends with the current result.
pub(crate) fn exit() -> u64 {
    instruction(EXIT, 0, 0, 0, 0)
}

/// Returns the kernel's result for a context of these words.
#[cfg(test)]
pub(crate) fn run(program: &[u64], context: &[u32]) -> u64 {
    run_with(program, context, None)
}

/// The same for a socket in the network namespace of this number.
#[cfg(test)]
pub(crate) fn run_in(program: &[u64], context: &[u32], namespace: u64) -> u64 {
    interpret(program, context, None, namespace)
}

/// The same, where the only pointer of the context leads to `there`, or is null.
#[cfg(test)]
pub(crate) fn run_with(program: &[u64], context: &[u32], there: Option<&[u32]>) -> u64 {
    interpret(program, context, there, 0)
}

#[cfg(test)]
fn interpret(program: &[u64], context: &[u32], there: Option<&[u32]>, helped: u64) -> u64 {
    /// Stands for the address of the context.
    const CONTEXT_ADDRESS: u64 = u64::MAX;
    let mut registers = [0_u64; 10];
    registers[usize::from(CONTEXT)] = CONTEXT_ADDRESS;
    let mut at: usize = 0;
    loop {
        let [operation, named, low, high, a, b, c, d] = program[at].to_le_bytes();
        let (to, from) = (usize::from(named & 0xf), usize::from(named >> 4));
        let offset = i16::from_le_bytes([low, high]);
        let constant = u64::from(u32::from_le_bytes([a, b, c, d]));
        at += 1;
        let jumps = match operation {
            JUMP_IF_EQUAL => registers[to] == constant,
            JUMP_UNLESS_EQUAL => registers[to] != constant,
            JUMP_IF_GREATER => registers[to] > constant,
            JUMP_IF_LESS => registers[to] < constant,
            JUMP_UNLESS_EQUAL_32 => registers[to] as u32 != constant as u32,
            JUMP_UNLESS_SAME => registers[to] != registers[from],
            JUMP => true,
            _ => false,
        };
        match operation {
            LOAD_WORD => {
                let words = if registers[from] == CONTEXT_ADDRESS {
                    context
                } else {
                    assert_ne!(registers[from], 0, "nothing is there");
                    there.expect("something is there")
                };
                registers[to] = words[offset as usize / 4].into();
            }
            LOAD_POINTER => registers[to] = there.is_some().into(),
            COPY => registers[to] = registers[from],
            SET => registers[to] = constant,
            AND => registers[to] &= constant,
            SHIFT_RIGHT => registers[to] >>= constant,
            FROM_NETWORK => {
                assert_eq!(constant, 16);
                registers[to] = u16::from_be(registers[to] as u16).into();
            }
            SET_LONG => {
                let [.., e, f, g, h] = program[at].to_le_bytes();
                registers[to] = constant | u64::from(u32::from_le_bytes([e, f, g, h])) << 32;
                at += 1;
            }
            CALL => {
                assert_eq!(registers[usize::from(CONTEXT)], CONTEXT_ADDRESS);
                registers[..6].fill(0xdead);
                registers[usize::from(RESULT)] = helped;
            }
            JUMP_IF_EQUAL | JUMP_UNLESS_EQUAL | JUMP_IF_GREATER | JUMP_IF_LESS
            | JUMP_UNLESS_EQUAL_32 | JUMP_UNLESS_SAME | JUMP => {
                at += if jumps { offset as usize } else { 0 };
            }
            EXIT => return registers[usize::from(RESULT)],
            other => panic!("no such operation: {other:#x}"),
        }
    }
}
