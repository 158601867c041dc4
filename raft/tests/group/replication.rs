//! Committing, reading and catching up.

use std::io::Write as _;
use std::time::Duration;

use argosy_raft::{ENTRY_LIMIT_BYTES, Proposal, ProposeError, SnapshotPolicy};
use bytes::Bytes;

use crate::host::{
    DEADLINE, NodeHost, PendingNodeStart, TIMING, equal, leader, three, three_with,
    two_of_three_with,
};

#[tokio::test(flavor = "multi_thread")]
async fn three_masters_commit_the_same_commands_in_the_same_order() {
    let hosts = three().await;
    let lead = leader(&hosts).await;
    for number in 0..500 {
        hosts[lead].propose(&format!("command-{number}")).unwrap();
    }
    hosts[lead]
        .until_registry("all commands", |registry| registry.count() == 500)
        .await;
    let registry = equal(&hosts).await;
    assert_eq!(registry.count(), 500);
    // Together, not one by one: group commit takes all queued commands.
    assert!(
        registry.index < 250,
        "500 commands took {} entries",
        registry.index
    );
    hosts[lead]
        .until_progress("everything applied", |progress| {
            progress.applied_index == registry.index
        })
        .await;
    assert_eq!(hosts[lead].status().voters.len(), 3);
    assert!(hosts[lead].node.quorum_acked_ago().unwrap() < Duration::from_secs(5));
    let follower = &hosts[(lead + 1) % 3];
    assert_eq!(follower.propose("x"), Err(ProposeError::NotLeader));
    assert_eq!(follower.node.quorum_acked_ago(), None);
}

