//! Construction of a registry from its stored records.

use std::sync::Arc;

use super::key::read_key;
use super::split::{SplitParts, ensure};
use super::{DecodeError, read};
use crate::Registry;
use crate::access::PolicyRecord;
use crate::agent::{Agent, WholeAgent};
use crate::digest::record_mark;
use crate::framework::Framework;
use crate::ids::Timestamp;
use crate::level::Level;
use crate::planted_bug;
use crate::registry::{ClusterRecord, RecordKey};
use crate::secret::SecretName;
use crate::task::Task;

const TRANSITION: &str = "record of a task's transition";
/// The error for a record under the key of another one.
const NAME: &str = "name: it is stored under another one";

impl Registry {
    /// Returns the registry that was stored as `records` after the entry at log index `applied`.
    /// Indexes, marks and digest are computed from the records.
    ///
    /// # Errors
    /// [`DecodeError`] if a record is damaged, misplaced, or of a newer release.
    pub fn load(
        applied: u64,
        records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, DecodeError> {
        let mut registry = Self::new();
        registry.applied = applied;
        let mut parts = SplitParts::default();
        for (key, value) in records {
            let name = read_key(&key)?;
            let mark = record_mark(&key, &value);
            registry.load_record(&name, &value, &mut parts)?;
            let former = registry.marks.insert(name, mark).unwrap_or(0);
            registry.digest = registry.digest.wrapping_add(mark).wrapping_sub(former);
        }
        parts.join(&mut registry)?;
        planted_bug!(StopAfterNotLoaded => registry.lose_stop_after());
        registry.check_references()?;
        registry.index = registry.indexes().ok_or(DecodeError::Invalid {
            what: "stored registry",
            field: "sum of what its tasks use",
        })?;
        registry.check_transition_references()?;
        Ok(registry)
    }

    /// Implements the planted bug `StopAfterNotLoaded`.
    fn lose_stop_after(&mut self) {
        let keys: Vec<_> = self.tasks.keys().cloned().collect();
        for key in keys {
            if let Some(task) = self.tasks.get_mut(&key) {
                Arc::make_mut(&mut task.spec).stop_after_ms = 0;
            }
        }
    }

    /// Checks the references between records on which `apply` relies.
    fn check_references(&self) -> Result<(), DecodeError> {
        let what = "task record";
        for task in self.tasks.values() {
            if !self.agents.contains_key(&task.agent) {
                let field = "agent: there is no record of it";
                return Err(DecodeError::Invalid { what, field });
            }
            if !self.frameworks.contains_key(&task.key.framework) {
                let field = "framework: there is no record of it";
                return Err(DecodeError::Invalid { what, field });
            }
        }
        for (framework, _, _) in self.answers.keys() {
            if !self.frameworks.contains_key(framework) {
                return Err(DecodeError::Invalid {
                    what: "answer record",
                    field: "framework: there is no record of it",
                });
            }
        }
        Ok(())
    }

    /// Checks that each transition is one of a task. The history must be indexed.
    fn check_transition_references(&self) -> Result<(), DecodeError> {
        let mut keys = self.transitions.keys();
        let is_known = |key| self.tasks.contains_key(key) || self.index.history.contains_key(key);
        ensure(
            TRANSITION,
            "task: there is no record of it",
            keys.all(is_known),
        )
    }

    fn load_record(
        &mut self,
        name: &RecordKey,
        value: &[u8],
        parts: &mut SplitParts,
    ) -> Result<(), DecodeError> {
        match name {
            RecordKey::Time => self.time = read_time(value)?,
            RecordKey::Cluster => self.cluster = read_cluster(value)?,
            RecordKey::Agent(id) => {
                let agent = read_agent(value)?;
                ensure("agent record", NAME, agent.id == *id)?;
                self.agents.insert(*id, agent);
            }
            RecordKey::Weight(role) => {
                let weight = read("weight record", value)?;
                self.weights.insert(role.clone(), weight);
            }
            RecordKey::Framework(id) => {
                let framework: Framework = read("framework record", value)?;
                ensure("framework record", NAME, framework.id == *id)?;
                self.frameworks.insert(*id, framework);
            }
            RecordKey::Task(key) => {
                let task: Task = read("task record", value)?;
                ensure("task record", NAME, task.key == *key)?;
                self.tasks.insert(key.clone(), task);
            }
            RecordKey::CallAnswer(..) if planted_bug!(AnswersNotLoaded) => {}
            RecordKey::CallAnswer(framework, session, number) => {
                let answer = read("answer record", value)?;
                self.answers.insert((*framework, *session, *number), answer);
            }
            RecordKey::OperatorAnswer(name) => {
                let answer = read("operator's answer record", value)?;
                self.operator_answers.insert((**name).clone(), answer);
            }
            RecordKey::FinishedTask(_)
            | RecordKey::FinishedFramework(_)
            | RecordKey::TaskTransition(..) => self.load_history(name, value)?,
            RecordKey::Policy
            | RecordKey::Token(_)
            | RecordKey::RevokedKey(_)
            | RecordKey::KeyBinding(_)
            | RecordKey::RateLimit(_) => self.load_access(name, value)?,
            RecordKey::Secret(name) => self.load_secret(name, value)?,
            RecordKey::TaskFacts(_)
            | RecordKey::TaskSpec(_)
            | RecordKey::TaskStatus(_)
            | RecordKey::TaskMessage(_)
            | RecordKey::TaskEndMessage(_)
            | RecordKey::TaskLimits(_)
            | RecordKey::SecondLimits(_)
            | RecordKey::LimitsChange(_)
            | RecordKey::AgentCounters(_)
            | RecordKey::Sweep(_)
            | RecordKey::History
            | RecordKey::AgentReport(_)
            | RecordKey::AgentAdministration(_)
            | RecordKey::AgentStatus(_) => parts.read(name, value)?,
        }
        Ok(())
    }
}

impl Registry {
    /// Loads a record of the past; others are not its part.
    fn load_history(&mut self, name: &RecordKey, value: &[u8]) -> Result<(), DecodeError> {
        match name {
            RecordKey::FinishedTask(serial) => {
                let finished = read("finished task record", value)?;
                self.finished_tasks.insert(*serial, finished);
            }
            RecordKey::FinishedFramework(serial) => {
                let finished = read("removed framework record", value)?;
                self.finished_frameworks.insert(*serial, finished);
            }
            RecordKey::TaskTransition(key, number) => {
                let transition = read(TRANSITION, value)?;
                self.load_transition(key, *number, transition);
            }
            _ => {}
        }
        Ok(())
    }

