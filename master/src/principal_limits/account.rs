//! The account of a call: the principal or host for which it counts.

use std::net::IpAddr;

use argosy_proto::server::peer_network;
use argosy_proto::transport::PeerIdentity;
use argosy_state::actor::{Actor, Principal};

/// The account of calls. Callers that cannot be distinguished share an account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Account {
    /// A proven identity, whatever its connections.
    Principal(Principal),
    /// Callers without an identity, by the address of their host.
    Address(IpAddr),
    /// Callers without an identity whose address is not known.
    #[default]
    Unknown,
    /// All accounts beyond the number that is distinguished.
    Others,
}

impl Account {
    /// Returns the account of a call: that of the caller for which a master forwards it, else that
    /// of the peer itself. Callers without an identity that a master forwards share an account for
    /// each master, because their addresses are not known here.
    pub(crate) fn of(peer: Option<&PeerIdentity>, forwarded: Option<&Actor>) -> Self {
        if let Some(Actor::Principal(principal)) = forwarded {
            return Self::Principal(principal.clone());
        }
        let principal = peer.and_then(PeerIdentity::principal);
        if let Some(principal) = principal {
            return Self::Principal(principal.clone());
        }
        let address = peer.and_then(PeerIdentity::address);
        address.map_or(Self::Unknown, |address| {
            Self::Address(peer_network(address.ip()))
        })
    }

    /// Returns the actor of the account's calls.
    pub(crate) fn actor(&self) -> Actor {
        match self {
            Self::Principal(principal) => Actor::Principal(principal.clone()),
            Self::Address(_) | Self::Unknown | Self::Others => Actor::Unauthenticated,
        }
    }
}

tokio::task_local! {
    static ACCOUNT: Account;
}

/// Runs a part of a call on this account.
pub(crate) async fn within<T>(account: Account, call: impl Future<Output = T>) -> T {
    ACCOUNT.scope(account, call).await
}

/// Returns the account of the present call.
pub(crate) fn current() -> Account {
    ACCOUNT.try_with(Clone::clone).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(peer: &str, address: &str, forwarded: &str) -> Account {
        let address = address.parse().ok();
        let peer = match peer {
            "" => PeerIdentity::unauthenticated(address),
            principal => PeerIdentity::authenticated(principal.parse().unwrap(), address),
        };
        let forwarded = forwarded.parse().ok();
        Account::of(Some(&peer), forwarded.as_ref())
    }

    #[test]
    fn an_account_follows_its_principal() {
        let web = Account::Principal("framework/web".parse().unwrap());
        for (peer, address, forwarded) in [
            ("framework/web", "10.0.0.1:1000", ""),
            ("framework/web", "10.0.0.2:2000", ""),
            ("master/m1", "10.0.0.3:3000", "framework/web"),
            ("master/m2", "", "framework/web"),
        ] {
            assert_eq!(account(peer, address, forwarded), web, "{peer} {forwarded}");
        }
        assert_ne!(account("framework/db", "10.0.0.1:1000", ""), web);
    }

    #[test]
    fn callers_without_an_identity_share_the_account_of_their_host() {
        let first = account("", "10.0.0.1:1000", "");
        assert_eq!(first, account("", "10.0.0.1:2000", ""));
        assert_ne!(first, account("", "10.0.0.2:1000", ""));
        let network = account("", "[2001:db8::1]:1", "");
        assert_eq!(network, account("", "[2001:db8::2]:1", ""));
        // A call that a master forwards counts for the account of that master.
        let forwarded = account("master/m1", "10.0.0.3:1", "unauthenticated");
        assert_eq!(forwarded, Account::Principal("master/m1".parse().unwrap()));
        assert_eq!(Account::of(None, None), Account::Unknown);
    }

    #[tokio::test]
    async fn a_call_knows_its_account() {
        assert_eq!(current(), Account::Unknown);
        let web = Account::Principal("framework/web".parse().unwrap());
        let seen = within(web.clone(), async { current() }).await;
        assert_eq!(seen, web);
    }
}
