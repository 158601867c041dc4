//! Random reports of agents, and decisions of leaders about silent agents: mostly correct, and
//! sometimes arbitrary.

use argosy_state::Registry;
use argosy_state::command::{
    AgentDecision, AgentUpdate, Command, HeldTask, ReconcileAgent, TasksStopped, UpdateTasks,
};
use argosy_state::ids::{AgentId, FrameworkId, OrderIndex, TaskKey};
use argosy_state::task::{
    Cause, CheckResults, Code, Exit, LimitsReport, Reason, Task, TaskLimits, TaskState,
    UpdateSource,
};
use argosy_state::testing::registration;

use crate::actor::task_id;
use crate::rng::TestRng;

const STATES: [TaskState; 13] = [
    TaskState::Staging,
    TaskState::Starting,
    TaskState::Running,
    TaskState::Killing,
    TaskState::Finished,
    TaskState::Failed,
    TaskState::Killed,
    TaskState::Error,
    TaskState::Dropped,
    TaskState::Gone,
    TaskState::GoneByOperator,
    TaskState::Unreachable,
    TaskState::Unknown,
];

pub(crate) fn new_agent(dice: &mut TestRng) -> Command {
    let nonce = dice.next() % 10;
    Command::RegisterAgent(registration(
        nonce,
        "cpus:8;mem:8000;ports:[1-10];zones:{a,b}",
    ))
}

/// Returns a leader's decision about a silent agent, sometimes too late.
pub(crate) fn silence(dice: &mut TestRng, registry: &Registry, id: AgentId) -> AgentDecision {
    let mut decided_on = registry.agent(id).unwrap().revision;
    if dice.percent(20) {
        decided_on.index = decided_on.index.saturating_sub(1);
    }
    AgentDecision {
        agent: id,
        decided_on,
        wall_ms: 2,
    }
}

/// Returns a leader's decision about a long silence, sometimes too early or too late.
pub(crate) fn stopped(dice: &mut TestRng, registry: &Registry, id: AgentId) -> Command {
    let since = registry.agent(id).unwrap().mode_since();
    let AgentDecision {
        agent,
        decided_on,
        wall_ms,
    } = silence(dice, registry, id);
    Command::TasksStopped(TasksStopped {
        agent,
        decided_on,
        silent_ms: registry.time().since_ms(since) + dice.next() % 3_000,
        wall_ms,
    })
}

/// Returns the list of an agent, with a few tasks missing and a few too many.
pub(crate) fn reconcile(dice: &mut TestRng, registry: &Registry, id: AgentId) -> Command {
    let agent = registry.agent(id).unwrap();
    let floor = OrderIndex(agent.orders.0.saturating_sub(dice.next() % 5));
    let mut held: Vec<HeldTask> = registry
        .tasks_on(id)
        .filter(|task| !task.is_terminal() && task.order <= floor)
        .map(|task| HeldTask {
            key: task.key.clone(),
            order: task.order,
        })
        .collect();
    held.retain(|_| dice.percent(95));
    if dice.percent(10) {
        let stray = TaskKey {
            framework: FrameworkId(1 + dice.next() % 4),
            task: task_id(dice),
        };
        let order = OrderIndex(dice.next() % 9);
        held.push(HeldTask { key: stray, order });
        held.sort_by(|a, b| a.key.cmp(&b.key));
    }
    let mut after = None;
    let mut through = None;
    if dice.percent(30) && held.len() > 2 {
        let cut = 1 + dice.below(held.len() - 1);
        if dice.percent(50) {
            after = Some(held[cut - 1].key.clone());
            held.drain(..cut);
        } else {
            held.truncate(cut);
            through = held.last().map(|held| held.key.clone());
        }
    }
    if dice.percent(2) {
        held.reverse();
    }
    Command::ReconcileAgent(ReconcileAgent {
        agent: id,
        incarnation: agent.report.incarnation,
        floor,
        after,
        through,
        held,
        wall_ms: 3,
    })
}

/// Returns the result of a change of the task's limits, sometimes of another change.
fn limits_report(dice: &mut TestRng, task: &Task) -> Option<LimitsReport> {
    let change = task.limits_change.as_ref()?;
    let is_refused = dice.percent(30);
    let causes = (0..if is_refused { dice.below(3) } else { 0 }).map(|number| {
        let sentence = Code::SizeUnavailable;
        Cause::new(sentence, &[&number])
    });
    Some(LimitsReport {
        order: OrderIndex(change.order.0 - u64::from(dice.percent(20))),
        causes: causes.collect(),
        outcome: if is_refused {
            Err("y".repeat(dice.below(3) * 700))
        } else {
            Ok(())
        },
        held: dice.percent(50).then(|| {
            Box::new(TaskLimits {
                memory_bytes: Some(dice.next() % (64 << 30)),
                ..TaskLimits::default()
            })
        }),
    })
}

pub(crate) fn updates(dice: &mut TestRng, registry: &Registry, id: AgentId) -> Command {
    let live: Vec<&Task> = registry.tasks_on(id).collect();
    let count = 1 + dice.below(3);
    let updates = (0..count).filter_map(|_| {
        let task = dice.pick(&live)?;
        let likely = match task.agent_state {
            TaskState::Staging => TaskState::Running,
            _ if task.kill.is_some() => TaskState::Killed,
            _ => TaskState::Finished,
        };
        Some(AgentUpdate {
            key: task.key.clone(),
            order: OrderIndex(task.order.0 + u64::from(dice.percent(2))),
            number: (task.reported + dice.next() % 3).max(1),
            state: if dice.percent(70) {
                likely
            } else {
                STATES[dice.below(STATES.len())]
            },
            source: UpdateSource::Task,
            reason: if dice.percent(95) {
                Reason::CommandExited
            } else {
                // Only masters set it.
                Reason::AgentIncapable
            },
            causes: Vec::new(),
            message: "x".repeat(dice.below(3) * 700),
            exit: dice.percent(50).then_some(Exit::Code(-1)),
            standing: CheckResults {
                healthy: dice.percent(20).then(|| dice.percent(50)),
                ready: dice.percent(20).then(|| dice.percent(50)),
            },
            limits: limits_report(dice, task),
            wall_ms: -1,
        })
    });
    let updates = updates.collect();
    Command::UpdateTasks(UpdateTasks { agent: id, updates })
}
