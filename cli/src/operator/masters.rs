//! The masters that a command calls, and the creation of clients of them.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use argosy_client::{CallError, Connector, Masters, OperatorClient};
use argosy_proto::v1;

use super::{ClusterClient, read_failure};
use crate::args::{CalledMasters, ConnectionArguments};
use crate::exit::Failure;
use crate::transport::{ClientTransport, HttpMasters};

/// Time for a listener on this host to accept a connection.
const LOCAL_PROBE: Duration = Duration::from_millis(200);

/// Returns the default masters: those of this host, else those of `argosy dev`.
pub(crate) fn default_masters() -> Masters {
    let own = SocketAddr::from(([127, 0, 0, 1], crate::parsers::API_PORT));
    let dev: Vec<_> = (1..=3)
        .map(|last| SocketAddr::from(([127, 77, 0, last], crate::parsers::API_PORT)))
        .collect();
    let listens = |address: &SocketAddr| TcpStream::connect_timeout(address, LOCAL_PROBE).is_ok();
    let list = if !listens(&own) && dev.iter().any(listens) {
        dev
    } else {
        vec![own]
    };
    Masters::new(list.iter().map(ToString::to_string)).expect("our own addresses are well formed")
}

/// Returns the named masters, else the default ones.
pub(crate) fn masters_or_default(named: Option<&Masters>) -> Masters {
    named.cloned().unwrap_or_else(default_masters)
}

impl ClusterClient {
    /// Opens the client of a command.
    ///
    /// # Errors
    /// The files of TLS cannot be used.
    pub(crate) fn open(reach: &ConnectionArguments) -> Result<Self, Failure> {
        let transport = ClientTransport::new(&reach.tls)?;
        Ok(Self::of(&reach.called, transport))
    }

    /// Returns a client of these masters. It waits for masters that are starting only if the user
    /// has set a timeout.
    pub(crate) fn of(called: &CalledMasters, transport: ClientTransport) -> Self {
        let masters = masters_or_default(called.masters.as_ref());
        match called.timeout {
            Some(timeout) => Self::to(masters, timeout, transport),
            None => Self::of_running(masters, called.timeout(), transport),
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
