//! A small disk for each agent that runs tasks: a file system in a file, mounted at its data
//! directory before its first start. A fault can fill it, and leaves the disk of the host alone.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use argosy_testbed::cluster::Cluster;
use argosy_testbed::host_tools;
use argosy_testbed::run_directory::mounts_below;

/// The size of each disk. Its services, ended tasks and output need a fraction of it.
const DISK_BYTES: u64 = 384 << 20;
const MAKE_FILE_SYSTEM: &str = "mkfs.ext4";
const LOOP_DEVICES: &str = "/dev/loop-control";

/// Checks that this host can mount files.
///
/// # Errors
/// What is missing, in words that follow "needs".
pub(super) fn check_possible() -> Result<(), String> {
    if host_tools::find(MAKE_FILE_SYSTEM).is_none() {
        return Err(format!("{MAKE_FILE_SYSTEM}, which is not installed"));
    }
    match Path::new(LOOP_DEVICES).exists() {
        true => Ok(()),
        false => Err(format!("{LOOP_DEVICES}, which this host does not have")),
    }
}

/// Gives each agent its disk. On a host that cannot mount files, all share the disk of the host.
/// They are unmounted with everything else below the directory of the run, and the kernel then
/// removes the loop devices.
///
/// # Errors
/// If a disk cannot be created or mounted.
pub(super) fn mount_all(cluster: &Cluster) -> Result<()> {
    if check_possible().is_err() {
        return Ok(());
    }
    let directory = cluster.environment.directory.path().join("disks");
    fs::create_dir_all(&directory)?;
    for place in cluster.workers() {
        let image = directory.join(cluster.members[place].name());
        mount_new(&image, &cluster.data(place))
            .with_context(|| format!("cannot mount a disk of {}", cluster.members[place].name()))?;
    }
    Ok(())
}

/// Creates a file system in the file `image`, which takes space as it fills, and mounts it.
fn mount_new(image: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    fs::File::create(image)?.set_len(DISK_BYTES)?;
    let image = image.display().to_string();
    host_tools::run(MAKE_FILE_SYSTEM, &["-q", "-F", "-m", "0", &image])?;
    let directory = directory.display().to_string();
    host_tools::run("mount", &["-o", "loop,discard", &image, &directory])?;
    Ok(())
}

/// Whether this directory is a disk of its own.
pub(super) fn is_mounted(directory: &Path) -> bool {
    mounts_below(directory)
        .iter()
        .any(|mount| mount == directory)
}
