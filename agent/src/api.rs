//! The agent's HTTP API: files, commands in tasks, preparations of tasks, containers, metrics,
//! health.

mod preparation;
mod tickets;

use std::time::Duration;

use argosy_proto::clock::WallClock;
use argosy_proto::server::callers::{ApiAccess, ApiPart};
use argosy_proto::trace::{self, TraceContext};
use argosy_proto::transport::ConnectionAddresses;
use argosy_proto::{log_filter, metric_names};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Extension, Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::exec::{self, ExecState};
use crate::files::{self, FilesState};
use crate::inbox::QueryHandle;
use crate::runner::Preparations;
use crate::statistics::Statistics;
use tickets::TicketCheck;
#[cfg(feature = "fuzzing")]
pub(crate) use tickets::ticket_use;

/// The time for which metrics wait for the loop's list of containers; then they are sent without
/// it.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum length of the actor that a master names, in characters.
const ACTOR_CHARACTERS: usize = 255;

/// The state of every call.
#[derive(Clone)]
pub(crate) struct ApiState {
    pub(crate) queries: QueryHandle,
    /// Contains no fetch on a simulated host.
    pub(crate) preparations: Preparations,
    pub(crate) statistics: Statistics,
    pub(crate) files: FilesState,
    pub(crate) exec: ExecState,
    pub(crate) access: ApiAccess,
    /// The time of day, for the validity of tickets.
    pub(crate) clock: WallClock,
    pub(crate) metrics: Option<PrometheusHandle>,
}

pub(crate) fn router(shared: ApiState) -> Router {
    let ApiAccess {
        exec: may_exec,
        files: may_read,
        status: may_see,
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
    // It changes the agent itself, so only the callers that may run commands may do it.
    let log_level = Router::new().route("/v1/log-filter", put(set_log_filter));
    let tasks = Router::new()
        .route("/v1/preparation", get(preparation::preparation))
        .route("/v1/containers", get(containers));
    let status = Router::new()
        .route("/v1/agent", get(registration))
        .route("/metrics", get(metrics));
    let tickets = TicketCheck {
        queries: shared.queries.clone(),
        clock: shared.clock.clone(),
    };
    may_read
        .guard_agent(ApiPart::Files, files)
        .merge(may_exec.clone().guard_agent(ApiPart::Exec, commands))
        .merge(may_exec.guard_agent(ApiPart::LogLevel, log_level))
        .merge(may_see.clone().guard_agent(ApiPart::Containers, tasks))
        .merge(may_see.guard_agent(ApiPart::Status, status))
        .route("/healthz", get(health))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown)
        .with_state(shared)
        .layer(middleware::from_fn_with_state(tickets, tickets::verified))
        .layer(middleware::from_fn(traced))
}

