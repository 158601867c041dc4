//! Sandboxes over HTTP: browse, read, follow, download. Read-only; access is restricted to
//! sandboxes.
//!
//! Reading order: `path`, `reader`, `times`, `listing`, `answer_limits`, `answers`.

mod answer_limits;
mod answers;
mod listing;
mod path;
mod reader;
#[cfg(test)]
mod tests;
mod times;

use std::sync::Arc;

use argosy_state::ids::TaskKey;
use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use crate::inbox::QueryHandle;
use crate::paths::Paths;
use answer_limits::AnswerLimits;
#[cfg(feature = "fuzzing")]
pub(crate) use answers::requested_files;
pub(crate) use answers::{browse, download, read};
use listing::LISTINGS;
pub(crate) use path::ticket_object;

/// The state of the calls.
#[derive(Clone)]
pub(crate) struct FilesState {
    paths: Paths,
    queries: QueryHandle,
    /// Limits concurrent directory listings: further requests are refused.
    listings: Arc<Semaphore>,
    followers: AnswerLimits,
    /// Of answers that do not follow.
    readers: AnswerLimits,
}

impl FilesState {
    pub(crate) fn new(paths: Paths, queries: QueryHandle) -> Self {
        Self {
            paths,
            queries,
            listings: Arc::new(Semaphore::new(LISTINGS)),
            followers: AnswerLimits::new("follow"),
            readers: AnswerLimits::new("read"),
        }
    }
}

/// The reason why a file is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error("{field} {value:?} is not valid: {remedy}")]
    Invalid {
        field: &'static str,
        value: String,
        remedy: &'static str,
    },
    #[error("there is no {path:?} on this agent: {why}")]
    Missing { path: String, why: String },
    #[error("{path:?} is {what}: only files and directories are served")]
    Kind { path: String, what: &'static str },
    #[error("cannot read {path:?}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error(
        "no times of {path:?} are recorded: its task was started under an earlier release, or the record was lost"
    )]
    NoTimes { path: String },
    #[error("the agent already lists {most} directories; retry later")]
    Busy { most: usize },
    #[error("{most} requests {verb} files of {task} already; end one first, or retry later")]
    BusyTask {
        verb: &'static str,
        task: TaskKey,
        most: usize,
    },
    #[error("{most} requests {verb} files of this agent already; end one first, or retry later")]
    BusyAgent { verb: &'static str, most: usize },
    #[error("the agent is stopping")]
    Stopping,
}

impl IntoResponse for FilesError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Invalid { .. } | Self::Kind { .. } => StatusCode::BAD_REQUEST,
            Self::Missing { .. } => StatusCode::NOT_FOUND,
            Self::NoTimes { .. } => StatusCode::CONFLICT,
            Self::Read { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Busy { .. } | Self::BusyTask { .. } | Self::BusyAgent { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        problem(status, &self.to_string())
    }
}

/// Returns a refusal in the format of the masters: the code is the gRPC status name.
pub(crate) fn problem(status: StatusCode, message: &str) -> Response {
    let code = match status {
        StatusCode::BAD_REQUEST => "InvalidArgument",
        StatusCode::FORBIDDEN => "PermissionDenied",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::METHOD_NOT_ALLOWED => "Unimplemented",
        StatusCode::CONFLICT => "FailedPrecondition",
        StatusCode::UNPROCESSABLE_ENTITY => "Aborted",
        StatusCode::TOO_MANY_REQUESTS => "ResourceExhausted",
        StatusCode::SERVICE_UNAVAILABLE => "Unavailable",
        _ => "Internal",
    };
    let body = serde_json::json!({ "code": code, "message": message });
    let mut response = (status, Json(body)).into_response();
    if status == StatusCode::TOO_MANY_REQUESTS {
        let pause = HeaderValue::from_static("1");
        response.headers_mut().insert(RETRY_AFTER, pause);
    }
    response
}
