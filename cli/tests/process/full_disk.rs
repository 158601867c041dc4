//! A master whose disk is full stops with the path in its last words, and goes on when there is room.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use argosy_proto::v1;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::cluster::{Cluster, until, write};
use crate::work::{Framework, task};

const LONG: Duration = Duration::from_secs(60);

/// A file system of 64 MiB in memory, gone with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Takes the place of `folder`, with what is in it.
    fn under(folder: &Path) -> Self {
        let kept = folder.with_extension("kept");
        std::fs::rename(folder, &kept).unwrap();
        std::fs::create_dir_all(folder).unwrap();
        mount(
            Some("tmpfs"),
            folder,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=64m"),
        )
        .expect("root may mount");
        let disk = Self(folder.to_owned());
        let copied = Command::new("cp")
            .arg("-a")
            .arg(kept.join("."))
            .arg(folder)
            .status()
            .unwrap();
        assert!(copied.success());
        disk
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes what is free, also what has become free since the last time: the store gives back room that it had
    /// laid aside.
    fn fill(&self) {
        let of = format!("of={}", self.filler().display());
        // It ends with an error: that is the point.
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", "oflag=append", "conv=notrunc"])
            .arg(&of)
            .output();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_one_master_and_loses_nothing() {
    let mut cluster = Cluster::start(1).await;
    let framework = Framework::start(cluster.masters_list(), "writer").await;
    let victim = cluster.leader().await;
    cluster.masters[victim].kill();
    let folder = cluster
        .directory
        .path()
        .join(format!("master-{}", victim + 1));
    let disk = SmallDisk::under(&folder);
    cluster.masters[victim].start();
    cluster.wait_caught_up().await;
    let operator = cluster.operator();
    let mut number = 0;
    until("the master has stopped", LONG, async || {
        number += 1;
        disk.fill();
        write(&operator, "y".repeat(2_000) + &number.to_string()).await;
        cluster.masters[victim].has_ended().then_some(())
    })
    .await;
    let log = cluster.masters[victim].log();
    let named = log.contains(&folder.display().to_string());
    assert!(named && log.contains("No space left"), "{log}");
    std::fs::remove_file(disk.filler()).unwrap();
    cluster.masters[victim].kill();
    cluster.masters[victim].start();
    cluster.wait_caught_up().await;
    framework.launch([task("after", "true")]);
    let served = |heard: &crate::work::Heard| {
        heard
            .states("after")
            .contains(&v1::TaskState::Finished)
            .then_some(())
    };
    framework.hear("the cluster serves", LONG, served).await;
    cluster.masters[victim].kill();
    drop(disk);
}
