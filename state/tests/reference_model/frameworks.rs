//! Frameworks: sessions, numbered calls, absence and removal.

use super::model::*;

impl Model {
    pub(crate) fn subscribe(&mut self, subscribe: &Subscribe) -> ApplyOutcome {
        let (session, info) = (subscribe.session, &subscribe.info);
        refuse(info.roles.is_empty(), invalid("info.roles"))?;
        refuse(session == 0, invalid("session"))?;
        let known = match subscribe.framework {
            Some(id) => Some(self.framework(id)?),
            None => self.frameworks.values().find(|known| {
                let is_known = known.session == session || known.past_sessions.contains(&session);
                known.info.principal == info.principal && is_known
            }),
        };
        let Some(known) = known else {
            let id = self.subscribe_first(session, info);
            return Ok(CommandReply::Framework(id));
        };
        let (id, former) = (known.id, known.session);
        refuse(known.removing, Rejection::FrameworkRemoved(id))?;
        if known.past_sessions.contains(&session) {
            return Err(Rejection::Superseded(id));
        }
        let is_connected = known.connection == SchedulerConnection::Connected;
        if former == session && is_connected && *known.info == *info {
            return Ok(CommandReply::Framework(id));
        }
        let revision = self.revision();
        self.set_info(id, info, revision);
        let known = self.framework_mut(id);
        known.connection = SchedulerConnection::Connected;
        if former != session {
            known.session = session;
            known.past_sessions.push_back(former);
            known.low_water = 0;
            known.suppressed.clear();
            // The former scheduler may still repeat its calls.
            self.answers
                .retain(|(of, number, _), _| *of != id || *number == former);
        }
        self.emit(Event::FrameworkSubscribed(id));
        self.finish_if_detached(id);
        Ok(CommandReply::Framework(id))
    }

    fn subscribe_first(&mut self, session: u64, info: &FrameworkInfo) -> FrameworkId {
        self.cluster.last_framework += 1;
        let id = FrameworkId(self.cluster.last_framework);
        let framework = Framework {
            id,
            info: info.clone().into(),
            session,
            past_sessions: Default::default(),
            connection: SchedulerConnection::Connected,
            low_water: 0,
            suppressed: Default::default(),
            removing: false,
            revision: self.revision(),
        };
        self.frameworks.insert(id, framework);
        self.emit(Event::FrameworkSubscribed(id));
        id
    }

    fn set_info(&mut self, id: FrameworkId, info: &FrameworkInfo, revision: Revision) {
        let framework = self.framework_mut(id);
        framework.info = info.clone().into();
        let roles = &info.roles;
        framework.suppressed.retain(|role| roles.contains(role));
        framework.revision = revision;
    }

    /// Acknowledges the ends of the tasks of a detached framework.
    fn finish_if_detached(&mut self, id: FrameworkId) {
        if self.frameworks[&id].info.detached {
            for key in self.keys(|task| task.key.framework == id && task.is_terminal()) {
                self.finish(&key);
            }
            self.remove_if_done(id);
        }
    }

    pub(crate) fn disconnect(&mut self, decision: &FrameworkDecision) -> Checked {
        let id = decision.framework;
        let framework = self.framework(id)?;
        let is_late = framework.removing || framework.revision != decision.decided_on;
        refuse(is_late, Rejection::Conflict)?;
        if framework.connection != SchedulerConnection::Connected {
            return Ok(());
        }
        let (since, revision) = (self.time, self.revision());
        let framework = self.framework_mut(id);
        framework.connection = SchedulerConnection::Disconnected { since };
        framework.revision = revision;
        let is_over = framework.info.failover_timeout_ms == 0 && !framework.info.detached;
        self.emit(Event::FrameworkChanged(id));
        match is_over {
            true => self.tear_down(id),
            false => self.remove_if_done(id),
        }
        Ok(())
    }

    pub(crate) fn expire(&mut self, decision: &FrameworkDecision) -> Checked {
        let id = decision.framework;
        let framework = self.framework(id)?;
        let SchedulerConnection::Disconnected { since } = framework.connection else {
            return Err(Rejection::Conflict);
        };
        let is_due = self.time >= since.plus_ms(framework.info.failover_timeout_ms);
        let is_late = framework.removing || framework.revision != decision.decided_on;
        let is_kept = framework.info.detached || !is_due;
        refuse(is_late || is_kept, Rejection::Conflict)?;
        self.tear_down(id);
        Ok(())
    }

    /// Marks a framework for removal, and kills its tasks.
    pub(crate) fn tear_down(&mut self, id: FrameworkId) {
        let revision = self.revision();
        let framework = self.framework_mut(id);
        framework.removing = true;
        framework.revision = revision;
        self.emit(Event::FrameworkRemoving(id));
        self.answers.retain(|(of, ..), _| *of != id);
        for key in self.keys(|task| task.key.framework == id) {
            match self.tasks[&key].is_terminal() {
                true => self.finish(&key),
                false => self.kill(&key, None).expect("it was found"),
            }
        }
        self.remove_if_done(id);
    }

