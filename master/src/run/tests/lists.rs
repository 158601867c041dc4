//! Tests of lists over gRPC, from a leader and through a follower.

use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;

use super::actors::{ConnectionProof, TestCluster, register, subscribe};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_and_followers_return_the_same_page() {
    let cluster = TestCluster::start(ConnectionProof::Unauthenticated);
    let (leader, follower) = cluster.places().await;
    for place in [leader, follower] {
        register(&cluster, "", place).await;
        subscribe(&cluster, "", place).await;
    }
    for place in [leader, follower] {
        let mut client = OperatorClient::new(cluster.channel("", place));
        let request = || v1::ListRequest {
            page_size: 1,
            ..Default::default()
        };
        let answer = client.list_agents(request()).await.unwrap();
        assert!(answer.metadata().contains_key("argosy-leader"));
        let first = answer.into_inner();
        let rest = v1::ListRequest {
            page_token: first.next_page_token.clone(),
            ..request()
        };
        let second = client.list_agents(rest).await.unwrap().into_inner();
        assert_eq!(second.next_page_token, "");
        assert!(first.revision.unwrap().index > 0);
        let mut agents = [first.agents, second.agents].concat();
        assert_eq!(agents.len(), 2);
        for listed in &mut agents {
            let get = v1::GetRequest {
                id: listed.agent_id.clone(),
                ..Default::default()
            };
            let mut single = client.get_agent(get).await.unwrap().into_inner();
            assert!(single.info.is_some());
            // Their links have just ended.
            (listed.connected, single.connected) = (false, false);
            assert_eq!(*listed, single);
        }
        let tasks = client.list_tasks(request()).await.unwrap().into_inner();
        assert!(tasks.tasks.is_empty() && tasks.revision.is_some());
        let frameworks = client.list_frameworks(request()).await.unwrap();
        let frameworks = frameworks.into_inner();
        assert_eq!(frameworks.frameworks.len(), 1);
        assert_eq!(frameworks.next_page_token, "framework-1");
        let offers = client.list_offers(v1::ListRequest::default()).await;
        assert!(offers.unwrap().into_inner().revision.is_some());
        let wrong = v1::ListRequest {
            page_token: "none".to_owned(),
            ..request()
        };
        for refused in [
            client.list_agents(wrong.clone()).await.map(drop),
            client.list_tasks(wrong.clone()).await.map(drop),
            client.list_offers(wrong.clone()).await.map(drop),
        ] {
            assert_eq!(refused.unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
    cluster.end().await;
}
