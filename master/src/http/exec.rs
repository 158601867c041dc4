//! Proxying of exec and attach: requests to run a command in a task, or to attach to the task's own
//! command.
//!
//! The agent that runs the task gets the request, and then bytes flow in both directions. Any
//! master does this, leading or not: a stream depends on this process and not on replicated state.
//! The protocol inside the stream is between the agent and the client.

use std::sync::Arc;
use std::time::Duration;

use argosy_proto::{trace, v1};
use argosy_state::access::Action;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{self, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::Status;

use super::agent_response::{request_agent, stream_response};
use super::caller::RequestPeer;
use super::{Http, PathSegments, problem};
use crate::service::task_access::{self, AgentRequest};
use crate::service::{WatchedCredential, endpoint_of};

/// Maximum number of concurrent streams of one master; further ones are rejected.
pub(crate) const STREAMS: usize = 1024;
/// Time for which one direction may continue after the other has ended.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Request headers that describe the client's WebSocket and the page that opened it.
const REQUEST_HEADERS: [HeaderName; 7] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::ORIGIN,
];
/// Response headers that describe the agent's WebSocket.
const RESPONSE_HEADERS: [HeaderName; 5] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];

/// Limit of concurrent streams.
#[derive(Clone)]
pub(crate) struct StreamLimit {
    permits: Arc<Semaphore>,
    streams: usize,
}

impl StreamLimit {
    pub(crate) fn new(streams: usize) -> Self {
        let room = Arc::new(Semaphore::new(streams));
        Self {
            permits: room,
            streams,
        }
    }

    fn admit(&self) -> Result<OwnedSemaphorePermit, Status> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        permit.map_err(|_| {
            let text = format!(
                "this master forwards {} streams: close one, or use another master",
                self.streams
            );
            Status::resource_exhausted(text)
        })
    }
}

/// `GET /v1/agents/{id}/exec?…`: forwards the agent's answer.
pub(super) async fn exec(
    State(http): State<Http>,
    caller: RequestPeer,
    PathSegments(id): PathSegments<String>,
    request: Parts,
) -> Response {
    let wanted = AgentRequest::of_task(request.uri.query().unwrap_or_default(), &[Action::Exec]);
    match task_access::check(&http.services.owner, caller.actor(), &id, wanted).await {
        Ok(()) => forward_to_agent(http, &id, "exec", request).await,
        Err(status) => problem(&status),
    }
}

/// `GET /v1/agents/{id}/attach?…`: forwards the agent's answer.
pub(super) async fn attach(
    State(http): State<Http>,
    caller: RequestPeer,
    PathSegments(id): PathSegments<String>,
    request: Parts,
) -> Response {
    let wanted = AgentRequest::of_task(request.uri.query().unwrap_or_default(), &[Action::Attach]);
    match task_access::check(&http.services.owner, caller.actor(), &id, wanted).await {
        Ok(()) => forward_to_agent(http, &id, "attach", request).await,
        Err(status) => problem(&status),
    }
}

