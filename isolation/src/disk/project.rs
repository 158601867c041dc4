//! Directories of containers as projects of a file system with project quotas.
//!
//! The file system is the only record: a directory has a project id, and an id is in use while any
//! file has it. So a crash needs no recovery, and no id leaks: an id is free when all its files are
//! removed. A file that is created in a directory belongs to its project, and no process in a user
//! namespace can change that.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use argosy_host::sys;
use nix::errno::Errno;

use super::{DiskError, DiskUsage, disk_error};
use argosy_host::crash_point;

/// The first id of this runtime: an operator's projects have other ids.
pub const FIRST_PROJECT: u32 = 0x4100_0000;
/// The end of the range of ids (exclusive).
pub const END_PROJECT: u32 = 0x4200_0000;

/// From linux/fs.h: new files inherit the directory's project, and files of other projects cannot
/// be moved in.
const INHERIT: u32 = 0x200;
/// From linux/dqblk_xfs.h: project limits are enforced.
const ENFORCED: u16 = 1 << 5;
/// The unit of quota limits.
const BLOCK_BYTES: u64 = 1_024;
/// The number of bytes per permitted file; also the minimum number of files.
const BYTES_PER_INODE: u64 = 4_096;
const MIN_INODES: u64 = 1_024;
/// The number of ids that the search for a free one tries.
const TRIES: u32 = 65_536;

/// Checks whether the file system of this directory enforces project quotas.
///
/// # Errors
/// A message with its remedy.
pub fn supported(directory: &Path) -> Result<(), String> {
    let remedy =
        "mount it with the option prjquota (ext4: after tune2fs -O project,quota), or choose loop";
    let place = directory.display();
    let open = open(directory).map_err(|error| format!("{place} cannot be opened: {error}"))?;
    let state = sys::disk::project_quota_state(open.as_fd()).map_err(|errno| {
        format!("the file system of {place} has no project quotas ({errno}): {remedy}")
    })?;
    if state & ENFORCED == 0 {
        return Err(format!(
            "the file system of {place} counts projects but does not enforce their limits: {remedy}"
        ));
    }
    Ok(())
}

/// Makes an empty directory a separate project with this limit in bytes; a directory that already
/// has an id of this runtime keeps it. The file system records which ids are in use, so that there
/// are no `claims`, which could contradict it. `alone` is a file that all agents of the host lock
/// during the search for an id.
///
/// # Errors
/// The step that failed. The directory can be removed like any other.
pub fn assign(directory: &Path, bytes: u64, alone: &Path) -> Result<(), DiskError> {
    let what = || format!("make {} a project with a quota", directory.display());
    let open = open(directory).map_err(disk_error(what()))?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(alone)
        .and_then(|file| file.lock().map(|()| file))
        .map_err(disk_error(what()))?;
    let project = match own_project(open.as_fd()) {
        Some(project) => project,
        None => {
            let free = find_free(open.as_fd()).map_err(disk_error(what()))?;
            join(open.as_fd(), free).map_err(disk_error(what()))?;
            free
        }
    };
    crash_point!("quota.joined");
    drop(lock);
    let blocks = (bytes / BLOCK_BYTES).max(1);
    let files = (bytes / BYTES_PER_INODE).max(MIN_INODES);
    sys::disk::limit_project(open.as_fd(), project, blocks, files).map_err(disk_error(what()))?;
    crash_point!("quota.limited");
    Ok(())
}

/// Adds an empty directory to the project of another one. Has no effect if that is not a project of
/// this runtime.
///
/// # Errors
/// The step that failed.
pub fn share(of: &Path, directory: &Path) -> Result<(), DiskError> {
    let shared = || -> io::Result<()> {
        match own_project(open(of)?.as_fd()) {
            Some(project) => Ok(join(open(directory)?.as_fd(), project)?),
            None => Ok(()),
        }
    };
    shared().map_err(disk_error(format!(
        "count {} as a part of {}",
        directory.display(),
        of.display()
    )))
}

/// Returns the usage of this directory's project; `None` if it is not a project of this runtime, or
/// has no limit.
#[must_use]
pub fn usage(directory: &Path) -> Option<DiskUsage> {
    let open = open(directory).ok()?;
    let project = own_project(open.as_fd())?;
    let quota = sys::disk::project_quota(open.as_fd(), project).ok()?;
    (quota.dqb_bhardlimit > 0).then(|| DiskUsage {
        used_bytes: quota.dqb_curspace,
        limit_bytes: quota.dqb_bhardlimit.saturating_mul(BLOCK_BYTES),
        files: quota.dqb_curinodes,
        files_limit: quota.dqb_ihardlimit,
    })
}

/// Lifts the limits of this directory's project before the directory is removed. Succeeds if it has
/// none.
///
/// # Errors
/// The step that failed.
pub fn clear_limit(directory: &Path) -> Result<(), DiskError> {
    let Ok(open) = open(directory) else {
        return Ok(());
    };
    let Some(project) = own_project(open.as_fd()) else {
        return Ok(());
    };
    let lifted = sys::disk::limit_project(open.as_fd(), project, 0, 0);
    // Without quotas there is nothing to lift: the host may have been reconfigured.
    match lifted {
        Ok(()) | Err(Errno::ESRCH | Errno::ENOSYS | Errno::EINVAL) => {
            crash_point!("quota.lifted");
            Ok(())
        }
        Err(errno) => Err(disk_error(format!(
            "lift the quota of {}",
            directory.display()
        ))(errno)),
    }
}

fn open(directory: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(directory);
    opened.map(File::into)
}

/// Returns the project id if it belongs to this runtime. A directory may be part of an operator's
/// project, which is left alone.
fn own_project(directory: BorrowedFd<'_>) -> Option<u32> {
    let project = sys::disk::attributes(directory).ok()?.project;
    (FIRST_PROJECT..END_PROJECT)
        .contains(&project)
        .then_some(project)
}

fn join(directory: BorrowedFd<'_>, project: u32) -> Result<(), Errno> {
    let mut wanted = sys::disk::attributes(directory)?;
    wanted.project = project;
    wanted.flags |= INHERIT;
    sys::disk::set_attributes(directory, &wanted)
}

/// Returns an unused id. The search starts at an id derived from the inode: files of an earlier
/// container may still be being removed.
fn find_free(directory: BorrowedFd<'_>) -> io::Result<u32> {
    let count = END_PROJECT - FIRST_PROJECT;
    let first = rustix::fs::fstat(directory)?.st_ino as u32 % count;
    for at in 0..TRIES {
        let project = FIRST_PROJECT + (first + at) % count;
        match sys::disk::project_quota(directory, project) {
            Ok(quota) if quota.dqb_curinodes == 0 && quota.dqb_curspace == 0 => return Ok(project),
            // The kernel has no record of this id.
            Err(Errno::ENOENT) => return Ok(project),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other(format!("{TRIES} projects are in use")))
}
