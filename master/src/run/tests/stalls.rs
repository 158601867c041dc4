//! Tests of stalls: of the loop next to consensus, and of the loop while a large snapshot is
//! loaded.

use std::time::Instant;

use argosy_raft::RegistryRecords;
use argosy_state::testing::registration;
use futures::future::join_all;
use tokio::sync::oneshot;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_with_a_blocked_loop_transfers_leadership() {
    let masters = SingleMaster::start_three().await;
    let leading = |former: Option<usize>| {
        let mut places = 0..masters.len();
        places.find(|place| {
            Some(*place) != former && masters[*place].handle.leader_status.borrow().is_local
        })
    };
    let leader = loop {
        if let Some(leader) = leading(None) {
            break leader;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let give_up = step_down_handler(masters[leader].node.clone());
    let interval = Duration::from_millis(20);
    // A separate counter that records no turn. The abort ends only this watchdog.
    let _watchdog = Watchdog::thread_with(Arc::default(), interval, give_up, || {}).unwrap();
    let asked = Instant::now();
    while leading(Some(leader)).is_none() {
        assert!(asked.elapsed() < TIMEOUT, "no other master leads");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for master in masters {
        master.end().await;
    }
}

/// Returns the registry in the store, once it includes all of the log.
async fn stored(alone: &SingleMaster) -> (u64, RegistryRecords) {
    let asked = Instant::now();
    loop {
        let progress = alone.node.progress();
        if let Some((index, records)) = alone.memory.registry()
            && index == progress.applied_index
            && index == progress.last_log_index
        {
            return (index, records);
        }
        assert!(asked.elapsed() < TIMEOUT, "it is not written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loop_continues_while_a_large_snapshot_is_read() {
    const AGENTS: u64 = 25_000;
    let alone = SingleMaster::start().await;
    let epoch = Epoch(alone.active_leader().await.epoch);
    let registered = (0..AGENTS).map(|nonce| {
        let agent = registration(nonce + 1, "cpus:1;mem:64");
        Command::RegisterAgent(agent)
    });
    alone.propose_all(epoch, registered).await;
    // In order after them.
    alone.operate(weight(2_000)).await;
    let (last_index, records) = stored(&alone).await;
    let (done, loaded) = oneshot::channel();
    let request = OwnerRequest::Load {
        last_index,
        records,
        done,
    };
    let (asked, before) = (Instant::now(), alone.turn_counter.turns());
    alone.requests.send(request).await.unwrap();
    loaded.await.unwrap();
    let (took, turns) = (asked.elapsed(), alone.turn_counter.turns() - before);
    assert!(
        took > 2 * replica::TICK,
        "too short to show anything: {took:?}"
    );
    let ticks = took.as_millis() / replica::TICK.as_millis();
    assert!(u128::from(turns) > ticks / 2, "{turns} turns in {took:?}");
    // It leads again, in a new epoch, with the loaded registry.
    let mut leadership = alone.handle.leader_status.clone();
    let again = leadership.wait_for(|leadership| leadership.is_local && leadership.epoch > epoch.0);
    tokio::time::timeout(TIMEOUT, again).await.unwrap().unwrap();
    alone.end().await;
}

/// Gives a master a snapshot of this registry.
async fn load(master: &SingleMaster, (last_index, records): (u64, RegistryRecords)) {
    let (done, loaded) = oneshot::channel();
    let request = OwnerRequest::Load {
        last_index,
        records,
        done,
    };
    master.requests.send(request).await.unwrap();
    loaded.await.unwrap();
}

/// A follower may miss epochs of the leader that it knows.
#[tokio::test]
async fn the_epoch_of_an_installed_snapshot_is_published() {
    let mut masters = SingleMaster::start_three().await;
    let follower = masters.remove(0);
    // Nothing else is applied from now on.
    join_all(masters.into_iter().map(SingleMaster::end)).await;
    let mut known = follower.handle.leader_status.clone();
    let alone = known.wait_for(|known| !known.is_local);
    let before = tokio::time::timeout(TIMEOUT, alone)
        .await
        .unwrap()
        .unwrap()
        .epoch;

    let other = SingleMaster::start().await;
    let mut epoch = other.active_leader().await.epoch;
    while epoch <= before {
        load(&other, stored(&other).await).await;
        let mut leadership = other.handle.leader_status.clone();
        let next = leadership.wait_for(|known| known.is_local && known.epoch > epoch);
        epoch = tokio::time::timeout(TIMEOUT, next)
            .await
            .unwrap()
            .unwrap()
            .epoch;
    }
    load(&follower, stored(&other).await).await;
    assert_eq!(follower.handle.leader_status.borrow().epoch, epoch);
    other.end().await;
    follower.end().await;
}
