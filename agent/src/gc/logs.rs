//! Output of ended tasks that outlives their sandboxes. A sandbox that is reduced keeps its output
//! files, under the same path, so that the files API serves them as before; everything else in it
//! is removed. A mark next to it records that, and when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use argosy_host::atomic_file::{Draft, Durability, WriteOptions};
use argosy_host::process::boot_id;
use argosy_host::{BootTime, remove_tree};
use argosy_isolation::OutputLimits;
use argosy_isolation::output::{StreamName, times_path};

use super::removal::{MARK, MARK_DRAFT, has_mounts, read_mounts};
use crate::config::Config;
use crate::core::ContainerName;
use crate::disk::release;
use crate::paths::Paths;

/// The permissions of a mark: the agent reads it, and a broker that is root writes it.
const MARK_MODE: u32 = 0o644;
/// The permissions of a reduced sandbox: its group is the agent's if a broker is root.
const SANDBOX_MODE: u32 = 0o750;
/// The unit of the number of blocks of a file, in bytes: see stat(2).
const BLOCK_BYTES: u64 = 512;
/// Maximum number of reduced sandboxes.
const MAX_KEPT: usize = 10_000;
/// Maximum number of rotated files of a stream, as the supervisor's.
const MAX_ROTATIONS: usize = 100;

/// The bounds of the output of ended tasks whose sandboxes were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogRetention {
    /// Zero: no output is kept.
    pub(crate) age: Duration,
    /// For all tasks together; zero: no output is kept.
    pub(crate) bytes: u64,
}

impl LogRetention {
    /// Returns whether any output is kept.
    pub(super) fn is_on(self) -> bool {
        !self.age.is_zero() && self.bytes > 0
    }
}

/// The mark of a reduced sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeptLog {
    /// When it was reduced, by the boot clock; `None` if that was in an earlier boot.
    since: Option<BootTime>,
    /// The time of the reduction by the wall clock. That clock can jump, so the time only orders
    /// output of earlier boots.
    written: SystemTime,
    bytes: u64,
}

impl KeptLog {
    /// Returns its age in the present boot. No clock that can jump is trusted, so what it was
    /// before is not known.
    fn age(&self, now: BootTime) -> Duration {
        let since = self.since.map_or(0, |since| since.0);
        Duration::from_millis(now.0.saturating_sub(since))
    }
}

/// The reduced sandboxes. Their marks are read once.
#[derive(Debug, Default)]
pub(super) struct KeptLogs(BTreeMap<PathBuf, KeptLog>);

impl KeptLogs {
    /// Returns the sandboxes that are not reduced, and remembers the others.
    pub(super) fn split(
        &mut self,
        present: Vec<(ContainerName, PathBuf)>,
        mut read_mark: impl FnMut(&Path) -> Option<KeptLog>,
    ) -> Vec<(ContainerName, PathBuf)> {
        let known = std::mem::take(&mut self.0);
        let mut others = Vec::new();
        for (name, path) in present {
            let kept = known.get(&path).copied();
            match kept.or_else(|| read_mark(&path)) {
                Some(kept) => drop(self.0.insert(path, kept)),
                None => others.push((name, path)),
            }
        }
        others
    }

    /// Returns the output to remove: the oldest until the rest is within the bounds, and output
    /// that alone exceeds a bound. The latter causes no other output to be removed.
    pub(super) fn select(&self, now: BootTime, retention: LogRetention) -> Vec<PathBuf> {
        let mut newest_first: Vec<_> = self.0.iter().collect();
        newest_first.sort_by_key(|(path, kept)| Reverse((kept.since, kept.written, *path)));
        let mut total = 0_u64;
        let mut leaving = Vec::new();
        for (at, (path, kept)) in newest_first.into_iter().enumerate() {
            if kept.bytes > retention.bytes {
                leaving.push(path.clone());
                continue;
            }
            total = total.saturating_add(kept.bytes);
            if at >= MAX_KEPT || kept.age(now) >= retention.age || total > retention.bytes {
                leaving.push(path.clone());
            }
        }
        leaving
    }

    /// Returns the oldest one.
    pub(super) fn oldest(&self) -> Option<PathBuf> {
        let all = self.0.iter();
        let oldest = all.min_by_key(|(path, kept)| (kept.since, kept.written, *path));
        oldest.map(|(path, _)| path.clone())
    }

    /// Returns all of them.
    pub(super) fn all(&self) -> Vec<PathBuf> {
        self.0.keys().cloned().collect()
    }
}

/// Reads the mark of a reduced sandbox, in the boot of this id; `None` if there is none. A sandbox
/// whose mark is unreadable or incomplete counts as not reduced: the next reduction measures it and
/// replaces the mark.
pub(super) fn read_mark(sandbox: &Path, boot_id: &str) -> Option<KeptLog> {
    let mark = sandbox.with_extension(MARK);
    let written = fs::symlink_metadata(&mark).ok()?.modified().ok()?;
    let text = fs::read_to_string(&mark).ok()?;
    // A power cut may leave only the first digits.
    let mut fields = text.strip_suffix('\n')?.split(' ');
    let bytes = fields.next()?.parse().ok()?;
    let (boot, since) = (fields.next()?, fields.next()?.parse().ok()?);
    Some(KeptLog {
        since: (boot == boot_id).then_some(BootTime(since)),
        written,
        bytes,
    })
}

