//! Tests of unpacking in a separate process: what it may do, what it leaves, and that it ends.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use anyhow::Result;
use argosy_host::remove_tree::remove_dir_all;
use argosy_isolation::Launcher;
use argosy_isolation::profile::FIRST_HOST_ID;
use argosy_isolation::unpack::{
    ArchiveFormat, ArchivePurpose, FailureOrigin, HostOwner, UnpackHandle, UnpackJob, UnpackLimits,
    UnpackReport,
};

use crate::fixture::{RootFixture, TIMEOUT, TestCase, eventually};

pub(crate) const CASES: &[TestCase] = &[
    (
        "the_files_of_a_fetched_archive_belong_to_the_task_user",
        archive,
    ),
    ("a_layer_keeps_its_owners_and_applies_its_whiteouts", layer),
    (
        "a_hostile_archive_is_rejected_with_the_entry_and_the_rule",
        hostile,
    ),
    ("unpacking_reports_its_progress", progress),
    (
        "the_unpacker_can_access_only_its_archive_and_target",
        confined,
    ),
    ("the_unpacker_runs_in_the_given_cgroup", grouped),
    ("dropping_an_unpacking_ends_it", dropped),
];

const TASK: HostOwner = HostOwner {
    uid: FIRST_HOST_ID + 7,
    gid: FIRST_HOST_ID + 8,
};

/// Type, path, owner, content or link target.
pub(crate) type UnpackedEntry<'a> = (u8, &'a str, u32, &'a [u8]);

