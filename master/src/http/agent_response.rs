//! Responses of agents, as this master forwards them. An agent is trusted less than a master: what
//! it sends must not act in the name of a master's client.

use argosy_proto::server::GuardedBody;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::problem;

/// Streams an agent's response; it keeps its permit until its end.
pub(super) fn stream_response(answer: Response, place: Option<OwnedSemaphorePermit>) -> Response {
    let (answered, body) = answer.into_parts();
    let mut response = Response::builder().status(answered.status);
    for (name, value) in &answered.headers {
        if name.as_str().starts_with("x-argosy-")
            || *name == header::RETRY_AFTER
            || (*name == header::CONTENT_DISPOSITION && is_attachment(value))
        {
            response = response.header(name, value);
        }
    }
    response
        .header(header::CONTENT_TYPE, content_type(&answered.headers))
        .body(Body::new(GuardedBody::new(body, place)))
        .unwrap_or_else(|why| problem(&Status::internal(why.to_string())))
}

/// Returns the type of a response. A browser shows no other type as a page of this master.
fn content_type(headers: &HeaderMap) -> &'static str {
    match headers.get(header::CONTENT_TYPE).map(first_part) {
        Some(kind) if kind.eq_ignore_ascii_case("application/json") => "application/json",
        Some(_) | None => "application/octet-stream",
    }
}

fn is_attachment(disposition: &HeaderValue) -> bool {
    first_part(disposition).eq_ignore_ascii_case("attachment")
}

/// Returns a value without its parameters; empty if it is not plain ASCII.
fn first_part(value: &HeaderValue) -> &str {
    let text = value.to_str().unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn the_pause_that_an_agent_asks_for_is_passed_on() {
        let answer = axum::http::Response::builder()
            .status(StatusCode::TOO_MANY_REQUESTS)
            .header(header::RETRY_AFTER, "7")
            .header(header::SET_COOKIE, "x=y");
        let answer = answer.body(Body::empty()).unwrap();
        let passed = stream_response(answer, None);
        assert_eq!(passed.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(passed.headers()[header::RETRY_AFTER], "7");
        assert!(!passed.headers().contains_key(header::SET_COOKIE));
    }

    #[test]
    fn an_agent_chooses_no_type_that_a_browser_shows_as_a_page() {
        for (named, passed) in [
            ("application/json", "application/json"),
            ("Application/JSON; charset=utf-7", "application/json"),
            ("application/octet-stream", "application/octet-stream"),
            ("application/jsonp", "application/octet-stream"),
            ("text/html", "application/octet-stream"),
            ("image/svg+xml", "application/octet-stream"),
            ("text/html, application/json", "application/octet-stream"),
            ("", "application/octet-stream"),
        ] {
            let answer = axum::http::Response::builder().header(header::CONTENT_TYPE, named);
            let answer = stream_response(answer.body(Body::empty()).unwrap(), None);
            let all: Vec<_> = answer
                .headers()
                .get_all(header::CONTENT_TYPE)
                .iter()
                .collect();
            assert_eq!(all, [passed], "{named}");
        }
    }

    #[test]
    fn an_agent_chooses_the_name_of_a_download_only() {
        for (named, is_passed) in [
            ("attachment; filename=\"stdout\"", true),
            ("ATTACHMENT", true),
            ("inline; filename=\"page.html\"", false),
            ("attachments", false),
        ] {
            let answer = axum::http::Response::builder().header(header::CONTENT_DISPOSITION, named);
            let answer = stream_response(answer.body(Body::empty()).unwrap(), None);
            let passed = answer.headers().get(header::CONTENT_DISPOSITION);
            assert_eq!(passed.is_some(), is_passed, "{named}");
        }
    }
}
