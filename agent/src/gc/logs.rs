//! Output of ended tasks that outlives their sandboxes. A sandbox that is reduced keeps its output
//! files, under the same path, so that the files API serves them as before; everything else in it
//! is removed. A mark next to it records that, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use argosy_host::remove_tree;
use argosy_isolation::output::StreamName;

use super::removal::{has_mounts, read_mounts};
use crate::core::ContainerName;
use crate::disk::release;
use crate::paths::Paths;

/// The extension of the mark next to a reduced sandbox, whose content is the number of bytes.
pub(super) const MARK: &str = "logs";
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

/// A reduced sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeptLog {
    since: SystemTime,
    bytes: u64,
}

/// The reduced sandboxes. Their marks are read once.
#[derive(Debug, Default)]
pub(super) struct KeptLogs(BTreeMap<PathBuf, KeptLog>);

impl KeptLogs {
    /// Returns the sandboxes that are not reduced, and remembers the others. `read_mark` returns
    /// the time and content of a mark.
    pub(super) fn split(
        &mut self,
        present: Vec<(ContainerName, PathBuf)>,
        mut read_mark: impl FnMut(&Path) -> Option<(SystemTime, u64)>,
    ) -> Vec<(ContainerName, PathBuf)> {
        let known = std::mem::take(&mut self.0);
        let mut others = Vec::new();
        for (name, path) in present {
            let kept = known.get(&path).copied();
            let kept = kept.or_else(|| {
                let (since, bytes) = read_mark(&path)?;
                Some(KeptLog { since, bytes })
            });
            match kept {
                Some(kept) => drop(self.0.insert(path, kept)),
                None => others.push((name, path)),
            }
        }
        others
    }

    /// Returns those that exceed the bounds: the oldest ones. A clock that was set back makes none
    /// of them older.
    pub(super) fn select(&self, now: SystemTime, retention: LogRetention) -> Vec<PathBuf> {
        let mut newest_first: Vec<_> = self.0.iter().collect();
        newest_first.sort_by(|a, b| (b.1.since, b.0).cmp(&(a.1.since, a.0)));
        let mut total = 0_u64;
        let mut leaving = Vec::new();
        for (at, (path, kept)) in newest_first.into_iter().enumerate() {
            total = total.saturating_add(kept.bytes);
            let age = now.duration_since(kept.since).unwrap_or_default();
            if at >= MAX_KEPT || age >= retention.age || total > retention.bytes {
                leaving.push(path.clone());
            }
        }
        leaving
    }

    /// Returns the oldest one.
    pub(super) fn oldest(&self) -> Option<PathBuf> {
        let oldest = self.0.iter().min_by_key(|(path, kept)| (kept.since, *path));
        oldest.map(|(path, _)| path.clone())
    }

    /// Returns all of them.
    pub(super) fn all(&self) -> Vec<PathBuf> {
        self.0.keys().cloned().collect()
    }
}

/// Reads the mark of a reduced sandbox; `None` if there is none.
pub(super) fn read_mark(sandbox: &Path) -> Option<(SystemTime, u64)> {
    let mark = sandbox.with_extension(MARK);
    let since = fs::symlink_metadata(&mark).ok()?.modified().ok()?;
    let text = fs::read_to_string(&mark).ok()?;
    Some((since, text.trim().parse().unwrap_or(0)))
}

