//! The root of a container: the host's programs, the layers of an image, or a folder of its own.
//!
//! The layers are folders of the host that many containers share. On the disk a file of the image's user n belongs to
//! user n; each container gets mounts of them with mapped owners, so that there it belongs to the container's user n, and
//! lays an overlay over them in its own user namespace, whose attributes are of the kind `user` therefore
//! (see [`crate::unpack`]). What it writes goes to a folder that is its own.

mod accounts;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use rustix::process::fchdir;
use serde::{Deserialize, Serialize};

use crate::mounts::{TAME, ViewError, attach, failed, make_folder, restrict, take};
use crate::profile::Walls;
use crate::spec::SpecError;
use crate::state_dir::{Exit, Outcome};
use crate::sys;
pub(crate) use accounts::{Wanted, home, user};

/// How many layers an image may have, as many as other runtimes allow: their names must fit into one setting of 255
/// bytes, as one byte each and what separates them just do.
pub const LAYERS_MAX: usize = 128;
/// Up to so many layers have names of letters and digits alone, so that lists of mounts in the container are plain text.
const PLAINLY_NAMED: usize = 100;
/// Names of layers while they are mounted; what comes after them gets a second letter.
const NAMES: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The first of the bytes that name further layers where there are too many for second letters.
const FURTHER: u8 = 0x80;
/// Where the container's own folders are meanwhile.
const OWN: &str = "own";

/// What is said of a container that gets no overlay.
const NO_OVERLAY: &str = "lay an overlay over the image's";

/// Whether a container was not started because no overlay can be had here. Its layers can be copied instead
/// ([`crate::unpack::copy_layers`]).
#[must_use]
pub fn lacks_overlay(exit: &Exit) -> bool {
    exit.outcome == Outcome::NotStarted && exit.reason.contains(NO_OVERLAY)
}

/// What a container has for its root.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// The host's programs, read-only.
    #[default]
    Host,
    /// An image's layers, and what the container changes of them.
    Image(Image),
    /// A folder of the host that no other container has, written to in place. A file of the image's user n belongs to
    /// the host's user n there: keep it where no user of the host may look. For images whose layers were copied into one
    /// ([`crate::unpack::copy_layers`]).
    Folder(PathBuf),
}

/// An image for one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its layers as [`crate::unpack`] makes them, the lowest first; at least one, at most [`LAYERS_MAX`].
    pub layers: Vec<PathBuf>,
    /// Where the container's changes go: a new folder of its own, which gets the container's root for owner.
    pub upper: PathBuf,
    /// A new folder beside it, for the kernel's work.
    pub work: PathBuf,
}

impl Root {
    /// Refuses what the kernel would refuse later.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        let image = match self {
            Self::Host => return Ok(()),
            Self::Folder(folder) => return check_plain("root", folder),
            Self::Image(image) => image,
        };
        if !(1..=LAYERS_MAX).contains(&image.layers.len()) {
            let remedy = "give 1 to 128 layers, or copy them into one folder";
            return Err(SpecError::new(
                "layers",
                &image.layers.len().to_string(),
                remedy,
            ));
        }
        image
            .layers
            .iter()
            .try_for_each(|layer| check_plain("layers", layer))?;
        check_plain("upper", &image.upper)?;
        check_plain("work", &image.work)?;
        let beside = image.upper.parent() == image.work.parent() && image.upper != image.work;
        for (field, path) in [("upper", &image.upper), ("work", &image.work)] {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
            if !beside || name.len() > 100 || !name.iter().all(plain) {
                let remedy = "give two folders in one, with names of at most 100 letters, digits, '.', '_' or '-'";
                return Err(SpecError::new(field, &path.to_string_lossy(), remedy));
            }
        }
        Ok(())
    }
}

