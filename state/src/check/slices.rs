//! Invariants in slices: a bounded number of records at a time, in repeated rounds.
//!
//! The registry may change between two slices, so each check is local: a record against itself, the
//! records to which it refers, and its entries in the indexes. Only [`Registry::check`] verifies
//! sums over all records (totals, states, modes, usage of roles, bytes), the indexes by principal,
//! the completeness of task groups, and the validity of transitions, rate limits and the policy.
//! `ONLY_AS_A_WHOLE` in the tests is the whole list.

use std::ops::Bound;

use super::{InvariantViolation, ensure};
use crate::Registry;
use crate::access::TokenId;
use crate::agent::Agent;
use crate::command::SweepTarget;
use crate::framework::Framework;
use crate::ids::{AgentId, FrameworkId, TaskKey, Timestamp};
use crate::registry::DeadlineKind;
use crate::subject::Subject;
use crate::task::Task;

/// The largest number of tasks with which an agent, or a framework that is being removed, is
/// compared. More would make the slice too long.
const MAX_TASKS: usize = 500;

/// The progress of a round of checks. It names records by key, so it stays valid when the registry
/// changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckRound(CheckCursor);

/// The next records to check: a kind of record, and the key after which to continue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum CheckCursor {
    #[default]
    Cluster,
    Sweeps(Option<SweepTarget>),
    Tokens(Option<TokenId>),
    Agents(Option<AgentId>),
    Frameworks(Option<FrameworkId>),
    Tasks(Option<TaskKey>),
    Deadlines(Option<(DeadlineKind, Timestamp, Subject)>),
    Past(ImmutableRecords),
}

/// The kinds of records that never change.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ImmutableRecords {
    OperatorAnswers(Option<(String, String)>),
    FinishedTasks(Option<u64>),
    FinishedFrameworks(Option<u64>),
}

/// The result of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckSlice {
    /// The number of checked records.
    pub records: usize,
    /// The number of records with too many tasks for one slice; these tasks were not summed.
    pub skipped: usize,
    /// Whether the round is complete. The next slice begins a new one.
    pub is_last: bool,
}

impl Registry {
    /// Checks the next records of `round`: `most`, and up to 500 tasks or 1,024 answers of the last
    /// of them.
    ///
    /// # Errors
    /// The first [`InvariantViolation`].
    pub fn check_slice(
        &self,
        round: &mut CheckRound,
        most: usize,
    ) -> Result<CheckSlice, InvariantViolation> {
        let mut slice = CheckSlice::default();
        while slice.records < most {
            let Some(next) = self.check_next(&round.0, &mut slice)? else {
                *round = CheckRound::default();
                slice.is_last = true;
                break;
            };
            round.0 = next;
        }
        Ok(slice)
    }

    /// Checks one record, or continues with the next kind. Returns `None` after the last record.
    fn check_next(
        &self,
        next: &CheckCursor,
        slice: &mut CheckSlice,
    ) -> Result<Option<CheckCursor>, InvariantViolation> {
        slice.records += 1;
        Ok(Some(match next {
            CheckCursor::Cluster => {
                self.check_cluster()?;
                self.check_history()?;
                self.check_access()?;
                CheckCursor::Sweeps(None)
            }
            CheckCursor::Sweeps(after) => {
                match self.cluster.sweeps.range(range_after(after)).next() {
                    Some((target, _)) => {
                        self.check_sweep(target)?;
                        CheckCursor::Sweeps(Some(*target))
                    }
                    None => CheckCursor::Tokens(None),
                }
            }
            CheckCursor::Tokens(after) => {
                match self.access.tokens.range(range_after(after)).next() {
                    Some((id, token)) => {
                        self.check_token(*id, token)?;
                        CheckCursor::Tokens(Some(*id))
                    }
                    None => CheckCursor::Agents(None),
                }
            }
            CheckCursor::Agents(after) => match self.agents.range(range_after(after)).next() {
                Some((id, agent)) => {
                    self.check_agent_alone(agent, slice)?;
                    CheckCursor::Agents(Some(*id))
                }
                None => CheckCursor::Frameworks(None),
            },
            CheckCursor::Frameworks(after) => {
                match self.frameworks.range(range_after(after)).next() {
                    Some((id, framework)) => {
                        self.check_framework_alone(framework, slice)?;
                        CheckCursor::Frameworks(Some(*id))
                    }
                    None => CheckCursor::Tasks(None),
                }
            }
            CheckCursor::Tasks(after) => match self.tasks.range(range_after(after)).next() {
                Some((key, task)) => {
                    self.check_task_alone(task, slice)?;
                    CheckCursor::Tasks(Some(key.clone()))
                }
                None => CheckCursor::Deadlines(None),
            },
            CheckCursor::Deadlines(after) => match self.deadlines().after(after) {
                Some(entry) => {
                    self.check_deadline(entry)?;
                    CheckCursor::Deadlines(Some(entry.clone()))
                }
                None => CheckCursor::Past(ImmutableRecords::OperatorAnswers(None)),
            },
            CheckCursor::Past(past) => return Ok(self.check_past(past)?.map(CheckCursor::Past)),
        }))
    }

