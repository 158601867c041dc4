//! What comes to the owner of the registry, and what it shows readers.

use std::collections::VecDeque;

use argosy_proto::v1;
use argosy_state::Registry;
use argosy_state::ids::Timestamp;
use argosy_state::registry::Snapshot;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::leader::{Answer, Input, Leader, LeaderSight};
use crate::links::{LinkId, LinkSender, RequestId};

/// What services send to the owner.
pub(crate) enum Message {
    /// An input that nobody waits for.
    Input(Input),
    /// An input with somebody who waits. Dropping the waiter says that nobody leads here.
    Ask(
        RequestId,
        Box<dyn FnOnce(RequestId) -> Input + Send>,
        oneshot::Sender<Answer>,
    ),
    /// A stream of an agent begins.
    AgentLink(LinkId, LinkSender<v1::ToAgent>),
    /// A stream of a framework begins.
    FrameworkLink(LinkId, LinkSender<v1::Event>),
    /// Asks how late the owner comes to its inbox: it was due at this moment.
    Probe(Instant),
}

/// A bounded look at what the owner has: at most some hundred records and 256 KiB. Looks come on a channel of
/// their own, so that no link's input waits behind them.
pub(crate) type Look = Box<dyn FnOnce(&Facts<'_>) + Send>;

/// What a look sees, within a turn of the owner.
pub(crate) struct Facts<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) leader: Option<&'a Leader>,
    pub(crate) now: Timestamp,
    pub(crate) failovers: &'a VecDeque<v1::Failover>,
}

impl Facts<'_> {
    /// A copy for readers, in constant time.
    pub(crate) fn view(&self) -> View {
        View {
            registry: self.registry.snapshot(),
            leader: self.leader.map(Leader::sight),
            now: self.now,
            failovers: self.failovers.clone(),
            taken: Instant::now(),
        }
    }
}

/// What readers see outside of the owner's turns: the registry as it was after one entry, and what the leader was then.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) registry: Snapshot,
    pub(crate) leader: Option<LeaderSight>,
    pub(crate) now: Timestamp,
    pub(crate) failovers: VecDeque<v1::Failover>,
    pub(crate) taken: Instant,
}

/// Who leads, for services: cheap to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Office {
    /// This process is in office.
    pub(crate) here: bool,
    /// API address of the leader, if another one.
    pub(crate) leader: Option<String>,
    /// The newest reign that this master knows.
    pub(crate) epoch: u64,
    /// The term of that reign.
    pub(crate) term: u64,
}
