//! Messages to the owner of the registry, and the state that it publishes for readers.

use std::collections::VecDeque;

use argosy_proto::trace::TraceContext;
use argosy_proto::v1;
use argosy_state::Registry;
use argosy_state::ids::Timestamp;
use argosy_state::registry::RegistrySnapshot;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::leader::{Input, Leader, LeaderView};
use crate::leader_reply::LeaderReply;
use crate::links::{LinkId, LinkSender, RequestId};

/// Messages from services to the owner.
pub(crate) enum OwnerMessage {
    /// An input for which no caller waits.
    Input(Input),
    /// The same, and the id of its request.
    TracedInput(Input, Option<TraceContext>),
    /// An input for which a caller waits, and the id of its request. Dropping the sender reports
    /// that this master does not lead.
    Ask(
        RequestId,
        Box<dyn FnOnce(RequestId) -> Input + Send>,
        oneshot::Sender<LeaderReply>,
        Option<TraceContext>,
    ),
    /// A new stream of an agent.
    AgentLink(LinkId, LinkSender<v1::ToAgent>),
    /// A new stream of a framework.
    FrameworkLink(LinkId, LinkSender<v1::Event>),
    /// A probe of the owner's lag; it was due at this moment.
    Probe(Instant),
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
