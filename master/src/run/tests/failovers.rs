//! Each master shows the failovers that any of them led, and the state history of a task.

use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use argosy_proto::v1::write_operation::Operation;

use super::actors::{ConnectionProof, TestCluster, link};
use super::traces::{launch, offered};
use super::*;

async fn failovers(cluster: &TestCluster, place: usize) -> Vec<v1::Failover> {
    let mut client = OperatorClient::new(cluster.channel("operator/alice", place));
    let consistency = v1::Consistency::Local.into();
    let asked = client.get_cluster(v1::GetClusterRequest { consistency });
    let answer = tokio::time::timeout(TIMEOUT, asked).await;
    answer.unwrap().unwrap().into_inner().failovers
}

async fn pause(deadline: tokio::time::Instant, awaited: &str) {
    let is_late = tokio::time::Instant::now() > deadline;
    assert!(!is_late, "{awaited}");
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Makes another master the leader. Returns the former one.
async fn transfer(cluster: &TestCluster, deadline: tokio::time::Instant) -> usize {
    let (leader, _) = cluster.places().await;
    let mut client = OperatorClient::new(cluster.channel("operator/alice", leader));
    // The log of the others may still be too short.
    while client
        .transfer_leader(v1::TransferLeaderRequest::default())
        .await
        .is_err()
    {
        pause(deadline, "a transfer is accepted").await;
    }
    while cluster.places().await.0 == leader {
        pause(deadline, "another master leads").await;
    }
    leader
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_master_shows_the_failovers_of_all() {
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    let mut leaders = Vec::new();
    for _ in 0..2 {
        leaders.push(transfer(&cluster, deadline).await);
    }
    leaders.push(cluster.places().await.0);
    assert!(leaders[0] != leaders[1] && leaders[1] != leaders[2]);
    loop {
        let mut seen = Vec::new();
        for place in 0..3 {
            seen.push(failovers(&cluster, place).await);
        }
        let first = seen[0].first();
        let is_complete = seen[0].len() >= leaders.len()
            && first.is_some_and(|first| first.kind() == v1::FailoverKind::FirstElection);
        if is_complete && seen[0] == seen[1] && seen[1] == seen[2] {
            let epochs: Vec<_> = seen[0].iter().map(|failover| failover.epoch).collect();
            assert!(epochs.is_sorted(), "{epochs:?}");
            assert!(seen[0].iter().all(|failover| failover.first_commit_ms > 0));
            assert!(seen[0].iter().all(|failover| {
                failover.leader.starts_with("master-") && !failover.leader_address.is_empty()
            }));
            assert!(seen[0][1..].iter().all(|failover| {
                failover.kind() != v1::FailoverKind::FirstElection
                    && failover.former_leader.starts_with("master-")
                    && !failover.former_leader_address.is_empty()
            }));
            break;
        }
        pause(deadline, &format!("{leaders:?}: {seen:?}")).await;
    }
    cluster.end().await;
}

/// Returns the history of the task `task-1` as the master at `place` has it.
async fn states(cluster: &TestCluster, place: usize, framework: &str) -> Vec<v1::TaskTransition> {
    let mut client = OperatorClient::new(cluster.channel("operator/alice", place));
    let request = v1::GetRequest {
        id: "task-1".to_owned(),
        framework_id: framework.to_owned(),
        ..Default::default()
    };
    let answer = tokio::time::timeout(TIMEOUT, client.get_task(request)).await;
    answer.unwrap().unwrap().into_inner().history
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_master_shows_all_states_of_a_task_over_changes_of_leader() {
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    let (leader, _) = cluster.places().await;
    let agent = link(&cluster, "agent/host-1", leader).await;
    let mut client = SchedulerClient::new(cluster.channel("framework/web", leader));
    let (_events, offer) = offered(&mut client).await;
    let (framework, agent_id) = (offer.framework_id.clone(), offer.agent_id.clone());
    client.accept(launch(offer, 1)).await.unwrap();
    let mut expected = vec![v1::TaskState::Staging];
    transfer(&cluster, deadline).await;
    // The next leader commits the end of the task.
    let (leader, _) = cluster.places().await;
    let gone = v1::MarkAgentGone { agent_id };
    let batch = v1::WriteBatch {
        operations: vec![v1::WriteOperation {
            operation: Some(Operation::MarkAgentGone(gone)),
        }],
        ..Default::default()
    };
    let mut operator = OperatorClient::new(cluster.channel("operator/alice", leader));
    while operator.write_one(batch.clone()).await.is_err() {
        pause(deadline, "the agent is marked").await;
    }
    expected.push(v1::TaskState::GoneByOperator);
    for _ in 0..2 {
        let first = loop {
            let first = states(&cluster, 0, &framework).await;
            if first.len() == expected.len() {
                break first;
            }
            pause(deadline, &format!("{first:?}")).await;
        };
        let found: Vec<_> = first.iter().map(v1::TaskTransition::state).collect();
        assert_eq!(found, expected);
        let order: Vec<_> = first.iter().map(|one| (one.number, one.revision)).collect();
        assert_eq!((order[0].0, order[1].0), (1, 2));
        assert!(order[0].1.unwrap().index < order[1].1.unwrap().index);
        for place in 1..3 {
            assert_eq!(
                states(&cluster, place, &framework).await,
                first,
                "master {place}"
            );
        }
        transfer(&cluster, deadline).await;
    }
    drop(agent);
    cluster.end().await;
}
