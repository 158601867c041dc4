//! A master that has not applied a revocation yet decides about no call by what it has applied.

use argosy_proto::http_client::HttpClientError;
use argosy_proto::transport::ExpectedPeer;
use argosy_state::access::{KeyHash, TokenId, TokenSecret};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use sha2::Digest as _;

use super::*;

/// Creates a bearer token of an admin.
async fn create(cluster: &TestCluster, place: usize, id: u64) -> TokenSecret {
    let secret = TokenSecret {
        id: TokenId(id),
        secret: [9; 32],
    };
    let hash: [u8; 32] = sha2::Sha256::digest(secret.secret).into();
    let principal = "operator/ci".to_owned();
    let create = v1::CreateToken {
        token_id: secret.id.to_string(),
        secret_hash: KeyHash(hash).to_string(),
        purpose: Some(v1::create_token::Purpose::Principal(principal)),
        ..Default::default()
    };
    let create = v1::write_operation::Operation::CreateToken(create);
    write(cluster, ("operator/root", place), create)
        .await
        .unwrap();
    secret
}

/// Sends a request with a token until a leader is there to decide. An answer that is cut off is an
/// error.
async fn request(
    (cluster, place): (&TestCluster, usize),
    (method, path): (&str, &str),
    token: &TokenSecret,
) -> Result<StatusCode, HttpClientError> {
    let (client, address) = cluster.http("", place);
    let (expected, deadline) = (ExpectedPeer::MASTER, Instant::now() + TIMEOUT);
    loop {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("authorization", format!("Bearer {token}"));
        let request = request.body(Body::empty()).unwrap();
        let sent = client.send(&address, &expected, request);
        let answer = tokio::time::timeout(TIMEOUT, sent).await.unwrap();
        let status = answer?.status();
        if status != StatusCode::SERVICE_UNAVAILABLE || Instant::now() > deadline {
            return Ok(status);
        }
    }
}

/// Returns the ids of the members.
async fn members(cluster: &TestCluster, place: usize) -> Vec<String> {
    let mut client = OperatorClient::new(cluster.channel("operator/root", place));
    let consistency = v1::Consistency::Local.into();
    let seen = client.get_cluster(v1::GetClusterRequest { consistency });
    let masters = seen.await.unwrap().into_inner().masters;
    masters.into_iter().map(|master| master.node_id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_removes_no_member_at_a_master_that_lags() {
    let cluster = TestCluster::start_enforcing();
    let (leader, follower) = cluster.places().await;
    let former = members(&cluster, leader).await;
    let mut client = OperatorClient::new(cluster.channel("operator/root", 3 - leader - follower));
    let consistency = v1::Consistency::Local.into();
    let third = client.get_cluster(v1::GetClusterRequest { consistency });
    let third = third.await.unwrap().into_inner().answered_by;
    let token = create(&cluster, leader, 0xf0).await;
    let known = request((&cluster, follower), ("GET", "/v1/cluster"), &token).await;
    assert_eq!(known.unwrap(), StatusCode::OK);

    let held = cluster.hold(follower);
    let token_id = token.id.to_string();
    let revoke = v1::write_operation::Operation::RevokeToken(v1::RevokeToken { token_id });
    write(&cluster, ("operator/root", leader), revoke)
        .await
        .unwrap();
    let path = format!("/v1/masters/{third}");
    let removing = request((&cluster, follower), ("DELETE", &path), &token);
    // It was admitted, and asks the leader how far the log is.
    let releasing = async {
        held.has_request().await;
        drop(held);
    };
    let (removed, ()) = tokio::join!(removing, releasing);
    assert_eq!(members(&cluster, leader).await, former);
    assert_eq!(removed.unwrap(), StatusCode::UNAUTHORIZED);
    cluster.end().await;
}
