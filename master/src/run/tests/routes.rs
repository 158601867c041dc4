//! Answers of the real router, asked without a connection.

use argosy_proto::server::callers::Access;
use argosy_proto::transport::Dialer;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use tokio::time::Instant;
use tonic::codegen::Service as _;

use super::*;

fn services(desk: &Desk) -> Services {
    Services {
        desk: desk.clone(),
        peers: Peers::new(Dialer::tcp()),
        tasks: TaskTracker::new(),
    }
}

/// The real routes, with the bounds on reads.
pub(super) fn routes(desk: &Desk, metrics: Option<PrometheusHandle>) -> Router {
    let bounded = from_fn_with_state(desk.reads.clone(), reads::bounded);
    http::router(
        services(desk),
        metrics,
        exec::Door::new(1),
        Access::default(),
    )
    .layer(bounded)
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks for a page on the router itself; the body of the answer is not read.
async fn unread(mut routes: Router, path: &'static str) -> Response {
    let request = Request::get(path).body(Body::empty());
    routes.call(request.unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_not_ready_says_why_in_json() {
    let mut alone = Alone::start().await;
    let (_office, seen) = watch::channel(Office::default());
    alone.desk.office = seen;
    let answer = unread(routes(&alone.desk, None), "/readyz").await;
    assert_eq!(answer.status(), 503);
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await;
    let error: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
    assert_eq!(error["code"], "Unavailable");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("no leader is known"), "{message}");
    alone.end().await;
}
