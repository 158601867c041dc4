//! Subscription, change, disconnection and removal of frameworks.

use std::sync::Arc;

use super::CommandContext;
use crate::Registry;
use crate::capability;
use crate::command::{
    ApplyOutcome, CommandReply, FrameworkDecision, RaiseLowWater, Rejection, Subscribe, SweepTarget,
};
use crate::event::Event;
use crate::framework::{FinishedFramework, Framework, FrameworkInfo, SchedulerConnection};
use crate::ids::FrameworkId;
use crate::level::Level;
use crate::limits;
use crate::registry::{RecordKey, SweepMark};

impl Registry {
    pub(super) fn subscribe(
        &mut self,
        context: &mut CommandContext,
        subscribe: &Subscribe,
    ) -> ApplyOutcome {
        check_subscription(subscribe.session, &subscribe.info)?;
        let by_session = || self.framework_by_session(&subscribe.info.principal, subscribe.session);
        match subscribe.framework.or_else(by_session) {
            Some(id) => self.resume_framework(context, id, subscribe),
            None => self.add_framework(context, subscribe),
        }
    }

    fn add_framework(
        &mut self,
        context: &mut CommandContext,
        subscribe: &Subscribe,
    ) -> ApplyOutcome {
        let id = FrameworkId(self.cluster.last_framework + 1);
        let framework = Framework {
            id,
            info: Arc::new(subscribe.info.clone()),
            session: subscribe.session,
            past_sessions: Default::default(),
            connection: SchedulerConnection::Connected,
            low_water: 0,
            suppressed: Default::default(),
            removing: false,
            revision: context.next_revision(),
        };
        self.check_framework_bytes(&framework)?;
        self.make_room_for_framework(context, &subscribe.info.principal)?;
        self.cluster.last_framework = id.0;
        self.changed.insert(RecordKey::Cluster);
        self.put_framework(framework);
        context.emit(Event::FrameworkSubscribed(id));
        Ok(CommandReply::Framework(id))
    }

    fn resume_framework(
        &mut self,
        context: &mut CommandContext,
        id: FrameworkId,
        subscribe: &Subscribe,
    ) -> ApplyOutcome {
        let known = self
            .frameworks
            .get(&id)
            .ok_or(Rejection::UnknownFramework(id))?;
        if known.removing {
            return Err(Rejection::FrameworkRemoved(id));
        }
        if known.info.principal != subscribe.info.principal {
            return Err(Rejection::PrincipalChanged(known.info.principal.clone()));
        }
        if known.past_sessions.contains(&subscribe.session) {
            return Err(Rejection::Superseded(id));
        }
        let fresh = known.session != subscribe.session;
        let becomes_detached = subscribe.info.detached && !known.info.detached;
        if !fresh
            && known.connection == SchedulerConnection::Connected
            && *known.info == subscribe.info
        {
            return Ok(CommandReply::Framework(id));
        }
        let mut framework = known.clone();
        framework.info = Arc::new(subscribe.info.clone());
        self.check_framework_bytes(&framework)?;
        if fresh {
            framework.past_sessions.push_back(framework.session);
            if framework.past_sessions.len() > limits::PAST_SESSIONS {
                framework.past_sessions.pop_front();
            }
            framework.session = subscribe.session;
            framework.low_water = 0;
            // A new scheduler does not know what the former one had suppressed.
            framework.suppressed.clear();
            // The former scheduler may still repeat an answered call. Answers of earlier sessions
            // are dropped.
            let former = known.session;
            self.drop_answers(id, limits::ANSWERS_PER_FRAMEWORK, |session| {
                session != former
            });
        }
        framework
            .suppressed
            .retain(|role| subscribe.info.roles.contains(role));
        framework.connection = SchedulerConnection::Connected;
        framework.revision = context.next_revision();
        self.put_framework(framework);
        context.emit(Event::FrameworkSubscribed(id));
        if becomes_detached {
            self.acknowledge_ended(context, id);
        }
        Ok(CommandReply::Framework(id))
    }

    /// Moves ended tasks to the history, because the framework no longer acknowledges them.
    pub(super) fn acknowledge_ended(&mut self, context: &mut CommandContext, id: FrameworkId) {
        self.begin_sweep(context, SweepTarget::Framework(id), 0);
    }

    pub(super) fn disconnect_framework(
        &mut self,
        context: &mut CommandContext,
        decision: &FrameworkDecision,
    ) -> ApplyOutcome {
        let mut framework = self.check_decision(decision)?.clone();
        if framework.connection != SchedulerConnection::Connected {
            return Ok(CommandReply::Done);
        }
        framework.connection = SchedulerConnection::Disconnected { since: context.at };
        framework.revision = context.next_revision();
        let id = framework.id;
        let expires_now = !framework.info.detached && framework.info.failover_timeout_ms == 0;
        self.put_framework(framework);
        context.emit(Event::FrameworkChanged(id));
        if expires_now {
            self.begin_removal(context, id);
        }
        self.remove_framework_if_done(context, id);
        Ok(CommandReply::Done)
    }

    pub(super) fn expire_framework(
        &mut self,
        context: &mut CommandContext,
        decision: &FrameworkDecision,
    ) -> ApplyOutcome {
        let framework = self.check_decision(decision)?;
        if framework
            .deadline()
            .is_none_or(|deadline| deadline > context.at)
        {
            return Err(Rejection::Conflict);
        }
        self.begin_removal(context, decision.framework);
        Ok(CommandReply::Done)
    }

