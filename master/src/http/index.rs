//! The index of the HTTP paths, and the responses to unknown ones.

use std::fmt::Write as _;

use argosy_proto::v1;
use argosy_proto::versions::VersionRange;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use tonic::{Code, Status};

use super::refusal;

/// Maximum length of a path with its parameters, in bytes. HTTP/1.1 rejects more than 65,534
/// earlier, without a body.
const PATH_BYTES: usize = 65_000;

/// Every path with its description.
pub(crate) const PATHS: [(&str, &str); 15] = [
    ("/v1/cluster", "masters, leader, counts, resources"),
    ("/v1/agents", "agents, a page at a time"),
    ("/v1/agents/{agent_id}", "one agent"),
    (
        "/v1/agents/{agent_id}/files/{browse,read,download}",
        "files of its tasks",
    ),
    (
        "/v1/agents/{agent_id}/exec",
        "a command in a task, over a WebSocket",
    ),
    (
        "/v1/agents/{agent_id}/attach",
        "a task's own terminal, over a WebSocket",
    ),
    ("/v1/frameworks", "frameworks, a page at a time"),
    ("/v1/frameworks/{framework_id}", "one framework"),
    (
        "/v1/frameworks/{framework_id}/explain",
        "why its work does not run",
    ),
    ("/v1/tasks", "tasks, a page at a time"),
    ("/v1/tasks/{framework_id}/{task_id}", "one task"),
    ("/v1/offers", "open offers, a page at a time"),
    ("/healthz", "whether this process is alive"),
    (
        "/readyz",
        "whether this master can answer: a quorum has confirmed a leader just now",
    ),
    ("/metrics", "figures for Prometheus"),
];

/// Returns the HTML page at `/`.
pub(super) async fn page() -> Html<String> {
    let release = v1_release();
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Argosy master</title></head>\n<body>\n\
         <h1>Argosy master {release}</h1>\n\
         <p>This port serves gRPC (<code>argosy.v1</code>, with reflection) and the read side of it as JSON. \
         <code>docs/protocol.md</code> describes both.</p>\n<table>\n"
    );
    for (path, answer) in PATHS {
        let path = match path.contains('{') {
            true => path.to_owned(),
            false => format!("<a href=\"{path}\">{path}</a>"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            page,
            "<tr><td><code>{path}</code></td><td>{answer}</td></tr>"
        );
    }
    page.push_str("</table>\n</body>\n</html>\n");
    Html(page)
}

/// Returns the JSON list at `/v1`.
pub(super) async fn list() -> Response {
    let paths = PATHS.map(|(path, answer)| serde_json::json!({ "path": path, "answer": answer }));
    axum::Json(serde_json::json!({ "release": v1_release(), "paths": paths })).into_response()
}

fn v1_release() -> String {
    let v1::Protocol { release, .. } = VersionRange::OWN.first_message();
    release
}

/// Responds to an unknown path, or to a gRPC call that no service has.
pub(crate) async fn unknown(request: Request) -> Response {
    let path = request.uri().path();
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Status::unimplemented(format!("no method {path}")).into_http();
    }
    let text = format!("no path {path}: /v1 lists those that there are");
    refusal(StatusCode::NOT_FOUND, Code::NotFound, &text)
}

/// Responds to a known path with a wrong method.
pub(super) async fn wrong_method(request: Request) -> Response {
    let text = format!(
        "{} {}: use GET; gRPC changes things",
        request.method(),
        request.uri().path()
    );
    refusal(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, &text)
}

/// Rejects a path that is too long.
pub(crate) fn too_long(request: &Request) -> Option<Response> {
    let length = request
        .uri()
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    if length <= PATH_BYTES {
        return None;
    }
    let text = format!("the path and its parameters take {length} bytes; at most {PATH_BYTES}");
    let refused = refusal(StatusCode::URI_TOO_LONG, Code::InvalidArgument, &text);
    Some(refused)
}
