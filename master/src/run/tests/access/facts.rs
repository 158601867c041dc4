//! Facts of access as JSON, from a leader and through a follower.

use std::sync::atomic::{AtomicU64, Ordering};

use argosy_proto::http_client::HttpClient;
use argosy_proto::transport::ExpectedPeer;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::*;

/// Requests of an admin to one master.
struct Admin((HttpClient, String));

impl Admin {
    /// Sends a request until a master processes it: a busy host may change leaders, and the rate
    /// that this test sets limits its own requests, without a burst after a change of leader.
    /// Returns the status and the body.
    ///
    /// All attempts have one id: a change whose answer was lost is not made twice.
    async fn send(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        static REQUESTS: AtomicU64 = AtomicU64::new(0);
        let Self((client, address)) = self;
        let (expected, deadline) = (ExpectedPeer::MASTER, Instant::now() + TIMEOUT);
        let request_id = REQUESTS.fetch_add(1, Ordering::Relaxed).to_string();
        loop {
            let request = Request::builder().method(&method).uri(path);
            let request = request.header("content-type", "application/json");
            let request = request.header("argosy-request-id", &request_id);
            let request = request.body(Body::from(body.to_string())).unwrap();
            let sent = client.send(address, &expected, request);
            let answer = timeout(TIMEOUT, sent).await.unwrap().unwrap();
            let status = answer.status().as_u16();
            if ![429, 503].contains(&status) || Instant::now() > deadline {
                let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await;
                return (status, serde_json::from_slice(&bytes.unwrap()).unwrap());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, &Value::Null).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_master_changes_and_shows_the_facts_of_access() {
    let cluster = TestCluster::start_enforcing();
    let (leader, follower) = cluster.places().await;
    let [leader, follower] =
        [leader, follower].map(|place| Admin(cluster.http("operator/alice", place)));
    let (_, policy) = follower.get("/v1/policy").await;
    assert_eq!(policy["groups"], json!(["group admin = operator/*"]));
    assert_eq!(policy.get("revision"), None);
    let rules = json!(["allow group:ops kill-task role:eng/%"]);
    let groups = json!(["group admin = operator/*", "group ops = operator/bob"]);
    let set = json!({ "rules": rules, "groups": groups });
    let (status, body) = follower.send(Method::PUT, "/v1/policy", &set).await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = leader
        .send(Method::PUT, "/v1/policy", &json!({ "rules": rules }))
        .await;
    assert_eq!(status, 409, "{body}");
    assert!(body["message"].as_str().unwrap().contains("lock out"));
    let (_, policy) = leader.get("/v1/policy").await;
    assert_eq!((&policy["rules"], &policy["groups"]), (&rules, &groups));

    for at in 0..3 {
        let create = json!({
            "tokenId": format!("{at:016x}"), "secretHash": "5e".repeat(32), "principal": "operator/ci",
        });
        let (status, body) = follower.send(Method::POST, "/v1/tokens", &create).await;
        assert_eq!(status, 200, "{body}");
    }
    let second = "/v1/tokens/0000000000000001";
    let (status, _) = leader.send(Method::DELETE, second, &json!({})).await;
    assert_eq!(status, 200);
    let (status, _) = leader.send(Method::DELETE, second, &json!({})).await;
    assert_eq!(status, 404);
    let (_, page) = follower.get("/v1/tokens?page_size=1").await;
    assert_eq!(page["tokens"][0]["tokenId"], "0000000000000000");
    let next = format!(
        "/v1/tokens?page_token={}",
        page["nextPageToken"].as_str().unwrap()
    );
    let (_, page) = follower.get(&next).await;
    assert_eq!(page["tokens"][0]["tokenId"], "0000000000000002");
    assert_eq!(page.get("nextPageToken"), None);
    assert!(!page.to_string().contains("5e5e"), "{page}");

    let limit = json!({ "subject": "everyone", "limit": { "callsPerSecond": 9, "burst": 9 } });
    let (status, body) = leader.send(Method::PUT, "/v1/rate-limits", &limit).await;
    assert_eq!(status, 200, "{body}");
    let (_, page) = follower.get("/v1/rate-limits").await;
    assert_eq!(page["limits"], json!([limit]));
    let key = format!("/v1/revoked-keys/{}", "ab".repeat(32));
    let (status, body) = follower.send(Method::PUT, &key, &json!({})).await;
    assert_eq!(status, 200, "{body}");
    let (_, page) = leader.get("/v1/revoked-keys").await;
    assert_eq!(page["keys"][0]["keyHash"], "ab".repeat(32));
    for path in ["/v1/tokens?page_token=x", "/v1/tokens?state=running"] {
        let (status, body) = leader.get(path).await;
        assert_eq!(status, 400, "{path}: {body}");
    }
    cluster.end().await;
}
