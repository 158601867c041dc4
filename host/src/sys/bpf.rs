//! eBPF programs: loading them, and attaching them to cgroups.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// The type of an eBPF program, in numbers of linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramKind {
    pub program: u32,
    /// The attach type that is passed on loading; 0 where the program type implies it.
    pub expected: u32,
    /// The attach type on a cgroup.
    pub attach_type: u32,
}

/// Loads a program, which the kernel verifies.
pub fn load_program(kind: ProgramKind, instructions: &[u64]) -> Result<OwnedFd, Errno> {
    const PROG_LOAD: c_int = 5;
    let (count, license) = (instructions.len() as u64, c"Apache-2.0");
    let mut attributes = [0_u64; 16];
    attributes[0] = u64::from(kind.program) | count << 32;
    attributes[1] = instructions.as_ptr() as u64;
    attributes[2] = license.as_ptr() as u64;
    attributes[8] = u64::from(kind.expected) << 32;
    // SAFETY: the kernel reads the instructions, whose number is one of the attributes, and the
    // license up to its end; both are live for the call.
    let fd = unsafe { bpf(PROG_LOAD, &attributes) }? as RawFd;
    // SAFETY: the kernel has just created this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The attach mode of a program on a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachMode {
    /// In addition to attached programs; descendants may have programs as well.
    Multi,
    /// In place of the attached program. Descendants have none of this kind.
    Exclusive,
}

/// Attaches a program to a cgroup.
pub fn attach_program(
    kind: ProgramKind,
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    mode: AttachMode,
) -> Result<(), Errno> {
    const PROG_ATTACH: c_int = 8;
    const ALLOW_MULTI: u64 = 2;
    let mut attributes = [0_u64; 16];
    attributes[0] = group.as_raw_fd() as u64 | (program.as_raw_fd() as u64) << 32;
    let flags = match mode {
        AttachMode::Multi => ALLOW_MULTI,
        AttachMode::Exclusive => 0,
    };
    attributes[1] = u64::from(kind.attach_type) | flags << 32;
    // SAFETY: these attributes name descriptors and point to nothing.
    unsafe { bpf(PROG_ATTACH, &attributes) }.map(drop)
}

/// # Safety
/// Whatever the attributes point to must be live for the call and have the length that they state.
unsafe fn bpf(command: c_int, attributes: &[u64; 16]) -> Result<libc::c_long, Errno> {
    let size = size_of_val(attributes);
    // SAFETY: the kernel reads the attributes, whose size is passed with them; the caller
    // guarantees the rest.
    Errno::result(unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size) })
}
