//! Sockets from an agent to its broker.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use argosy_isolation::service::Packets;

use super::client::gone;
use super::link;
use super::operations::Performed;
use super::request::Request;
use super::server::Said;

/// Sockets to a broker, each for one request at a time.
pub(crate) struct Connections {
    /// A lock, since requests come from many blocking threads.
    idle: Mutex<Vec<Packets>>,
    returned: Condvar,
    /// Whether a request was not answered.
    is_lost: AtomicBool,
}

impl Connections {
    pub(super) fn new(idle: Vec<Packets>) -> Self {
        Self {
            idle: Mutex::new(idle),
            returned: Condvar::new(),
            is_lost: AtomicBool::new(false),
        }
    }

    /// Whether the broker has ended, as far as requests have shown. True before the first of them fails for it.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::SeqCst)
    }

    /// Waits for a socket, and for the reply.
    pub(super) fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Performed {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let packets = loop {
            match idle.pop() {
                Some(packets) => break packets,
                None => {
                    let waited = self.returned.wait(idle);
                    idle = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(idle);
        let answered = link::send(&packets, request, descriptors)
            .and_then(|()| link::receive::<Said>(&packets));
        if !matches!(answered, Ok(Some(_))) {
            self.is_lost.store(true, Ordering::SeqCst);
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is closed fails at once; and the agent ends as its broker has.
        idle.push(packets);
        drop(idle);
        self.returned.notify_one();
        match answered {
            Ok(Some((said, descriptors))) => said.map(|reply| (reply, descriptors)),
            Ok(None) => Err(gone()),
            Err(error) => Err(format!("{}: {error}", gone())),
        }
    }
}
