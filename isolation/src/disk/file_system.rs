//! A separate file system for one container, in a file: writes beyond its size fail.
//!
//! ```text
//! <directory>/file   ext4, as large as the limit; uses host disk only for blocks that were written
//! <directory>/root/  its mount point, through a loop device that is detached with its last mount
//!   sandbox/         bind mounted at the sandbox
//!   changes/         the container's changes to its image, if it has one
//!   group/           shared with its task group, if it is the first task of one
//! ```
//! There is no journal: the file system does not outlive the host's boot, so it is never repaired.
//! Its creator can crash after every step: [`FileSystem::remove`] removes whatever exists.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use argosy_host::{child, sys};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{DiskError, DiskUsage, disk_error};
use argosy_host::crash_point;

/// The minimum size, in bytes: a smaller file system has no space for its metadata.
pub const FEWEST_BYTES: u64 = 1 << 20;

/// The block size, in bytes; also the unit in which a loop device writes past the page cache.
const BLOCK_BYTES: u32 = 4_096;
/// The number of bytes per inode.
const BYTES_PER_INODE: &str = "16384";
/// The maximum space reserved for host root, in bytes, so that the last output of a container with
/// a full disk is still stored. The reserve is a twentieth of the size, up to this value.
const RESERVED_BYTES: u64 = 16 << 20;
/// No journal and no space for resizing. Metadata is never zeroed, because a new file is all
/// zeroes: this requires group checksums.
const FEATURES: &str = "^has_journal,^resize_inode,extent,metadata_csum";
const OPTIONS: &str = "lazy_itable_init=1,nodiscard";
/// Freed blocks are returned to the host immediately, and no kernel thread initializes inode tables
/// later.
const MOUNT_OPTIONS: &str = "discard,noinit_itable";

const CONTROL: &str = "/dev/loop-control";
/// The paths of the program that creates file systems.
pub const MKFS_PATHS: [&str; 2] = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"];
/// The timeout for creating one, which writes only metadata: the same as for other host programs.
const FORMAT_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of attempts to get a loop device when another process takes the free one first.
const TRIES: u32 = 64;

/// The file system of one container.
#[derive(Debug, Clone)]
pub struct FileSystem {
    directory: PathBuf,
}

