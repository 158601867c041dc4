//! Followers whose disks stall, and followers that are gone.

use std::time::{Duration, Instant};

use argosy_raft::{RaftStatus, ReadError, SnapshotPolicy};

use crate::host::{
    DEADLINE, HostPlan, NodeHost, TIMING, addresses, equal, form, leader, three, three_with,
};

/// Longer than a leader may be silent: the ratio of a sync of 400 ms to the default timing of
/// masters.
const STALL: Duration = Duration::from_millis(1_600);

fn lease() -> Duration {
    Duration::from_millis(TIMING.election_max_ms)
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_disks_of_both_followers_cause_no_step_down_and_no_election() {
    let hosts = three().await;
    let lead = leader(&hosts).await;
    let host = &hosts[lead];
    host.commit("before").await;
    let term = host.status().term;
    for (place, follower) in hosts.iter().enumerate() {
        if place != lead {
            follower.plan.memory.slow_down(STALL);
        }
    }
    // Enough entries that each follower always lags with its disk: four rounds of syncs, one after
    // the other.
    let begun = host.registry().index;
    let deadline = Instant::now() + DEADLINE;
    let (mut longest, mut number) = (Duration::ZERO, 0);
    while host.registry().index < begun + 4 {
        let ago = host.node.quorum_acked_ago();
        longest = longest.max(ago.expect("it leads"));
        // Rejected while the queue is full.
        let _ = host.propose(&format!("command-{number}"));
        number += 1;
        assert!(Instant::now() < deadline, "nothing is committed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        longest <= lease(),
        "it lost its lease: not heard for {longest:?}"
    );
    for host in &hosts {
        assert_eq!(host.status().term, term, "an election");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_without_followers_steps_down_within_its_lease() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    let host = hosts.remove(lead);
    host.commit("before").await;
    for follower in hosts {
        follower.kill_and_wait().await;
    }
    // Messages sent before the kill still count; later ones do not.
    tokio::time::sleep(lease() + Duration::from_millis(50)).await;
    let ago = host.node.quorum_acked_ago();
    assert!(ago.is_none_or(|ago| ago > lease()), "{ago:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn masters_that_purge_logs_write_no_images() {
    let policy = SnapshotPolicy {
        entries: 20,
        bytes: 64 << 20,
    };
    let hosts = three_with(policy).await;
    let lead = leader(&hosts).await;
    for number in 0..100 {
        hosts[lead].commit(&format!("command-{number}")).await;
    }
    for host in &hosts {
        host.until_progress("a log that is cut", |progress| progress.snapshot_index > 60)
            .await;
    }
    let written = |host: &NodeHost| host.plan.memory.image_bytes();
    assert_eq!(hosts.iter().map(written).sum::<u64>(), 0);
}

/// The log of a group must not grow until the disks of its fast members are full.
#[tokio::test(flavor = "multi_thread")]
async fn log_is_purged_although_a_follower_is_slower_than_the_commands() {
    let policy = SnapshotPolicy {
        entries: 10_000,
        bytes: 1 << 20,
    };
    let hosts = three_with(policy).await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("before").await;
    let slow = &hosts[(lead + 1) % 3];
    slow.until_registry("the command", |registry| registry.has("before"))
        .await;
    let next = hosts[lead].registry().index + 1;
    slow.plan.memory.slow_down(Duration::from_millis(500));
    let mut number = 0;
    while number == 0 || hosts[lead].plan.memory.entry(next).is_some() {
        assert!(number < 150, "the log only grows");
        hosts[lead].propose_large(number).await;
        let count = u64::from(number) + 2;
        hosts[lead]
            .until_registry("the command", |registry| registry.count() == count)
            .await;
        number += 1;
    }
    slow.plan.memory.slow_down(Duration::ZERO);
    equal(&hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_is_purged_despite_frequent_restarts() {
    let policy = SnapshotPolicy {
        entries: 20,
        bytes: 64 << 20,
    };
    let address = addresses(1)[0];
    let mut plan = HostPlan {
        bootstrap: true,
        snapshot: policy,
        ..HostPlan::new(address, &[])
    };
    let memory = plan.memory.clone();
    let deadline = Instant::now() + DEADLINE;
    for life in 0.. {
        let host = form(vec![plan.clone()]).await.remove(0);
        host.until("its leadership", |status| status.is_leader)
            .await;
        for number in 0..10 {
            host.commit(&format!("command-{life}-{number}")).await;
        }
        host.node.stop().await;
        plan = host.kill();
        plan.bootstrap = false;
        if memory.entry(1).is_none() {
            break;
        }
        assert!(life < 6 && Instant::now() < deadline, "the log only grows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_at_a_leader_whose_disk_stalls_fail_in_time() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    let former = hosts.remove(lead);
    former.commit("before").await;
    let id = former.node.id();
    former.plan.memory.slow_down(10 * DEADLINE);
    let deadline = Instant::now() + DEADLINE;
    let is_other =
        |status: &RaftStatus| matches!(&status.leader, Some((leader, _)) if *leader != id);
    // Until its queue of writes is full, and consensus waits for the disk.
    for number in 0.. {
        // Rejected while the queue is full.
        let _ = former.propose(&format!("command-{number}"));
        if is_other(&hosts[0].status()) {
            break;
        }
        assert!(Instant::now() < deadline, "it is not replaced");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(former.status().is_leader, "it knows of its successor");
    for _ in 0..2 {
        let read = tokio::time::timeout(DEADLINE, former.node.confirm_read()).await;
        let read = read.expect("it ends");
        assert!(
            matches!(read, Err(ReadError::NotConfirmed { .. })),
            "{read:?}"
        );
    }
}
