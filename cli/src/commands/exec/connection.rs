//! Opening a WebSocket to a command through a list of masters, or the reason why that failed.

use std::time::Duration;

use argosy_proto::exec::{ATTACH_PROTOCOL, FRAME_LIMIT_BYTES, PROTOCOL};
use argosy_proto::http_client::{HttpClient, HttpClientError};
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::exit::chain;
use crate::files::{encoded, error_body, no_web_page, response_message};
use crate::transport::{HttpMasters, MASTER};

/// The longest path that is requested, in bytes. Programs on the way may reject longer ones.
pub(crate) const URL_LIMIT_BYTES: usize = 60_000;
/// Timeout of the answer: a master gives an agent 20 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(25);

/// Binary messages to and from a command.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The call to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionKind {
    /// Start a command in a task.
    Exec,
    /// Attach to the task's own command.
    Attach,
}

impl SessionKind {
    fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
        }
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::Exec => PROTOCOL,
            Self::Attach => ATTACH_PROTOCOL,
        }
    }
}

/// A call, and the agent that it is for.
pub(crate) struct SessionRequest<'a> {
    pub(crate) call: SessionKind,
    pub(crate) agent_id: &'a str,
    pub(crate) parameters: Vec<(&'static str, String)>,
}

/// The reason why no command was started.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// The container could not execute it.
    #[error("{0}")]
    NotStarted(String),
    /// The agent or task does not exist.
    #[error("{0}")]
    NotFound(String),
    /// A master or agent rejected the call.
    #[error("{0}")]
    Refused(String),
    /// No master could be reached.
    #[error("{0}")]
    Unavailable(String),
    /// The call exceeds the length of a URL.
    #[error("the request takes {bytes} bytes")]
    TooLong {
        /// The length that it would have.
        bytes: usize,
    },
}

/// Calls one master after the other until one accepts the connection. That master may have started
/// the command, so no other is called after it.
pub(crate) async fn open(
    masters: &HttpMasters,
    wanted: &SessionRequest<'_>,
) -> Result<Socket, OpenError> {
    let mut unreached = OpenError::Unavailable("no master is named".to_owned());
    for master in &masters.addresses {
        match call(&masters.http, master, wanted).await {
            Err(ConnectError::Unreachable(why)) => {
                unreached = OpenError::Unavailable(format!("{master} cannot be reached: {why}"));
            }
            Err(ConnectError::Failed(error)) => return Err(error),
            Ok(socket) => return Ok(socket),
        }
    }
    Err(unreached)
}

/// The reason why a call to one master failed.
enum ConnectError {
    /// The request did not reach the master.
    Unreachable(String),
    Failed(OpenError),
}

impl From<OpenError> for ConnectError {
    fn from(error: OpenError) -> Self {
        Self::Failed(error)
    }
}

async fn call(
    http: &HttpClient,
    master: &str,
    wanted: &SessionRequest<'_>,
) -> Result<Socket, ConnectError> {
    let key = generate_key();
    let asked = request(wanted, &key)?;
    // No error shows the path, whose arguments may be secret.
    let broken = |why: String| OpenError::Unavailable(format!("{master}: {why}"));
    let sending = http.send(master, MASTER, asked);
    let response = match tokio::time::timeout(ANSWER_LIMIT, sending).await {
        Ok(Ok(response)) => response,
        Ok(Err(error @ HttpClientError::Connect(_))) => {
            return Err(ConnectError::Unreachable(error.to_string()));
        }
        Ok(Err(error)) => return Err(broken(error.to_string()).into()),
        Err(_) => {
            let why = format!(
                "{master} has not answered within {} s",
                ANSWER_LIMIT.as_secs()
            );
            return Err(OpenError::Unavailable(why).into());
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await.into());
    }
    check_upgrade(&response, &key, wanted.call.protocol())?;
    let upgraded = hyper::upgrade::on(response).await;
    let upgraded = upgraded.map_err(|error| broken(chain(&error)))?;
    let config = WebSocketConfig::default()
        .max_frame_size(Some(FRAME_LIMIT_BYTES))
        .max_message_size(Some(FRAME_LIMIT_BYTES));
    let stream = TokioIo::new(upgraded);
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await)
}

fn request(wanted: &SessionRequest<'_>, key: &str) -> Result<Request<Body>, OpenError> {
    let asked = Request::get(path(wanted)?)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", key)
        .header("sec-websocket-protocol", wanted.call.protocol())
        .body(Body::empty());
    let mut asked = asked.map_err(|error| OpenError::Unavailable(error.to_string()))?;
    asked.headers_mut().extend(no_web_page());
    Ok(asked)
}