fn check_plain(field: &'static str, path: &Path) -> Result<(), SpecError> {
    let mut parts = path.components();
    let absolute = parts.next() == Some(Component::RootDir);
    let plain = absolute && parts.all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.parent().is_none() || path.as_os_str().as_encoded_bytes().contains(&0) {
        let remedy = "give an absolute path without '..' or NUL";
        return Err(SpecError::new(field, &path.to_string_lossy(), remedy));
    }
    Ok(())
}

/// Mounts of a container's root that are attached nowhere yet.
pub(crate) enum RootParts {
    Image {
        layers: Vec<OwnedFd>,
        /// The folder that holds the two: they must be of one mount.
        own: OwnedFd,
        upper: String,
        work: String,
        /// Of the overlay.
        attributes: MountAttrFlags,
    },
    Folder(OwnedFd),
}

impl RootParts {
    /// Opens them, as root of the host. `None`: the host's programs need no such mount.
    pub(crate) fn take(
        root: &Root,
        first_host_id: u32,
        walls: Walls,
    ) -> Result<Option<Self>, ViewError> {
        let attributes = attributes(walls);
        let image = match root {
            Root::Host => return Ok(None),
            Root::Folder(folder) => {
                let tree = take(CWD, folder)?;
                restrict(tree.as_fd(), attributes)?;
                return Ok(Some(Self::Folder(tree)));
            }
            Root::Image(image) => image,
        };
        let layers = image.layers.iter().map(|layer| {
            let tree = take(CWD, layer)?;
            restrict(tree.as_fd(), TAME | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
            Ok(tree)
        });
        let layers = layers.collect::<Result<_, ViewError>>()?;
        let holder = image.upper.parent().expect("it was checked to have one");
        let own = take(CWD, holder)?;
        restrict(own.as_fd(), TAME)?;
        let name = |path: &Path| {
            let name = path.file_name().expect("it was checked to have a name");
            name.to_string_lossy().into_owned()
        };
        let (upper, work) = (name(&image.upper), name(&image.work));
        // Their owners are not mapped: what root of the container makes there is nobody's on the host.
        let (user, group) = (Uid::from_raw(first_host_id), Gid::from_raw(first_host_id));
        for folder in [&upper, &work] {
            chownat(
                &own,
                folder,
                Some(user),
                Some(group),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(failed(format!("give {folder} to the container's root")))?;
        }
        Ok(Some(Self::Image {
            layers,
            own,
            upper,
            work,
            attributes,
        }))
    }

    /// A file of user n is one of the container's user n. Before init attaches them.
    pub(crate) fn map_owners(&self, users: BorrowedFd<'_>) -> Result<(), ViewError> {
        let mapped = match self {
            Self::Image { layers, .. } => layers.as_slice(),
            Self::Folder(folder) => std::slice::from_ref(folder),
        };
        mapped.iter().try_for_each(|tree| {
            sys::map_owners(tree.as_fd(), users).map_err(failed(
                "map users to the file system of the image: it must support mounts with mapped owners, as ext4, xfs, \
                 btrfs do",
            ))
        })
    }

    /// The root itself, not attached. `scaffold` is an empty file system that is attached below the old root and becomes the
    /// working directory. What is mounted there for the overlay, which has mounts of its own of that, is to be covered: to detach
    /// each by itself would have the kernel wait for all processors each time.
    pub(crate) fn assemble(&self, scaffold: BorrowedFd<'_>) -> Result<OwnedFd, ViewError> {
        fchdir(scaffold).map_err(failed("enter the scaffold"))?;
        match self {
            Self::Folder(folder) => folder.try_clone().map_err(failed("keep the root")),
            Self::Image {
                layers,
                own,
                upper,
                work,
                attributes,
            } => overlay(scaffold, layers, own, (upper, work), *attributes),
        }
    }
}

/// An overlay over `layers`, with the two folders of `own` for changes. From the working directory, which is `scaffold`.
fn overlay(
    scaffold: BorrowedFd<'_>,
    layers: &[OwnedFd],
    own: &OwnedFd,
    (upper, work): (&str, &str),
    attributes: MountAttrFlags,
) -> Result<OwnedFd, ViewError> {
    let names = layer_names(layers.len());
    for (layer, name) in layers.iter().zip(&names) {
        let place = make_folder(scaffold, Path::new(OsStr::from_bytes(name)))?;
        attach(layer.as_fd(), place.as_fd(), "")?;
    }
    attach(
        own.as_fd(),
        make_folder(scaffold, Path::new(OWN))?.as_fd(),
        "",
    )?;
    // Paths are looked up from the working directory. The first one named lies on top.
    let lower: Vec<_> = names.iter().rev().map(Vec::as_slice).collect();
    let settings = [
        ("lowerdir", lower.join(&b':')),
        ("upperdir", format!("{OWN}/{upper}").into_bytes()),
        ("workdir", format!("{OWN}/{work}").into_bytes()),
    ];
    let make = || {
        let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in &settings {
            fsconfig_set_string(overlay.as_fd(), *key, value.as_slice())?;
        }
        fsconfig_set_flag(overlay.as_fd(), "userxattr")?;
        // What it changes outlives neither it nor its host's death: else each end of a container would wait until the
        // host's disk has all that anybody has written to it.
        fsconfig_set_flag(overlay.as_fd(), "volatile")?;
        fsconfig_create(overlay.as_fd())?;
        fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    let what = format!(
        "{NO_OVERLAY} {} layers: the kernel must allow it in user namespaces, and the file system of \
         {upper} must take attributes of the kind user, as ext4, xfs, btrfs do; else copy the layers into one folder",
        layers.len()
    );
    make().map_err(failed(what))
}

/// Whose set-user-id files mean nothing, but to who is let off that.
fn attributes(walls: Walls) -> MountAttrFlags {
    if walls.privileges {
        TAME
    } else {
        MountAttrFlags::MOUNT_ATTR_NODEV
    }
}

/// Names for so many layers, at most [`LAYERS_MAX`].
fn layer_names(count: usize) -> Vec<Vec<u8>> {
    let further = |number: usize| match count {
        0..=PLAINLY_NAMED => vec![b'-', NAMES[number % NAMES.len()]],
        _ => vec![FURTHER + u8::try_from(number).expect("there are 66 at most")],
    };
    let letters = NAMES.iter().map(|letter| vec![*letter]);
    letters.chain((0..).map(further)).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(layers: usize) -> Image {
        Image {
            layers: (0..layers)
                .map(|number| format!("/store/{number}").into())
                .collect(),
            upper: "/c/upper".into(),
            work: "/c/work".into(),
        }
    }

    #[test]
    fn the_names_of_all_layers_fit_and_differ() {
        for count in 1..=LAYERS_MAX {
            let mut names = layer_names(count);
            assert!(names.join(&b':').len() <= 255, "{count}");
            assert!(count > PLAINLY_NAMED || names.concat().is_ascii());
            names.push(OWN.into());
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count + 1);
        }
    }

    #[test]
    fn a_root_that_cannot_be_is_refused() {
        let check = |change: fn(&mut Image)| {
            let mut image = image(2);
            change(&mut image);
            Root::Image(image).check().map_err(|error| error.field)
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|image| image.layers.clear()), Err("layers"));
        assert_eq!(
            check(|image| image.layers = super::tests::image(129).layers),
            Err("layers")
        );
        assert_eq!(
            check(|image| image.layers[0] = "relative".into()),
            Err("layers")
        );
        assert_eq!(
            check(|image| image.layers[0] = "/a/../b".into()),
            Err("layers")
        );
        assert_eq!(
            check(|image| image.work = "/elsewhere/work".into()),
            Err("upper")
        );
        assert_eq!(
            check(|image| image.work = image.upper.clone()),
            Err("upper")
        );
        assert_eq!(check(|image| image.work = "/c/a,b".into()), Err("work"));
        assert!(Root::Folder("/".into()).check().is_err());
        assert!(Root::Folder("/c/root".into()).check().is_ok());
    }
}
