//! Removal of sandboxes and of all their related files.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use argosy_host::crash_point;
use argosy_host::remove_tree::remove_dir_all;

use crate::disk::release;
use crate::paths::Paths;

/// The extension of the mark next to a reduced sandbox. Its content is the number of bytes, and the
/// boot and the time on its boot clock at which it was reduced.
pub(super) const MARK: &str = "logs";
/// The extension of a mark that is being written.
pub(super) const MARK_DRAFT: &str = "logs.draft";

/// Removes these sandboxes.
pub(crate) fn remove(paths: &Paths, leaving: Vec<PathBuf>) {
    remove_all(paths, leaving, read_mountinfo);
}

fn read_mountinfo() -> io::Result<String> {
    fs::read_to_string("/proc/self/mountinfo")
}

/// Returns all mount points of this process.
pub(super) fn read_mounts() -> io::Result<BTreeSet<PathBuf>> {
    Ok(mount_points(&read_mountinfo()?))
}

/// Removes these sandboxes and their related files. `read_mounts` is called once for all of them:
/// its cost grows with the number of the host's mounts.
fn remove_all(
    paths: &Paths,
    mut leaving: Vec<PathBuf>,
    mut read_mounts: impl FnMut() -> io::Result<String>,
) {
    leaving.retain(|path| match release(paths, path) {
        Ok(_) => {
            crash_point!("gc.disk-released");
            true
        }
        Err(error) => {
            let why = crate::error::error_chain(&error);
            tracing::warn!(path = %path.display(), why, "the disk limit of a sandbox cannot be removed");
            false
        }
    });
    if leaving.is_empty() {
        return;
    }
    let mounts = match read_mounts() {
        Ok(mountinfo) => mount_points(&mountinfo),
        Err(error) => {
            tracing::warn!(why = %error, "mounts cannot be read: no sandbox is removed");
            return;
        }
    };
    for path in leaving {
        if has_mounts(&mounts, &path) {
            tracing::warn!(path = %path.display(), "a sandbox holds a mount and is not removed");
        } else {
            remove_sandbox(&path);
        }
    }
}

fn remove_sandbox(path: &Path) {
    // The files next to it: one maps its files to offsets of the output, which is rare, one has the
    // times of the output, and one marks that it was reduced to its output.
    for extension in [
        "output",
        "output.draft",
        "times",
        "times.draft",
        MARK,
        MARK_DRAFT,
    ] {
        match fs::remove_file(path.with_extension(extension)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), why = %error, "a sandbox's record cannot be removed");
                return;
            }
            Ok(()) | Err(_) => {}
        }
    }
    crash_point!("gc.record-removed");
    if let Err(error) = remove_dir_all(path) {
        tracing::warn!(path = %path.display(), why = %error, "a sandbox cannot be removed");
        return;
    }
    crash_point!("gc.sandbox-removed");
    // The directories of the task and of the framework are removed with their last sandbox;
    // otherwise this fails.
    for parent in path.ancestors().skip(1).take(2) {
        if fs::remove_dir(parent).is_err() {
            break;
        }
        crash_point!("gc.parent-removed");
    }
}

fn mount_points(mountinfo: &str) -> BTreeSet<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(|point| unescape(point).into()).collect()
}

/// Whether a file system is mounted there or below. Paths are ordered by their components: paths
/// below follow immediately.
pub(super) fn has_mounts(mounts: &BTreeSet<PathBuf>, path: &Path) -> bool {
    let next = mounts.range(path.to_owned()..).next();
    next.is_some_and(|point| point.starts_with(path))
}

