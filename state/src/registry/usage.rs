//! The estimated memory of records, and the bounds on it. Counters are updated with every change;
//! the records are never scanned.

use std::collections::BTreeSet;

use super::index::Sign;
use super::{Indexes, OperatorAnswer, Registry};
use crate::agent::Agent;
use crate::framework::Framework;
use crate::ids::{FrameworkId, Role, TaskKey};
use crate::limits;
use crate::resources::Resources;
use crate::secret::{SealedSecret, SecretName};
use crate::task::{Cause, Task, TaskLimits, TaskState};

/// The estimated cost of a record without its texts and lists: keys, indexes, marks, numbers.
const RECORD_BYTES: u64 = 1024;
/// The estimated cost of a small part of a record: an entry of a map, a resource, a limit of a
/// disk.
const PART_BYTES: u64 = 64;
/// The estimated cost of a transition of a task: the fact, the name of its record, and its mark.
pub(crate) const TRANSITION_BYTES: u64 = 128;

/// The bytes of all records of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ByteUsage {
    pub(crate) tasks: u64,
    pub(crate) history: u64,
    pub(crate) frameworks: u64,
    pub(crate) agents: u64,
    pub(crate) operator_answers: u64,
    pub(crate) secrets: u64,
}

/// The remembered answers to the batches of one operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct AnswerUsage {
    pub(crate) records: usize,
    pub(crate) bytes: u64,
}

/// The usage of a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundUsage {
    /// The kind of record.
    pub kind: &'static str,
    /// The number of records.
    pub records: u64,
    /// The bound on the number of records; `None` if only their bytes are bounded.
    pub most_records: Option<u64>,
    /// The estimated memory and its bound, in bytes; `None` if each record has a small bound and
    /// only their number counts.
    pub bytes: Option<(u64, u64)>,
}

impl BoundUsage {
    pub(super) fn of(
        kind: &'static str,
        records: usize,
        most: Option<usize>,
        bytes: Option<(u64, u64)>,
    ) -> Self {
        Self {
            kind,
            records: records as u64,
            most_records: most.map(|most| most as u64),
            bytes,
        }
    }
}

impl Registry {
    /// Returns usage and bounds of each kind of record. The cost does not grow with the registry.
    #[must_use]
    pub fn usage(&self) -> [BoundUsage; 14] {
        let bytes = &self.index.bytes;
        let usage = BoundUsage::of;
        let [rules, tokens, revoked_keys, key_bindings, rate_limits] = self.access_usage();
        [
            usage(
                "tasks",
                self.tasks.len(),
                None,
                Some((bytes.tasks, limits::TASK_BYTES)),
            ),
            usage(
                "finished_tasks",
                self.finished_tasks.len(),
                Some(limits::FINISHED_TASKS),
                Some((bytes.history, limits::FINISHED_TASK_BYTES)),
            ),
            usage(
                "frameworks",
                self.frameworks.len(),
                Some(limits::FRAMEWORKS),
                Some((bytes.frameworks, limits::FRAMEWORK_BYTES)),
            ),
            usage(
                "finished_frameworks",
                self.finished_frameworks.len(),
                Some(limits::FINISHED_FRAMEWORKS),
                None,
            ),
            usage(
                "agents",
                self.agents.len(),
                Some(limits::AGENTS),
                Some((bytes.agents, limits::AGENT_BYTES)),
            ),
            usage("weights", self.weights.len(), Some(limits::WEIGHTS), None),
            usage("answers", self.answers.len(), Some(limits::ANSWERS), None),
            usage(
                "operator_answers",
                self.operator_answers.len(),
                Some(limits::OPERATOR_ANSWERS),
                Some((bytes.operator_answers, limits::OPERATOR_ANSWER_BYTES)),
            ),
            usage(
                "secrets",
                self.secrets.len(),
                Some(limits::SECRETS),
                Some((bytes.secrets, limits::SECRET_BYTES)),
            ),
            rules,
            tokens,
            revoked_keys,
            key_bindings,
            rate_limits,
        ]
    }

    /// Returns the bytes of a framework's tasks.
    pub(crate) fn task_bytes_of(&self, id: FrameworkId) -> u64 {
        let index = self.index.frameworks.get(&id);
        index.map_or(0, |index| index.task_bytes)
    }
}

