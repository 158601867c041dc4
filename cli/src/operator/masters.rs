//! The creation of clients of the masters that a command calls.

use std::time::Duration;

use argosy_client::{CallError, Connector, Masters, OperatorClient};
use argosy_proto::v1;

use super::{ClusterClient, read_failure};
use crate::args::ConnectionArguments;
use crate::contexts::ChosenCluster;
use crate::exit::Failure;
use crate::transport::{ClientTransport, HttpMasters};

/// The timeout of a command that names none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

impl ClusterClient {
    /// Opens the client of a command. It waits for masters that are starting only if the user has
    /// set a timeout.
    ///
    /// # Errors
    /// Files of contexts or of TLS cannot be used.
    pub(crate) fn open(reach: &ConnectionArguments) -> Result<Self, Failure> {
        let ChosenCluster { masters, transport } = ChosenCluster::of(&reach.cluster)?;
        Ok(Self::within(masters, reach.timeout, transport))
    }

    /// Returns a client of these masters. It waits for masters that are starting only if there is a
    /// timeout.
    pub(crate) fn within(
        masters: Masters,
        timeout: Option<Duration>,
        transport: ClientTransport,
    ) -> Self {
        match timeout {
            Some(timeout) => Self::to(masters, timeout, transport),
            None => Self::of_running(masters, DEFAULT_TIMEOUT, transport),
        }
    }

    /// Returns a client whose first call fails at once if every master refuses the connection.
    pub(crate) fn of_running(
        masters: Masters,
        timeout: Duration,
        transport: ClientTransport,
    ) -> Self {
        let connector = Connector::new(masters, transport.connector());
        Self::with(connector.failing_if_none_listens(), timeout, transport)
    }

    /// Returns a client that waits for masters that are starting.
    pub(crate) fn to(masters: Masters, timeout: Duration, transport: ClientTransport) -> Self {
        let connector = Connector::new(masters, transport.connector());
        Self::with(connector, timeout, transport)
    }

    fn with(connector: Connector, timeout: Duration, transport: ClientTransport) -> Self {
        Self {
            client: OperatorClient::new(connector).with_deadline(timeout),
            timeout,
            transport,
        }
    }

    /// Returns a client of other masters, with the same transport.
    pub(crate) fn at(&self, masters: Masters, timeout: Duration) -> Self {
        Self::to(masters, timeout, self.transport.clone())
    }

    /// Returns a client with the same connections and another timeout.
    pub(crate) fn lasting(&self, timeout: Duration) -> Self {
        Self {
            client: self.client.with_deadline(timeout),
            timeout,
            transport: self.transport.clone(),
        }
    }

    pub(crate) fn transport(&self) -> &ClientTransport {
        &self.transport
    }

    /// Returns the same masters, for requests of HTTP/1.1.
    pub(crate) fn http_masters(&self) -> HttpMasters {
        HttpMasters::new(self.masters().addresses().to_vec(), &self.transport)
    }

    pub(crate) fn masters(&self) -> &Masters {
        self.client.connector().masters()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns the failure of all calls if no master listens.
    pub(crate) async fn none_listens(&self) -> Option<Failure> {
        let request = v1::GetClusterRequest {
            consistency: v1::Consistency::Local.into(),
        };
        match self.client.get_cluster(request).await {
            Err(CallError::NoMaster(causes)) if causes.none_listens() => {
                Some(read_failure(CallError::NoMaster(causes)))
            }
            Ok(_) | Err(_) => None,
        }
    }
}
