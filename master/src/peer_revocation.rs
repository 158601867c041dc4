//! Connections to and from other members end when the key of their peer is revoked.
//!
//! Each process decides by the registry that it has applied. So a master that is cut off does not
//! know of a revocation yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use argosy_proto::clock::WallClock;
use argosy_proto::transport::{Connection, Dialer, IdentifiedConnection, Listener};
use argosy_raft::NodeEnvironment;
use argosy_state::access::AccessFacts;
use futures::stream;
use metrics::counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use tracing::warn;

use crate::service::WatchedCredential;

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
        dialer.with_check(move |dialed| own.admit(dialed).map_err(refused))
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
                            warn!(%peer, why = why.message(), "rejected a connection to the raft port");
                            reported = Some(Instant::now());
                        }
                    }
                }
            }
        }))
    }

    /// Returns the same connection, which ends when the key of its peer is revoked.
    fn admit(
        &self,
        (connection, peer): IdentifiedConnection,
    ) -> Result<IdentifiedConnection, Status> {
        let access = self.access.clone();
        let Some(credential) = WatchedCredential::new(access, self.clock.clone(), &peer)? else {
            return Ok((connection, peer));
        };
        let addresses = connection.addresses();
        let revocable = Connection::new(RevocableConnection {
            connection,
            ended: Box::pin(credential.clone().ended()),
            credential,
            refusal: None,
        });
        let revocable = match addresses {
            Some(addresses) => revocable.with_addresses(addresses),
            None => revocable,
        };
        Ok((revocable, peer))
    }
}

fn refused(why: Status) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.message().to_owned())
}

/// A connection until the credential of its peer ends.
struct RevocableConnection {
    connection: Connection,
    credential: WatchedCredential,
    /// Wakes a reader that waits.
    ended: Pin<Box<dyn Future<Output = Status> + Send>>,
    refusal: Option<Status>,
}

impl RevocableConnection {
    fn check(&mut self) -> io::Result<()> {
        if self.refusal.is_none() {
            self.refusal = self.credential.check_changed().err();
        }
        self.refusal.clone().map_or(Ok(()), |why| Err(refused(why)))
    }
}

impl AsyncRead for RevocableConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        if let Poll::Ready(read) = Pin::new(&mut self.connection).poll_read(context, buffer) {
            return Poll::Ready(read);
        }
        match self.ended.as_mut().poll(context) {
            Poll::Ready(why) => {
                self.refusal = Some(why.clone());
                Poll::Ready(Err(refused(why)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for RevocableConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.connection).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}
