//! The connections of a harness to the members of a cluster under test: TLS with the identity of an
//! operator, or plaintext.

use std::sync::Arc;
use std::time::Duration;

use argosy_client::ConnectorConfig;
use argosy_proto::http_client::HttpClient;
use argosy_proto::transport::{Connection, Dialer, ExpectedPeer};
use argosy_tls::application::Application;
use argosy_tls::store::CredentialStore;
use argosy_tls::{PlaintextPolicy, dialer};
use tonic::transport::{Channel, Endpoint};

/// The transport of a client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClientTransport {
    grpc: Dialer,
    http: Dialer,
}

/// Plaintext.
impl Default for ClientTransport {
    fn default() -> Self {
        Self {
            grpc: Dialer::tcp(),
            http: Dialer::tcp(),
        }
    }
}

impl ClientTransport {
    /// Returns one with TLS and these credentials.
    pub fn tls(credentials: &Arc<CredentialStore>) -> Self {
        Self::tls_over(&Dialer::tcp(), credentials)
    }

    /// Returns one with TLS and these credentials on connections of this dialer.
    pub fn tls_over(inner: &Dialer, credentials: &Arc<CredentialStore>) -> Self {
        let dialer = |application| {
            let (credentials, plaintext) = (credentials.clone(), PlaintextPolicy::Rejected);
            dialer::dial(inner.clone(), credentials, application, plaintext)
        };
        Self {
            grpc: dialer(Application::Http2),
            http: dialer(Application::Http1),
        }
    }

    /// Returns the settings of connections to masters.
    pub fn connector(&self) -> ConnectorConfig {
        ConnectorConfig {
            dialer: self.grpc.clone(),
            ..ConnectorConfig::default()
        }
    }

    /// Returns a channel to the API of a master, which is connected when it is used.
    ///
    /// # Panics
    /// If it is not `host:port`.
    pub fn channel(&self, api: &str, connect_timeout: Duration) -> Channel {
        let connector = self.grpc.connector(connect_timeout, ExpectedPeer::MASTER);
        Endpoint::from_shared(format!("http://{api}"))
            .expect("the address is valid")
            .connect_with_connector_lazy(connector)
    }

    /// Opens a connection for HTTP/1.1 to the API of a master, `host:port`.
    ///
    /// # Errors
    /// If there is none, or the peer is no master.
    pub async fn dial_http(&self, api: &str) -> std::io::Result<Connection> {
        self.http.dial(api, &ExpectedPeer::MASTER).await
    }

    /// Opens a connection for gRPC to the API of a master, `host:port`.
    ///
    /// # Errors
    /// If there is none, or the peer is no master.
    pub async fn dial_grpc(&self, api: &str) -> std::io::Result<Connection> {
        self.grpc.dial(api, &ExpectedPeer::MASTER).await
    }

    /// Returns a client of HTTP/1.1.
    pub fn http(&self, connect_timeout: Duration) -> HttpClient {
        HttpClient::new(self.http.clone(), connect_timeout)
    }
}
