//! The HTTP surface on the same port as gRPC: health, metrics, the operator API as JSON, the change
//! feed, the files of agents, and commands in tasks. The JSON is the canonical mapping of
//! `argosy.v1`. `routes` has the table of all paths.

mod access;
mod agent_response;
mod browser_headers;
mod caller;
mod discovery;
mod events;
pub(crate) mod exec;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod index;
mod parameters;
mod routes;
mod snapshot;
mod writes;

use std::sync::Arc;

use argosy_proto::server::callers::ApiAccess;
use argosy_proto::v1::operator_server::Operator as _;
use argosy_proto::{convert, metric_names, trace, v1};
use argosy_state::access::Action;
use argosy_state::resources::{InvalidResources, Resources};
use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::service::task_access::{self, AgentRequest};
use crate::service::{self, ListKind, Services, endpoint_of, filter_values, spawn_reader};

use agent_response::{request_agent, stream_response};
pub(crate) use browser_headers::forbid_scripts;
use caller::RequestPeer;
pub(crate) use index::{declares_call, is_probe, no_path, too_long, undeclared, unknown};
pub(crate) use parameters::PathSegments;
use parameters::QueryParameters;
#[cfg(test)]
pub(crate) use routes::ROUTES;
pub(crate) use routes::{check_of, is_known, is_operation};

/// Memory reserved for the text of `/metrics`. A longer text reserves more if there is room, and is
/// returned in any case.
const METRICS_BYTES: usize = 256 << 10;
/// Typical size of the text.
const LIKELY_METRICS_BYTES: usize = 64 << 10;
/// Maximum number of responses of agents, about files and preparations, that one master forwards at
/// the same time; further ones are rejected.
const FILES: usize = 256;

/// State shared by all handlers.
#[derive(Clone)]
pub(crate) struct Http {
    pub(crate) services: Services,
    metrics: Option<PrometheusHandle>,
    pub(crate) exec: exec::StreamLimit,
    /// Permits for responses in progress, each with a connection to an agent.
    files: Arc<Semaphore>,
}

/// Builds the routes.
pub(crate) fn router(
    services: Services,
    metrics: Option<PrometheusHandle>,
    exec: exec::StreamLimit,
    access: ApiAccess,
) -> Router {
    routes::guarded(access)
        .method_not_allowed_fallback(index::wrong_method)
        .with_state(Http {
            services,
            metrics,
            exec,
            files: Arc::new(Semaphore::new(argosy_proto::server::outgoing(FILES))),
        })
}

async fn ready(State(http): State<Http>) -> Response {
    match http.services.owner.ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(why) => problem(&Status::unavailable(why)),
    }
}

