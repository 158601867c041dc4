//! Invariants of the registry: what must hold after every entry, whatever was proposed.
//!
//! Reads only. [`Registry::check`] costs as much as the registry is large: tests run it after every
//! step. Masters run [`Registry::check_slice`], which costs as much as the slice.

mod executors;
mod groups;
mod roles;
mod slices;

pub use slices::{Round, Slice};

use crate::Registry;
use crate::agent::{Agent, AgentMode};
use crate::command::SweepTarget;
use crate::framework::{Connection, Framework};
use crate::ids::{AgentId, FrameworkId, Revision, TaskKey};
use crate::level::Level;
use crate::limits;
use crate::registry::Layout;
use crate::task::{FinishedTask, Task, TaskState};

/// A fact that must never be: a defect of `apply`, or damaged storage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// What was kept up to date differs from what the records say.
    #[error("the index of {0} is not what the records say")]
    Index(&'static str),
    /// Two live tasks of an agent use the same thing, or their sum cannot be told.
    #[error("tasks of {agent} cannot run together: {task} takes what another one has")]
    Overlap {
        /// Where.
        agent: AgentId,
        /// The later one in order of keys.
        task: TaskKey,
    },
    /// Live tasks and what is counted as used differ.
    #[error("{agent} counts {counted} as used; its live tasks use {summed}")]
    Usage {
        /// Where.
        agent: AgentId,
        /// What the index says.
        counted: String,
        /// What the tasks say.
        summed: String,
    },
    /// A record contradicts itself or another one.
    #[error("{what}: {rule}")]
    Record {
        /// Which record.
        what: String,
        /// What should hold.
        rule: &'static str,
    },
}

/// Fails with `rule` about `what` unless it holds.
fn must(holds: bool, what: &impl ToString, rule: &'static str) -> Result<(), Broken> {
    if holds {
        Ok(())
    } else {
        Err(Broken::Record {
            what: what.to_string(),
            rule,
        })
    }
}

impl Registry {
    /// Everything that must hold at every applied index.
    ///
    /// # Errors
    /// The first [`Broken`] fact that is found.
    pub fn check(&self) -> Result<(), Broken> {
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
        self.check_indexes()?;
        self.check_groups()
    }

    fn past(&self, revision: Revision) -> bool {
        revision.index <= self.applied
    }

    fn check_cluster(&self) -> Result<(), Broken> {
        let what = &"the cluster";
        must(
            self.cluster.epoch.0 <= self.applied,
            what,
            "its reign began in the past",
        )?;
        must(
            (self.level() < Level::RELEASE_0_2) == (self.cluster.layout == Layout::Whole),
            what,
            "its records are laid out as its level has them",
        )?;
        let answers = self.operator_answers.len();
        must(
            answers <= limits::OPERATOR_ANSWERS,
            what,
            "answers to operators are bounded",
        )
    }

    fn check_sweep(&self, target: &SweepTarget) -> Result<(), Broken> {
        let what = &"a sweep";
        match target {
            SweepTarget::Agent(id) => {
                let mode = self.agents.get(id).map(|agent| agent.mode());
                let fits = matches!(mode, Some(AgentMode::Unreachable | AgentMode::Gone));
                must(fits, id, "only silent or gone agents are swept")
            }
            SweepTarget::PrunedAgent(id) => {
                let mode = self.agents.get(id).map(|agent| agent.mode());
                let fits = mode == Some(AgentMode::Gone);
                must(fits, id, "an agent that is forgotten is gone first")
            }
            SweepTarget::Layout => must(false, what, "the layout has a mark of its own"),
            SweepTarget::Framework(id) => {
                let is_known = self.frameworks.contains_key(id);
                must(is_known, id, "only live frameworks are swept")
            }
        }
    }

    fn check_agent(&self, agent: &Agent) -> Result<(), Broken> {
        let id = &agent.id;
        must(id.0 <= self.cluster.last_agent, id, "its number was given")?;
        let agreed = &agent.agreed;
        must(
            agreed.since.max(agent.reachability.since()) <= self.time,
            id,
            "its mode began in the past",
        )?;
        must(
            self.past(agent.revision) && agent.promise.max(agreed.revision) <= agent.revision,
            id,
            "its revisions are past",
        )?;
        must(
            agreed
                .deadline
                .is_none_or(|deadline| deadline >= agreed.since),
            id,
            "what is agreed on ends after it began",
        )?;
        must(
            agent.reported.incarnation != 0,
            id,
            "it is registered under an incarnation",
        )?;
        let used = &agent.used_offers;
        must(
            used.ids.len() <= limits::USED_OFFERS,
            id,
            "the window of used offers is bounded",
        )?;
        must(
            used.ids.first().is_none_or(|first| *first > used.floor),
            id,
            "used offers lie above the floor",
        )?;
        let mut reduced = agent.clone();
        reduced.reduce_to_0_1_0();
        must(
            self.cluster.layout.splits_agent(*id) || *agent == reduced,
            id,
            "its one record holds all of it",
        )
    }

