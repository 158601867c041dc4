//! Tests of file systems of containers that an agent in another mount namespace has mounted.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use argosy_isolation::disk::FileSystem;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::disks::{LIMIT, audit};
use crate::fixture::{RootFixture, TestCase, skip};

pub(crate) const CASES: &[TestCase] = &[
    (
        "a_file_system_mounted_in_another_namespace_is_found_again",
        found,
    ),
    (
        "a_file_system_mounted_in_another_namespace_can_be_removed",
        removed,
    ),
    ("a_file_system_with_an_unknown_user_is_not_removed", unseen),
];

/// A file system that another agent has created in a separate mount namespace, which ends with
/// this.
struct ForeignMountNamespace {
    end: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

/// Moves the thread into a separate mount namespace.
fn leave() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
}

impl ForeignMountNamespace {
    fn make(system: &FileSystem, sandbox: &Path) -> Self {
        let (end, ended) = channel();
        let (made, is_made) = channel();
        let (system, sandbox) = (system.clone(), sandbox.to_owned());
        let thread = std::thread::spawn(move || {
            leave();
            system.make(LIMIT, &sandbox).unwrap();
            fs::write(sandbox.join("file"), "theirs").unwrap();
            made.send(()).unwrap();
            // It ends, one way or the other, with its parent.
            let _ = ended.recv();
            // Both see the same file system.
            let seen = fs::read_to_string(sandbox.join("file"));
            assert!(seen.is_err() || seen.is_ok_and(|text| text == "ours"));
        });
        is_made.recv().unwrap();
        Self {
            end,
            thread: Some(thread),
        }
    }
}

impl Drop for ForeignMountNamespace {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.end.send(());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

fn elsewhere(test: impl FnOnce(&FileSystem, &Path, ForeignMountNamespace)) {
    if FileSystem::supported().is_err() {
        skip("this kernel has no loop devices".to_owned());
    }
    let world = RootFixture::new();
    let audit = audit(&world);
    let (directory, sandbox) = (world.work().join("disk"), world.work().join("sandbox"));
    fs::create_dir(&sandbox).unwrap();
    let system = FileSystem::at(&directory);
    let there = ForeignMountNamespace::make(&system, &sandbox);
    assert!(!system.is_mounted() && !system.is_sandbox_mounted(&sandbox));
    test(&system, &sandbox, there);
    assert!(!directory.exists());
    fs::remove_dir(&sandbox).unwrap();
    audit.expect_nothing_left("after a file system that was mounted elsewhere");
}

fn found() {
    elsewhere(|system, sandbox, there| {
        assert!(system.recover(sandbox).unwrap());
        assert!(system.is_mounted() && system.is_sandbox_mounted(sandbox));
        let file = sandbox.join("file");
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
        fs::write(&file, "ours").unwrap();
        drop(there);
        assert_eq!(fs::read_to_string(&file).unwrap(), "ours", "it stays");
        system.remove(sandbox).unwrap();
        assert!(!system.recover(sandbox).unwrap());
    });
}

fn removed() {
    elsewhere(|system, sandbox, there| {
        system.remove(sandbox).unwrap();
        assert!(!system.recover(sandbox).unwrap());
        drop(there);
    });
}

fn unseen() {
    elsewhere(|system, sandbox, there| {
        let without_devices = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                leave();
                let flags = MsFlags::empty();
                mount(Some("none"), "/dev", Some("tmpfs"), flags, None::<&str>).unwrap();
                [system.recover(sandbox).map(drop), system.remove(sandbox)]
            });
            thread.join().unwrap()
        });
        assert!(without_devices.iter().all(Result::is_err));
        assert!(system.recover(sandbox).unwrap());
        let kept = fs::read_to_string(sandbox.join("file"));
        assert_eq!(kept.unwrap(), "theirs");
        system.remove(sandbox).unwrap();
        drop(there);
    });
}
