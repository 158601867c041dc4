//! Who is at the other end of a connection, as far as the transport has proof.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use argosy_state::actor::{Actor, Principal, PrincipalKind, PrincipalName};

/// Who is at the other end of a connection. Among the extensions of each request that comes in on one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    principal: Option<Principal>,
    address: Option<SocketAddr>,
}

impl PeerIdentity {
    /// A peer without any proof. Its address is unknown in a simulation.
    #[must_use]
    pub const fn unauthenticated(address: Option<SocketAddr>) -> Self {
        Self {
            principal: None,
            address,
        }
    }

    /// A peer that the transport has authenticated.
    #[must_use]
    pub const fn authenticated(principal: Principal, address: Option<SocketAddr>) -> Self {
        Self {
            principal: Some(principal),
            address,
        }
    }

    /// The proven identity.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// The address that it connects from, if known.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The actor of what it asks for itself.
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

/// Whom a dialer is to reach: what a transport that authenticates must find at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// What it is.
    pub kind: PrincipalKind,
    /// Which one; any of its kind if that is not known.
    pub name: Option<PrincipalName>,
}

impl Expected {
    /// Any master.
    pub const MASTER: Self = Self::any(PrincipalKind::Master);

    /// Any principal of this kind.
    #[must_use]
    pub const fn any(kind: PrincipalKind) -> Self {
        Self { kind, name: None }
    }

    /// Whether this peer may be talked to. Without a proven identity every peer may; with one it must be the expected.
    #[must_use]
    pub fn admits(&self, found: &PeerIdentity) -> bool {
        found.principal().is_none_or(|principal| {
            let named = self.name.as_ref();
            principal.kind == self.kind && named.is_none_or(|name| *name == principal.name)
        })
    }

    /// The same, of the peer at an address.
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
impl fmt::Display for Expected {
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

    async fn dial(expected: Expected, there: PeerIdentity) -> Result<(), String> {
        let dialer = Dialer::new(move |_, _| {
            let there = there.clone();
            async move { Ok((Connection::new(tokio::io::empty()), there)) }
        });
        let dialed = dialer.dial("m1:5050", &expected).await;
        dialed.map(drop).map_err(|why| why.to_string())
    }

    #[tokio::test]
    async fn a_dialer_talks_to_nobody_but_whom_it_expects() {
        let first = Expected {
            kind: PrincipalKind::Master,
            name: Some(PrincipalName::new("m1").unwrap()),
        };
        assert_eq!(dial(Expected::MASTER, found("master/m2")).await, Ok(()));
        assert_eq!(dial(first.clone(), found("master/m1")).await, Ok(()));
        let plain = PeerIdentity::unauthenticated(None);
        assert_eq!(dial(first.clone(), plain).await, Ok(()));
        let refused = dial(Expected::MASTER, found("agent/m1")).await.unwrap_err();
        assert_eq!(refused, "agent/m1 is at m1:5050, and not any master");
        let refused = dial(first, found("master/m2")).await.unwrap_err();
        assert_eq!(refused, "master/m2 is at m1:5050, and not master/m1");
    }
}
