//! Tests with blocked threads of the agent.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use argosy_proto::v1;
use argosy_testing::skip;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use tokio::runtime::{Builder, Runtime};

use super::{runs, state, with_namespaces};
use crate::host::TestHost;
use crate::master::{AgentStream, Master, kill, shell};
use crate::running::Agent;

super::cases!("blocked":
    heartbeats_continue_while_all_other_threads_of_an_agent_are_blocked,
    a_task_with_a_hanging_host_path_delays_no_other_task,
    a_hanging_user_database_delays_no_task_without_a_user,
);

/// Tasks whose users are looked up at the same time: more than the slots of starts of an agent.
const LOOKUPS: u64 = 12;

/// Returns a runtime for an agent.
fn threads() -> Runtime {
    let threads = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    threads.unwrap()
}

fn agent_on(threads: &Runtime, host: &TestHost, master: &Master) -> Agent {
    std::thread::scope(|scope| {
        let begins = scope.spawn(|| threads.block_on(host.agent(master.address)));
        begins.join().unwrap()
    })
}

/// Registers an agent with one heartbeat a second: it hangs up after three seconds of silence,
/// longer than a busy host stalls.
async fn with_heartbeats(master: &mut Master) -> AgentStream {
    let (mut link, hello) = master.link().await;
    link.register_with(&hello, true, 1_000).await;
    link
}

/// Counts the heartbeats of six seconds.
async fn heartbeats(link: &mut AgentStream) -> u32 {
    let before = link.pings;
    link.answer_during(tokio::time::sleep(Duration::from_secs(6)))
        .await;
    link.pings - before
}

pub(super) async fn heartbeats_continue_while_all_other_threads_of_an_agent_are_blocked() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let threads = threads();
    let agent = agent_on(&threads, &host, &master);
    let mut link = with_heartbeats(&mut master).await;
    link.launch(1, shell("t", "sleep 60")).await;
    link.until("t", runs).await;
    let blocked = Arc::new(AtomicUsize::new(0));
    let mut held = Vec::new();
    for _ in 0..2 {
        let (release, released) = mpsc::channel::<()>();
        held.push(release);
        let blocked = Arc::clone(&blocked);
        threads.spawn(async move {
            blocked.fetch_add(1, Ordering::Relaxed);
            // Until the sender is dropped.
            let _ = released.recv();
        });
    }
    let all = async {
        while blocked.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    link.answer_during(all).await;
    let answered = heartbeats(&mut link).await;
    assert!(answered >= 2, "{answered} of 6");
    drop(held);
    link.order(2, kill("t", 0)).await;
    link.end_of("t").await;
    agent.stop().await;
    threads.shutdown_background();
}

/// A file system whose server never answers: an access blocks until this is dropped.
struct HungFileSystem {
    directory: PathBuf,
    /// Its server's end.
    _device: File,
}

impl HungFileSystem {
    /// Returns `None` if this kernel has no FUSE.
    fn at(directory: &Path) -> Option<Self> {
        fs::create_dir_all(directory).unwrap();
        Self::over(directory, "40000")
    }

    /// Does the same over an existing file or directory of this kind.
    fn over(directory: &Path, mode: &str) -> Option<Self> {
        let mut options = File::options();
        let device = options.read(true).write(true).open("/dev/fuse").ok()?;
        let descriptor = device.as_raw_fd();
        let options = format!("fd={descriptor},rootmode={mode},user_id=0,group_id=0");
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        mount(
            Some("argosy-test"),
            directory,
            Some("fuse"),
            flags,
            Some(options.as_str()),
        )
        .ok()?;
        Some(Self {
            directory: directory.to_owned(),
            _device: device,
        })
    }
}

impl Drop for HungFileSystem {
    fn drop(&mut self) {
        // Ends all blocked accesses.
        let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH;
        umount2(&self.directory, flags).unwrap();
    }
}

pub(super) async fn a_task_with_a_hanging_host_path_delays_no_other_task() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let shared = host.shared();
    let Some(hung) = HungFileSystem::at(&shared.join("hung")) else {
        return skip("this kernel has no FUSE");
    };
    let threads = threads();
    let agent = agent_on(&threads, &host, &master);
    let mut link = with_heartbeats(&mut master).await;
    let mut waits = shell("waits", "sleep 60");
    waits.host_paths.push(v1::HostPath {
        host_path: hung.directory.join("file").display().to_string(),
        container_path: "file".to_owned(),
        read_only: false,
    });
    link.launch(1, waits).await;
    let answered = heartbeats(&mut link).await;
    assert!(answered >= 2, "{answered} of 6");
    let waiting = link.answer_during(agent.containers()).await;
    assert_eq!(waiting.len(), 1, "{waiting:?}");
    assert!(!["running", "ended"].contains(&waiting[0]["state"].as_str().unwrap()));
    link.launch(2, shell("other", "sleep 60")).await;
    link.until("other", runs).await;
    link.order(3, kill("other", 0)).await;
    link.end_of("other").await;
    link.order(4, kill("waits", 0)).await;
    drop(hung);
    link.end_of("waits").await;
    agent.stop().await;
    threads.shutdown_background();
}

/// Simulates a user for which a slow directory server is queried.
pub(super) async fn a_hanging_user_database_delays_no_task_without_a_user() {
    with_namespaces(CloneFlags::CLONE_NEWNS, || async {
        let (host, mut master) = (TestHost::new(), Master::start().await);
        let threads = threads();
        let agent = agent_on(&threads, &host, &master);
        let mut link = with_heartbeats(&mut master).await;
        let Some(hung) = HungFileSystem::over(Path::new("/etc/passwd"), "100000") else {
            return skip("this kernel has no FUSE");
        };
        // More than there are threads of the agent's runtime, and than it starts at a time.
        for order in 1..=LOOKUPS {
            let waits = v1::TaskSpec {
                user: "daemon".into(),
                ..shell(&format!("waits-{order}"), "true")
            };
            link.launch(order, waits).await;
        }
        let answered = heartbeats(&mut link).await;
        assert!(answered >= 2, "{answered} of 6");
        let waiting = link.answer_during(agent.containers()).await;
        assert_eq!(waiting.len() as u64, LOOKUPS, "{waiting:?}");
        let is_waiting = |one: &serde_json::Value| {
            let state = one["state"].as_str().unwrap();
            !["running", "ended"].contains(&state)
        };
        assert!(waiting.iter().all(is_waiting), "{waiting:?}");
        let (launch, end, end_waiting) = (LOOKUPS + 1, LOOKUPS + 2, LOOKUPS + 3);
        link.launch(launch, shell("other", "sleep 60")).await;
        link.until("other", runs).await;
        link.order(end, kill("other", 0)).await;
        link.end_of("other").await;
        // A start that waits for its user can be cancelled.
        link.order(end_waiting, kill("waits-1", 0)).await;
        let killed = link.end_of("waits-1").await;
        assert_eq!(state(killed.last().unwrap()), v1::TaskState::Killed);
        drop(hung);
        for order in 2..=LOOKUPS {
            link.end_of(&format!("waits-{order}")).await;
        }
        agent.stop().await;
        threads.shutdown_background();
    })
    .await;
}
