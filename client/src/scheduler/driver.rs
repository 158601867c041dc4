//! Requests of a scheduler: queued here, performed by the run.
//!
//! Nothing blocks, and nothing is decided here.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use argosy_proto::v1;
use tokio::sync::{Notify, oneshot};

use super::{CallOutcome, CallResult};

/// Maximum number of open calls. Further ones are answered [`CallOutcome::NotSent`].
pub(crate) const OPEN_CALLS: usize = 4_096;

/// Identifies a call within its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallKey(pub(crate) u64);

impl fmt::Display for CallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call-{}", self.0)
    }
}

/// Offers of one agent and one role, used together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Accept {
    /// Ids of the offers.
    pub offer_ids: Vec<String>,
    /// Operations on the offers, tried in order; each uses what the previous ones left.
    pub operations: Vec<OfferOperation>,
    /// Time for which the rest is not offered again, in milliseconds; `None` means 5,000.
    pub filter_ms: Option<u64>,
    /// Whether all operations are rejected if one part is rejected.
    pub all_or_nothing: bool,
}

/// An operation on the resources of offers.
#[derive(Debug, Clone, PartialEq)]
pub enum OfferOperation {
    /// Launches tasks independently of each other.
    Launch(Vec<v1::TaskSpec>),
    /// Launches 1 to 16 tasks as a group: all of them, or none.
    LaunchGroup {
        /// Id of the group within its framework.
        group_id: String,
        /// Tasks in the order of their start.
        tasks: Vec<v1::TaskSpec>,
    },
}

impl OfferOperation {
    /// Returns the tasks that it launches.
    #[must_use]
    pub fn tasks(&self) -> &[v1::TaskSpec] {
        match self {
            Self::Launch(tasks) | Self::LaunchGroup { tasks, .. } => tasks,
        }
    }
}

impl From<OfferOperation> for v1::Operation {
    fn from(operation: OfferOperation) -> Self {
        let operation = match operation {
            OfferOperation::Launch(tasks) => v1::operation::Operation::Launch(v1::Launch { tasks }),
            OfferOperation::LaunchGroup { group_id, tasks } => {
                v1::operation::Operation::LaunchGroup(v1::LaunchGroup { group_id, tasks })
            }
        };
        Self {
            operation: Some(operation),
        }
    }
}

/// A call in flight. Dropping it changes nothing; the answer also arrives as a callback.
#[derive(Debug)]
pub struct CallHandle {
    /// The key of the call, as in [`CallResult::call`].
    pub key: CallKey,
    answer: oneshot::Receiver<CallResult>,
}

