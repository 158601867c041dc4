//! Folders of containers as projects of a file system that keeps quotas of such.
//!
//! The file system is the only record: a folder says which project it is, and a project is taken while anything belongs
//! to it. So nothing is to be found again after a crash, and no number is lost: one is free when all is gone that had it.
//! What is made in a folder belongs to its project, and nobody inside a user namespace can change that.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;

use super::{DiskError, DiskUsage, failed};
use crate::{crash_points, sys};

/// Ours: an operator's own projects have other numbers.
pub const FIRST_PROJECT: u32 = 0x4100_0000;
/// The first behind them.
pub const END_PROJECT: u32 = 0x4200_0000;

/// Of linux/fs.h: what is made in this folder is of its project, and nothing of another comes in.
const INHERIT: u32 = 0x200;
/// Of linux/dqblk_xfs.h: limits of projects are kept.
const ENFORCED: u16 = 1 << 5;
/// The unit in which limits are told.
const BLOCK_BYTES: u64 = 1_024;
/// For how many bytes there may be one more file, and how many there may be of the smallest limit.
const BYTES_A_FILE: u64 = 4_096;
const FEWEST_FILES: u64 = 1_024;
/// How many numbers are looked at for a free one.
const TRIES: u32 = 65_536;

/// Whether the file system of this folder keeps quotas of projects, or in words why not.
///
/// # Errors
/// A sentence with its remedy.
pub fn supported(folder: &Path) -> Result<(), String> {
    let remedy =
        "mount it with the option prjquota (ext4: after tune2fs -O project,quota), or choose loop";
    let place = folder.display();
    let open = open(folder).map_err(|error| format!("{place} cannot be opened: {error}"))?;
    let state = sys::disk::project_quota_state(open.as_fd()).map_err(|errno| {
        format!("the file system of {place} keeps no quotas of projects ({errno}): {remedy}")
    })?;
    if state & ENFORCED == 0 {
        return Err(format!(
            "the file system of {place} counts projects and enforces no limit of them: {remedy}"
        ));
    }
    Ok(())
}

/// Makes an empty folder a project of its own, which may have so many bytes; one that is ours already keeps its number.
/// `alone` is a file that all agents of the host lock while they look for a number.
///
/// # Errors
/// What cannot be done. The folder goes as any other.
pub fn take(folder: &Path, bytes: u64, alone: &Path) -> Result<(), DiskError> {
    let what = || format!("make {} a project with a quota", folder.display());
    let open = open(folder).map_err(failed(what()))?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(alone)
        .and_then(|file| file.lock().map(|()| file))
        .map_err(failed(what()))?;
    let project = match own_project(open.as_fd()) {
        Some(project) => project,
        None => {
            let free = find_free(open.as_fd()).map_err(failed(what()))?;
            join(open.as_fd(), free).map_err(failed(what()))?;
            free
        }
    };
    crash_points::passed("quota.joined");
    drop(lock);
    let blocks = (bytes / BLOCK_BYTES).max(1);
    let files = (bytes / BYTES_A_FILE).max(FEWEST_FILES);
    sys::disk::limit_project(open.as_fd(), project, blocks, files).map_err(failed(what()))?;
    crash_points::passed("quota.limited");
    Ok(())
}

/// Makes an empty folder part of the project of another one; nothing if that is none of ours.
///
/// # Errors
/// What cannot be done.
pub fn share(of: &Path, folder: &Path) -> Result<(), DiskError> {
    let shared = || -> io::Result<()> {
        match own_project(open(of)?.as_fd()) {
            Some(project) => Ok(join(open(folder)?.as_fd(), project)?),
            None => Ok(()),
        }
    };
    shared().map_err(failed(format!(
        "count {} as a part of {}",
        folder.display(),
        of.display()
    )))
}

/// What the project of this folder has; `None` if it is none of ours, or may have what it likes.
#[must_use]
pub fn usage(folder: &Path) -> Option<DiskUsage> {
    let open = open(folder).ok()?;
    let project = own_project(open.as_fd())?;
    let quota = sys::disk::project_quota(open.as_fd(), project).ok()?;
    (quota.dqb_bhardlimit > 0).then(|| DiskUsage {
        used_bytes: quota.dqb_curspace,
        limit_bytes: quota.dqb_bhardlimit.saturating_mul(BLOCK_BYTES),
        files: quota.dqb_curinodes,
        files_limit: quota.dqb_ihardlimit,
    })
}

/// Lifts the limits of this folder's project, before all of it is removed. Nothing is wrong if it has none.
///
/// # Errors
/// What cannot be done.
pub fn lift(folder: &Path) -> Result<(), DiskError> {
    let Ok(open) = open(folder) else {
        return Ok(());
    };
    let Some(project) = own_project(open.as_fd()) else {
        return Ok(());
    };
    let lifted = sys::disk::limit_project(open.as_fd(), project, 0, 0);
    // Without quotas there is nothing to lift: the host may have been set up anew.
    match lifted {
        Ok(()) | Err(Errno::ESRCH | Errno::ENOSYS | Errno::EINVAL) => {
            crash_points::passed("quota.lifted");
            Ok(())
        }
        Err(errno) => Err(failed(format!("lift the quota of {}", folder.display()))(
            errno,
        )),
    }
}

fn open(folder: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(folder);
    opened.map(File::into)
}

/// A folder may be part of an operator's project, which is not ours to limit.
fn own_project(folder: BorrowedFd<'_>) -> Option<u32> {
    let project = sys::disk::attributes(folder).ok()?.project;
    (FIRST_PROJECT..END_PROJECT)
        .contains(&project)
        .then_some(project)
}

fn join(folder: BorrowedFd<'_>, project: u32) -> Result<(), Errno> {
    let mut wanted = sys::disk::attributes(folder)?;
    wanted.project = project;
    wanted.flags |= INHERIT;
    sys::disk::set_attributes(folder, &wanted)
}

/// One that nothing belongs to. Not the first of them, but one somewhere: what a container leaves behind may still be
/// going.
fn find_free(folder: BorrowedFd<'_>) -> io::Result<u32> {
    let count = END_PROJECT - FIRST_PROJECT;
    let first = rustix::fs::fstat(folder)?.st_ino as u32 % count;
    for at in 0..TRIES {
        let project = FIRST_PROJECT + (first + at) % count;
        match sys::disk::project_quota(folder, project) {
            Ok(quota) if quota.dqb_curinodes == 0 && quota.dqb_curspace == 0 => return Ok(project),
            // Never heard of.
            Err(Errno::ENOENT) => return Ok(project),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other(format!("{TRIES} projects are in use")))
}