fn path(wanted: &SessionRequest<'_>) -> Result<String, OpenError> {
    let parameters = wanted.parameters.iter();
    let parameters = parameters.map(|(name, value)| format!("{name}={}", encoded(value)));
    let parameters = parameters.collect::<Vec<_>>().join("&");
    let call = wanted.call.name();
    let path = format!("/v1/agents/{}/{call}?{parameters}", wanted.agent_id);
    let bytes = path.len();
    if bytes > URL_LIMIT_BYTES {
        return Err(OpenError::TooLong { bytes });
    }
    Ok(path)
}

async fn refusal(response: Response<Body>) -> OpenError {
    let status = response.status();
    let text = response_message(&error_body(response).await);
    match status {
        StatusCode::UNPROCESSABLE_ENTITY => OpenError::NotStarted(text),
        StatusCode::NOT_FOUND => OpenError::NotFound(text),
        status if status.is_client_error() => OpenError::Refused(text),
        status if status.is_server_error() => OpenError::Unavailable(text),
        status => OpenError::Unavailable(format!("unexpected answer {status}")),
    }
}

/// Checks that the answer is the requested WebSocket, and not another answer from an intermediary.
fn check_upgrade(response: &Response<Body>, key: &str, protocol: &str) -> Result<(), OpenError> {
    let words = |name: &str, expected: &str| {
        let found = response.headers().get(name);
        found.is_some_and(|found| found.as_bytes() == expected.as_bytes())
    };
    let accept = derive_accept_key(key.as_bytes());
    if words("sec-websocket-accept", &accept) && words("sec-websocket-protocol", protocol) {
        return Ok(());
    }
    let why = format!("the answer is not a WebSocket with the protocol {protocol}");
    Err(OpenError::Unavailable(why))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::transport::ClientTransport;

    fn wanted(argument: &str) -> SessionRequest<'static> {
        SessionRequest {
            call: SessionKind::Exec,
            agent_id: "agent-1",
            parameters: vec![("task", "f/t".into()), ("argument", argument.into())],
        }
    }

    fn masters(addresses: Vec<String>) -> HttpMasters {
        HttpMasters::new(addresses, &ClientTransport::plaintext())
    }

    /// Starts a master that answers one request with this.
    async fn master(answer: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        address
    }

    #[test]
    fn arguments_are_sent_unchanged_or_rejected_if_too_long() {
        let path = path(&wanted("a&b=c d+%é\n")).unwrap();
        assert_eq!(
            path,
            "/v1/agents/agent-1/exec?task=f/t&argument=a%26b%3Dc%20d%2B%25%C3%A9%0A"
        );
        let long = super::path(&wanted(&"x".repeat(60_000))).unwrap_err();
        assert!(matches!(long, OpenError::TooLong { bytes } if bytes > URL_LIMIT_BYTES));
    }

    fn refusal(status: u16, message: &str) -> String {
        let body = format!("{{\"message\":\"{message}\"}}");
        let length = body.len();
        format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{body}")
    }

    #[tokio::test]
    async fn a_rejection_ends_the_search_and_keeps_its_kind() {
        let other = "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let no_web_socket = "the answer is not a WebSocket with the protocol argosy.v1.exec";
        for (answer, expected) in [
            (
                refusal(422, "no program"),
                OpenError::NotStarted("no program".into()),
            ),
            (
                refusal(404, "no task"),
                OpenError::NotFound("no task".into()),
            ),
            (refusal(403, "off"), OpenError::Refused("off".into())),
            (refusal(503, "gone"), OpenError::Unavailable("gone".into())),
            (
                other.to_owned(),
                OpenError::Unavailable(no_web_socket.into()),
            ),
        ] {
            let all = vec![master(answer.clone()).await, master(String::new()).await];
            let error = open(&masters(all), &wanted("true")).await.unwrap_err();
            assert_eq!(error, expected, "{answer}");
        }
    }

    #[tokio::test]
    async fn an_unreachable_master_is_skipped() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = gone.local_addr().unwrap().to_string();
        drop(gone);
        let all = vec![nobody.clone(), master(refusal(403, "off")).await];
        let error = open(&masters(all), &wanted("true")).await.unwrap_err();
        assert_eq!(error, OpenError::Refused("off".into()));
        let error = open(&masters(vec![nobody]), &wanted("true"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("cannot be reached"), "{error}");
    }
}
