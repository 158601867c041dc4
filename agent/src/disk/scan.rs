//! A scan of the directories of one task, a few entries at a time.
//!
//! Every directory is opened relative to its parent, without following a link or crossing a mount,
//! so that concurrent changes by the task are harmless. A moved file may be counted twice or not at
//! all in this scan.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, statat,
};
use rustix::io::Errno;

use super::unlinked;
use crate::broker_client::{ScanProgress, ScanState};

/// Maximum depth of nested directories: each one on the path is held open.
pub(super) const MAX_DEPTH: usize = 256;
/// The cost of opening a directory, in entries.
const DIRECTORY_COST: u64 = 8;
/// The least disk usage of a file, as quotas allow a file for each 4 KiB of a limit. Otherwise a
/// task with empty files could use up the inodes of its host's disk.
const MIN_FILE_BYTES: u64 = 4_096;
/// Maximum number of unlinked files that are distinguished; further ones may be counted once for
/// each process that has them open.
const MAX_UNLINKED: usize = 65_536;
/// The unit of block counts from the kernel, for all file systems.
const BLOCK_BYTES: u64 = 512;

/// A scan in progress.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Directories still to be entered.
    directories: Vec<PathBuf>,
    /// The open directories on the current path: each lies in the one before.
    open: Vec<Dir>,
    /// The cgroup whose processes are scanned afterwards.
    group: Option<PathBuf>,
    processes: Vec<u32>,
    /// The process that is being scanned, and its open files.
    current: Option<(u32, Dir)>,
    unlinked: BTreeSet<u64>,
    /// The device of the last top-level directory.
    device: u64,
    bytes: u64,
    /// The cost so far, in entries.
    pub(super) cost: u64,
}

impl Scan {
    pub(crate) fn new(directories: &[PathBuf]) -> Self {
        Self {
            directories: directories.to_vec(),
            ..Self::default()
        }
    }

    /// Continues with the open files of this cgroup's processes.
    pub(crate) fn with_group(mut self, group: Option<&Path>) -> Self {
        self.group = group.map(Path::to_owned);
        self
    }

    /// Returns its state after a part with this `progress`.
    pub(crate) fn state(&self, progress: ScanProgress) -> ScanState {
        ScanState {
            progress,
            cost: self.cost,
            held: self.open_descriptors(),
        }
    }

    /// Returns the number of descriptors that it holds while suspended.
    pub(super) fn open_descriptors(&self) -> usize {
        self.open.len() + usize::from(self.current.is_some())
    }

    /// Continues until the cost is reached, or it has found more bytes than `enough`.
    pub(crate) fn advance(&mut self, until_cost: u64, enough: u64) -> ScanProgress {
        while self.cost < until_cost && self.bytes <= enough {
            let Some(directory) = self.open.last_mut() else {
                match self.directories.pop() {
                    Some(next) => self.enter_from_outside(&next),
                    None if self.scan_processes() => {}
                    None => return ScanProgress::Done(self.bytes),
                }
                continue;
            };
            self.cost += 1;
            match directory.read() {
                None => drop(self.open.pop()),
                // The directory was removed while it was read, with its contents.
                Some(Err(_)) => drop(self.open.pop()),
                Some(Ok(entry)) => {
                    let name = entry.file_name();
                    if name == c"." || name == c".." {
                        continue;
                    }
                    if self.count(name) && self.open.len() > MAX_DEPTH {
                        return ScanProgress::TooDeep;
                    }
                }
            }
        }
        ScanProgress::Unfinished(self.bytes)
    }

