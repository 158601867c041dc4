//! Every path of HTTP for every kind of caller.

use argosy_proto::transport::ExpectedPeer;
use axum::body::Body;
use axum::http::{Request, StatusCode};

use super::*;

/// How a request with each method and path ends for each caller of [`CALLERS`]. The objects of
/// reads are those of `framework/web`; changes name objects that do not exist.
const EXPECTED: &[(&str, &str, &str)] = &[
    ("GET", "/v1/cluster", "USSSDDDS"),
    ("GET", "/v1/agents", "USSSSSDS"),
    ("GET", "/v1/agents/{agent_id}", "USSSHHDS"),
    ("PUT", "/v1/agents/{agent_id}/attributes/{name}", "UDSSDDDS"),
    (
        "DELETE",
        "/v1/agents/{agent_id}/attributes/{name}",
        "UDSSDDDS",
    ),
    ("POST", "/v1/agents/{agent_id}/deactivate", "UDSSDDDS"),
    ("POST", "/v1/agents/{agent_id}/reactivate", "UDSSDDDS"),
    ("POST", "/v1/agents/{agent_id}/gone", "UDSSDDDS"),
    ("GET", "/v1/agents/{agent_id}/files/{verb}", "USSSSDDS"),
    ("GET", "/v1/agents/{agent_id}/preparation", "USSSSDDS"),
    ("GET", "/v1/agents/{agent_id}/exec", "UDSSDDDS"),
    ("GET", "/v1/agents/{agent_id}/attach", "UDSSDDDS"),
    ("POST", "/v1/agents/{agent_id}/tickets", "USSSSDDS"),
    ("GET", "/v1/frameworks", "USSSSSDS"),
    ("GET", "/v1/frameworks/{framework_id}", "USSSSHDS"),
    ("DELETE", "/v1/frameworks/{framework_id}", "UDSSDDDS"),
    ("GET", "/v1/frameworks/{framework_id}/explain", "USSSSHDS"),
    ("GET", "/v1/tasks", "USSSSSDS"),
    ("GET", "/v1/tasks/{framework_id}/{task_id}", "USSSSHDS"),
    ("DELETE", "/v1/tasks/{framework_id}/{task_id}", "UDSSDDDS"),
    (
        "PUT",
        "/v1/tasks/{framework_id}/{task_id}/limits",
        "UDSSDDDS",
    ),
    ("GET", "/v1/offers", "USSSSSDS"),
    ("PUT", "/v1/roles/{role}/weight", "UDSSDDDS"),
    ("GET", "/v1/secrets", "USSSSSDS"),
    ("POST", "/v1/write", "USSSSSSS"),
    ("GET", "/v1/policy", "USSSDDDS"),
    ("PUT", "/v1/policy", "UDDSDDDS"),
    ("GET", "/v1/tokens", "USSSDDDS"),
    ("POST", "/v1/tokens", "UDDSDDDS"),
    ("DELETE", "/v1/tokens/{token_id}", "UDDSDDDS"),
    ("GET", "/v1/revoked-keys", "USSSDDDS"),
    ("PUT", "/v1/revoked-keys/{key_hash}", "UDDSDDDS"),
    ("GET", "/v1/rate-limits", "USSSDDDS"),
    ("PUT", "/v1/rate-limits", "UDSSDDDS"),
    ("POST", "/v1/masters", "UDDSDDDS"),
    ("DELETE", "/v1/masters/{node_id}", "UDDSDDDS"),
    ("POST", "/v1/masters/transfer", "UDSSDDDS"),
    ("POST", "/v1/level", "UDDSDDDS"),
    ("POST", "/v1/log-filter", "UDSSDDDS"),
    ("GET", "/v1/snapshot", "UDSSDDDS"),
    ("GET", "/v1/events", "USSSSSDS"),
    ("GET", "/v1/sd/prometheus", "USSSSSDS"),
    ("GET", "/healthz", "SSSSSSSS"),
    ("GET", "/readyz", "SSSSSSSS"),
    ("GET", "/metrics", "USSSDDDS"),
];