impl FileSystem {
    /// Returns the file system in this directory, which need not exist yet.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self {
            directory: dir.to_owned(),
        }
    }

    /// Checks whether this host supports such file systems.
    ///
    /// # Errors
    /// A message with its remedy.
    pub fn supported() -> Result<(), String> {
        mkfs().map(drop)?;
        let control = File::open(CONTROL).map_err(|error| {
            format!("{CONTROL} cannot be opened ({error}): this host needs loop devices; load the module loop")
        })?;
        sys::disk::free_loop_device(control.as_fd())
            .map(drop)
            .map_err(|errno| {
                format!("{CONTROL} gives no loop device ({errno}): load the module loop")
            })
    }

    fn file(&self) -> PathBuf {
        self.directory.join("file")
    }

    fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Returns the directory that is mounted at the sandbox.
    #[must_use]
    pub fn sandbox(&self) -> PathBuf {
        self.root().join("sandbox")
    }

    /// Returns the directory of the container's changes to its image; its first user creates it.
    #[must_use]
    pub fn changes(&self) -> PathBuf {
        self.root().join("changes")
    }

    /// Returns the directory that the container shares with its group; its first user creates it.
    #[must_use]
    pub fn group(&self) -> PathBuf {
        self.root().join("group")
    }

    /// Whether it is mounted in this process's mount namespace.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        is_mount(&self.root())
    }

    /// Whether its sandbox is mounted at `at`.
    #[must_use]
    pub fn is_sandbox_mounted(&self, at: &Path) -> bool {
        let found = |path: &Path| fs::symlink_metadata(path).map(|data| (data.dev(), data.ino()));
        self.is_mounted()
            && matches!((found(at), found(&self.sandbox())), (Ok(one), Ok(other)) if one == other)
    }

    /// Creates and mounts it, and mounts its sandbox over the directory `at`. Blocks while some
    /// dozens of kilobytes are written.
    ///
    /// # Errors
    /// The step that failed; [`Self::remove`] cleans up the earlier steps.
    pub fn make(&self, bytes: u64, at: &Path) -> Result<(), DiskError> {
        if bytes < FEWEST_BYTES {
            let source = io::Error::other(format!(
                "the least is {FEWEST_BYTES}: ask for more disk, or for none"
            ));
            return Err(disk_error(format!("make a file system of {bytes} bytes"))(
                source,
            ));
        }
        self.create(bytes)?;
        crash_point!("disk.file-made");
        self.format(bytes)?;
        crash_point!("disk.formatted");
        self.mount()?;
        crash_point!("disk.mounted");
        self.mount_sandbox(at)
    }

    /// Mounts a file system again that is mounted in another mount namespace: that of an earlier
    /// agent, whose containers may still use it. Both see the same file system. Returns false if it
    /// is not mounted anywhere.
    ///
    /// # Errors
    /// The step that failed. The file system is unchanged, or mounted but not visible at `at`.
    pub fn recover(&self, at: &Path) -> Result<bool, DiskError> {
        let Some((device, path)) = self.device()? else {
            return Ok(false);
        };
        if !self.is_mounted() {
            self.mount_device(&path)?;
        }
        drop(device);
        self.mount_sandbox(at)?;
        Ok(true)
    }

    fn mount_sandbox(&self, at: &Path) -> Result<(), DiskError> {
        let bind = MsFlags::MS_BIND;
        mount(Some(&self.sandbox()), at, None::<&str>, bind, None::<&str>).map_err(disk_error(
            format!("mount a file system at {}", at.display()),
        ))?;
        crash_point!("disk.shown");
        Ok(())
    }

    fn mount_device(&self, device: &Path) -> Result<(), DiskError> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let options = Some(MOUNT_OPTIONS);
        mount(Some(device), &self.root(), Some("ext4"), flags, options)
            .map_err(disk_error(format!("mount {}", self.file().display())))
    }

    /// Returns the loop device of its file, in whichever mount namespace it is mounted. The device
    /// stays attached while it is open here. Fails if any loop device cannot be inspected: the
    /// result would be unknown.
    fn device(&self) -> Result<Option<(File, PathBuf)>, DiskError> {
        let Ok(file) = fs::metadata(self.file()) else {
            return Ok(None);
        };
        let what = || format!("find a loop device of {}", self.file().display());
        for entry in fs::read_dir("/sys/block").map_err(disk_error(what()))? {
            let device = entry.map_err(disk_error(what()))?;
            // Other block devices, and loop devices without a file, have no such directory.
            if !device.path().join("loop").exists() {
                continue;
            }
            let path = Path::new("/dev").join(device.file_name());
            let device = match File::open(&path) {
                // It was detached a moment ago.
                Err(error) if error.raw_os_error() == Some(libc::ENXIO) => continue,
                opened => opened.map_err(disk_error(what()))?,
            };
            let shown = sys::disk::loop_device_backing(device.as_fd());
            if shown == Ok((file.dev(), file.ino())) {
                return Ok(Some((device, path)));
            }
        }
        Ok(None)
    }

    fn create(&self, bytes: u64) -> Result<(), DiskError> {
        let what = || format!("make the file {}", self.file().display());
        let made = DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(self.root());
        made.map_err(disk_error(what()))?;
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.file());
        file.and_then(|file| file.set_len(bytes))
            .map_err(disk_error(what()))
    }

    fn format(&self, bytes: u64) -> Result<(), DiskError> {
        let what = || format!("make a file system in {}", self.file().display());
        let maker = mkfs()
            .map_err(io::Error::other)
            .map_err(disk_error(what()))?;
        let reserved = RESERVED_BYTES.min(bytes / 20) as f64 / bytes as f64;
        let mut command = Command::new(maker);
        command
            .args(["-q", "-F", "-I", "256", "-i", BYTES_PER_INODE])
            .args(["-O", FEATURES, "-E", OPTIONS])
            .args(["-b", &BLOCK_BYTES.to_string()])
            .args(["-m", &format!("{:.6}", reserved * 100.0)])
            .arg(self.file());
        let ran = child::run(&command, "", FORMAT_TIMEOUT).map_err(disk_error(what()))?;
        if ran.status.success() {
            return Ok(());
        }
        let why = ran.stderr.lines().next().unwrap_or("no error output");
        Err(disk_error(what())(io::Error::other(format!(
            "{maker} ended with {}: {why}",
            ran.status
        ))))
    }

    fn mount(&self) -> Result<(), DiskError> {
        // The device is detached when it is neither open nor mounted: this process keeps it open
        // until it is mounted.
        let (device, path) = self.attach().map_err(disk_error(format!(
            "give {} a loop device",
            self.file().display()
        )))?;
        crash_point!("disk.attached");
        self.mount_device(&path)?;
        drop(device);
        let what = || format!("mount {}", self.file().display());
        // For files that a repair finds: there is never a repair here.
        fs::remove_dir(self.root().join("lost+found")).map_err(disk_error(what()))?;
        let made = DirBuilder::new().mode(0o750).create(self.sandbox());
        made.map_err(disk_error(what()))
    }

    fn attach(&self) -> io::Result<(File, PathBuf)> {
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let file = open(&self.file())?;
        let control = File::open(CONTROL)?;
        for _ in 0..TRIES {
            let number = sys::disk::free_loop_device(control.as_fd())?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = open(&path)?;
            match sys::disk::attach_loop_device(device.as_fd(), file.as_fd(), BLOCK_BYTES) {
                Ok(()) => return Ok((device, path)),
                // Another process took the device first.
                Err(Errno::EBUSY) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::Error::other("other processes take all loop devices"))
    }

    /// Returns its usage; `None` if it does not exist.
    #[must_use]
    pub fn usage(&self) -> Option<DiskUsage> {
        if !self.is_mounted() {
            return None;
        }
        let found = rustix::fs::statvfs(self.root()).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some(DiskUsage {
            used_bytes: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
            limit_bytes: bytes(found.f_blocks),
            files: found.f_files.saturating_sub(found.f_ffree),
            files_limit: found.f_files,
        })
    }

    /// Removes whatever exists of it, and its mount at the directory `at`. Its space on the host's
    /// disk is then free, even if a process still has one of its files open or sees it in another
    /// mount namespace: all access there fails. Succeeds if nothing exists.
    ///
    /// # Errors
    /// The step that failed; the next call continues.
    pub fn remove(&self, at: &Path) -> Result<(), DiskError> {
        if !self.directory.exists() {
            return Ok(());
        }
        self.shut_down()?;
        crash_point!("disk.shut-down");
        unmount(at)?;
        crash_point!("disk.hidden");
        unmount(&self.root())?;
        crash_point!("disk.unmounted");
        let gone = |removed: io::Result<()>| match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(disk_error(format!("remove {}", self.directory.display()))),
        };
        let emptied = OpenOptions::new().write(true).open(self.file());
        gone(emptied.and_then(|file| file.set_len(0)))?;
        gone(fs::remove_file(self.file()))?;
        crash_point!("disk.file-removed");
        gone(fs::remove_dir(self.root()))?;
        gone(fs::remove_dir(&self.directory))
    }

    /// Called before its file is removed: unwritten data need not be written, and nothing is
    /// written later.
    fn shut_down(&self) -> Result<(), DiskError> {
        if !self.is_mounted() {
            let Some((_held, path)) = self.device()? else {
                return Ok(());
            };
            self.mount_device(&path)?;
        }
        let what = || format!("shut down {}", self.root().display());
        let shut_down = || -> io::Result<()> {
            let root = File::open(self.root())?;
            Ok(sys::disk::shut_down(root.as_fd())?)
        };
        match shut_down() {
            // It is shut down already.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(()),
            other => other.map_err(disk_error(what())),
        }
    }
}