    /// Conservation: what is counted as used is the sum of the tasks that have not ended, and of their executors.
    fn check_usage(&self, id: AgentId) -> Result<(), Broken> {
        let mut sum = self.check_executors(id)?;
        for task in self.tasks_on(id).filter(|task| !task.is_terminal()) {
            sum = sum.plus(&task.spec.resources).ok_or(Broken::Overlap {
                agent: id,
                task: task.key.clone(),
            })?;
        }
        let counted = self.index.agents.get(&id).map(|index| &index.used);
        if counted == Some(&sum) {
            return Ok(());
        }
        Err(Broken::Usage {
            agent: id,
            counted: counted.map(ToString::to_string).unwrap_or_default(),
            summed: sum.to_string(),
        })
    }

    fn check_framework(&self, framework: &Framework) -> Result<(), Broken> {
        let id = &framework.id;
        let info = &framework.info;
        must(
            id.0 <= self.cluster.last_framework,
            id,
            "its number was given",
        )?;
        must(self.past(framework.revision), id, "its revision is past")?;
        must(framework.session != 0, id, "it is in a session")?;
        must(
            framework.past_sessions.len() <= limits::PAST_SESSIONS
                && !framework.past_sessions.contains(&framework.session),
            id,
            "its past sessions are bounded and past",
        )?;
        must(
            !info.roles.is_empty() && framework.suppressed.is_subset(&info.roles),
            id,
            "it is suppressed only in roles that it has",
        )?;
        if let Connection::Disconnected { since } = framework.connection {
            must(since <= self.time, id, "it left in the past")?;
        }
        self.check_answers(framework)
    }

    fn check_answers(&self, framework: &Framework) -> Result<(), Broken> {
        let id = framework.id;
        let all = (id, 0, 0)..=(id, u64::MAX, u64::MAX);
        let mut count = 0;
        for ((_, session, _), answer) in self.answers.range(all) {
            count += 1;
            let known =
                *session == framework.session || framework.past_sessions.back() == Some(session);
            must(
                known,
                &id,
                "answers are of its present session or the one before",
            )?;
            must(self.past(answer.revision), &id, "answers were given")?;
        }
        must(
            count <= limits::ANSWERS_PER_FRAMEWORK,
            &id,
            "its answers are bounded",
        )
    }

