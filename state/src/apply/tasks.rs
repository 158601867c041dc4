//! Lifecycle of a task: updates, kills, acknowledgements, and the move to the history.

use std::fmt::{self, Write as _};

use super::CommandContext;
use super::limits_change::finish_limits_change;
use crate::Registry;
use crate::command::{
    Acknowledge, AgentUpdate, ApplyOutcome, CommandReply, Rejection, UpdateTasks,
};
use crate::event::Event;
use crate::ids::{FrameworkId, OrderIndex, Revision, TaskKey};
use crate::level::Level;
use crate::limits;
use crate::task::{
    Cause, CheckResults, Exit, Kill, LimitsReport, Reason, TaskState, TaskTransition, TaskUpdate,
    UpdateSource, update_messages,
};

/// The largest number of records of a task that an update of its agent changes, without its
/// transitions: its status, a message, and two of its limits.
const REPORTED_RECORDS: usize = 4;
/// The same for a change by a master: the status, and a message that is no longer the newest.
const DECIDED_RECORDS: usize = 2;
/// The largest number of records of a framework that is removed with its last task: its own, and
/// two of the history, or a sweep.
const REMOVED_RECORDS: usize = 3;

/// A new state of a task, without a revision.
pub(super) struct TaskChange {
    pub(super) state: TaskState,
    pub(super) source: UpdateSource,
    reason: Reason,
    causes: Vec<Cause>,
    message: String,
    exit: Option<Exit>,
    standing: CheckResults,
    stopped: bool,
    limits: Option<LimitsReport>,
    wall_ms: i64,
    /// The number of the update, if an agent reports it.
    reported: Option<u64>,
}

impl TaskChange {
    pub(super) fn by_master(state: TaskState, reason: Reason, wall_ms: i64) -> Self {
        Self {
            state,
            source: UpdateSource::Master,
            reason,
            causes: Vec::new(),
            message: update_messages::of_master(reason).to_owned(),
            exit: None,
            standing: CheckResults::default(),
            stopped: false,
            limits: None,
            wall_ms,
            reported: None,
        }
    }

    /// Returns the change with the results of the task's checks.
    pub(super) fn with_standing(self, standing: CheckResults) -> Self {
        Self { standing, ..self }
    }

    /// Returns the change with another text, used below level 3.
    pub(super) fn with_text(self, text: &str) -> Self {
        Self {
            message: text.to_owned(),
            ..self
        }
    }

    /// Returns the change of a task that has stopped itself.
    pub(super) fn stopped(self) -> Self {
        Self {
            stopped: true,
            ..self
        }
    }

    /// Returns the change with the result of a change of limits.
    pub(super) fn with_limits(self, report: LimitsReport) -> Self {
        Self {
            limits: Some(report),
            ..self
        }
    }

    fn by_agent(update: &AgentUpdate) -> Self {
        Self {
            state: update.state,
            // An agent cannot report as a master.
            source: match update.source {
                UpdateSource::Master | UpdateSource::Agent => UpdateSource::Agent,
                UpdateSource::Task => UpdateSource::Task,
            },
            reason: reason_of_agent(update.reason),
            causes: update.causes.clone(),
            message: cut(&update.message, limits::MESSAGE_BYTES),
            exit: update.exit,
            standing: update.standing,
            stopped: false,
            limits: update.limits.clone(),
            wall_ms: update.wall_ms,
            reported: Some(update.number),
        }
    }

    pub(super) fn into_update(self, revision: Revision) -> TaskUpdate {
        TaskUpdate {
            revision,
            state: self.state,
            source: self.source,
            reason: self.reason,
            causes: self.causes,
            message: self.message,
            exit: self.exit,
            standing: self.standing,
            stopped: self.stopped,
            wall_ms: self.wall_ms,
        }
    }
}

/// Returns the longest prefix of `text` that takes at most `bytes`.
pub(super) fn cut(text: &str, bytes: usize) -> String {
    let end = (0..=text.len().min(bytes))
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    text[..end].to_owned()
}

/// Returns the longest prefix of the text of `value` that takes at most `bytes`. The rest is not
/// formatted.
pub(super) fn beginning(value: &impl fmt::Display, bytes: usize) -> String {
    struct Beginning(String, usize);
    impl fmt::Write for Beginning {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let left = self.1 - self.0.len();
            self.0.push_str(&cut(part, left));
            match part.len() <= left {
                true => Ok(()),
                false => Err(fmt::Error),
            }
        }
    }
    let mut text = Beginning(String::new(), bytes);
    // An error only ends it.
    let _ = write!(text, "{value}");
    text.0
}

