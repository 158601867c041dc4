//! The folders of an agent that its broker makes, and whose they are.
//!
//! ```text
//! <directory>/          root's; the agent may add files, and remove none but its own (sticky)
//!   containers/ sandboxes/ groups/ images/ images/layers/ and what is in them down to a task's own files
//!                       root's; the agent may list them
//!   executors/ disks/ cni/ probe/            root's
//!   journal lock cache/ images/blobs/ images/records/ images/leases/    the agent's
//! ```
//! So nothing on the way to a file that root acts on is the agent's to replace. Where the agent is not divided, all of it
//! belongs to one user.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use argosy_isolation::crash_points;
use argosy_isolation::division::HostUser;
use argosy_isolation::remove_tree::remove_folder;
use argosy_proto::remedy;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, openat};

use super::guard::{is_digest, is_draft};
use super::request::LayerChange;
use crate::core::ContainerName;
use crate::paths::Paths;

/// In the hand-off folder of a container that has processors of its own: their numbers, as `2,3`.
pub(crate) const CORES: &str = "cores";
/// The most that is noted of them, in bytes.
const CORES_BYTES: usize = 64 * 1024;
/// The files of a layer, and what is known of it, in its own folder.
const ROOT: &str = "root";
const LAYER_FILE: &str = "layer.json";
const LAYER_FILE_BYTES: usize = 4_096;

/// Folders above those of tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Above {
    mode: u32,
    /// Who may list them.
    group: Option<u32>,
}

impl Above {
    /// For an agent whose files are this user's.
    pub(crate) fn of(owner: HostUser) -> Self {
        let group = (owner != HostUser::own()).then_some(owner.gid);
        Self {
            mode: if group.is_some() { 0o751 } else { 0o711 },
            group,
        }
    }

    /// The same that no other user passes through.
    pub(crate) fn closed(self) -> Self {
        let mode = if self.group.is_some() { 0o750 } else { 0o700 };
        Self { mode, ..self }
    }

    /// For an agent that is not divided.
    #[cfg(test)]
    pub(crate) fn own() -> Self {
        Self::of(HostUser::own())
    }

    /// Makes a folder and those above it. One that is there stays as it is.
    pub(crate) fn make(self, path: &Path) -> io::Result<()> {
        let above = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        match DirBuilder::new().mode(self.mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make(above)?;
                return self.make(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            made => made?,
        }
        self.let_list(path)
    }

    fn let_list(self, path: &Path) -> io::Result<()> {
        let Some(group) = self.group else {
            return Ok(());
        };
        chown(path, Some(0), Some(group))?;
        fs::set_permissions(path, Permissions::from_mode(self.mode))
    }
}

/// Makes an agent's folders, and gives it what an earlier life as root has left of its own files.
pub(super) fn prepare(paths: &Paths, owner: HostUser) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| (path, error)
    };
    let make = |path: &Path, mode: u32| {
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(mode)
            .create(path)
            .map_err(at(path))
    };
    // Tasks of other users pass through to their sandboxes; what is beside them is the agent's alone.
    make(paths.root(), 0o711)?;
    make(&paths.containers(), 0o700)?;
    make(&paths.sandboxes(), 0o711)?;
    if owner == HostUser::own() {
        return close(paths.root()).map_err(at(paths.root()));
    }
    // The directory itself last: then no name in it is the agent's to take.
    let roots = [
        (paths.containers(), 0o750),
        (paths.sandboxes(), 0o751),
        (paths.groups(), 0o750),
        (paths.images(), 0o750),
        (layers(paths), 0o750),
        (paths.executor_places(), 0o700),
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
    for path in images.into_iter().chain([paths.cache()]) {
        make(&path, 0o700)?;
        take_over_folder(&path, owner).map_err(at(&path))?;
    }
    let above = Above::of(owner);
    for (path, above) in [(paths.sandboxes(), above), (paths.groups(), above.closed())] {
        let frameworks = folders(&path);
        for folder in frameworks
            .iter()
            .flat_map(|path| folders(path))
            .chain(frameworks.clone())
        {
            above.let_list(&folder).map_err(at(&folder))?;
        }
    }
    for folder in folders(&paths.containers()) {
        let readable = fs::set_permissions(&folder, Permissions::from_mode(0o755));
        readable.map_err(at(&folder))?;
    }
    Ok(())
}

/// A folder of root's that the agent's group may use. Nothing else is taken for one.
fn keep_for_root(path: &Path, mode: u32, owner: HostUser) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags, Mode::empty())?;
    if fstat(&folder)?.st_uid != 0 {
        let why = "it belongs to another user than root; remove it, or move it away";
        return Err(io::Error::other(why));
    }
    let group = Gid::from_raw(owner.gid);
    chownat(&folder, "", None, Some(group), AtFlags::EMPTY_PATH)?;
    Ok(rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?)
}

/// Takes a directory back from an agent that was divided.
fn close(path: &Path) -> io::Result<()> {
    const SHARED: u32 = 0o1020;
    let mode = fs::metadata(path)?.permissions().mode();
    if !nix::unistd::geteuid().is_root() || mode & SHARED != SHARED {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(0o711))
}

/// Gives root's own plain file to the agent. One that has another name elsewhere may be anybody's.
fn take_over(at: impl AsFd, path: impl rustix::path::Arg, owner: HostUser) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(at, path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let found = fstat(&file)?;
    let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    if is_file && found.st_nlink == 1 && found.st_uid == 0 {
        give(&file, owner)?;
    }
    Ok(())
}

fn give(file: &OwnedFd, owner: HostUser) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    Ok(chownat(
        file,
        "",
        Some(uid),
        Some(gid),
        AtFlags::EMPTY_PATH,
    )?)
}