/// Decodes spaces and similar characters, which are octal numbers there.
fn unescape(text: &str) -> String {
    let codes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    codes.iter().fold(text.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use argosy_isolation::disk::FileSystem;
    use argosy_testing::skip;

    use super::*;

    #[test]
    fn mounts_below_a_sandbox_are_detected() {
        let line = "36 35 98:0 /a /srv/my\\040box/in rw,noatime master:1 - ext4 /dev/root rw\n";
        let mounts = mount_points(&format!(
            "{line}37 35 98:1 / /srv/my-other rw - ext4 /dev/b rw\n"
        ));
        assert!(has_mounts(&mounts, Path::new("/srv/my box")));
        assert!(has_mounts(&mounts, Path::new("/srv/my box/in")));
        assert!(has_mounts(&mounts, Path::new("/srv")));
        assert!(!has_mounts(&mounts, Path::new("/srv/my")));
        assert!(!has_mounts(&mounts, Path::new("/srv/z")));
    }

    /// A foreign mount, unmounted when this is dropped.
    struct ForeignMount(PathBuf);

    impl ForeignMount {
        fn at(point: PathBuf) -> Self {
            let mount = ["-t", "tmpfs", "foreign"];
            let mounted = Command::new("mount").args(mount).arg(&point).status();
            assert!(mounted.unwrap().success());
            Self(point)
        }
    }

    impl Drop for ForeignMount {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }

    #[test]
    fn a_sandbox_with_a_foreign_mount_is_kept_until_the_mount_is_gone() {
        if !nix::unistd::geteuid().is_root() {
            return skip("needs root");
        }
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let task = paths.sandboxes().join("framework-1/web");
        let [held, free] = ["1-1-1", "1-1-2"].map(|instance| task.join(instance));
        for sandbox in [&held, &free] {
            fs::create_dir_all(sandbox.join("in")).unwrap();
        }
        let foreign = ForeignMount::at(held.join("in"));
        let theirs = held.join("in/theirs");
        fs::write(&theirs, "x").unwrap();
        remove(&paths, vec![held.clone(), free.clone()]);
        assert_eq!(fs::read(&theirs).unwrap(), b"x");
        assert!(!free.exists(), "the others go");
        drop(foreign);
        remove(&paths, vec![held]);
        assert!(!paths.sandboxes().join("framework-1").exists());
    }

    #[test]
    fn removing_a_sandbox_removes_its_file_system() {
        if !nix::unistd::geteuid().is_root() {
            return skip("needs root");
        }
        if let Err(why) = FileSystem::supported() {
            return skip(&format!("this kernel has no loop devices: {why}"));
        }
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let sandbox = paths.sandboxes().join("framework-1/web/1-1-1");
        fs::create_dir_all(&sandbox).unwrap();
        let system = FileSystem::at(&paths.disk("1-1-1".parse().unwrap()));
        system.make(4 << 20, &sandbox).unwrap();
        fs::write(sandbox.join("file"), "x").unwrap();
        let mounted = || {
            let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
            has_mounts(&mount_points(&mountinfo), directory.path())
        };
        assert!(mounted());
        remove(&paths, vec![sandbox]);
        assert!(!mounted());
        let left = fs::read_dir(paths.disks()).unwrap().count();
        assert!(left == 0 && !paths.sandboxes().join("framework-1").exists());
    }

    #[test]
    fn mounts_are_read_once_per_removal() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let sandbox = |order| {
            let path = paths
                .sandboxes()
                .join(format!("framework-1/web/1-{order}-1"));
            fs::create_dir_all(&path).unwrap();
            path
        };
        let readings = |count| {
            let mut readings = 0;
            remove_all(&paths, (0..count).map(sandbox).collect(), || {
                readings += 1;
                Ok(String::new())
            });
            assert!(!paths.sandboxes().join("framework-1").exists());
            readings
        };
        assert_eq!([0, 1, 50].map(readings), [0, 1, 1]);
    }

    #[test]
    fn a_link_in_a_sandbox_is_removed_without_its_target() {
        let directory = tempfile::tempdir().unwrap();
        let kept = directory.path().join("kept");
        let sandbox = directory.path().join("framework-1/web/1-1-1");
        fs::create_dir_all(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        fs::create_dir_all(&sandbox).unwrap();
        for name in ["1-1-1.output", "1-1-1.times", "1-1-1.times.draft"] {
            fs::write(directory.path().join("framework-1/web").join(name), "").unwrap();
        }
        std::os::unix::fs::symlink(&kept, sandbox.join("link")).unwrap();
        remove(&Paths::new(directory.path()), vec![sandbox]);
        assert!(kept.join("file").exists());
        assert!(
            !directory.path().join("framework-1").exists(),
            "emptied directories are removed, too"
        );
    }
}
