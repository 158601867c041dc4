//! The directories of an agent that its broker creates, and their owners.
//!
//! ```text
//! <directory>/          root's; the agent may add files, and remove only its own (sticky)
//!   containers/ sandboxes/ groups/ and all in them down to a task's own files
//!   images/ images/layers/
//!                       root's; the agent may list them
//!   images/layers/*/    root's; closed to every other user
//!   executors/ disks/ cni/ probe/            root's
//!   journal lock audit/ cache/ images/blobs/ images/records/ images/leases/    the agent's
//! ```
//! So the agent can replace no directory on the path to a file that root acts on. Without a broker,
//! all of it belongs to one user.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use argosy_host::crash_point;
use argosy_host::remove_tree::{self, remove_dir_all};
use argosy_isolation::division::HostUser;
use argosy_isolation::profile::{END_HOST_ID, FIRST_HOST_ID};
use argosy_proto::remedy;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, openat};

use super::guard::{is_digest, is_draft};
use crate::broker_client::request::LayerChange;
use crate::core::ContainerName;
use crate::paths::{Paths, directories};
use crate::sandbox::ParentDirMode;

/// Maximum size of the record of a container's exclusive processors, in bytes.
const CORES_BYTES: usize = 64 * 1024;
/// The names of a layer's files and of its metadata, in its directory.
const ROOT: &str = "root";
const LAYER_FILE: &str = "layer.json";
const LAYER_FILE_BYTES: usize = 4_096;

/// Creates an agent's directories, and gives it its own files that an earlier run as root has left.
pub(super) fn prepare(paths: &Paths, owner: HostUser) -> Result<(), (PathBuf, io::Error)> {
    let make = |path: &Path, mode: u32| {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(mode).create(path);
        made.map_err(at(path))
    };
    // Tasks of other users can traverse to their sandboxes; everything next to these is accessible
    // only to the agent.
    make(paths.root(), 0o711)?;
    make(&paths.containers(), 0o700)?;
    make(&paths.sandboxes(), 0o711)?;
    if owner == HostUser::current() {
        return close(paths.root()).map_err(at(paths.root()));
    }
    // The directory itself last: then the agent can take no name in it.
    let roots = [
        (paths.containers(), 0o750),
        (paths.sandboxes(), 0o751),
        (paths.groups(), 0o750),
        (paths.images(), 0o750),
        (paths.image_layers(), 0o750),
        (paths.executor_sockets(), 0o700),
        (paths.disks(), 0o711),
        (paths.cni_records(), 0o700),
        (paths.root().to_owned(), 0o1771),
    ];
    for (path, mode) in &roots {
        make(path, *mode)?;
        keep_for_root(path, *mode, owner).map_err(at(path))?;
    }
    for name in ["journal", "journal.next", "lock"] {
        let path = paths.root().join(name);
        take_over(CWD, &path, owner).map_err(at(&path))?;
    }
    let images = ["blobs", "records", "leases"].map(|name| paths.images().join(name));
    for path in images.into_iter().chain([paths.cache(), paths.audit()]) {
        make(&path, 0o700)?;
        take_over_directory(&path, owner).map_err(at(&path))?;
    }
    grant_sandboxes(paths, owner)?;
    for (above, mode) in [(paths.containers(), 0o755), (paths.image_layers(), 0o700)] {
        for directory in directories(&above) {
            let changed = fs::set_permissions(&directory, Permissions::from_mode(mode));
            changed.map_err(at(&directory))?;
        }
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> (PathBuf, io::Error) + use<> {
    let path = path.to_owned();
    move |error| (path, error)
}

/// Lets the agent list the directories of tasks and groups that are there already.
fn grant_sandboxes(paths: &Paths, owner: HostUser) -> Result<(), (PathBuf, io::Error)> {
    let above = ParentDirMode::of(owner);
    for (path, above) in [
        (paths.sandboxes(), above),
        (paths.groups(), above.without_others()),
    ] {
        let frameworks = directories(&path);
        for directory in frameworks
            .iter()
            .flat_map(|path| directories(path))
            .chain(frameworks.clone())
        {
            above.grant_listing(&directory).map_err(at(&directory))?;
        }
    }
    let tasks = directories(&paths.sandboxes())
        .into_iter()
        .flat_map(|framework| directories(&framework));
    for sandbox in tasks.flat_map(|task| directories(&task)) {
        open_sandbox(&sandbox, owner).map_err(at(&sandbox))?;
    }
    Ok(())
}

/// Gives a sandbox of a user of the host to the agent's group, which may list it. It is from an
/// agent that was root: in another isolation mode, or in one of an earlier release.
fn open_sandbox(path: &Path, owner: HostUser) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty())?;
    if (FIRST_HOST_ID..END_HOST_ID).contains(&fstat(&directory)?.st_uid) {
        return Ok(());
    }
    let group = Gid::from_raw(owner.gid);
    Ok(chownat(
        &directory,
        "",
        None,
        Some(group),
        AtFlags::EMPTY_PATH,
    )?)
}

