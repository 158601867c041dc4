//! A client of HTTP/1.1 over a [`Dialer`], for requests to the APIs of agents and masters.
//!
//! Each request has a connection of its own, to the peer that the caller expects. A connection that
//! is kept for later requests would keep the credentials of its first one.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use axum::body::Body;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use crate::server::GuardedBody;
use crate::transport::{Dialer, ExpectedPeer};

/// A client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpClient {
    dialer: Dialer,
    connect_timeout: Duration,
}

/// A request without an answer.
#[derive(Debug)]
pub enum HttpClientError {
    /// No connection was opened.
    Connect(io::Error),
    /// The connection ended, or its content was no HTTP.
    Exchange(hyper::Error),
}

/// Writes the whole chain of causes: the text becomes part of a status.
impl fmt::Display for HttpClientError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first: &dyn Error = match self {
            Self::Connect(error) => error,
            Self::Exchange(error) => error,
        };
        write!(out, "{first}")?;
        let mut cause = first.source();
        while let Some(inner) = cause {
            write!(out, ": {inner}")?;
            cause = inner.source();
        }
        Ok(())
    }
}

impl Error for HttpClientError {}

impl HttpClient {
    /// Creates a client; opening a connection may take as long as `connect_timeout`.
    #[must_use]
    pub fn new(dialer: Dialer, connect_timeout: Duration) -> Self {
        Self {
            dialer,
            connect_timeout,
        }
    }

    /// Sends a request, whose URI is a path with a query, to `host:port`. The connection ends with
    /// the body of the response; that of a response that switches protocols is upgraded.
    ///
    /// # Errors
    /// [`HttpClientError`]. Redirects are answers like others.
    pub async fn send(
        &self,
        address: &str,
        expected: &ExpectedPeer,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, HttpClientError> {
        let dialing = self.dialer.dial(address, expected);
        let dialed = tokio::time::timeout(self.connect_timeout, dialing).await;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        let stream = dialed.map_err(late).flatten();
        let stream = stream.map_err(HttpClientError::Connect)?;
        let host = HeaderValue::from_str(address).map_err(io::Error::other);
        let host = host.map_err(HttpClientError::Connect)?;
        request.headers_mut().insert(HOST, host);
        if let Some(value) = self.dialer.authorization(expected) {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        let begun = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = begun.map_err(HttpClientError::Exchange)?;
        // A task, because the connection must proceed while the body is read elsewhere. It ends
        // with the body.
        let connection = tokio::spawn(connection.with_upgrades());
        let connection = AbortOnDropHandle::new(connection);
        let response = sender.send_request(request).await;
        let response = response.map_err(HttpClientError::Exchange)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // It ends by itself as soon as the stream is taken.
            drop(connection.detach());
            return Ok(response.map(Body::new));
        }
        Ok(response.map(|body| Body::new(GuardedBody::new(Body::new(body), connection))))
    }

    /// Requests a path with its query, and returns the status and the body of at most `most` bytes.
    ///
    /// # Errors
    /// [`HttpClientError`]; a longer body is one.
    pub async fn get(
        &self,
        address: &str,
        expected: &ExpectedPeer,
        path: &str,
        most: usize,
    ) -> Result<(u16, Vec<u8>), HttpClientError> {
        let request = Request::get(path).body(Body::empty());
        let request = request.map_err(|error| HttpClientError::Connect(io::Error::other(error)))?;
        let (head, body) = self.send(address, expected, request).await?.into_parts();
        let body = axum::body::to_bytes(body, most).await;
        let body = body.map_err(|error| HttpClientError::Connect(io::Error::other(error)))?;
        Ok((head.status.as_u16(), body.into()))
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::access::{TokenId, TokenSecret};
    use argosy_state::actor::PrincipalKind;
    use axum::Router;
    use futures::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::server::{PortLimits, serve};
    use crate::transport::{Connection, Listener, PeerIdentity};

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// Serves a router, and returns its address. It ends with the runtime of the test.
    async fn served(router: Router) -> String {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let limits = PortLimits::of_descriptors("test", 4_096);
        let stop = CancellationToken::new();
        tokio::spawn(serve(Listener::tcp(socket), router, limits, stop));
        address
    }

    fn asking(path: &str) -> Request<Body> {
        Request::get(path).body(Body::empty()).unwrap()
    }

    const AGENT: ExpectedPeer = ExpectedPeer::any(PrincipalKind::Agent);

    #[tokio::test]
    async fn a_request_has_the_host_of_its_peer_and_gets_its_answer() {
        let show = async |request: Request<Body>| {
            let host = request.headers()[HOST].to_str().unwrap().to_owned();
            format!("{} {host}", request.uri())
        };
        let address = served(Router::new().fallback(show)).await;
        let client = HttpClient::new(Dialer::tcp(), TIMEOUT);
        let answer = client.send(&address, &AGENT, asking("/a?b=c%20d")).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let text = axum::body::to_bytes(answer.into_body(), 1_024)
            .await
            .unwrap();
        assert_eq!(text, format!("/a?b=c%20d {address}"));
    }

    /// Accepts one connection, reads a request, writes this answer, and returns the stream.
    async fn answering(socket: TcpListener, answer: &'static [u8]) -> TcpStream {
        let (mut stream, _) = socket.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut request).await.unwrap();
        }
        stream.write_all(answer).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn a_connection_ends_with_the_body_of_its_response() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let server = tokio::spawn(async {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\npart";
            let mut stream = answering(socket, answer).await;
            // The client ends it in the middle of the body.
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await
        });
        let client = HttpClient::new(Dialer::tcp(), TIMEOUT);
        let answer = client.send(&address, &AGENT, asking("/")).await.unwrap();
        let mut parts = answer.into_body().into_data_stream();
        assert_eq!(parts.next().await.unwrap().unwrap(), "part");
        assert!(!server.is_finished());
        drop(parts);
        let _ended = tokio::time::timeout(TIMEOUT, server).await.unwrap();
    }