/// A folder of root's and the plain files in it.
fn take_over_folder(path: &Path, owner: HostUser) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags, Mode::empty())?;
    if fstat(&folder)?.st_uid != 0 {
        // What came into it since is the agent's own.
        return Ok(());
    }
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            take_over(&folder, entry.file_name(), owner)?;
        }
    }
    // Last: where this was cut off it is done again.
    give(&folder, owner)
}

/// The hand-off folder of a container, into which an agent looks and its supervisor writes.
pub(super) fn make_container(paths: &Paths, name: ContainerName) -> Result<(), String> {
    let folder = paths.container(name);
    let made = DirBuilder::new()
        .mode(0o755)
        .recursive(true)
        .create(&folder);
    made.map_err(|error| {
        let (folder, remedy) = (folder.display(), remedy::of_failed_write(&error));
        format!("cannot make {folder}: {error}; {remedy}")
    })?;
    crash_points::passed("launch.folder-made");
    Ok(())
}

pub(super) fn remove(folder: &Path) -> io::Result<()> {
    remove_folder(folder)
}

pub(super) fn note_cores(paths: &Paths, name: ContainerName, text: &str) -> Result<(), String> {
    let path = paths.container(name).join(CORES);
    let is_list = |byte: u8| byte.is_ascii_digit() || byte == b',';
    if text.len() > CORES_BYTES || !text.bytes().all(is_list) {
        return Err("that is no list of processors".to_owned());
    }
    fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// The folder of layers.
pub(super) fn layers(paths: &Paths) -> PathBuf {
    paths.images().join("layers")
}

/// The files of a layer that is being made.
pub(super) fn layer_root(paths: &Paths, draft: &str) -> Result<PathBuf, String> {
    match is_draft(draft) {
        true => Ok(layers(paths).join(draft).join(ROOT)),
        false => Err(format!("{draft:?} is no layer that is being made")),
    }
}

/// Files of layers belong to all users of their images, root among them.
pub(super) fn change_layers(paths: &Paths, change: LayerChange) -> io::Result<()> {
    let layers = layers(paths);
    let plain = |name: String| match is_draft(&name) || is_digest(&name) {
        true => Ok(layers.join(name)),
        false => Err(io::Error::other(format!("{name:?} is no layer"))),
    };
    match change {
        LayerChange::Make { draft } => {
            let folder = plain(draft)?;
            DirBuilder::new().mode(0o711).create(&folder)?;
            let root = folder.join(ROOT);
            DirBuilder::new().mode(0o755).create(&root)?;
            fs::set_permissions(&root, Permissions::from_mode(0o755))
        }
        LayerChange::Describe { draft, json } if json.len() <= LAYER_FILE_BYTES => {
            fs::write(plain(draft)?.join(LAYER_FILE), json)
        }
        LayerChange::Describe { .. } => Err(io::Error::other("the description is too long")),
        LayerChange::Rename { from, to } => fs::rename(plain(from)?, plain(to)?),
        LayerChange::Remove { name } => {
            let path = plain(name)?;
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(error) => Err(error),
            }
        }
    }
}

/// Folders of tasks and of frameworks from which a life of the agent that was cut off had removed the last sandbox.
pub(super) fn clear_emptied(paths: &Paths) {
    for path in [paths.sandboxes(), paths.groups()] {
        for framework in folders(&path) {
            for task in folders(&framework) {
                // Whatever is in it keeps it, and its framework's.
                let _ = fs::remove_dir(task);
            }
            let _ = fs::remove_dir(framework);
        }
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    crate::gc::folders(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_removal_that_was_cut_off_leaves_goes_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path());
        let sandboxes = paths.sandboxes();
        let kept = sandboxes.join("framework-1/web/1-5-0");
        for made in [
            &kept,
            &sandboxes.join("framework-1/gone"),
            &sandboxes.join("framework-2/gone"),
        ] {
            fs::create_dir_all(made).unwrap();
        }
        clear_emptied(&paths);
        let left = |path: &Path| folders(path).len();
        assert_eq!(
            (left(&sandboxes), left(&sandboxes.join("framework-1"))),
            (1, 1)
        );
        assert!(kept.exists());
    }

    #[test]
    fn layers_are_changed_by_names_that_lead_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path());
        fs::create_dir_all(layers(&paths)).unwrap();
        let kept = folder.path().join("kept");
        fs::create_dir(&kept).unwrap();
        let digest = "a".repeat(64);
        let make = |draft: &str| {
            let draft = draft.to_owned();
            change_layers(&paths, LayerChange::Make { draft })
        };
        make(".draft-1").unwrap();
        let (from, to) = (".draft-1".to_owned(), digest.clone());
        change_layers(&paths, LayerChange::Rename { from, to }).unwrap();
        assert!(layers(&paths).join(&digest).join("root").is_dir());
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
            let name = name.to_owned();
            change_layers(&paths, LayerChange::Remove { name: name.clone() }).unwrap_err();
            let to = digest.clone();
            change_layers(&paths, LayerChange::Rename { from: name, to }).unwrap_err();
        }
        assert!(kept.exists());
        let name = digest;
        change_layers(&paths, LayerChange::Remove { name }).unwrap();
        assert!(folders(&layers(&paths)).is_empty());
    }

    #[test]
    fn only_lists_of_processors_are_noted() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path());
        let name = "1-2-3".parse().unwrap();
        make_container(&paths, name).unwrap();
        note_cores(&paths, name, "2,3").unwrap();
        for text in ["2\n", "x", &"1,".repeat(CORES_BYTES)] {
            note_cores(&paths, name, text).unwrap_err();
        }
        let noted = fs::read_to_string(paths.container(name).join(CORES)).unwrap();
        assert_eq!(noted, "2,3");
    }
}