impl Indexes {
    /// Adds or removes a task in the counts by state and of unacknowledged updates.
    pub(super) fn count_state(&mut self, state: TaskState, unacknowledged: usize, sign: Sign) {
        let count = self.states.entry(state).or_default();
        sign.count(count);
        if *count == 0 {
            self.states.remove(&state);
        }
        match sign {
            Sign::Add => self.unacknowledged += unacknowledged,
            Sign::Remove => self.unacknowledged -= unacknowledged,
        }
    }

    /// Adds or subtracts the bytes of a task.
    pub(super) fn weigh_task(&mut self, task: &Task, sign: Sign) {
        let bytes = of_task(task);
        let framework = self.frameworks.or_default(task.key.framework);
        sign.bytes(&mut framework.task_bytes, bytes);
        sign.bytes(&mut self.bytes.tasks, bytes);
    }

    /// Updates the counters after a change of a task's bytes outside of its description.
    pub(super) fn weigh_change(&mut self, task: &Task, former: u64) {
        let present = of_changes(task);
        if present == former {
            return;
        }
        let framework = self.frameworks.or_default(task.key.framework);
        for bytes in [&mut framework.task_bytes, &mut self.bytes.tasks] {
            Sign::Remove.bytes(bytes, former);
            Sign::Add.bytes(bytes, present);
        }
    }

    /// Adds or subtracts the bytes of transitions of a task that is not in the history.
    pub(super) fn weigh_transitions(&mut self, key: &TaskKey, count: usize, sign: Sign) {
        let bytes = of_transitions(count);
        let framework = self.frameworks.or_default(key.framework);
        sign.bytes(&mut framework.task_bytes, bytes);
        sign.bytes(&mut self.bytes.tasks, bytes);
    }

    /// Updates the counter after a change of the roles that a framework has suppressed.
    pub(crate) fn weigh_suppressed(&mut self, former: &BTreeSet<Role>, present: &BTreeSet<Role>) {
        let bytes = &mut self.bytes.frameworks;
        Sign::Remove.bytes(bytes, of_roles(former));
        Sign::Add.bytes(bytes, of_roles(present));
    }

    pub(super) fn weigh_answer(
        &mut self,
        name: &(String, String),
        answer: &OperatorAnswer,
        sign: Sign,
    ) {
        let texts = answer.outcomes.iter().map(|outcome| {
            let text = outcome.as_ref().map_or(0, |refusal| refusal.bytes() as u64);
            PART_BYTES + text
        });
        let bytes = RECORD_BYTES + (name.0.len() + name.1.len()) as u64 + texts.sum::<u64>();
        sign.bytes(&mut self.bytes.operator_answers, bytes);
        let own = self.answers_by_principal.or_default(name.0.clone());
        sign.count(&mut own.records);
        sign.bytes(&mut own.bytes, bytes);
        if own.records == 0 {
            self.answers_by_principal.remove(&name.0);
        }
    }
}

/// Returns the largest size of an answer to a batch of `operations` operations.
pub(crate) fn most_of_answer(operations: usize) -> u64 {
    let texts = operations as u64 * (PART_BYTES + limits::REFUSAL_BYTES as u64);
    RECORD_BYTES + 2 * limits::NAME_BYTES as u64 + texts
}

/// Returns the bytes of a task that has just been launched.
pub(crate) fn of_spec(spec: &crate::task::TaskSpec) -> u64 {
    let executor = spec.executor.as_ref();
    RECORD_BYTES
        + spec.size_without_limits() as u64
        + of_resources(&spec.resources)
        + executor.map_or(0, |executor| of_resources(&executor.resources))
        + spec.limits.as_deref().map_or(0, of_limits)
}

pub(crate) fn of_task(task: &Task) -> u64 {
    let limits = task.spec.limits.as_deref().map_or(0, of_limits);
    of_spec(&task.spec) - limits + of_changes(task)
}

