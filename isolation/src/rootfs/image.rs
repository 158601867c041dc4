//! The root of a container: the host's programs, the layers of an image, or a separate directory.
//!
//! The layers are host directories that many containers share. On disk, a file of the image's user
//! n belongs to user n. Each container gets id-mapped mounts of the layers, so that the file
//! belongs to the container's user n there. An overlay over them is mounted in the container's user
//! namespace, so its attributes are of the kind `user` (see [`crate::unpack`]). Writes go to a
//! directory of the container.

mod accounts;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use argosy_host::sys;
use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use rustix::process::fchdir;

use crate::rootfs::mount_calls::{
    DEFAULT_ATTRIBUTES, MountError, attach, clone_mount, create_dir, mount_error, restrict,
};
use crate::spec::RootFs;
use crate::spec::profile::IsolationLayers;
use crate::state_dir::{CommandOutcome, Exit};
#[cfg(feature = "fuzzing")]
pub(crate) use accounts::{find, home_of};
pub(crate) use accounts::{home, user};

/// Up to this number, the names of layers are letters and digits only, so that mount lists in the
/// container are plain text.
const PLAIN_NAMES: usize = 100;
/// The names of layers while they are mounted; names after these get a second letter.
const NAMES: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The first of the bytes that name layers beyond those that second letters can name.
const FURTHER: u8 = 0x80;
/// The temporary mount point of the container's directories.
const OWN: &str = "own";

/// The error text of a container that cannot mount an overlay.
const NO_OVERLAY: &str = "lay an overlay over the image's";

/// Whether a container did not start because no overlay can be mounted here. Its layers can be
/// copied instead ([`crate::unpack::copy_layers`]).
#[must_use]
pub fn lacks_overlay(exit: &Exit) -> bool {
    exit.outcome == CommandOutcome::NotStarted && exit.reason.contains(NO_OVERLAY)
}

/// Mounts of a container's root that are not attached yet.
pub(crate) enum RootMounts {
    Image {
        layers: Vec<OwnedFd>,
        /// The directory that holds `upper` and `work`: both must be on one mount.
        writable: OwnedFd,
        upper: String,
        work: String,
        /// The attributes of the overlay.
        attributes: MountAttrFlags,
    },
    Directory(OwnedFd),
}