impl CallHandle {
    /// Waits for the answer. Do not await it inside a callback: the answer arrives between
    /// callbacks.
    pub async fn answer(self) -> CallResult {
        let key = self.key;
        let over = |_| CallResult {
            call: key,
            task_ids: Vec::new(),
            outcome: CallOutcome::NotSent("the run has ended".into()),
        };
        self.answer.await.unwrap_or_else(over)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    Accept(CallKey, Accept),
    Decline {
        offer_ids: Vec<String>,
        filter_ms: Option<u64>,
        code: String,
        text: String,
    },
    Kill {
        key: CallKey,
        task_id: String,
        grace_ms: Option<u64>,
    },
    UpdateLimits {
        key: CallKey,
        task_id: String,
        limits: Box<v1::Limits>,
    },
    Acknowledge {
        task_id: String,
        revision: v1::Revision,
    },
    Message {
        agent_id: String,
        executor_id: String,
        data: Vec<u8>,
    },
    Reconcile(CallKey, Vec<String>),
    Suppress(CallKey, Vec<String>),
    Revive(CallKey, Vec<String>),
    UpdateFramework(CallKey, v1::FrameworkInfo),
    Teardown(CallKey),
    TooMany(CallKey, Vec<String>),
    Stop,
}

/// A handle to a running scheduler; cheap to clone, usable from any task or thread.
#[derive(Clone)]
pub struct SchedulerDriver(Arc<Shared>);

struct Shared {
    // A lock, because callbacks and other tasks both make requests; never held across an await.
    queue: Mutex<CommandQueue>,
    wake: Notify,
}

#[derive(Default)]
struct CommandQueue {
    // Bounded by OPEN_CALLS, except for declines, messages and acknowledgements, which the run
    // takes out after every callback and never keeps waiting.
    commands: VecDeque<Command>,
    waiting: BTreeMap<u64, oneshot::Sender<CallResult>>,
    last_key: u64,
    is_closed: bool,
}

impl SchedulerDriver {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::new(CommandQueue::default()),
            wake: Notify::new(),
        }))
    }

    /// Launches tasks on one offer. The rest of it is offered again immediately.
    pub fn accept(&self, offer: &v1::Offer, tasks: Vec<v1::TaskSpec>) -> CallHandle {
        self.accept_with(Accept {
            offer_ids: vec![offer.offer_id.clone()],
            operations: vec![OfferOperation::Launch(tasks)],
            filter_ms: Some(0),
            all_or_nothing: false,
        })
    }

    /// Launches 1 to 16 tasks on one offer. They are started in this order, share a network and a
    /// directory, and end together. The rest of the offer is offered again immediately.
    pub fn launch_group(
        &self,
        offer: &v1::Offer,
        group_id: &str,
        tasks: Vec<v1::TaskSpec>,
    ) -> CallHandle {
        self.accept_with(Accept {
            offer_ids: vec![offer.offer_id.clone()],
            operations: vec![OfferOperation::LaunchGroup {
                group_id: group_id.to_owned(),
                tasks,
            }],
            filter_ms: Some(0),
            all_or_nothing: false,
        })
    }

    /// Performs operations on offers of one agent and role. Of more than
    /// [`TASKS_PER_CALL`](argosy_state::limits::TASKS_PER_CALL) tasks, the first are launched and
    /// the others answered as not launched, unless `all_or_nothing` is set. A group is never
    /// divided.
    pub fn accept_with(&self, accept: Accept) -> CallHandle {
        let task_ids = accept
            .operations
            .iter()
            .flat_map(OfferOperation::tasks)
            .map(|task| task.task_id.clone())
            .collect();
        self.call(task_ids, |key| Command::Accept(key, accept))
    }

    /// Declines an offer; it is not offered again for `filter_ms` (`None`: 5,000) milliseconds.
    pub fn decline(&self, offer: &v1::Offer, filter_ms: Option<u64>) {
        self.decline_because(vec![offer.offer_id.clone()], filter_ms, "", "");
    }

    /// Declines offers with a reason: `code` for machines, `text` for `argosy explain`.
    pub fn decline_because(
        &self,
        offer_ids: Vec<String>,
        filter_ms: Option<u64>,
        code: &str,
        text: &str,
    ) {
        self.push(Command::Decline {
            offer_ids,
            filter_ms,
            code: code.to_owned(),
            text: text.to_owned(),
        });
    }

    /// Kills a task: TERM, and KILL after `grace_ms` (`None`: as the task defines).
    pub fn kill(&self, task_id: &str, grace_ms: Option<u64>) -> CallHandle {
        let task_id = task_id.to_owned();
        self.call(Vec::new(), |key| Command::Kill {
            key,
            task_id,
            grace_ms,
        })
    }

    /// Changes the limits of a task: `limits` replaces all of them. The answer `Done` means that
    /// the masters have committed the change. An update whose `limits` carry the answer's revision,
    /// or a later one, reports whether they are in force, or why not. Limits equal to the present
    /// ones are no change, and cause no update.
    pub fn update_limits(&self, task_id: &str, limits: v1::Limits) -> CallHandle {
        let task_id = task_id.to_owned();
        self.call(Vec::new(), |key| Command::UpdateLimits {
            key,
            task_id,
            limits: Box::new(limits),
        })
    }

    /// Acknowledges that this update, and all before it, is stored; needed with
    /// [`super::AcknowledgeMode::Explicitly`] only. Answers to a reconciliation need none.
    pub fn acknowledge(&self, status: &v1::TaskStatus) {
        if let Some(revision) = status.revision {
            let task_id = status.task_id.clone();
            self.push(Command::Acknowledge { task_id, revision });
        }
    }

    /// Requests the state of tasks (none named: of all that have not ended). The answer arrives as
    /// updates without a revision, before the call is answered. UNKNOWN means that no call made
    /// before this one can still start the task.
    pub fn reconcile(&self, task_ids: Vec<String>) -> CallHandle {
        self.call(Vec::new(), |key| Command::Reconcile(key, task_ids))
    }

    /// Suppresses offers for these roles (none named: all) until [`Self::revive`].
    pub fn suppress(&self, roles: Vec<String>) -> CallHandle {
        self.call(Vec::new(), |key| Command::Suppress(key, roles))
    }

    /// Sends an executor of this framework up to 65,536 bytes, if it can be reached now. Messages
    /// may arrive twice, never, or in another order. A larger one is dropped with a warning, and so
    /// is each one beyond 512 that are being sent.
    pub fn message(&self, agent_id: &str, executor_id: &str, data: Vec<u8>) {
        self.push(Command::Message {
            agent_id: agent_id.to_owned(),
            executor_id: executor_id.to_owned(),
            data,
        });
    }

    /// Requests offers again, including those declined before.
    pub fn revive(&self, roles: Vec<String>) -> CallHandle {
        self.call(Vec::new(), |key| Command::Revive(key, roles))
    }

    /// Changes the description of the framework.
    pub fn update_framework(&self, info: v1::FrameworkInfo) -> CallHandle {
        self.call(Vec::new(), |key| Command::UpdateFramework(key, info))
    }

    /// Removes the framework: its tasks are killed, its id is never reused, and the run ends.
    pub fn teardown(&self) -> CallHandle {
        self.call(Vec::new(), Command::Teardown)
    }

    /// Ends the run once every request so far is answered; the tasks continue.
    pub fn stop(&self) {
        self.push(Command::Stop);
    }

    fn call(&self, task_ids: Vec<String>, command: impl FnOnce(CallKey) -> Command) -> CallHandle {
        let (sender, answer) = oneshot::channel();
        let mut queue = self.lock();
        queue.last_key += 1;
        let key = CallKey(queue.last_key);
        if queue.is_closed {
            // The sender is dropped: the answer is that the call was not sent.
            return CallHandle { key, answer };
        }
        let command = if queue.waiting.len() < OPEN_CALLS {
            command(key)
        } else {
            Command::TooMany(key, task_ids)
        };
        queue.waiting.insert(key.0, sender);
        queue.commands.push_back(command);
        drop(queue);
        self.0.wake.notify_one();
        CallHandle { key, answer }
    }

    fn push(&self, command: Command) {
        let mut queue = self.lock();
        if !queue.is_closed {
            queue.commands.push_back(command);
            drop(queue);
            self.0.wake.notify_one();
        }
    }

    pub(crate) async fn notified(&self) {
        self.0.wake.notified().await;
    }

    pub(crate) fn take_commands(&self) -> VecDeque<Command> {
        std::mem::take(&mut self.lock().commands)
    }

    pub(crate) fn answer(&self, answer: &CallResult) {
        let sender = self.lock().waiting.remove(&answer.call.0);
        if let Some(sender) = sender {
            // There may be no waiter: the callback is called anyway.
            let _ = sender.send(answer.clone());
        }
    }

    /// Stops accepting requests. Waiting callers receive this outcome.
    pub(crate) fn close(&self, outcome: &CallOutcome) {
        let mut queue = self.lock();
        queue.is_closed = true;
        queue.commands.clear();
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        for (key, sender) in waiting {
            let answer = CallResult {
                call: CallKey(key),
                task_ids: Vec::new(),
                outcome: outcome.clone(),
            };
            // There may be no waiter.
            let _ = sender.send(answer);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CommandQueue> {
        self.0
            .queue
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
