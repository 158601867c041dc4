//! The tasks of an acceptance that its caller may not launch.

use argosy_state::actor::Actor;
use argosy_state::command::{Accept, Position, Rejection};
use argosy_state::ids::FrameworkId;
use argosy_state::task::{CommandSpec, TaskSpec};

use super::Refused;
use super::checks::refused;
use crate::access::{DENIED, Object, PermitCache, denied_launch};
use crate::leader_reply::RejectedPart;

/// The tasks that the caller may not launch, with the reasons, ascending by position.
pub(in crate::leader) type DeniedTasks = Vec<(Position, String)>;

/// Returns the tasks that the caller may not launch, with the reasons. The role and the agent are
/// those of the offers: an acceptance whose offers are forged is refused as a whole.
pub(super) fn denied_tasks(
    permits: &mut PermitCache,
    actor: &Actor,
    framework: FrameworkId,
    accept: &Accept,
) -> Vec<(Position, Refused)> {
    let Some(offer) = accept.offers.first() else {
        return Vec::new();
    };
    let place = Object {
        role: Some(&offer.role),
        framework: Some(framework),
        agent: Some(offer.agent),
        ..Object::CLUSTER
    };
    let denied = accept.launches().filter_map(|(position, spec)| {
        let denied = denied_launch(permits, actor, place, spec);
        denied.err().map(|denial| (position, refused(denial)))
    });
    denied.collect()
}

/// Replaces the descriptions of these tasks by invalid ones, which every master refuses in their
/// places: all answers to the call, also to its repeats, have the same positions.
pub(super) fn invalidate(accept: &mut Accept, denied: &DeniedTasks) {
    let mut denied = denied.iter().map(|(position, _)| *position).peekable();
    for (operation, of) in (0..).zip(&mut accept.operations) {
        for (task, spec) in (0..).zip(of.tasks_mut()) {
            let position = Position { operation, task };
            if denied.next_if_eq(&position).is_some() {
                *spec = invalid(spec);
            }
        }
    }
}

/// Returns a task without resources, which is invalid. Its group is refused with it.
fn invalid(spec: &TaskSpec) -> TaskSpec {
    TaskSpec {
        group: spec.group.clone(),
        ..TaskSpec::new(spec.task.clone(), CommandSpec::Image)
    }
}

/// Returns the rejection of a part, with the reason of a denied task in place of that of its
/// replacement.
pub(in crate::leader) fn rejected_part(
    denied: &DeniedTasks,
    position: Position,
    why: &Rejection,
) -> RejectedPart {
    let reason = denied.iter().find(|(at, _)| *at == position);
    let (code, message) = match reason {
        Some((_, message)) => (DENIED, message.clone()),
        None => (why.code(), why.to_string()),
    };
    RejectedPart {
        position,
        code,
        message,
    }
}
