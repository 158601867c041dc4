//! The masters' disks: mounting, and unmounting of one that has failed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::time::Instant;

/// Interval of retries.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Returns the device of a master's disk, counted from 1.
pub(super) fn device(disk: u64) -> PathBuf {
    let letter = char::from(b'a' + u8::try_from(disk - 1).expect("there are few disks"));
    format!("/dev/vd{letter}").into()
}

/// Returns its mount point.
pub(super) fn directory(disk: u64) -> PathBuf {
    format!("/disks/{disk}").into()
}

/// Mounts a device. A device that cannot be read may have no power yet, and is retried until the
/// timeout.
pub(super) async fn attach(device: &Path, disk: u64, timeout: Duration) -> anyhow::Result<()> {
    let directory = directory(disk);
    std::fs::create_dir_all(&directory)?;
    let deadline = Instant::now() + timeout;
    loop {
        let (device, directory, again) = (device.to_owned(), directory.clone(), device.to_owned());
        let mounted = tokio::task::spawn_blocking(move || {
            let none = None::<&str>;
            mount(
                Some(&device),
                &directory,
                Some("ext4"),
                MsFlags::empty(),
                none,
            )
        });
        match mounted.await? {
            Ok(()) => return Ok(()),
            Err(nix::errno::Errno::EIO) if Instant::now() < deadline => {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            // The cut tore a block of its journal. Linux before 6.18 requires a file system check
            // first, as hosts run it at boot.
            Err(nix::errno::Errno::EUCLEAN) if Instant::now() < deadline => check(&again).await?,
            Err(error) => bail!("cannot mount disk {disk}: {error}"),
        }
    }
}

/// Checks a file system as at the boot of a host. An error that needs an operator's decision is
/// returned.
async fn check(device: &Path) -> anyhow::Result<()> {
    let mut command = tokio::process::Command::new("e2fsck");
    let checked = command.arg("-p").arg(device).output().await;
    let checked = checked.context("cannot start e2fsck")?;
    let reported = String::from_utf8_lossy(&checked.stdout);
    eprintln!("{}", reported.trim_end());
    match checked.status.code() {
        Some(0 | 1) => Ok(()),
        code => bail!("e2fsck -p {}: code {code:?}, {reported}", device.display()),
    }
}

/// Unmounts a disk completely. Data that could not be written is dropped.
pub(super) async fn detach(disk: u64, timeout: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let directory = directory(disk);
        let gone = tokio::task::spawn_blocking(move || umount2(&directory, MntFlags::empty()));
        match gone.await? {
            Ok(()) => return Ok(()),
            Err(nix::errno::Errno::EBUSY) if Instant::now() < deadline => {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            Err(error) => bail!("cannot unmount disk {disk}: {error}"),
        }
    }
}

/// Returns the number of sectors of a block device.
pub(super) fn sectors(device: &Path) -> anyhow::Result<u64> {
    let name = device.file_name().context("a device has a name")?;
    let file = Path::new("/sys/class/block").join(name).join("size");
    let text = std::fs::read_to_string(&file);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.trim().parse()?)
}
