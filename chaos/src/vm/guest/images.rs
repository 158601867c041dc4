//! Images of the machine's tasks: each boot adds an OCI layout to the agent's disk, whose layer is
//! unpacked for the first time under load.
//!
//! A layer has a file of random bytes, and its checksum, which each task of the image compares. So
//! the task shows whether the unpacked copy survived the cuts since.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::{AGENT_DISK, disks};

/// Size of the file of random bytes.
const CONTENT_BYTES: u64 = 1 << 20;
/// The command by which a task of an image compares its content.
pub(super) const COMPARE: &str = "cd /content && busybox sha256sum -c sums > /dev/null";

/// The images that tasks may name.
pub(super) struct TaskImages {
    newest: String,
    /// Those of earlier boots, which the agent may have unpacked.
    earlier: Vec<String>,
}

/// Returns the directory of all layouts.
pub(super) fn directory() -> PathBuf {
    disks::directory(AGENT_DISK).join("images")
}

impl TaskImages {
    /// Adds the image of this boot.
    pub(super) fn prepare(boot: u64) -> anyhow::Result<Self> {
        let directory = directory();
        let failed = || format!("cannot prepare an image in {}", directory.display());
        fs::create_dir_all(&directory).with_context(failed)?;
        let earlier = complete(&directory).with_context(failed)?;
        let newest = directory.join(format!("boot-{boot}"));
        let draft = directory.join("draft");
        // A cut may have left it.
        if draft.exists() {
            fs::remove_dir_all(&draft).with_context(failed)?;
        }
        make(&draft).with_context(failed)?;
        fs::rename(&draft, &newest).with_context(failed)?;
        File::open(&directory)
            .and_then(|directory| directory.sync_all())
            .with_context(failed)?;
        Ok(Self {
            newest: name(&newest),
            earlier,
        })
    }

    /// Returns the image of the task with this number in its boot: every second task has none, and
    /// the others have that of this boot and one of an earlier boot in turn.
    pub(super) fn of(&self, number: u64) -> Option<&str> {
        let earlier = usize::try_from(number / 4).expect("few tasks are launched");
        match number % 4 {
            1 => Some(&self.newest),
            3 if self.earlier.is_empty() => Some(&self.newest),
            3 => Some(&self.earlier[earlier % self.earlier.len()]),
            _ => None,
        }
    }
}

fn name(layout: &Path) -> String {
    format!("oci:{}", layout.display())
}

/// Returns the images whose layouts were completed.
fn complete(directory: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("boot-") {
            found.push(name(&entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Makes a layout, and waits until it is on the disk.
fn make(layout: &Path) -> anyhow::Result<()> {
    let work = tempfile::tempdir()?;
    let content = work.path().join("random");
    let mut random = File::open("/dev/urandom")?.take(CONTENT_BYTES);
    io::copy(&mut random, &mut File::create(&content)?)?;
    let made = Command::new("busybox-image")
        .args([layout, &content])
        .status()
        .context("cannot start busybox-image")?;
    ensure!(made.success(), "busybox-image: {made}");
    Ok(nix::unistd::syncfs(File::open(layout)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_of_images_are_not_named_and_tasks_have_images_in_turn() {
        let root = tempfile::tempdir().unwrap();
        for name in ["boot-2", "draft", "boot-1"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let earlier = complete(root.path()).unwrap();
        let path = |boot: u64| format!("oci:{}/boot-{boot}", root.path().display());
        assert_eq!(earlier, [path(1), path(2)]);
        let newest = path(3);
        let images = TaskImages { newest, earlier };
        let named: Vec<_> = (0..8).map(|number| images.of(number)).collect();
        let (first, second, third) = (path(1), path(2), path(3));
        let some = |name| Some(String::as_str(name));
        let none = None;
        assert_eq!(named[..4], [none, some(&third), none, some(&first)]);
        assert_eq!(named[4..], [none, some(&third), none, some(&second)]);
    }

    #[test]
    fn the_first_boot_has_one_image() {
        let (newest, earlier) = ("oci:/a".to_owned(), Vec::new());
        let images = TaskImages { newest, earlier };
        assert_eq!((images.of(3), images.of(2)), (Some("oci:/a"), None));
    }
}
