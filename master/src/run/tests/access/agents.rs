//! Requests that masters forward to agents: only to the agent that the rules were asked about.

use argosy_proto::transport::ExpectedPeer;
use argosy_state::testing::registration;

use super::*;

/// Requests the preparation of the task `framework-1/a` from an agent; returns the status and the
/// answer.
async fn preparation(cluster: &TestCluster, place: usize, agent: &str) -> (u16, String) {
    let (client, address) = cluster.http("operator/root", place);
    let path = format!("/v1/agents/{agent}/preparation?task=framework-1/a");
    let expected = ExpectedPeer::MASTER;
    let answer = client.get(&address, &expected, &path, 1 << 20).await;
    let (status, body) = answer.unwrap();
    (status, String::from_utf8(body).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_the_address_of_another_one_gets_no_request_for_it() {
    let (cluster, (leader, _), population) = populated().await;
    // An agent reports its own address, which is not verified.
    let address = registration(9 + leader as u64, "cpus:1").info.address;
    let other = cluster.listen(&address, "agent/host-2");
    let (status, answer) = preparation(&cluster, leader, "agent-1").await;
    let refusal = format!("agent/host-2 is at {address}, and not agent/host-1");
    assert!(
        status == 503 && answer.contains(&refusal),
        "{status} {answer}"
    );
    drop((other, population));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_requested_from_its_own_agent_only() {
    let (cluster, (leader, _), population) = populated().await;
    let (status, answer) = preparation(&cluster, leader, "agent-2").await;
    assert!(
        status == 404 && answer.contains("framework-1/a is not at agent-2"),
        "{status} {answer}"
    );
    drop(population);
    cluster.end().await;
}
