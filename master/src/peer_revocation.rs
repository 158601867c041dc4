//! Connections to and from other members end when the key of their peer is revoked.
//!
//! Each process decides by the registry that it has applied. So a master that is cut off does not
//! know of a revocation yet.

use std::io;
use std::time::Duration;

use argosy_proto::clock::WallClock;
use argosy_proto::transport::{Dialer, IdentifiedConnection, Listener};
use argosy_raft::NodeEnvironment;
use argosy_state::access::AccessFacts;
use argosy_state::planted_bug;
use futures::stream;
use metrics::counter;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use crate::service::check_credential;

/// The minimum interval between two log lines about rejected connections.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// The keys that are revoked, as far as this master has applied the log.
#[derive(Clone)]
pub(crate) struct PeerRevocation {
    access: watch::Receiver<AccessFacts>,
    clock: WallClock,
}

impl PeerRevocation {
    pub(crate) fn new(access: watch::Receiver<AccessFacts>, clock: WallClock) -> Self {
        Self { access, clock }
    }

    /// Returns the same environment of raft, without connections of revoked masters.
    pub(crate) fn guard(&self, environment: NodeEnvironment) -> NodeEnvironment {
        NodeEnvironment {
            listener: self.listener(environment.listener),
            dialer: self.dialer(environment.dialer),
            wall: environment.wall,
        }
    }

    /// Returns the same dialer. It rejects peers with a revoked key.
    pub(crate) fn dialer(&self, dialer: Dialer) -> Dialer {
        let own = self.clone();
        dialer.with_check(move |dialed| own.admit(dialed))
    }

    fn listener(&self, listener: Listener) -> Listener {
        let state = (listener, self.clone(), None);
        Listener::new(stream::unfold(state, async |state| {
            let (mut listener, own, mut reported) = state;
            loop {
                let accepted = listener.accept().await;
                let peer = accepted.1.clone();
                match own.admit(accepted) {
                    Ok(admitted) => return Some((Ok(admitted), (listener, own, reported))),
                    Err(why) => {
                        counter!("argosy_connections_refused_total", "port" => "raft", "reason" => "revoked")
                            .increment(1);
                        let is_due = |at: &Instant| at.elapsed() >= REPORT_EVERY;
                        if reported.as_ref().is_none_or(is_due) {
                            warn!(%peer, %why, "rejected a connection to the raft port");
                            reported = Some(Instant::now());
                        }
                    }
                }
            }
        }))
    }

    /// Returns the same connection, which ends when the key of its peer is revoked.
    fn admit(&self, (connection, peer): IdentifiedConnection) -> io::Result<IdentifiedConnection> {
        let Some(credential) = peer.credential() else {
            return Ok((connection, peer));
        };
        let (principal, clock) = (peer.principal().cloned(), self.clock.clone());
        let connection = connection.until(self.access.clone(), move |facts| {
            let now_ms = clock.now_ms();
            let checked = check_credential(facts, principal.as_ref(), credential, now_ms);
            let checked = planted_bug!(RevokedPeerStays, checked, Ok(()));
            checked.err().map(|why| why.message().to_owned())
        })?;
        Ok((connection, peer))
    }
}
