//! The laws, as properties of states.

use stateright::{Model, Property};

use crate::{Bounds, LinkStage, Registry, System, Task, TaskState};

pub(super) const SINGLE_START: &str = "no task is started twice";
pub(super) const OFFER_ONCE: &str = "an offer is used at most once";
pub(super) const UNITS_ONCE: &str = "no unit is used twice";
pub(super) const ACKNOWLEDGED: &str = "an acknowledged launch is not lost";
pub(super) const ORDERED: &str = "orders are taken in order, each at most once";
pub(super) const STALE_EPOCH: &str = "no order of an earlier epoch is taken";
pub(super) const ENDS_ONCE: &str = "a task ends at most once";
pub(super) const ENDED: &str = "a task that has ended does not run";
pub(super) const COMES_TO_REST: &str = "each task is finished, and its end acknowledged";

pub(super) const VOIDED: &str = "a launch is voided";
pub(super) const ENDS_UNSTARTED: &str = "a task ends without a start";
pub(super) const OFFER_KEPT: &str = "an offer of an earlier epoch is used";
pub(super) const FINISHED: &str = "all tasks are finished after all elections";
/// Situations that explorations must reach.
pub(super) const SITUATIONS: [&str; 4] = [VOIDED, ENDS_UNSTARTED, OFFER_KEPT, FINISHED];

/// Returns the laws and the situations.
pub(crate) fn properties() -> Vec<Property<Bounds>> {
    let law = Property::<Bounds>::always;
    let situation = Property::<Bounds>::sometimes;
    vec![
        law(SINGLE_START, |_, system| system.agent.starts.iter().all(|starts| *starts <= 1)),
        law(OFFER_ONCE, |_, system| {
            let offers: Vec<_> = tasks(system).map(|task| task.launch.0).collect();
            offers.iter().enumerate().all(|(at, offer)| !offers[..at].contains(offer))
        }),
        law(UNITS_ONCE, |bounds, system| {
            let containers = system.agent.containers.iter();
            containers.filter(|runs| **runs == Some(true)).count() <= bounds.units
                && tasks(system).filter(|task| task.is_live()).count() <= bounds.units
        }),
        law(ACKNOWLEDGED, |_, system| {
            let mut known = registry(system).tasks.iter().zip(system.launched);
            known.all(|(task, is_launched)| {
                let is_kept = |task: &Task| task.state != TaskState::Gone;
                !is_launched || task.as_ref().is_some_and(is_kept)
            })
        }),
        law(ORDERED, |_, system| {
            system.agent.journal[0].taken.is_sorted_by(|former, next| former.1 < next.1)
        }),
        law(STALE_EPOCH, |_, system| {
            system.agent.journal[0].taken.is_sorted_by(|former, next| former.0 <= next.0)
        }),
        law(ENDS_ONCE, |_, system| {
            tasks(system).all(|task| task.ends == u8::from(is_terminal(task.state)))
        }),
        law(ENDED, |_, system| {
            let mut known = registry(system).tasks.iter().enumerate();
            known.all(|(id, task)| {
                let runs = system.agent.containers[id] == Some(true);
                let has_started = system.agent.starts[id] > 0;
                task.as_ref().is_none_or(|task| {
                    (task.is_live() || !runs) && (task.state != TaskState::Dropped || !has_started)
                })
            })
        }),
        law(COMES_TO_REST, |bounds, system| !is_quiet(bounds, system) || is_at_rest(system)),
        situation(VOIDED, |_, system| tasks(system).any(|task| task.state == TaskState::Dropped)),
        situation(ENDS_UNSTARTED, |_, system| {
            let mut known = registry(system).tasks.iter().zip(system.agent.starts);
            known.any(|(task, starts)| {
                starts == 0 && task.as_ref().is_some_and(|task| task.state == TaskState::Ended)
            })
        }),
        situation(OFFER_KEPT, |_, system| {
            tasks(system).any(|task| task.launch.0.0 < task.launch.1)
        }),
        situation(FINISHED, |bounds, system| {
            system.left[0] == 0
                && tasks(system).filter(|task| is_finished(task)).count() == bounds.tasks
        }),
    ]
}

fn registry(system: &System) -> &Registry {
    &system.leaders[0].registry
}

fn tasks(system: &System) -> impl Iterator<Item = &Task> {
    registry(system).tasks.iter().flatten()
}

fn is_terminal(state: TaskState) -> bool {
    matches!(state, TaskState::Ended | TaskState::Dropped | TaskState::Gone)
}

/// Returns whether a task is in the history.
fn is_finished(task: &Task) -> bool {
    !task.is_live() && task.acknowledged == task.revision
}

/// Returns whether nothing must happen any more: only faults and requests may.
fn is_quiet(bounds: &Bounds, system: &System) -> bool {
    let is_silent = |link: &crate::Link| link.up.is_empty() && link.down.is_empty();
    if !system.agent.link.as_ref().is_some_and(is_silent) {
        return false;
    }
    let mut actions = Vec::new();
    bounds.actions(system, &mut actions);
    actions.iter().all(|action| action.budget().is_some())
}

/// Returns whether nothing is left to do: all tasks are finished and removed, and the agent is
/// ready and has taken all orders.
fn is_at_rest(system: &System) -> bool {
    let registry = registry(system);
    let is_ready = |link: &crate::Link| link.stage == LinkStage::Ready(registry.orders);
    let facts = system.agent.facts();
    tasks(system).all(is_finished)
        && !registry.is_unreachable
        && system.agent.link.as_ref().is_some_and(is_ready)
        && facts.floor == registry.orders
        && facts.tasks.iter().all(Option::is_none)
        && system.agent.containers.iter().all(Option::is_none)
}