/// Reduces these sandboxes to the output of their tasks, which have ended. A sandbox that is a file
/// system of its own, or whose tasks wrote nothing, is removed.
pub(crate) fn reduce(paths: &Paths, ended: Vec<PathBuf>) {
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
                    match reduce_one(paths, &path, &mounts) {
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
fn reduce_one(paths: &Paths, path: &Path, mounts: &BTreeSet<PathBuf>) -> io::Result<bool> {
    if has_mounts(mounts, path) {
        return Err(io::Error::other("it holds a mount"));
    }
    release(paths, path).map_err(io::Error::other)?;
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // Of the entry itself: a link is no file.
        let metadata = entry.metadata()?;
        if metadata.is_file() && is_output(&entry.file_name().to_string_lossy()) {
            bytes += metadata.len();
        } else {
            remove_tree::remove(&entry.path())?;
        }
    }
    if bytes == 0 {
        return Ok(false);
    }
    fs::write(path.with_extension(MARK), format!("{bytes}\n"))?;
    Ok(true)
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
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn path(number: u64) -> PathBuf {
        format!("/s/f/t/1-{number}-1").into()
    }

    /// Returns logs of these ages in hours and sizes.
    fn kept(now: SystemTime, all: &[(u32, u64)]) -> KeptLogs {
        let mut kept = KeptLogs::default();
        let present = (1..).zip(all).map(|(number, _)| {
            let name = format!("1-{number}-1").parse().unwrap();
            (name, path(number))
        });
        let mut marks = all.iter();
        let read = |_: &Path| {
            let (hours, bytes) = marks.next()?;
            Some((now - HOUR * *hours, *bytes))
        };
        assert!(kept.split(present.collect(), read).is_empty());
        kept
    }

    fn retention(hours: u32, bytes: u64) -> LogRetention {
        LogRetention {
            age: HOUR * hours,
            bytes,
        }
    }

    #[test]
    fn logs_leave_by_age_and_then_the_oldest_by_size() {
        let now = SystemTime::now();
        let logs = kept(now, &[(5, 10), (1, 10), (3, 10), (2, 10)]);
        let leaving = |retention| {
            let mut leaving = logs.select(now, retention);
            leaving.sort();
            leaving
        };
        assert!(leaving(retention(6, 40)).is_empty());
        assert_eq!(leaving(retention(5, 40)), [path(1)]);
        assert_eq!(leaving(retention(6, 39)), [path(1)]);
        assert_eq!(leaving(retention(6, 25)), [path(1), path(3)]);
        assert_eq!(leaving(retention(6, 0)).len(), 4);
        assert_eq!(logs.oldest(), Some(path(1)));
        // The clock was set back: nothing is older than it is.
        assert!(logs.select(now - HOUR * 9, retention(1, 40)).is_empty());
    }

    #[test]
    fn the_number_of_logs_is_bounded() {
        let now = SystemTime::now();
        let logs = kept(now, &vec![(1, 1); MAX_KEPT + 2]);
        assert_eq!(logs.select(now, retention(9, u64::MAX)).len(), 2);
    }

    #[test]
    fn marks_are_read_once() {
        let mut logs = kept(SystemTime::now(), &[(1, 1)]);
        let present = |numbers: &[u64]| {
            let all = numbers.iter().map(|number| {
                let name = format!("1-{number}-1").parse().unwrap();
                (name, path(*number))
            });
            all.collect::<Vec<_>>()
        };
        let mut read = Vec::new();
        let others = logs.split(present(&[1, 2]), |path| {
            read.push(path.to_owned());
            None
        });
        assert_eq!(read, [path(2)]);
        assert_eq!(others, present(&[2]));
        // One that is gone is forgotten.
        logs.split(Vec::new(), |_| None);
        assert!(logs.all().is_empty());
    }

    #[test]
    fn only_output_of_the_supervisor_is_kept() {
        for name in ["stdout", "stderr", "stdout.1", "stderr.99"] {
            assert!(is_output(name), "{name}");
        }
        for name in [
            "stdout.0",
            "stdout.01",
            "stdout.100",
            "stdout.",
            "stdout.1.2",
            "Stdout",
            "core",
            "",
        ] {
            assert!(!is_output(name), "{name}");
        }
    }

    #[test]
    fn a_reduced_sandbox_has_its_output_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let outside = directory.path().join("outside");
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("file"), "x").unwrap();
        let task = paths.sandboxes().join("framework-1/web");
        let sandbox = task.join("1-1-1");
        fs::create_dir_all(sandbox.join("data/deep")).unwrap();
        fs::write(sandbox.join("stdout"), "new").unwrap();
        fs::write(sandbox.join("stdout.1"), "older").unwrap();
        fs::write(sandbox.join("data/deep/secret"), "x").unwrap();
        std::os::unix::fs::symlink(outside.join("file"), sandbox.join("stderr")).unwrap();
        fs::write(task.join("1-1-1.output"), "{}").unwrap();
        let silent = task.join("1-2-1");
        fs::create_dir_all(&silent).unwrap();
        fs::write(silent.join("stdout"), "").unwrap();
        fs::write(silent.join("core"), "x").unwrap();
        reduce(&paths, vec![sandbox.clone(), silent.clone()]);
        let names = || {
            let entries = fs::read_dir(&sandbox).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<BTreeSet<_>>()
        };
        let expected: BTreeSet<String> = ["stdout", "stdout.1"].map(String::from).into();
        assert_eq!(names(), expected);
        assert_eq!(fs::read_to_string(sandbox.join("stdout")).unwrap(), "new");
        assert!(outside.join("file").exists(), "a link is not followed");
        assert!(task.join("1-1-1.output").exists(), "it maps offsets");
        assert!(!silent.exists(), "it has written nothing");
        let (_, bytes) = read_mark(&sandbox).unwrap();
        assert_eq!(bytes, 8);
        // A repeat changes nothing, and the removal leaves nothing.
        reduce(&paths, vec![sandbox.clone()]);
        assert_eq!(names(), expected);
        super::super::remove(&paths, vec![sandbox]);
        assert!(!paths.sandboxes().join("framework-1").exists());
    }
}