    /// Scans the next open file of the processes; returns false if none is left.
    fn scan_processes(&mut self) -> bool {
        if let Some(group) = self.group.take() {
            self.cost += DIRECTORY_COST;
            self.processes = unlinked::processes(&group);
            return true;
        }
        let Some((process, descriptors)) = &mut self.current else {
            let Some(process) = self.processes.pop() else {
                return false;
            };
            self.cost += DIRECTORY_COST;
            self.current = unlinked::descriptors(process).map(|open| (process, open));
            return true;
        };
        self.cost += 1;
        let Some(Ok(entry)) = descriptors.read() else {
            self.current = None;
            return true;
        };
        let found = descriptors.fd().ok().and_then(|directory| {
            unlinked::unlinked_file(*process, directory, entry.file_name(), self.device)
        });
        if let Some((number, blocks)) = found
            && !self.unlinked.contains(&number)
        {
            if self.unlinked.len() < MAX_UNLINKED {
                self.unlinked.insert(number);
            }
            let bytes = blocks.saturating_mul(BLOCK_BYTES);
            self.bytes = self.bytes.saturating_add(bytes.max(MIN_FILE_BYTES));
        }
        true
    }

    fn enter_from_outside(&mut self, path: &Path) {
        self.cost += 1;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A missing directory uses no space.
        let Ok(directory) = openat(CWD, path, flags, Mode::empty()) else {
            return;
        };
        self.cost += DIRECTORY_COST;
        if let Ok(found) = fstat(&directory)
            && let Ok(opened) = Dir::new(directory)
        {
            self.device = found.st_dev;
            self.bytes = self.bytes.saturating_add(share(&found));
            self.open.push(opened);
        }
    }

    /// Counts an entry of the innermost directory, and enters it if it is a directory; returns
    /// whether it did.
    fn count(&mut self, name: &CStr) -> bool {
        let Some(Ok(directory)) = self.open.last().map(Dir::fd) else {
            return false;
        };
        let Ok(found) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return false;
        };
        if found.st_dev != self.device {
            return false;
        }
        self.bytes = self.bytes.saturating_add(share(&found));
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            return false;
        }
        self.cost += DIRECTORY_COST;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let within = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV | ResolveFlags::BENEATH;
        let inner = openat2(directory, name, flags, Mode::empty(), within).and_then(Dir::new);
        match inner {
            Ok(inner) => {
                self.open.push(inner);
                true
            }
            // Without root some directories of the agent's own user may be inaccessible even to the
            // agent.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ACCESS) => false,
            Err(errno) => {
                tracing::warn!(why = %errno, "a directory of a task cannot be measured in this round");
                false
            }
        }
    }
}