async fn show_metrics(State(http): State<Http>) -> Response {
    let Some(metrics) = &http.metrics else {
        return problem(&Status::not_found("this process records no metrics"));
    };
    let reserved = http
        .services
        .owner
        .reserve(METRICS_BYTES, LIKELY_METRICS_BYTES);
    let mut share = match reserved.await {
        Ok(share) => share,
        Err(status) => return problem(&status),
    };
    http.services.owner.reads.export_metrics();
    http.services.owner.changes.export_metrics();
    metrics.run_upkeep();
    let mut text = metrics.render();
    // A reader of the watch would delay the owner, which publishes there.
    let counts = Arc::clone(&http.services.owner.counts.borrow());
    counts.write(&mut text);
    let text = metric_names::with_former_names(&text);
    share.resize(text.len());
    share.attach_to_answer();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn cluster(
    State(http): State<Http>,
    caller: RequestPeer,
    parameters: QueryParameters,
) -> Response {
    let owner = &http.services.owner;
    let reader = owner.reader(caller.actor());
    let consistency = parameters.only(&["consistency"]);
    match consistency.and_then(|()| parameters.consistency()) {
        Ok(consistency) => json(service::cluster(owner, reader, consistency).await),
        Err(status) => problem(&status),
    }
}

async fn agents(
    State(http): State<Http>,
    caller: RequestPeer,
    parameters: QueryParameters,
) -> Response {
    let request = list(parameters, HistoryFilter::Excluded);
    listed::<v1::AgentPage>(&http, ListKind::Agents, caller, request).await
}

async fn agent(
    State(http): State<Http>,
    caller: RequestPeer,
    PathSegments(id): PathSegments<String>,
    parameters: QueryParameters,
) -> Response {
    match one(id, &parameters) {
        Ok(request) => json(answer(
            http.services.get_agent(caller.request(request)).await,
        )),
        Err(status) => problem(&status),
    }
}

async fn frameworks(
    State(http): State<Http>,
    caller: RequestPeer,
    parameters: QueryParameters,
) -> Response {
    let request = list(parameters, HistoryFilter::Included);
    listed::<v1::FrameworkPage>(&http, ListKind::Frameworks, caller, request).await
}

async fn framework(
    State(http): State<Http>,
    caller: RequestPeer,
    PathSegments(id): PathSegments<String>,
    parameters: QueryParameters,
) -> Response {
    match one(id, &parameters) {
        Ok(request) => json(answer(
            http.services.get_framework(caller.request(request)).await,
        )),
        Err(status) => problem(&status),
    }
}

/// Explains why a framework's work does not run: for the smallest demand, or for
/// `wanted=cpus:1;mem:64`.
async fn explain(
    State(http): State<Http>,
    caller: RequestPeer,
    PathSegments(framework_id): PathSegments<String>,
    parameters: QueryParameters,
) -> Response {
    match explain_request(framework_id, &parameters) {
        Ok(request) => json(answer(http.services.explain(caller.request(request)).await)),
        Err(status) => problem(&status),
    }
}

fn explain_request(
    framework_id: String,
    parameters: &QueryParameters,
) -> Result<v1::ExplainRequest, Status> {
    parameters.only(&["wanted", "consistency"])?;
    // The leader answers in any case.
    parameters.consistency()?;
    let wanted = parameters.0.get("wanted").map(|wanted| {
        let wanted: Result<Resources, InvalidResources> = wanted.parse();
        wanted.map_err(|why| Status::invalid_argument(format!("wanted: {why}")))
    });
    let wanted = wanted.transpose()?;
    Ok(v1::ExplainRequest {
        framework_id,
        wanted: wanted
            .map(|wanted| convert::resources(&wanted))
            .unwrap_or_default(),
        ..Default::default()
    })
}

async fn tasks(
    State(http): State<Http>,
    caller: RequestPeer,
    parameters: QueryParameters,
) -> Response {
    let request = list(parameters, HistoryFilter::Included);
    listed::<v1::TaskPage>(&http, ListKind::Tasks, caller, request).await
}

async fn task(
    State(http): State<Http>,
    caller: RequestPeer,
    PathSegments((framework_id, id)): PathSegments<(String, String)>,
    parameters: QueryParameters,
) -> Response {
    let request = one(id, &parameters).map(|request| v1::GetRequest {
        framework_id,
        ..request
    });
    match request {
        Ok(request) => json(answer(
            http.services.get_task(caller.request(request)).await,
        )),
        Err(status) => problem(&status),
    }
}

async fn offers(
    State(http): State<Http>,
    caller: RequestPeer,
    parameters: QueryParameters,
) -> Response {
    let request = list(parameters, HistoryFilter::Excluded);
    listed::<v1::OfferPage>(&http, ListKind::Offers, caller, request).await
}

async fn secrets(
    State(http): State<Http>,
    caller: RequestPeer,
    parameters: QueryParameters,
) -> Response {
    let reader = http.services.owner.reader(caller.actor());
    let known = parameters.only(&["role", "consistency", "min_revision"]);
    let request = known.and_then(|()| {
        Ok(v1::ListSecretsRequest {
            role: parameters.0.get("role").cloned().unwrap_or_default(),
            consistency: parameters.consistency()?,
            min_revision: parameters.number("min_revision")?.unwrap_or(0),
        })
    });
    match request {
        Ok(request) => json(http.services.secrets(reader, request).await),
        Err(status) => problem(&status),
    }
}

/// Forwards a file request to the agent that has the files, and streams its response back.
async fn agent_files(
    State(http): State<Http>,
    caller: RequestPeer,
    PathSegments((id, verb)): PathSegments<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    if !["browse", "read", "download"].contains(&verb.as_str()) {
        return problem(&Status::not_found(format!(
            "no verb {verb:?} for files: browse, read or download"
        )));
    }
    let query = query.unwrap_or_default();
    let wanted = AgentRequest::of_file(&query);
    if let Err(status) = task_access::check(&http.services.owner, caller.actor(), &id, wanted).await
    {
        return problem(&status);
    }
    from_agent(&http, id, &format!("/v1/files/{verb}?{query}")).await
}

/// Forwards a request for the preparation of a task to its agent. The task's own record shows more,
/// so every caller that may see it is served.
async fn agent_preparation(
    State(http): State<Http>,
    caller: RequestPeer,
    PathSegments(id): PathSegments<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let wanted = AgentRequest::of_task(&query, &[Action::ViewTask]);
    if let Err(status) = task_access::check(&http.services.owner, caller.actor(), &id, wanted).await
    {
        return problem(&status);
    }
    from_agent(&http, id, &format!("/v1/preparation?{query}")).await
}

/// Requests a path of an agent's API, and streams the response back.
async fn from_agent(http: &Http, id: String, path: &str) -> Response {
    let request = v1::GetRequest {
        id: id.clone(),
        consistency: v1::Consistency::Local.into(),
        ..Default::default()
    };
    let endpoint = match endpoint_of(&http.services.owner, request).await {
        Ok(endpoint) => endpoint,
        Err(status) => return problem(&status),
    };
    let Ok(place) = Arc::clone(&http.files).try_acquire_owned() else {
        let text = "this master forwards as many responses of agents as it can: retry later, or use another master";
        return problem(&Status::resource_exhausted(text));
    };
    let mut asked = Request::get(path);
    if let Some(context) = trace::request_header() {
        asked = asked.header(trace::HEADER, context);
    }
    let asked = match asked.body(Body::empty()) {
        Ok(asked) => asked,
        Err(why) => return problem(&Status::invalid_argument(why.to_string())),
    };
    match request_agent(&http.services.agents, &id, &endpoint, asked).await {
        Ok(answer) => stream_response(answer, Some(place)),
        Err(status) => problem(&status),
    }
}

/// Returns the same result as over gRPC; calls that only the leader can answer were forwarded to
/// it.
fn answer<T>(answer: Result<tonic::Response<T>, Status>) -> Result<T, Status> {
    answer.map(tonic::Response::into_inner)
}

/// Builds the request for one record.
fn one(id: String, parameters: &QueryParameters) -> Result<v1::GetRequest, Status> {
    parameters.only(&["consistency", "min_revision"])?;
    Ok(v1::GetRequest {
        id,
        consistency: parameters.consistency()?,
        min_revision: parameters.number("min_revision")?.unwrap_or_default(),
        ..Default::default()
    })
}

/// Whether a list includes records that have ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HistoryFilter {
    Included,
    Excluded,
}