/// Writes the mark of a reduced sandbox. A power cut may leave it incomplete, but no crash of the
/// writer does.
fn write_mark(sandbox: &Path, bytes: u64) -> io::Result<()> {
    let (mark, draft) = (
        sandbox.with_extension(MARK),
        sandbox.with_extension(MARK_DRAFT),
    );
    let (Some(directory), Some(name), Some(draft_name)) =
        (mark.parent(), mark.file_name(), draft.file_name())
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let options = WriteOptions {
        mode: MARK_MODE,
        durability: Durability::Cached,
    };
    let text = format!("{bytes} {} {}\n", boot_id()?, BootTime::now().0);
    let written = Draft::write(directory, draft_name, text.as_bytes(), options)?;
    // Independent of the umask. No task can write to this directory.
    fs::set_permissions(&draft, Permissions::from_mode(MARK_MODE))?;
    written.replace(name)
}

/// The size of a file of output.
#[derive(Debug, Clone, Copy)]
struct FileSize {
    /// The numbers of its device and its inode.
    id: (u64, u64),
    length: u64,
    blocks: u64,
}

impl FileSize {
    fn of(metadata: &Metadata) -> Self {
        Self {
            id: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            blocks: metadata.blocks(),
        }
    }
}

/// The size of the output in a sandbox, whose task may have replaced it with files of its own.
#[derive(Debug, Default)]
struct OutputSize {
    counted: BTreeSet<(u64, u64)>,
    bytes: u64,
    has_content: bool,
}

impl OutputSize {
    /// Counts a file once, under however many names, with the larger of its length and its space on
    /// the disk: the first exceeds the second if the file is sparse, and the second may extend
    /// beyond its end.
    fn add(&mut self, file: FileSize) {
        if self.counted.insert(file.id) {
            let space = file.blocks.saturating_mul(BLOCK_BYTES);
            self.bytes = self.bytes.saturating_add(space.max(file.length));
            self.has_content |= file.length > 0;
        }
    }
}

/// Returns the maximum size of the output that is kept of one task. More was not written by its
/// supervisor, and would displace the output of other tasks. It is twice the limit of its files,
/// since some file systems allocate space in advance.
pub(crate) fn max_kept_bytes(config: &Config) -> u64 {
    let limits = OutputLimits {
        file_bytes: config.log_file_bytes,
        files: config.log_files,
        ..OutputLimits::DEFAULT
    };
    let bytes = limits.max_bytes().saturating_mul(2);
    bytes.min(config.log_retention_bytes)
}

/// Reduces these sandboxes to the output of their tasks, which have ended. A sandbox is removed if
/// it is a file system of its own, its tasks wrote nothing, or its output exceeds `max_bytes`.
pub(crate) fn reduce(paths: &Paths, ended: Vec<PathBuf>, max_bytes: u64) {
    let is_own_system = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.and_then(|name| name.parse().ok());
        name.is_none_or(|name| paths.disk(name).exists())
    };
    let (mut leaving, reduced): (Vec<_>, Vec<_>) = ended.into_iter().partition(is_own_system);
    if !reduced.is_empty() {
        match read_mounts() {
            Ok(mounts) => {
                for path in reduced {
                    match reduce_one(paths, &path, &mounts, max_bytes) {
                        Ok(true) => {}
                        Ok(false) => leaving.push(path),
                        Err(error) => {
                            tracing::warn!(path = %path.display(), why = %error, "a sandbox cannot be reduced to its output; retrying later");
                        }
                    }
                }
            }
            Err(error) => {
                tracing::warn!(why = %error, "mounts cannot be read: no sandbox is reduced");
            }
        }
    }
    super::remove(paths, leaving);
}

/// Returns false if there is no output to keep.
fn reduce_one(
    paths: &Paths,
    path: &Path,
    mounts: &BTreeSet<PathBuf>,
    max_bytes: u64,
) -> io::Result<bool> {
    if has_mounts(mounts, path) {
        return Err(io::Error::other("it holds a mount"));
    }
    release(paths, path).map_err(io::Error::other)?;
    let owner = take_over(path)?;
    let mut size = OutputSize::default();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // Of the entry itself: a link is no file. A file of the task's own is no output: it may
        // have another name elsewhere, by which it can grow.
        let metadata = entry.metadata()?;
        let is_own = metadata.is_file() && metadata.uid() == owner;
        if is_own && is_output(&entry.file_name().to_string_lossy()) {
            size.add(FileSize::of(&metadata));
        } else {
            remove_tree::remove(&entry.path())?;
        }
    }
    if !size.has_content {
        return Ok(false);
    }
    // The times of the output are kept with it.
    if let Ok(times) = fs::symlink_metadata(times_path(path)) {
        size.add(FileSize::of(&times));
    }
    let bytes = size.bytes;
    if bytes > max_bytes {
        tracing::info!(path = %path.display(), bytes, max_bytes, "the output of an ended task is too large to be kept");
        return Ok(false);
    }
    write_mark(path, bytes)?;
    Ok(true)
}

/// Gives a sandbox to the owner of the directory above it, who is that of the output files, too.
/// Returns this user. A later task may have the same user on the host as the one that has ended.
fn take_over(path: &Path) -> io::Result<u32> {
    let above = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let owner = fs::symlink_metadata(above)?;
    if fs::symlink_metadata(path)?.uid() != owner.uid() {
        lchown(path, Some(owner.uid()), Some(owner.gid()))?;
    }
    // No task can replace it: the directory above is not writable for tasks.
    fs::set_permissions(path, Permissions::from_mode(SANDBOX_MODE))?;
    Ok(owner.uid())
}

/// Returns whether a file of this name has output of the task.
fn is_output(name: &str) -> bool {
    let (stream, number) = name.split_once('.').unwrap_or((name, "0"));
    let Some(stream) = StreamName::of_file(stream) else {
        return false;
    };
    let number = number.parse().ok().filter(|number| *number < MAX_ROTATIONS);
    number.is_some_and(|number| stream.file(number) == name)
}

#[cfg(test)]
mod tests;
