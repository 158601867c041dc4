//! The simulated network: real gRPC over turmoil's TCP, and which links are cut.
//!
//! A connection attempt over a cut link hangs, as it does in a real network; only a host without the
//! process refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use argosy_proto::clock::WallClock;
use argosy_proto::transport::{Connection, Dialer, Listener};
use futures::stream;
use turmoil::net::{TcpListener, TcpStream};

/// Links over which nothing travels, by the names of their hosts: from, to.
#[derive(Debug, Clone, Default)]
pub(super) struct Cuts(Arc<Mutex<BTreeSet<(String, String)>>>);

impl Cuts {
    fn set(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.0.lock().expect("no holder of the lock panics")
    }

    pub(super) fn cut(&self, from: &str, to: &str) {
        self.set().insert((from.to_owned(), to.to_owned()));
    }

    pub(super) fn mend(&self, from: &str, to: &str) {
        self.set().remove(&(from.to_owned(), to.to_owned()));
    }

    /// Whether a packet, or its answer, would be lost.
    pub(super) fn part(&self, one: &str, other: &str) -> bool {
        let set = self.set();
        let cut = |from: &str, to: &str| set.contains(&(from.to_owned(), to.to_owned()));
        cut(one, other) || cut(other, one)
    }
}

/// Connections that come in at this host.
pub(super) async fn listener(port: u16) -> io::Result<Listener> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    Ok(Listener::new(stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await;
        Some((accepted.map(|(one, _)| Connection::new(one)), listener))
    })))
}

/// Opens connections from the host called `own`.
pub(super) fn dialer(own: &str, cuts: &Cuts) -> Dialer {
    let (own, cuts) = (own.to_owned(), cuts.clone());
    Dialer::new(move |address| {
        let (own, cuts) = (own.clone(), cuts.clone());
        async move {
            let host = address.split(':').next().unwrap_or_default().to_owned();
            match TcpStream::connect(address).await {
                Ok(stream) => Ok(Connection::new(stream)),
                // turmoil refuses what it has dropped; a network says nothing.
                Err(_) if cuts.part(&own, &host) => std::future::pending().await,
                Err(error) => Err(error),
            }
        }
    })
}

/// How far the wall clocks of hosts are off, in milliseconds, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct WallClocks(Arc<Mutex<BTreeMap<String, i64>>>);

impl WallClocks {
    /// The clock jumps, forwards or backwards.
    pub(super) fn jump(&self, host: &str, by_ms: i64) {
        let mut off = self.0.lock().expect("no holder of the lock panics");
        *off.entry(host.to_owned()).or_default() += by_ms;
    }

    /// The clock of one host.
    pub(super) fn of(&self, host: &str) -> WallClock {
        let (clocks, host) = (self.clone(), host.to_owned());
        WallClock::new(move || {
            let since = turmoil::since_epoch().unwrap_or_default();
            let off = clocks.0.lock().expect("no holder of the lock panics");
            let off_ms = off.get(&host).copied().unwrap_or(0);
            let off = Duration::from_millis(off_ms.unsigned_abs());
            match off_ms < 0 {
                true => UNIX_EPOCH + since.saturating_sub(off),
                false => UNIX_EPOCH + since + off,
            }
        })
    }
}
