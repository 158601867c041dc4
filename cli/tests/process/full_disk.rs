//! A master whose disk is full stops with the path in its last words, and goes on when there is room.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use argosy_proto::v1;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::cluster::{Cluster, until};
use crate::work::{Framework, task};

const LONG: Duration = Duration::from_secs(60);

/// A file system of 64 MiB in memory, gone with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=64m"),
        )
        .expect("root may mount");
        Self(path)
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
    let kept = folder.with_extension("kept");
    std::fs::rename(&folder, &kept).unwrap();
    let disk = SmallDisk::new(folder.clone());
    let copied = Command::new("cp")
        .arg("-a")
        .arg(kept.join("."))
        .arg(&folder)
        .status()
        .unwrap();
    assert!(copied.success());
    cluster.masters[victim].start();
    cluster.wait_caught_up().await;
    let filler = folder.join("filler");
    let _ = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", filler.display()))
        .output();
    let operator = cluster.operator();
    let mut number = 0;
    until("the master has stopped", LONG, async || {
        number += 1;
        let set = v1::SetAttribute {
            agent_id: "agent-1".to_owned(),
            name: "x".to_owned(),
            value: "y".repeat(2_000) + &number.to_string(),
        };
        let operation = v1::WriteOperation {
            operation: Some(v1::write_operation::Operation::SetAttribute(set)),
        };
        let _ = operator
            .write(v1::WriteBatch {
                operations: vec![operation],
                ..Default::default()
            })
            .await;
        cluster.masters[victim].has_ended().then_some(())
    })
    .await;
    let log = cluster.masters[victim].log();
    assert!(
        log.contains(&folder.display().to_string()) && log.contains("No space left"),
        "{log}"
    );
    std::fs::remove_file(&filler).unwrap();
    cluster.masters[victim].kill();
    cluster.masters[victim].start();
    cluster.wait_caught_up().await;
    framework.launch([task("after", "true")]);
    framework
        .hear("the cluster serves", LONG, |heard| {
            heard
                .states("after")
                .contains(&v1::TaskState::Finished)
                .then_some(())
        })
        .await;
    cluster.masters[victim].kill();
    drop(disk);
}
