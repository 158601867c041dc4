//! System calls for disks: loop devices, projects of files, and project quotas.

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// From linux/quota.h: the third quota type, after users and groups.
const PROJECTS: u32 = 2;
/// From linux/dqblk_xfs.h; every file system supports it.
const GET_STATE: u32 = (b'X' as u32) << 8 | 8;

/// From linux/fs.h.
const GET_ATTRIBUTES: libc::c_ulong = 0x801c_581f;
const SET_ATTRIBUTES: libc::c_ulong = 0x401c_5820;

/// Common to all journalling file systems, with its flag for "write nothing any more".
const SHUT_DOWN: libc::c_ulong = 0x8004_587d;
const WRITE_NOTHING: u32 = 2;

/// From linux/loop.h.
const LOOP_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LOOP_GET_STATUS: libc::c_ulong = 0x4c05;
const LOOP_AUTOCLEAR: u32 = 4;
const LOOP_DIRECT_IO: u32 = 16;

/// `struct fsxattr`: the attributes of a file that `stat` does not return.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct FsxAttributes {
    pub flags: u32,
    extent_size: u32,
    extents: u32,
    pub project: u32,
    copied_extent_size: u32,
    padding: [u8; 8],
}

/// `struct loop_config` with the `struct loop_info64` in it, as far as it is used.
#[repr(C)]
struct LoopConfig {
    file: u32,
    block_size: u32,
    places: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 160],
    rest: [u64; 10],
}

/// Returns the state of project quotas on the file system of an open file: a set of `FS_QUOTA_*`
/// flags.
pub fn project_quota_state(file: BorrowedFd<'_>) -> Result<u16, Errno> {
    /// The version of the structure, in its first byte.
    const VERSION: u64 = 1;
    let mut state = [0_u64; 64];
    state[0] = VERSION;
    quotactl(file, GET_STATE, 0, state.as_mut_ptr().cast())?;
    Ok((state[0] >> 16) as u16)
}

/// Returns the usage and limits of a project.
pub fn project_quota(file: BorrowedFd<'_>, project: u32) -> Result<libc::dqblk, Errno> {
    // SAFETY: `dqblk` is plain integers, for which all zeroes is a valid value.
    let mut quota: libc::dqblk = unsafe { mem::zeroed() };
    let command = libc::Q_GETQUOTA as u32;
    quotactl(file, command, project, (&raw mut quota).cast())?;
    Ok(quota)
}

/// Sets the limits of a project: in blocks of 1,024 bytes, and in files. 0 is no limit.
pub fn limit_project(
    file: BorrowedFd<'_>,
    project: u32,
    blocks: u64,
    files: u64,
) -> Result<(), Errno> {
    // From linux/quota.h: the fields that are set.
    const LIMITS: u32 = 1 | 4;
    // SAFETY: `dqblk` is plain integers, for which all zeroes is a valid value.
    let mut quota: libc::dqblk = unsafe { mem::zeroed() };
    (quota.dqb_bhardlimit, quota.dqb_ihardlimit) = (blocks, files);
    quota.dqb_valid = LIMITS;
    let command = libc::Q_SETQUOTA as u32;
    quotactl(file, command, project, (&raw mut quota).cast())
}

/// `answer` points to the data that the command reads or fills: no command that is used here fills
/// more than 512 bytes.
fn quotactl(
    file: BorrowedFd<'_>,
    command: u32,
    id: u32,
    answer: *mut libc::c_void,
) -> Result<(), Errno> {
    // SAFETY: each caller passes a separate variable, live for the call, of the size that its
    // command has.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            command << 8 | PROJECTS,
            id,
            answer,
        )
    };
    Errno::result(returned).map(drop)
}

/// Returns project and flags of an open file or directory.
pub fn attributes(file: BorrowedFd<'_>) -> Result<FsxAttributes, Errno> {
    let mut found = FsxAttributes::default();
    // SAFETY: the structure is live for the call and laid out as the kernel fills it.
    let returned = unsafe { libc::ioctl(file.as_raw_fd(), GET_ATTRIBUTES, &raw mut found) };
    Errno::result(returned).map(|_| found)
}

/// Sets project and flags.
pub fn set_attributes(file: BorrowedFd<'_>, wanted: &FsxAttributes) -> Result<(), Errno> {
    // SAFETY: the structure is live for the call and laid out as the kernel reads it.
    let returned = unsafe { libc::ioctl(file.as_raw_fd(), SET_ATTRIBUTES, &raw const *wanted) };
    Errno::result(returned).map(drop)
}

/// Returns the number of an unused loop device.
pub fn free_loop_device(control: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: no argument, no memory of this process.
    let number = Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_GET_FREE) })?;
    Ok(number as u32)
}

/// Attaches a file to a loop device, with direct I/O where the kernel supports it, until the device
/// is neither open nor mounted.
pub fn attach_loop_device(
    device: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    block_size: u32,
) -> Result<(), Errno> {
    const _: () = assert!(size_of::<LoopConfig>() == 304);
    // SAFETY: plain integers, for which all zeroes is a valid value.
    let mut wanted: LoopConfig = unsafe { mem::zeroed() };
    wanted.file = file.as_raw_fd() as u32;
    wanted.block_size = block_size;
    wanted.flags = LOOP_AUTOCLEAR | LOOP_DIRECT_IO;
    // SAFETY: the structure is live for the call and laid out as the kernel reads it.
    let returned = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const wanted) };
    Errno::result(returned).map(drop)
}

/// Returns device and inode of the file behind a loop device; an error if there is none.
pub fn loop_device_backing(device: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    // `struct loop_info64`, which starts with the two.
    let mut status = [0_u64; 29];
    // SAFETY: the kernel fills 232 bytes, and the array is live for the call.
    let returned = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS, status.as_mut_ptr()) };
    Errno::result(returned).map(|_| (status[0], status[1]))
}

/// Shuts down the whole file system of this directory: all later access fails, and nothing more is
/// written.
pub fn shut_down(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let wanted = WRITE_NOTHING;
    // SAFETY: the kernel reads one number, which is live for the call.
    let returned = unsafe { libc::ioctl(directory.as_raw_fd(), SHUT_DOWN, &raw const wanted) };
    Errno::result(returned).map(drop)
}