/// Whether a file system is mounted there.
fn is_mount(path: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|data| data.dev()).ok();
    let above = path.parent().and_then(device);
    device(path).is_some_and(|own| above.is_some_and(|above| above != own))
}

/// Unmounts all mounts that are stacked there.
fn unmount(path: &Path) -> Result<(), DiskError> {
    while is_mount(path) {
        umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(disk_error(format!("unmount {}", path.display())))?;
    }
    Ok(())
}

fn mkfs() -> Result<&'static str, String> {
    let found = MKFS_PATHS.into_iter().find(|path| Path::new(path).exists());
    found.ok_or_else(|| {
        format!(
            "{} is missing: install the package e2fsprogs",
            MKFS_PATHS[0]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_too_small_for_its_metadata_is_rejected() {
        let world = tempfile::tempdir().unwrap();
        let directory = world.path().join("c");
        let made = FileSystem::at(&directory).make(FEWEST_BYTES - 1, world.path());
        let error = made.unwrap_err();
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert!(why.contains("ask for more disk"), "{why}");
        assert!(!directory.exists());
    }

    #[test]
    fn removal_is_idempotent_and_removes_an_unmounted_file() {
        let world = tempfile::tempdir().unwrap();
        let system = FileSystem::at(&world.path().join("c"));
        system.remove(world.path()).unwrap();
        system.create(FEWEST_BYTES).unwrap();
        assert!(!system.is_mounted() && system.usage().is_none());
        assert_eq!(fs::metadata(system.file()).unwrap().len(), FEWEST_BYTES);
        system.remove(world.path()).unwrap();
        assert!(!world.path().join("c").exists());
    }
}
