//! Requests that masters forward to agents: only to the agent that the rules were asked about.

use argosy_proto::server::{PortLimits, serve};
use argosy_proto::transport::ExpectedPeer;
use argosy_state::testing::registration;
use axum::body::Body;
use axum::http::Request;

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

/// An operator's browser may have a certificate, and follow a link to such a path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_an_agent_runs_no_script_in_the_origin_of_a_master() {
    let (cluster, (leader, _), population) = populated().await;
    let address = registration(9 + leader as u64, "cpus:1").info.address;
    let page = async || {
        let kind = ("content-type", "text/html");
        let inline = ("content-disposition", "inline; filename=\"page.html\"");
        ([kind, inline], "<script>fetch('/v1/tokens')</script>")
    };
    let (router, stop) = (Router::new().fallback(page), CancellationToken::new());
    let listener = cluster.listen(&address, "agent/host-1");
    let limits = PortLimits::of_descriptors("test", 10_000);
    let agent = tokio::spawn(serve(listener, router, limits, stop.clone()));
    let (client, address) = cluster.http("operator/root", leader);
    let expected = ExpectedPeer::MASTER;
    let get = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = client.send(&address, &expected, request).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let headers = answer.headers();
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        let policy = "default-src 'none'; sandbox";
        assert_eq!(headers["content-security-policy"], policy, "{path}");
        answer
    };
    for path in [
        "/v1/agents/agent-1/files/read?path=tasks/framework-1/a/stdout",
        "/v1/agents/agent-1/preparation?task=framework-1/a",
        "/v1/agents/agent-1/exec?task=framework-1/a",
        "/v1/agents/agent-1/attach?task=framework-1/a",
    ] {
        let answer = get(path).await;
        let headers = answer.headers();
        assert_eq!(
            headers["content-type"], "application/octet-stream",
            "{path}"
        );
        assert!(!headers.contains_key("content-disposition"), "{path}");
    }
    let own = get("/v1/agents").await;
    assert_eq!(own.headers()["content-type"], "application/json");
    stop.cancel();
    agent.await.unwrap();
    drop(population);
    cluster.end().await;
}
