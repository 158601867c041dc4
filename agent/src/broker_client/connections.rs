//! Sockets from an agent to its broker.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argosy_host::process::has_ended;
use argosy_isolation::division::ForkedChild;
use argosy_isolation::service::PacketSocket;

use super::link::{self, PreparedMessage};
use super::request::{BrokerRequest, OperationResult, ReplyResult};

/// The interval at which a waiting request checks whether to give up.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// The time in which a broker exits once its agent closes the connection, unless it is stopped: it
/// gives each of its helpers a second.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Sockets to a broker, each for one request at a time.
pub(crate) struct BrokerConnections {
    /// A lock, since requests come from many blocking threads.
    idle: Mutex<Vec<BrokerSocket>>,
    returned: Condvar,
    /// Whether a request was not answered.
    is_lost: AtomicBool,
    /// False from a heartbeat timeout until the next reply.
    responds: AtomicBool,
    /// Set when the agent shuts down: requests then fail while the broker does not respond.
    is_ending: AtomicBool,
    process: Option<BrokerProcess>,
}

/// The broker's process.
pub(super) struct BrokerProcess {
    /// The socket whose close ends it.
    control: Arc<PacketSocket>,
    handle: OwnedFd,
}

impl BrokerProcess {
    pub(super) fn of(broker: &ForkedChild, control: &Arc<PacketSocket>) -> io::Result<Self> {
        Ok(Self {
            control: Arc::clone(control),
            handle: broker.handle.try_clone()?,
        })
    }
}

struct BrokerSocket {
    packets: PacketSocket,
    /// True while the reply to an abandoned request is pending.
    has_pending_reply: bool,
}

/// Timeout policy of a request to an unresponsive broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeoutPolicy {
    /// Waits, unless the agent is shutting down.
    Wait,
    /// Fails: for statistics.
    FailFast,
}

/// Outcome of waiting for a reply.
enum WaitOutcome {
    Readable,
    TimedOut,
}

impl BrokerConnections {
    pub(super) fn new(idle: Vec<PacketSocket>) -> Self {
        let sockets = idle.into_iter().map(|packets| BrokerSocket {
            packets,
            has_pending_reply: false,
        });
        Self {
            idle: Mutex::new(sockets.collect()),
            returned: Condvar::new(),
            is_lost: AtomicBool::new(false),
            responds: AtomicBool::new(true),
            is_ending: AtomicBool::new(false),
            process: None,
        }
    }

    /// Adds the process that [`Self::close`] ends.
    pub(super) fn to(self, process: Option<BrokerProcess>) -> Self {
        Self { process, ..self }
    }

    /// Ends the broker and waits until it has exited, unless it is stopped.
    pub(super) fn close(&self) {
        let Some(process) = &self.process else { return };
        process.control.close();
        if self.responds.load(Ordering::SeqCst) {
            // The agent exits in any case.
            let _ = has_ended(&process.handle, EXIT_TIMEOUT);
        }
    }