async fn forward_to_agent(http: Http, id: &str, what: &str, mut request: Parts) -> Response {
    let permit = match http.exec.admit() {
        Ok(permit) => permit,
        Err(status) => return problem(&status),
    };
    let ours = request.extensions.remove::<OnUpgrade>();
    let credential = request.extensions.remove::<WatchedCredential>();
    let answer = match request_upgrade(&http, id, what, &request).await {
        Ok(answer) => answer,
        Err(status) => return problem(&status),
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return stream_response(answer, None);
    }
    let Some(ours) = ours else {
        let text = "this needs a connection of HTTP/1.1 that can become a WebSocket";
        return problem(&Status::invalid_argument(text));
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = select_headers(answer.headers(), &RESPONSE_HEADERS);
    let tasks = http.services.tasks.clone();
    tasks.spawn(async move {
        let _permit = permit;
        // If either peer disconnects before the start, the other is dropped, which ends the
        // command.
        if let (Ok(client), Ok(agent)) = tokio::join!(ours, hyper::upgrade::on(answer)) {
            let (client, agent) = (TokioIo::new(client), TokioIo::new(agent));
            relay_until(client, agent, end_of(credential)).await;
        }
    });
    response
}

/// Waits until a credential is revoked or expires.
async fn end_of(credential: Option<WatchedCredential>) {
    match credential {
        Some(credential) => drop(credential.ended().await),
        None => std::future::pending().await,
    }
}

async fn request_upgrade(
    http: &Http,
    id: &str,
    what: &str,
    request: &Parts,
) -> Result<Response, Status> {
    let wanted = v1::GetRequest {
        id: id.to_owned(),
        consistency: v1::Consistency::Local.into(),
        ..Default::default()
    };
    let endpoint = endpoint_of(&http.services.owner, wanted).await?;
    let query = request.uri.query().unwrap_or_default();
    // The path contains the command's arguments, which may be secret: no error shows it.
    let asked = Request::get(format!("/v1/{what}?{query}")).body(Body::empty());
    let mut asked = asked.map_err(|_| Status::invalid_argument("the query is not valid"))?;
    *asked.headers_mut() = select_headers(&request.headers, &REQUEST_HEADERS);
    if let Some(context) = trace::request_header() {
        asked.headers_mut().insert(trace::HEADER, context);
    }
    request_agent(&http.services.agents, id, &endpoint, asked).await
}

fn select_headers(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let named = headers.iter().filter(|(name, _)| names.contains(name));
    named
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Relays until `end`. Then both connections are dropped, which ends the command.
async fn relay_until(
    client: impl AsyncRead + AsyncWrite,
    agent: impl AsyncRead + AsyncWrite,
    end: impl Future<Output = ()>,
) {
    tokio::select! {
        () = relay(client, agent) => {}
        () = end => {}
    }
}

/// Copies bytes until both directions have ended, or one has and the other does not follow in time.
async fn relay(client: impl AsyncRead + AsyncWrite, agent: impl AsyncRead + AsyncWrite) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_agent, to_agent) = tokio::io::split(agent);
    let mut there = std::pin::pin!(copy(from_client, to_agent));
    let mut back = std::pin::pin!(copy(from_agent, to_client));
    // A direction that makes no progress and does not end is cut: its peer has already closed the
    // other.
    tokio::select! {
        () = &mut there => drop(timeout(HALF_CLOSE_TIMEOUT, back).await),
        () = &mut back => drop(timeout(HALF_CLOSE_TIMEOUT, there).await),
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    // The peer always sees the end of the stream; the outcome is part of the inner protocol.
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn data_and_half_closes_are_relayed_in_both_directions() {
        let (mut client, ours) = duplex(64);
        let (mut agent, theirs) = duplex(64);
        let joined = tokio::spawn(relay(ours, theirs));
        client.write_all(b"to the agent").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        agent.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "to the agent");
        agent.write_all(b"to the client").await.unwrap();
        drop(agent);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "to the client");
        joined.await.unwrap();
    }

    /// Time within which a relay must end after its caller is revoked.
    const REVOKED_WITHIN: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn exec_and_attach_end_within_a_second_when_their_caller_is_revoked() {
        let (revoke, credential) = WatchedCredential::of_key_for_tests();
        let (mut client, ours) = duplex(64);
        let (mut agent, theirs) = duplex(64);
        let joined = tokio::spawn(relay_until(ours, theirs, end_of(Some(credential))));
        client.write_all(b"input").await.unwrap();
        let mut input = [0; 5];
        agent.read_exact(&mut input).await.unwrap();
        assert!(!joined.is_finished());
        revoke();
        let ended = timeout(REVOKED_WITHIN, async {
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            agent.read_to_end(&mut rest).await.unwrap();
            joined.await.unwrap();
            rest
        });
        assert_eq!(ended.await.expect("it ends in time"), Vec::<u8>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn half_closed_relay_is_cut_after_a_timeout() {
        let (_silent, ours) = duplex(64);
        let (agent, theirs) = duplex(64);
        let joined = tokio::spawn(relay(ours, theirs));
        drop(agent);
        joined.await.unwrap();
    }

    #[test]
    fn only_web_socket_headers_are_forwarded() {
        let output = [
            ("upgrade", "websocket"),
            ("origin", "http://example"),
            ("cookie", "secret"),
            ("host", "master:5050"),
        ];
        let output: HeaderMap = output
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let mut names: Vec<_> = select_headers(&output, &REQUEST_HEADERS)
            .keys()
            .cloned()
            .collect();
        names.sort_by_key(|name| name.as_str().to_owned());
        assert_eq!(names, [header::ORIGIN, header::UPGRADE]);
    }

    #[test]
    fn full_stream_limit_names_the_remedy() {
        let limit = StreamLimit::new(7);
        let held: Vec<_> = (0..7).map(|_| limit.admit().unwrap()).collect();
        let full = limit.admit().unwrap_err();
        assert_eq!(full.code(), tonic::Code::ResourceExhausted);
        drop(held);
        drop(limit.admit().unwrap());
    }
}
