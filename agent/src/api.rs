//! The agent's HTTP API: files, commands in tasks, containers, metrics, health.

use std::sync::Arc;
use std::time::Duration;

use argosy_proto::server::callers::{Access, Part};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;

use crate::exec::{self, Door};
use crate::files;
use crate::inbox::Asker;
use crate::paths::Paths;
use crate::runner::Controls;
use crate::statistics::Statistics;

/// How long the loop may take to say what runs before metrics come without it.
const ASKING: Duration = Duration::from_secs(1);

/// What every call needs.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) paths: Paths,
    pub(crate) asker: Asker,
    pub(crate) statistics: Statistics,
    /// Knows no container on a made-up host.
    pub(crate) controls: Controls,
    pub(crate) exec: Door,
    pub(crate) access: Access,
    /// Bounds the folders that are listed at a time: beyond it requests are refused.
    pub(crate) listings: Arc<Semaphore>,
    pub(crate) followers: files::Followers,
    pub(crate) metrics: Option<PrometheusHandle>,
}

/// For the listings of one agent.
pub(crate) fn listings() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(files::LISTINGS))
}

pub(crate) fn router(shared: Shared) -> Router {
    let Access {
        exec: may_exec,
        files: may_read,
    } = shared.access.clone();
    let files = Router::new()
        .route("/v1/files/browse", get(files::browse))
        .route("/v1/files/read", get(files::read))
        .route("/v1/files/download", get(files::download));
    let commands = Router::new()
        .route("/v1/exec", get(exec::exec))
        .route("/v1/attach", get(exec::attach));
    may_read
        .guard(Part::Files, "agent", files)
        .merge(may_exec.guard(Part::Exec, "agent", commands))
        .route("/v1/containers", get(containers))
        .route("/v1/agent", get(standing))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown)
        .with_state(shared)
}

async fn containers(State(shared): State<Shared>) -> Response {
    let Some(containers) = shared.asker.containers().await else {
        return files::FilesError::Stopping.into_response();
    };
    let looked = shared.statistics.look(containers).await;
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

async fn standing(State(shared): State<Shared>) -> Response {
    match shared.asker.standing().await {
        Some(standing) => Json(standing).into_response(),
        None => files::FilesError::Stopping.into_response(),
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let rendered = shared.metrics.map(|metrics| metrics.render());
    let mut text = rendered.unwrap_or_default();
    // An agent that stops, or has more to do than it can, still tells of itself.
    let asked = tokio::time::timeout(ASKING, shared.asker.containers()).await;
    if let Ok(Some(containers)) = asked {
        text.push_str(&shared.statistics.exposition(containers).await);
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Healthy is an agent whose loop turns; whether a master knows it is `/v1/agent`'s to say.
async fn health(State(shared): State<Shared>) -> Response {
    match shared.asker.standing().await {
        Some(_) => "ok\n".into_response(),
        None => files::FilesError::Stopping.into_response(),
    }
}

async fn unknown() -> Response {
    let message = "no such path: see /v1/files/browse, /v1/files/read, /v1/files/download, /v1/exec, \
                   /v1/attach, /v1/containers, /v1/agent, /metrics, /healthz";
    files::problem(StatusCode::NOT_FOUND, message)
}

/// A path that is there, and another method.
async fn wrong_method(request: Request) -> Response {
    let message = format!("{} {}: use GET", request.method(), request.uri().path());
    files::problem(StatusCode::METHOD_NOT_ALLOWED, &message)
}
