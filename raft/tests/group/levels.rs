//! Feature levels that masters report, and a master that does not support the level of the group.

use std::time::{Duration, Instant};

use argosy_raft::MembershipError;
use argosy_state::level::{Level, Levels};

use crate::host::{DEADLINE, HostPlan, PendingNodeStart, addresses, form, leader, three};

#[tokio::test(flavor = "multi_thread")]
async fn leader_knows_all_levels_and_blocks_joins_while_it_queries() {
    let hosts = three().await;
    let lead = leader(&hosts).await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let members = hosts[lead].node.members();
        if members.iter().all(|one| one.levels == Some(Levels::OWN)) {
            break;
        }
        assert!(Instant::now() < deadline, "{members:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let follower = &hosts[(lead + 1) % 3].node;
    let known = follower.members();
    let known = known.iter().filter(|one| one.levels.is_some());
    assert_eq!(known.count(), 1, "a follower knows its own");
    let asked = follower.lock_members().await.unwrap_err();
    assert_eq!(asked, MembershipError::NoLeader);

    let held = hosts[lead].node.lock_members().await.unwrap();
    let levels: Vec<_> = held.members.iter().map(|(_, _, levels)| *levels).collect();
    assert_eq!(levels, [Some(Levels::OWN); 3]);
    let busy = hosts[lead]
        .node
        .remove(hosts[(lead + 1) % 3].node.id())
        .await;
    assert_eq!(busy, Err(MembershipError::Busy));
    drop(held);
    assert!(hosts[lead].node.lock_members().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_does_not_support_the_level_of_the_group_cannot_join() {
    let addresses = addresses(2);
    let first = HostPlan {
        bootstrap: true,
        ..HostPlan::new(addresses[0], &[])
    };
    let hosts = form(vec![first]).await;
    let lead = leader(&hosts).await;
    hosts[lead].node.set_level(Level(Level::NEWEST.0 + 1));
    let joining = PendingNodeStart::begin(HostPlan::new(addresses[1], &addresses));
    let deadline = Instant::now() + DEADLINE;
    let refused = loop {
        match hosts[lead].node.join(&addresses[1].to_string()).await {
            Err(MembershipError::Unreachable { .. }) if Instant::now() < deadline => {}
            other => break other,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let refused = refused.unwrap_err().to_string();
    let words = "knows the feature levels 2-3, and the cluster is at level 4";
    assert!(refused.contains(words), "{refused}");
    assert!(hosts[lead].status().learners.is_empty());
    hosts[lead].node.set_level(Level::NEWEST);
    hosts[lead]
        .node
        .join(&addresses[1].to_string())
        .await
        .unwrap();
    joining.finish().await.unwrap();
}
