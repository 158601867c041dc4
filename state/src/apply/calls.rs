//! Numbered calls of frameworks: each is applied at most once, and its answer is remembered.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::CommandContext;
use super::frameworks::check_info;
use crate::Registry;
use crate::command::{
    ApplyOutcome, Call, CallAction, CommandReply, Position, Rejection, StoredRejection,
};
use crate::event::Event;
use crate::framework::{AnswerOutcome, CallAnswer, FrameworkInfo};
use crate::ids::{FrameworkId, Revision, Role, TaskId, TaskKey};
use crate::limits;
use crate::planted_bug;
use crate::registry::RecordKey;

/// The number of refusals that an answer keeps by position. For later positions a repeat reports
/// only that the call was applied.
const MAX_REFUSED_STORED: usize = 64;

impl Registry {
    pub(super) fn call(&mut self, context: &mut CommandContext, call: &Call) -> ApplyOutcome {
        if let Some(answer) = self
            .answers
            .get(&(call.framework, call.session, call.number))
        {
            return if answer.hash == call.hash {
                Ok(CommandReply::Repeated(answer.clone()))
            } else {
                Err(Rejection::CallReused(call.number))
            };
        }
        self.may_act(call)?;
        let answered_below = call.lowest_unanswered.min(call.number);
        self.refuse_calls_below(call.framework, answered_below);
        self.forget_answers_below(call.framework, call.session, answered_below);
        if self.answers_of(call.framework) >= limits::ANSWERS_PER_FRAMEWORK {
            // Answers of earlier sessions are dropped first.
            self.drop_answers(call.framework, limits::ANSWERS_PER_FRAMEWORK, |session| {
                session != call.session
            });
        }
        if self.answers_of(call.framework) >= limits::ANSWERS_PER_FRAMEWORK {
            return Err(Rejection::TooManyAnswers);
        }
        if self.is_bounded() && self.answers.len() >= limits::ANSWERS {
            return Err(Rejection::Full(format!(
                "{} answers of all frameworks are kept, which is the most: send the lowest number still open with each call",
                limits::ANSWERS
            )));
        }
        let revision = context.next_revision();
        let outcome = self.act(context, call, revision);
        // A teardown drops all answers, including its own. A repeat is rejected because the
        // framework is removed.
        if self
            .frameworks
            .get(&call.framework)
            .is_some_and(|framework| !framework.removing)
        {
            self.store_answer(call, revision, &outcome);
        }
        outcome.map(|refused| CommandReply::Call { revision, refused })
    }

    /// Checks whether a call without an answer would be applied, regardless of its action. A caller
    /// that answers before the call is in the log must check this first. If the framework is being
    /// removed, the session is superseded, or the number is below the low water, the fate of the
    /// call is unknown and only its entry determines it.
    ///
    /// # Errors
    /// The rejection that the entry of the call would get now.
    pub fn may_act(&self, call: &Call) -> Result<(), Rejection> {
        let framework = self
            .frameworks
            .get(&call.framework)
            .ok_or(Rejection::UnknownFramework(call.framework))?;
        if framework.removing {
            return Err(Rejection::FrameworkRemoved(call.framework));
        }
        if framework.session != call.session && !planted_bug!(SessionNotChecked) {
            return Err(Rejection::Superseded(call.framework));
        }
        if call.number < framework.low_water {
            return Err(Rejection::StaleCall {
                number: call.number,
                low_water: framework.low_water,
            });
        }
        Ok(())
    }

    fn act(
        &mut self,
        context: &mut CommandContext,
        call: &Call,
        revision: Revision,
    ) -> Result<Vec<(Position, Rejection)>, Rejection> {
        match &call.action {
            CallAction::Accept(accept) => self.accept(context, call, accept),
            CallAction::Kill { task, grace_ms } => self
                .kill(context, call, task, *grace_ms)
                .map(|()| Vec::new()),
            CallAction::UpdateLimits { task, limits } => {
                let key = TaskKey {
                    framework: call.framework,
                    task: task.clone(),
                };
                self.update_limits(context, &key, limits, revision)
                    .map(|()| Vec::new())
            }
            CallAction::Suppress(roles) => self
                .suppress(context, call.framework, roles, revision)
                .map(|()| Vec::new()),
            CallAction::Revive(roles) => self
                .revive(context, call.framework, roles, revision)
                .map(|()| Vec::new()),
            CallAction::Update(info) => self
                .update_info(context, call.framework, info, revision)
                .map(|()| Vec::new()),
            CallAction::Teardown => {
                self.begin_removal(context, call.framework);
                Ok(Vec::new())
            }
        }
    }

    fn store_answer(
        &mut self,
        call: &Call,
        revision: Revision,
        outcome: &Result<Vec<(Position, Rejection)>, Rejection>,
    ) {
        let outcome = match outcome {
            Ok(refused) => {
                let kept = refused
                    .iter()
                    .take(MAX_REFUSED_STORED)
                    .map(|(position, why)| (*position, why.number()));
                AnswerOutcome::Done {
                    refused: kept.collect(),
                }
            }
            Err(why) => AnswerOutcome::Refused(StoredRejection::of(why, self.level())),
        };
        let key = (call.framework, call.session, call.number);
        self.answers.insert(
            key,
            CallAnswer {
                hash: call.hash,
                revision,
                outcome,
            },
        );
        self.changed
            .insert(RecordKey::CallAnswer(key.0, key.1, key.2));
        self.index.frameworks.or_default(call.framework).answers += 1;
    }

    pub(super) fn answers_of(&self, id: FrameworkId) -> usize {
        self.index
            .frameworks
            .get(&id)
            .map_or(0, |index| index.answers)
    }

