//! A master whose loop stalls, and consensus with it. Another one leads within a second, and its
//! process exits, whatever else of it stalls.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_testbed::processes::end;
use nix::sys::signal::Signal;

use crate::cluster::{Cluster, TestMember, wait_until, write};
use crate::test_framework::{ReceivedEvents, TestFramework, signatures, witnessed_task};

const LONG: Duration = Duration::from_secs(60);

/// Holds some threads of a process in the kernel, at their next call, until drop.
struct StoppedThreads(Child);

impl StoppedThreads {
    /// Holds the thread of the loop and of consensus.
    fn loop_of(cluster: &Cluster, master: &TestMember) -> Self {
        Self::threads(cluster, master, |name| name == "raft")
    }

    /// Holds all threads but the two that watch the loop.
    fn all_but_watchdog(cluster: &Cluster, master: &TestMember) -> Self {
        Self::threads(cluster, master, |name| !name.starts_with("watchdog"))
    }

    fn threads(cluster: &Cluster, master: &TestMember, is_held: impl Fn(&str) -> bool) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{}/task", master.pid()));
        let stopped = threads.expect("it runs").flatten().filter_map(|entry| {
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            is_held(name.trim_end()).then(|| entry.file_name().into_string().ok())?
        });
        let stopped: Vec<String> = stopped.collect();
        assert!(!stopped.is_empty(), "no thread would be held");
        let output = cluster.directory.path().join("strace");
        let output = File::create(output).expect("a file can be made");
        let mut strace = Command::new("strace");
        // Calls in which a thread waits for work are delayed. `write` is not: a thread that logs
        // would hold the lock of standard error, and the process would exit without its last
        // messages.
        strace.args(["-qq", "-o", "/dev/null", "-e"]);
        strace.arg("inject=futex,epoll_wait,epoll_pwait,read:delay_enter=60s");
        strace.args(stopped.iter().flat_map(|thread| ["-p", thread]));
        let strace = strace.stdin(Stdio::null()).stderr(output).spawn();
        Self(strace.expect("strace is installed"))
    }
}

impl Drop for StoppedThreads {
    fn drop(&mut self) {
        // SIGINT lets it detach.
        let _ = end(&mut self.0, Signal::SIGINT, LONG);
    }
}

/// Returns when a master whose threads are held logs that it gives up leadership, and that its
/// process exits.
async fn wait_for_exit_logs(master: &TestMember, began: Instant) -> (Duration, Duration) {
    // A restarted master appends to its log.
    let earlier = master.log().len();
    let logged = async |words: &str| {
        let is_there = || master.log()[earlier..].contains(words);
        let log = async || is_there().then(|| began.elapsed());
        wait_until(words, LONG, log).await
    };
    (
        logged("giving up leadership").await,
        logged("this process ends").await,
    )
}

/// Returns when a master other than `former` is the active leader.
async fn another_leads(cluster: &Cluster, former: usize, began: Instant) -> Duration {
    let others = cluster.masters.iter().enumerate();
    let others: Vec<_> = others.filter(|(place, _)| *place != former).collect();
    wait_until("another master leads", LONG, async || {
        for (_, other) in &others {
            if other.metric_is_one("argosy_master_is_active_leader").await == Some(true) {
                return Some(began.elapsed());
            }
        }
        None
    })
    .await
}

/// Waits for the exit. A held thread does not exit before it is released.
async fn ends_by_itself(stopped: StoppedThreads, master: &mut TestMember) {
    drop(stopped);
    let status = wait_until("its process has ended", LONG, async || master.ended()).await;
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_stalled_loop_is_replaced_and_then_aborts() {
    let mut cluster = Cluster::start(1).await;
    let framework = TestFramework::start(cluster.masters_list(), "load").await;
    let witness = cluster.witness();
    let mut launched = 0;
    let mut is_replaced_first = false;
    // More than two seconds lie between the two, which is occasionally too short on a busy machine.
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let began = Instant::now();
        let stopped = StoppedThreads::loop_of(&cluster, &cluster.masters[leader]);
        let numbers = launched..launched + 20;
        framework
            .launch(numbers.map(|number| witnessed_task(&format!("t{number}"), &witness, "true")));
        launched += 20;
        let (replaced, (gave_up, ended)) = tokio::join!(
            another_leads(&cluster, leader, began),
            wait_for_exit_logs(&cluster.masters[leader], began)
        );
        println!("replaced after {replaced:?}, gave up after {gave_up:?}, ended after {ended:?}");
        assert!(gave_up < ended, "it ended before it gave up");
        ends_by_itself(stopped, &mut cluster.masters[leader]).await;
        let ended_all = |events: &ReceivedEvents| (events.ended() >= launched).then_some(());
        framework
            .wait_for_event("all tasks have ended", LONG, ended_all)
            .await;
        assert_ne!(cluster.leader().await, leader, "a dead master leads");
        cluster.masters[leader].kill();
        cluster.masters[leader].start();
        cluster.wait_caught_up().await;
        is_replaced_first = replaced < ended;
        if is_replaced_first {
            break;
        }
    }
    assert!(
        is_replaced_first,
        "three leaders ended before another one led"
    );
    let signed = signatures(&witness);
    assert_eq!(signed.len(), launched, "{signed:?}");
    assert!(signed.values().all(|times| *times == 1), "{signed:?}");
    let events = framework.events.lock().unwrap();
    for number in 0..launched {
        let states = events.states(&format!("t{number}"));
        assert_eq!(states.last(), Some(&v1::TaskState::Finished), "{states:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completely_stalled_follower_aborts_without_affecting_the_cluster() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let began = Instant::now();
    let stopped = StoppedThreads::all_but_watchdog(&cluster, &cluster.masters[follower]);
    let (gave_up, ended) = wait_for_exit_logs(&cluster.masters[follower], began).await;
    println!("gave up after {gave_up:?}, ended after {ended:?}");
    ends_by_itself(stopped, &mut cluster.masters[follower]).await;
    assert_eq!(cluster.leader().await, leader, "the leader has changed");
    let operator = cluster.operator();
    wait_until("two masters serve", LONG, async || {
        write(&operator, "by two".to_owned()).await
    })
    .await;
    cluster.masters[follower].kill();
    cluster.masters[follower].start();
    cluster.wait_caught_up().await;
}
