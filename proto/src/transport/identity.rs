//! The identity of a connection's peer, as far as the transport has proof.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use argosy_state::actor::{Actor, Principal, PrincipalKind, PrincipalName};

/// The identity of a connection's peer. An extension of each request on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    principal: Option<Principal>,
    address: Option<SocketAddr>,
}

impl PeerIdentity {
    /// Returns a peer without proof of its identity. Its address is unknown in a simulation.
    #[must_use]
    pub const fn unauthenticated(address: Option<SocketAddr>) -> Self {
        Self {
            principal: None,
            address,
        }
    }

    /// Returns a peer that the transport has authenticated.
    #[must_use]
    pub const fn authenticated(principal: Principal, address: Option<SocketAddr>) -> Self {
        Self {
            principal: Some(principal),
            address,
        }
    }

    /// Returns the proven identity.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// Returns the address from which it connects, if known.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Returns the actor of its own requests.
    #[must_use]
    pub fn actor(&self) -> Actor {
        let principal = self.principal.clone();
        principal.map_or(Actor::Unauthenticated, Actor::Principal)
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.principal, self.address) {
            (Some(principal), Some(address)) => write!(out, "{principal} at {address}"),
            (Some(principal), None) => principal.fmt(out),
            (None, Some(address)) => write!(out, "an unauthenticated peer at {address}"),
            (None, None) => out.write_str("an unauthenticated peer"),
        }
    }
}

/// The identity that a dialer expects: an authenticating transport must find it at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedPeer {
    /// The kind of the principal.
    pub kind: PrincipalKind,
    /// The name of the principal; `None`: any of its kind.
    pub name: Option<PrincipalName>,
}

impl ExpectedPeer {
    /// Any master.
    pub const MASTER: Self = Self::any(PrincipalKind::Master);

    /// Returns any principal of this kind.
    #[must_use]
    pub const fn any(kind: PrincipalKind) -> Self {
        Self { kind, name: None }
    }

    /// Returns whether this peer is acceptable. A peer without a proven identity is; one with an
    /// identity must be the expected one.
    #[must_use]
    pub fn admits(&self, found: &PeerIdentity) -> bool {
        found.principal().is_none_or(|principal| {
            let named = self.name.as_ref();
            principal.kind == self.kind && named.is_none_or(|name| *name == principal.name)
        })
    }

    /// Checks the peer at an address, as `admits`.
    pub(super) fn admit(&self, found: &PeerIdentity, address: &str) -> io::Result<()> {
        let principal = match found.principal() {
            Some(principal) if !self.admits(found) => principal,
            Some(_) | None => return Ok(()),
        };
        let text = format!("{principal} is at {address}, and not {self}");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }
}

/// As `master/master-1` or `any agent`.
impl fmt::Display for ExpectedPeer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(out, "{}/{name}", self.kind),
            None => write!(out, "any {}", self.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Connection, Dialer};

    fn found(text: &str) -> PeerIdentity {
        PeerIdentity::authenticated(text.parse().unwrap(), None)
    }

    async fn dial(expected: ExpectedPeer, there: PeerIdentity) -> Result<(), String> {
        let dialer = Dialer::new(move |_, _| {
            let there = there.clone();
            async move { Ok((Connection::new(tokio::io::empty()), there)) }
        });
        let dialed = dialer.dial("m1:5050", &expected).await;
        dialed.map(drop).map_err(|why| why.to_string())
    }

    #[tokio::test]
    async fn a_dialer_accepts_only_the_expected_peer() {
        let first = ExpectedPeer {
            kind: PrincipalKind::Master,
            name: Some(PrincipalName::new("m1").unwrap()),
        };
        assert_eq!(dial(ExpectedPeer::MASTER, found("master/m2")).await, Ok(()));
        assert_eq!(dial(first.clone(), found("master/m1")).await, Ok(()));
        let plain = PeerIdentity::unauthenticated(None);
        assert_eq!(dial(first.clone(), plain).await, Ok(()));
        let refused = dial(ExpectedPeer::MASTER, found("agent/m1"))
            .await
            .unwrap_err();
        assert_eq!(refused, "agent/m1 is at m1:5050, and not any master");
        let refused = dial(first, found("master/m2")).await.unwrap_err();
        assert_eq!(refused, "master/m2 is at m1:5050, and not master/m1");
    }
}
