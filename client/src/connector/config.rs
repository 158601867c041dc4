//! The settings of connections to masters.

use std::time::Duration;

use argosy_proto::transport::{Dialer, ExpectedPeer, KeptHandshakes};
use argosy_state::access::TokenSecret;
use tonic::transport::{Channel, Endpoint};

use crate::leader::MasterFailure;

/// Timeout for opening a connection, without its handshake.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time without data after which the client pings a connection, and the time for the response. A
/// call that times out does not close the connection to a master that has not answered yet, since
/// that master may be busy with the handshake. Only a ping shows that such a connection is dead.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(4);
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// Connection settings.
#[derive(Clone)]
pub struct ConnectorConfig {
    /// Opens the byte streams.
    pub dialer: Dialer,
    /// Seed of the random sequence that spreads pauses and choices.
    pub seed: u64,
}

impl Default for ConnectorConfig {
    /// Returns TCP with a random seed.
    fn default() -> Self {
        Self {
            dialer: Dialer::tcp(),
            seed: random_seed(),
        }
    }
}

impl ConnectorConfig {
    /// Returns the same settings with a bearer token, which gives the calls its identity. Only
    /// masters that prove their identity get it.
    #[must_use]
    pub fn with_token(self, token: &TokenSecret) -> Self {
        Self {
            dialer: self.dialer.with_token(token),
            ..self
        }
    }
}

/// Returns a channel that is connected when it is used.
pub(super) fn open(
    address: &str,
    dialer: &Dialer,
    kept: KeptHandshakes,
) -> Result<Channel, MasterFailure> {
    let connector = dialer.keeping_connector(CONNECT_TIMEOUT, ExpectedPeer::MASTER, kept);
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| MasterFailure::NoHost(error.to_string()))?
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(false)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024);
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// Returns a random number that is never 0, and that no other process is likely to have drawn.
#[must_use]
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The operating system's randomness seeds each `RandomState`.
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish().max(1)
}
