//! Look-ups of host names.
//!
//! A look-up blocks a thread until name servers answer, which may take half a minute, and nothing
//! ends it earlier. Downloads write to their files on the same threads, so a part of these is left
//! to them: tasks that name slow name servers must not delay the files of others.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use tokio::sync::Semaphore;

/// The number of look-ups at a time; others wait.
pub(crate) const LOOKUPS_AT_ONCE: usize = 24;

/// The limit of [`LOOKUPS_AT_ONCE`]. Of the process, as the threads are.
static PERMITS: Semaphore = Semaphore::const_new(LOOKUPS_AT_ONCE);

/// Returns the addresses of a host, which is a name or an address.
pub(super) async fn addresses_of(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let host = host.to_owned();
    let look_up = move || -> io::Result<Vec<SocketAddr>> {
        let found = (host.as_str(), port).to_socket_addrs()?;
        Ok(found.collect())
    };
    blocking(&PERMITS, look_up).await
}

/// Runs blocking work with one of these permits.
async fn blocking<T: Send + 'static>(
    permits: &'static Semaphore,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let permit = permits.acquire().await.map_err(io::Error::other)?;
    let done = tokio::task::spawn_blocking(move || {
        // Held until the thread is free, also if nothing waits for the result any more.
        let _permit = permit;
        work()
    });
    done.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// The timeout for events that must happen.
    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn slow_look_ups_leave_threads_to_the_writes_of_downloads() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(2)
            .enable_time()
            .build()
            .unwrap();
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        runtime.block_on(async {
            // Their callers stop waiting, as at the timeout of a connection.
            for _ in 0..4 {
                let gate = Arc::clone(&gate);
                let slow = blocking(&ONE, move || {
                    drop(gate.lock());
                    Ok(())
                });
                let waited = timeout(Duration::from_millis(20), slow).await;
                assert!(waited.is_err(), "name servers do not answer");
            }
            let written = tokio::task::spawn_blocking(|| ());
            let written = timeout(DEADLINE, written).await;
            written.expect("a thread is free").unwrap();
        });
        drop(closed);
    }

    #[tokio::test]
    async fn addresses_are_not_looked_up_and_names_are() {
        for (host, expected) in [
            ("192.0.2.1", "192.0.2.1:7"),
            ("2001:db8::1", "[2001:db8::1]:7"),
        ] {
            let expected: SocketAddr = expected.parse().unwrap();
            assert_eq!(addresses_of(host, 7).await.unwrap(), [expected]);
        }
        let local = addresses_of("localhost", 7).await.unwrap();
        assert!(local.iter().all(|found| found.ip().is_loopback()));
        assert!(!local.is_empty());
    }
}
