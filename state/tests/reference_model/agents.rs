//! Agents: registration, silence, removal, and the comparison with the list of an agent.

use super::model::*;
use super::tasks::Change;

/// Returns the facts of an agent on which offers depend.
fn promised(agent: &Agent) -> impl PartialEq {
    let info = &agent.report.info;
    let (options, sizes) = (&info.allowed_security_options, &info.largest_sizes);
    (&info.resources, &info.attributes, options, sizes)
}

fn new_agent(id: AgentId, nonce: u64, since: Timestamp, report: Arc<AgentReport>) -> Agent {
    Agent {
        id,
        nonce,
        principal: None,
        report,
        admin: AgentAdministration {
            administration: Administration::Active,
            since,
            deadline: None,
            attributes: Default::default(),
            revision: Revision::default(),
        },
        reachability: Reachability::Reachable { since },
        orders: OrderIndex(0),
        offer_revision: Revision::default(),
        used_offers: UsedOffers::default(),
        revision: Revision::default(),
    }
}

impl Model {
    pub(crate) fn register_agent(&mut self, register: &RegisterAgent) -> ApplyOutcome {
        assert_eq!(register.follows, None, "not modelled");
        let nonce = register.nonce;
        refuse(register.agent.is_none() && nonce == 0, invalid("nonce"))?;
        let newest = *register.tried.last().unwrap_or(&register.confirmed);
        refuse(newest == 0, invalid("tried_incarnations"))?;
        let known = match register.agent {
            Some(id) => Some(self.agent(id)?),
            None => self.agents.values().find(|agent| agent.nonce == nonce),
        };
        let proven = match &self.actor {
            Actor::Principal(one) if one.kind == PrincipalKind::Agent => Some(one.clone()),
            _ => None,
        };
        let proven = proven.filter(|_| self.records == Records::Split);
        if let Some(agent) = known {
            let id = agent.id;
            refuse(agent.mode() == AgentMode::Gone, Rejection::AgentGone(id))?;
            let mut shown = register.tried.iter().chain([&register.confirmed]);
            let is_known = shown.any(|one| *one == agent.report.incarnation);
            refuse(!is_known, Rejection::Clone(id))?;
            if let (Some(bound), Some(proven)) = (&agent.principal, &proven) {
                let why = Rejection::AgentBound(id, bound.clone());
                refuse(bound != proven, why)?;
            }
        }
        let (known, since) = (known.cloned(), self.time);
        let report = Arc::new(AgentReport {
            incarnation: newest,
            boot_id: register.boot_id.clone(),
            info: register.info.clone(),
        });
        let id = AgentId(self.cluster.last_agent + 1);
        let first = || new_agent(id, nonce, since, Arc::clone(&report));
        let mut agent = known.clone().unwrap_or_else(first);
        agent.report = report;
        agent.principal = agent.principal.or(proven);
        if agent.mode() == AgentMode::Unreachable {
            agent.reachability = Reachability::Reachable { since };
        }
        let id = agent.id;
        if known.as_ref() != Some(&agent) {
            agent.revision = self.revision();
            if known.as_ref().map(promised) != Some(promised(&agent)) {
                agent.offer_revision = agent.revision;
            }
            if known.is_none() {
                agent.admin.revision = agent.revision;
                self.cluster.last_agent = id.0;
            }
            self.agents.insert(id, agent);
            self.emit(Event::AgentChanged(id));
        }
        Ok(CommandReply::Agent(id))
    }

    /// Returns an agent that has been looked up before, for a change that gets a revision.
    pub(crate) fn change_agent(&mut self, id: AgentId) -> &mut Agent {
        let revision = self.revision();
        self.emit(Event::AgentChanged(id));
        let agent = self.agents.get_mut(&id).expect("it was found");
        agent.revision = revision;
        agent
    }

    pub(crate) fn agent_unreachable(&mut self, decision: &AgentDecision) -> Checked {
        let (id, since) = (decision.agent, self.time);
        let agent = self.agent(id)?;
        refuse(agent.revision != decision.decided_on, Rejection::Conflict)?;
        if agent.mode().is_lost() {
            return Ok(());
        }
        self.change_agent(id).reachability = Reachability::Unreachable { since };
        let change = (TaskState::Unreachable, Reason::AgentUnreachable);
        let is_known = |task: &Task| task.is_terminal() || task.state == change.0;
        let keys = self.keys(|task| task.agent == id && !is_known(task));
        self.update_all(keys, change, decision.wall_ms);
        Ok(())
    }

    /// Removes a lost agent. Its tasks end first, and are acknowledged.
    pub(crate) fn prune_agent(&mut self, decision: &AgentDecision) -> Checked {
        let id = decision.agent;
        let agent = self.agent(id)?;
        let (mode, since) = (agent.mode(), agent.reachability.since());
        refuse(agent.revision != decision.decided_on, Rejection::Conflict)?;
        refuse(!mode.is_lost(), Rejection::WrongMode(id, mode))?;
        if !self.tasks.values().any(|task| task.agent == id) {
            self.agents.remove(&id);
            self.emit(Event::AgentForgotten(id));
        } else if mode != AgentMode::Gone {
            // It is gone since it was lost, so that it is the next one to be removed.
            let end = (TaskState::Gone, Reason::AgentRemoved);
            self.set_gone(id, since, end, decision.wall_ms);
        }
        Ok(())
    }