pub(super) fn too_many(field: &str, count: usize) -> Rejection {
    Rejection::Invalid {
        field: field.to_owned(),
        text: format!("{count} of them; at most {}", limits::RECORDS_PER_COMMAND),
    }
}

/// Returns whether an agent may report this state. Only masters set the others.
fn is_for_agents(state: TaskState) -> bool {
    match state {
        TaskState::Starting
        | TaskState::Running
        | TaskState::Killing
        | TaskState::Finished
        | TaskState::Failed
        | TaskState::Killed
        | TaskState::Error
        | TaskState::Dropped
        | TaskState::Gone => true,
        TaskState::Staging
        | TaskState::GoneByOperator
        | TaskState::Unreachable
        | TaskState::Unknown => false,
    }
}

/// Returns the reason that an agent reports, or none in place of a reason that only masters have.
fn reason_of_agent(reason: Reason) -> Reason {
    if reason == Reason::AgentIncapable {
        Reason::None
    } else {
        reason
    }
}

impl Registry {
    pub(super) fn update_tasks(
        &mut self,
        context: &mut CommandContext,
        report: &UpdateTasks,
    ) -> ApplyOutcome {
        let agent = self
            .agents
            .get(&report.agent)
            .ok_or(Rejection::UnknownAgent(report.agent))?;
        if agent.mode().is_lost() {
            // The agent registers again, and repeats every update that is not committed.
            return Err(Rejection::Conflict);
        }
        if report.updates.len() > limits::RECORDS_PER_COMMAND {
            return Err(too_many("updates", report.updates.len()));
        }
        for update in &report.updates {
            self.update_task(context, report, update);
        }
        Ok(CommandReply::Done)
    }

    /// Applies an update. A repeated or late update, or one for an instance that the agent does not
    /// hold, changes nothing. The agent may then remove it.
    fn update_task(
        &mut self,
        context: &mut CommandContext,
        report: &UpdateTasks,
        update: &AgentUpdate,
    ) {
        let task = self
            .tasks
            .get(&update.key)
            .filter(|task| task.agent == report.agent && task.order == update.order);
        let released = match task {
            None => true,
            Some(task) if task.is_terminal() => true,
            Some(task) if update.number <= task.reported => false,
            Some(task) => {
                // The state that the agent last reported decides, not the state that a master set
                // when the agent was unreachable.
                let is_legal =
                    is_for_agents(update.state) && task.agent_state.may_become(update.state);
                if is_legal {
                    self.set_state(context, &update.key, TaskChange::by_agent(update));
                } else {
                    // The agent counts an illegal update as settled too, so the numbers stay equal.
                    self.change_task(&update.key, |task| task.reported = update.number);
                }
                is_legal && update.state.is_terminal()
            }
        };
        context.emit(Event::UpdateReleased {
            agent: report.agent,
            key: update.key.clone(),
            order: update.order,
            number: update.number,
            released,
        });
    }

    /// Sets the state of a task and queues an update for its framework. The caller has checked the
    /// transition.
    pub(super) fn set_state(
        &mut self,
        context: &mut CommandContext,
        key: &TaskKey,
        change: TaskChange,
    ) {
        let revision = context.next_revision();
        let reported = change.reported;
        let level = self.level();
        let limits = change.limits.clone();
        let mut update = change.into_update(revision);
        if level >= Level::RELEASE_0_2 && reported.is_none() {
            // The reason determines the text: see `TaskUpdate::text`.
            update.message.clear();
        }
        let state = update.state;
        let mut transition = None;
        let mut agent = None;
        self.change_task(key, |task| {
            transition = TaskTransition::after(&task.latest, &update);
            task.state = state;
            if let Some(number) = reported {
                task.reported = number;
                task.agent_state = state;
                task.standing = update.standing;
            }
            if let Some(limits) = limits {
                finish_limits_change(task, limits, level);
            }
            task.latest = update.clone();
            task.revision = revision;
            // A terminal update is queued after the newest other one, and any other update replaces
            // it.
            if !state.is_terminal() {
                task.unacknowledged.clear();
            }
            task.unacknowledged.push(update);
            agent = Some(task.agent);
        });
        let agent = agent.expect("the change has run");
        if let Some(transition) = transition {
            self.add_transition(key, transition);
        }
        context.emit(Event::TaskUpdated {
            key: key.clone(),
            agent,
            revision,
            state,
        });
        if state.is_terminal() {
            context.emit(Event::AgentUsageChanged(agent));
            if self.acknowledges_itself(key.framework) {
                self.finish_task(context, key);
            }
        }
    }