/// A commit must not wake the watchers of the status.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_does_not_change_the_status() {
    let hosts = three().await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("first").await;
    equal(&hosts).await;
    hosts[lead]
        .until("the first commit", |status| {
            status.phases.first_commit_us > 0
        })
        .await;
    let mut watched: Vec<_> = hosts.iter().map(|host| host.node.status()).collect();
    let before: Vec<_> = watched
        .iter_mut()
        .map(|one| one.borrow_and_update().clone())
        .collect();
    let applied = hosts[lead].node.progress().applied_index;
    for number in 0..50 {
        hosts[lead].commit(&number.to_string()).await;
    }
    equal(&hosts).await;
    for (one, before) in watched.iter().zip(before) {
        // A busy machine may have had an election.
        let same_term = one.borrow().term == before.term;
        assert!(!(same_term && one.has_changed().unwrap()), "{before:?}");
    }
    assert!(hosts[lead].node.progress().applied_index > applied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_read_at_a_follower_sees_all_entries_committed_by_the_leader() {
    let hosts = three().await;
    let lead = leader(&hosts).await;
    for number in 0..50 {
        let command = format!("command-{number}");
        hosts[lead].commit(&command).await;
        for follower in hosts
            .iter()
            .enumerate()
            .filter(|(position, _)| *position != lead)
            .map(|(_, host)| host)
        {
            let index = follower.node.confirm_read().await.unwrap();
            let registry = follower
                .until_registry("the read index", |registry| registry.index >= index)
                .await;
            assert!(
                registry.has(&command),
                "{command} is missing at index {index}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_has_a_term_to_confirm() {
    let hosts = three().await;
    let lead = leader(&hosts).await;
    let term = hosts[lead].status().term;
    for (position, host) in hosts.iter().enumerate() {
        let expected = (position == lead).then_some(term);
        assert_eq!(host.node.confirm_term().await.unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lagging_follower_catches_up_by_a_snapshot() {
    let policy = SnapshotPolicy {
        entries: 20,
        bytes: 64 << 20,
    };
    let (mut hosts, lead, away) = two_of_three_with(policy).await;
    for number in 0..200 {
        hosts[lead].commit(&format!("command-{number}")).await;
    }
    hosts[lead]
        .until_progress("a snapshot", |progress| progress.snapshot_index > 100)
        .await;

    let back = PendingNodeStart::begin(away).finish().await.unwrap();
    back.until_registry("the last command", |registry| registry.has("command-199"))
        .await;
    assert!(
        back.registry().loads >= 2,
        "it was loaded once at start, and once by the snapshot"
    );
    back.until_progress("the snapshot", |progress| progress.snapshot_index > 100)
        .await;
    hosts.push(back);
    assert_eq!(equal(&hosts).await.count(), 201);
}

/// During the transfer of the snapshot, the log is truncated several times.
#[tokio::test(flavor = "multi_thread")]
async fn lagging_follower_needs_one_snapshot_while_commands_continue() {
    let policy = SnapshotPolicy {
        entries: 20,
        bytes: 64 << 20,
    };
    let (hosts, lead, away) = two_of_three_with(policy).await;
    for number in 0..16 {
        hosts[lead].propose_large(number).await;
    }
    for number in 0..100 {
        hosts[lead].commit(&format!("command-{number}")).await;
    }
    let back = PendingNodeStart::begin(away).finish().await.unwrap();
    let deadline = std::time::Instant::now() + DEADLINE;
    let lag = || hosts[lead].registry.borrow().index - back.registry.borrow().index;
    let mut further = 0;
    while lag() > 10 || further < 100 {
        assert!(
            std::time::Instant::now() < deadline,
            "after {further} commands it still lags, with {} snapshots",
            back.registry().loads - 1
        );
        hosts[lead].commit(&format!("further-{further}")).await;
        further += 1;
    }
    let loads = back.registry().loads;
    assert_eq!(loads, 2, "once at start, and once by the snapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_commands_are_split_into_entries_and_snapshots() {
    let policy = SnapshotPolicy {
        entries: 10_000,
        bytes: 4 << 20,
    };
    let mut hosts = three_with(policy).await;
    let lead = leader(&hosts).await;
    let too_large = Bytes::from(vec![0; ENTRY_LIMIT_BYTES + 1]);
    let refused = hosts[lead].node.try_propose(Proposal {
        at_ms: 1,
        command: too_large,
        work: 1,
    });
    assert!(matches!(refused, Err(ProposeError::TooLarge { .. })));
    let away = hosts.remove((lead + 1) % 3).kill();
    let lead = leader(&hosts).await;
    for number in 0..16 {
        hosts[lead].propose_large(number).await;
    }
    hosts[lead]
        .until_registry("all commands", |registry| registry.count() == 16)
        .await;
    hosts[lead]
        .until_progress("a snapshot by bytes", |progress| {
            progress.snapshot_index > 0
        })
        .await;
    hosts.push(PendingNodeStart::begin(away).finish().await.unwrap());
    hosts[2]
        .until_registry("all commands", |registry| registry.count() == 16)
        .await;
    equal(&hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_of_large_entries_is_purged_by_bytes() {
    let policy = SnapshotPolicy {
        entries: 10_000,
        bytes: 4 << 20,
    };
    let hosts = three_with(policy).await;
    let lead = leader(&hosts).await;
    // The limit is exceeded by every sixth command, so five times.
    for number in 0..30_u8 {
        hosts[lead].propose_large(number).await;
        for host in &hosts {
            host.until_registry("the command", |registry| {
                registry.count() == u64::from(number) + 1
            })
            .await;
        }
    }
    // Beyond the entry at which the limit is exceeded for the first time.
    let is_purged = |host: &NodeHost| host.plan.memory.entry(10).is_none();
    let deadline = std::time::Instant::now() + DEADLINE;
    while !hosts.iter().all(is_purged) {
        assert!(std::time::Instant::now() < deadline, "the log only grows");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    hosts[lead].commit("after").await;
    equal(&hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn isolated_leader_fills_only_its_queue_and_knows_its_age() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("before").await;
    let host = hosts.remove(lead);
    for other in hosts {
        other.kill_and_wait().await;
    }
    let command = Bytes::from(vec![7; 100 << 10]);
    let mut taken = 0;
    let refused = loop {
        match host.node.try_propose(Proposal {
            at_ms: 1,
            command: command.clone(),
            work: 1,
        }) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 2_000, "the queue has no end");
    };
    assert!(
        matches!(refused, ProposeError::Full | ProposeError::NotLeader),
        "{refused}"
    );
    // Operators read this: it has no structure of consensus in it.
    let unconfirmed = host.node.confirm_read().await.unwrap_err().to_string();
    assert!(!unconfirmed.contains(['{', '[', '(']), "{unconfirmed}");
    let limit = Duration::from_millis(TIMING.election_max_ms);
    let deadline = std::time::Instant::now() + DEADLINE;
    // `None`: it has even stepped down.
    while host.node.quorum_acked_ago().is_some_and(|ago| ago <= limit) {
        assert!(
            std::time::Instant::now() < deadline,
            "it still reports a quorum that is gone"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(host.node.confirm_read().await.is_err());
    assert!(host.node.confirm_term().await.is_err());
    assert_eq!(host.registry().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_raft_port_has_no_effect() {
    let hosts = three().await;
    let lead = leader(&hosts).await;
    let term = hosts[lead].status().term;
    for host in &hosts {
        for garbage in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0xff; 4096],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x10\x00\xff\xff",
        ] {
            let mut socket = std::net::TcpStream::connect(host.plan.address).unwrap();
            // The port may have closed the connection already.
            let _ = socket.write_all(garbage);
        }
    }
    hosts[lead].commit("after").await;
    equal(&hosts).await;
    assert_eq!(hosts[lead].status().term, term);
}

#[tokio::test(flavor = "multi_thread")]
async fn group_restarts_from_its_stores_after_a_full_kill() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    for number in 0..20 {
        hosts[lead].commit(&format!("command-{number}")).await;
    }
    let plans: Vec<_> = hosts.drain(..).map(NodeHost::kill).collect();
    let mut hosts = Vec::new();
    for plan in plans {
        hosts.push(PendingNodeStart::begin(plan).finish().await.unwrap());
    }
    let lead = leader(&hosts).await;
    hosts[lead].commit("after").await;
    assert_eq!(equal(&hosts).await.count(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_master_reports_its_term_immediately() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("before").await;
    let term = hosts[lead].status().term;
    let mut plan = hosts.swap_remove(lead).kill();
    for _ in 0..10 {
        let host = PendingNodeStart::begin(plan).finish().await.unwrap();
        let known = host.status().term;
        assert!(known >= term, "it knew term {term}, and now {known}");
        plan = host.kill();
    }
}
