//! The agent's HTTP API: files, commands in tasks, containers, metrics, health.

use argosy_isolation::Tree;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::exec::{self, Door};
use crate::files;
use crate::inbox::Asker;
use crate::paths::Paths;
use crate::runner::Controls;
use crate::statistics;

/// What every call needs.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) paths: Paths,
    pub(crate) asker: Asker,
    pub(crate) tree: Option<Tree>,
    /// Knows no container on a made-up host.
    pub(crate) controls: Controls,
    pub(crate) exec: Door,
    pub(crate) metrics: Option<PrometheusHandle>,
}

pub(crate) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/files/browse", get(files::browse))
        .route("/v1/files/read", get(files::read))
        .route("/v1/files/download", get(files::download))
        .route("/v1/exec", get(exec::exec))
        .route("/v1/containers", get(containers))
        .route("/v1/agent", get(standing))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .fallback(unknown)
        .with_state(shared)
}

async fn containers(State(shared): State<Shared>) -> Response {
    let Some(containers) = shared.asker.containers().await else {
        return files::FilesError::Stopping.into_response();
    };
    let look = move || -> Vec<serde_json::Value> {
        let seen = containers.iter().map(|view| {
            let mut value = serde_json::json!(view);
            if view.state == "running" {
                let stats = statistics::look(shared.tree.as_ref(), view.name);
                value["usage"] = stats.as_ref().map(statistics::as_json).into();
            }
            value
        });
        seen.collect()
    };
    let seen = tokio::task::spawn_blocking(look).await;
    let seen = seen.expect("reading statistics never panics");
    Json(serde_json::json!({ "containers": seen })).into_response()
}

async fn standing(State(shared): State<Shared>) -> Response {
    match shared.asker.standing().await {
        Some(standing) => Json(standing).into_response(),
        None => files::FilesError::Stopping.into_response(),
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let text = shared
        .metrics
        .map(|metrics| metrics.render())
        .unwrap_or_default();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Healthy is an agent whose loop turns; whether a master knows it is `/v1/agent`'s to say.
async fn health(State(shared): State<Shared>) -> Response {
    match shared.asker.standing().await {
        Some(_) => "ok\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}

async fn unknown() -> Response {
    let message = "no such path: see /v1/files/browse, /v1/files/read, /v1/files/download, /v1/exec, \
                   /v1/containers, /v1/agent, /metrics, /healthz";
    files::problem(StatusCode::NOT_FOUND, message)
}
