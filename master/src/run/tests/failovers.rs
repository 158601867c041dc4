//! Each master shows the failovers that any of them led.

use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;

use super::actors::{ConnectionProof, TestCluster};
use super::*;

async fn failovers(cluster: &TestCluster, place: usize) -> Vec<v1::Failover> {
    let mut client = OperatorClient::new(cluster.channel("operator/alice", place));
    let consistency = v1::Consistency::Local.into();
    let asked = client.get_cluster(v1::GetClusterRequest { consistency });
    let answer = tokio::time::timeout(TIMEOUT, asked).await;
    answer.unwrap().unwrap().into_inner().failovers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_master_shows_the_failovers_of_all() {
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    let pause = async |awaited: &str| {
        let is_late = tokio::time::Instant::now() > deadline;
        assert!(!is_late, "{awaited}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut leaders = Vec::new();
    for _ in 0..2 {
        let (leader, _) = cluster.places().await;
        leaders.push(leader);
        let mut client = OperatorClient::new(cluster.channel("operator/alice", leader));
        // The log of the others may still be too short.
        while client
            .transfer_leader(v1::TransferLeaderRequest::default())
            .await
            .is_err()
        {
            pause("a transfer is accepted").await;
        }
        while cluster.places().await.0 == leader {
            pause("another master leads").await;
        }
    }
    leaders.push(cluster.places().await.0);
    assert!(leaders[0] != leaders[1] && leaders[1] != leaders[2]);
    loop {
        let mut seen = Vec::new();
        for place in 0..3 {
            seen.push(failovers(&cluster, place).await);
        }
        let is_complete = seen[0].len() >= leaders.len();
        if is_complete && seen[0] == seen[1] && seen[1] == seen[2] {
            let epochs: Vec<_> = seen[0].iter().map(|failover| failover.epoch).collect();
            assert!(epochs.is_sorted(), "{epochs:?}");
            assert!(seen[0].iter().all(|failover| failover.first_commit_ms > 0));
            break;
        }
        pause(&format!("{leaders:?}: {seen:?}")).await;
    }
    cluster.end().await;
}