    /// Rejects calls of the current session below `to` from now on. Remembered answers are kept,
    /// because the caller may still repeat those calls.
    pub(super) fn refuse_calls_below(&mut self, id: FrameworkId, to: u64) {
        let framework = self
            .frameworks
            .get_mut(&id)
            .expect("the caller has just looked it up");
        if to > framework.low_water {
            framework.low_water = to;
            self.changed.insert(RecordKey::Framework(id));
        }
    }

    /// Removes answers that the caller has processed.
    fn forget_answers_below(&mut self, id: FrameworkId, session: u64, to: u64) {
        let old: Vec<_> = self
            .answers
            .range((id, session, 0)..(id, session, to))
            .map(|(key, _)| *key)
            .collect();
        for key in old {
            self.drop_answer(key);
        }
    }

    /// Removes at most `most` answers of a framework's matching sessions, and returns their number.
    pub(super) fn drop_answers(
        &mut self,
        id: FrameworkId,
        most: usize,
        session_matches: impl Fn(u64) -> bool,
    ) -> usize {
        let all = self
            .answers
            .range((id, 0, 0)..=(id, u64::MAX, u64::MAX))
            .map(|(key, _)| *key);
        let keys: Vec<_> = all
            .filter(|(_, session, _)| session_matches(*session))
            .take(most)
            .collect();
        for key in &keys {
            self.drop_answer(*key);
        }
        keys.len()
    }

    fn drop_answer(&mut self, key: (FrameworkId, u64, u64)) {
        self.answers.remove(&key);
        self.changed
            .insert(RecordKey::CallAnswer(key.0, key.1, key.2));
        if let Some(index) = self.index.frameworks.get_mut(&key.0) {
            index.answers -= 1;
        }
    }

    /// Kills a task. An answer of UNKNOWN guarantees that no call with a lower number can still
    /// start the task.
    fn kill(
        &mut self,
        context: &mut CommandContext,
        call: &Call,
        task: &TaskId,
        grace_ms: Option<u64>,
    ) -> Result<(), Rejection> {
        let key = TaskKey {
            framework: call.framework,
            task: task.clone(),
        };
        if self.tasks.contains_key(&key) {
            self.request_kill(context, &key, grace_ms);
            return Ok(());
        }
        // The task has ended and its id is taken: no call can start it again.
        if self.index.history.contains_key(&key) {
            return Ok(());
        }
        self.refuse_calls_below(call.framework, call.number);
        Err(Rejection::UnknownTask(key))
    }

    fn suppress(
        &mut self,
        context: &mut CommandContext,
        id: FrameworkId,
        roles: &[Role],
        revision: Revision,
    ) -> Result<(), Rejection> {
        let framework = self.frameworks.get(&id).expect("the call found it");
        let mut suppressed = framework.suppressed.clone();
        suppressed.extend(chosen(&framework.info, roles)?);
        if suppressed.len() != framework.suppressed.len() {
            self.set_suppressed(id, suppressed, revision);
            context.emit(Event::FrameworkChanged(id));
        }
        Ok(())
    }

    fn revive(
        &mut self,
        context: &mut CommandContext,
        id: FrameworkId,
        roles: &[Role],
        revision: Revision,
    ) -> Result<(), Rejection> {
        let framework = self.frameworks.get(&id).expect("the call found it");
        let roles = chosen(&framework.info, roles)?;
        let mut suppressed = framework.suppressed.clone();
        for role in &roles {
            suppressed.remove(role);
        }
        if suppressed.len() != framework.suppressed.len() {
            self.set_suppressed(id, suppressed, revision);
        }
        context.emit(Event::FrameworkRevived {
            framework: id,
            roles,
        });
        Ok(())
    }

    /// Changes the roles in which a framework requests no offers. Its description, which may be
    /// large, is not read.
    fn set_suppressed(&mut self, id: FrameworkId, roles: BTreeSet<Role>, revision: Revision) {
        let framework = self.frameworks.get_mut(&id).expect("the call found it");
        self.index.weigh_suppressed(&framework.suppressed, &roles);
        framework.suppressed = roles;
        framework.revision = revision;
        self.changed.insert(RecordKey::Framework(id));
    }

    fn update_info(
        &mut self,
        context: &mut CommandContext,
        id: FrameworkId,
        info: &FrameworkInfo,
        revision: Revision,
    ) -> Result<(), Rejection> {
        check_info(info)?;
        let mut framework = self.frameworks.get(&id).expect("the call found it").clone();
        if framework.info.principal != info.principal {
            let principal = framework.info.principal.clone();
            return Err(Rejection::PrincipalChanged(principal));
        }
        if *framework.info != *info {
            let becomes_detached = info.detached && !framework.info.detached;
            framework
                .suppressed
                .retain(|role| info.roles.contains(role));
            framework.info = Arc::new(info.clone());
            framework.revision = revision;
            self.check_framework_bytes(&framework)?;
            self.put_framework(framework);
            context.emit(Event::FrameworkChanged(id));
            if becomes_detached {
                self.acknowledge_ended(context, id);
            }
        }
        Ok(())
    }
}

/// Returns the named roles, or all roles. A role that the framework does not have is refused.
fn chosen(info: &FrameworkInfo, roles: &[Role]) -> Result<Vec<Role>, Rejection> {
    if roles.is_empty() {
        return Ok(info.roles.iter().cloned().collect());
    }
    match roles.iter().find(|role| !info.roles.contains(*role)) {
        Some(role) => Err(Rejection::Invalid {
            field: "roles".into(),
            text: format!("the framework is not in role {role}"),
        }),
        None => Ok(roles.to_vec()),
    }
}
