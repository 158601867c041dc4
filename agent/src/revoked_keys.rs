//! Revoked keys, which this agent accepts neither at its API nor of masters.
//!
//! Masters send them after a registration, and when a key is revoked. They are kept in memory: an
//! agent that has not registered since its start has none.

use std::collections::BTreeSet;
use std::io;

use argosy_proto::transport::{Credential, Dialer, IdentifiedConnection, Listener};
use argosy_state::access::KeyHash;
use futures::stream;
use tokio::sync::watch;

/// The revoked keys. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct RevokedKeys(watch::Sender<BTreeSet<KeyHash>>);

impl RevokedKeys {
    /// Ends the connections of these keys, and accepts no others.
    pub(crate) fn add(&self, keys: &[KeyHash]) {
        self.0.send_if_modified(|known| {
            let before = known.len();
            known.extend(keys);
            known.len() != before
        });
    }

    /// Returns the same dialer, for peers with other keys only.
    pub(crate) fn dialer(&self, dialer: Dialer) -> Dialer {
        let own = self.clone();
        dialer.with_check(move |dialed| own.admit(dialed))
    }

    /// Returns the same listener, for peers with other keys only.
    pub(crate) fn listener(&self, listener: Listener) -> Listener {
        let state = (listener, self.clone());
        Listener::new(stream::unfold(state, async |(mut listener, own)| {
            loop {
                let (connection, peer) = listener.accept().await;
                let described = peer.clone();
                match own.admit((connection, peer)) {
                    Ok(admitted) => return Some((Ok(admitted), (listener, own))),
                    Err(why) => tracing::debug!(peer = %described, %why, "refused a connection"),
                }
            }
        }))
    }

    fn admit(&self, (connection, peer): IdentifiedConnection) -> io::Result<IdentifiedConnection> {
        let Some(Credential::Key(key)) = peer.credential() else {
            return Ok((connection, peer));
        };
        let connection = connection.until(self.0.subscribe(), move |revoked| {
            let is_revoked = revoked.contains(&key);
            is_revoked.then(|| "the key of this certificate was revoked".to_owned())
        })?;
        Ok((connection, peer))
    }
}

#[cfg(test)]
mod tests {
    use argosy_proto::transport::{Connection, ExpectedPeer, PeerIdentity};
    use argosy_state::actor::PrincipalKind;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const STOLEN: KeyHash = KeyHash([7; 32]);
    const OTHER: KeyHash = KeyHash([8; 32]);

    fn of_key(connection: Connection, key: KeyHash) -> IdentifiedConnection {
        let peer = PeerIdentity::authenticated("master/m1".parse().unwrap(), None);
        (connection, peer.with_credential(Credential::Key(key)))
    }

    /// Returns connections with these keys, as a listener that knows the revoked keys accepts them,
    /// and their other ends.
    fn accepted(revoked: &RevokedKeys, keys: &[KeyHash]) -> (Listener, Vec<Connection>) {
        let (near, far): (Vec<_>, Vec<_>) = keys
            .iter()
            .map(|key| {
                let (near, far) = tokio::io::duplex(64);
                (
                    Ok(of_key(Connection::new(near), *key)),
                    Connection::new(far),
                )
            })
            .unzip();
        let incoming = futures::StreamExt::chain(stream::iter(near), stream::pending());
        (revoked.listener(Listener::new(incoming)), far)
    }

    #[tokio::test]
    async fn connections_of_a_revoked_key_end_and_no_other_is_accepted() {
        let revoked = RevokedKeys::default();
        let (mut listener, mut far) = accepted(&revoked, &[STOLEN, OTHER, STOLEN, OTHER]);
        let (mut stolen, _) = listener.accept().await;
        let (mut other, _) = listener.accept().await;
        revoked.add(&[STOLEN]);
        stolen.read_u8().await.unwrap_err();
        far[1].write_all(b"a").await.unwrap();
        assert_eq!(other.read_u8().await.unwrap(), b'a');
        // The third is not accepted, the fourth is.
        let (mut fourth, _) = listener.accept().await;
        far[3].write_all(b"b").await.unwrap();
        assert_eq!(fourth.read_u8().await.unwrap(), b'b');
    }

    #[tokio::test]
    async fn a_master_with_a_revoked_key_is_not_dialed() {
        let revoked = RevokedKeys::default();
        let dialer = revoked.dialer(Dialer::new(async |address, _| {
            let (near, _) = tokio::io::duplex(64);
            let key = if address == "stolen" { STOLEN } else { OTHER };
            Ok(of_key(Connection::new(near), key))
        }));
        let expected = ExpectedPeer::any(PrincipalKind::Master);
        dialer.dial("stolen", &expected).await.unwrap();
        revoked.add(&[STOLEN]);
        let refused = dialer.dial("stolen", &expected).await;
        let error = refused.err().expect("its key is revoked");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        dialer.dial("other", &expected).await.unwrap();
    }
}
