//! Durability of acknowledged commits: commits are counted against sync system calls.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use argosy_testbed::processes::end;
use nix::sys::signal::Signal;

use crate::cluster::{Cluster, TestMember, wait_until, write};

/// Timeout for a tracer to detach.
const DETACH_TIMEOUT: Duration = Duration::from_secs(10);

/// Counts the syncs of one master.
struct SyncTracer {
    strace: Child,
    file: PathBuf,
}

impl SyncTracer {
    async fn attach(cluster: &Cluster, master: &TestMember) -> Self {
        let file = cluster
            .directory
            .path()
            .join(format!("{}.strace", master.name));
        let pid = master.pid().to_string();
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fdatasync,fsync", "-o"])
            .arg(&file)
            .args(["-p", &pid])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed");
        let status = format!("/proc/{pid}/status");
        wait_until(
            "the tracer is attached",
            Duration::from_secs(10),
            async || {
                let text = std::fs::read_to_string(&status).ok()?;
                let traced = |line: &str| line.starts_with("TracerPid:") && !line.ends_with("\t0");
                text.lines().any(traced).then_some(())
            },
        )
        .await;
        Self { strace, file }
    }

    fn syncs(mut self) -> usize {
        end(&mut self.strace, Signal::SIGINT, DETACH_TIMEOUT).expect("it is our child");
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().filter(|line| line.contains("sync(")).count()
    }
}

const COMMITS: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_commits_cause_a_thousand_syncs_on_two_masters() {
    let cluster = Cluster::start_tls(1).await;
    let operator = cluster.operator();
    let mut tracers = Vec::new();
    for master in &cluster.masters {
        tracers.push(SyncTracer::attach(&cluster, master).await);
    }
    for number in 0..COMMITS {
        let reply = write(&operator, number.to_string())
            .await
            .expect("the write is acknowledged");
        assert!(reply.outcomes[0].done, "{reply:?}");
    }
    let syncs: Vec<usize> = tracers.into_iter().map(SyncTracer::syncs).collect();
    // One client waits for each commit before the next. Each commit is on two disks by then, by
    // syncs that no other commit shares. The two disks may differ. A master that syncs more often
    // counts once per commit.
    let total: usize = syncs.iter().map(|count| (*count).min(COMMITS)).sum();
    println!("syncs by master: {syncs:?}");
    assert!(total >= 2 * COMMITS, "syncs by master: {syncs:?}");
}