    /// Nothing of a framework that is going is left behind once its sweep is through.
    fn check_leaving(&self, framework: &Framework) -> Result<(), Broken> {
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
            must(killed, id, "tasks of a removed framework are wanted dead")?;
            must(tasks > 0, id, "a removed framework goes with its last task")?;
        }
        if framework.info.detached {
            let alone = framework.connection != Connection::Connected;
            must(ended == 0, id, "a detached framework acknowledges itself")?;
            must(
                tasks > 0 || !alone,
                id,
                "a detached framework that nobody listens for goes with its last task",
            )?;
        }
        Ok(())
    }

    fn check_task(&self, task: &Task) -> Result<(), Broken> {
        let key = &task.key;
        let agent = self.agents.get(&task.agent);
        let orders = agent.map_or(0, |agent| agent.orders.0);
        must(agent.is_some(), key, "its agent is known")?;
        must(
            self.frameworks.contains_key(&key.framework),
            key,
            "its framework is known",
        )?;
        must(
            (1..=orders).contains(&task.order.0),
            key,
            "its launch was ordered",
        )?;
        if let Some(kill) = task.kill {
            must(
                kill.order > task.order && kill.order.0 <= orders,
                key,
                "its kill was ordered behind its launch",
            )?;
        }
        if let Some(change) = &task.limits_change {
            must(
                change.order > task.order && change.order.0 <= orders,
                key,
                "its limits were changed by an order behind its launch",
            )?;
        }
        must(task.spec.task == key.task, key, "its description names it")?;
        must(task.state != TaskState::Unknown, key, "its state is known")?;
        must(
            task.latest.state == task.state,
            key,
            "its newest update tells its state",
        )?;
        let same = task.state == TaskState::Unreachable
            || task.is_terminal()
            || task.agent_state == task.state;
        must(
            same,
            key,
            "it is as its agent said, unless a master knows better",
        )?;
        let same = task.agent_state != task.state || task.latest.standing == task.standing;
        must(same, key, "its newest update tells what its checks found")?;
        must(
            task.latest.revision <= task.revision && self.past(task.revision),
            key,
            "its revisions ascend",
        )?;
        self.check_mode(task)?;
        check_stopped(task)?;
        check_unacknowledged(task)
    }

    /// A task on a silent or gone agent says so once its sweep is through.
    fn check_mode(&self, task: &Task) -> Result<(), Broken> {
        let sweeps = &self.cluster.sweeps;
        let swept = sweeps.contains_key(&SweepTarget::Agent(task.agent))
            || sweeps.contains_key(&SweepTarget::PrunedAgent(task.agent));
        if swept || task.is_terminal() {
            return Ok(());
        }
        let mode = self.agents.get(&task.agent).map(|agent| agent.mode());
        must(
            mode != Some(AgentMode::Gone),
            &task.key,
            "no task lives on a gone agent",
        )?;
        must(
            mode != Some(AgentMode::Unreachable) || task.state == TaskState::Unreachable,
            &task.key,
            "a task on a silent agent is unreachable",
        )
    }

    fn check_history(&self) -> Result<(), Broken> {
        let what = &"the history";
        must(
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
        must(
            *given <= self.cluster.last_finished,
            what,
            "its serials were given",
        )?;
        Ok(())
    }

    fn check_finished_task(&self, finished: &FinishedTask) -> Result<(), Broken> {
        let key = &finished.task.key;
        must(
            finished.task.is_terminal() && finished.task.unacknowledged.is_empty(),
            key,
            "only what has ended and is acknowledged is history",
        )?;
        must(
            !self.tasks.contains_key(key),
            key,
            "what is history does not live",
        )
    }

    fn check_finished_framework(&self, id: FrameworkId) -> Result<(), Broken> {
        must(
            !self.frameworks.contains_key(&id),
            &id,
            "a removed framework never comes back",
        )
    }

    fn check_indexes(&self) -> Result<(), Broken> {
        let fresh = self
            .indexes()
            .ok_or(Broken::Index("what tasks use, which cannot be added up"))?;
        let kept = &self.index;
        let parts = [
            ("agents", kept.agents == fresh.agents),
            ("frameworks", kept.frameworks == fresh.frameworks),
            ("roles", kept.roles == fresh.roles),
            ("modes", kept.modes == fresh.modes),
            ("nonces", kept.nonces == fresh.nonces),
            ("sessions", kept.sessions == fresh.sessions),
            ("deadlines", kept.deadlines == fresh.deadlines),
            ("finished tasks", kept.history == fresh.history),
            ("principals", kept.principals == fresh.principals),
            ("bytes", kept.bytes == fresh.bytes),
            ("totals", kept.total == fresh.total),
            ("live tasks", kept.live_tasks == fresh.live_tasks),
        ];
        if let Some((name, _)) = parts.iter().find(|(_, same)| !same) {
            return Err(Broken::Index(name));
        }
        for (id, index) in kept.agents.iter() {
            let tasks = self.tasks_on(*id).filter(|task| !task.is_terminal());
            let wanted = tasks.fold(0, |sum, task| {
                let changes = [task.kill.is_some(), task.limits_change.is_some()];
                sum + 1 + changes.into_iter().filter(|is_ordered| *is_ordered).count()
            });
            must(
                index.orders.len() == wanted,
                id,
                "no two orders share a number",
            )?;
        }
        self.check_roles()?;
        let nonces = kept.nonces.len();
        must(
            nonces == self.agents.len(),
            &"the agents",
            "no two share a nonce",
        )
    }
}

fn check_stopped(task: &Task) -> Result<(), Broken> {
    let updates = task.unacknowledged.iter().chain([&task.latest]);
    let mut stopped = updates.filter(|update| update.stopped);
    must(
        stopped.all(|update| update.state == TaskState::Unreachable)
            && (!task.latest.stopped || task.spec.stop_after_ms > 0),
        &task.key,
        "only an unreachable task with stop_after_ms has stopped itself",
    )
}

/// At most the newest non-terminal update and the terminal one, the newest last.
fn check_unacknowledged(task: &Task) -> Result<(), Broken> {
    let key = &task.key;
    let updates = &task.unacknowledged;
    let ascending = updates
        .windows(2)
        .all(|pair| pair[0].revision < pair[1].revision);
    must(ascending, key, "its updates ascend")?;
    let open = updates
        .iter()
        .filter(|update| !update.state.is_terminal())
        .count();
    must(
        open <= 1 && updates.len() - open <= 1,
        key,
        "at most one update of each kind waits",
    )?;
    must(
        updates.last().is_none_or(|last| *last == task.latest),
        key,
        "its newest waiting update is its newest one",
    )?;
    must(
        !task.is_terminal() || !updates.is_empty(),
        key,
        "an ended and acknowledged task is history",
    )
}
