//! A listener that holds a limited number of connections open.
//!
//! A connection beyond the limit is accepted and closed at once, so that the peer sees it and tries again; left in the
//! kernel's queue it would only wait.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use argosy_proto::transport::{Connection, Listener};
use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

/// Connections that come in, as many as there are places for.
pub(crate) struct Limited {
    listener: Listener,
    places: Arc<Semaphore>,
    /// Whether the last connection found no place: the first one that does not is logged.
    is_full: bool,
}

impl Limited {
    pub(crate) fn new(listener: Listener, connections: usize) -> Limited {
        Limited {
            listener,
            places: Arc::new(Semaphore::new(connections)),
            is_full: false,
        }
    }
}

impl Stream for Limited {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let accepted = match self.listener.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(accepted))) => accepted,
                other => return other,
            };
            let place = self.places.clone().try_acquire_owned();
            let was_full = std::mem::replace(&mut self.is_full, place.is_err());
            match place {
                Ok(place) => {
                    let held = Held {
                        connection: accepted,
                        _place: place,
                    };
                    return Poll::Ready(Some(Ok(Connection::new(held))));
                }
                // Dropped, which closes it.
                Err(_full) if !was_full => {
                    warn!("the raft port has too many connections: new ones are closed");
                }
                Err(_full) => {}
            }
        }
    }
}

/// A connection and its place, which is free again when the connection is dropped.
struct Held {
    connection: Connection,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_beyond_the_limit_is_closed_until_a_place_is_free() {
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..4).map(|_| tokio::io::duplex(64)).unzip();
        let mut theirs = theirs.into_iter();
        let (first, second, third, fourth) = (
            theirs.next().unwrap(),
            theirs.next().unwrap(),
            theirs.next().unwrap(),
            theirs.next().unwrap(),
        );
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        let mut limited = Limited::new(Listener::new(receiver), 2);
        let mut ours = ours.into_iter().map(Connection::new);
        for one in [first, second, third] {
            sender.unbounded_send(Ok(Connection::new(one))).unwrap();
        }
        let held = limited.next().await.unwrap().unwrap();
        let _other = limited.next().await.unwrap().unwrap();
        let waiting = futures::poll!(limited.next());
        assert!(waiting.is_pending(), "a third connection was taken");
        let mut refused = ours.nth(2).unwrap();
        assert_eq!(refused.read(&mut [0]).await.unwrap(), 0, "it is not closed");
        drop(held);
        sender.unbounded_send(Ok(Connection::new(fourth))).unwrap();
        assert!(limited.next().await.unwrap().is_ok());
        let ended = Limited::new(Listener::new(stream::empty()), 1).next().await;
        assert!(ended.is_none());
    }
}
