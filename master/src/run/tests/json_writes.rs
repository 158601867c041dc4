//! Tests of changes as JSON, from a leader and through a follower.

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::rtt::TestMasters;
use super::*;

/// Requests to one master.
struct Api {
    base: String,
    client: reqwest::Client,
}

impl Api {
    fn new(address: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
        Self {
            base: format!("http://{address}"),
            client: client.build().unwrap(),
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// Returns the status and the body of a request with a JSON body.
    async fn send(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        read(with_body(self.request(method, path), body)).await
    }
}

fn with_body(request: RequestBuilder, body: &Value) -> RequestBuilder {
    let request = request.header("content-type", "application/json");
    request.body(body.to_string())
}

/// Sends a request until a master can answer it: a busy host may change leaders.
async fn read(request: RequestBuilder) -> (u16, Value) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let sent = request.try_clone().unwrap().send();
        let answer: Response = timeout(TIMEOUT, sent).await.unwrap().unwrap();
        let status = answer.status().as_u16();
        if status != 503 || Instant::now() > deadline {
            let text = answer.text().await.unwrap();
            let body = serde_json::from_str(&text);
            return (status, body.unwrap_or_else(|_| panic!("{status}: {text}")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn started() -> (TestMasters, [Api; 2]) {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    let places = [leader, (leader + 1) % 3].map(|place| Api::new(&masters.api[place]));
    (masters, places)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_master_performs_changes_and_returns_their_outcomes() {
    let (masters, places) = started().await;
    for api in &places {
        let weight = json!({ "weightMilli": "2500" });
        let (status, body) = api
            .send(Method::PUT, "/v1/roles/ops%2Fnight/weight", &weight)
            .await;
        assert_eq!(status, 200, "{body}");
        assert!(body["revision"]["index"].is_string(), "{body}");
        assert_eq!(body["outcomes"], json!([{ "done": true }]));
        for (method, path) in [
            (Method::POST, "/v1/agents/agent-9/deactivate"),
            (Method::POST, "/v1/agents/agent-9/reactivate"),
            (Method::POST, "/v1/agents/agent-9/gone"),
            (Method::PUT, "/v1/agents/agent-9/attributes/rack"),
            (Method::DELETE, "/v1/agents/agent-9/attributes/rack"),
            (Method::DELETE, "/v1/frameworks/framework-9"),
            (Method::DELETE, "/v1/tasks/framework-9/web?grace_ms=100"),
            (Method::PUT, "/v1/tasks/framework-9/web/limits"),
        ] {
            let body = match path.ends_with("rack") {
                true => json!({ "value": "r7" }),
                false => json!({}),
            };
            let (status, body) = api.send(method, path, &body).await;
            assert_eq!(
                (status, &body["code"]),
                (404, &json!("NotFound")),
                "{path}: {body}"
            );
        }
        let operation = json!({ "setWeight": { "role": "ops", "weightMilli": "2" } });
        let unknown = json!({ "killTask": { "frameworkId": "framework-9", "taskId": "web" } });
        let batch = json!({ "operations": [operation, unknown] });
        let (status, body) = api.send(Method::POST, "/v1/write", &batch).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(body["outcomes"][0], json!({ "done": true }));
        assert_eq!(body["outcomes"][1]["code"], "unknown-task");
    }
    let removed = places[0]
        .send(Method::DELETE, "/v1/masters/master-77", &json!({}))
        .await;
    assert!(
        removed.0 >= 400 && removed.1["message"].is_string(),
        "{removed:?}"
    );
    let (status, body) = places[0].send(Method::POST, "/v1/level", &json!({})).await;
    assert!(status == 200 || status == 409, "{body}");
    masters.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_id_gets_the_first_answer() {
    let (masters, places) = started().await;
    let weight = |weight: &str| json!({ "weightMilli": weight });
    let mut revisions = Vec::new();
    for api in &places {
        let request = api.request(Method::PUT, "/v1/roles/ops/weight");
        let request = request.header("argosy-request-id", "r-1");
        let (status, body) = read(with_body(request, &weight("2000"))).await;
        assert_eq!(status, 200, "{body}");
        revisions.push(body["revision"].clone());
    }
    assert_eq!(revisions[0], revisions[1]);
    let request = places[0].request(Method::PUT, "/v1/roles/ops/weight");
    let request = request.header("argosy-request-id", "r-1");
    let other = with_body(request, &weight("3000"));
    let (status, body) = read(other).await;
    assert_eq!(status, 400, "{body}");
    let both = places[0].request(Method::POST, "/v1/write");
    let both = both.header("argosy-request-id", "r-2");
    let (status, body) = read(with_body(both, &json!({ "requestId": "r-3" }))).await;
    assert!(
        status == 400 && body["message"].as_str().unwrap().contains("r-3"),
        "{body}"
    );
    masters.end().await;
}

/// Requests that are rejected, and a part of the reason.
fn malformed() -> Vec<(Method, &'static str, Value, &'static str)> {
    let weight = "/v1/roles/ops/weight";
    vec![
        (
            Method::PUT,
            weight,
            json!({ "weight": 2 }),
            "unknown field `weight`",
        ),
        (
            Method::PUT,
            weight,
            json!({ "weightMilli": "many" }),
            "the body",
        ),
        (
            Method::PUT,
            weight,
            json!({ "role": "dev" }),
            "the path names",
        ),
        (Method::PUT, weight, json!([]), "the body"),
        (
            Method::POST,
            "/v1/write",
            json!({ "operations": [{ "setweight": {} }] }),
            "unknown field",
        ),
        (
            Method::POST,
            "/v1/write",
            json!({ "operations": [{}] }),
            "operations[0]",
        ),
        (
            Method::PUT,
            "/v1/tasks/framework-1/web/limits",
            json!({ "io": [{ "disc": "a" }] }),
            "unknown field `disc`",
        ),
        (
            Method::POST,
            "/v1/agents/agent-1/gone?force=1",
            json!({}),
            "no parameters",
        ),
        (Method::POST, "/v1/agents/web/gone", json!({}), "agent-N"),
        (
            Method::DELETE,
            "/v1/tasks/framework-1/web?grace=1",
            json!({}),
            "grace_ms",
        ),
        (
            Method::PUT,
            "/v1/agents/agent-1/attributes/rack",
            json!({ "value": "" }),
            "DELETE",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_changes_are_rejected_without_an_effect() {
    let (masters, [api, _]) = started().await;
    for (method, path, body, says) in malformed() {
        let (status, answer) = api.send(method, path, &body).await;
        assert_eq!(status, 400, "{path} {body}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(says), "{path}: {message}");
    }
    let large = json!({ "principal": "x".repeat(2 << 20) });
    let (status, body) = api.send(Method::POST, "/v1/write", &large).await;
    let message = body["message"].as_str().unwrap();
    assert!(status == 413 && message.contains("1048576"), "{body}");
    let (_, cluster) = read(api.request(Method::GET, "/v1/cluster")).await;
    assert_eq!(cluster.get("frameworks"), None, "{cluster}");
    masters.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_pages_of_other_origins_can_send_are_rejected() {
    let (masters, [api, _]) = started().await;
    // Pages of other origins can send these.
    for kind in [
        None,
        Some("application/x-www-form-urlencoded"),
        Some("multipart/form-data; boundary=x"),
        Some("text/plain"),
    ] {
        let request = api.request(Method::POST, "/v1/write").body("{}");
        let request = match kind {
            Some(kind) => request.header("content-type", kind),
            None => request,
        };
        let (status, body) = read(request).await;
        assert_eq!(
            (status, &body["code"]),
            (415, &json!("InvalidArgument")),
            "{kind:?}"
        );
    }
    // The frame of an empty message, to a gRPC path, over HTTP/1.1.
    let raise = "/argosy.v1.Operator/RaiseLevel";
    for kind in ["text/plain", "application/x-www-form-urlencoded"] {
        let request = api.request(Method::POST, raise).body(vec![0_u8; 5]);
        let answer = request.header("content-type", kind).send().await.unwrap();
        assert_eq!(answer.status(), 415, "{kind}");
    }
    let (status, body) = api
        .send(Method::PATCH, "/v1/frameworks/framework-1", &json!({}))
        .await;
    assert_eq!(status, 405);
    assert!(
        body["message"].as_str().unwrap().contains("GET or DELETE"),
        "{body}"
    );
    let listed = read(api.request(Method::GET, "/v1")).await.1;
    let listed = listed["paths"].as_array().unwrap();
    let is_write = |route: &&Value| route["method"] == "POST" && route["path"] == "/v1/write";
    assert_eq!(listed.iter().filter(is_write).count(), 1);
    masters.end().await;
}
