//! Requests to agents, and their responses, as this master forwards them. An agent is trusted less
//! than a master: what it sends must not act in the name of a master's client.

use std::time::Duration;

use argosy_proto::http_client::HttpClient;
use argosy_proto::server::GuardedBody;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, header};
use axum::response::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tonic::Status;

use super::problem;
use crate::service::AgentEndpoint;

/// Timeout for the head of an agent's response. The agent's own timeout for the start of a command
/// is shorter. The body has no timeout: it may follow a file.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// Sends a request to an agent, and returns the response as soon as its head has arrived. No error
/// shows the path, which may contain a command's secret arguments.
pub(super) async fn request_agent(
    agents: &HttpClient,
    id: &str,
    endpoint: &AgentEndpoint,
    request: Request<Body>,
) -> Result<Response, Status> {
    let AgentEndpoint { address, expected } = endpoint;
    let requesting = agents.send(address, expected, request);
    match timeout(HEAD_TIMEOUT, requesting).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(why)) => Err(Status::unavailable(format!(
            "{id} at {address} does not answer: {why}"
        ))),
        Err(_) => Err(Status::unavailable(format!(
            "{id} at {address} has not answered within {} s",
            HEAD_TIMEOUT.as_secs()
        ))),
    }
}

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
    use std::sync::Mutex;

    use argosy_proto::transport::{Connection, Dialer, ExpectedPeer, PeerIdentity};
    use axum::http::StatusCode;
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_does_not_answer_a_request_keeps_no_connection() {
        let (near, mut far) = duplex(1 << 12);
        let near = Mutex::new(Some(near));
        let dialer = Dialer::new(move |_, _| {
            let near = near.lock().unwrap().take().unwrap();
            let peer = PeerIdentity::authenticated("agent/a1".parse().unwrap(), None);
            async { Ok((Connection::new(near), peer)) }
        });
        let agents = HttpClient::new(dialer, HEAD_TIMEOUT);
        let endpoint = AgentEndpoint {
            address: "a1:5051".to_owned(),
            expected: ExpectedPeer::AGENT,
        };
        let request = Request::get("/v1/files/browse").body(Body::empty());
        let requesting = request_agent(&agents, "agent-1", &endpoint, request.unwrap());
        let refused = timeout(2 * HEAD_TIMEOUT, requesting).await;
        let refused = refused.expect("the request ends in time").unwrap_err();
        let text = "agent-1 at a1:5051 has not answered within 20 s";
        assert_eq!(refused.message(), text);
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert!(received.starts_with(b"GET /v1/files/browse"));
    }

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