/// Returns the disk usage of a file, in bytes. Each of its names has an equal share of it, so that
/// all of them add up to one file; and each name is visited.
fn share(found: &Stat) -> u64 {
    let blocks = u64::try_from(found.st_blocks).unwrap_or(0);
    let names = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => 1,
        _ => u64::from(found.st_nlink as u32).max(1),
    };
    let bytes = blocks.saturating_mul(BLOCK_BYTES);
    bytes.max(MIN_FILE_BYTES).div_ceil(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;

    const MIB: usize = 1 << 20;

    fn measured(directories: &[&Path]) -> ScanProgress {
        let directories: Vec<_> = directories.iter().map(|path| path.to_path_buf()).collect();
        Scan::new(&directories).advance(u64::MAX, u64::MAX)
    }

    fn bytes(directories: &[&Path]) -> u64 {
        match measured(directories) {
            ScanProgress::Done(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scans_count_disk_blocks_in_all_directories() {
        let world = tempfile::tempdir().unwrap();
        let (one, other) = (world.path().join("one"), world.path().join("other"));
        fs::create_dir_all(one.join("deep/er")).unwrap();
        fs::create_dir(&other).unwrap();
        let empty = bytes(&[&one, &other]);
        fs::write(one.join("deep/er/file"), vec![1; MIB]).unwrap();
        fs::write(other.join("file"), vec![1; MIB]).unwrap();
        let full = bytes(&[&one, &other]);
        assert!(
            (2 * MIB as u64..3 * MIB as u64).contains(&(full - empty)),
            "{full} {empty}"
        );
        // A sparse file uses no blocks; a second hard link only its name.
        fs::File::create(one.join("hole"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        fs::hard_link(one.join("deep/er/file"), one.join("again")).unwrap();
        assert!(bytes(&[&one, &other]) - full < 64 * 1024);
        let gone = world.path().join("gone");
        assert_eq!(bytes(&[&gone]), 0);
    }

    #[test]
    fn files_without_content_count_too() {
        let world = tempfile::tempdir().unwrap();
        let before = bytes(&[world.path()]);
        let place = world.path().join("0");
        fs::write(&place, "").unwrap();
        for number in 1..1_000 {
            fs::write(world.path().join(number.to_string()), "").unwrap();
        }
        let empty = bytes(&[world.path()]) - before;
        assert!((4_000_000..8_000_000).contains(&empty), "{empty}");
        // All names of a file count as one file; the rest is the directory.
        for number in 0..1_000 {
            fs::hard_link(&place, world.path().join(format!("link-{number}"))).unwrap();
        }
        let linked = bytes(&[world.path()]) - before - empty;
        assert!(linked < 500_000, "{linked}");
    }

    #[test]
    fn unlinked_open_files_are_counted_once() {
        let world = tempfile::tempdir().unwrap();
        let (task, group) = (world.path().join("task"), world.path().join("group"));
        fs::create_dir(&task).unwrap();
        fs::create_dir(&group).unwrap();
        let own = std::process::id();
        fs::write(group.join("cgroup.procs"), format!("0\n{own}\n4194303\n")).unwrap();
        let through = || {
            let walk = Scan::new(std::slice::from_ref(&task));
            match walk.with_group(Some(&group)).advance(u64::MAX, u64::MAX) {
                ScanProgress::Done(bytes) => bytes,
                other => panic!("{other:?}"),
            }
        };
        let before = through();
        let mut file = fs::File::create(task.join("file")).unwrap();
        let again = file.try_clone().unwrap();
        fs::remove_file(task.join("file")).unwrap();
        file.write_all(&vec![1; 64 * MIB]).unwrap();
        // Other tests of this process may do the same concurrently, with less.
        let found = through() - before;
        assert!(
            (64 * MIB as u64..128 * MIB as u64).contains(&found),
            "{found}"
        );
        drop((file, again));
    }

    #[test]
    fn scans_do_not_follow_links() {
        let world = tempfile::tempdir().unwrap();
        let (task, outside) = (world.path().join("task"), world.path().join("outside"));
        fs::create_dir(&task).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), vec![1; MIB]).unwrap();
        symlink(&outside, task.join("directory")).unwrap();
        symlink(outside.join("file"), task.join("file")).unwrap();
        symlink(".", task.join("itself")).unwrap();
        assert!(bytes(&[&task]) < 64 * 1024);
        assert_eq!(
            bytes(&[&task.join("directory")]),
            0,
            "its own directories are not counted either"
        );
    }

    #[test]
    fn scans_can_be_suspended_and_stop_at_the_limit() {
        let world = tempfile::tempdir().unwrap();
        for number in 0..100 {
            fs::write(world.path().join(number.to_string()), [1; 100]).unwrap();
        }
        let whole = bytes(&[world.path()]);
        let mut walk = Scan::new(&[world.path().to_owned()]);
        let mut steps = 0;
        let pieces = loop {
            steps += 1;
            match walk.advance(walk.cost + 10, u64::MAX) {
                ScanProgress::Done(bytes) => break bytes,
                ScanProgress::Unfinished(_) => {}
                ScanProgress::TooDeep => panic!("it is flat"),
            }
        };
        assert_eq!(pieces, whole);
        assert!(steps > 9, "{steps}");
        let mut walk = Scan::new(&[world.path().to_owned()]);
        let ScanProgress::Unfinished(found) = walk.advance(u64::MAX, whole / 2) else {
            panic!("half of it is enough");
        };
        assert!(found > whole / 2 && found < whole);
    }

    #[test]
    fn too_deep_directories_are_reported() {
        let world = tempfile::tempdir().unwrap();
        let mut path = world.path().to_owned();
        for _ in 0..MAX_DEPTH - 1 {
            path.push("d");
        }
        fs::create_dir_all(&path).unwrap();
        assert!(matches!(measured(&[world.path()]), ScanProgress::Done(_)));
        fs::create_dir_all(path.join("d/d")).unwrap();
        assert_eq!(measured(&[world.path()]), ScanProgress::TooDeep);
    }
}
