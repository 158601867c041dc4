//! The cost of a command at the leader, which knows the records that the command changes.

use argosy_state::Registry;
use argosy_state::command::{CallAction, Command, OperatorOperation};
use argosy_state::ids::TaskKey;
use argosy_state::task::LimitsReport;

use super::work;

/// Size of a task's description, as it is estimated, that is copied in one unit of [`work`]. Many
/// small parts, which the estimate counts with 16 bytes each, take longest.
const COPIED_BYTES: usize = 256;

/// Returns the cost of a command that this leader proposes, in the unit of [`work`]. Limits that
/// change, or that an agent refuses, are in the description of their task, which is copied and may
/// be large.
pub(crate) fn proposed_work(registry: &Registry, command: &Command) -> u32 {
    let copied = |key: &TaskKey| {
        let task = registry.task(key);
        task.map_or(0, |task| task.spec.size_without_limits() / COPIED_BYTES)
    };
    let copies = if let Command::Call(call) = command
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
    } else {
        0
    };
    let copies = u32::try_from(copies).unwrap_or(u32::MAX);
    work(command).saturating_add(copies)
}

#[cfg(test)]
mod tests {
    use argosy_state::command::{Call, Operate};
    use argosy_state::task::TaskLimits;
    use argosy_state::testing::{World, key, spec};

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
}
