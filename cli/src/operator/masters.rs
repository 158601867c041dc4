//! The masters that a command calls, and the creation of clients of them.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use argosy_client::connector::ConnectorConfig;
use argosy_client::{CallError, Connector, Masters, OperatorClient};
use argosy_proto::v1;

use super::{ClusterClient, read_failure};
use crate::args::ConnectionArguments;
use crate::exit::Failure;

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
    /// Opens the client of a command. It waits for masters that are starting only if the user has
    /// set a timeout.
    pub(crate) fn open(reach: &ConnectionArguments) -> Self {
        let masters = masters_or_default(reach.masters.as_ref());
        match reach.timeout {
            Some(timeout) => Self::to(masters, timeout),
            None => Self::of_running(masters, reach.timeout()),
        }
    }

    /// Returns a client whose first call fails at once if every master refuses the connection.
    pub(crate) fn of_running(masters: Masters, timeout: Duration) -> Self {
        let connector = Connector::new(masters, ConnectorConfig::default());
        Self::with(connector.failing_if_none_listens(), timeout)
    }

    /// Returns a client that waits for masters that are starting.
    pub(crate) fn to(masters: Masters, timeout: Duration) -> Self {
        Self::with(Connector::new(masters, ConnectorConfig::default()), timeout)
    }

    fn with(connector: Connector, timeout: Duration) -> Self {
        Self {
            client: OperatorClient::new(connector).with_deadline(timeout),
            timeout,
        }
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
