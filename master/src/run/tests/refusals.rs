//! Tests that refused requests count against the limits of their callers.

use argosy_proto::server::hosts::AllowedHosts;
use argosy_state::access::{AccessFacts, RateLimit, Subject};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use tokio::time::Instant;
use tonic::codegen::Service as _;

use super::*;

/// A well-formed token that no cluster has.
const UNKNOWN_TOKEN: &str = "Bearer argosy_00000000000000ff_\
    0909090909090909090909090909090909090909090909090909090909090909";

/// Returns the front of a master that enforces access, with this limit of anonymous callers.
fn front(handle: &OwnerHandle, anonymous: Option<RateLimit>) -> ApiRouter {
    let mut handle = handle.clone().with_enforcement(true);
    handle.calls = OwnerCalls::new();
    let mut facts = AccessFacts::default();
    if let Some(limit) = anonymous {
        facts.limits.insert(Subject::Anonymous, limit);
    }
    handle.calls.set_limits(&facts);
    let pages = Router::new().route("/healthz", get(|| async { "ok" }));
    ApiRouter::new(pages, handle, AllowedHosts::default(), 1)
}

async fn ask(front: &mut ApiRouter, (method, path): (Method, &str), token: &str) -> StatusCode {
    let request = Request::builder().method(method).uri(path);
    let request = request.header(header::HOST, "127.0.0.1:5050");
    let request = match token {
        "" => request,
        token => request.header(header::AUTHORIZATION, token),
    };
    let answered = front.call(request.body(Body::empty()).unwrap());
    let answered = tokio::time::timeout(TIMEOUT, answered).await.unwrap();
    answered.unwrap().status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_requests_count_against_the_limit_of_their_caller() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    for token in ["", UNKNOWN_TOKEN, "Basic abc"] {
        let limit = RateLimit {
            calls_per_second: 1,
            burst: 3,
        };
        let mut front = front(&alone.handle, Some(limit));
        let path = (Method::GET, "/metrics");
        let first = ask(&mut front, path.clone(), token).await;
        assert_eq!(first, StatusCode::UNAUTHORIZED, "{token}");
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match ask(&mut front, path.clone(), token).await {
                StatusCode::TOO_MANY_REQUESTS => break,
                other => assert_eq!(other, StatusCode::UNAUTHORIZED, "{token}"),
            }
            assert!(Instant::now() < deadline, "nothing is limited: {token}");
        }
        // Health is answered in any case.
        let probe = ask(&mut front, (Method::GET, "/healthz"), "").await;
        assert_eq!(probe, StatusCode::OK);
    }
    alone.end().await;
}
