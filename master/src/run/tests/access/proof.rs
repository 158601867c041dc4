//! What is refused before it is done: tokens without TLS, values of secrets, paths without a row.

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_sealed_only_for_a_caller_that_may_set_it() {
    let cluster = TestCluster::start_without_secret_keys();
    let (leader, follower) = cluster.places().await;
    let policy = format!("{POLICY}\nallow framework/web set-secret secret:eng/db");
    set_policy(&cluster, leader, &policy).await;
    let set = |name: &str| {
        let secret = v1::SetSecret {
            name: name.to_owned(),
            value: b"s3cret".to_vec(),
        };
        v1::write_operation::Operation::SetSecret(secret)
    };
    for place in [leader, follower] {
        for (principal, name, end) in [
            ("operator/olga", "eng/db", End::Denied),
            ("framework/web", "eng/other", End::Denied),
            ("framework/web", "eng/db", End::Served),
            ("operator/root", "eng/other", End::Served),
        ] {
            let written = write(&cluster, (principal, place), set(name)).await;
            let why = written.unwrap_err();
            // These masters have no key, which is the next thing that is checked.
            let is_about_key = why.message().contains("--secrets-key");
            assert_eq!(is_about_key, end == End::Served, "{why}");
            assert_eq!(End::of_result::<()>(Err(why)), end, "{principal} {name}");
        }
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_without_a_row_is_refused_in_the_protocol_of_its_request() {
    let cluster = TestCluster::start_enforcing();
    let (leader, _) = cluster.places().await;
    let send = async |method: &str, path: &str, kind: &str| {
        let (client, address) = cluster.http("", leader);
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", kind).body(Body::empty());
        let expected = ExpectedPeer::MASTER;
        let sent = client.send(&address, &expected, request.unwrap());
        tokio::time::timeout(TIMEOUT, sent).await.unwrap().unwrap()
    };
    let json = "application/json";
    for path in [
        "/invented",
        "/v1/invented",
        "/grpc.invented.v1.X/Y",
        "/other.v1.X/Y",
    ] {
        let answer = send("GET", path, json).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        let answer = send("POST", path, "application/grpc").await;
        let status = answer.headers().get("grpc-status");
        assert_eq!(status.unwrap(), "12", "{path}");
    }
    let wrong = send("DELETE", "/v1/cluster", json).await;
    assert_eq!(wrong.status(), StatusCode::METHOD_NOT_ALLOWED);
    for path in ["/", "/v1", "/healthz"] {
        let answer = send("GET", path, json).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
    cluster.end().await;
}

/// The reason for which a level cannot be raised names the members of the group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_not_named_to_a_caller_that_may_not_raise_the_level() {
    let cluster = TestCluster::start_enforcing();
    let (leader, follower) = cluster.places().await;
    for place in [leader, follower] {
        for (principal, expected) in [("", End::Unproven), ("framework/web", End::Denied)] {
            let end = decided(expected, async || {
                let mut client = OperatorClient::new(cluster.channel(principal, place));
                let raised = client.raise_level(v1::RaiseLevelRequest { level: 9_999 });
                let raised = raised.await;
                if let Err(why) = &raised {
                    assert!(!why.message().contains("master-"), "{principal:?}: {why}");
                }
                End::of_result(raised)
            });
            assert_eq!(end.await, expected, "{principal:?}");
        }
    }
    cluster.end().await;
}
