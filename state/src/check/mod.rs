//! Invariants of the registry that hold after every entry, whatever was proposed.
//!
//! The checks only read. The cost of [`Registry::check`] grows with the registry; tests run it
//! after every step. Masters run [`Registry::check_slice`], whose cost grows only with the slice.

mod access;
mod executors;
mod groups;
mod roles;
mod slices;
#[cfg(test)]
mod tests;
mod updates;

pub use slices::{CheckRound, CheckSlice};

use crate::Registry;
use crate::agent::{Agent, AgentMode};
use crate::command::SweepTarget;
use crate::framework::{Framework, SchedulerConnection};
use crate::ids::{AgentId, FrameworkId, Revision, TaskKey};
use crate::level::Level;
use crate::limits;
use crate::registry::Layout;
use crate::task::{FinishedTask, Task, TaskState};
use updates::{check_stopped, check_unacknowledged};

/// A violated invariant: a defect of `apply`, or corrupt storage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvariantViolation {
    /// An index differs from the records.
    #[error("the index of {0} differs from the records")]
    Index(&'static str),
    /// Two live tasks of an agent use the same resource, or their sum overflows.
    #[error("tasks of {agent} overlap: {task} uses resources of another one")]
    Overlap {
        /// The agent.
        agent: AgentId,
        /// The later task in order of keys.
        task: TaskKey,
    },
    /// The resources of live tasks differ from the indexed usage.
    #[error("{agent} counts {counted} as used; its live tasks use {summed}")]
    Usage {
        /// The agent.
        agent: AgentId,
        /// The usage in the index.
        counted: String,
        /// The sum over the tasks.
        summed: String,
    },
    /// A record contradicts itself or another one.
    #[error("{what}: {rule}")]
    Record {
        /// The record.
        what: String,
        /// The violated rule.
        rule: &'static str,
    },
}

/// Returns an error with `rule` about `what` unless the rule holds.
fn ensure(holds: bool, what: &impl ToString, rule: &'static str) -> Result<(), InvariantViolation> {
    if holds {
        Ok(())
    } else {
        Err(InvariantViolation::Record {
            what: what.to_string(),
            rule,
        })
    }
}

impl Registry {
    /// Checks every invariant that holds at each applied index.
    ///
    /// # Errors
    /// The first [`InvariantViolation`].
    pub fn check(&self) -> Result<(), InvariantViolation> {
        self.check_cluster()?;
        for target in self.cluster.sweeps.keys() {
            self.check_sweep(target)?;
        }
        for agent in self.agents.values() {
            self.check_agent(agent)?;
            self.check_usage(agent.id)?;
        }
        for framework in self.frameworks.values() {
            self.check_framework(framework)?;
            self.check_leaving(framework)?;
        }
        for task in self.tasks.values() {
            self.check_task(task)?;
        }
        self.check_history()?;
        for finished in self.finished_tasks.values() {
            self.check_finished_task(finished)?;
        }
        for finished in self.finished_frameworks.values() {
            self.check_finished_framework(finished.id)?;
        }
        self.check_access()?;
        self.check_access_records()?;
        self.check_indexes()?;
        self.check_transition_keys()?;
        self.check_groups()
    }

    fn is_applied(&self, revision: Revision) -> bool {
        revision.index <= self.applied
    }

    fn check_cluster(&self) -> Result<(), InvariantViolation> {
        let what = &"the cluster";
        ensure(
            self.cluster.epoch.0 <= self.applied,
            what,
            "its epoch began in the past",
        )?;
        ensure(
            (self.level() < Level::RELEASE_0_2) == (self.cluster.layout == Layout::Whole),
            what,
            "its records are laid out as its level has them",
        )?;
        let answers = self.operator_answers.len();
        ensure(
            answers <= limits::OPERATOR_ANSWERS,
            what,
            "answers to operators are bounded",
        )
    }

