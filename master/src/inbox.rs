//! What comes to the owner of the registry, and what it shows those who ask.

use std::collections::VecDeque;

use argosy_proto::v1;
use argosy_state::Registry;
use argosy_state::ids::Timestamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::leader::{Answer, Input, Leader};
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

/// A bounded look at the facts: at most some hundred records and 256 KiB. Looks come on a channel of
/// their own, so that no link's input waits behind them.
pub(crate) type Look = Box<dyn FnOnce(&View<'_>) + Send>;

/// What a read sees.
pub(crate) struct View<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) leader: Option<&'a Leader>,
    pub(crate) now: Timestamp,
    pub(crate) failovers: &'a VecDeque<v1::Failover>,
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