/// Returns the bytes of the variable parts of a task: limits and updates.
pub(super) fn of_changes(task: &Task) -> u64 {
    let change = task.limits_change.as_ref();
    let before = change.and_then(|change| change.before.as_deref());
    let limits = [task.spec.limits.as_deref(), before];
    let refusal = change.and_then(|change| change.outcome.as_ref()?.as_ref().err());
    let updates = std::iter::once(&task.latest).chain(&task.unacknowledged);
    limits.into_iter().flatten().map(of_limits).sum::<u64>()
        + refusal.map_or(0, |text| text.len() as u64)
        + change.map_or(0, |change| of_causes(&change.causes))
        + updates
            .map(|update| update.message.len() as u64 + of_causes(&update.causes))
            .sum::<u64>()
}

/// Returns the bytes of transitions.
pub(super) fn of_transitions(count: usize) -> u64 {
    count as u64 * TRANSITION_BYTES
}

fn of_causes(causes: &[Cause]) -> u64 {
    let each = causes.iter().map(|cause| PART_BYTES + cause.bytes() as u64);
    each.sum()
}

/// Returns the bytes of limits.
pub(crate) fn of_limits(limits: &TaskLimits) -> u64 {
    let disks = limits.io.iter();
    PART_BYTES
        + disks
            .map(|disk| PART_BYTES + disk.disk.len() as u64)
            .sum::<u64>()
}

pub(crate) fn of_agent(agent: &Agent) -> u64 {
    let info = &agent.report.info;
    let texts = [
        &info.host_name,
        &info.address,
        &info.version,
        &info.isolation,
        &agent.report.boot_id,
    ];
    let texts = texts
        .into_iter()
        .chain(&info.missing_controllers)
        .chain(&info.capabilities);
    RECORD_BYTES
        + info.capabilities.len() as u64 * PART_BYTES
        + texts.map(|text| text.len() as u64).sum::<u64>()
        + of_texts(&info.attributes)
        + of_texts(&agent.admin.attributes)
        + of_resources(&info.resources)
}

pub(crate) fn of_framework(framework: &Framework) -> u64 {
    let info = &framework.info;
    let texts = [&info.name, &info.user, &info.principal, &info.web_url];
    let texts = texts.into_iter().chain(&info.capabilities);
    RECORD_BYTES
        + texts.map(|text| text.len() as u64).sum::<u64>()
        + info.capabilities.len() as u64 * PART_BYTES
        + of_texts(&info.labels)
        + of_roles(&info.roles)
        + of_roles(&framework.suppressed)
        // Each session is indexed by its principal.
        + framework.past_sessions.len() as u64 * (PART_BYTES + info.principal.len() as u64)
}

/// Returns the bytes of the roles that a framework has, or has suppressed.
fn of_roles(roles: &BTreeSet<Role>) -> u64 {
    let roles = roles.iter();
    roles
        .map(|role| PART_BYTES + role.as_str().len() as u64)
        .sum()
}

/// Returns the bytes of a secret.
pub(crate) fn of_secret(name: &SecretName, secret: &SealedSecret) -> u64 {
    let texts = name.as_str().len() + secret.key_id.len() + secret.ciphertext.0.len();
    RECORD_BYTES + texts as u64
}

fn of_texts(texts: &crate::command::Labels) -> u64 {
    let parts = texts.iter();
    parts
        .map(|(name, value)| PART_BYTES + (name.len() + value.len()) as u64)
        .sum()
}

fn of_resources(resources: &Resources) -> u64 {
    use crate::resources::Value;
    let parts = resources.iter().map(|resource| {
        let identity = &resource.identity;
        let reservations = identity.reservations.iter().map(|level| {
            let texts = level.role.as_str().len() + level.principal.len();
            PART_BYTES + texts as u64 + of_texts(&level.labels)
        });
        let volume = identity.volume.as_ref();
        let volume = volume.map_or(0, |volume| volume.id.len() + volume.container_path.len());
        let amount = match &resource.value {
            Value::Scalar(_) => 0,
            Value::Ranges(ranges) => 16 * ranges.len() as u64,
            Value::Set(items) => items
                .iter()
                .map(|item| PART_BYTES + item.len() as u64)
                .sum(),
        };
        PART_BYTES + (identity.name.len() + volume) as u64 + reservations.sum::<u64>() + amount
    });
    parts.sum()
}
