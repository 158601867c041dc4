//! Inputs and effects of a leader.

use std::collections::BTreeMap;

use argosy_proto::v1;
use argosy_state::actor::Actor;
use argosy_state::agent::AgentInfo;
use argosy_state::apply::AppliedProposal;
use argosy_state::command::{
    Acknowledge, AgentUpdate, Call, HeldTask, OfferTerms, Operate, ProposedCommand,
};
use argosy_state::digest::DigestKind;
use argosy_state::encode::DecodeError;
use argosy_state::framework::FrameworkInfo;
use argosy_state::ids::{
    AgentId, ClusterId, Epoch, FrameworkId, OfferId, OrderIndex, Role, TaskId, Timestamp,
};
use argosy_state::level::{Level, LevelRequirement};
use argosy_state::resources::Resources;

use super::messages::FrameworkMessage;
use crate::leader_reply::LeaderReply;
use crate::links::{LinkId, RequestId};

/// The two clocks: cluster time decides, wall time is for display.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaderTime {
    /// Cluster time.
    pub(crate) at: Timestamp,
    /// Milliseconds of the Unix epoch.
    pub(crate) wall_ms: i64,
}

/// An input of a leader. An input of a caller names its actor.
#[derive(Debug)]
pub(crate) enum Input {
    AgentHello {
        link: LinkId,
        /// The actor whose stream it is.
        actor: Actor,
        hello: Box<Hello>,
    },
    AgentReport {
        link: LinkId,
        updates: Vec<AgentUpdate>,
    },
    AgentList {
        link: LinkId,
        floor: OrderIndex,
        held: Vec<HeldTask>,
        last: bool,
    },
    AgentPing {
        link: LinkId,
        serial: u64,
    },
    AgentMessage {
        link: LinkId,
        message: v1::ExecutorMessage,
    },
    AgentClosed {
        link: LinkId,
    },
    Subscribe {
        link: LinkId,
        actor: Actor,
        subscription: Box<SchedulerHello>,
    },
    FrameworkClosed {
        link: LinkId,
    },
    /// A heartbeat of a scheduler.
    FrameworkHeartbeat {
        request: RequestId,
        actor: Actor,
        framework: FrameworkId,
        session: u64,
    },
    /// Unread messages pile up on the stream, or no longer do.
    FrameworkBehind {
        link: LinkId,
        behind: bool,
    },
    Call {
        request: RequestId,
        actor: Actor,
        call: Box<Call>,
        tokens: Vec<Vec<u8>>,
        filter_ms: u64,
    },
    Decline {
        request: RequestId,
        actor: Actor,
        decline: Decline,
    },
    Message {
        request: RequestId,
        actor: Actor,
        message: FrameworkMessage,
    },
    Acknowledge {
        request: RequestId,
        actor: Actor,
        acknowledge: Acknowledge,
    },
    Reconcile {
        request: RequestId,
        actor: Actor,
        reconcile: ReconcileQuery,
    },
    Operate {
        request: RequestId,
        actor: Actor,
        operate: Operate,
    },
    /// Raises the feature level; every member supports it.
    RaiseLevel {
        request: RequestId,
        actor: Actor,
        level: Level,
    },
    Applied(AppliedProposal),
    /// The proposal with this serial contains something that the level of the cluster does not
    /// have.
    BeyondLevel {
        serial: u64,
        need: LevelRequirement,
    },
    /// The proposal with this serial is larger than an entry of the log.
    TooLarge {
        serial: u64,
        bytes: usize,
    },
    /// The proposal with this serial cannot be decoded from its stored form.
    Unreadable {
        serial: u64,
        why: DecodeError,
    },
    Tick,
}

/// An agent's first message.
#[derive(Debug, Clone)]
pub(crate) struct Hello {
    pub(crate) cluster: Option<ClusterId>,
    /// The cluster that it may follow instead of its own, as an operator has confirmed.
    pub(crate) follows: Option<ClusterId>,
    pub(crate) agent: Option<AgentId>,
    pub(crate) confirmed: u64,
    pub(crate) tried: Vec<u64>,
    pub(crate) nonce: u64,
    pub(crate) boot_id: String,
    pub(crate) highest_epoch: Epoch,
    pub(crate) info: AgentInfo,
    pub(crate) floor: OrderIndex,
    /// Digests by the kinds that the agent reports; agents of release 0.1 report tasks only.
    pub(crate) digests: BTreeMap<DigestKind, u128>,
    /// The negotiated protocol version.
    pub(crate) version: u32,
}

/// A scheduler's first message.
#[derive(Debug, Clone)]
pub(crate) struct SchedulerHello {
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) framework: Option<FrameworkId>,
    pub(crate) session: u64,
    /// The session that it replaces, 0 if it knows of none; `None`: any.
    pub(crate) replaces: Option<u64>,
    pub(crate) info: FrameworkInfo,
    pub(crate) held: Vec<(OfferTerms, Vec<u8>)>,
    pub(crate) filters: Vec<PresentedFilter>,
    /// The negotiated protocol version.
    pub(crate) version: u32,
    /// Whether it sends heartbeats: then silence ends its stream.
    pub(crate) sends_heartbeats: bool,
}

/// A decline still in force, as the framework presents it.
#[derive(Debug, Clone)]
pub(crate) struct PresentedFilter {
    pub(crate) agent: AgentId,
    pub(crate) role: Role,
    pub(crate) resources: Resources,
    pub(crate) remaining_ms: u64,
}

/// Offers that a framework declines.
#[derive(Debug, Clone)]
pub(crate) struct Decline {
    pub(crate) framework: FrameworkId,
    pub(crate) session: u64,
    pub(crate) offers: Vec<OfferId>,
    pub(crate) filter_ms: u64,
    pub(crate) reason: (String, String),
}

/// A reconciliation request for tasks.
#[derive(Debug, Clone)]
pub(crate) struct ReconcileQuery {
    pub(crate) framework: FrameworkId,
    pub(crate) session: u64,
    /// At most [`argosy_state::limits::RECORDS_PER_COMMAND`]; an empty list means all tasks that
    /// have not ended.
    pub(crate) tasks: Vec<TaskId>,
    /// If all tasks are requested, those after this one.
    pub(crate) after: Option<TaskId>,
    pub(crate) next_number: u64,
}

/// An effect of a leader's decisions; the replica performs effects in order.
#[derive(Debug)]
pub(crate) enum Effect {
    Propose(Box<ProposedCommand>),
    ToAgent(LinkId, Box<v1::ToAgent>),
    ToFramework(LinkId, Box<v1::Event>),
    CloseAgent(LinkId),
    CloseFramework(LinkId),
    Answer(RequestId, LeaderReply),
    /// Transfers leadership: too many agents fell silent within one timeout, so this master may be
    /// cut off.
    TransferLeadership,
}
