//! The settings of connections to masters.

use argosy_proto::transport::Dialer;
use argosy_state::access::TokenSecret;

use super::random_seed;

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
