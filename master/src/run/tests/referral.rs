//! Tests of agents at a master that does not lead: those that request it are referred to the
//! leader, the others are forwarded.

use argosy_proto::v1;
use argosy_proto::v1::agents_client::AgentsClient;
use futures::StreamExt;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use super::rtt::TestMasters;
use super::*;

/// Opens a stream at a master and sends nothing on it.
async fn connected(
    address: &str,
    refers: bool,
) -> Result<Response<Streaming<v1::ToAgent>>, Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = AgentsClient::new(endpoint.connect().await.unwrap());
    let mut request = Request::new(futures::stream::pending().boxed());
    if refers {
        let value = MetadataValue::from_static("1");
        request.metadata_mut().insert("argosy-refer", value);
    }
    client.connect(request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_referred_to_the_leader_on_request() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, name) = masters.leader().await;
    let place = (leader + 1) % 3;
    let deadline = Instant::now() + TIMEOUT;
    while masters
        .seen(place)
        .await
        .is_none_or(|seen| seen.leader != name)
    {
        assert!(Instant::now() < deadline, "a follower does not know {name}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let follower = &masters.api[place];
    let referred = connected(follower, true).await.unwrap_err();
    assert_eq!(referred.code(), tonic::Code::Unavailable);
    let named = referred.metadata().get("argosy-leader");
    assert_eq!(named.unwrap(), masters.api[leader].as_str());
    // The mark by which the metrics do not count it as a failure.
    assert!(referred.metadata().contains_key("argosy-refer"));
    // As agents of earlier releases do, and those that cannot reach the leader.
    let forwarded = connected(follower, false).await.unwrap();
    assert_eq!(
        forwarded.metadata().get("argosy-leader").unwrap(),
        masters.api[leader].as_str()
    );
    connected(&masters.api[leader], true).await.unwrap();
    masters.end().await;
}
