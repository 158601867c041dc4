//! Handshakes that continue after the call that began them has timed out.
//!
//! Many clients connect together after a failover, and the server computes their handshakes one
//! after the other. If a client ended its handshake at the timeout of a call, and began another
//! one, most of these computations would be in vain, and each would take longer.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::IdentifiedConnection;

/// The time after its end at which a connection is not used any more: servers end those that have
/// sent no request for 10 s.
pub(super) const UNUSED_FOR: Duration = Duration::from_secs(7);

/// At most one handshake for each address. Cheap to clone; the last clone ends them.
#[derive(Clone, Default)]
pub struct KeptHandshakes {
    // A lock, because connections are opened on many tasks; it is never held across an await.
    state: Arc<Mutex<KeptState>>,
}

#[derive(Default)]
struct KeptState {
    by_address: HashMap<String, RunningHandshake>,
    /// The number of calls of [`KeptHandshakes::clear`].
    generation: u64,
}

struct RunningHandshake {
    task: AbortOnDropHandle<io::Result<IdentifiedConnection>>,
    /// When it ended.
    ended: Arc<OnceLock<Instant>>,
}

impl RunningHandshake {
    /// Returns false if it ended so long ago that the server may have closed the connection.
    fn is_usable(&self) -> bool {
        let ended = self.ended.get();
        ended.is_none_or(|ended| ended.elapsed() < UNUSED_FOR)
    }
}

impl KeptHandshakes {
    /// Begins a handshake.
    pub(super) fn begin(
        &self,
        address: &str,
        shaking: impl Future<Output = io::Result<IdentifiedConnection>> + Send + 'static,
    ) -> AwaitedHandshake {
        let ended = Arc::<OnceLock<Instant>>::default();
        let end = ended.clone();
        let task = tokio::spawn(async move {
            let shaken = shaking.await;
            end.get_or_init(Instant::now);
            shaken
        });
        let running = RunningHandshake {
            task: AbortOnDropHandle::new(task),
            ended,
        };
        let generation = self.lock(|kept| kept.generation);
        self.awaited(address, generation, running)
    }

    /// Takes the handshake with the peer at this address, if there is one.
    pub(super) fn take(&self, address: &str) -> Option<AwaitedHandshake> {
        let (generation, kept) = self.lock(|kept| {
            kept.by_address.retain(|_, running| running.is_usable());
            (kept.generation, kept.by_address.remove(address))
        });
        kept.map(|running| self.awaited(address, generation, running))
    }

    /// Ends all for which no call waits, and keeps no other one that has begun.
    pub fn clear(&self) {
        self.lock(|kept| {
            kept.by_address.clear();
            kept.generation += 1;
        });
    }

    fn awaited(
        &self,
        address: &str,
        generation: u64,
        running: RunningHandshake,
    ) -> AwaitedHandshake {
        AwaitedHandshake {
            kept: self.clone(),
            address: address.to_owned(),
            generation,
            running: Some(running),
        }
    }

