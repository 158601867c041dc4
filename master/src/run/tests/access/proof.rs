//! What is refused before it is done: tokens without TLS.

use argosy_proto::transport::ExpectedPeer;
use argosy_state::access::{TokenId, TokenSecret};
use axum::body::Body;
use axum::http::{Request, StatusCode};

use super::*;
use crate::run::tests::actors::ConnectionProof;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_tls_is_refused_whatever_it_is() {
    let cluster = TestCluster::start(ConnectionProof::Unauthenticated);
    let (leader, follower) = cluster.places().await;
    let secret = TokenSecret {
        id: TokenId(0xf0),
        secret: [9; 32],
    };
    for place in [leader, follower] {
        let (client, address) = cluster.http("", place);
        let request = Request::get("/v1/cluster")
            .header("authorization", format!("Bearer {secret}"))
            .body(Body::empty())
            .unwrap();
        let expected = ExpectedPeer::MASTER;
        let sent = client.send(&address, &expected, request);
        let answer = tokio::time::timeout(TIMEOUT, sent).await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await;
        let text = String::from_utf8(body.unwrap().to_vec()).unwrap();
        assert!(text.contains("without TLS"), "{text}");
    }
    cluster.end().await;
}
