//! Actions and objects of operators' changes.

use argosy_state::Registry;
use argosy_state::access::{AccessOperation, Action, TokenPurpose};
use argosy_state::actor::{Actor, PrincipalKind};
use argosy_state::command::OperatorOperation;

use super::cache::PermitCache;
use super::decision::decide_all;
use super::denial::Denial;
use super::object::Object;

/// Returns the action of an operation: a new kind of operation does not compile without one.
pub(crate) fn action_of(operation: &OperatorOperation) -> Action {
    match operation {
        OperatorOperation::SetAttribute { .. } => Action::SetAttribute,
        OperatorOperation::KillTask { .. } => Action::KillTask,
        OperatorOperation::UpdateLimits { .. } => Action::UpdateLimits,
        OperatorOperation::Teardown(_) => Action::TeardownFramework,
        OperatorOperation::SetWeight { .. } => Action::SetWeight,
        OperatorOperation::Deactivate(_) | OperatorOperation::Reactivate(_) => {
            Action::DeactivateAgent
        }
        OperatorOperation::MarkGone(_) => Action::MarkGone,
        OperatorOperation::Access(operation) => match operation {
            AccessOperation::SetPolicy(_) | AccessOperation::ReplacePolicy { .. } => {
                Action::SetAccess
            }
            // Masters use join tokens on behalf of hosts that join.
            AccessOperation::CreateToken(_) | AccessOperation::UseJoinToken { .. } => {
                Action::CreateToken
            }
            AccessOperation::RevokeToken(_) | AccessOperation::RevokeKey(_) => Action::Revoke,
            AccessOperation::SetLimit { .. } => Action::SetLimit,
        },
        OperatorOperation::SetSecret { .. }
        | OperatorOperation::ResealSecret { .. }
        | OperatorOperation::RemoveSecret(_) => Action::SetSecret,
    }
}

/// Returns the reason why a caller may not perform an operation.
pub(crate) fn denied_operation(
    registry: &Registry,
    permits: &mut PermitCache,
    actor: &Actor,
    operation: &OperatorOperation,
) -> Result<(), Denial> {
    let action = action_of(operation);
    permits.check_proof(actor, action)?;
    let mut check = |object: Object<'_>| permits.check(actor, action, &object);
    match operation {
        OperatorOperation::SetAttribute { agent, .. }
        | OperatorOperation::Deactivate(agent)
        | OperatorOperation::Reactivate(agent)
        | OperatorOperation::MarkGone(agent) => check(Object::agent(*agent)),
        OperatorOperation::KillTask { key, .. } | OperatorOperation::UpdateLimits { key, .. } => {
            let objects = Object::of_key(registry, key, None).into_iter();
            let (decision, object) = decide_all(&permits.permits(actor, action), objects);
            permits.denial(decision, actor, action, &object)
        }
        OperatorOperation::Teardown(id) => match registry.framework(*id) {
            Some(framework) => {
                let objects = Object::framework(*id, &framework.info);
                let (decision, object) = decide_all(&permits.permits(actor, action), objects);
                permits.denial(decision, actor, action, &object)
            }
            None => check(Object::unknown_framework(*id)),
        },
        OperatorOperation::SetWeight { role, .. } => check(Object::role(role)),
        OperatorOperation::Access(AccessOperation::CreateToken(new)) => {
            check(Object::CLUSTER)?;
            denied_token(permits, actor, &new.purpose)
        }
        OperatorOperation::Access(_) => check(Object::CLUSTER),
        OperatorOperation::SetSecret { name, .. }
        | OperatorOperation::ResealSecret { name, .. }
        | OperatorOperation::RemoveSecret(name) => {
            let role = name.role();
            check(Object::secret(&role, name))
        }
    }
}

/// Returns the reason why a caller that may create tokens may not create this one: a token of an
/// admin, or one by which a process becomes a master, gives its holder every right.
fn denied_token(
    permits: &mut PermitCache,
    actor: &Actor,
    purpose: &TokenPurpose,
) -> Result<(), Denial> {
    let holder = match purpose {
        TokenPurpose::Bearer(principal) => {
            let holder = Actor::Principal(principal.clone());
            let is_admin = permits.may(&holder, Action::SetAccess, &Object::CLUSTER)
                || permits.may(&holder, Action::CreateToken, &Object::CLUSTER);
            is_admin.then(|| principal.to_string())
        }
        TokenPurpose::Join { kind, .. } => {
            (*kind == PrincipalKind::Master).then(|| "a new master".to_owned())
        }
    };
    let Some(holder) = holder else {
        return Ok(());
    };
    let denied = permits.check(actor, Action::SetAccess, &Object::CLUSTER);
    denied.map_err(|denial| denial.because(&format!("which a token for {holder} needs")))
}

#[cfg(test)]
mod tests;
