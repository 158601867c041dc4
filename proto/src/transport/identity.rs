//! The identity of a connection's peer, as far as the transport has proof.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use argosy_state::access::{KeyHash, TokenId};
use argosy_state::actor::{Actor, Principal, PrincipalKind, PrincipalName};

/// The identity of a connection's peer. An extension of each request on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    principal: Option<Principal>,
    address: Option<SocketAddr>,
    /// The names and addresses of hosts for which its proof is valid. `None`: the transport proves
    /// no hosts.
    hosts: Option<Arc<[String]>>,
    credential: Option<Credential>,
    /// Whether only the two ends can read the connection.
    is_over_tls: bool,
}

/// The credential that proves an identity, as far as it can be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// The key of a certificate.
    Key(KeyHash),
    /// A bearer token, until a wall-clock time in milliseconds since 1970, if it expires.
    Token(TokenId, Option<i64>),
}

impl PeerIdentity {
    /// Returns a peer without proof of its identity. Its address is unknown in a simulation.
    #[must_use]
    pub const fn unauthenticated(address: Option<SocketAddr>) -> Self {
        Self {
            principal: None,
            address,
            hosts: None,
            credential: None,
            is_over_tls: false,
        }
    }

    /// Returns a peer that the transport has authenticated.
    #[must_use]
    pub const fn authenticated(principal: Principal, address: Option<SocketAddr>) -> Self {
        Self {
            principal: Some(principal),
            address,
            hosts: None,
            credential: None,
            is_over_tls: true,
        }
    }

    /// Returns the same peer with the hosts for which its proof is valid.
    #[must_use]
    pub fn with_hosts(self, hosts: impl IntoIterator<Item = String>) -> Self {
        Self {
            hosts: Some(hosts.into_iter().collect()),
            ..self
        }
    }

    /// Returns the same peer with the credential that proves its identity.
    #[must_use]
    pub fn with_credential(self, credential: Credential) -> Self {
        Self {
            credential: Some(credential),
            ..self
        }
    }

    /// Returns the same peer, on a connection with TLS that proves the server only.
    #[must_use]
    pub fn over_tls(self) -> Self {
        Self {
            is_over_tls: true,
            ..self
        }
    }

    /// Returns whether the connection has TLS, as that of every authenticated peer has.
    #[must_use]
    pub fn is_over_tls(&self) -> bool {
        self.is_over_tls
    }

    /// Returns the credential that proves its identity, if it can be revoked.
    #[must_use]
    pub fn credential(&self) -> Option<Credential> {
        self.credential
    }

    /// Returns whether the peer may be the process at this address, `host:port`. Always true if the
    /// transport proves no hosts.
    #[must_use]
    pub fn may_be_at(&self, address: &str) -> bool {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let hosts = self.hosts.as_ref();
        hosts.is_none_or(|hosts| hosts.iter().any(|one| is_same_host(one, host)))
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

/// Compares addresses by value, and names without regard to case. A name is never an address.
fn is_same_host(one: &str, other: &str) -> bool {
    let address = |text: &str| {
        text.parse::<IpAddr>()
            .ok()
            .map(|found| found.to_canonical())
    };
    match (address(one), address(other)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => one.eq_ignore_ascii_case(other),
        (Some(_), None) | (None, Some(_)) => false,
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
    /// Any agent.
    pub const AGENT: Self = Self::any(PrincipalKind::Agent);

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

    #[test]
    fn a_peer_may_be_only_at_its_proven_hosts() {
        let hosts = ["m1.example", "10.0.0.1", "2001:db8::1"];
        let proven = found("master/m1").with_hosts(hosts.map(str::to_owned));
        for address in [
            "m1.example:5052",
            "M1.Example:1",
            "10.0.0.1:5052",
            "[::ffff:10.0.0.1]:5052",
            "[2001:DB8:0::1]:5052",
        ] {
            assert!(proven.may_be_at(address), "{address}");
        }
        for address in [
            "m2.example:5052",
            "x.m1.example:5052",
            "example:5052",
            "10.0.0.2:5052",
            "[2001:db8::2]:5052",
            ":5052",
            "",
        ] {
            assert!(!proven.may_be_at(address), "{address}");
            assert!(found("master/m1").may_be_at(address));
            assert!(!found("master/m1").with_hosts([]).may_be_at(address));
        }
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