    /// Declares an agent gone, and ends its tasks.
    pub(crate) fn set_gone(&mut self, id: AgentId, since: Timestamp, end: Change, wall_ms: i64) {
        self.set_admin(id, Administration::Gone, since);
        self.emit(Event::AgentGone(id));
        let keys = self.keys(|task| task.agent == id && !task.is_terminal());
        self.update_all(keys, end, wall_ms);
    }

    pub(crate) fn set_admin(&mut self, id: AgentId, next: Administration, since: Timestamp) {
        let agent = self.change_agent(id);
        agent.admin.administration = next;
        agent.admin.since = since;
        agent.admin.revision = agent.revision;
    }

    pub(crate) fn tasks_stopped(&mut self, stopped: &TasksStopped) -> Checked {
        let (id, silent_ms) = (stopped.agent, stopped.silent_ms);
        let agent = self.agent(id)?;
        refuse(agent.revision != stopped.decided_on, Rejection::Conflict)?;
        if agent.mode() != AgentMode::Unreachable {
            return Err(Rejection::WrongMode(id, agent.mode()));
        }
        let most_ms = self.time.since_ms(agent.reachability.since());
        refuse(silent_ms > most_ms, invalid("silent_ms"))?;
        let is_waiting = |task: &Task| {
            let is_unreachable = task.agent == id && task.state == TaskState::Unreachable;
            is_unreachable && task.spec.stop_after_ms > 0 && !task.latest.stopped
        };
        // The time, the grace period, and 5 % of both; the task that stopped first comes first.
        let stopped_ms = |key: &TaskKey| {
            let spec = &self.tasks[key].spec;
            let lived_ms = spec.stop_after_ms + spec.grace_ms;
            (lived_ms * 21).div_ceil(20)
        };
        let mut due = self.keys(is_waiting);
        due.retain(|key| stopped_ms(key) <= silent_ms);
        due.sort_by_key(|key| (stopped_ms(key), key.clone()));
        for key in due {
            let change = (TaskState::Unreachable, Reason::StoppedWithoutLeader);
            let mut update = self.by_master(change, stopped.wall_ms);
            update.stopped = true;
            self.commit(&key, update);
        }
        Ok(())
    }

    /// Compares a part of the tasks that an agent holds with those that it should hold.
    pub(crate) fn reconcile_agent(&mut self, list: &ReconcileAgent) -> Checked {
        let agent = list.agent;
        let known = self.agent(agent)?;
        let is_other = known.report.incarnation != list.incarnation;
        refuse(is_other || known.mode().is_lost(), Rejection::Conflict)?;
        let held = list.held.iter().map(|held| &held.key);
        let keys: Vec<_> = list.after.iter().chain(held).collect();
        let ascends = keys.is_sorted_by(|a, b| a < b);
        let is_below = |end: &TaskKey| keys.last().is_none_or(|last| *last <= end);
        let is_in_range = ascends && list.through.as_ref().is_none_or(is_below);
        refuse(!is_in_range, invalid("held"))?;
        let is_present = |held: &HeldTask| {
            let mut live = self.live_on(agent);
            live.any(|task| task.key == held.key && task.order == held.order)
        };
        let (_, orphans): (Vec<_>, Vec<_>) = list.held.iter().cloned().partition(is_present);
        let expected = self.keys(|task| {
            let is_above = list.after.as_ref().is_none_or(|after| task.key > *after);
            let is_below = list.through.as_ref().is_none_or(|end| task.key <= *end);
            task.agent == agent && !task.is_terminal() && is_above && is_below
        });
        for key in expected {
            self.reconcile_task(&key, list);
        }
        for HeldTask { key, order } in orphans {
            self.emit(Event::OrphanFound { agent, key, order });
        }
        let complete = list.through.is_none();
        self.emit(Event::AgentReconciled { agent, complete });
        Ok(())
    }

    fn reconcile_task(&mut self, key: &TaskKey, list: &ReconcileAgent) {
        let task = &self.tasks[key];
        let (order, standing) = (task.order, task.standing);
        let was_reported = self.is_level_3() && task.reported > 0;
        let was_delivered = order <= list.floor || was_reported;
        let is_held = |held: &HeldTask| held.key == *key && held.order == order;
        let is_unreachable = task.state == TaskState::Unreachable;
        let (change, standing) = if list.held.iter().any(is_held) {
            // The state and the results of checks that the agent last reported.
            ((task.agent_state, Reason::AgentReregistered), standing)
        } else if was_delivered {
            let end = (TaskState::Gone, Reason::TaskMissingOnAgent);
            (end, Default::default())
        } else {
            let end = (TaskState::Dropped, Reason::LaunchVoided);
            (end, Default::default())
        };
        // A task that is held runs on, and a launch that was not delivered still arrives.
        if is_unreachable || change.0 == TaskState::Gone {
            let update = self.by_master(change, list.wall_ms);
            self.commit(key, TaskUpdate { standing, ..update });
        }
    }
}