/// Returns a tar file of these entries.
pub(crate) fn tarball(entries: &[UnpackedEntry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, path, owner, body) in entries {
        let mut header = tar::Header::new_gnu();
        let is_link = matches!(*kind, b'1' | b'2');
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        if is_link {
            header.as_old_mut().linkname[..body.len()].copy_from_slice(body);
        }
        header.set_entry_type(tar::EntryType::new(*kind));
        let is_open = *kind == b'5' || path.starts_with("bin/");
        header.set_mode(if is_open { 0o755 } else { 0o644 });
        header.set_uid((*owner).into());
        header.set_gid((*owner).into());
        let body: &[u8] = if is_link { b"" } else { body };
        header.set_size(body.len() as u64);
        header.set_cksum();
        builder.append(&header, body).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn target(world: &RootFixture, name: &str, owner: Option<HostOwner>) -> PathBuf {
    let directory = world.work().join(name);
    fs::create_dir(&directory).unwrap();
    if let Some(owner) = owner {
        chown(&directory, Some(owner.uid), Some(owner.gid)).unwrap();
    }
    directory
}

fn begin(
    world: &mut RootFixture,
    format: ArchiveFormat,
    rules: UnpackLimits,
    archive: &File,
    target: &Path,
) -> UnpackHandle {
    let job = UnpackJob {
        format,
        rules,
        owner: TASK,
        group: None,
    };
    let target = File::open(target).unwrap();
    let launcher = world.launcher.as_mut().unwrap();
    launcher
        .unpack(&job, archive.as_fd(), target.as_fd())
        .unwrap()
}

/// The entries for crash tests.
const KEPT: [UnpackedEntry<'static>; 4] = [
    (b'5', "a", 1000, b""),
    (b'0', "a/first", 1000, b"first"),
    (b'0', "a/second", 1000, b"second"),
    (b'0', "third", 0, b"third"),
];

/// Unpacks as agents do: into a draft, which is renamed when it is complete.
pub(crate) fn keep(launcher: &mut Launcher, work: &Path, rules: UnpackLimits) -> Result<()> {
    let draft = work.join("draft");
    fs::create_dir(&draft)?;
    if rules.source == ArchivePurpose::Archive {
        chown(&draft, Some(TASK.uid), Some(TASK.gid))?;
    }
    let job = UnpackJob {
        format: ArchiveFormat::Tar,
        rules,
        owner: TASK,
        group: None,
    };
    let (archive, target) = (file_of(&tarball(&KEPT)), File::open(&draft)?);
    let mut unpacking = launcher.unpack(&job, archive.as_fd(), target.as_fd())?;
    unpacking.wait(TIMEOUT)?;
    Ok(fs::rename(draft, work.join("kept"))?)
}

/// Recovers as the next agent does: a draft is removed, and a named directory is complete.
pub(crate) fn recover(launcher: &mut Launcher, work: &Path, rules: UnpackLimits) {
    let (draft, kept) = (work.join("draft"), work.join("kept"));
    // The unpack process may write there until it has noticed that its agent has exited.
    eventually("the draft goes", || {
        !draft.exists() || remove_dir_all(&draft).is_ok()
    });
    if !kept.exists() {
        keep(launcher, work, rules).unwrap();
    }
    for (_, path, _, content) in KEPT.iter().filter(|(kind, ..)| *kind == b'0') {
        assert_eq!(fs::read(kept.join(path)).unwrap(), *content, "{path}");
    }
    remove_dir_all(&kept).unwrap();
}

fn owner(path: &Path) -> (u32, u32) {
    let data = fs::symlink_metadata(path).unwrap();
    (data.uid(), data.gid())
}

fn archive() {
    let mut world = RootFixture::new();
    let directory = target(&world, "target", Some(TASK));
    let bytes = tarball(&[
        (b'5', "a", 0, b""),
        (b'0', "a/file", 0, b"text"),
        (b'2', "link", 0, b"a/file"),
    ]);
    for (format, bytes) in [
        (ArchiveFormat::Tar, bytes.clone()),
        (
            ArchiveFormat::TarZstd,
            zstd::encode_all(&bytes[..], 1).unwrap(),
        ),
    ] {
        let mut unpacking = begin(
            &mut world,
            format,
            UnpackLimits::archive(),
            &file_of(&bytes),
            &directory,
        );
        let unpacked = unpacking.wait(TIMEOUT).unwrap();
        assert_eq!(
            (unpacked.progress.entries, unpacked.progress.written_bytes),
            (3, 4)
        );
        assert_eq!(fs::read(directory.join("link")).unwrap(), b"text");
        for path in ["a", "a/file", "link"] {
            assert_eq!(owner(&directory.join(path)), (TASK.uid, TASK.gid), "{path}");
        }
    }
}

fn layer() {
    let mut world = RootFixture::new();
    let directory = target(&world, "target", None);
    let bytes = tarball(&[
        (b'5', "home", 0, b""),
        (b'5', "home/user", 1000, b""),
        (b'0', "home/user/file", 1000, b"text"),
        (b'1', "home/user/same", 1000, b"home/user/file"),
        (b'2', "last", 65_535, b"/etc/passwd"),
        (b'0', "home/.wh.gone", 0, b""),
        (b'0', "opaque/.wh..wh..opq", 0, b""),
        (b'3', "null", 0, b""),
    ]);
    let mut unpacking = begin(
        &mut world,
        ArchiveFormat::Tar,
        UnpackLimits::layer(),
        &file_of(&bytes),
        &directory,
    );
    let unpacked = unpacking.wait(TIMEOUT).unwrap();
    assert_eq!(unpacked.skipped, 1, "the device");
    assert!(unpacked.digest.is_some());
    assert_eq!(owner(&directory.join("home")), (0, 0));
    assert_eq!(owner(&directory.join("home/user")), (1000, 1000));
    assert_eq!(owner(&directory.join("home/user/file")), (1000, 1000));
    assert_eq!(owner(&directory.join("last")), (65_535, 65_535));
    let links = fs::metadata(directory.join("home/user/same"))
        .unwrap()
        .nlink();
    assert_eq!(links, 2);
    let hidden = fs::symlink_metadata(directory.join("home/gone")).unwrap();
    assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
    let mut value = [0; 4];
    let length = rustix::fs::getxattr(directory.join("opaque"), "user.overlay.opaque", &mut value);
    assert_eq!(&value[..length.unwrap()], b"y");
}

fn hostile() {
    let mut world = RootFixture::new();
    let outside = world.work().join("outside");
    fs::write(&outside, "kept").unwrap();
    let cases: [(UnpackLimits, &[UnpackedEntry<'_>], &str); 4] = [
        (
            UnpackLimits::archive(),
            &[(b'0', "../outside", 0, b"x")],
            "entry \"../outside\" is refused: its path has '..'",
        ),
        (
            UnpackLimits::archive(),
            &[(b'2', "l", 0, b"/etc/passwd")],
            "entry \"l\" is refused: it is a link to",
        ),
        (
            UnpackLimits::layer(),
            &[(b'2', "l", 0, b"/etc"), (b'0', "l/f", 0, b"x")],
            "entry \"l/f\" is refused: its path leads through",
        ),
        (
            UnpackLimits::layer(),
            &[(b'0', "f", 65_536, b"x")],
            "entry \"f\" is refused: its owner is 65536",
        ),
    ];
    for (number, (rules, entries, expected)) in cases.into_iter().enumerate() {
        let directory = target(&world, &number.to_string(), Some(TASK));
        if expected.contains("65536") || expected.contains("through") {
            chown(&directory, Some(0), Some(0)).unwrap();
        }
        let mut unpacking = begin(
            &mut world,
            ArchiveFormat::Tar,
            rules,
            &file_of(&tarball(entries)),
            &directory,
        );
        let failure = unpacking.wait(TIMEOUT).unwrap_err();
        assert_eq!(failure.blame, FailureOrigin::Archive, "{failure}");
        assert!(failure.reason.starts_with(expected), "{failure}");
    }
    assert_eq!(fs::read(outside).unwrap(), b"kept");
    let directory = target(&world, "not-its-own", None);
    let mut unpacking = begin(
        &mut world,
        ArchiveFormat::Tar,
        UnpackLimits::archive(),
        &file_of(&tarball(&[(b'0', "f", 0, b"x")])),
        &directory,
    );
    let failure = unpacking.wait(TIMEOUT).unwrap_err();
    assert_eq!(failure.blame, FailureOrigin::Host, "{failure}");
    assert!(failure.reason.contains("Permission denied"), "{failure}");
}

fn progress() {
    let mut world = RootFixture::new();
    let directory = target(&world, "target", Some(TASK));
    let body = vec![b'x'; 8 << 20];
    let bytes = tarball(&[(b'0', "large", 0, &body)]);
    let mut unpacking = begin(
        &mut world,
        ArchiveFormat::Tar,
        UnpackLimits::archive(),
        &file_of(&bytes),
        &directory,
    );
    let mut reported = Vec::new();
    eventually("it is done", || match unpacking.report() {
        Some(UnpackReport::Progress(progress)) => {
            reported.push(progress.written_bytes);
            false
        }
        Some(UnpackReport::Done(_)) => true,
        Some(UnpackReport::Failed(failure)) => panic!("{failure}"),
        None => false,
    });
    assert!(reported.len() >= 2 && reported.is_sorted(), "{reported:?}");
    assert_eq!(unpacking.report(), None);
}

/// Returns the unpack processes, monitors and workers.
fn unpackers() -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let called = |path: &PathBuf| {
        fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "argosy-unpack\n")
    };
    entries.filter(called).collect()
}

/// Starts an unpacking that waits for an archive that never arrives.
fn waiting(world: &mut RootFixture, rules: UnpackLimits) -> (UnpackHandle, OwnedFd) {
    let name = format!("waiting-{:?}", rules.source);
    let owner = (name == "waiting-Archive").then_some(TASK);
    let directory = target(world, &name, owner);
    let (reading, writing) = nix::unistd::pipe().unwrap();
    let unpacking = begin(
        world,
        ArchiveFormat::Tar,
        rules,
        &File::from(reading),
        &directory,
    );
    eventually("parent and worker run", || unpackers().len() == 2);
    (unpacking, writing)
}

fn confined() {
    let mut world = RootFixture::new();
    for (rules, users, capabilities) in [
        (
            UnpackLimits::archive(),
            format!("0 {} 1", TASK.uid),
            "0000000000000000",
        ),
        (
            UnpackLimits::layer(),
            "0 1879048192 65536".to_owned(),
            "0000000000000019",
        ),
    ] {
        let (unpacking, _writing) = waiting(&mut world, rules);
        let worker = || {
            let mut found = unpackers().into_iter();
            found.find(|path| {
                let status = fs::read_to_string(path.join("status")).unwrap_or_default();
                status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1")
            })
        };
        eventually("the filter is on", || worker().is_some());
        let worker = worker().unwrap();
        let status = fs::read_to_string(worker.join("status")).unwrap();
        for set in ["CapPrm", "CapEff"] {
            assert!(
                status.contains(&format!("{set}:\t{capabilities}")),
                "{status}"
            );
        }
        for set in ["CapInh", "CapBnd", "CapAmb"] {
            assert!(
                status.contains(&format!("{set}:\t0000000000000000")),
                "{status}"
            );
        }
        let map = fs::read_to_string(worker.join("uid_map")).unwrap();
        assert_eq!(map.split_whitespace().collect::<Vec<_>>().join(" "), users);
        for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let of = |path: &Path| fs::read_link(path.join("ns").join(kind)).unwrap();
            assert_ne!(of(&worker), of(Path::new("/proc/self")), "{kind}");
        }
        assert_eq!(
            fs::read_dir(worker.join("root")).unwrap().count(),
            0,
            "its root is empty"
        );
        let mounts = fs::read_to_string(worker.join("mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        let limits = fs::read_to_string(worker.join("limits")).unwrap();
        assert!(
            limits.contains("Max address space         1073741824"),
            "{limits}"
        );
        drop(unpacking);
        eventually("both have ended", || unpackers().is_empty());
    }
}

fn grouped() {
    let mut world = RootFixture::new();
    let group = world.tree.root().join("content");
    fs::create_dir(&group).unwrap();
    let directory = target(&world, "grouped", Some(TASK));
    let (reading, writing) = nix::unistd::pipe().unwrap();
    let job = UnpackJob {
        format: ArchiveFormat::Tar,
        rules: UnpackLimits::archive(),
        owner: TASK,
        group: Some(group.clone()),
    };
    let (archive, directory) = (File::from(reading), File::open(directory).unwrap());
    let launcher = world.launcher.as_mut().unwrap();
    let unpacking = launcher
        .unpack(&job, archive.as_fd(), directory.as_fd())
        .unwrap();
    let members = || fs::read_to_string(group.join("cgroup.procs")).unwrap();
    eventually("parent and worker are in it", || {
        members().lines().count() == 2 && unpackers().len() == 2
    });
    drop(unpacking);
    drop(writing);
    eventually("both have ended", || {
        members().is_empty() && unpackers().is_empty()
    });
    fs::remove_dir(&group).unwrap();
}

fn dropped() {
    let mut world = RootFixture::new();
    let (unpacking, writing) = waiting(&mut world, UnpackLimits::archive());
    drop(unpacking);
    eventually("both have ended", || unpackers().is_empty());
    drop(writing);
    let (mut unpacking, writing) = waiting(&mut world, UnpackLimits::layer());
    let late = unpacking
        .wait(std::time::Duration::from_millis(50))
        .unwrap_err();
    assert!(late.reason.contains("not unpacked within 50 ms"), "{late}");
    drop(writing);
    let failure = unpacking.wait(TIMEOUT).unwrap();
    assert_eq!(failure.progress.entries, 0, "an empty layer");
}