    fn lock<T>(&self, access: impl FnOnce(&mut KeptState) -> T) -> T {
        access(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A handshake for which a caller waits. Kept if it is dropped before it has ended, unless all were
/// cleared in the meantime.
pub(super) struct AwaitedHandshake {
    kept: KeptHandshakes,
    address: String,
    generation: u64,
    running: Option<RunningHandshake>,
}

impl AwaitedHandshake {
    /// Waits for the end. Returns the result, or the error of the handshake, and the time since its
    /// end: the caller may not have been polled for long.
    pub(super) async fn ended(mut self) -> (io::Result<IdentifiedConnection>, Duration) {
        let Some(running) = &mut self.running else {
            return (Err(io::ErrorKind::NotConnected.into()), Duration::ZERO);
        };
        let ended = (&mut running.task).await;
        let age = running.ended.get().map_or(Duration::ZERO, Instant::elapsed);
        self.running = None;
        (
            ended.unwrap_or_else(|error| Err(io::Error::other(error))),
            age,
        )
    }
}

impl Drop for AwaitedHandshake {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let address = std::mem::take(&mut self.address);
            // The other one is dropped after the lock is released.
            let _ended = self
                .kept
                .lock(|kept| match kept.generation == self.generation {
                    true => kept.by_address.insert(address, running),
                    false => Some(running),
                });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;
    use tonic::transport::Uri;
    use tower::{Service as _, ServiceExt as _};

    use super::super::{Connection, Dialer, ExpectedPeer, GrpcConnector, PeerIdentity};
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    /// A dialer whose handshakes end when the test permits it, and their counts.
    #[derive(Clone)]
    struct SlowPeer {
        opened: Arc<AtomicUsize>,
        permits: Arc<Semaphore>,
        kept: KeptHandshakes,
        /// If true, handshakes fail.
        fails: bool,
    }

    impl SlowPeer {
        fn new(fails: bool) -> Self {
            Self {
                opened: Arc::default(),
                permits: Arc::new(Semaphore::new(0)),
                kept: KeptHandshakes::default(),
                fails,
            }
        }

        fn connector(&self) -> GrpcConnector {
            let (opened, permits, fails) = (self.opened.clone(), self.permits.clone(), self.fails);
            let dialer = Dialer::new(move |_, _| {
                opened.fetch_add(1, Ordering::Relaxed);
                async { Ok((Connection::new(tokio::io::empty()), anonymous())) }
            });
            let dialer = dialer.with_handshake(move |connection, _, _| {
                let permits = permits.clone();
                async move {
                    permits.acquire().await.unwrap().forget();
                    match fails {
                        true => Err(io::ErrorKind::ConnectionReset.into()),
                        false => Ok((connection, anonymous())),
                    }
                }
            });
            dialer.keeping_connector(TIMEOUT, ExpectedPeer::MASTER, self.kept.clone())
        }

        /// Waits for a new connector; returns whether there is a connection in time.
        async fn connect(&self, address: &str) -> bool {
            let mut connector = self.connector();
            let uri: Uri = format!("http://{address}").parse().unwrap();
            let connector = connector.ready().await.unwrap();
            let called = tokio::time::timeout(TIMEOUT, connector.call(uri)).await;
            called.is_ok_and(|called| called.is_ok())
        }

        fn opened(&self) -> usize {
            self.opened.load(Ordering::Relaxed)
        }
    }

    fn anonymous() -> PeerIdentity {
        PeerIdentity::unauthenticated(None)
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_connection_continues_a_slow_handshake() {
        let peer = SlowPeer::new(false);
        assert!(!peer.connect("a:1").await);
        assert!(!peer.connect("a:1").await);
        assert_eq!(peer.opened(), 1);
        // Another address has another one.
        assert!(!peer.connect("b:1").await);
        assert_eq!(peer.opened(), 2);
        peer.permits.add_permits(1);
        assert!(peer.connect("a:1").await);
        assert_eq!(peer.opened(), 2);
        // A connection is used once.
        peer.permits.add_permits(2);
        assert!(peer.connect("a:1").await && peer.connect("b:1").await);
        assert_eq!(peer.opened(), 3);
    }

    /// A network that has failed may have cut its path.
    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_had_begun_when_all_were_cleared_is_not_continued() {
        let peer = SlowPeer::new(false);
        assert!(!peer.connect("a:1").await);
        peer.kept.clear();
        let cleared_halfway = async {
            tokio::time::sleep(TIMEOUT / 2).await;
            peer.kept.clear();
        };
        let (is_open, ()) = tokio::join!(peer.connect("a:1"), cleared_halfway);
        assert!(!is_open);
        assert_eq!(peer.opened(), 2, "the first one has ended");
        assert!(!peer.connect("a:1").await);
        assert_eq!(peer.opened(), 3, "the second one has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_continues_without_a_call_and_its_failure_is_not_reported() {
        let peer = SlowPeer::new(true);
        assert!(!peer.connect("a:1").await);
        peer.permits.add_permits(1);
        tokio::time::sleep(TIMEOUT).await;
        assert_eq!(peer.permits.available_permits(), 0, "it has ended");
        assert!(!peer.connect("a:1").await);
        assert_eq!(peer.opened(), 2, "another one has begun");
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_whose_end_came_unnoticed_is_not_used_later() {
        for fails in [false, true] {
            let peer = SlowPeer::new(fails);
            let mut connector = peer.connector();
            let uri = Uri::from_static("http://a:1");
            let mut opening = std::pin::pin!(connector.ready().await.unwrap().call(uri));
            let call = tokio::time::timeout(TIMEOUT / 2, &mut opening).await;
            assert!(call.is_err(), "this call gives up first");
            peer.permits.add_permits(2);
            tokio::time::sleep(UNUSED_FOR * 2).await;
            assert_eq!(opening.await.is_ok(), !fails);
            assert_eq!(peer.opened(), 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_not_used_in_time_is_not_used_later() {
        let peer = SlowPeer::new(false);
        for (wait, opened) in [(UNUSED_FOR / 2, 1), (UNUSED_FOR * 2, 3)] {
            assert!(!peer.connect("a:1").await);
            peer.permits.add_permits(1);
            tokio::time::sleep(wait).await;
            peer.permits.add_permits(1);
            assert!(peer.connect("a:1").await);
            assert_eq!(peer.opened(), opened);
            peer.permits.forget_permits(1);
        }
    }
}
