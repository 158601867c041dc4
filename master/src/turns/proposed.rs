//! The cost of a command at the leader, which knows the records that the command changes.

use std::ops::Bound;

use argosy_state::Registry;
use argosy_state::command::{CallAction, Command, OperatorOperation, ReconcileAgent};
use argosy_state::ids::{FrameworkId, TaskKey};
use argosy_state::task::LimitsReport;

use super::{UPDATE, work};

/// Size of a task's description, as it is estimated, that is copied in one unit of [`work`]. Many
/// small parts, which the estimate counts with 16 bytes each, take longest.
const COPIED_BYTES: usize = 256;

/// Returns the cost of a command that this leader proposes, in the unit of [`work`]. Limits that
/// change, or that an agent refuses, are in the description of their task, which is copied and may
/// be large. Tasks that a list lacks end.
pub(crate) fn proposed_work(registry: &Registry, command: &Command) -> u32 {
    if let Command::DisconnectFramework(decision) = command
        && !is_removed(registry, decision.framework)
    {
        return UPDATE as u32;
    }
    let copied = |key: &TaskKey| {
        let task = registry.task(key);
        task.map_or(0, |task| task.spec.size_without_limits() / COPIED_BYTES)
    };
    let more = if let Command::Call(call) = command
        && let CallAction::UpdateLimits { task, .. } = &call.action
    {
        copied(&TaskKey {
            framework: call.framework,
            task: task.clone(),
        })
    } else if let Command::Operate(operate) = command {
        let copies = operate.operations.iter().map(|one| {
            if let OperatorOperation::UpdateLimits { key, .. } = one {
                copied(key)
            } else {
                0
            }
        });
        copies.sum()
    } else if let Command::UpdateTasks(report) = command {
        let is_refusal = |report: &LimitsReport| report.outcome.is_err();
        let updates = report.updates.iter();
        let refused = updates.filter(|update| update.limits.as_ref().is_some_and(is_refusal));
        refused.map(|update| copied(&update.key)).sum()
    } else if let Command::ReconcileAgent(list) = command {
        UPDATE * missing_tasks(registry, list)
    } else {
        0
    };
    let more = u32::try_from(more).unwrap_or(u32::MAX);
    work(command).saturating_add(more)
}

/// Returns whether the framework is removed once it is recorded as disconnected.
fn is_removed(registry: &Registry, id: FrameworkId) -> bool {
    let framework = registry.framework(id);
    let info = framework.map(|framework| &framework.info);
    info.is_some_and(|info| !info.detached && info.failover_timeout_ms == 0)
}

/// Returns the number of live tasks of the agent that are in the range of its list but not in the
/// list. A part of a list has a bounded range.
fn missing_tasks(registry: &Registry, list: &ReconcileAgent) -> usize {
    let after = list.after.as_ref();
    let after = after.map_or(Bound::Unbounded, Bound::Excluded);
    let through = list.through.as_ref();
    let through = through.map_or(Bound::Unbounded, Bound::Included);
    let Some(index) = registry.agent_index(list.agent) else {
        return 0;
    };
    let known = index.tasks.range::<TaskKey, _>((after, through));
    let is_missing = |key: &TaskKey| {
        let held = list.held.binary_search_by(|held| held.key.cmp(key));
        held.is_err() && registry.task(key).is_some_and(|task| !task.is_terminal())
    };
    known.filter(|key| is_missing(key)).count()
}

#[cfg(test)]
mod tests {
    use argosy_state::command::{Call, FrameworkDecision, HeldTask, Operate};
    use argosy_state::framework::FrameworkInfo;
    use argosy_state::ids::OrderIndex;
    use argosy_state::task::{TaskLimits, TaskState};
    use argosy_state::testing::{World, framework_info, key, spec};

    use super::*;

    #[test]
    fn a_change_of_limits_costs_the_size_of_its_task() {
        let mut world = World::new();
        let agent = world.register("cpus:64");
        let framework = world.subscribe("load");
        let limits = TaskLimits::default();
        let mut large = spec("large", "cpus:1");
        let variables = (0..20_000).map(|at| (format!("{at:05}"), String::new()));
        large.environment = variables.collect();
        let offer = world.offer(framework, agent, "cpus:2");
        let small = spec("small", "cpus:1");
        world.accept(framework, vec![offer], vec![large, small]);
        let cost = |name: &str| {
            let key = key(framework, name);
            let call = Command::Call(Call {
                framework,
                session: 1,
                number: 1,
                lowest_unanswered: 1,
                hash: 1,
                action: CallAction::UpdateLimits {
                    task: key.task.clone(),
                    limits: limits.clone(),
                },
            });
            let limits = limits.clone();
            let operate = Command::Operate(Operate {
                request: None,
                hash: 0,
                operations: vec![OperatorOperation::UpdateLimits { key, limits }],
                wall_ms: 0,
            });
            [call, operate].map(|command| proposed_work(&world.registry, &command))
        };
        assert_eq!(cost("small"), [8, 1]);
        // An entry has at most two of them.
        for cost in cost("large") {
            assert!(cost > argosy_raft::TURN_WORK / 3, "{cost}");
        }
    }

    #[test]
    fn a_disconnection_costs_a_piece_of_a_sweep_only_if_it_removes_its_framework() {
        let mut world = World::new();
        for (failover_timeout_ms, cost) in [(60_000, 8), (0, 2_000)] {
            let framework = world.subscribe_as(FrameworkInfo {
                failover_timeout_ms,
                ..framework_info("load")
            });
            let decision = FrameworkDecision {
                framework,
                decided_on: world.registry.framework(framework).unwrap().revision,
            };
            let command = Command::DisconnectFramework(decision);
            assert_eq!(proposed_work(&world.registry, &command), cost);
            // Without the registry, each counts as one that removes its framework.
            assert_eq!(work(&command), 2_000);
        }
    }

    #[test]
    fn a_list_costs_the_tasks_that_it_lacks() {
        let mut world = World::new();
        let agent = world.register("cpus:64");
        let framework = world.subscribe("load");
        let offer = world.offer(framework, agent, "cpus:10");
        let specs = (0..5).map(|at| spec(&format!("t{at}"), "cpus:1"));
        world.accept(framework, vec![offer], specs.collect());
        world.update(&key(framework, "t4"), TaskState::Finished);
        let cost = |range: [Option<&str>; 2], held: &[&str]| {
            let key = |name: &str| key(framework, name);
            let [after, through] = range.map(|name| name.map(key));
            let held = held.iter().map(|name| HeldTask {
                key: key(name),
                order: world.registry.task(&key(name)).unwrap().order,
            });
            let list = Command::ReconcileAgent(ReconcileAgent {
                agent,
                incarnation: 1,
                floor: OrderIndex(5),
                after,
                through,
                held: held.collect(),
                wall_ms: 0,
            });
            proposed_work(&world.registry, &list)
        };
        assert_eq!(cost([None, None], &["t0", "t1", "t2", "t3"]), 4 * 8);
        assert_eq!(cost([None, None], &["t1"]), 4 * 8, "three are missing");
        assert_eq!(cost([Some("t0"), Some("t2")], &["t2"]), 2 * 8);
    }
}
