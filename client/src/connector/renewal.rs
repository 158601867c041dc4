//! Connections after the certificate of this program was renewed and its former key was revoked.
//!
//! A connection proves the key of its handshake until it ends. Masters end the answers to a revoked
//! key and refuse further calls, but leave its connections open.

use argosy_proto::transport::ExpectedPeer;
use tonic::Code;

use super::Connector;

impl Connector {
    /// Drops all connections for later calls if a master has refused the identity that they prove:
    /// others may prove another key. Returns false if the refusal has another reason. With a token,
    /// another connection would prove the same.
    pub(crate) fn renew_connections(&self, refused: Code) -> bool {
        let token = self.inner.dialer.authorization(&ExpectedPeer::MASTER);
        if refused != Code::Unauthenticated || token.is_some() {
            return false;
        }
        self.known(|known| known.channels.clear());
        self.inner.handshakes.clear();
        true
    }

    /// Returns whether there is a connection to `address`, which an earlier call has opened.
    pub(crate) fn is_open(&self, address: &str) -> bool {
        self.known(|known| known.channels.contains_key(address))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use argosy_proto::transport::{Connection, Dialer, PeerIdentity};
    use argosy_proto::v1;
    use argosy_proto::v1::leadership_client::LeadershipClient;
    use argosy_proto::v1::leadership_server::{Leadership, LeadershipServer};
    use argosy_state::access::{TokenId, TokenSecret};
    use tokio_stream::{Pending, StreamExt as _};
    use tonic::{Request, Response, Status};

    use super::*;
    use crate::connector::{ConnectorConfig, RepeatPolicy};
    use crate::failure::CallError;

    /// A master that knows the number of each connection, which is that of its key.
    #[derive(Clone, Default)]
    struct KeyedMaster {
        connections: Arc<AtomicUsize>,
        /// The number of keys that are revoked: the first ones.
        revoked: Arc<AtomicUsize>,
        /// Whether the next call gets no answer.
        unanswered: Arc<AtomicBool>,
    }

    const TOKEN: TokenSecret = TokenSecret {
        id: TokenId(7),
        secret: [5; 32],
    };

    struct KeyedConnection {
        number: usize,
        master: KeyedMaster,
    }

    #[tonic::async_trait]
    impl Leadership for KeyedConnection {
        type WatchStream = Pending<Result<v1::Reign, Status>>;

        async fn watch(
            &self,
            _: Request<v1::WatchReigns>,
        ) -> Result<Response<Self::WatchStream>, Status> {
            let unanswered = &self.master.unanswered;
            if unanswered.swap(false, Ordering::Relaxed) {
                return Err(Status::unavailable("it stops"));
            }
            match self.number <= self.master.revoked.load(Ordering::Relaxed) {
                true => Err(Status::unauthenticated("the key was revoked")),
                false => Ok(Response::new(tokio_stream::pending())),
            }
        }
    }

    impl KeyedMaster {
        fn revoke(&self, keys: usize) {
            self.revoked.store(keys, Ordering::Relaxed);
        }

        fn connections(&self) -> usize {
            self.connections.load(Ordering::Relaxed)
        }

        fn connect(&self) -> Connection {
            let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
            let (near, far) = tokio::io::duplex(1 << 16);
            let service = KeyedConnection {
                number,
                master: self.clone(),
            };
            let incoming = tokio_stream::once(Ok::<_, io::Error>(far));
            let incoming = incoming.chain(tokio_stream::pending());
            let server =
                tonic::transport::Server::builder().add_service(LeadershipServer::new(service));
            tokio::spawn(server.serve_with_incoming(incoming));
            Connection::new(near)
        }

        fn dialer(&self) -> Dialer {
            let master = self.clone();
            Dialer::new(move |_, _| {
                let connection = master.connect();
                let peer = PeerIdentity::authenticated("master/m1".parse().unwrap(), None);
                async move { Ok((connection, peer)) }
            })
        }

        fn connector(&self, dialer: Dialer) -> Connector {
            let config = ConnectorConfig { dialer, seed: 3 };
            Connector::new("m1:1".parse().unwrap(), config)
        }
    }

    async fn call(connector: &Connector) -> Result<(), CallError> {
        call_with(connector, RepeatPolicy::Always).await
    }

    async fn call_with(connector: &Connector, repeat: RepeatPolicy) -> Result<(), CallError> {
        let deadline = Duration::from_secs(20);
        let called = connector.call(deadline, repeat, |channel, _| async {
            LeadershipClient::new(channel)
                .watch(v1::WatchReigns {})
                .await
        });
        called.await.map(drop)
    }

    fn is_refused(answer: &Result<(), CallError>) -> bool {
        matches!(answer, Err(CallError::Refused(why)) if why.code == Code::Unauthenticated)
    }

    #[tokio::test]
    async fn a_call_is_repeated_over_a_new_connection_if_its_key_was_revoked() {
        let master = KeyedMaster::default();
        let connector = master.connector(master.dialer());
        for _ in 0..2 {
            call(&connector).await.unwrap();
        }
        assert_eq!(master.connections(), 1);
        master.revoke(1);
        call(&connector).await.unwrap();
        assert_eq!(master.connections(), 2);
        // The new key is revoked as well: one more connection shows that.
        master.revoke(3);
        let refused = call(&connector).await;
        assert!(is_refused(&refused), "{refused:?}");
        assert_eq!(master.connections(), 3);
    }

    #[tokio::test]
    async fn a_call_that_may_have_been_processed_is_not_repeated() {
        let master = KeyedMaster::default();
        let connector = master.connector(master.dialer());
        call(&connector).await.unwrap();
        master.revoke(1);
        let refused = call_with(&connector, RepeatPolicy::OnlyUnsent).await;
        assert!(is_refused(&refused), "{refused:?}");
        assert_eq!(master.connections(), 1);
        // The next call uses another connection.
        call(&connector).await.unwrap();
        assert_eq!(master.connections(), 2);
    }

    #[tokio::test]
    async fn a_refusal_on_a_new_connection_is_final() {
        let master = KeyedMaster::default();
        master.revoke(1);
        let refused = call(&master.connector(master.dialer())).await;
        assert!(is_refused(&refused), "{refused:?}");
        assert_eq!(master.connections(), 1);
    }

    #[tokio::test]
    async fn a_call_without_an_answer_stays_unknown_if_its_caller_is_refused_then() {
        let master = KeyedMaster::default();
        let connector = master.connector(master.dialer().with_token(&TOKEN));
        master.revoke(1);
        master.unanswered.store(true, Ordering::Relaxed);
        let answer = call(&connector).await;
        assert!(
            matches!(answer, Err(CallError::Unanswered { .. })),
            "{answer:?}"
        );
        let refused = call(&connector).await;
        assert!(is_refused(&refused), "{refused:?}");
    }

    #[tokio::test]
    async fn a_refused_token_causes_no_further_connection() {
        let master = KeyedMaster::default();
        let connector = master.connector(master.dialer().with_token(&TOKEN));
        call(&connector).await.unwrap();
        master.revoke(1);
        let refused = call(&connector).await;
        assert!(is_refused(&refused), "{refused:?}");
        assert_eq!(master.connections(), 1);
    }
}