    fn load_secret(&mut self, name: &SecretName, value: &[u8]) -> Result<(), DecodeError> {
        let secret = read("record of a secret", value)?;
        self.secrets.insert(name.clone(), secret);
        Ok(())
    }

    /// Loads a record of access; others are not its part.
    fn load_access(&mut self, name: &RecordKey, value: &[u8]) -> Result<(), DecodeError> {
        match name {
            RecordKey::Policy => {
                let record: PolicyRecord = read("policy record", value)?;
                self.access.policy = record.policy;
                self.access.policy_revision = Some(record.revision);
            }
            RecordKey::Token(id) => {
                let token = read("token record", value)?;
                self.access.tokens.insert(*id, token);
            }
            RecordKey::RevokedKey(key) => {
                let revoked = read("revoked key record", value)?;
                self.access.revoked.insert(**key, revoked);
            }
            RecordKey::KeyBinding(principal) => {
                let key = read("key binding record", value)?;
                self.access.bindings.insert(principal.clone(), key);
            }
            RecordKey::RateLimit(subject) => {
                let limit = read("rate limit record", value)?;
                self.access.limits.insert((**subject).clone(), limit);
            }
            _ => {}
        }
        Ok(())
    }
}

fn read_agent(value: &[u8]) -> Result<Agent, DecodeError> {
    let agent: WholeAgent = read("agent record", value)?;
    agent.agent().ok_or(DecodeError::Invalid {
        what: "agent record",
        field: "agent mode",
    })
}

/// Reads the stored record of [`RecordKey::Cluster`].
///
/// # Errors
/// [`DecodeError`] if it is damaged, or of a newer release.
pub fn read_cluster(value: &[u8]) -> Result<ClusterRecord, DecodeError> {
    let cluster: ClusterRecord = read("cluster record", value)?;
    if cluster.level > Level::NEWEST {
        return Err(DecodeError::NewerFormat {
            found: cluster.level.0,
        });
    }
    Ok(cluster)
}

/// Reads the stored record of [`RecordKey::Time`].
///
/// # Errors
/// [`DecodeError`] if it is damaged.
pub fn read_time(value: &[u8]) -> Result<Timestamp, DecodeError> {
    read("time record", value)
}
