//! Sandboxes over HTTP: browse, read, follow, download. Reads only; never leaves a sandbox.
//!
//! Reading order: `place`, `answers`.

mod answers;
mod place;
#[cfg(test)]
mod tests;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

pub(crate) use answers::{browse, download, read};

/// Why a file is not served.
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
    #[error("{path:?} is {what}: only files and folders are served")]
    Kind { path: String, what: &'static str },
    #[error("cannot read {path:?}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("the agent is stopping")]
    Stopping,
}

impl IntoResponse for FilesError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::Invalid { .. } => (StatusCode::BAD_REQUEST, "invalid"),
            Self::Kind { .. } => (StatusCode::BAD_REQUEST, "not-a-file"),
            Self::Missing { .. } => (StatusCode::NOT_FOUND, "not-found"),
            Self::Read { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "unreadable"),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        let body = serde_json::json!({ "error": { "code": code, "message": self.to_string() } });
        (status, Json(body)).into_response()
    }
}