    fn check_sweep(&self, target: &SweepTarget) -> Result<(), InvariantViolation> {
        let what = &"a sweep";
        match target {
            SweepTarget::Agent(id) => {
                let mode = self.agents.get(id).map(|agent| agent.mode());
                let fits = matches!(mode, Some(AgentMode::Unreachable | AgentMode::Gone));
                ensure(fits, id, "only unreachable or gone agents are swept")
            }
            SweepTarget::PrunedAgent(id) => {
                let mode = self.agents.get(id).map(|agent| agent.mode());
                let fits = mode == Some(AgentMode::Gone);
                ensure(fits, id, "an agent that is removed is gone first")
            }
            SweepTarget::Layout => ensure(false, what, "the layout holds its own progress"),
            SweepTarget::Framework(id) => {
                let is_known = self.frameworks.contains_key(id);
                ensure(is_known, id, "only live frameworks are swept")
            }
        }
    }

    fn check_agent(&self, agent: &Agent) -> Result<(), InvariantViolation> {
        let id = &agent.id;
        ensure(id.0 <= self.cluster.last_agent, id, "its id was assigned")?;
        let agreed = &agent.admin;
        ensure(
            agreed.since.max(agent.reachability.since()) <= self.time,
            id,
            "its mode began in the past",
        )?;
        ensure(
            self.is_applied(agent.revision)
                && agent.offer_revision.max(agreed.revision) <= agent.revision,
            id,
            "its revisions are past",
        )?;
        ensure(
            agreed
                .deadline
                .is_none_or(|deadline| deadline >= agreed.since),
            id,
            "its administrative state ends after it began",
        )?;
        ensure(
            agent.report.incarnation != 0,
            id,
            "it is registered under an incarnation",
        )?;
        let used = &agent.used_offers;
        ensure(
            used.ids.len() <= limits::USED_OFFERS,
            id,
            "the window of used offers is bounded",
        )?;
        ensure(
            used.ids.first().is_none_or(|first| *first > used.floor),
            id,
            "used offers lie above the floor",
        )?;
        let mut reduced = agent.clone();
        reduced.reduce_to_0_1_0();
        ensure(
            self.cluster.layout.splits_agent(*id) || *agent == reduced,
            id,
            "its single record holds all its facts",
        )
    }

    /// Conservation: the indexed usage is the sum over the live tasks and their executors.
    fn check_usage(&self, id: AgentId) -> Result<(), InvariantViolation> {
        let mut sum = self.check_executors(id)?;
        for task in self.tasks_on(id).filter(|task| !task.is_terminal()) {
            let more = sum.plus(&task.spec.resources);
            sum = more.ok_or_else(|| InvariantViolation::Overlap {
                agent: id,
                task: task.key.clone(),
            })?;
        }
        let counted = self.index.agents.get(&id).map(|index| &index.used);
        if counted == Some(&sum) {
            return Ok(());
        }
        Err(InvariantViolation::Usage {
            agent: id,
            counted: counted.map(ToString::to_string).unwrap_or_default(),
            summed: sum.to_string(),
        })
    }

    fn check_framework(&self, framework: &Framework) -> Result<(), InvariantViolation> {
        let id = &framework.id;
        let info = &framework.info;
        let is_assigned = id.0 <= self.cluster.last_framework;
        ensure(is_assigned, id, "its id was assigned")?;
        let is_past = self.is_applied(framework.revision);
        ensure(is_past, id, "its revision is past")?;
        ensure(framework.session != 0, id, "it is in a session")?;
        ensure(
            framework.past_sessions.len() <= limits::PAST_SESSIONS
                && !framework.past_sessions.contains(&framework.session),
            id,
            "its past sessions are bounded and past",
        )?;
        ensure(
            !info.roles.is_empty() && framework.suppressed.is_subset(&info.roles),
            id,
            "it is suppressed only in roles that it has",
        )?;
        if let SchedulerConnection::Disconnected { since } = framework.connection {
            ensure(since <= self.time, id, "it disconnected in the past")?;
        }
        self.check_answers(framework)
    }

