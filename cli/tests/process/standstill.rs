//! A master whose loop stands still while its other threads go on: it hands leadership over, then its
//! process ends.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use argosy_proto::v1;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{Cluster, Member, until, write};
use crate::work::{Framework, Heard, signatures, witnessed};

const LONG: Duration = Duration::from_secs(60);

/// Holds some threads of a process in the kernel, at their next call, until it is dropped.
struct Held(Child);

impl Held {
    /// All threads that are not raft's nor the store's: the loop lives on one of them.
    fn all_but_raft(cluster: &Cluster, master: &Member) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{}/task", master.pid()));
        let held = threads.expect("it runs").flatten().filter_map(|entry| {
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            let is_held = name.starts_with("argosy") || name.starts_with("tokio");
            is_held.then(|| entry.file_name().into_string().ok())?
        });
        let held: Vec<String> = held.collect();
        assert!(held.len() > 1, "only {held:?} would be held");
        let said = cluster.directory.path().join("strace");
        let said = File::create(said).expect("a file can be made");
        let mut strace = Command::new("strace");
        // Wherever a thread waits for work it waits for longer.
        strace.args(["-qq", "-o", "/dev/null", "-e"]);
        strace.arg("inject=futex,epoll_wait,epoll_pwait,read,write:delay_enter=60s");
        strace.args(held.iter().flat_map(|thread| ["-p", thread]));
        let strace = strace.stdin(Stdio::null()).stderr(said).spawn();
        Self(strace.expect("strace is installed"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0.id().try_into().expect("a pid fits"));
        let _ = kill(pid, Signal::SIGINT);
        let _ = self.0.wait();
    }
}

/// What is seen of a master whose threads are held: when it gave up, and when its process ended.
async fn seen(held: Held, master: &mut Member) -> (Duration, Duration) {
    let began = Instant::now();
    let said = async |words: &str| {
        let log = async || master.log().contains(words).then(|| began.elapsed());
        until(words, LONG, log).await
    };
    let gave_up = said("giving up leadership").await;
    let ended = said("this process ends").await;
    // A thread that is held is not gone before it is let go.
    drop(held);
    let status = until("its process has ended", LONG, async || master.ended()).await;
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status:?}");
    (gave_up, ended)
}

/// Whether it said all this, in this order.
fn is_said_in_order(log: &str, words: [&str; 3]) -> bool {
    let places = words.map(|words| log.find(words));
    places.iter().all(Option::is_some) && places.is_sorted()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_loop_stands_still_hands_over_and_then_ends_its_process() {
    let mut cluster = Cluster::start(1).await;
    let framework = Framework::start(cluster.masters_list(), "load").await;
    let witness = cluster.witness();
    let mut launched = 0;
    let mut is_handed_over = false;
    // Between giving up and the end there is a second, too little now and then on a busy machine.
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let held = Held::all_but_raft(&cluster, &cluster.masters[leader]);
        let numbers = launched..launched + 20;
        framework.launch(numbers.map(|number| witnessed(&format!("t{number}"), &witness, "true")));
        launched += 20;
        let (gave_up, ended) = seen(held, &mut cluster.masters[leader]).await;
        println!("gave up after {gave_up:?}, ended after {ended:?}");
        let ended = |heard: &Heard| (heard.ended() >= launched).then_some(());
        framework.hear("all tasks have ended", LONG, ended).await;
        assert_ne!(cluster.leader().await, leader, "a dead master leads");
        let order = [
            "giving up leadership",
            "leadership is handed over",
            "this process ends",
        ];
        is_handed_over = is_said_in_order(&cluster.masters[leader].log(), order);
        cluster.masters[leader].kill();
        cluster.masters[leader].start();
        cluster.wait_caught_up().await;
        if is_handed_over {
            break;
        }
    }
    assert!(
        is_handed_over,
        "three leaders ended before they had handed over"
    );
    let signed = signatures(&witness);
    assert_eq!(signed.len(), launched, "{signed:?}");
    assert!(signed.values().all(|times| *times == 1), "{signed:?}");
    let heard = framework.heard.lock().unwrap();
    for number in 0..launched {
        let states = heard.states(&format!("t{number}"));
        assert_eq!(states.last(), Some(&v1::TaskState::Finished), "{states:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_loop_stands_still_ends_its_process_and_disturbs_nobody() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let held = Held::all_but_raft(&cluster, &cluster.masters[follower]);
    seen(held, &mut cluster.masters[follower]).await;
    let log = cluster.masters[follower].log();
    assert!(!log.contains("handed over"), "{log}");
    let operator = cluster.operator();
    until("two masters serve", LONG, async || {
        write(&operator, "by two".to_owned()).await
    })
    .await;
    cluster.masters[follower].kill();
    cluster.masters[follower].start();
    cluster.wait_caught_up().await;
}
