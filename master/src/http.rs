//! HTTP beside gRPC on the same port: health, metrics, the read side of the operator API as JSON,
//! and the files of agents. The JSON is the canonical mapping of `argosy.v1`.

use std::collections::HashMap;

use argosy_proto::v1;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tonic::{Code, Status};

use crate::desk::Desk;
use crate::service;

#[derive(Clone)]
struct Http {
    desk: Desk,
    metrics: Option<PrometheusHandle>,
    files: reqwest::Client,
}

/// The routes.
pub(crate) fn router(desk: Desk, metrics: Option<PrometheusHandle>) -> Router {
    let files = reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(std::time::Duration::from_secs(2));
    let files = files.build().expect("the settings are constant");
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .route("/v1/cluster", get(cluster))
        .route("/v1/agents", get(agents))
        .route("/v1/agents/{id}", get(agent))
        .route("/v1/agents/{id}/files/{verb}", get(agent_files))
        .route("/v1/frameworks", get(frameworks))
        .route("/v1/frameworks/{id}", get(framework))
        .route("/v1/tasks", get(tasks))
        .route("/v1/tasks/{framework}/{task}", get(task))
        .route("/v1/offers", get(offers))
        .with_state(Http {
            desk,
            metrics,
            files,
        })
}

/// Ready is a master that knows a leader, or is one.
async fn ready(State(http): State<Http>) -> Response {
    let office = http.desk.office.borrow().clone();
    if office.here || office.leader.is_some() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "no leader is known: fewer than half of the masters are up, or they cannot reach each other\n").into_response()
}

async fn show_metrics(State(http): State<Http>) -> Response {
    let Some(metrics) = &http.metrics else {
        return (StatusCode::NOT_FOUND, "this process records no metrics\n").into_response();
    };
    http.desk.counts.borrow().show();
    metrics.run_upkeep();
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        metrics.render(),
    )
        .into_response()
}

type Parameters = Query<HashMap<String, String>>;

async fn cluster(State(http): State<Http>, Query(parameters): Parameters) -> Response {
    json(service::cluster(&http.desk, consistency(&parameters)).await)
}

async fn agents(State(http): State<Http>, Query(parameters): Parameters) -> Response {
    match list(parameters) {
        Ok(request) => json(service::list_agents(&http.desk, request).await),
        Err(status) => problem(&status),
    }
}

async fn agent(
    State(http): State<Http>,
    Path(id): Path<String>,
    Query(parameters): Parameters,
) -> Response {
    let request = v1::GetRequest {
        id,
        consistency: consistency(&parameters),
        ..Default::default()
    };
    json(service::one_agent(&http.desk, request).await)
}

async fn frameworks(State(http): State<Http>, Query(parameters): Parameters) -> Response {
    match list(parameters) {
        Ok(request) => json(service::list_frameworks(&http.desk, request).await),
        Err(status) => problem(&status),
    }
}

async fn framework(
    State(http): State<Http>,
    Path(id): Path<String>,
    Query(parameters): Parameters,
) -> Response {
    let request = v1::GetRequest {
        id,
        consistency: consistency(&parameters),
        ..Default::default()
    };
    json(service::one_framework(&http.desk, request).await)
}

async fn tasks(State(http): State<Http>, Query(parameters): Parameters) -> Response {
    match list(parameters) {
        Ok(request) => json(service::list_tasks(&http.desk, request).await),
        Err(status) => problem(&status),
    }
}

async fn task(
    State(http): State<Http>,
    Path((framework_id, id)): Path<(String, String)>,
    Query(parameters): Parameters,
) -> Response {
    let request = v1::GetRequest {
        id,
        framework_id,
        consistency: consistency(&parameters),
        ..Default::default()
    };
    json(service::one_task(&http.desk, request).await)
}

async fn offers(State(http): State<Http>, Query(parameters): Parameters) -> Response {
    match list(parameters) {
        Ok(request) => json(service::list_offers(&http.desk, request).await),
        Err(status) => problem(&status),
    }
}

/// Passes a question about files on to the agent that has them, and its answer back as it comes.
async fn agent_files(
    State(http): State<Http>,
    Path((id, verb)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    if !["browse", "read", "download"].contains(&verb.as_str()) {
        return problem(&Status::not_found(format!(
            "no verb {verb:?} for files: browse, read or download"
        )));
    }
    let request = v1::GetRequest {
        id: id.clone(),
        consistency: v1::Consistency::Local.into(),
        ..Default::default()
    };
    let agent = match service::one_agent(&http.desk, request).await {
        Ok(agent) => agent,
        Err(status) => return problem(&status),
    };
    let address = agent.info.unwrap_or_default().address;
    let url = format!(
        "http://{address}/v1/files/{verb}?{}",
        query.unwrap_or_default()
    );
    match http.files.get(url).send().await {
        Ok(answer) => {
            let mut response = Response::builder().status(answer.status());
            for (name, value) in answer.headers() {
                if name.as_str().starts_with("x-argosy-")
                    || *name == header::CONTENT_TYPE
                    || *name == header::CONTENT_DISPOSITION
                {
                    response = response.header(name, value);
                }
            }
            let body = Body::from_stream(answer.bytes_stream());
            response
                .body(body)
                .unwrap_or_else(|why| problem(&Status::internal(why.to_string())))
        }
        Err(why) => problem(&Status::unavailable(format!(
            "{id} at {address} does not answer: {why}"
        ))),
    }
}

fn consistency(parameters: &HashMap<String, String>) -> i32 {
    match parameters.get("consistency").map(String::as_str) {
        Some("local") => v1::Consistency::Local.into(),
        _ => v1::Consistency::Linearizable.into(),
    }
}

/// Known parameters steer the page; every other one is a field to filter by.
fn list(parameters: HashMap<String, String>) -> Result<v1::ListRequest, Status> {
    let mut request = v1::ListRequest {
        consistency: consistency(&parameters),
        ..Default::default()
    };
    for (name, value) in parameters {
        let number = || Status::invalid_argument(format!("{name}: {value:?} is not a number"));
        match name.as_str() {
            "consistency" => {}
            "page_size" => request.page_size = value.parse().map_err(|_| number())?,
            "page_token" => request.page_token = value,
            "min_revision" => request.min_revision = value.parse().map_err(|_| number())?,
            "include_ended" => request.include_ended = value == "true",
            _ => drop(request.filter.insert(name, value)),
        }
    }
    Ok(request)
}

fn json<T: serde::Serialize>(answer: Result<T, Status>) -> Response {
    match answer {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(status) => problem(&status),
    }
}

/// A refusal as HTTP says it.
fn problem(status: &Status) -> Response {
    let code = match status.code() {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let body =
        serde_json::json!({ "code": format!("{:?}", status.code()), "message": status.message() });
    (code, axum::Json(body)).into_response()
}
