//! The agent's HTTP API: files, commands in tasks, containers, metrics, health.

use std::time::Duration;

use argosy_proto::metric_names;
use argosy_proto::server::callers::{ApiAccess, ApiPart};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::exec::{self, ExecState};
use crate::files::{self, FilesState};
use crate::inbox::QueryHandle;
use crate::statistics::Statistics;

/// The time for which metrics wait for the loop's list of containers; then they are sent without
/// it.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// The state of every call.
#[derive(Clone)]
pub(crate) struct ApiState {
    pub(crate) queries: QueryHandle,
    pub(crate) statistics: Statistics,
    pub(crate) files: FilesState,
    pub(crate) exec: ExecState,
    pub(crate) access: ApiAccess,
    pub(crate) metrics: Option<PrometheusHandle>,
}

pub(crate) fn router(shared: ApiState) -> Router {
    let ApiAccess {
        exec: may_exec,
        files: may_read,
    } = shared.access.clone();
    let files = Router::new()
        .route("/v1/files/browse", get(files::browse))
        .route("/v1/files/read", get(files::read))
        .route("/v1/files/download", get(files::download))
        .with_state(shared.files.clone());
    let commands = Router::new()
        .route("/v1/exec", get(exec::exec))
        .route("/v1/attach", get(exec::attach))
        .with_state(shared.exec.clone());
    may_read
        .guard(ApiPart::Files, "agent", files)
        .merge(may_exec.guard(ApiPart::Exec, "agent", commands))
        .route("/v1/containers", get(containers))
        .route("/v1/agent", get(registration))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown)
        .with_state(shared)
}

async fn containers(State(shared): State<ApiState>) -> Response {
    let Some(containers) = shared.queries.containers().await else {
        return files::FilesError::Stopping.into_response();
    };
    let looked = shared.statistics.collect(containers).await;
    let seen = looked.into_iter().map(|(view, usage)| {
        let mut value = serde_json::json!(view);
        if let Some(usage) = usage {
            value["usage"] = serde_json::json!(usage);
        }
        value
    });
    let seen: Vec<_> = seen.collect();
    Json(serde_json::json!({ "containers": seen })).into_response()
}

async fn registration(State(shared): State<ApiState>) -> Response {
    match shared.queries.registration().await {
        Some(standing) => Json(standing).into_response(),
        None => files::FilesError::Stopping.into_response(),
    }
}

async fn metrics(State(shared): State<ApiState>) -> Response {
    let rendered = shared
        .metrics
        .map(|metrics| metric_names::with_former_names(&metrics.render()));
    let mut text = rendered.unwrap_or_default();
    // An agent that is stopping or overloaded still reports its own metrics.
    let asked = tokio::time::timeout(QUERY_TIMEOUT, shared.queries.containers()).await;
    if let Ok(Some(containers)) = asked {
        text.push_str(&shared.statistics.exposition(containers).await);
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Reports that the agent's loop runs; `/v1/agent` reports whether it is registered.
async fn health(State(shared): State<ApiState>) -> Response {
    match shared.queries.registration().await {
        Some(_) => "ok\n".into_response(),
        None => files::FilesError::Stopping.into_response(),
    }
}

async fn unknown() -> Response {
    let message = "no such path: see /v1/files/browse, /v1/files/read, /v1/files/download, /v1/exec, \
                   /v1/attach, /v1/containers, /v1/agent, /metrics, /healthz";
    files::problem(StatusCode::NOT_FOUND, message)
}

/// Answers requests with a wrong method.
async fn wrong_method(request: Request) -> Response {
    let message = format!("{} {}: use GET", request.method(), request.uri().path());
    files::problem(StatusCode::METHOD_NOT_ALLOWED, &message)
}