    /// Removes a framework without tasks that is torn down, or detached and disconnected.
    pub(crate) fn remove_if_done(&mut self, id: FrameworkId) {
        let Some(framework) = self.frameworks.get(&id) else {
            return;
        };
        let is_away = framework.connection != SchedulerConnection::Connected;
        let is_left = framework.removing || (framework.info.detached && is_away);
        let target = SweepTarget::Framework(id);
        let is_swept = self.cluster.sweeps.contains_key(&target);
        if !is_left || is_swept || self.tasks_of(id).next().is_some() {
            return;
        }
        // Many frameworks with many answers may end in one command.
        if self.is_level_3() && self.answers.keys().any(|(of, ..)| *of == id) {
            let revision = self.revision();
            let framework = self.framework_mut(id);
            framework.removing = true;
            framework.revision = revision;
            self.cluster.sweeps.insert(target, SweepMark::default());
            self.emit(Event::FrameworkRemoving(id));
            self.emit(Event::SweepNeeded);
            return;
        }
        let is_detached = framework.info.detached && is_away;
        let reason = match framework.removing && !(is_detached && self.is_level_3()) {
            true => "removed",
            false => "detached",
        };
        self.finished_frameworks.push(FinishedFramework {
            id,
            info: (*framework.info).clone(),
            revision: self.next,
            reason: reason.to_owned(),
        });
        self.revision();
        self.frameworks.remove(&id);
        self.answers.retain(|(of, ..), _| *of != id);
        self.cluster.last_finished += 1;
        self.emit(Event::FrameworkRemoved(id));
    }

    /// Drops the answers of a framework that has ended, and removes it.
    pub(crate) fn sweep(&mut self, id: FrameworkId) {
        let sweeps = &mut self.cluster.sweeps;
        if sweeps.remove(&SweepTarget::Framework(id)).is_some() {
            self.answers.retain(|(of, ..), _| *of != id);
            self.remove_if_done(id);
        }
    }

    pub(crate) fn raise_low_water(&mut self, raise: &RaiseLowWater) -> Checked {
        let id = raise.framework;
        let is_former = self.framework(id)?.session != raise.session;
        refuse(is_former, Rejection::Superseded(id))?;
        self.raise(id, raise.to);
        Ok(())
    }

    fn raise(&mut self, id: FrameworkId, to: u64) {
        let framework = self.framework_mut(id);
        framework.low_water = framework.low_water.max(to);
    }

    pub(crate) fn call(&mut self, call: &Call) -> ApplyOutcome {
        let (id, number) = (call.framework, call.number);
        let framework = self.framework(id)?;
        let low_water = framework.low_water;
        let name = (id, call.session, number);
        if let Some(answer) = self.answers.get(&name) {
            refuse(answer.hash != call.hash, Rejection::CallReused(number))?;
            return Ok(CommandReply::Repeated(answer.clone()));
        }
        refuse(framework.removing, Rejection::FrameworkRemoved(id))?;
        refuse(framework.session != call.session, Rejection::Superseded(id))?;
        if number < low_water {
            return Err(Rejection::StaleCall { number, low_water });
        }
        let lowest = call.lowest_unanswered.min(number);
        self.raise(id, lowest);
        self.answers.retain(|(of, session, answered), _| {
            *of != id || *session != call.session || *answered >= lowest
        });
        let revision = self.revision();
        let result = self.action(call, revision);
        let outcome = match &result {
            Ok(refused) => {
                let codes = refused.iter().map(|(at, why)| (*at, why.number()));
                let refused = codes.collect();
                AnswerOutcome::Done { refused }
            }
            Err(why) => AnswerOutcome::Refused(StoredRejection::of(why, self.cluster.level)),
        };
        let framework = self.frameworks.get(&id);
        if framework.is_some_and(|framework| !framework.removing) {
            let answer = CallAnswer {
                hash: call.hash,
                revision,
                outcome,
            };
            self.answers.insert(name, answer);
        }
        result.map(|refused| CommandReply::Call { revision, refused })
    }

    /// Performs a call. Returns the refused positions.
    fn action(&mut self, call: &Call, revision: Revision) -> Checked<Refused> {
        let framework = call.framework;
        match &call.action {
            CallAction::Accept(accept) => return self.accept(framework, accept),
            CallAction::Kill { task, grace_ms } => {
                let killed = self.kill(&key(framework, task), *grace_ms);
                if killed.is_err() {
                    // No earlier call may start the task after this answer.
                    self.raise(framework, call.number);
                }
                killed?;
            }
            CallAction::UpdateLimits { task, limits } => {
                self.limit(&key(framework, task), limits, revision)?;
            }
            CallAction::Suppress(roles) => {
                let roles = self.named_roles(framework, roles)?;
                let known = self.framework_mut(framework);
                if !roles.iter().all(|role| known.suppressed.contains(role)) {
                    known.suppressed.extend(roles);
                    known.revision = revision;
                    self.emit(Event::FrameworkChanged(framework));
                }
            }
            CallAction::Revive(roles) => {
                let roles = self.named_roles(framework, roles)?;
                let known = self.framework_mut(framework);
                if roles.iter().any(|role| known.suppressed.contains(role)) {
                    known.suppressed.retain(|role| !roles.contains(role));
                    known.revision = revision;
                }
                self.emit(Event::FrameworkRevived { framework, roles });
            }
            CallAction::Update(info) => {
                refuse(info.roles.is_empty(), invalid("info.roles"))?;
                if *self.frameworks[&framework].info != *info {
                    self.set_info(framework, info, revision);
                    self.emit(Event::FrameworkChanged(framework));
                    self.finish_if_detached(framework);
                }
            }
            CallAction::Teardown => self.tear_down(framework),
        }
        Ok(Vec::new())
    }

    /// Returns the roles that a call names: all of the framework if it names none.
    fn named_roles(&self, id: FrameworkId, named: &[Role]) -> Checked<Vec<Role>> {
        let all = &self.frameworks[&id].info.roles;
        let is_foreign = |role: &Role| !all.contains(role);
        refuse(named.iter().any(is_foreign), invalid("roles"))?;
        let is_named = |role: &&Role| named.is_empty() || named.contains(role);
        Ok(all.iter().filter(is_named).cloned().collect())
    }
}
