//! Opening a WebSocket to a command through a list of masters, or the reason why that failed.

use std::time::Duration;

use argosy_proto::exec::{ATTACH_PROTOCOL, FRAME_LIMIT_BYTES, PROTOCOL};
use reqwest::{Response, StatusCode, Upgraded, Url};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::files::{no_web_page, response_message};

/// The longest URL that is requested, in bytes. Programs on the way may reject longer ones.
pub(crate) const URL_LIMIT_BYTES: usize = 60_000;
/// Time for one master to accept the connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Timeout of the answer: a master gives an agent 20 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(25);

/// Binary messages to and from a command.
pub(crate) type Socket = WebSocketStream<Upgraded>;

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
    masters: &[String],
    wanted: &SessionRequest<'_>,
) -> Result<Socket, OpenError> {
    // As for files: no proxy, and nothing here is encrypted.
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .connect_timeout(CONNECT_LIMIT)
        .default_headers(no_web_page())
        .build();
    let http = http.map_err(|error| OpenError::Unavailable(describe(error)))?;
    let mut unreached = OpenError::Unavailable("no master is named".to_owned());
    for master in masters {
        match call(&http, master, wanted).await {
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
    http: &reqwest::Client,
    master: &str,
    wanted: &SessionRequest<'_>,
) -> Result<Socket, ConnectError> {
    let url = url(master, wanted)?;
    let key = generate_key();
    let asked = http
        .get(url)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", &key)
        .header("sec-websocket-protocol", wanted.call.protocol());
    let broken = |error| OpenError::Unavailable(format!("{master}: {}", describe(error)));
    let response = match tokio::time::timeout(ANSWER_LIMIT, asked.send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.is_connect() => {
            return Err(ConnectError::Unreachable(describe(error)));
        }
        Ok(Err(error)) => return Err(broken(error).into()),
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
    let upgraded = response.upgrade().await;
    let upgraded = upgraded.map_err(broken)?;
    let config = WebSocketConfig::default()
        .max_frame_size(Some(FRAME_LIMIT_BYTES))
        .max_message_size(Some(FRAME_LIMIT_BYTES));
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await)
}

/// Removes the URL, whose arguments may be secret, from the message.
fn describe(error: reqwest::Error) -> String {
    crate::exit::chain(&error.without_url())
}

fn url(master: &str, wanted: &SessionRequest<'_>) -> Result<Url, OpenError> {
    let call = wanted.call.name();
    let base = format!("http://{master}/v1/agents/{}/{call}", wanted.agent_id);
    let url = Url::parse_with_params(&base, &wanted.parameters);
    let url = url.map_err(|error| OpenError::Unavailable(format!("{base}: {error}")))?;
    let bytes = url.as_str().len();
    if bytes > URL_LIMIT_BYTES {
        return Err(OpenError::TooLong { bytes });
    }
    Ok(url)
}

async fn refusal(response: Response) -> OpenError {
    let status = response.status();
    // Without a body, only the status is available.
    let text = response_message(&response.text().await.unwrap_or_default());
    match status {
        StatusCode::UNPROCESSABLE_ENTITY => OpenError::NotStarted(text),
        StatusCode::NOT_FOUND => OpenError::NotFound(text),
        status if status.is_client_error() => OpenError::Refused(text),
        status if status.is_server_error() => OpenError::Unavailable(text),
        status => OpenError::Unavailable(format!("unexpected answer {status}")),
    }
}

/// Checks that the answer is the requested WebSocket, and not another answer from an intermediary.
fn check_upgrade(response: &Response, key: &str, protocol: &str) -> Result<(), OpenError> {
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

    fn wanted(argument: &str) -> SessionRequest<'static> {
        SessionRequest {
            call: SessionKind::Exec,
            agent_id: "agent-1",
            parameters: vec![("task", "f/t".into()), ("argument", argument.into())],
        }
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
        let url = url("127.0.0.1:5050", &wanted("a&b=c d%é\n")).unwrap();
        assert_eq!(
            url.as_str(),
            "http://127.0.0.1:5050/v1/agents/agent-1/exec?task=f%2Ft&argument=a%26b%3Dc+d%25%C3%A9%0A"
        );
        let long = super::url("127.0.0.1:5050", &wanted(&"x".repeat(60_000))).unwrap_err();
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
            let masters = [master(answer.clone()).await, master(String::new()).await];
            let error = open(&masters, &wanted("true")).await.unwrap_err();
            assert_eq!(error, expected, "{answer}");
        }
    }

    #[tokio::test]
    async fn an_unreachable_master_is_skipped() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = gone.local_addr().unwrap().to_string();
        drop(gone);
        let masters = [nobody.clone(), master(refusal(403, "off")).await];
        let error = open(&masters, &wanted("true")).await.unwrap_err();
        assert_eq!(error, OpenError::Refused("off".into()));
        let error = open(&[nobody], &wanted("true")).await.unwrap_err();
        assert!(error.to_string().contains("cannot be reached"), "{error}");
    }
}
