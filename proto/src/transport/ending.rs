//! Connections that end when a watched value forbids their peer.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Connection;

/// Returns the reason why a value forbids a connection.
type Forbids<T> = Arc<dyn Fn(&T) -> Option<String> + Send + Sync>;

impl Connection {
    /// Returns the same connection, which is closed as soon as a value of this channel forbids it,
    /// also while it is not used: no reader needs to wait for that. Then reads and writes return
    /// `PermissionDenied`. `forbids` returns the reason. Needs a runtime.
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
        let is_write_vectored = self.is_write_vectored();
        let mut seen = values.clone();
        if let Some(reason) = forbids(&seen.borrow_and_update()) {
            return Err(denied(&reason));
        }
        let shared = Arc::new(SharedConnection {
            state: Mutex::new(Ok(self)),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        });
        let (closed, watched) = (shared.clone(), forbids.clone());
        let ending = async move { closed.end(forbidden(values, watched).await) };
        let connection = Self::new(EndingConnection {
            shared,
            values: seen,
            forbids,
            is_write_vectored,
            _ending: AbortOnDropHandle::new(tokio::spawn(ending)),
        });
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

fn denied(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason.to_owned())
}

/// A connection that its user shares with the task that closes it.
struct SharedConnection {
    /// The connection, or the reason why it was closed. A plain lock, never held over an await.
    state: Mutex<Result<Connection, String>>,
    /// Woken when the connection is closed.
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl SharedConnection {
    fn state(&self) -> MutexGuard<'_, Result<Connection, String>> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// Closes the connection, unless it is closed already.
    fn end(&self, reason: String) {
        let mut state = self.state();
        let closed = state
            .is_ok()
            .then(|| std::mem::replace(&mut *state, Err(reason)));
        drop(state);
        drop(closed);
        self.reader.wake();
        self.writer.wake();
    }

    /// Uses the connection, and registers this waker if that has to wait.
    fn poll<R>(
        &self,
        context: &mut Context<'_>,
        waker: &AtomicWaker,
        operation: impl FnOnce(Pin<&mut Connection>, &mut Context<'_>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        let mut state = self.state();
        let polled = match &mut *state {
            Ok(connection) => operation(Pin::new(connection), context),
            Err(reason) => Poll::Ready(Err(denied(reason))),
        };
        if polled.is_pending() {
            waker.register(context.waker());
        }
        polled
    }
}

struct EndingConnection<T> {
    shared: Arc<SharedConnection>,
    values: watch::Receiver<T>,
    forbids: Forbids<T>,
    is_write_vectored: bool,
    _ending: AbortOnDropHandle<()>,
}

impl<T> EndingConnection<T> {
    /// Closes the connection if the present value forbids it: the task may not have seen it yet.
    fn check(&mut self) {
        if self.values.has_changed().unwrap_or(false)
            && let Some(reason) = (self.forbids)(&self.values.borrow_and_update())
        {
            self.shared.end(reason);
        }
    }

    fn poll_written<R>(
        &mut self,
        context: &mut Context<'_>,
        operation: impl FnOnce(Pin<&mut Connection>, &mut Context<'_>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        self.check();
        self.shared.poll(context, &self.shared.writer, operation)
    }
}

impl<T: Send + Sync> AsyncRead for EndingConnection<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check();
        let read = |connection: Pin<&mut Connection>, context: &mut Context<'_>| {
            connection.poll_read(context, buffer)
        };
        self.shared.poll(context, &self.shared.reader, read)
    }
}

impl<T: Send + Sync> AsyncWrite for EndingConnection<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(context, |connection, context| {
            connection.poll_write(context, bytes)
        })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(context, |connection, context| {
            connection.poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.is_write_vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(context, |connection, context| {
            connection.poll_flush(context)
        })
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(context, |connection, context| {
            connection.poll_shutdown(context)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    #[tokio::test]
    async fn an_idle_connection_is_closed() {
        let (sender, near, mut far) = connected(0);
        let _near = near.unwrap();
        sender.send(2).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), far.read_u8()).await;
        let error = ended.expect("the connection ends").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_writer_that_waits_ends_with_the_connection() {
        let (sender, near, _far) = connected(0);
        let mut near = near.unwrap();
        let waiting = tokio::spawn(async move { near.write_all(&[0; 65]).await });
        tokio::task::yield_now().await;
        sender.send(2).unwrap();
        let error = waiting.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
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
