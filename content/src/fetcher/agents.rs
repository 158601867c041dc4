//! Files of tasks on other agents of the cluster: URIs with a ticket.
//!
//! Such a server must prove by TLS that it is an agent of this cluster; the authorities of the host
//! count nothing. Its address is not compared with names in its certificate.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use argosy_proto::http_client::{HttpClient, HttpClientError};
use argosy_proto::ticket;
use argosy_proto::transport::{Connection, Dialer, ExpectedPeer, PeerIdentity};
use argosy_proto::uri::RedactedUri;
use http::Request;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::error::FetchError;
use super::reach::{AccessDenied, AccessPolicy, Requester, without_brackets};

/// The path of an agent's API by which it sends a file.
const DOWNLOAD: &str = "/v1/files/download";

/// What proves that a server is an agent of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterAuthorities {
    /// The name of the cluster.
    pub cluster: String,
    /// The certificates of the CAs that the agent trusts, in DER.
    pub certificates: Vec<Vec<u8>>,
}

/// Adds TLS to a dialer, whose peers then have certificates of these authorities. The error is a
/// message.
pub type ClusterTls = fn(Dialer, &ClusterAuthorities) -> Result<Dialer, String>;

/// The response of an agent. Its body is read in parts.
pub(super) type AgentResponse = http::Response<axum::body::Body>;

/// The client of other agents.
pub(super) struct AgentClient {
    tls: ClusterTls,
    policy: Arc<AccessPolicy>,
    connect_timeout: Duration,
}

/// Whether a URI names a file of an agent, with a ticket for it.
pub(crate) fn names_agent(uri: &str) -> bool {
    Url::parse(uri).is_ok_and(|url| {
        let mut parameters = url.query_pairs();
        url.scheme() == "https"
            && url.path() == DOWNLOAD
            && parameters.any(|(name, _)| name == ticket::PARAMETER)
    })
}

impl AgentClient {
    pub(super) fn new(tls: ClusterTls, policy: Arc<AccessPolicy>, timeout: Duration) -> Self {
        Self {
            tls,
            policy,
            connect_timeout: timeout,
        }
    }

    /// Requests a file of an agent. The response must begin within `limit`.
    pub(super) async fn get(
        &self,
        uri: &str,
        (requester, authorities): (Requester, Option<&ClusterAuthorities>),
        limit: Duration,
    ) -> Result<AgentResponse, FetchError> {
        let invalid = |rule: &str| FetchError::Invalid {
            uri: RedactedUri::of(uri),
            rule: rule.to_owned(),
        };
        let authorities = authorities.ok_or_else(|| {
            invalid("it has a ticket of an agent, and this agent has no TLS, by which it could recognize other agents")
        })?;
        let url = Url::parse(uri).map_err(|_| invalid("it is not a URL; correct it"))?;
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(invalid("it names no server; correct it"));
        };
        let resolved = self.policy.resolve(without_brackets(host), port, requester);
        let resolved = resolved.await.map_err(|error| {
            match error.downcast::<AccessDenied>() {
                Ok(refusal) => FetchError::refused(uri, *refusal),
                // The name may be resolved later.
                Err(other) => unreachable_agent(uri, &other.to_string()),
            }
        })?;
        let checked: Arc<[_]> = resolved.into();
        let inner = Dialer::new(move |_, _| {
            let checked = checked.clone();
            async move { connect(&checked).await }
        });
        let dialer = (self.tls)(inner, authorities).map_err(|why| invalid(&why))?;
        let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
        let request = Request::get(path).body(axum::body::Body::empty());
        let request = request.map_err(|_| invalid("it is not a URL; correct it"))?;
        let client = HttpClient::new(dialer, self.connect_timeout);
        let server = format!("{host}:{port}");
        let peer = ExpectedPeer::AGENT;
        let asking = client.send(&server, &peer, request);
        let answer = tokio::time::timeout(limit, asking).await;
        let answer = answer.map_err(|_| FetchError::stalled(uri, limit))?;
        answer.map_err(|error| match &error {
            // No later attempt has another certificate.
            HttpClientError::Connect(why) if why.kind() == io::ErrorKind::PermissionDenied => {
                FetchError::Untrusted {
                    uri: RedactedUri::of(uri),
                    why: error.to_string(),
                }
            }
            HttpClientError::Connect(_) | HttpClientError::Exchange(_) => {
                unreachable_agent(uri, &error.to_string())
            }
        })
    }
}

/// Connects to the first of these addresses that accepts.
async fn connect(addresses: &[std::net::SocketAddr]) -> io::Result<(Connection, PeerIdentity)> {
    let stream = TcpStream::connect(addresses).await?;
    let peer = PeerIdentity::unauthenticated(stream.peer_addr().ok());
    Ok((Connection::new(stream), peer))
}

/// Returns the error of a response that is missing or incomplete.
pub(super) fn unreachable_agent(uri: &str, why: &str) -> FetchError {
    FetchError::Agent {
        uri: RedactedUri::of(uri),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_download_of_an_agent_with_a_ticket_is_one() {
        for named in [
            "https://10.0.0.9:5051/v1/files/download?path=tasks/framework-1/map/part&ticket=AQ",
            "https://agent.example:5051/v1/files/download?ticket=&path=x",
        ] {
            assert!(names_agent(named), "{named}");
        }
        for other in [
            "http://10.0.0.9:5051/v1/files/download?path=x&ticket=AQ",
            "https://10.0.0.9:5051/v1/files/download?path=x",
            "https://10.0.0.9:5051/v1/files/download?path=x#ticket=AQ",
            "https://10.0.0.9:5051/v1/files/read?path=x&ticket=AQ",
            "https://files.example/data?ticket=AQ",
            "/v1/files/download?ticket=AQ",
        ] {
            assert!(!names_agent(other), "{other}");
        }
    }
}