    /// Returns the largest number of records that an update of an agent changes, with those of the
    /// history if the task becomes a part of it.
    #[must_use]
    pub fn records_of_update(&self, key: &TaskKey, state: TaskState) -> usize {
        REPORTED_RECORDS + self.records_of_state(key, state.is_terminal())
    }

    /// Returns the largest number of records that a master's change of the state of a task changes.
    pub(super) fn records_of_decision(&self, key: &TaskKey, is_end: bool) -> usize {
        DECIDED_RECORDS + self.records_of_state(key, is_end)
    }

    fn records_of_state(&self, key: &TaskKey, is_end: bool) -> usize {
        let task = self.tasks.get(key).filter(|_| is_end);
        let finished = task.filter(|task| self.acknowledges_itself(task.key.framework));
        let finished = finished.map_or(0, |task| REMOVED_RECORDS + self.records_of_finishing(task));
        self.transitions_changed(key, is_end) + finished
    }

    /// Returns whether updates of this framework need no acknowledgement.
    pub(super) fn acknowledges_itself(&self, framework: FrameworkId) -> bool {
        self.frameworks
            .get(&framework)
            .is_none_or(|framework| framework.removing || framework.info.detached)
    }

    /// Requests the kill of a task. A second request counts only if its grace period is shorter. It
    /// cancels the order of the first one and gets a new order.
    pub(super) fn request_kill(
        &mut self,
        context: &mut CommandContext,
        key: &TaskKey,
        grace_ms: Option<u64>,
    ) {
        let task = self
            .tasks
            .get(key)
            .expect("the caller has just looked it up");
        let grace_ms = grace_ms.unwrap_or(task.spec.grace_ms);
        if task.is_terminal() || task.kill.is_some_and(|kill| kill.grace_ms <= grace_ms) {
            return;
        }
        let agent = task.agent;
        let order = self.next_order(agent);
        let revision = context.next_revision();
        self.change_task(key, |task| {
            task.kill = Some(Kill { order, grace_ms });
            task.revision = revision;
        });
        context.emit(Event::TaskKillRequested {
            key: key.clone(),
            agent,
            order,
        });
    }

    pub(crate) fn next_order(&mut self, agent: crate::ids::AgentId) -> OrderIndex {
        let agent = self.count_agent(agent);
        agent.orders.0 += 1;
        agent.orders
    }

    pub(super) fn acknowledge(
        &mut self,
        context: &mut CommandContext,
        acknowledge: &Acknowledge,
    ) -> ApplyOutcome {
        let framework = self
            .frameworks
            .get(&acknowledge.framework)
            .ok_or(Rejection::UnknownFramework(acknowledge.framework))?;
        if framework.session != acknowledge.session {
            return Err(Rejection::Superseded(acknowledge.framework));
        }
        if acknowledge.updates.len() > limits::RECORDS_PER_COMMAND {
            return Err(too_many("updates", acknowledge.updates.len()));
        }
        for (task, revision) in &acknowledge.updates {
            let key = TaskKey {
                framework: acknowledge.framework,
                task: task.clone(),
            };
            let Some(task) = self.tasks.get(&key) else {
                continue;
            };
            if !task
                .unacknowledged
                .iter()
                .any(|update| update.revision <= *revision)
            {
                continue;
            }
            self.change_task(&key, |task| {
                task.unacknowledged
                    .retain(|update| update.revision > *revision)
            });
            let task = &self.tasks[&key];
            if task.is_terminal() && task.unacknowledged.is_empty() {
                self.finish_task(context, &key);
            }
        }
        Ok(CommandReply::Done)
    }

    /// Moves an ended task to the history. If it was the last task of a framework that is marked
    /// for removal or detached, removes the framework.
    pub(super) fn finish_task(&mut self, context: &mut CommandContext, key: &TaskKey) {
        let task = self.remove_task(key);
        self.put_finished(task, &mut context.drop_budget);
        context.emit(Event::TaskForgotten(key.clone()));
        self.remove_framework_if_done(context, key.framework);
    }
}