/// A token; the digits of the hash are any.
const TOKEN: &str = "{\"tokenId\": \"00000000000000aa\", \"principal\": \"operator/ci\", \
    \"secretHash\": \"abababababababababababababababababababababababababababababababab\"}";

/// A ticket for the output of `framework-1/a`.
const TICKETS: &str = "{\"verb\": \"TICKET_VERB_READ_FILES\", \"targets\": \
    [{\"frameworkId\": \"framework-1\", \"taskId\": \"a\", \"path\": \"stdout\"}]}";

/// Returns the request of a row.
fn request(method: &str, pattern: &str) -> Request<Body> {
    let is_read = method == "GET";
    let (agent, framework, task) = match is_read {
        true => ("agent-1", "framework-1", "a"),
        false => ("agent-77", "framework-77", "ghost"),
    };
    let path = pattern
        .replace("{agent_id}", agent)
        .replace("{framework_id}", framework)
        .replace("{task_id}", task)
        .replace("{verb}", "read")
        .replace("{name}", "zone")
        .replace("{role}", "eng")
        .replace("{node_id}", "master-99")
        .replace("{token_id}", "00000000000000bb")
        .replace("{key_hash}", &"cc".repeat(32));
    let query = match pattern.rsplit('/').next() {
        Some("{verb}") => "?path=tasks/framework-1/a/stdout",
        Some("preparation" | "exec" | "attach") => "?task=framework-1/a",
        _ => "",
    };
    let body = match pattern {
        "/v1/agents/{agent_id}/attributes/{name}" => "{\"value\": \"x\"}",
        "/v1/roles/{role}/weight" => "{\"weightMilli\": \"1500\"}",
        "/v1/masters" => "{\"raftAddress\": \"no address\"}",
        "/v1/masters/transfer" => "{\"nodeId\": \"master-99\"}",
        "/v1/tokens" => TOKEN,
        "/v1/agents/{agent_id}/tickets" => TICKETS,
        "/v1/rate-limits" => "{\"subject\": \"anonymous\"}",
        _ => "{}",
    };
    let request = Request::builder()
        .method(method)
        .uri(format!("{path}{query}"));
    match is_read || method == "DELETE" {
        true => request.body(Body::empty()),
        false => request
            .header("content-type", "application/json")
            .body(Body::from(body)),
    }
    .unwrap()
}

/// Only a read shows that an object is hidden.
fn end_of(status: StatusCode, method: &str) -> End {
    match status {
        StatusCode::UNAUTHORIZED => End::Unproven,
        StatusCode::FORBIDDEN => End::Denied,
        StatusCode::NOT_FOUND if method == "GET" => End::Hidden,
        StatusCode::SERVICE_UNAVAILABLE => End::Undecided,
        _ => End::Served,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_is_served_to_the_callers_that_may_request_it_and_to_no_other() {
    let (cluster, (leader, follower), population) = populated().await;
    let rows: Vec<_> = EXPECTED
        .iter()
        .map(|(method, path, _)| (*method, *path))
        .collect();
    let routes = crate::http::ROUTES.iter();
    let routes: Vec<_> = routes.map(|route| (route.method, route.path)).collect();
    assert_eq!(rows, routes, "a path has no expectation");
    let mut wrong = Vec::new();
    for (method, path, letters) in EXPECTED {
        for (caller, letter) in CALLERS.into_iter().zip(letters.chars()) {
            for place in [leader, follower] {
                let (client, address) = cluster.http(caller, place);
                let expected = ExpectedPeer::MASTER;
                let mut status = StatusCode::OK;
                let mut found = decided(End::of(letter), async || {
                    let asked = client.send(&address, &expected, request(method, path));
                    status = asked.await.unwrap().status();
                    end_of(status, method)
                })
                .await;
                // These masters record no metrics.
                if *path == "/metrics" && found == End::Hidden {
                    found = End::Served;
                }
                if found != End::of(letter) {
                    wrong.push(format!(
                        "{method} {path} by {caller:?}: {found:?}, {status}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    drop(population);
    cluster.end().await;
}