/// Builds a list request: known parameters control the page; every other one is a field to filter
/// by.
fn list(parameters: QueryParameters, history: HistoryFilter) -> Result<v1::ListRequest, Status> {
    let mut request = v1::ListRequest {
        consistency: parameters.consistency()?,
        page_size: parameters.number("page_size")?.unwrap_or_default(),
        min_revision: parameters.number("min_revision")?.unwrap_or_default(),
        ..Default::default()
    };
    for (name, value) in parameters.0 {
        match name.as_str() {
            "consistency" | "page_size" | "min_revision" => {}
            "page_token" => request.page_token = value,
            "include_ended" if history == HistoryFilter::Included => {
                request.include_ended = filter_values::flag(&name, &value)?;
            }
            _ => drop(request.filter.insert(name, value)),
        }
    }
    Ok(request)
}

/// Encodes a page as JSON. That takes longer than building the page, so the readers' thread does
/// it.
async fn listed<T: prost::Message + Default + serde::Serialize>(
    http: &Http,
    list: ListKind,
    caller: RequestPeer,
    request: Result<v1::ListRequest, Status>,
) -> Response {
    let page = match request {
        Ok(request) => http.services.list(list, caller.request(request)).await,
        Err(status) => Err(status),
    };
    let written = match answer(page) {
        Ok(page) => {
            let written = async move { json(page.decoded::<T>()) };
            spawn_reader(&http.services.owner, written).await
        }
        Err(status) => Err(status),
    };
    written.unwrap_or_else(|status| problem(&status))
}

fn json<T: serde::Serialize>(answer: Result<T, Status>) -> Response {
    match answer {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(status) => problem(&status),
    }
}

/// Returns an error as an HTTP response.
pub(crate) fn problem(status: &Status) -> Response {
    let code = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refusal(code, status.code(), status.message())
}

/// Builds an error response from an HTTP status, a gRPC code and a message.
fn refusal(status: StatusCode, code: Code, message: &str) -> Response {
    let body = serde_json::json!({ "code": format!("{code:?}"), "message": message });
    let mut response = (status, axum::Json(body)).into_response();
    if status == StatusCode::TOO_MANY_REQUESTS {
        let again = header::HeaderValue::from_static("1");
        response.headers_mut().insert(header::RETRY_AFTER, again);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demand_parameter_of_explain_has_the_resource_syntax() {
        let ask = |name: &str, value: &str| {
            let parameters = QueryParameters([(name.to_owned(), value.to_owned())].into());
            explain_request("framework-1".to_owned(), &parameters)
        };
        let request = ask("wanted", "cpus:1.5;mem:64").unwrap();
        assert_eq!(request.framework_id, "framework-1");
        let wanted: Vec<_> = request.wanted.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(wanted, ["cpus", "mem"]);
        for (name, value, expected) in [
            ("wanted", "cpus", "\"cpus\""),
            ("wnted", "cpus:1", "\"wnted\""),
        ] {
            let refused = ask(name, value).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains(expected), "{refused}");
        }
    }
}
