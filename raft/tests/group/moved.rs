//! Masters that start again at another address, with their data.

use argosy_raft::MembershipError;

use crate::host::{HostPlan, PendingNodeStart, addresses, equal, leader, three};

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_master_is_a_member_again_when_its_address_is_recorded() {
    let mut hosts = three().await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("before").await;
    let follower = hosts.remove((lead + 1) % 3);
    let id = follower.node.id();
    let plan = follower.kill();
    let (former, address) = (plan.address.to_string(), addresses(1)[0]);
    let moved = HostPlan { address, ..plan };
    let moved = PendingNodeStart::begin(moved).finish().await.unwrap();
    let address = address.to_string();
    let status = moved
        .until("a mismatch", |status| status.address_mismatch.is_some())
        .await;
    let text = status.address_mismatch.unwrap().to_string();
    for part in [
        format!("for master-{id}"),
        format!("Raft {former} (now {address})"),
        format!("`argosy master join {address}`"),
    ] {
        assert!(text.contains(&part), "{part} is not in {text}");
    }
    let lead = leader(&hosts).await;
    let term = hosts[lead].status().term;
    // Any master accepts the request.
    assert_eq!(hosts[1 - lead].node.join(&address).await, Ok(id));
    hosts[lead].commit("after").await;
    moved
        .until_registry("the new entry", |registry| registry.has("after"))
        .await;
    moved
        .until("its address", |status| status.address_mismatch.is_none())
        .await;
    // The streams of the leader follow the address, not those of the next leader.
    assert_eq!(hosts[lead].status().term, term);
    hosts.push(moved);
    for host in &hosts {
        let status = host.status();
        assert_eq!(status.member(id).unwrap().raft_address, address);
    }
    equal(&hosts).await;
    let again = hosts[lead].node.join(&address).await;
    assert_eq!(again, Err(MembershipError::AlreadyMember { address, id }));
}
