//! Tests of the forwarding of the preparation of a task, by the real routes and an agent's API.

use argosy_state::testing::registration;
use axum::body::Body;
use axum::extract::{RawQuery, Request};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::codegen::Service as _;

use super::routes::routes;
use super::*;

/// Returns the port of an agent's API that answers with the query that it gets.
async fn agent() -> u16 {
    let answer = |RawQuery(query): RawQuery| async move {
        axum::Json(json!({ "step": "pulling-image", "query": query }))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let api = Router::new().route("/v1/preparation", get(answer));
    tokio::spawn(async move { axum::serve(listener, api).await });
    port
}

async fn request(alone: &SingleMaster, path: &str) -> (u16, Value) {
    let request = Request::get(path).body(Body::empty());
    let mut routes = routes(&alone.handle, None);
    let answer = routes.call(request.unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await;
    (status, serde_json::from_slice(&body.unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_preparation_of_a_task_is_forwarded_from_its_agent() {
    let alone = SingleMaster::start().await;
    let epoch = Epoch(alone.active_leader().await.epoch);
    let path = "/v1/agents/agent-1/preparation?task=framework-1/web%2F";
    let (status, error) = request(&alone, path).await;
    assert_eq!((status, &error["code"]), (404, &json!("NotFound")));
    // The port of its address is this number.
    let agent = registration(agent().await.into(), "cpus:4");
    let command = Command::RegisterAgent(agent);
    alone.propose_all(epoch, [command].into_iter()).await;
    let deadline = Instant::now() + TIMEOUT;
    let answer = loop {
        let answer = request(&alone, path).await;
        if answer.0 != 404 {
            break answer;
        }
        assert!(Instant::now() < deadline, "the agent is never known");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let expected = json!({ "step": "pulling-image", "query": "task=framework-1/web%2F" });
    assert_eq!(answer, (200, expected));
    alone.end().await;
}