    fn check_decision(&self, decision: &FrameworkDecision) -> Result<&Framework, Rejection> {
        let framework = self
            .frameworks
            .get(&decision.framework)
            .ok_or(Rejection::UnknownFramework(decision.framework))?;
        if framework.removing || framework.revision != decision.decided_on {
            Err(Rejection::Conflict)
        } else {
            Ok(framework)
        }
    }

    /// Marks a framework for removal. Sweeps kill its tasks, and it is removed with the last of
    /// them.
    pub(super) fn begin_removal(&mut self, context: &mut CommandContext, id: FrameworkId) {
        let mut framework = self
            .frameworks
            .get(&id)
            .expect("the caller has just looked it up")
            .clone();
        framework.removing = true;
        framework.revision = context.next_revision();
        self.put_framework(framework);
        context.emit(Event::FrameworkRemoving(id));
        self.begin_sweep(context, SweepTarget::Framework(id), 0);
    }

    /// Removes a framework that has no tasks and no running sweep left, if it is marked for
    /// removal, or is detached and not connected. Since level 3 a sweep drops its answers before.
    pub(super) fn remove_framework_if_done(
        &mut self,
        context: &mut CommandContext,
        id: FrameworkId,
    ) {
        let Some(framework) = self.frameworks.get(&id) else {
            return;
        };
        // A running sweep calls this function again when it ends.
        let swept = !self
            .cluster
            .sweeps
            .contains_key(&SweepTarget::Framework(id));
        let left = self
            .index
            .frameworks
            .get(&id)
            .is_some_and(|index| !index.tasks.is_empty());
        let left_alone =
            framework.info.detached && framework.connection != SchedulerConnection::Connected;
        if left || !swept || !(framework.removing || left_alone) {
            return;
        }
        let is_swept_first = self.level() >= Level::RELEASE_0_2;
        if is_swept_first && self.answers_of(id) > 0 {
            return self.leave_answers_to_sweep(context, id);
        }
        let reason = match (left_alone, framework.removing) {
            // The mark may be for the sweep of its answers.
            (true, _) if is_swept_first => "detached",
            (_, true) => "removed",
            (_, false) => "detached; its last task ended",
        };
        self.drop_answers(id, limits::ANSWERS_PER_FRAMEWORK, |_| true);
        let framework = self.remove_framework(id);
        let serial = self.next_finished();
        self.changed.insert(RecordKey::FinishedFramework(serial));
        let mut info = Arc::unwrap_or_clone(framework.info);
        if self.level() >= Level::RELEASE_0_2 {
            info.labels.clear();
        }
        let finished = FinishedFramework {
            id,
            info,
            revision: context.next_revision(),
            reason: reason.to_owned(),
        };
        self.finished_frameworks.insert(serial, finished);
        if self.finished_frameworks.len() > limits::FINISHED_FRAMEWORKS {
            let (oldest, _) = self
                .finished_frameworks
                .pop_first()
                .expect("it is longer than its limit");
            self.changed.insert(RecordKey::FinishedFramework(oldest));
        }
        context.emit(Event::FrameworkRemoved(id));
    }

    /// Marks a framework without tasks for removal after a sweep of its answers, which may be many,
    /// as may be the frameworks that one command ends. It cannot return: of its calls, those whose
    /// answers are dropped would be applied again.
    fn leave_answers_to_sweep(&mut self, context: &mut CommandContext, id: FrameworkId) {
        let mut framework = self.frameworks[&id].clone();
        framework.removing = true;
        framework.revision = context.next_revision();
        self.put_framework(framework);
        self.put_sweep(SweepTarget::Framework(id), SweepMark::default());
        context.emit(Event::FrameworkRemoving(id));
        context.emit(Event::SweepNeeded);
    }

    pub(super) fn raise_low_water(&mut self, raise: &RaiseLowWater) -> ApplyOutcome {
        let framework = self
            .frameworks
            .get(&raise.framework)
            .ok_or(Rejection::UnknownFramework(raise.framework))?;
        if framework.session != raise.session {
            return Err(Rejection::Superseded(raise.framework));
        }
        self.refuse_calls_below(raise.framework, raise.to);
        Ok(CommandReply::Done)
    }
}

/// Validates the parts of a subscription that need no fact of the registry, so that a service can
/// reject it before it is proposed.
///
/// # Errors
/// [`Rejection::Invalid`] names the field.
pub fn check_subscription(session: u64, info: &FrameworkInfo) -> Result<(), Rejection> {
    check_info(info)?;
    if session == 0 {
        return Err(Rejection::Invalid {
            field: "session".into(),
            text: "choose a random number that is not 0".into(),
        });
    }
    Ok(())
}

/// Validates the description of a framework.
pub(super) fn check_info(info: &FrameworkInfo) -> Result<(), Rejection> {
    let invalid = |field: &str, text: &str| {
        Err(Rejection::Invalid {
            field: field.into(),
            text: text.into(),
        })
    };
    if info.name.is_empty() || info.name.len() > limits::NAME_BYTES {
        return invalid("info.name", "give it 1 to 255 bytes");
    }
    if info.roles.is_empty() || info.roles.len() > limits::ROLES_PER_FRAMEWORK {
        return invalid("info.roles", "name 1 to 64 roles; * is the default one");
    }
    let long = [&info.user, &info.principal, &info.web_url]
        .into_iter()
        .any(|text| text.len() > limits::NAME_BYTES);
    let labels: usize = info
        .labels
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if long || labels > 64 * 1024 {
        return invalid(
            "info",
            "user, principal and web_url take 255 bytes each, labels 64 KiB together",
        );
    }
    if !capability::are_bounded(&info.capabilities) {
        return invalid("info.capabilities", &capability::bounds());
    }
    Ok(())
}
