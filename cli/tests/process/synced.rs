//! What is acknowledged is on disks: commits are counted against system calls.

use std::process::{Command, Stdio};
use std::time::Duration;

use argosy_proto::v1;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{Cluster, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_commits_are_a_thousand_syncs_on_two_masters() {
    let cluster = Cluster::start(1).await;
    let operator = cluster.operator();
    let counts: Vec<_> = cluster
        .masters
        .iter()
        .map(|master| {
            cluster
                .directory
                .path()
                .join(format!("{}.strace", master.name))
        })
        .collect();
    let mut tracers = Vec::new();
    for (master, file) in cluster.masters.iter().zip(&counts) {
        let pid = master.pid().to_string();
        let tracer = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fdatasync,fsync", "-o"])
            .arg(file)
            .args(["-p", &pid])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed");
        let status = format!("/proc/{pid}/status");
        until(
            "the tracer is attached",
            Duration::from_secs(10),
            async || {
                let text = std::fs::read_to_string(&status).ok()?;
                text.lines()
                    .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
                    .then_some(())
            },
        )
        .await;
        tracers.push(tracer);
    }
    for number in 0..1_000 {
        let set = v1::SetAttribute {
            agent_id: "agent-1".to_owned(),
            name: "x".to_owned(),
            value: number.to_string(),
        };
        let operation = v1::WriteOperation {
            operation: Some(v1::write_operation::Operation::SetAttribute(set)),
        };
        let batch = v1::WriteBatch {
            operations: vec![operation],
            ..Default::default()
        };
        let reply = operator
            .write(batch)
            .await
            .expect("the write is acknowledged");
        assert!(reply.outcomes[0].done, "{reply:?}");
    }
    for mut tracer in tracers {
        let _ = kill(
            Pid::from_raw(tracer.id().try_into().unwrap()),
            Signal::SIGINT,
        );
        let _ = tracer.wait();
    }
    let syncs: Vec<usize> = counts
        .iter()
        .map(|file| {
            std::fs::read_to_string(file)
                .unwrap_or_default()
                .lines()
                .filter(|line| line.contains("sync("))
                .count()
        })
        .collect();
    let enough = syncs.iter().filter(|count| **count >= 1_000).count();
    assert!(enough >= 2, "syncs by master: {syncs:?}");
}
