//! Tasks: updates of agents and masters, acknowledgements, kills, changes of limits, and history.

use super::model::*;

/// Returns whether an agent may report `next` after `former`, the state that it last reported.
fn may_report(former: TaskState, next: TaskState) -> bool {
    let of_masters = [
        TaskState::Staging,
        TaskState::Unreachable,
        TaskState::GoneByOperator,
        TaskState::Unknown,
    ];
    // The states are declared in the order of a task's life, its ends after the others.
    next >= former && !of_masters.contains(&next)
}

/// Cuts a text of ASCII characters.
fn cut(text: &str) -> String {
    text.chars().take(limits::MESSAGE_BYTES).collect()
}

/// A new state of a task, and the reason for it.
pub(crate) type Change = (TaskState, Reason);

impl Model {
    fn task_mut(&mut self, key: &TaskKey) -> &mut Task {
        self.tasks.get_mut(key).expect("it was found")
    }

    pub(crate) fn update_tasks(&mut self, report: &UpdateTasks) -> Checked {
        let agent = report.agent;
        refuse(self.agent(agent)?.mode().is_lost(), Rejection::Conflict)?;
        for update in &report.updates {
            let AgentUpdate { key, order, .. } = update;
            let task = self.tasks.get(key);
            let released = match task.filter(|task| task.agent == agent && task.order == *order) {
                None => true,
                Some(task) if task.is_terminal() => true,
                Some(task) if update.number <= task.reported => false,
                Some(_) => self.new_update(update),
            };
            self.emit(Event::UpdateReleased {
                agent,
                key: key.clone(),
                order: *order,
                number: update.number,
                released,
            });
        }
        Ok(())
    }

    /// Applies an update that was not reported before. Returns whether it ends the task.
    fn new_update(&mut self, update: &AgentUpdate) -> bool {
        let task = self.task_mut(&update.key);
        task.reported = update.number;
        if !may_report(task.agent_state, update.state) {
            return false;
        }
        task.agent_state = update.state;
        task.standing = update.standing;
        if let Some(report) = &update.limits {
            limits_reported(task, report);
        }
        // An agent cannot report it.
        let reason = match update.reason == Reason::AgentIncapable {
            true => Reason::None,
            false => update.reason,
        };
        let change = TaskUpdate {
            source: update.source,
            causes: update.causes.clone(),
            message: cut(&update.message),
            exit: update.exit,
            standing: update.standing,
            ..self.by_master((update.state, reason), update.wall_ms)
        };
        self.commit(&update.key, change);
        update.state.is_terminal()
    }

    /// Returns an update by a master. The words of its message are not modelled.
    pub(crate) fn by_master(&mut self, (state, reason): Change, wall_ms: i64) -> TaskUpdate {
        TaskUpdate {
            revision: self.revision(),
            state,
            source: UpdateSource::Master,
            reason,
            causes: Vec::new(),
            message: String::new(),
            exit: None,
            standing: Default::default(),
            stopped: false,
            wall_ms,
        }
    }

    /// Commits an update: it waits for the framework, and an end frees the resources.
    pub(crate) fn commit(&mut self, key: &TaskKey, update: TaskUpdate) {
        let (revision, state) = (update.revision, update.state);
        let task = self.task_mut(key);
        let agent = task.agent;
        let is_transition = state != task.state || (update.stopped && !task.latest.stopped);
        let transition = TaskTransition::of(&update);
        if !state.is_terminal() {
            task.unacknowledged.clear();
        }
        task.unacknowledged.push(update.clone());
        task.state = state;
        task.revision = revision;
        task.latest = update;
        if is_transition {
            self.add_transition(key, transition);
        }
        self.emit(Event::TaskUpdated {
            key: key.clone(),
            agent,
            revision,
            state,
        });
        if state.is_terminal() {
            self.emit(Event::AgentUsageChanged(agent));
            let framework = &self.frameworks[&key.framework];
            if framework.removing || framework.info.detached {
                self.finish(key);
            }
        }
    }

    /// Commits the same update by a master for each of these tasks.
    pub(crate) fn update_all(&mut self, keys: Vec<TaskKey>, change: Change, wall_ms: i64) {
        for key in keys {
            let update = self.by_master(change, wall_ms);
            self.commit(&key, update);
        }
    }

    pub(crate) fn add_transition(&mut self, key: &TaskKey, transition: TaskTransition) {
        if !self.is_level_3() {
            return;
        }
        let all = self.transitions.entry(key.clone()).or_default();
        let number = all.last().map_or(0, |(number, _)| *number) + 1;
        all.push((number, transition));
        while transition.state.is_terminal() && all.len() > limits::ENDED_TRANSITIONS {
            all.remove(0);
        }
    }

    /// Moves an ended task to the history, and removes its framework if that waits for it.
    pub(crate) fn finish(&mut self, key: &TaskKey) {
        let mut task = self.tasks.remove(key).expect("it was found");
        task.unacknowledged.clear();
        self.cluster.last_finished += 1;
        self.finished_tasks.insert(self.cluster.last_finished, task);
        self.emit(Event::TaskForgotten(key.clone()));
        self.remove_if_done(key.framework);
    }

    pub(crate) fn is_finished(&self, key: &TaskKey) -> bool {
        self.finished_tasks.values().any(|task| task.key == *key)
    }

