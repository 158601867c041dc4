//! Files that processes hold open and that have no name any more: no folder shows them, and they fill the disk.
//!
//! Seen are those behind a process' descriptors. One that is only mapped, or under way in a message, is not.

use std::ffi::CStr;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat, statfs};

/// What `statfs` says of the root of a container with an image.
const OVERLAY: i64 = 0x794c_7630;

/// The processes of a container.
pub(super) fn processes(group: &Path) -> Vec<u32> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let numbers = list.lines().filter_map(|line| line.parse().ok());
    // Of the host's other processes, in another namespace, 0 is told.
    numbers.filter(|process| *process > 0).collect()
}

/// What a process has open. Nothing is wrong if it has ended.
pub(super) fn descriptors(process: u32) -> Option<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, format!("/proc/{process}/fd"), flags, Mode::empty()).ok()?;
    Dir::new(folder).ok()
}

/// A file without a name that lies on this device, or on the container's own root: its number, and what it takes in
/// blocks.
pub(super) fn nameless(
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
    // What is in memory is its memory.
    let is_on_disk = found.st_dev == device || {
        let path = format!("/proc/{process}/fd/{}", name.to_str().ok()?);
        statfs(path).is_ok_and(|system| system.f_type == OVERLAY)
    };
    let blocks = u64::try_from(found.st_blocks).ok()?;
    is_on_disk.then_some((found.st_ino, blocks))
}