    fn check_answers(&self, framework: &Framework) -> Result<(), InvariantViolation> {
        let id = framework.id;
        let all = (id, 0, 0)..=(id, u64::MAX, u64::MAX);
        let mut count = 0;
        for ((_, session, _), answer) in self.answers.range(all) {
            count += 1;
            let known =
                *session == framework.session || framework.past_sessions.back() == Some(session);
            ensure(
                known,
                &id,
                "its answers are of the current session or the previous one",
            )?;
            let is_past = self.is_applied(answer.revision);
            ensure(is_past, &id, "its answers are past")?;
        }
        ensure(
            count <= limits::ANSWERS_PER_FRAMEWORK,
            &id,
            "its answers are bounded",
        )
    }

    /// Checks that nothing is left of a framework that is being removed once its sweep has ended.
    fn check_leaving(&self, framework: &Framework) -> Result<(), InvariantViolation> {
        let id = &framework.id;
        if self
            .cluster
            .sweeps
            .contains_key(&SweepTarget::Framework(*id))
        {
            return Ok(());
        }
        let index = self.index.frameworks.get(id);
        let tasks = index.map_or(0, |index| index.tasks.len());
        let ended = index.map_or(0, |index| index.ended);
        if framework.removing {
            let killed = self.tasks_of(*id).all(|task| task.kill.is_some());
            ensure(killed, id, "tasks of a removed framework are being killed")?;
            ensure(tasks > 0, id, "a removed framework ends with its last task")?;
        }
        if framework.info.detached {
            let alone = framework.connection != SchedulerConnection::Connected;
            ensure(ended == 0, id, "its ended tasks are acknowledged")?;
            ensure(
                tasks > 0 || !alone,
                id,
                "a detached and disconnected framework ends with its last task",
            )?;
        }
        Ok(())
    }

    fn check_task(&self, task: &Task) -> Result<(), InvariantViolation> {
        let key = &task.key;
        let agent = self.agents.get(&task.agent);
        let orders = agent.map_or(0, |agent| agent.orders.0);
        ensure(agent.is_some(), key, "its agent is known")?;
        ensure(
            self.frameworks.contains_key(&key.framework),
            key,
            "its framework is known",
        )?;
        ensure(
            (1..=orders).contains(&task.order.0),
            key,
            "its launch was ordered",
        )?;
        if let Some(kill) = task.kill {
            ensure(
                kill.order > task.order && kill.order.0 <= orders,
                key,
                "its kill was ordered after its launch",
            )?;
        }
        if let Some(change) = &task.limits_change {
            ensure(
                change.order > task.order && change.order.0 <= orders,
                key,
                "its limits were changed by an order after its launch",
            )?;
        }
        ensure(task.spec.task == key.task, key, "its description names it")?;
        ensure(task.state != TaskState::Unknown, key, "its state is known")?;
        ensure(
            task.latest.state == task.state,
            key,
            "its newest update has its state",
        )?;
        let same = task.state == TaskState::Unreachable
            || task.is_terminal()
            || task.agent_state == task.state;
        ensure(
            same,
            key,
            "its state is that of its agent, unless a master has set it",
        )?;
        let same = task.agent_state != task.state || task.latest.standing == task.standing;
        ensure(same, key, "its newest update has the results of its checks")?;
        ensure(
            task.latest.revision <= task.revision && self.is_applied(task.revision),
            key,
            "its revisions ascend",
        )?;
        self.check_mode(task)?;
        check_stopped(task)?;
        self.check_transitions(task)?;
        check_unacknowledged(task)
    }