impl RootMounts {
    /// Opens the mounts, as host root. Returns `None` for the host's programs, which need no such
    /// mount.
    pub(crate) fn open(
        root: &RootFs,
        first_host_id: u32,
        isolation_layers: IsolationLayers,
    ) -> Result<Option<Self>, MountError> {
        let attributes = attributes(isolation_layers);
        let image = match root {
            RootFs::Host => return Ok(None),
            RootFs::Directory(directory) => {
                let tree = clone_mount(CWD, directory)?;
                restrict(tree.as_fd(), attributes)?;
                return Ok(Some(Self::Directory(tree)));
            }
            RootFs::Image(image) => image,
        };
        let layers = image.layers.iter().map(|layer| {
            let tree = clone_mount(CWD, layer)?;
            restrict(
                tree.as_fd(),
                DEFAULT_ATTRIBUTES | MountAttrFlags::MOUNT_ATTR_RDONLY,
            )?;
            Ok(tree)
        });
        let layers = layers.collect::<Result<_, MountError>>()?;
        let holder = image.upper.parent().expect("it was checked to have one");
        let own = clone_mount(CWD, holder)?;
        restrict(own.as_fd(), DEFAULT_ATTRIBUTES)?;
        let name = |path: &Path| {
            let name = path.file_name().expect("it was checked to have a name");
            name.to_string_lossy().into_owned()
        };
        let (upper, work) = (name(&image.upper), name(&image.work));
        // Their owners are not mapped: files that container root creates there have no host user.
        let (user, group) = (Uid::from_raw(first_host_id), Gid::from_raw(first_host_id));
        for directory in [&upper, &work] {
            chownat(
                &own,
                directory,
                Some(user),
                Some(group),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(mount_error(format!(
                "give {directory} to the container's root"
            )))?;
        }
        Ok(Some(Self::Image {
            layers,
            writable: own,
            upper,
            work,
            attributes,
        }))
    }

    /// Maps the owners, so that a file of user n belongs to the container's user n. Called before
    /// init attaches the mounts.
    pub(crate) fn map_owners(&self, users: BorrowedFd<'_>) -> Result<(), MountError> {
        let mapped = match self {
            Self::Image { layers, .. } => layers.as_slice(),
            Self::Directory(directory) => std::slice::from_ref(directory),
        };
        mapped.iter().try_for_each(|tree| {
            sys::map_owners(tree.as_fd(), users).map_err(mount_error(
                "map users to the file system of the image: it must support mounts with mapped owners, as ext4, xfs, \
                 btrfs do",
            ))
        })
    }

    /// Returns the unattached root. `scaffold` is an empty file system that is attached below the
    /// old root and becomes the working directory. The mounts there for the overlay, which clones
    /// them, are left to be covered: detaching each of them would make the kernel wait for all
    /// processors each time.
    pub(crate) fn assemble(&self, scaffold: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
        fchdir(scaffold).map_err(mount_error("enter the scaffold"))?;
        match self {
            Self::Directory(directory) => {
                directory.try_clone().map_err(mount_error("keep the root"))
            }
            Self::Image {
                layers,
                writable: own,
                upper,
                work,
                attributes,
            } => overlay(scaffold, layers, own, (upper, work), *attributes),
        }
    }
}

/// Mounts an overlay over `layers`, with the two directories of `own` for changes. Paths are
/// relative to the working directory, which is `scaffold`.
fn overlay(
    scaffold: BorrowedFd<'_>,
    layers: &[OwnedFd],
    own: &OwnedFd,
    (upper, work): (&str, &str),
    attributes: MountAttrFlags,
) -> Result<OwnedFd, MountError> {
    let names = layer_names(layers.len());
    for (layer, name) in layers.iter().zip(&names) {
        let place = create_dir(scaffold, Path::new(OsStr::from_bytes(name)))?;
        attach(layer.as_fd(), place.as_fd(), "")?;
    }
    attach(
        own.as_fd(),
        create_dir(scaffold, Path::new(OWN))?.as_fd(),
        "",
    )?;
    // Paths are relative to the working directory. The first one named is the topmost layer.
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
        // Changes outlive neither the container nor a host crash. Without this option the end of
        // each container would wait until the host's disk has all dirty data of the system.
        fsconfig_set_flag(overlay.as_fd(), "volatile")?;
        fsconfig_create(overlay.as_fd())?;
        fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    let what = format!(
        "{NO_OVERLAY} {} layers: the kernel must allow it in user namespaces, and the file system of \
         {upper} must take attributes of the kind user, as ext4, xfs, btrfs do; else copy the layers into one directory",
        layers.len()
    );
    make().map_err(mount_error(what))
}

/// Returns the mount attributes: `nosuid`, unless the container has that security option.
fn attributes(isolation_layers: IsolationLayers) -> MountAttrFlags {
    if isolation_layers.privileges {
        DEFAULT_ATTRIBUTES
    } else {
        MountAttrFlags::MOUNT_ATTR_NODEV
    }
}

/// Returns this many layer names, at most `LAYERS_MAX`.
fn layer_names(count: usize) -> Vec<Vec<u8>> {
    let further = |number: usize| match count {
        0..=PLAIN_NAMES => vec![b'-', NAMES[number % NAMES.len()]],
        _ => vec![FURTHER + u8::try_from(number).expect("there are 66 at most")],
    };
    let letters = NAMES.iter().map(|letter| vec![*letter]);
    letters.chain((0..).map(further)).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::LAYERS_MAX;

    #[test]
    fn layer_names_are_unique_and_fit_into_the_mount_options() {
        for count in 1..=LAYERS_MAX {
            let mut names = layer_names(count);
            assert!(names.join(&b':').len() <= 255, "{count}");
            assert!(count > PLAIN_NAMES || names.concat().is_ascii());
            names.push(OWN.into());
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count + 1);
        }
    }
}
