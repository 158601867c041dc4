//! Changes as JSON: each path performs one operation or one call, through the service that gRPC
//! calls use.
//!
//! A body must be declared as JSON. Pages of other origins can send forms, but not that, unless
//! the master permits it, which it does not.

use argosy_proto::v1;
use argosy_proto::v1::operator_server::Operator as _;
use argosy_proto::v1::write_operation::Operation;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tonic::{Code, Status};

use super::caller::RequestPeer;
use super::parameters::QueryParameters;
use super::{Http, PathSegments, answer, json, problem, refusal};
use crate::service::{CALL_BYTES, refused};

/// The header that identifies a change: a repeat within ten minutes changes nothing.
const REQUEST_ID: &str = "argosy-request-id";

/// The body of a request: JSON of at most [`CALL_BYTES`], without unknown fields. No body is the
/// empty message.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        if !is_json(request.headers()) {
            let text = "the body must be JSON: send the header content-type: application/json";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(refusal(status, Code::InvalidArgument, text));
        }
        let read = axum::body::to_bytes(request.into_body(), CALL_BYTES).await;
        let body = read.map_err(|why| {
            let text =
                format!("the body cannot be read; it takes {CALL_BYTES} bytes at most: {why}");
            refusal(StatusCode::PAYLOAD_TOO_LARGE, Code::InvalidArgument, &text)
        })?;
        let body = if body.is_empty() { b"{}" } else { &body[..] };
        let parsed = serde_json::from_slice(body);
        let parsed = parsed.map_err(|why| invalid(&format!("the body: {why}")))?;
        Ok(Self(parsed))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn invalid(text: &str) -> Response {
    problem(&Status::invalid_argument(text))
}

/// The caller of a change, and the id of its request.
pub(super) struct Change {
    caller: RequestPeer,
    request_id: String,
    parameters: QueryParameters,
}

impl<S: Send + Sync> FromRequestParts<S> for Change {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let mut ids = parts.headers.get_all(REQUEST_ID).iter();
        let request_id = ids.next().map(|id| id.to_str().unwrap_or_default());
        if request_id == Some("") || ids.next().is_some() {
            return Err(invalid(&format!(
                "{REQUEST_ID}: send it once, as text of 1 to 255 bytes"
            )));
        }
        let request_id = request_id.unwrap_or_default().to_owned();
        let parameters = QueryParameters::from_request_parts(parts, state).await?;
        let Ok(caller) = RequestPeer::from_request_parts(parts, state).await;
        Ok(Self {
            caller,
            request_id,
            parameters,
        })
    }
}

impl Change {
    /// Rejects parameters after the path.
    fn without_parameters(self) -> Result<Self, Status> {
        let text = "this path has no parameters: use the body";
        let known = self.parameters.only(&[]);
        known.map_err(|_| Status::invalid_argument(text))?;
        Ok(self)
    }

    /// Performs a call without parameters after the path.
    async fn call<T, A: serde::Serialize>(
        self,
        message: T,
        call: impl AsyncFnOnce(tonic::Request<T>) -> Result<tonic::Response<A>, Status>,
    ) -> Response {
        match self.without_parameters() {
            Ok(change) => json(answer(call(change.caller.request(message)).await)),
            Err(status) => problem(&status),
        }
    }

    /// Performs one operation. Its refusal is the status of the response.
    pub(super) async fn operate(self, http: Http, operation: Operation) -> Response {
        match self.without_parameters() {
            Ok(change) => change.write(http, operation).await,
            Err(status) => problem(&status),
        }
    }

    async fn write(self, http: Http, operation: Operation) -> Response {
        let batch = v1::WriteBatch {
            request_id: self.request_id,
            principal: String::new(),
            operations: vec![v1::WriteOperation {
                operation: Some(operation),
            }],
        };
        let written = http.services.write_one(self.caller.request(batch)).await;
        let written = answer(written).and_then(|reply| {
            let outcome = reply.outcomes.iter().find(|outcome| !outcome.done);
            match outcome {
                Some(outcome) => Err(refused(&outcome.code, &outcome.message)),
                None => Ok(reply),
            }
        });
        json(written)
    }
}

/// `POST /v1/write`
pub(super) async fn batch(
    State(http): State<Http>,
    mut change: Change,
    JsonBody(mut batch): JsonBody<v1::WriteBatch>,
) -> Response {
    let header = std::mem::take(&mut change.request_id);
    if !header.is_empty() && !batch.request_id.is_empty() && header != batch.request_id {
        return invalid(&format!(
            "requestId: it is {:?}, and the header {REQUEST_ID} is {header:?}: send one of them",
            batch.request_id
        ));
    }
    if batch.request_id.is_empty() {
        batch.request_id = header;
    }
    let call = async |request| http.services.write_one(request).await;
    change.call(batch, call).await
}

/// The body that sets an attribute; the path names the attribute.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AttributeValue {
    value: String,
}

pub(super) async fn set_attribute(
    State(http): State<Http>,
    PathSegments((agent_id, name)): PathSegments<(String, String)>,
    change: Change,
    JsonBody(AttributeValue { value }): JsonBody<AttributeValue>,
) -> Response {
    if value.is_empty() {
        return invalid("value: it is empty; DELETE removes an attribute");
    }
    let set = v1::SetAttribute {
        agent_id,
        name,
        value,
    };
    change.operate(http, Operation::SetAttribute(set)).await
}

pub(super) async fn remove_attribute(
    State(http): State<Http>,
    PathSegments((agent_id, name)): PathSegments<(String, String)>,
    change: Change,
) -> Response {
    let set = v1::SetAttribute {
        agent_id,
        name,
        value: String::new(),
    };
    change.operate(http, Operation::SetAttribute(set)).await
}

