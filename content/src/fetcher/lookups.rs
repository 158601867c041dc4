//! Look-ups of host names.
//!
//! A look-up blocks a thread until name servers answer, which may take half a minute, and nothing
//! ends it earlier. Downloads write to their files on the same threads, so a part of these is left
//! to them: tasks that name slow name servers must not delay the files of others.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use argosy_state::ids::FrameworkId;
use tokio::time::timeout;

use crate::FairSlots;

/// The number of look-ups at a time, half of them at most for one framework; others wait.
pub(crate) const LOOKUPS_AT_ONCE: usize = 24;
/// The timeout of a look-up, without the time that it waits for its slot.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// The [`LOOKUPS_AT_ONCE`] slots. Of the process, as the threads are.
pub(super) static SLOTS: LazyLock<Arc<FairSlots>> =
    LazyLock::new(|| FairSlots::new(LOOKUPS_AT_ONCE));

/// Returns the addresses of a host, which is a name or an address, for a framework.
pub(super) async fn addresses_of(
    host: &str,
    port: u16,
    framework: FrameworkId,
) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let host = host.to_owned();
    let look_up = move || -> io::Result<Vec<SocketAddr>> {
        let found = (host.as_str(), port).to_socket_addrs()?;
        Ok(found.collect())
    };
    blocking((&SLOTS, framework), LOOKUP_LIMIT, look_up).await
}

/// Runs blocking work of a framework in one of these slots, with a timeout.
async fn blocking<T: Send + 'static>(
    (slots, framework): (&Arc<FairSlots>, FrameworkId),
    limit: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let slot = slots.acquire(framework).await;
    let working = tokio::task::spawn_blocking(move || {
        // Held until the thread is free, also if nothing waits for the result any more.
        let _slot = slot;
        work()
    });
    let Ok(done) = timeout(limit, working).await else {
        let why = format!("name servers have not answered for {limit:?}");
        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
    };
    done.map_err(io::Error::other)?
}

/// Takes all slots that a framework can get. One test at a time has them.
#[cfg(test)]
pub(crate) async fn take_slots(framework: FrameworkId) -> impl Sized {
    use futures::FutureExt as _;

    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let turn = TURN.lock().await;
    let slots = std::iter::from_fn(|| SLOTS.acquire(framework).now_or_never());
    (turn, slots.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// The timeout for events that must happen.
    const DEADLINE: Duration = Duration::from_secs(60);

    /// Runs a test on a runtime with so many threads for blocking work.
    fn run(threads: usize, test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(threads)
            .enable_time()
            .build()
            .unwrap()
            .block_on(test);
    }

    /// Returns a look-up that ends when the gate is open.
    fn slow(gate: &Arc<Mutex<()>>) -> impl FnOnce() -> io::Result<()> + Send + use<> {
        let gate = Arc::clone(gate);
        move || {
            drop(gate.lock());
            Ok(())
        }
    }

    #[test]
    fn slow_look_ups_leave_threads_to_the_writes_of_downloads() {
        let (one, framework) = (FairSlots::new(1), FrameworkId(1));
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        run(2, async {
            // Their callers stop waiting, as when a task is killed.
            for _ in 0..4 {
                let slow = blocking((&one, framework), DEADLINE, slow(&gate));
                let waited = timeout(Duration::from_millis(20), slow).await;
                assert!(waited.is_err(), "name servers do not answer");
            }
            let written = tokio::task::spawn_blocking(|| ());
            let written = timeout(DEADLINE, written).await;
            written.expect("a thread is free").unwrap();
            drop(closed);
        });
    }

    #[test]
    fn slow_look_ups_of_one_framework_leave_slots_to_others() {
        let slots = FairSlots::new(4);
        let (busy, other) = ((&slots, FrameworkId(1)), (&slots, FrameworkId(2)));
        let limit = Duration::from_millis(20);
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        run(4, async {
            for _ in 0..2 {
                let slow = blocking(busy, limit, slow(&gate)).await;
                let why = slow.unwrap_err().to_string();
                assert_eq!(why, "name servers have not answered for 20ms");
            }
            // The time that one waits for its slot does not count.
            let slow = blocking(busy, limit, slow(&gate));
            let waited = timeout(Duration::from_millis(200), slow).await;
            assert!(waited.is_err(), "both slots are in use");
            let quick = timeout(DEADLINE, blocking(other, DEADLINE, || Ok(7))).await;
            assert_eq!(quick.expect("a slot is free").unwrap(), 7);
            drop(closed);
            let after = timeout(DEADLINE, blocking(busy, DEADLINE, || Ok(8))).await;
            assert_eq!(after.expect("a slot is free").unwrap(), 8);
        });
    }

    #[tokio::test]
    async fn addresses_are_not_looked_up_and_names_are() {
        for (host, expected) in [
            ("192.0.2.1", "192.0.2.1:7"),
            ("2001:db8::1", "[2001:db8::1]:7"),
        ] {
            let expected: SocketAddr = expected.parse().unwrap();
            assert_eq!(
                addresses_of(host, 7, FrameworkId(1)).await.unwrap(),
                [expected]
            );
        }
        let local = addresses_of("localhost", 7, FrameworkId(1)).await.unwrap();
        assert!(local.iter().all(|found| found.ip().is_loopback()));
        assert!(!local.is_empty());
    }
}
