//! Tests of the real router without a connection.

use argosy_proto::server::callers::ApiAccess;
use argosy_proto::transport::{Dialer, PeerIdentity};
use argosy_proto::v1;
use argosy_proto::v1::operator_server::Operator as _;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use futures::FutureExt as _;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tonic::codegen::Service as _;

use super::*;
use crate::http::exec;
use crate::reads;
use crate::service::Feed;

pub(super) fn services(owner_handle: &OwnerHandle) -> Services {
    Services {
        owner: owner_handle.clone(),
        peers: MasterConnections::new(Dialer::tcp()),
        agents: service::client_of_agents(Dialer::tcp()),
        access: ApiAccess::default(),
        feed: Feed::default(),
        secret_keys: None,
        issuer: None,
        join_rates: Arc::default(),
        saves: Arc::new(tokio::sync::Semaphore::new(service::SAVES)),
        tasks: TaskTracker::new(),
    }
}

/// Returns the real routes, with the bounds on reads.
pub(super) fn routes(owner_handle: &OwnerHandle, metrics: Option<PrometheusHandle>) -> Router {
    let reads = owner_handle.reads.clone();
    let bounded = from_fn(move |request: Request, next: Next| {
        let reads = reads.clone();
        async move {
            let peer = request.extensions().get::<PeerIdentity>().cloned();
            reads::bounded(&reads, peer.as_ref(), next.run(request)).await
        }
    });
    http::router(
        services(owner_handle),
        metrics,
        exec::StreamLimit::new(1),
        ApiAccess::default(),
    )
    .layer(bounded)
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Requests a page from the router itself; the body of the answer is not read.
async fn unread(mut routes: Router, path: &'static str) -> Response {
    let request = Request::get(path).body(Body::empty());
    routes.call(request.unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_metrics_hold_and_release_read_budget() {
    let mut alone = SingleMaster::start().await;
    let budget = 2 << 20;
    alone.handle.reads = ReadLimiter::new(ReadBounds {
        bytes: 8 << 20,
        bytes_each: budget,
        bytes_reserved: 0,
        wait_timeout: Duration::from_millis(50),
        stall_timeout: Duration::from_secs(2),
        busy_stall_timeout: Duration::from_secs(2),
        ..ReadBounds::default()
    });
    let recorder = PrometheusBuilder::new().build_recorder();
    ::metrics::with_local_recorder(&recorder, || {
        for kind in 0..2_000 {
            ::metrics::counter!("argosy_test_total", "kind" => kind.to_string()).increment(1);
        }
    });
    let bytes = recorder.handle().render().len();
    let routes = routes(&alone.handle, Some(recorder.handle()));
    let asked = (0..200).map(|_| unread(routes.clone(), "/metrics"));
    let answers = join_all(asked).await;
    let (shown, refused): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|answer| answer.status() == 200);
    let held = alone.handle.reads.held_bytes();
    assert!(!shown.is_empty() && shown.len() * bytes <= held, "{held}");
    assert!(held <= budget, "{held}");
    assert!(refused.iter().all(|answer| answer.status() == 429));
    // They are cut off, and hold nothing although they are not dropped.
    let cutter = tokio::spawn(alone.handle.reads.clone().cut_off_slow_readers(Vec::new()));
    until("all memory is given back", || {
        alone.handle.reads.held_bytes() == 0
    })
    .await;
    assert_eq!(unread(routes, "/metrics").await.status(), 200);
    drop(shown);
    cutter.abort();
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unready_master_returns_the_reason_in_json() {
    let mut alone = SingleMaster::start().await;
    let (_leadership, seen) = watch::channel(LeaderStatus::default());
    alone.handle.leader_status = seen;
    let answer = unread(routes(&alone.handle, None), "/readyz").await;
    assert_eq!(answer.status(), 503);
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await;
    let error: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
    assert_eq!(error["code"], "Unavailable");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("no leader is known"), "{message}");
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listing_offers_waits_for_the_requested_revision() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    // The digest that a new leader logs may come at any moment; not ten entries.
    let min_revision = *alone.handle.applied.borrow() + 10;
    let services = services(&alone.handle);
    let listed = services.list_offers(tonic::Request::new(v1::ListRequest {
        min_revision,
        ..Default::default()
    }));
    tokio::pin!(listed);
    let early = timeout(Duration::from_millis(200), &mut listed).await;
    assert!(early.is_err(), "{early:?}");
    for _ in 0..10 {
        alone.operate(weight(2_000)).await;
    }
    let page = listed.await.unwrap().into_inner();
    assert!(page.revision.unwrap().index >= min_revision);
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_without_a_leader_lists_all_masters_for_prometheus() {
    let mut three = SingleMaster::start_three().await;
    let mut leads = three[0].handle.leader_status.clone();
    let known = leads.wait_for(|status| status.is_local || status.leader.is_some());
    timeout(TIMEOUT, known).await.unwrap().unwrap();
    let rest = three.split_off(1);
    join_all(rest.into_iter().map(SingleMaster::end)).await;
    let path = "/v1/sd/prometheus";
    let answer = unread(routes(&three[0].handle, None), path).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await;
    let groups: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
    let groups = groups.as_array().unwrap();
    assert_eq!(groups.len(), 3, "{groups:?}");
    let own = &three[0].handle.own_address;
    for group in groups {
        assert_eq!(group["labels"]["__meta_argosy_kind"], "master");
        let node = group["labels"]["__meta_argosy_node"].as_str().unwrap();
        assert!(node.starts_with("master-"), "{node}");
    }
    let is_own = |group: &serde_json::Value| group["targets"] == serde_json::json!([**own]);
    assert!(groups.iter().any(is_own), "{groups:?}");
    three.remove(0).end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_decided_again_by_the_rules_that_it_has_waited_for() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    let enforcing = alone.handle.clone().with_enforcement(true);
    let mut request = tonic::Request::new(v1::SaveSnapshotRequest::default());
    let peer = PeerIdentity::authenticated("framework/web".parse().unwrap(), None);
    request.extensions_mut().insert(peer);
    // As if the rules had allowed it when it was admitted.
    let begun = services(&enforcing).begin_save(request).await;
    let why = begun.err().expect("no rule allows it");
    assert_eq!(why.code(), tonic::Code::PermissionDenied, "{why}");
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_call_to_raise_the_level_still_locks_the_members_until_it_ends() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    let services = services(&alone.handle);
    let held = alone.node.lock_members().await.unwrap();
    let request = tonic::Request::new(v1::RaiseLevelRequest::default());
    assert!(services.raise_level(request).now_or_never().is_none());
    assert_eq!(services.tasks.len(), 1);
    drop(held);
    services.tasks.close();
    timeout(TIMEOUT, services.tasks.wait()).await.unwrap();
    alone.end().await;
}