    /// Whether the broker has ended, as far as requests have shown. It is set before the first
    /// request fails for that reason.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::SeqCst)
    }

    pub(super) fn set_responds(&self, responds: bool) {
        self.responds.store(responds, Ordering::SeqCst);
    }

    /// Marks the agent as ending: it no longer acts on results, and the next run determines what
    /// was done.
    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
    }

    /// Waits for a socket, and for the reply.
    pub(super) fn request(
        &self,
        request: &BrokerRequest,
        descriptors: &[BorrowedFd<'_>],
        timeout: TimeoutPolicy,
    ) -> OperationResult {
        // A request that is too long is not sent, and the broker serves the next one.
        let request = link::prepare(request);
        let request =
            request.map_err(|why| format!("the request cannot be sent to the broker: {why}"))?;
        let Some(mut socket) = self.take(timeout) else {
            return Err(unresponsive());
        };
        let answered = self.exchange(&mut socket, &request, descriptors, timeout);
        if answered.is_err() {
            self.is_lost.store(true, Ordering::SeqCst);
            // From now on the agent acts on nothing. If the broker has not ended, it does now, and
            // the agent with it.
            if let Some(process) = &self.process {
                process.control.close();
            }
        }
        // A closed socket fails immediately.
        self.lock().push(socket);
        self.returned.notify_one();
        match answered {
            Ok(Some((result, descriptors))) => result.map(|reply| (reply, descriptors)),
            Ok(None) => Err(unresponsive()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(connection_lost()),
            Err(error) => Err(format!("{}: {error}", connection_lost())),
        }
    }

    /// Returns `None` if the wait was abandoned.
    fn take(&self, policy: TimeoutPolicy) -> Option<BrokerSocket> {
        let mut idle = self.lock();
        loop {
            if let Some(socket) = idle.pop() {
                return Some(socket);
            }
            if self.timed_out(policy) {
                return None;
            }
            let waited = self.returned.wait_timeout(idle, CHECK_INTERVAL);
            idle = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns the reply; `None` if the wait was abandoned.
    fn exchange(
        &self,
        socket: &mut BrokerSocket,
        request: &PreparedMessage<'_, BrokerRequest>,
        descriptors: &[BorrowedFd<'_>],
        timeout: TimeoutPolicy,
    ) -> io::Result<Option<(ReplyResult, Vec<OwnedFd>)>> {
        let receive = |socket: &mut BrokerSocket| {
            if let WaitOutcome::TimedOut = self.wait(socket, timeout)? {
                return Ok(None);
            }
            let received = link::receive::<ReplyResult>(&socket.packets)?;
            socket.has_pending_reply = false;
            received
                .map(Some)
                .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        if socket.has_pending_reply && receive(socket)?.is_none() {
            return Ok(None);
        }
        request.send(&socket.packets, descriptors)?;
        socket.has_pending_reply = true;
        receive(socket)
    }

    fn wait(&self, socket: &BrokerSocket, policy: TimeoutPolicy) -> io::Result<WaitOutcome> {
        loop {
            if socket.packets.is_readable(CHECK_INTERVAL)? {
                return Ok(WaitOutcome::Readable);
            }
            if self.timed_out(policy) {
                return Ok(WaitOutcome::TimedOut);
            }
        }
    }

    fn timed_out(&self, policy: TimeoutPolicy) -> bool {
        !self.responds.load(Ordering::SeqCst)
            && (policy == TimeoutPolicy::FailFast || self.is_ending.load(Ordering::SeqCst))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<BrokerSocket>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unresponsive() -> String {
    "the broker of this agent does not respond".to_owned()
}

pub(super) fn connection_lost() -> String {
    "the broker of this agent has ended".to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::request::BrokerReply;
    use super::*;
    use crate::core::ContainerName;

    #[test]
    fn abandoned_replies_do_not_answer_later_requests() {
        let (ours, theirs) = PacketSocket::pair().unwrap();
        let connections = BrokerConnections::new(vec![ours]);
        connections.set_responds(false);
        let given_up =
            connections.request(&BrokerRequest::CountLaunchers, &[], TimeoutPolicy::FailFast);
        assert_eq!(given_up.unwrap_err(), unresponsive());
        assert!(!connections.is_lost());
        let serving = std::thread::spawn(move || {
            for number in 1..=2 {
                link::receive::<BrokerRequest>(&theirs).unwrap().unwrap();
                let result: ReplyResult = Ok(BrokerReply::Number(number));
                link::send(&theirs, &result, &[]).unwrap();
            }
        });
        connections.set_responds(true);
        let asked = connections.request(&BrokerRequest::CountLaunchers, &[], TimeoutPolicy::Wait);
        let (reply, _) = asked.unwrap();
        assert!(matches!(reply, BrokerReply::Number(2)), "{reply:?}");
        serving.join().unwrap();
    }

    #[test]
    fn requests_to_a_hung_broker_wait_until_shutdown() {
        let (ours, _theirs) = PacketSocket::pair().unwrap();
        let connections = BrokerConnections::new(vec![ours]);
        connections.set_responds(false);
        std::thread::scope(|scope| {
            // The second one waits for the socket of the first.
            let ask = || {
                connections.request(
                    &BrokerRequest::NewNetworkNamespace,
                    &[],
                    TimeoutPolicy::Wait,
                )
            };
            let asked = [scope.spawn(ask), scope.spawn(ask)];
            std::thread::sleep(3 * CHECK_INTERVAL);
            assert!(asked.iter().all(|asked| !asked.is_finished()));
            connections.end();
            for asked in asked {
                assert_eq!(asked.join().unwrap().unwrap_err(), unresponsive());
            }
        });
    }

    #[test]
    fn a_request_that_is_too_long_fails_alone() {
        let (ours, theirs) = PacketSocket::pair().unwrap();
        let connections = BrokerConnections::new(vec![ours]);
        let name: ContainerName = "1-2-3".parse().unwrap();
        let long = BrokerRequest::RetainUsers(vec![name; 1 << 20]);
        let failed = connections.request(&long, &[], TimeoutPolicy::Wait);
        let why = failed.unwrap_err();
        assert!(why.contains("is too long"), "{why}");
        assert!(!connections.is_lost());
        let result: ReplyResult = Ok(BrokerReply::Number(1));
        let serving = std::thread::spawn(move || {
            link::receive::<BrokerRequest>(&theirs).unwrap().unwrap();
            link::send(&theirs, &result, &[]).unwrap();
        });
        let asked = connections.request(&BrokerRequest::CountLaunchers, &[], TimeoutPolicy::Wait);
        assert!(matches!(asked.unwrap().0, BrokerReply::Number(1)));
        serving.join().unwrap();
    }

    #[test]
    fn a_disconnected_broker_is_reported_as_lost() {
        let (ours, theirs) = PacketSocket::pair().unwrap();
        let connections = BrokerConnections::new(vec![ours]);
        drop(theirs);
        let asked = connections.request(&BrokerRequest::CountLaunchers, &[], TimeoutPolicy::Wait);
        assert!(asked.unwrap_err().starts_with(&connection_lost()));
        assert!(connections.is_lost());
    }
}
