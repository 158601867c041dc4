//! Tests of an agent whose disk is full.

use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use argosy_agent::Config;
use argosy_proto::v1;
use argosy_testing::skip;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::exec::until;
use super::volumes::with_disk;
use super::{reason, runs, state};
use crate::host::TestHost;
use crate::master::{AgentStream, Master, kill, shell};

super::cases!("full_disk":
    an_agent_with_a_full_disk_continues_and_records_kills_and_ends,
    a_task_that_exceeds_its_request_on_a_full_disk_is_evicted_alone,
    a_task_whose_fetched_files_exceed_its_limit_fails_alone,
);

/// A separate disk for an agent's directory; removed with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn of(directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        let options = Some("size=24m,mode=0711");
        mount(
            Some("argosy-test"),
            directory,
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )
        .unwrap();
        Self(directory.to_owned())
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Writes until not a byte is left.
    fn fill(&self) {
        let mut filler = fs::File::create(self.filler()).unwrap();
        for size in [1 << 20, 4_096, 1] {
            while filler.write_all(&vec![1; size]).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached: an agent that a failed test left may still use it.
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// Launches tasks with environments of this size. Returns how many of them were refused for lack of
/// space.
async fn refused(link: &mut AgentStream, orders: Range<u64>, environment_bytes: usize) -> usize {
    let mut refused = 0;
    for order in orders {
        let mut spec = shell(&format!("task-{order}"), "true");
        spec.environment = (0..environment_bytes / 10_000)
            .map(|number| (format!("V{number}"), "x".repeat(10_000)))
            .collect();
        link.launch(order, spec.clone()).await;
        let updates = link.end_of(&spec.task_id).await;
        let last = updates.last().unwrap();
        assert_eq!(state(last), v1::TaskState::Failed);
        let is_refused = reason(last) == v1::Reason::ContainerLaunchFailed
            && last.text.contains("the disk of this agent is full");
        refused += usize::from(is_refused);
    }
    refused
}

pub(super) async fn an_agent_with_a_full_disk_continues_and_records_kills_and_ends() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let disk = SmallDisk::of(&host.directory());
    let evicts_none = |config: &mut Config| config.disk_floor_bytes = Some(0);
    let agent = host.agent_with(master.address, evicts_none).await;
    let (mut link, _) = master.registered(true).await;
    for (order, task) in [(1, "killed"), (2, "adopted"), (3, "ended")] {
        let line = "until [ -e go ]; do sleep 0.01; done; exit 3";
        link.launch(order, shell(task, line)).await;
        link.until(task, runs).await;
    }
    // Names use no blocks on this file system.
    fs::write(host.sandbox("ended").join("go"), "").unwrap();
    link.end_of("ended").await;
    disk.fill();
    // Together larger than the reserve.
    let large = refused(&mut link, 4..16, 400_000).await;
    assert!(large > 5, "{large}");
    let before = agent.counted("argosy_agent_journal_reserve_bytes").await;
    assert_eq!(refused(&mut link, 16..36, 0).await, 20);
    let after = agent.counted("argosy_agent_journal_reserve_bytes").await;
    let each = (before - after) / 20;
    assert!(each < 1_000, "a refused launch takes {each} bytes");
    let order = 35;
    link.order(order + 1, kill("killed", 0)).await;
    let updates = link.end_of("killed").await;
    let last = updates.last().unwrap();
    assert_eq!(state(last), v1::TaskState::Killed, "{last:?}");
    agent.stop().await;

    let agent = host.agent_with(master.address, evicts_none).await;
    let (mut link, _) = master.registered(true).await;
    link.order(order + 2, kill("adopted", 0)).await;
    let updates = link.end_of("adopted").await;
    assert_eq!(
        state(updates.last().unwrap()),
        v1::TaskState::Killed,
        "{updates:?}"
    );

    fs::remove_file(disk.filler()).unwrap();
    let noticed = async {
        while agent.counted("argosy_agent_journal_full").await != 0 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    link.answer_during(noticed).await;
    link.launch(order + 3, shell("after", "true")).await;
    let updates = link.end_of("after").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Finished);
    agent.end_tasks.cancel();
    agent.ended().await.unwrap();
}

pub(super) async fn a_task_that_exceeds_its_request_on_a_full_disk_is_evicted_alone() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let _disk = SmallDisk::of(&host.directory());
    let unlimited = |config: &mut Config| {
        config.default_disk_bytes = 0;
        config.disk_floor_bytes = Some(4 << 20);
    };
    let agent = host.agent_with(master.address, unlimited).await;
    let (mut link, _) = master.registered(true).await;
    let writes = |mib: u32| format!("head -c {mib}M /dev/zero > file; exec sleep 600");
    link.launch(1, with_disk(shell("within", &writes(8)), 9))
        .await;
    link.launch(2, shell("little", &writes(1))).await;
    link.until("within", runs).await;
    link.until("little", runs).await;
    link.launch(3, shell("filler", &writes(100))).await;
    let updates = link.end_of("filler").await;
    let last = updates.last().unwrap();
    assert_eq!(
        (state(last), reason(last)),
        (v1::TaskState::Failed, v1::Reason::LimitDisk)
    );
    assert!(last.text.starts_with("evicted: "), "{}", last.text);
    assert_eq!(agent.counted("argosy_agent_disk_evictions_total").await, 1);
    let living = agent.containers().await;
    let running = living
        .iter()
        .filter(|container| container["state"] == "running");
    assert_eq!(running.count(), 2, "{living:?}");
    agent.end_tasks.cancel();
    agent.ended().await.unwrap();
}

/// Serves a file that never ends, after its first `bytes`.
async fn serve_slowly(bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * bytes);
        // The agent closes the connection at the end of the fetch.
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&vec![b'x'; bytes]).await;
        let _ = stream.read(&mut [0; 1]).await;
    });
    format!("http://{address}/large")
}

pub(super) async fn a_task_whose_fetched_files_exceed_its_limit_fails_alone() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let _disk = SmallDisk::of(&host.directory());
    let small = |config: &mut Config| {
        config.default_disk_bytes = 2 << 20;
        config.disk_floor_bytes = Some(12 << 20);
    };
    let agent = host.agent_with(master.address, small).await;
    let (mut link, _) = master.registered(true).await;
    let writes = "head -c 1M /dev/zero > file; exec sleep 600";
    link.launch(1, shell("little", writes)).await;
    link.until("little", runs).await;
    let file = host.sandbox("little").join("file");
    let is_written = || fs::metadata(&file).is_ok_and(|file| file.len() == 1 << 20);
    link.answer_during(until("a file of 1 MiB", is_written))
        .await;
    // Less than the floor is free while the file is fetched.
    let uri = v1::Uri {
        value: serve_slowly(10 << 20).await,
        ..v1::Uri::default()
    };
    let fetcher = v1::TaskSpec {
        uris: vec![uri],
        ..shell("fetcher", "exec sleep 600")
    };
    link.launch(2, fetcher).await;
    let updates = link.end_of("fetcher").await;
    let last = updates.last().unwrap();
    assert_eq!(
        (state(last), reason(last)),
        (v1::TaskState::Failed, v1::Reason::LimitDisk),
        "{}",
        last.text
    );
    assert!(last.text.starts_with("out of disk: "), "{}", last.text);
    let living = agent.containers().await;
    let running = living
        .iter()
        .filter(|container| container["state"] == "running");
    assert_eq!(running.count(), 1, "{living:?}");
    agent.end_tasks.cancel();
    agent.ended().await.unwrap();
}
