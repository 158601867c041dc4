//! Leaders that stall without exiting, and followers without processor time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use argosy_raft::Timing;
use tokio::runtime::Handle;

use crate::host::{HostPlan, NodeHost, addresses, commit_somewhere, equal, form, leader};

/// Threads of a host's runtime.
const THREADS: usize = 2;

/// An election by timeout takes at least 6 s, one after a silence half a second.
const TIMING: Timing = Timing {
    heartbeat_ms: 100,
    silence_ms: 500,
    election_min_ms: 3_000,
    election_max_ms: 3_500,
    append_deadline_ms: 3_000,
    learner_stall_ms: 20_000,
};

async fn three() -> Vec<NodeHost> {
    let addresses = addresses(3);
    let plan = |address| HostPlan {
        timing: TIMING,
        ..HostPlan::new(address, &addresses)
    };
    let hosts = form(addresses.iter().copied().map(plan).collect()).await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("before").await;
    equal(&hosts).await;
    hosts
}

/// Blocks all threads of a runtime until it is dropped: its sockets stay open, and its tasks do not
/// run.
struct FrozenRuntime(Arc<AtomicBool>);

impl FrozenRuntime {
    fn new(runtime: &Handle) -> FrozenRuntime {
        let frozen = Arc::new(AtomicBool::new(true));
        for _ in 0..THREADS {
            let frozen = frozen.clone();
            runtime.spawn(async move {
                while frozen.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        FrozenRuntime(frozen)
    }
}

impl Drop for FrozenRuntime {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_is_replaced_long_before_the_election_timeout() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    let (former, term) = (hosts.remove(lead), hosts[0].status().term);
    let started = Instant::now();
    let frozen = FrozenRuntime::new(&former.runtime());
    commit_somewhere(&hosts, "after").await;
    let took = started.elapsed();
    println!("replaced after {took:?}");
    assert!(
        took < Duration::from_millis(2 * TIMING.election_min_ms),
        "{took:?}"
    );
    assert!(hosts[0].status().term > term);
    drop(frozen);
    // It follows, and has the entries that were committed without it.
    former.until("a leader", |status| !status.is_leader).await;
    hosts.push(former);
    assert!(equal(&hosts).await.has("after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn starved_followers_replace_no_leader() {
    let hosts = three().await;
    let lead = leader(&hosts).await;
    let term = hosts[lead].status().term;
    let frozen = FrozenRuntime::new(&hosts[lead].runtime());
    // Four times as long as a silence has to last; the followers' timers fire late repeatedly in
    // that time.
    let until = Instant::now() + Duration::from_millis(4 * TIMING.silence_ms);
    while Instant::now() < until {
        let others = hosts.iter().enumerate().filter(|(place, _)| *place != lead);
        let held: Vec<_> = others
            .map(|(_, host)| FrozenRuntime::new(&host.runtime()))
            .collect();
        tokio::time::sleep(Duration::from_millis(TIMING.heartbeat_ms)).await;
        drop(held);
        tokio::time::sleep(Duration::from_millis(TIMING.heartbeat_ms)).await;
    }
    drop(frozen);
    hosts[lead].commit("after").await;
    for host in &hosts {
        assert_eq!(host.status().term, term, "an election");
    }
}