/// Gives a directory of root's to the agent's group. Rejects every other file.
fn keep_for_root(path: &Path, mode: u32, owner: HostUser) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty())?;
    if fstat(&directory)?.st_uid != 0 {
        let why = "it belongs to another user than root; remove it, or move it away";
        return Err(io::Error::other(why));
    }
    let group = Gid::from_raw(owner.gid);
    chownat(&directory, "", None, Some(group), AtFlags::EMPTY_PATH)?;
    Ok(rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))?)
}

/// Takes a directory back from an agent that ran with a broker.
fn close(path: &Path) -> io::Result<()> {
    const SHARED: u32 = 0o1020;
    let mode = fs::metadata(path)?.permissions().mode();
    if !nix::unistd::geteuid().is_root() || mode & SHARED != SHARED {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(0o711))
}

/// Gives root's own regular file to the agent. A file with another hard link may belong to any
/// user.
fn take_over(at: impl AsFd, path: impl rustix::path::Arg, owner: HostUser) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(at, path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let found = fstat(&file)?;
    let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    if is_file && found.st_nlink == 1 && found.st_uid == 0 {
        set_owner(&file, owner)?;
    }
    Ok(())
}

fn set_owner(file: &OwnedFd, owner: HostUser) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    Ok(chownat(
        file,
        "",
        Some(uid),
        Some(gid),
        AtFlags::EMPTY_PATH,
    )?)
}

/// Gives a directory of root's and the regular files in it to the agent.
fn take_over_directory(path: &Path, owner: HostUser) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty())?;
    if fstat(&directory)?.st_uid != 0 {
        // Files that were created since are the agent's own.
        return Ok(());
    }
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            take_over(&directory, entry.file_name(), owner)?;
        }
    }
    // Last: after an interruption the whole step is repeated.
    set_owner(&directory, owner)
}

/// Creates the state directory of a container, which its agent reads and its supervisor writes.
pub(super) fn make_container(paths: &Paths, name: ContainerName) -> Result<(), String> {
    let directory = paths.container(name);
    let made = DirBuilder::new()
        .mode(0o755)
        .recursive(true)
        .create(&directory);
    made.map_err(|error| {
        let (directory, remedy) = (directory.display(), remedy::of_failed_write(&error));
        format!("cannot make {directory}: {error}; {remedy}")
    })?;
    crash_point!("launch.directory-made");
    Ok(())
}

pub(super) fn remove(directory: &Path) -> io::Result<()> {
    remove_dir_all(directory)
}