    /// An acknowledgement covers an update and all before it.
    pub(crate) fn acknowledge(&mut self, acknowledge: &Acknowledge) -> Checked {
        let framework = acknowledge.framework;
        let is_former = self.framework(framework)?.session != acknowledge.session;
        refuse(is_former, Rejection::Superseded(framework))?;
        for (task, revision) in &acknowledge.updates {
            let key = key(framework, task);
            let Some(task) = self.tasks.get_mut(&key) else {
                continue;
            };
            let waiting = &mut task.unacknowledged;
            waiting.retain(|update| update.revision > *revision);
            // The end of a task is its last update.
            if waiting.is_empty() && task.is_terminal() {
                self.finish(&key);
            }
        }
        Ok(())
    }

    /// Returns the number of the next order to an agent.
    pub(crate) fn order(&mut self, agent: AgentId) -> OrderIndex {
        let agent = self.agents.get_mut(&agent).expect("a task has an agent");
        agent.orders.0 += 1;
        agent.orders
    }

    /// Requests a kill, unless an earlier one has no longer grace period.
    pub(crate) fn kill(&mut self, key: &TaskKey, grace_ms: Option<u64>) -> Checked {
        let Some(task) = self.tasks.get(key) else {
            return refuse(!self.is_finished(key), Rejection::UnknownTask(key.clone()));
        };
        let (agent, grace_ms) = (task.agent, grace_ms.unwrap_or(task.spec.grace_ms));
        let is_requested = task.kill.is_some_and(|kill| kill.grace_ms <= grace_ms);
        if !task.is_terminal() && !is_requested {
            let (order, revision) = (self.order(agent), self.revision());
            let task = self.task_mut(key);
            task.kill = Some(Kill { order, grace_ms });
            task.revision = revision;
            let key = key.clone();
            self.emit(Event::TaskKillRequested { key, agent, order });
        }
        Ok(())
    }

    /// Requests other limits of a task, unless it has them or they are requested already.
    pub(crate) fn limit(&mut self, key: &TaskKey, limits: &TaskLimits, at: Revision) -> Checked {
        let Some(task) = self.tasks.get(key) else {
            refuse(self.is_finished(key), invalid("task_id"))?;
            return Err(Rejection::UnknownTask(key.clone()));
        };
        let has_none = task.is_terminal() || task.spec.executor.is_some();
        refuse(has_none, invalid("task_id"))?;
        let present = task.spec.limits.as_deref().cloned().unwrap_or_default();
        let is_other = limits.exclusive_cpus != present.exclusive_cpus;
        refuse(is_other, invalid("limits.exclusive_cpus"))?;
        check_limits(limits, &task.spec.resources)?;
        let former = task.limits_change.as_ref();
        let is_refused = former.is_some_and(|change| matches!(change.outcome, Some(Err(_))));
        if *limits == present && !is_refused {
            return Ok(());
        }
        // While a change is open, the limits before it are those in force.
        let open = former.filter(|change| change.outcome.is_none());
        let before = open.map_or(&task.spec.limits, |change| &change.before);
        let (agent, before) = (task.agent, before.clone());
        let order = self.order(agent);
        let task = self.task_mut(key);
        task.revision = at;
        task.limits_change = Some(LimitsChange {
            order,
            revision: at,
            outcome: None,
            before,
            is_second: false,
            causes: Vec::new(),
        });
        set_limits(task, Some(limits.clone()));
        let key = key.clone();
        self.emit(Event::TaskLimitsRequested { key, agent, order });
        Ok(())
    }
}

/// Records the result of the newest change of limits. After a refusal the former limits are in
/// force, or those that the agent reports.
fn limits_reported(task: &mut Task, report: &LimitsReport) {
    let change = task.limits_change.as_mut();
    let Some(change) = change.filter(|change| change.order == report.order) else {
        return;
    };
    // An agent reports a result once. A further report replaces the result and its causes, but not
    // the limits: ADR 27 does not mention it, so this is taken from `apply`.
    let is_first = change.outcome.is_none();
    let before = change.before.take();
    let cut = |text: &String| cut(text);
    change.outcome = Some(report.outcome.as_ref().copied().map_err(cut));
    change.causes.clone_from(&report.causes);
    if is_first && report.outcome.is_err() {
        let held = report.held.as_deref();
        let held = held.filter(|held| check_limits(held, &task.spec.resources).is_ok());
        set_limits(task, held.or(before.as_deref()).cloned());
    }
}

fn set_limits(task: &mut Task, limits: Option<TaskLimits>) {
    let limits = limits.filter(|limits| *limits != TaskLimits::default());
    Arc::make_mut(&mut task.spec).limits = limits.map(Box::new);
}

/// Checks limits against the resources of their task: none is 0 or below the request.
fn check_limits(limits: &TaskLimits, resources: &Resources) -> Checked {
    let request = |name| u64::try_from(resources.scalar_milli(name)).expect("it is not negative");
    let cpus = request("cpus");
    let memory = request("mem") / 1_000 * (1 << 20);
    for (field, limit, least) in [
        ("limits.cpu_millis", limits.cpu_millis, cpus),
        ("limits.memory_bytes", limits.memory_bytes, memory),
        ("limits.pids", limits.pids, 1),
    ] {
        let is_low = limit.is_some_and(|limit| limit < least.max(1));
        refuse(is_low, invalid(field))?;
    }
    let is_whole = cpus > 0 && cpus.is_multiple_of(1_000);
    let is_shared = limits.exclusive_cpus && !is_whole;
    refuse(is_shared, invalid("limits.exclusive_cpus"))
}
