//! Leaders that fail, transfer leadership, or are missing.

use std::time::{Duration, Instant};

use argosy_raft::{ProposeError, RaftStatus};

use crate::host::{NodeHost, PendingNodeStart, TIMING, commit_somewhere, equal, leader, three};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_and_nothing_committed_is_lost() {
    let mut hosts = three().await;
    let mut fastest = Duration::MAX;
    for round in 0..5 {
        let lead = leader(&hosts).await;
        for number in 0..10 {
            hosts[lead].commit(&format!("{round}-{number}")).await;
        }
        let (term, id) = (hosts[lead].status().term, hosts[lead].status().id);
        let dead = hosts.remove(lead);
        let started = Instant::now();
        let plan = dead.kill();
        let next = commit_somewhere(&hosts, &format!("{round}-after")).await;
        fastest = fastest.min(started.elapsed());
        let elected = |status: &RaftStatus| {
            let phases = status.phases;
            status.term > term && phases.elected_us > 0 && phases.elected_term == status.term
        };
        let status = hosts[next].until("its election", elected).await;
        // The leader is found dead before an ordinary election would begin.
        let found_dead = |host: &NodeHost| host.status().phases.dead_term == term;
        assert!(hosts.iter().any(found_dead), "{status:?}");
        for number in 0..10 {
            assert!(hosts[next].registry().has(&format!("{round}-{number}")));
        }
        let members = hosts[next].node.members();
        let unheard = members.iter().find(|one| one.id == id).unwrap();
        assert_eq!(unheard.lag, None, "the lag of a dead master is unknown");
        hosts.push(PendingNodeStart::begin(plan).finish().await.unwrap());
    }
    // An ordinary election begins after the shortest timeout. A stalled machine delays one.
    let ordinary = Duration::from_millis(TIMING.election_min_ms);
    assert!(fastest < ordinary, "{fastest:?}");
    assert!(equal(&hosts).await.count() >= 55);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_follower_causes_no_election() {
    let mut hosts = three().await;
    for _ in 0..3 {
        let lead = leader(&hosts).await;
        let (term, id) = (hosts[lead].status().term, hosts[lead].status().id);
        let follower = hosts.remove((lead + 1) % 3).kill();
        let lead = leader(&hosts).await;
        hosts[lead]
            .commit(&format!("without-{}", hosts[lead].registry().index))
            .await;
        hosts.push(PendingNodeStart::begin(follower).finish().await.unwrap());
        equal(&hosts).await;
        let lead = leader(&hosts).await;
        assert_eq!(
            (hosts[lead].status().term, hosts[lead].status().id),
            (term, id)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_transferred_to_the_named_member() {
    let hosts = three().await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("before").await;
    let heir = &hosts[(lead + 1) % 3];
    // Any master accepts the request.
    let asked = &hosts[(lead + 2) % 3];
    let now = asked.node.transfer(Some(heir.node.id())).await.unwrap();
    assert_eq!(now, heir.node.id());
    let status = heir
        .until("its leadership", |status| status.is_leader)
        .await;
    assert!(status.term > 1);
    heir.commit("after").await;
    let to_anyone = heir.node.transfer(None).await.unwrap();
    assert_ne!(to_anyone, heir.node.id());
    equal(&hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gracefully_stopped_leader_is_replaced_at_once() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("before").await;
    let stopped = hosts.remove(lead);
    let started = Instant::now();
    stopped.node.stop().await;
    commit_somewhere(&hosts, "after").await;
    println!("replaced after {:?}", started.elapsed());
    let status = stopped.status();
    assert!(!status.is_leader && status.leader.is_none() && status.failure.is_none());
    assert_eq!(stopped.propose("late"), Err(ProposeError::Stopped));
    equal(&hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_starts_alone_does_not_increase_the_term() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("before").await;
    equal(&hosts).await;
    let term = hosts[lead].status().term;
    let mut plans: Vec<_> = hosts.drain(..).map(NodeHost::kill).collect();
    let alone = PendingNodeStart::begin(plans.remove(0))
        .finish()
        .await
        .unwrap();
    // Time for several elections: this shows that something does not happen.
    tokio::time::sleep(Duration::from_millis(3 * TIMING.election_max_ms)).await;
    assert_eq!(alone.status().term, term);
    assert!(!alone.status().is_leader);
    let mut hosts = vec![alone];
    for plan in plans {
        hosts.push(PendingNodeStart::begin(plan).finish().await.unwrap());
    }
    let lead = leader(&hosts).await;
    hosts[lead].commit("after").await;
    equal(&hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_without_a_quorum_reports_no_leader() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    let began = Instant::now();
    hosts[lead].commit("before").await;
    equal(&hosts).await;
    let led = hosts[lead].status();
    assert_eq!(led.leaderless_since, None);
    // The follower first: two survivors of the leader could elect another one.
    let follower = hosts.remove((lead + 1) % 3);
    let lead = usize::from(hosts[1].status().is_leader);
    let dead_follower = follower.kill();
    let dead_leader = hosts.remove(lead).kill();
    let alone = hosts[0]
        .until("no leader", |status| status.leader.is_none())
        .await;
    let since = alone
        .leaderless_since
        .expect("it is counted from somewhere");
    assert!(since.into_std() <= Instant::now() && since.into_std() >= began);
    assert_eq!(alone.term, led.term);
    for plan in [dead_leader, dead_follower] {
        hosts.push(PendingNodeStart::begin(plan).finish().await.unwrap());
    }
    leader(&hosts).await;
    hosts[0]
        .until("a leader again", |status| {
            status.leader.is_some() && status.leaderless_since.is_none()
        })
        .await;
}