pub(super) fn record_cpus(paths: &Paths, name: ContainerName, text: &str) -> Result<(), String> {
    let path = paths.cpuset(name);
    let is_list = |byte: u8| byte.is_ascii_digit() || byte == b',';
    if text.len() > CORES_BYTES || !text.bytes().all(is_list) {
        return Err("invalid list of processors".to_owned());
    }
    // A crash that leaves the list truncated leaves a container that was not started.
    fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Returns the directory for the files of a layer that is being created.
pub(super) fn layer_root(paths: &Paths, draft: &str) -> Result<PathBuf, String> {
    match is_draft(draft) {
        true => Ok(paths.image_layers().join(draft).join(ROOT)),
        false => Err(format!("{draft:?} is not the draft of a layer")),
    }
}

/// Changes the directory of layers. Files of layers belong to all users of their images, root among
/// them.
pub(super) fn change_layers(paths: &Paths, change: LayerChange) -> io::Result<()> {
    let layers = paths.image_layers();
    let plain = |name: String| match is_draft(&name) || is_digest(&name) {
        true => Ok(layers.join(name)),
        false => Err(io::Error::other(format!("{name:?} is not a layer"))),
    };
    match change {
        LayerChange::Create { draft } => {
            let directory = plain(draft)?;
            // Its set-user-id files belong to users of the host.
            DirBuilder::new().mode(0o700).create(&directory)?;
            let root = directory.join(ROOT);
            DirBuilder::new().mode(0o755).create(&root)?;
            fs::set_permissions(&root, Permissions::from_mode(0o755))
        }
        LayerChange::Describe { draft, json } if json.len() <= LAYER_FILE_BYTES => {
            fs::write(plain(draft)?.join(LAYER_FILE), json)
        }
        LayerChange::Describe { .. } => Err(io::Error::other("the description is too long")),
        LayerChange::Rename { from, to } => fs::rename(plain(from)?, plain(to)?),
        LayerChange::Remove { name } => remove_tree::remove(&plain(name)?),
    }
}

/// Returns the metadata of a layer, or `None` if it has no directory for its files.
pub(super) fn layer_metadata(paths: &Paths, name: &str) -> io::Result<Option<Vec<u8>>> {
    let layer = paths.image_layers().join(name);
    match is_digest(name) && layer.join(ROOT).is_dir() {
        true => fs::read(layer.join(LAYER_FILE)).map(Some),
        false => Ok(None),
    }
}

/// Removes directories of tasks and of frameworks from which an interrupted run of the agent had
/// removed the last sandbox.
pub(super) fn remove_empty(paths: &Paths) {
    for path in [paths.sandboxes(), paths.groups()] {
        for framework in directories(&path) {
            for task in directories(&framework) {
                // A non-empty directory stays, and so does its framework's.
                let _ = fs::remove_dir(task);
            }
            let _ = fs::remove_dir(framework);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn layers_of_an_earlier_release_are_closed() {
        if !nix::unistd::geteuid().is_root() {
            return argosy_testing::skip("needs root");
        }
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let layer = paths.image_layers().join("a".repeat(64));
        fs::create_dir_all(layer.join(ROOT)).unwrap();
        fs::set_permissions(&layer, Permissions::from_mode(0o711)).unwrap();
        prepare(&paths, HostUser::agent()).unwrap();
        assert_eq!((mode(&layer), mode(&layer.join(ROOT))), (0o700, 0o755));
    }

    #[test]
    fn an_agent_without_root_can_list_sandboxes_of_an_agent_that_was_root() {
        if !nix::unistd::geteuid().is_root() {
            return argosy_testing::skip("needs root");
        }
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let tasks = paths.sandboxes().join("framework-1/web");
        // Of root, of another user of the host, and of a container.
        let sandboxes = [("1-5-0", 0), ("1-6-0", 1), ("1-7-0", FIRST_HOST_ID)];
        for (name, user) in sandboxes {
            let sandbox = tasks.join(name);
            fs::create_dir_all(&sandbox).unwrap();
            chown(&sandbox, Some(user), Some(user)).unwrap();
            fs::set_permissions(&sandbox, Permissions::from_mode(0o750)).unwrap();
        }
        let owner = HostUser::agent();
        prepare(&paths, owner).unwrap();
        let found = sandboxes.map(|(name, _)| {
            let path = tasks.join(name);
            let metadata = fs::metadata(&path).unwrap();
            (metadata.uid(), metadata.gid(), mode(&path))
        });
        let container = (FIRST_HOST_ID, FIRST_HOST_ID, 0o750);
        assert_eq!(
            found,
            [(0, owner.gid, 0o750), (1, owner.gid, 0o750), container]
        );
    }

    #[test]
    fn the_next_start_completes_interrupted_removals() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let sandboxes = paths.sandboxes();
        let kept = sandboxes.join("framework-1/web/1-5-0");
        for made in [
            &kept,
            &sandboxes.join("framework-1/gone"),
            &sandboxes.join("framework-2/gone"),
        ] {
            fs::create_dir_all(made).unwrap();
        }
        remove_empty(&paths);
        let left = |path: &Path| directories(path).len();
        assert_eq!(
            (left(&sandboxes), left(&sandboxes.join("framework-1"))),
            (1, 1)
        );
        assert!(kept.exists());
    }

    #[test]
    fn layer_changes_accept_only_plain_names() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        fs::create_dir_all(paths.image_layers()).unwrap();
        let kept = directory.path().join("kept");
        fs::create_dir(&kept).unwrap();
        let digest = "a".repeat(64);
        let make = |draft: &str| {
            let draft = draft.to_owned();
            change_layers(&paths, LayerChange::Create { draft })
        };
        make(".draft-1").unwrap();
        assert_eq!(layer_metadata(&paths, &digest).unwrap(), None);
        let (draft, json) = (".draft-1".to_owned(), b"{}".to_vec());
        change_layers(&paths, LayerChange::Describe { draft, json }).unwrap();
        let (from, to) = (".draft-1".to_owned(), digest.clone());
        change_layers(&paths, LayerChange::Rename { from, to }).unwrap();
        let layer = paths.image_layers().join(&digest);
        assert!(layer.join("root").is_dir());
        let metadata = layer_metadata(&paths, &digest).unwrap();
        assert_eq!(metadata.as_deref(), Some(&b"{}"[..]));
        // A user of the host could execute its set-user-id files.
        assert_eq!(mode(&layer), 0o700);
        for name in [
            "../../kept",
            "..",
            ".",
            "",
            ".draft-",
            ".draft-1/x",
            "/etc",
            "kept",
        ] {
            make(name).unwrap_err();
            layer_root(&paths, name).unwrap_err();
            assert_eq!(layer_metadata(&paths, name).unwrap(), None);
            let name = name.to_owned();
            change_layers(&paths, LayerChange::Remove { name: name.clone() }).unwrap_err();
            let to = digest.clone();
            change_layers(&paths, LayerChange::Rename { from: name, to }).unwrap_err();
        }
        assert!(kept.exists());
        let name = digest;
        change_layers(&paths, LayerChange::Remove { name }).unwrap();
        assert!(directories(&paths.image_layers()).is_empty());
    }

    #[test]
    fn only_processor_lists_are_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let name = "1-2-3".parse().unwrap();
        make_container(&paths, name).unwrap();
        record_cpus(&paths, name, "2,3").unwrap();
        for text in ["2\n", "x", &"1,".repeat(CORES_BYTES)] {
            record_cpus(&paths, name, text).unwrap_err();
        }
        let noted = fs::read_to_string(paths.cpuset(name)).unwrap();
        assert_eq!(noted, "2,3");
    }
}
