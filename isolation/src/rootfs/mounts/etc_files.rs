//! Generated files that a container sees in place of those of its root, such as `/etc/hosts`.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::rootfs::mount_calls::{
    DEFAULT_ATTRIBUTES, MountError, attach, clone_mount, create_dir, create_file, file_system,
    mount_error, restrict, restrict_one,
};
use crate::spec::GeneratedFile;

/// Mounts a container's generated files over those of its root. Their source is not accessible:
/// `/tmp` is mounted over it.
pub(super) fn mount_generated_files(
    root: BorrowedFd<'_>,
    files: &[GeneratedFile],
) -> Result<(), MountError> {
    if files.is_empty() {
        return Ok(());
    }
    let directory = file_system(
        "tmpfs",
        &[("mode", "755"), ("size", "1m")],
        DEFAULT_ATTRIBUTES,
    )?;
    let place = create_dir(root, Path::new("tmp"))?;
    attach(directory.as_fd(), place.as_fd(), "")?;
    for (number, file) in files.iter().enumerate() {
        let name = number.to_string();
        let mut made = fs::File::from(create_file(directory.as_fd(), Path::new(&name))?);
        let shown = file.path.display();
        // Independent of the agent's umask.
        made.set_permissions(fs::Permissions::from_mode(0o644))
            .and_then(|()| made.write_all(file.text.as_bytes()))
            .map_err(mount_error(format!("write {shown}")))?;
        drop(made);
        let tree = clone_mount(directory.as_fd(), Path::new(&name))?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        restrict(tree.as_fd(), DEFAULT_ATTRIBUTES | attributes)?;
        let inside = file.path.strip_prefix("/").unwrap_or(&file.path);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Links on the path cannot lead outside the root; a link at its end is covered itself.
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let place = match openat2(root, inside, flags, Mode::empty(), within) {
            // An image may lack it; below the host's directories nothing can be created.
            Err(Errno::NOENT) => create_file(root, inside)?,
            found => found.map_err(mount_error(format!("find {shown}, to put its own over it")))?,
        };
        attach(tree.as_fd(), place.as_fd(), "")?;
    }
    restrict_one(directory.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)
}