    #[tokio::test]
    async fn a_response_that_switches_protocols_is_a_stream() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let server = tokio::spawn(async {
            let answer =
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nfirst";
            let mut stream = answering(socket, answer).await;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        });
        let client = HttpClient::new(Dialer::tcp(), TIMEOUT);
        let mut request = asking("/");
        let headers = request.headers_mut();
        headers.insert("connection", HeaderValue::from_static("upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("x"));
        let answer = client.send(&address, &AGENT, request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        let mut first = [0; 5];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"first");
        stream.write_all(b"second").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(server.await.unwrap(), "second");
    }

    #[tokio::test]
    async fn another_peer_than_the_expected_one_gets_no_request() {
        let dialer = Dialer::new(|_, _| async {
            let master = PeerIdentity::authenticated("master/m1".parse().unwrap(), None);
            Ok((Connection::new(tokio::io::empty()), master))
        });
        let client = HttpClient::new(dialer, TIMEOUT);
        let refused = client.send("a1:5051", &AGENT, asking("/")).await;
        let refused = refused.map(drop).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "master/m1 is at a1:5051, and not any agent"
        );
    }

    #[tokio::test]
    async fn only_masters_get_the_token_of_a_client() {
        for (expected, there, has_token) in [
            (ExpectedPeer::MASTER, "master/m1", true),
            (ExpectedPeer::AGENT, "agent/a1", false),
        ] {
            let (near, mut far) = tokio::io::duplex(1 << 12);
            let near = std::sync::Mutex::new(Some(near));
            let dialer = Dialer::new(move |_, _| {
                let near = near.lock().unwrap().take().unwrap();
                let peer = PeerIdentity::authenticated(there.parse().unwrap(), None);
                async { Ok((Connection::new(near), peer)) }
            });
            let token = TokenSecret {
                id: TokenId(7),
                secret: [7; 32],
            };
            let client = HttpClient::new(dialer.with_token(&token), TIMEOUT);
            let peer = tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(far.read_u8().await.unwrap());
                }
                far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .await
                    .unwrap();
                String::from_utf8(head).unwrap().to_lowercase()
            });
            client.get("x:1", &expected, "/metrics", 1).await.unwrap();
            let head = peer.await.unwrap();
            assert_eq!(head.contains("authorization: bearer"), has_token, "{head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_does_not_answer_is_an_error_in_time() {
        let client = HttpClient::new(Dialer::new(|_, _| std::future::pending()), TIMEOUT);
        let refused = client.send("a1:5051", &AGENT, asking("/")).await;
        let refused = refused.map(drop).unwrap_err();
        assert_eq!(refused.to_string(), "no connection in time");
    }
}