    /// Checks that tasks of an unreachable or gone agent have the corresponding state once its
    /// sweep has ended.
    fn check_mode(&self, task: &Task) -> Result<(), InvariantViolation> {
        let sweeps = &self.cluster.sweeps;
        let swept = sweeps.contains_key(&SweepTarget::Agent(task.agent))
            || sweeps.contains_key(&SweepTarget::PrunedAgent(task.agent));
        if swept || task.is_terminal() {
            return Ok(());
        }
        let mode = self.agents.get(&task.agent).map(|agent| agent.mode());
        ensure(
            mode != Some(AgentMode::Gone),
            &task.key,
            "no task is live on a gone agent",
        )?;
        ensure(
            mode != Some(AgentMode::Unreachable) || task.state == TaskState::Unreachable,
            &task.key,
            "a task on an unreachable agent is UNREACHABLE",
        )
    }

    fn check_history(&self) -> Result<(), InvariantViolation> {
        let what = &"the history";
        ensure(
            self.finished_tasks.len() <= limits::FINISHED_TASKS
                && self.finished_frameworks.len() <= limits::FINISHED_FRAMEWORKS,
            what,
            "it is bounded",
        )?;
        let newest = [
            self.finished_tasks
                .last_key_value()
                .map(|(serial, _)| *serial),
            self.finished_frameworks
                .last_key_value()
                .map(|(serial, _)| *serial),
        ];
        let given = newest.iter().flatten().max().unwrap_or(&0);
        ensure(
            *given <= self.cluster.last_finished,
            what,
            "its serials were assigned",
        )?;
        Ok(())
    }

    fn check_finished_task(&self, finished: &FinishedTask) -> Result<(), InvariantViolation> {
        let key = &finished.task.key;
        ensure(
            finished.task.is_terminal() && finished.task.unacknowledged.is_empty(),
            key,
            "only ended and acknowledged tasks are history",
        )?;
        ensure(
            !self.tasks.contains_key(key),
            key,
            "a task in the history is not live",
        )?;
        self.check_transitions(&finished.task)
    }

    fn check_finished_framework(&self, id: FrameworkId) -> Result<(), InvariantViolation> {
        ensure(
            !self.frameworks.contains_key(&id),
            &id,
            "a removed framework never returns",
        )
    }

    fn check_indexes(&self) -> Result<(), InvariantViolation> {
        let fresh = self.indexes().ok_or(InvariantViolation::Index(
            "what tasks use, which cannot be added up",
        ))?;
        let kept = &self.index;
        let parts = [
            ("agents", kept.agents == fresh.agents),
            ("frameworks", kept.frameworks == fresh.frameworks),
            ("roles", kept.roles == fresh.roles),
            ("modes", kept.modes == fresh.modes),
            ("nonces", kept.nonces == fresh.nonces),
            ("bound agents", kept.bound == fresh.bound),
            ("sessions", kept.sessions == fresh.sessions),
            ("deadlines", kept.deadlines == fresh.deadlines),
            ("finished tasks", kept.history == fresh.history),
            ("principals", kept.principals == fresh.principals),
            (
                "answers by principal",
                kept.answers_by_principal == fresh.answers_by_principal,
            ),
            ("bytes", kept.bytes == fresh.bytes),
            ("totals", kept.total == fresh.total),
            ("usage", kept.used == fresh.used),
            ("live tasks", kept.live_tasks == fresh.live_tasks),
            ("states", kept.states == fresh.states),
            (
                "unacknowledged updates",
                kept.unacknowledged == fresh.unacknowledged,
            ),
        ];
        if let Some((name, _)) = parts.iter().find(|(_, same)| !same) {
            return Err(InvariantViolation::Index(name));
        }
        for (id, index) in kept.agents.iter() {
            let tasks = self.tasks_on(*id).filter(|task| !task.is_terminal());
            let wanted = tasks.fold(0, |sum, task| {
                let changes = [task.kill.is_some(), task.limits_change.is_some()];
                sum + 1 + changes.into_iter().filter(|is_ordered| *is_ordered).count()
            });
            ensure(
                index.orders.len() == wanted,
                id,
                "no two orders share a number",
            )?;
        }
        self.check_roles()?;
        let nonces = kept.nonces.len();
        ensure(
            nonces == self.agents.len(),
            &"the agents",
            "no two agents share a nonce",
        )
    }
}
