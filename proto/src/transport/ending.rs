//! Connections that end when a watched value forbids their peer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::Connection;

/// Returns the reason why a value forbids a connection.
type Forbids<T> = Arc<dyn Fn(&T) -> Option<String> + Send + Sync>;

impl Connection {
    /// Returns the same connection, which ends with an error as soon as a value of this channel
    /// forbids it. `forbids` returns the reason.
    ///
    /// # Errors
    /// `PermissionDenied` if the present value forbids it.
    pub fn until<T: Send + Sync + 'static>(
        self,
        values: watch::Receiver<T>,
        forbids: impl Fn(&T) -> Option<String> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let addresses = self.addresses();
        let forbids: Forbids<T> = Arc::new(forbids);
        let mut ending = EndingConnection {
            connection: self,
            ended: Box::pin(forbidden(values.clone(), Arc::clone(&forbids))),
            values,
            forbids,
            reason: None,
        };
        ending.values.mark_changed();
        ending.check()?;
        let connection = Self::new(ending);
        Ok(match addresses {
            Some(addresses) => connection.with_addresses(addresses),
            None => connection,
        })
    }
}

/// Waits until a value forbids a connection; returns the reason.
async fn forbidden<T>(mut values: watch::Receiver<T>, forbids: Forbids<T>) -> String {
    loop {
        if let Some(reason) = forbids(&values.borrow_and_update()) {
            return reason;
        }
        if values.changed().await.is_err() {
            // No other value follows.
            std::future::pending::<()>().await;
        }
    }
}

struct EndingConnection<T> {
    connection: Connection,
    values: watch::Receiver<T>,
    forbids: Forbids<T>,
    /// The waker of a waiting reader.
    ended: Pin<Box<dyn Future<Output = String> + Send>>,
    reason: Option<String>,
}

impl<T> EndingConnection<T> {
    fn check(&mut self) -> io::Result<()> {
        if self.reason.is_none() && self.values.has_changed().unwrap_or(false) {
            self.reason = (self.forbids)(&self.values.borrow_and_update());
        }
        match &self.reason {
            Some(reason) => Err(denied(reason)),
            None => Ok(()),
        }
    }
}

fn denied(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason.to_owned())
}

impl<T: Send + Sync> AsyncRead for EndingConnection<T> {
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
            Poll::Ready(reason) => {
                let error = denied(&reason);
                self.reason = Some(reason);
                Poll::Ready(Err(error))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: Send + Sync> AsyncWrite for EndingConnection<T> {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Returns a connection until the value is 2, and its other end.
    fn connected(value: u32) -> (watch::Sender<u32>, io::Result<Connection>, Connection) {
        let (sender, values) = watch::channel(value);
        let (near, far) = tokio::io::duplex(64);
        let forbids = |value: &u32| (*value == 2).then(|| "2 is forbidden".to_owned());
        let near = Connection::new(near).until(values, forbids);
        (sender, near, Connection::new(far))
    }

    #[tokio::test]
    async fn a_reader_that_waits_ends_with_the_connection() {
        let (sender, near, mut far) = connected(0);
        let mut near = near.unwrap();
        far.write_all(b"a").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'a');
        sender.send(1).unwrap();
        let waiting = tokio::spawn(async move { near.read_u8().await });
        tokio::task::yield_now().await;
        sender.send(2).unwrap();
        let error = waiting.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(error.to_string(), "2 is forbidden");
    }

    #[tokio::test]
    async fn a_busy_connection_ends_in_both_directions() {
        let (sender, near, mut far) = connected(0);
        let mut near = near.unwrap();
        far.write_all(b"ab").await.unwrap();
        sender.send(2).unwrap();
        // Received bytes are not read any more.
        near.read_u8().await.unwrap_err();
        near.write_all(b"c").await.unwrap_err();
        // A later value does not open it again.
        sender.send(0).unwrap();
        near.read_u8().await.unwrap_err();
    }

    #[test]
    fn a_forbidden_connection_is_not_opened() {
        let (_sender, near, _far) = connected(2);
        let error = near.err().expect("it is forbidden");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[tokio::test]
    async fn a_connection_stays_open_when_no_value_can_follow() {
        let (sender, near, mut far) = connected(0);
        let mut near = near.unwrap();
        drop(sender);
        far.write_all(b"a").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'a');
    }
}
