//! Messages between this agent and its master, as the core works on them. The rim converts them
//! from and to those of the wire (`wire`).

use argosy_host::secret_value::SecretValue;
use argosy_state::access::KeyHash;
use argosy_state::agent::AgentInfo;
use argosy_state::digest::Digests;
use argosy_state::ids::{
    AgentId, ClusterId, Epoch, FrameworkId, InvalidId, OrderIndex, TaskId, TaskKey,
};
use argosy_state::task::{TaskLimits, TaskState};

use super::launch::LaunchOrder;
use super::numbered_update::NumberedUpdate;

#[derive(Debug)]
pub struct MasterMessage {
    /// The cluster of the master, or the reason why it names none.
    pub cluster: Result<ClusterId, InvalidId>,
    pub epoch: Epoch,
    pub body: MasterMessageBody,
}

impl MasterMessage {
    /// Returns whether it registers this agent.
    pub(super) fn registers(&self) -> bool {
        match &self.body {
            MasterMessageBody::Registered(answer) => {
                answer.version_conflict.is_none() && answer.agent.is_ok()
            }
            _ => false,
        }
    }
}

/// The content of a message of a master. A name of a task is `None` if it is invalid.
#[derive(Debug)]
pub enum MasterMessageBody {
    Registered(Registration),
    /// The master refuses this agent.
    Refused {
        code: String,
        text: String,
    },
    Order(Box<Order>),
    /// The registry contains these updates.
    Committed(Vec<CommittedUpdate>),
    /// The answer to a ping.
    Pong {
        serial: u64,
    },
    /// The registry does not know this agent.
    Shutdown {
        reason: String,
    },
    ListTasks,
    /// Kill, without an order, a task that the registry does not contain.
    KillStray {
        key: Option<TaskKey>,
        order: OrderIndex,
    },
    ExecutorMessage {
        executor: Option<TaskKey>,
        data: Vec<u8>,
    },
    TaskSecrets(TaskSecrets),
    /// Keys that are revoked; malformed ones are not among them.
    RevokedKeys(Vec<KeyHash>),
    /// A kind that this release does not know.
    Unknown,
}

/// A key of tickets as the leader sends it. It is kept in memory only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedTicketKey {
    pub number: u32,
    pub secret: SecretValue,
}

/// The secrets of a task by name: each value, or the reason why it is missing. `Err` is the reason
/// why all are refused.
pub type SecretsAnswer = Result<Vec<(String, Result<SecretValue, String>)>, String>;

/// The secrets of the registry for a task that is about to start.
#[derive(Debug)]
pub struct TaskSecrets {
    /// The task; `None` if its name is invalid.
    pub key: Option<TaskKey>,
    /// The order that launched the task.
    pub order: OrderIndex,
    pub answer: SecretsAnswer,
}

/// The answer to a hello.
#[derive(Debug)]
pub struct Registration {
    /// The reason why agent and master have no common version of the protocol.
    pub version_conflict: Option<VersionConflict>,
    /// The id of this agent, or the text in its place.
    pub agent: Result<AgentId, String>,
    pub incarnation: u64,
    pub heartbeat_interval_ms: u64,
    /// The keys of tickets for this agent; none if TLS has not authenticated it.
    pub ticket_keys: Vec<ReceivedTicketKey>,
}

/// The reason why two programs have no common version of the protocol.
#[derive(Debug)]
pub struct VersionConflict {
    pub code: &'static str,
    pub text: String,
}

/// An order of the leader.
#[derive(Debug)]
pub struct Order {
    pub index: OrderIndex,
    pub subject: OrderSubject,
    pub request: OrderRequest,
}

#[derive(Debug)]
pub enum OrderSubject {
    /// None is named: the order cancels another one, or a master of release 0.1 has sent it.
    Unnamed,
    /// A task; `None` if its name is invalid.
    Task(Option<TaskKey>),
    /// A kind that this release does not know.
    Unknown,
}

impl OrderSubject {
    pub(super) fn task(&self) -> Option<&TaskKey> {
        match self {
            Self::Task(key) => key.as_ref(),
            Self::Unnamed | Self::Unknown => None,
        }
    }
}

/// The request of an order, as a master sends it.
#[derive(Debug)]
pub enum OrderRequest {
    /// Launch a task; `None` if it has no valid name.
    Launch(Option<Box<LaunchOrder>>),
    /// Kill a task.
    Kill { key: Option<TaskKey>, grace_ms: u64 },
    /// Change the limits of a task.
    Limits {
        key: Option<TaskKey>,
        /// All limits; `None` means those of the task's resources.
        limits: Option<TaskLimits>,
    },
    /// The orders up to this one were cancelled.
    Void,
    /// A kind that this release does not know.
    Unknown,
}

/// An update that is in the registry.
#[derive(Debug)]
pub struct CommittedUpdate {
    pub key: TaskKey,
    /// The order that launched the task.
    pub order: OrderIndex,
    pub number: u64,
    /// Whether the registry no longer needs the task.
    pub released: bool,
}

/// The first message of this agent on a link.
#[derive(Debug, Clone)]
pub struct Hello {
    pub cluster: Option<ClusterId>,
    /// The restored cluster that this agent follows if a master of it answers.
    pub follows: Option<ClusterId>,
    pub agent: Option<AgentId>,
    /// The last incarnation that a master confirmed; 0 for none.
    pub confirmed: u64,
    /// Incarnations that may have been sent since, newest last.
    pub unconfirmed: Vec<u64>,
    /// The idempotency key of the first registration.
    pub nonce: u64,
    pub boot_id: String,
    pub highest_epoch: Epoch,
    pub info: AgentInfo,
    /// The last order taken.
    pub floor: OrderIndex,
    pub digests: Digests,
}

/// A message to a master.
#[derive(Debug, Clone)]
pub enum AgentMessage {
    Report(Vec<NumberedUpdate>),
    /// A part of the list of all held tasks.
    TaskList {
        floor: OrderIndex,
        tasks: Vec<HeldTask>,
        last: bool,
    },
    Ping {
        serial: u64,
    },
    /// A message of an executor to its framework.
    ExecutorMessage {
        framework: FrameworkId,
        agent: AgentId,
        executor: TaskId,
        data: Vec<u8>,
    },
    /// A request for the secrets of the registry that a task uses.
    SecretsWanted {
        key: TaskKey,
        /// The order that launched the task.
        order: OrderIndex,
    },
    /// An order of an unknown kind: it counts as taken, and nothing was done.
    UnsupportedOrder(OrderIndex),
}

/// A task in the list of held ones.
#[derive(Debug, Clone)]
pub struct HeldTask {
    pub key: TaskKey,
    pub order: OrderIndex,
    /// The newest update that a master reported as committed.
    pub committed: u64,
    pub state: TaskState,
}
