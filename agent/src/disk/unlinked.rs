//! Unlinked files that processes hold open: no directory shows them, and they use disk space.
//!
//! Only files behind a process' descriptors are found. A file that is only mapped, or in transit in
//! a socket message, is not.

use std::ffi::CStr;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat, statfs};

/// The file system type of the root of a container with an image, as `statfs` returns it.
const OVERLAY: i64 = 0x794c_7630;

/// Returns the processes of a container.
pub(super) fn processes(group: &Path) -> Vec<u32> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let numbers = list.lines().filter_map(|line| line.parse().ok());
    // The kernel shows processes in other PID namespaces as 0.
    numbers.filter(|process| *process > 0).collect()
}

/// Returns the descriptors of a process; `None` if it has ended, which is no error.
pub(super) fn descriptors(process: u32) -> Option<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, format!("/proc/{process}/fd"), flags, Mode::empty()).ok()?;
    Dir::new(directory).ok()
}

/// Returns an unlinked file on this device, or on the container's own root: its inode number, and
/// the size of its blocks.
pub(super) fn unlinked_file(
    process: u32,
    descriptors: BorrowedFd<'_>,
    name: &CStr,
    device: u64,
) -> Option<(u64, u64)> {
    let found = statat(descriptors, name, AtFlags::empty()).ok()?;
    let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    if !is_file || found.st_nlink > 0 {
        return None;
    }
    // Files in memory count as memory.
    let is_on_disk = found.st_dev == device || {
        let path = format!("/proc/{process}/fd/{}", name.to_str().ok()?);
        statfs(path).is_ok_and(|system| system.f_type == OVERLAY)
    };
    let blocks = u64::try_from(found.st_blocks).ok()?;
    is_on_disk.then_some((found.st_ino, blocks))
}
