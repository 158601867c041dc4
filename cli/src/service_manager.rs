//! Messages to the service manager that has started this process: it serves, it makes progress, it
//! stops.
//!
//! The protocol is that of sd_notify(3): datagrams to the socket that `NOTIFY_SOCKET` names.
//! Without this variable nothing is sent. No message waits: if the service manager does not read,
//! it is lost.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// The variable with the address of the socket, and those of the watchdog: the longest time between
/// two signs of progress, in microseconds, and the process that must send them.
const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";
/// Signs of progress in each period of the watchdog. One that is lost must not end the process.
const SIGNS_PER_PERIOD: u32 = 4;

/// The connection to the service manager.
#[derive(Debug, Clone)]
pub(crate) struct ServiceManager {
    /// None if no service manager waits for messages.
    peer: Option<Arc<Peer>>,
    /// The watchdog's period, if it is enabled for this process.
    watchdog: Option<Duration>,
}

#[derive(Debug)]
struct Peer {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl ServiceManager {
    /// Returns the service manager that the environment names.
    pub(crate) fn from_environment() -> Self {
        Self::named(|name| env::var_os(name)).unwrap_or_else(|error| {
            tracing::warn!(%error, variable = SOCKET, "the service manager gets no messages of this process");
            Self { peer: None, watchdog: None }
        })
    }

    fn named(variable: impl Fn(&str) -> Option<OsString>) -> io::Result<Self> {
        let Some(name) = variable(SOCKET).filter(|name| !name.is_empty()) else {
            return Ok(Self {
                peer: None,
                watchdog: None,
            });
        };
        let address = address(&name)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_ours = number(WATCHDOG_PID).is_none_or(|pid| pid == u64::from(std::process::id()));
        let period = number(WATCHDOG_USEC).filter(|period| *period > 0 && is_ours);
        Ok(Self {
            peer: Some(Arc::new(Peer { socket, address })),
            watchdog: period.map(Duration::from_micros),
        })
    }

    /// Reports what this process does, as text for people.
    pub(crate) fn report_status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    /// Reports that this process serves.
    pub(crate) fn report_ready(&self) {
        self.send("READY=1\nSTATUS=serving");
    }

    /// Reports that this process stops, once `stop` is cancelled.
    pub(crate) async fn report_stop(self, stop: CancellationToken) {
        stop.cancelled().await;
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    /// Sends signs of progress while a loop turns; returns immediately if the watchdog is disabled.
    /// `turns` returns the number of turns so far.
    pub(crate) async fn report_progress(self, turns: impl Fn() -> u64) {
        let Some(period) = self.watchdog else {
            return;
        };
        let mut ticks = tokio::time::interval(period / SIGNS_PER_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = None;
        loop {
            ticks.tick().await;
            let now = Some(turns());
            if now != last {
                last = now;
                self.send("WATCHDOG=1");
            }
        }
    }

    fn send(&self, message: &str) {
        let Some(peer) = &self.peer else {
            return;
        };
        let sent = peer.socket.send_to_addr(message.as_bytes(), &peer.address);
        if let Err(error) = sent {
            tracing::warn!(%error, message, "the service manager does not accept a message");
        }
    }
}

/// Returns the address of a socket in the file system, or, after @, in the abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} is neither an absolute path nor an abstract name",
                name.display()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn manager(variables: &[(&str, &str)]) -> io::Result<ServiceManager> {
        ServiceManager::named(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).into())
        })
    }

    fn bound(directory: &Path) -> (UnixDatagram, String) {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, path.to_str().unwrap().to_owned())
    }

    /// Returns the next message, or none if there is none now.
    fn next(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    #[tokio::test]
    async fn messages_arrive_at_the_socket_that_the_environment_names() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, path) = bound(directory.path());
        let manager = manager(&[(SOCKET, &path)]).unwrap();
        manager.report_status("waiting");
        assert_eq!(next(&socket).unwrap(), "STATUS=waiting");
        manager.report_ready();
        assert_eq!(next(&socket).unwrap(), "READY=1\nSTATUS=serving");
        let stop = CancellationToken::new();
        stop.cancel();
        manager.report_stop(stop).await;
        assert_eq!(next(&socket).unwrap(), "STOPPING=1\nSTATUS=stopping");
    }

    #[test]
    fn messages_arrive_at_an_abstract_address() {
        let name = format!("argosy-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        manager(&[(SOCKET, &format!("@{name}"))])
            .unwrap()
            .report_ready();
        socket.set_nonblocking(true).unwrap();
        assert_eq!(next(&socket).unwrap(), "READY=1\nSTATUS=serving");
    }

    #[tokio::test]
    async fn without_a_socket_nothing_is_sent_and_nothing_fails() {
        for variables in [&[][..], &[(SOCKET, "")], &[(WATCHDOG_USEC, "1000")]] {
            let manager = manager(variables).unwrap();
            assert!(manager.peer.is_none());
            manager.report_ready();
            manager.report_progress(|| 1).await;
        }
        let refused = manager(&[(SOCKET, "vsock:2:1")]).unwrap_err();
        assert!(refused.to_string().contains("absolute path"), "{refused}");
    }

    #[test]
    fn a_service_manager_that_is_gone_stops_no_process() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, path) = bound(directory.path());
        let manager = manager(&[(SOCKET, &path)]).unwrap();
        drop(socket);
        manager.report_ready();
    }

    #[test]
    fn the_watchdog_is_that_of_this_process() {
        let own = std::process::id().to_string();
        let period = |pid: &str, usec: &str| {
            let variables = [
                (SOCKET, "/run/x"),
                (WATCHDOG_PID, pid),
                (WATCHDOG_USEC, usec),
            ];
            manager(&variables).unwrap().watchdog
        };
        assert_eq!(period(&own, "30000000"), Some(Duration::from_secs(30)));
        assert_eq!(period("1", "30000000"), None);
        assert_eq!(period(&own, "0"), None);
        assert_eq!(period(&own, "soon"), None);
    }

    /// Returns the number of messages after this number of looks at a loop, whose turns are a
    /// function of the number of looks.
    async fn messages(looks: u64, turns: impl Fn(u64) -> u64) -> usize {
        let directory = tempfile::tempdir().unwrap();
        let (socket, path) = bound(directory.path());
        let manager = manager(&[(SOCKET, &path), (WATCHDOG_USEC, "4000")]).unwrap();
        let (looked, enough) = (AtomicU64::new(0), CancellationToken::new());
        let reports = manager.report_progress(|| {
            let look = looked.fetch_add(1, Ordering::Relaxed);
            if look == looks {
                enough.cancel();
            }
            turns(look.min(looks - 1))
        });
        enough.run_until_cancelled(reports).await;
        let sent = std::iter::from_fn(|| next(&socket));
        sent.inspect(|message| assert_eq!(message, "WATCHDOG=1"))
            .count()
    }

    #[tokio::test]
    async fn signs_of_progress_end_with_the_turns_of_the_loop() {
        assert_eq!(messages(10, |look| look).await, 10, "it turns");
        assert_eq!(messages(10, |_| 7).await, 1, "it stalls from the start");
        assert_eq!(messages(10, |look| look.min(3)).await, 4, "it stalls later");
    }
}
