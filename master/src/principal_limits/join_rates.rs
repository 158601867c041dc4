//! The rates at which hosts without an identity request certificates, by their addresses.

use std::sync::{Mutex, PoisonError};

use argosy_proto::transport::PeerIdentity;
use argosy_state::access::{AccessFacts, RateLimit};
use tokio::time::Instant;

use super::LimitReached;
use super::account::Account;
use super::rates::{CallRates, RateLimits};

/// The rate of one address. A signature costs a master less than a millisecond.
pub(crate) const JOIN_RATE: RateLimit = RateLimit {
    calls_per_second: 2,
    burst: 50,
};

/// The buckets of all addresses. Their number is bounded.
#[derive(Debug)]
pub(crate) struct JoinRates {
    began: Instant,
    // A lock, because requests of several threads use it. Held for a few comparisons.
    rates: Mutex<CallRates>,
}

impl JoinRates {
    /// Takes one request of the peer's address, whatever the identity of the peer.
    ///
    /// # Errors
    /// The pause after which its next one is admitted.
    pub(crate) fn admit(&self, peer: Option<&PeerIdentity>) -> Result<(), LimitReached> {
        let address = peer.and_then(PeerIdentity::address);
        let account = Account::of(Some(&PeerIdentity::unauthenticated(address)), None);
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = rates.take(&account, now);
        taken.map_err(LimitReached::PrincipalRate)
    }
}

impl Default for JoinRates {
    fn default() -> Self {
        let limits = RateLimits::new(&AccessFacts::default(), Some(JOIN_RATE));
        Self {
            began: Instant::now(),
            rates: Mutex::new(CallRates::new(limits)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(principal: &str, address: &str) -> PeerIdentity {
        let address = address.parse().ok();
        match principal {
            "" => PeerIdentity::unauthenticated(address),
            name => PeerIdentity::authenticated(name.parse().unwrap(), address),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_a_rate_whatever_its_ports_and_identities() {
        let rates = JoinRates::default();
        for port in 0..JOIN_RATE.burst {
            let own = peer("", &format!("10.0.0.7:{}", 1_000 + port));
            assert_eq!(rates.admit(Some(&own)), Ok(()));
        }
        for other in [
            peer("", "10.0.0.7:9"),
            peer("operator/alice", "10.0.0.7:10"),
        ] {
            assert!(rates.admit(Some(&other)).is_err(), "{other}");
        }
        assert_eq!(rates.admit(Some(&peer("", "10.0.0.8:9"))), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        let again = peer("", "10.0.0.7:9");
        assert_eq!(rates.admit(Some(&again)), Ok(()));
    }
}