pub(super) async fn deactivate(
    State(http): State<Http>,
    PathSegments(id): PathSegments<String>,
    change: Change,
    JsonBody(body): JsonBody<v1::DeactivateAgent>,
) -> Response {
    match agent(id, body.agent_id) {
        Ok(agent_id) => {
            let operation = Operation::DeactivateAgent(v1::DeactivateAgent { agent_id });
            change.operate(http, operation).await
        }
        Err(status) => problem(&status),
    }
}

pub(super) async fn reactivate(
    State(http): State<Http>,
    PathSegments(id): PathSegments<String>,
    change: Change,
    JsonBody(body): JsonBody<v1::ReactivateAgent>,
) -> Response {
    match agent(id, body.agent_id) {
        Ok(agent_id) => {
            let operation = Operation::ReactivateAgent(v1::ReactivateAgent { agent_id });
            change.operate(http, operation).await
        }
        Err(status) => problem(&status),
    }
}

pub(super) async fn mark_gone(
    State(http): State<Http>,
    PathSegments(id): PathSegments<String>,
    change: Change,
    JsonBody(body): JsonBody<v1::MarkAgentGone>,
) -> Response {
    match agent(id, body.agent_id) {
        Ok(agent_id) => {
            let operation = Operation::MarkAgentGone(v1::MarkAgentGone { agent_id });
            change.operate(http, operation).await
        }
        Err(status) => problem(&status),
    }
}

/// Returns the agent that the path names; the body may repeat it.
fn agent(path: String, body: String) -> Result<String, Status> {
    if body.is_empty() || body == path {
        return Ok(path);
    }
    let text = format!("agentId: it is {body:?}, and the path names {path:?}");
    Err(Status::invalid_argument(text))
}

pub(super) async fn teardown(
    State(http): State<Http>,
    PathSegments(framework_id): PathSegments<String>,
    change: Change,
) -> Response {
    let operation = Operation::TeardownFramework(v1::TeardownFramework { framework_id });
    change.operate(http, operation).await
}

/// Kills a task; `grace_ms` are the milliseconds between TERM and KILL.
pub(super) async fn kill(
    State(http): State<Http>,
    PathSegments((framework_id, task_id)): PathSegments<(String, String)>,
    change: Change,
) -> Response {
    let known = change.parameters.only(&["grace_ms"]);
    match known.and_then(|()| change.parameters.number("grace_ms")) {
        Ok(grace_ms) => {
            let kill = v1::KillTask {
                framework_id,
                task_id,
                grace_ms,
            };
            change.write(http, Operation::KillTask(kill)).await
        }
        Err(status) => problem(&status),
    }
}

pub(super) async fn update_limits(
    State(http): State<Http>,
    PathSegments((framework_id, task_id)): PathSegments<(String, String)>,
    change: Change,
    JsonBody(limits): JsonBody<v1::Limits>,
) -> Response {
    let update = v1::UpdateLimits {
        framework_id,
        task_id,
        limits: Some(limits),
    };
    change.operate(http, Operation::UpdateLimits(update)).await
}

pub(super) async fn set_weight(
    State(http): State<Http>,
    PathSegments(role): PathSegments<String>,
    change: Change,
    JsonBody(body): JsonBody<v1::SetWeight>,
) -> Response {
    if !body.role.is_empty() && body.role != role {
        return invalid(&format!(
            "role: it is {:?}, and the path names {role:?}",
            body.role
        ));
    }
    let set = v1::SetWeight { role, ..body };
    change.operate(http, Operation::SetWeight(set)).await
}

pub(super) async fn join(
    State(http): State<Http>,
    change: Change,
    JsonBody(body): JsonBody<v1::JoinMasterRequest>,
) -> Response {
    let call = async |request| http.services.join_master(request).await;
    change.call(body, call).await
}

pub(super) async fn remove(
    State(http): State<Http>,
    PathSegments(node_id): PathSegments<String>,
    change: Change,
) -> Response {
    let call = async |request| http.services.remove_master(request).await;
    change.call(v1::RemoveMasterRequest { node_id }, call).await
}

pub(super) async fn transfer(
    State(http): State<Http>,
    change: Change,
    JsonBody(body): JsonBody<v1::TransferLeaderRequest>,
) -> Response {
    let call = async |request| http.services.transfer_leader(request).await;
    change.call(body, call).await
}

pub(super) async fn raise_level(
    State(http): State<Http>,
    change: Change,
    JsonBody(body): JsonBody<v1::RaiseLevelRequest>,
) -> Response {
    let call = async |request| http.services.raise_level(request).await;
    change.call(body, call).await
}

/// The call acts on this master, which reads the actor from the connection.
pub(super) async fn set_log_filter(
    State(http): State<Http>,
    change: Change,
    JsonBody(body): JsonBody<v1::SetLogFilterRequest>,
) -> Response {
    let call = async |request| http.services.set_log_filter(request).await;
    change.call(body, call).await
}

/// The call changes nothing; this master answers it.
pub(super) async fn issue_tickets(
    State(http): State<Http>,
    PathSegments(agent_id): PathSegments<String>,
    change: Change,
    JsonBody(body): JsonBody<v1::IssueTicketsRequest>,
) -> Response {
    if !body.agent_id.is_empty() {
        return invalid("agentId: the path names the agent");
    }
    let wanted = v1::IssueTicketsRequest { agent_id, ..body };
    let call = async |request| http.services.issue_tickets(request).await;
    change.call(wanted, call).await
}
