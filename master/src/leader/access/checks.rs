//! Checks of the inputs of a leader, by their kind.

use std::collections::BTreeSet;

use argosy_state::Registry;
use argosy_state::access::Action;
use argosy_state::actor::{Actor, PrincipalKind};
use argosy_state::command::{Call, CallAction, Operate, OperatorOperation, Rejection};
use argosy_state::framework::Framework;
use argosy_state::ids::{AgentId, FrameworkId, Role, TaskId, TaskKey};

use super::Refused;
use crate::access::{
    DENIED, Decision, Denial, Object, PermitCache, UNPROVEN, decide_all, denied_operation, is_owner,
};
use crate::leader::{Hello, Input, SchedulerHello};

/// The code of [`Rejection::UnknownFramework`].
const UNKNOWN_FRAMEWORK: &str = "unknown-framework";

/// The facts by which inputs are checked.
pub(super) struct Checks<'a> {
    pub(super) registry: &'a Registry,
    /// The rights of callers by the registry's policy.
    pub(super) permits: &'a mut PermitCache,
}

impl Checks<'_> {
    /// Checks an input. The principal of a framework becomes the proven one.
    pub(super) fn input(&mut self, input: &mut Input) -> Result<(), Refused> {
        let update = Action::UpdateFramework;
        match input {
            Input::AgentHello { actor, hello, .. } => {
                let agent = known_agent(self.registry, hello);
                self.agent(actor, agent)
            }
            Input::Subscribe {
                actor,
                subscription,
                ..
            } => self.subscription(actor, subscription),
            Input::FrameworkHeartbeat {
                actor, framework, ..
            } => self.framework(actor, *framework, update),
            Input::Decline { actor, decline, .. } => {
                self.framework(actor, decline.framework, update)
            }
            Input::Message { actor, message, .. } => {
                self.framework(actor, message.framework, update)
            }
            Input::Acknowledge {
                actor, acknowledge, ..
            } => self.framework(actor, acknowledge.framework, update),
            Input::Reconcile {
                actor, reconcile, ..
            } => self.framework(actor, reconcile.framework, update),
            Input::Call { actor, call, .. } => self.call(actor, call),
            Input::Operate { actor, operate, .. } => self.operations(actor, operate),
            Input::RaiseLevel { actor, .. } => {
                self.object(actor, Action::RaiseLevel, &Object::CLUSTER)
            }
            // Of links whose first message was permitted, and of this master itself.
            Input::AgentReport { .. }
            | Input::AgentList { .. }
            | Input::AgentPing { .. }
            | Input::AgentMessage { .. }
            | Input::AgentClosed { .. }
            | Input::FrameworkClosed { .. }
            | Input::FrameworkBehind { .. }
            | Input::Applied(_)
            | Input::BeyondLevel { .. }
            | Input::TooLarge { .. }
            | Input::Unreadable { .. }
            | Input::Tick => Ok(()),
        }
    }

    fn object(
        &mut self,
        actor: &Actor,
        action: Action,
        object: &Object<'_>,
    ) -> Result<(), Refused> {
        self.permits.check(actor, action, object).map_err(refused)
    }

    /// Checks an agent, by the id that it has, if it has one.
    pub(super) fn agent(&mut self, actor: &Actor, agent: Option<AgentId>) -> Result<(), Refused> {
        let object = agent.map_or(Object::CLUSTER, Object::agent);
        self.object(actor, Action::ConnectAgent, &object)?;
        match actor {
            Actor::Principal(principal) if principal.kind != PrincipalKind::Agent => {
                let text = format!(
                    "{actor} may not connect as an agent, whatever the rules: that needs a certificate of the kind agent"
                );
                Err((DENIED, text))
            }
            Actor::Principal(_) | Actor::Unauthenticated | Actor::Cluster => Ok(()),
        }
    }

    /// Checks each role in which a framework wants to register.
    pub(super) fn roles(&mut self, actor: &Actor, roles: &BTreeSet<Role>) -> Result<(), Refused> {
        let permits = self.permits.permits(actor, Action::RegisterFramework);
        let (decision, object) = decide_all(&permits, roles.iter().map(Object::role));
        let action = Action::RegisterFramework;
        let denied = self.permits.denial(decision, actor, action, &object);
        denied.map_err(refused)
    }

    /// Checks whether a scheduler may keep the stream of a registered framework: for the roles that
    /// it has now.
    pub(super) fn stream(&mut self, actor: &Actor, framework: &Framework) -> Result<(), Refused> {
        self.roles(actor, &framework.info.roles)?;
        match is_owner(framework, actor) {
            true => Ok(()),
            false => {
                let checked = self.framework(actor, framework.id, Action::UpdateFramework);
                // It has seen the framework, so it may learn that it exists.
                let id = framework.id;
                checked.map_err(|_| (DENIED, format!("{actor} may no longer update {id}")))
            }
        }
    }

    /// Checks a subscription, and sets its principal: the proven one for a new framework, and the
    /// registered one for a framework that the caller may update.
    fn subscription(
        &mut self,
        actor: &Actor,
        subscription: &mut SchedulerHello,
    ) -> Result<(), Refused> {
        let info = &mut subscription.info;
        self.roles(actor, &info.roles)?;
        // A claim must not make a framework that of another principal.
        info.principal = match actor {
            Actor::Principal(principal) => principal.to_string(),
            Actor::Unauthenticated | Actor::Cluster => String::new(),
        };
        let session = subscription.session;
        let named = subscription.framework;
        let known = named.or_else(|| self.registry.framework_by_session(&info.principal, session));
        if let Some(framework) = known.and_then(|id| self.registry.framework(id))
            && !is_owner(framework, actor)
        {
            let checked = self.framework(actor, framework.id, Action::UpdateFramework);
            checked.map_err(|(code, text)| match code {
                // As the end of a stream whose framework does not exist.
                UNKNOWN_FRAMEWORK => ("removed", text),
                _ => (code, text),
            })?;
            info.principal.clone_from(&framework.info.principal);
        }
        Ok(())
    }

    /// Checks a call on a framework. Its own principal may make it, unless a rule denies it.
    fn framework(&mut self, actor: &Actor, id: FrameworkId, action: Action) -> Result<(), Refused> {
        self.permits.check_proof(actor, action).map_err(refused)?;
        let Some(framework) = self.registry.framework(id) else {
            return self.unknown(actor);
        };
        let permits = self.permits.permits(actor, action);
        let (decision, object) = decide_all(&permits, Object::framework(id, &framework.info));
        self.check_owned(framework, actor, action, (decision, object))
    }

    /// Checks a call on a task of a framework.
    fn task(
        &mut self,
        actor: &Actor,
        id: FrameworkId,
        task: &TaskId,
        action: Action,
    ) -> Result<(), Refused> {
        self.permits.check_proof(actor, action).map_err(refused)?;
        let Some(framework) = self.registry.framework(id) else {
            return self.unknown(actor);
        };
        let task = task.clone();
        let key = TaskKey {
            framework: id,
            task,
        };
        let mut objects = Object::of_key(self.registry, &key, None);
        if is_owner(framework, actor) {
            // It gets the rejection of an unknown task, which uses nothing of another one.
            objects.iter_mut().for_each(|of| of.is_unknown = false);
        }
        let permits = self.permits.permits(actor, action);
        let decided = decide_all(&permits, objects.into_iter());
        self.check_owned(framework, actor, action, decided)
    }

    /// Checks a decision about a call on a framework. A caller that may not view the framework gets
    /// the answer of one that does not exist.
    fn check_owned(
        &mut self,
        framework: &Framework,
        actor: &Actor,
        action: Action,
        (decision, object): (Decision, Object<'_>),
    ) -> Result<(), Refused> {
        match &decision {
            Decision::Allowed => return Ok(()),
            Decision::Denied { by: None } if is_owner(framework, actor) => return Ok(()),
            Decision::Denied { .. } => {}
        }
        let mut roles = Object::framework(framework.id, &framework.info);
        let view = Action::ViewFramework;
        if !is_owner(framework, actor) && !roles.any(|role| self.permits.may(actor, view, &role)) {
            self.unknown(actor)?;
            let unknown = Rejection::UnknownFramework(framework.id);
            return Err((UNKNOWN_FRAMEWORK, unknown.to_string()));
        }
        let denied = self.permits.denial(decision, actor, action, &object);
        denied.map_err(refused)
    }

    /// Checks a call on a framework that does not exist, which can be an entry of the log: callers
    /// that can have no framework must not add any.
    fn unknown(&mut self, actor: &Actor) -> Result<(), Refused> {
        let action = Action::RegisterFramework;
        let denied = self.permits.permits(actor, action).nowhere();
        let denied = denied.map_or(Ok(()), |denied| Denial::nowhere(actor, action, denied));
        denied.map_err(refused)
    }

    /// Checks a numbered call. The tasks that it launches are checked one by one, later.
    fn call(&mut self, actor: &Actor, call: &mut Call) -> Result<(), Refused> {
        let id = call.framework;
        match &mut call.action {
            CallAction::Accept(_) | CallAction::Suppress(_) | CallAction::Revive(_) => {
                self.framework(actor, id, Action::UpdateFramework)
            }
            CallAction::Kill { task, .. } => self.task(actor, id, task, Action::KillTask),
            CallAction::UpdateLimits { task, .. } => {
                self.task(actor, id, task, Action::UpdateLimits)
            }
            CallAction::Update(info) => {
                self.framework(actor, id, Action::UpdateFramework)?;
                self.roles(actor, &info.roles)?;
                if let Some(framework) = self.registry.framework(id) {
                    info.principal.clone_from(&framework.info.principal);
                }
                Ok(())
            }
            CallAction::Teardown => self.framework(actor, id, Action::TeardownFramework),
        }
    }

    /// Checks the changes of rules, tokens, revocations and limits in an input. They remain when
    /// access is enforced, so they need a proven identity with the right before that, too.
    pub(super) fn access_changes(&mut self, input: &Input) -> Result<(), Refused> {
        let Input::Operate { actor, operate, .. } = input else {
            return Ok(());
        };
        match operate.operations.iter().any(is_of_access) {
            true => self.operations(actor, operate),
            false => Ok(()),
        }
    }

    /// Checks all operations of a batch: one that is denied refuses the batch.
    fn operations(&mut self, actor: &Actor, operate: &Operate) -> Result<(), Refused> {
        if *actor == Actor::Unauthenticated && operate.operations.iter().any(is_of_access) {
            let text = "only a caller with a proven identity changes rules, tokens, revocations or limits: connect with TLS, and use a certificate or a token";
            return Err((UNPROVEN, text.to_owned()));
        }
        if operate.operations.is_empty() {
            // It would still be an entry of the log, which needs no right.
            return Err(match actor {
                Actor::Unauthenticated => {
                    let text =
                        "an empty batch needs a proven identity: use a certificate or a token";
                    (UNPROVEN, text.to_owned())
                }
                Actor::Principal(_) | Actor::Cluster => {
                    let text = "operations: the batch is empty; name at least one change";
                    ("invalid", text.to_owned())
                }
            });
        }
        for (at, operation) in operate.operations.iter().enumerate() {
            denied_operation(self.registry, self.permits, actor, operation).map_err(|denial| {
                let (code, text) = refused(denial);
                match operate.operations.len() {
                    1 => (code, text),
                    _ => (
                        code,
                        format!("operations[{at}]: {text}; nothing of the batch was done"),
                    ),
                }
            })?;
        }
        Ok(())
    }
}

/// Returns the agent of a hello. An agent that does not name its id is known by its nonce.
pub(super) fn known_agent(registry: &Registry, hello: &Hello) -> Option<AgentId> {
    let known = || registry.agent_by_nonce(hello.nonce);
    hello.agent.or_else(known)
}

fn is_of_access(operation: &OperatorOperation) -> bool {
    matches!(operation, OperatorOperation::Access(_))
}

pub(super) fn refused(denial: Denial) -> Refused {
    (denial.code(), denial.to_string())
}
