//! Direct requests to each master, because the state that one master reports of the others may be
//! stale.

use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;

use argosy_proto::http_client::{HttpClient, HttpClientError};
use argosy_proto::transport::ExpectedPeer;
use argosy_proto::v1;
use axum::body::Body;
use axum::http::{Request, Response};
use futures::StreamExt as _;
use futures::future::join_all;

use crate::files::no_web_page;
use crate::health::UnreachableMasters;
use crate::transport::{AGENT, ClientTransport, MASTER};

/// Timeout of one master.
const LIMIT: Duration = Duration::from_secs(1);
/// The path that every master and agent serves.
const HEALTH: &str = "/healthz";
/// Reasons of failed requests that are final.
const REFUSED: &str = "refused";
const UNKNOWN_HOST: &str = "is an unknown host";
/// Other reasons.
const LATE: &str = "does not answer in time";
const CLOSED: &str = "closed the connection";

/// A client for direct requests, each with a timeout. It follows no redirect: a member may not
/// choose what this host requests.
#[derive(Clone)]
pub(crate) struct ProbeClient {
    http: HttpClient,
    limit: Duration,
}

/// A member to request from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    /// Its address, `host:port`.
    pub(crate) address: &'a str,
    /// What must be there.
    pub(crate) expected: &'static ExpectedPeer,
}

impl<'a> Member<'a> {
    pub(crate) fn master(address: &'a str) -> Self {
        Self {
            address,
            expected: MASTER,
        }
    }

    pub(crate) fn agent(address: &'a str) -> Self {
        Self {
            address,
            expected: AGENT,
        }
    }
}

impl ProbeClient {
    /// Creates a client whose requests take at most `limit`.
    pub(crate) fn new(transport: &ClientTransport, limit: Duration) -> Self {
        Self {
            http: transport.http(limit),
            limit,
        }
    }

    /// Returns the text at a path of a member, at most `most` bytes of it.
    ///
    /// # Errors
    /// The reason, without the address.
    pub(crate) async fn text(
        &self,
        member: Member<'_>,
        path: &str,
        most: usize,
    ) -> Result<String, String> {
        self.in_time(async {
            let response = self.request(member, path).await?;
            if !response.status().is_success() {
                return Err(format!("answers with {}", response.status()));
            }
            let mut bytes = Vec::new();
            let mut body = response.into_body().into_data_stream();
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map_err(|_| CLOSED.to_owned())?;
                if bytes.len() + chunk.len() > most {
                    return Err(format!("answers with more than {most} bytes"));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        })
        .await
    }

    /// Returns the reason if a member does not answer. Any answer counts; health is not checked
    /// here.
    async fn silence(&self, member: Member<'_>) -> Option<String> {
        let asked = self.in_time(self.request(member, HEALTH)).await;
        asked.err()
    }

    async fn request(&self, member: Member<'_>, path: &str) -> Result<Response<Body>, String> {
        let asked = Request::get(path).body(Body::empty());
        let mut asked = asked.map_err(|error| error.to_string())?;
        asked.headers_mut().extend(no_web_page());
        let Member { address, expected } = member;
        let answer = self.http.send(address, expected, asked).await;
        answer.map_err(|error| describe(&error))
    }

    async fn in_time<T>(
        &self,
        asking: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let asked = tokio::time::timeout(self.limit, asking).await;
        asked.unwrap_or_else(|_| Err(LATE.to_owned()))
    }
}

/// Requests all masters concurrently, and returns for those that do not answer the reason.
pub(crate) async fn masters(
    masters: &[v1::Master],
    transport: &ClientTransport,
) -> UnreachableMasters {
    let http = ProbeClient::new(transport, LIMIT);
    let asked = masters.iter().map(|master| {
        let http = &http;
        async move {
            let why = http.silence(Member::master(&master.api_address)).await?;
            Some((master.node_id.clone(), why))
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Returns whether this reason of a failed request shows that no process listens, so that a
/// repetition is pointless.
pub(crate) fn is_final(why: &str) -> bool {
    [REFUSED, UNKNOWN_HOST].contains(&why)
}

/// Returns whether a reported address is a host and a port and nothing else.
pub(crate) fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => (1..=253).contains(&host.len()) && host.bytes().all(plain),
    };
    is_port && is_host
}

fn describe(error: &HttpClientError) -> String {
    let text = error.to_string();
    let kind = match error {
        HttpClientError::Connect(error) => Some(error.kind()),
        HttpClientError::Exchange(_) => None,
    };
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => REFUSED.to_owned(),
        _ if text.contains("no TLS with") => text,
        Some(io::ErrorKind::TimedOut) => LATE.to_owned(),
        Some(_) if text.contains("lookup") => UNKNOWN_HOST.to_owned(),
        Some(_) | None => CLOSED.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn only_a_host_and_a_port_is_an_address() {
        for good in ["127.0.0.1:5051", "agent-7.example:5051", "[::1]:5051"] {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in [
            "",
            "host",
            "host:",
            ":5051",
            "host:70000",
            "host:+5051",
            "host/latest?x=:5051",
            "host:5051/latest?x=",
            "host/x",
            "user@host:5051",
            "host:5051#",
            "host\\x:5051",
            "ho st:5051",
            "[host]:5051",
            "::1:5051",
        ] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        target.set_nonblocking(true).unwrap();
        let to = target.local_addr().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1_024];
            let length = stream.read(&mut request).unwrap();
            assert!(length > 0);
            let answer = format!(
                "HTTP/1.1 302 Found\r\nlocation: http://{to}/x\r\ncontent-length: 0\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let http = ProbeClient::new(&ClientTransport::plaintext(), Duration::from_secs(5));
        let address = address.to_string();
        let answer = http.text(Member::master(&address), "/metrics", 1_000);
        let answer = answer.await;
        assert_eq!(answer.unwrap_err(), "answers with 302 Found");
        server.join().unwrap();
        assert!(target.accept().is_err(), "the target was called");
    }

    #[tokio::test]
    async fn a_stopped_master_is_distinguished_from_a_hung_one() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = gone.local_addr().unwrap().to_string();
        drop(gone);
        // Accepts into its backlog and never answers, as a stopped process does.
        let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let master = |node_id: &str, api_address: String| v1::Master {
            node_id: node_id.to_owned(),
            api_address,
            ..v1::Master::default()
        };
        let all = [
            master("gone", address),
            master("hanging", hanging.local_addr().unwrap().to_string()),
        ];
        let transport = ClientTransport::plaintext();
        let found = masters(&all, &transport).await;
        assert_eq!(found["gone"], "refused");
        assert_eq!(found["hanging"], "does not answer in time");
    }
}