/// Answers a request with the id that it names; masters name that of the request that they forward.
async fn traced(request: Request, next: Next) -> Response {
    let context = TraceContext::of_headers(request.headers());
    let path = context.map(|_| request.uri().path().to_owned());
    let mut response = trace::scope(context, next.run(request)).await;
    if let (Some(context), Some(path)) = (context, path) {
        let status = response.status().as_u16();
        trace::within(Some(context), || {
            tracing::debug!(path, status, "answered a request");
        });
        let headers = response.headers_mut();
        headers.insert(trace::REPLY_HEADER, context.id().header());
    }
    response
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct LogFilterBody {
    filter: Option<String>,
    /// The operator, as the master that forwards the request claims. Any allowed caller can claim
    /// any name.
    #[serde(default)]
    actor: String,
}

/// Changes the log filter. The body must be declared as JSON, which pages of other origins cannot
/// do.
async fn set_log_filter(
    connection: Option<Extension<ConnectionAddresses>>,
    body: Result<Json<LogFilterBody>, JsonRejection>,
) -> Response {
    let Json(LogFilterBody { filter, actor }) = match body {
        Ok(body) => body,
        Err(why) => return files::problem(why.status(), &why.body_text()),
    };
    let claimed_actor: String = actor.chars().take(ACTOR_CHARACTERS).collect();
    let peer = connection.map_or_else(
        || "an unknown address".to_owned(),
        |Extension(addresses)| addresses.peer.to_string(),
    );
    match log_filter::change(filter.as_deref(), &described(&claimed_actor, &peer)) {
        Ok(changed) => {
            let (filter, former) = (changed.filter, changed.former);
            Json(serde_json::json!({ "filter": filter, "former": former })).into_response()
        }
        Err(why) => files::problem(StatusCode::BAD_REQUEST, &why.to_string()),
    }
}

/// Returns the description of a caller for the log.
fn described(claimed_actor: &str, peer: &str) -> String {
    match claimed_actor {
        "" => format!("a caller at {peer}"),
        claimed => format!("a caller at {peer}, for {claimed:?} as it claims"),
    }
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
                   /v1/attach, /v1/preparation, /v1/containers, /v1/agent, /v1/log-filter, /metrics, \
                   /healthz";
    files::problem(StatusCode::NOT_FOUND, message)
}

/// Answers requests with a wrong method.
async fn wrong_method(request: Request) -> Response {
    let path = request.uri().path();
    let method = match path {
        "/v1/log-filter" => "PUT",
        _ => "GET",
    };
    let message = format!("{} {path}: use {method}", request.method());
    files::problem(StatusCode::METHOD_NOT_ALLOWED, &message)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use argosy_proto::exec::SILENCE_LIMIT;
    use argosy_proto::server::callers::AllowedCallers;
    use argosy_proto::trace::TraceIds;
    use axum::body::Body;
    use tokio::sync::mpsc;
    use tonic::codegen::Service as _;

    use super::*;
    use crate::paths::Paths;
    use crate::runner::ContainerControls;

    /// Returns the answer to a request to show the log filter, without an identifiable caller.
    async fn answer_of_log_filter(access: ApiAccess) -> (StatusCode, String) {
        let queries = QueryHandle::new(mpsc::channel(1).0);
        let shared = ApiState {
            files: FilesState::new(Paths::new(Path::new("/nonexistent")), queries.clone()),
            exec: ExecState {
                queries: queries.clone(),
                controls: ContainerControls::default(),
                limits: exec::ExecLimits::new(SILENCE_LIMIT),
            },
            queries,
            preparations: Preparations::default(),
            statistics: Statistics::simulated(),
            access,
            clock: WallClock::system(),
            metrics: None,
        };
        let request = Request::put("/v1/log-filter").header(CONTENT_TYPE, "application/json");
        let request = request.body(Body::from("{}")).unwrap();
        let answer = router(shared).call(request).await.unwrap();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 10_000).await;
        (status, String::from_utf8(body.unwrap().into()).unwrap())
    }

    #[tokio::test]
    async fn the_log_filter_is_open_to_the_callers_that_may_run_commands() {
        let mut access = ApiAccess {
            files: AllowedCallers::All,
            ..ApiAccess::default()
        };
        let (closed, message) = answer_of_log_filter(access.clone()).await;
        assert_eq!(closed, StatusCode::FORBIDDEN);
        assert!(
            message.contains("the log level is closed on this agent")
                && message.contains("start it with --allow-exec")
                && !message.contains("attach"),
            "{message}"
        );
        access.exec = AllowedCallers::All;
        let (open, _) = answer_of_log_filter(access).await;
        // The log of a test has no filter.
        assert_eq!(open, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn the_log_names_the_caller_and_the_operator_that_it_claims_to_act_for() {
        assert_eq!(described("", "10.0.0.1:4"), "a caller at 10.0.0.1:4");
        let claimed = described("operator/a\n", "10.0.0.1:4");
        assert_eq!(
            claimed,
            "a caller at 10.0.0.1:4, for \"operator/a\\n\" as it claims"
        );
    }

    #[tokio::test]
    async fn requests_run_and_are_answered_with_the_id_that_they_name() {
        let context = TraceIds::new(1).next();
        let seen = || async { format!("{:?}", trace::current().map(TraceContext::id)) };
        let router = Router::new()
            .route("/", get(seen))
            .layer(middleware::from_fn(traced));
        for given in [Some(context), None] {
            let mut request = Request::get("/");
            if let Some(context) = given {
                request = request.header(trace::HEADER, context.to_string());
            }
            let request = request.body(axum::body::Body::empty()).unwrap();
            let answer = router.clone().call(request).await.unwrap();
            let id = given.map(TraceContext::id);
            let named = answer.headers().get(trace::REPLY_HEADER).cloned();
            assert_eq!(named, id.map(|id| id.header()));
            let body = axum::body::to_bytes(answer.into_body(), 1_000).await;
            assert_eq!(body.unwrap(), format!("{id:?}"));
        }
    }
}