    fn check_past(
        &self,
        past: &ImmutableRecords,
    ) -> Result<Option<ImmutableRecords>, InvariantViolation> {
        Ok(Some(match past {
            ImmutableRecords::OperatorAnswers(after) => {
                match self.operator_answers.range(range_after(after)).next() {
                    Some((key, _)) => {
                        let (principal, id) = key.clone();
                        self.check_deadlines_of(&Subject::Request { principal, id }, &key.1)?;
                        ImmutableRecords::OperatorAnswers(Some(key.clone()))
                    }
                    None => ImmutableRecords::FinishedTasks(None),
                }
            }
            ImmutableRecords::FinishedTasks(after) => {
                match self.finished_tasks.range(range_after(after)).next() {
                    Some((serial, finished)) => {
                        self.check_finished_task(finished)?;
                        let key = &finished.task.key;
                        let listed = self.index.history.by_key.get(key);
                        ensure(listed == Some(serial), key, "history is indexed")?;
                        ImmutableRecords::FinishedTasks(Some(*serial))
                    }
                    None => ImmutableRecords::FinishedFrameworks(None),
                }
            }
            ImmutableRecords::FinishedFrameworks(after) => {
                let Some((serial, finished)) =
                    self.finished_frameworks.range(range_after(after)).next()
                else {
                    return Ok(None);
                };
                self.check_finished_framework(finished.id)?;
                ImmutableRecords::FinishedFrameworks(Some(*serial))
            }
        }))
    }

    /// Checks that the deadlines of a record are in the index.
    fn check_deadlines_of(
        &self,
        subject: &Subject,
        what: &impl ToString,
    ) -> Result<(), InvariantViolation> {
        for kind in DeadlineKind::ALL {
            if let Some(at) = self.deadline_of(kind, subject) {
                let is_listed = self.deadlines().has(kind, at, subject);
                ensure(is_listed, what, "its deadlines are indexed")?;
            }
        }
        Ok(())
    }

    /// Checks that an entry of the index is a deadline of a record.
    fn check_deadline(
        &self,
        (kind, at, subject): &(DeadlineKind, Timestamp, Subject),
    ) -> Result<(), InvariantViolation> {
        let is_known = self.deadline_of(*kind, subject) == Some(*at);
        ensure(
            is_known,
            &format!("{subject:?}"),
            "its indexed deadline is in its record",
        )
    }

    fn check_agent_alone(
        &self,
        agent: &Agent,
        slice: &mut CheckSlice,
    ) -> Result<(), InvariantViolation> {
        self.check_agent(agent)?;
        let id = agent.id;
        let listed = self.index.nonces.get(&agent.nonce);
        ensure(listed == Some(&id), &id, "it is found by its nonce")?;
        self.check_deadlines_of(&Subject::Agent(id), &id)?;
        let Some(kept) = self.index.agents.get(&id) else {
            return ensure(false, &id, "it has an index");
        };
        if kept.tasks.len() > MAX_TASKS {
            slice.skipped += 1;
            return Ok(());
        }
        slice.records += kept.tasks.len();
        self.check_usage(id)?;
        let fresh = self.fresh_agent_index(id);
        ensure(
            fresh.as_ref() == Some(kept),
            &id,
            "its index agrees with its tasks",
        )
    }

    fn check_framework_alone(
        &self,
        framework: &Framework,
        slice: &mut CheckSlice,
    ) -> Result<(), InvariantViolation> {
        self.check_framework(framework)?;
        let id = framework.id;
        let Some(kept) = self.index.frameworks.get(&id) else {
            return ensure(false, &id, "it has an index");
        };
        slice.records += kept.answers;
        let answers = self.answers.range((id, 0, 0)..=(id, u64::MAX, u64::MAX));
        ensure(
            answers.count() == kept.answers,
            &id,
            "its answers are counted",
        )?;
        ensure(
            kept.live + kept.ended == kept.tasks.len(),
            &id,
            "its tasks are live or have ended",
        )?;
        let name = framework.info.principal.clone();
        let session = (name, framework.session, id);
        let is_listed = self.index.sessions.contains(&session);
        ensure(is_listed, &id, "it is found by its session")?;
        self.check_deadlines_of(&Subject::Framework(id), &id)?;
        if framework.removing && kept.tasks.len() > MAX_TASKS {
            slice.skipped += 1;
            return Ok(());
        }
        if framework.removing {
            slice.records += kept.tasks.len();
        }
        self.check_leaving(framework)
    }

    fn check_task_alone(
        &self,
        task: &Task,
        slice: &mut CheckSlice,
    ) -> Result<(), InvariantViolation> {
        self.check_task(task)?;
        let key = &task.key;
        let agent = self.index.agents.get(&task.agent);
        let is_named = agent.is_some_and(|index| index.tasks.contains(key));
        ensure(is_named, key, "the index of its agent names it")?;
        let Some(framework) = self.index.frameworks.get(&key.framework) else {
            return ensure(false, key, "its framework has an index");
        };
        let is_named = framework.tasks.contains(&key.task);
        ensure(is_named, key, "the index of its framework names it")?;
        let waits = framework.unacknowledged.contains(&key.task);
        ensure(
            waits != task.unacknowledged.is_empty(),
            key,
            "its framework's index lists its unacknowledged updates",
        )?;
        let Some(group) = &task.spec.group else {
            return Ok(());
        };
        let first = self.group(key.framework, &group.id).next();
        ensure(first.is_some(), key, "the index of its group names it")?;
        // A group is checked once in a round: with its first task.
        if first.is_some_and(|first| first.key == *key) {
            slice.records += group.size as usize;
            self.check_group_tasks(key.framework, &group.id)?;
        }
        Ok(())
    }
}

/// Returns the range of everything after `after`, or of everything.
fn range_after<K>(after: &Option<K>) -> (Bound<&K>, Bound<&K>) {
    let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    (from, Bound::Unbounded)
}

#[cfg(test)]
pub(super) mod tests;
