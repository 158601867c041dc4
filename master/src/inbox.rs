//! Messages to the owner of the registry, and the state that it publishes for readers.

use std::collections::VecDeque;

use argosy_proto::trace::TraceContext;
use argosy_proto::v1;
use argosy_state::Registry;
use argosy_state::ids::Timestamp;
use argosy_state::registry::RegistrySnapshot;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;

use crate::leader::{Input, Leader, LeaderView};
use crate::link_memory::ReservedBytes;
use crate::links::{LinkId, LinkSender, RequestId};
use crate::principal_limits::{CallQueue, CallWaiter, QueuedMessage};

/// Messages from services to the owner.
pub(crate) enum OwnerMessage {
    /// An input for which no caller waits.
    Input(Input),
    /// The same of a message of an agent, whose bytes stay reserved until it is processed.
    AgentInput(Input, ReservedBytes),
    /// The same of a framework's stream, and the id of its request.
    TracedInput(Input, Option<TraceContext>),
    /// An input for which a caller waits, and the id of its request.
    Ask(RequestId, Box<Input>, CallWaiter, Option<TraceContext>),
    /// A new stream of an agent.
    AgentLink(LinkId, LinkSender<v1::ToAgent>),
    /// A new stream of a framework, its subscription, and the id of its request.
    FrameworkLink(
        LinkId,
        LinkSender<v1::Event>,
        Box<Input>,
        Option<TraceContext>,
    ),
    /// A probe of the owner's lag; it was due at this moment.
    Probe(Instant),
}

impl QueuedMessage for OwnerMessage {
    fn waiter(&mut self) -> Option<&mut CallWaiter> {
        match self {
            Self::Ask(_, _, waiter, _) => Some(waiter),
            Self::Input(_)
            | Self::AgentInput(..)
            | Self::TracedInput(..)
            | Self::AgentLink(..)
            | Self::FrameworkLink(..)
            | Self::Probe(_) => None,
        }
    }

    fn into_waiter(self) -> Option<CallWaiter> {
        match self {
            Self::Ask(_, _, waiter, _) => Some(waiter),
            Self::Input(_)
            | Self::AgentInput(..)
            | Self::TracedInput(..)
            | Self::AgentLink(..)
            | Self::FrameworkLink(..)
            | Self::Probe(_) => None,
        }
    }
}

/// The lane of calls.
pub(crate) type OwnerCalls = CallQueue<OwnerMessage>;

/// The owner's end of the two lanes of messages.
pub(crate) struct Inbox {
    /// Messages of agents' streams, and probes. Their senders wait when it is full.
    pub(crate) links: mpsc::Receiver<OwnerMessage>,
    /// Calls and frameworks' streams, in the order in which principals share the owner.
    pub(crate) calls: OwnerCalls,
}

impl Inbox {
    /// Returns the number of waiting messages.
    pub(crate) fn waiting(&self) -> usize {
        self.links.len() + self.calls.waiting()
    }

    /// Waits for messages, and moves at most `most` to `batch`: half of them from each lane if both
    /// have as many. Returns false once there is no sender. It loses nothing if it is cancelled.
    pub(crate) async fn receive(&mut self, batch: &mut Vec<OwnerMessage>, most: usize) -> bool {
        loop {
            let dropped = self.calls.take(batch, most / 2);
            while batch.len() < most {
                match self.links.try_recv() {
                    Ok(message) => batch.push(message),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return !batch.is_empty(),
                }
            }
            if !batch.is_empty() {
                return true;
            }
            if dropped > 0 {
                // Others may wait behind them.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                received = self.links.recv_many(batch, most / 2) => return received > 0,
                () = self.calls.added() => {}
            }
        }
    }
}

/// A bounded query of the owner's state: at most some hundred records and 256 KiB. Queries come on
/// a separate channel, so that no link's input waits behind them.
pub(crate) type StateQuery = Box<dyn FnOnce(&OwnerState<'_>) + Send>;

/// The state that a query sees, within a turn of the owner.
pub(crate) struct OwnerState<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) leader: Option<&'a Leader>,
    pub(crate) now: Timestamp,
    pub(crate) failovers: &'a VecDeque<v1::Failover>,
}

impl OwnerState<'_> {
    /// Returns a copy for readers, in constant time.
    pub(crate) fn view(&self) -> StateView {
        StateView {
            registry: self.registry.snapshot(),
            leader: self.leader.map(Leader::view),
            now: self.now,
            failovers: self.failovers.clone(),
            created_at: Instant::now(),
        }
    }
}

/// The state that readers see outside the owner's turns: the registry after one entry, and the
/// leader's state at that time.
#[derive(Debug)]
pub(crate) struct StateView {
    pub(crate) registry: RegistrySnapshot,
    pub(crate) leader: Option<LeaderView>,
    pub(crate) now: Timestamp,
    pub(crate) failovers: VecDeque<v1::Failover>,
    pub(crate) created_at: Instant,
}

/// The leader status for services; cheap to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LeaderStatus {
    /// Whether this process is the active leader.
    pub(crate) is_local: bool,
    /// API address of the leader, if it is another master.
    pub(crate) leader: Option<String>,
    /// The newest epoch that this master knows.
    pub(crate) epoch: u64,
    /// The term of that epoch.
    pub(crate) term: u64,
}
