//! The index of the HTTP paths, and the responses to unknown ones.

use std::fmt::Write as _;

use argosy_proto::v1;
use argosy_proto::versions::VersionRange;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use tonic::{Code, Status};

use super::refusal;
use super::routes::{self, ROUTES, Route};
use crate::metrics::CALLS;

/// Maximum length of a path with its parameters, in bytes. HTTP/1.1 rejects more than 65,534
/// earlier, without a body.
const PATH_BYTES: usize = 65_000;

/// Returns the HTML page at `/`.
pub(super) async fn page() -> Html<String> {
    let release = v1_release();
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Argosy master</title></head>\n<body>\n\
         <h1>Argosy master {release}</h1>\n\
         <p>This port serves gRPC (<code>argosy.v1</code>, with reflection) and its operator API as JSON. \
         <code>docs/protocol.md</code> describes both.</p>\n<table>\n"
    );
    for route in ROUTES {
        let path = match route.method == "GET" && !route.path.contains('{') {
            true => format!("<a href=\"{0}\">{0}</a>", route.path),
            false => route.path.to_owned(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td><code>{path}</code></td><td>{}</td></tr>",
            route.method, route.answer
        );
    }
    page.push_str("</table>\n</body>\n</html>\n");
    Html(page)
}

/// Returns the JSON list at `/v1`.
pub(super) async fn list() -> Response {
    let paths: Vec<_> = ROUTES.iter().map(described).collect();
    axum::Json(serde_json::json!({ "release": v1_release(), "paths": paths })).into_response()
}

fn described(route: &Route) -> serde_json::Value {
    serde_json::json!({ "method": route.method, "path": route.path, "answer": route.answer })
}

fn v1_release() -> String {
    let v1::Protocol { release, .. } = VersionRange::OWN.first_message();
    release
}

/// Responds to an unknown path, or to a gRPC call that no service has.
pub(crate) async fn unknown(request: Request) -> Response {
    let path = request.uri().path();
    if declares_call(request.headers()) {
        return Status::unimplemented(format!("no method {path}")).into_http();
    }
    refusal(StatusCode::NOT_FOUND, Code::NotFound, &no_path(path))
}

/// Returns the text for a path that does not exist.
pub(crate) fn no_path(path: &str) -> String {
    format!("no path {path}: /v1 lists those that there are")
}

/// Returns whether a request declares that it is a gRPC call.
pub(crate) fn declares_call(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Responds to a known path with a wrong method.
pub(super) async fn wrong_method(request: Request) -> Response {
    let path = request.uri().path();
    let text = format!(
        "{} {path}: use {}",
        request.method(),
        routes::methods(path).join(" or ")
    );
    refusal(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, &text)
}

/// Rejects a gRPC call that a page of another origin could send: its body is not declared as gRPC.
/// A page cannot declare that without the permission of this server, which it never gets. Handlers
/// of JSON check their bodies themselves.
pub(crate) fn undeclared(request: &Request) -> Option<Response> {
    let path = request.uri().path();
    let is_call = path.starts_with(CALLS) || path.starts_with("/grpc.");
    let declares = |kind: &HeaderValue| {
        let kind = kind.as_bytes().to_ascii_lowercase();
        kind.starts_with(b"application/grpc")
    };
    let mut kinds = request.headers().get_all(CONTENT_TYPE).iter();
    let is_declared = kinds.next().is_some_and(declares) && kinds.next().is_none();
    if !is_call || is_declared || request.method() == Method::GET {
        return None;
    }
    let text = "a gRPC call must be declared: send the header content-type: application/grpc, once";
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Some(refusal(status, Code::InvalidArgument, text))
}

/// Returns whether a request asks for the health of this master. It is answered in any case.
pub(crate) fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
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
