//! Shutdown of the broker by its agent.

use super::client::BrokerClient;

impl BrokerClient {
    /// Returns true once a request has failed because the broker has exited. All later requests
    /// fail.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Local(_) => false,
            Self::Remote(connections) => connections.is_lost(),
        }
    }

    /// Marks the agent as ending: from now on no request waits for a broker that does not respond.
    pub(crate) fn end(&self) {
        if let Self::Remote(connections) = self {
            connections.end();
        }
    }

    /// Ends the broker, so that no process of the agent outlives it, except those of containers. A
    /// service manager removes the agent's cgroup only if it is empty when the agent exits.
    pub(crate) fn close(&self) {
        if let Self::Remote(connections) = self {
            connections.close();
        }
    }
}
