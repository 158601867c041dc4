//! Generated files that a container sees in place of those of its root, such as `/etc/hosts`.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::{
    MountError, TAME, attach, failed, file_system, make_file, make_folder, restrict, restrict_one,
    take,
};
use crate::spec::GeneratedFile;

/// Mounts a container's generated files over those of its root. Their source is not accessible:
/// `/tmp` is mounted over it.
pub(super) fn show_own_files(
    root: BorrowedFd<'_>,
    files: &[GeneratedFile],
) -> Result<(), MountError> {
    if files.is_empty() {
        return Ok(());
    }
    let folder = file_system("tmpfs", &[("mode", "755"), ("size", "1m")], TAME)?;
    let place = make_folder(root, Path::new("tmp"))?;
    attach(folder.as_fd(), place.as_fd(), "")?;
    for (number, file) in files.iter().enumerate() {
        let name = number.to_string();
        let mut made = fs::File::from(make_file(folder.as_fd(), Path::new(&name))?);
        let shown = file.path.display();
        // Independent of the agent's umask.
        made.set_permissions(fs::Permissions::from_mode(0o644))
            .and_then(|()| made.write_all(file.text.as_bytes()))
            .map_err(failed(format!("write {shown}")))?;
        drop(made);
        let tree = take(folder.as_fd(), Path::new(&name))?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        restrict(tree.as_fd(), TAME | attributes)?;
        let inside = file.path.strip_prefix("/").unwrap_or(&file.path);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Links on the path cannot lead outside the root; a link at its end is covered itself.
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let place = match openat2(root, inside, flags, Mode::empty(), within) {
            // An image may lack it; below the host's directories nothing can be created.
            Err(Errno::NOENT) => make_file(root, inside)?,
            found => found.map_err(failed(format!("find {shown}, to put its own over it")))?,
        };
        attach(tree.as_fd(), place.as_fd(), "")?;
    }
    restrict_one(folder.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)
}
