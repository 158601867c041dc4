//! AgentReturns: a task that was declared gone never runs again. A task of a lost agent runs again
//! only after its agent re-registered under its id.

use std::collections::BTreeMap;

use argosy_state::agent::AgentMode;
use argosy_state::ids::{AgentId, Revision, TaskKey};
use argosy_state::task::TaskState;

use super::Findings;
use super::facts::{StateChange, changes, launches, of_agents, registered};
use crate::history::{AgentFact, History, OrderAction};

type ModeHistory = BTreeMap<AgentId, BTreeMap<Revision, (usize, AgentMode)>>;

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let modes = modes(history);
    for (agent, modes) in &modes {
        let modes: Vec<(usize, AgentMode)> = modes.values().copied().collect();
        for pair in modes.windows(2) {
            let ((first, before), (at, next)) = (pair[0], pair[1]);
            let holds = before != AgentMode::Gone || next == AgentMode::Gone;
            findings.require(holds, [first, at], || {
                format!("{agent} was declared gone, and is {next:?} again")
            });
        }
    }
    let launched = launches(history);
    for (task, changes) in changes(history) {
        let agent = launched.get(task).map(|(_, _, agent)| *agent);
        for pair in changes.windows(2) {
            check_return(
                &mut findings,
                task,
                pair,
                agent.and_then(|agent| modes.get(&agent)),
            );
        }
        check_gone(history, &mut findings, task, &changes);
        if let Some(modes) = agent.and_then(|agent| modes.get(&agent)) {
            check_late_launch(history, &mut findings, task, &changes, modes);
        }
    }
    findings
}

/// Checks a launch that was not delivered when its task became UNREACHABLE: after its agent has
/// re-registered under its id, the launch is never acted on.
fn check_late_launch(
    history: &History,
    findings: &mut Findings,
    task: &TaskKey,
    changes: &[StateChange],
    modes: &BTreeMap<Revision, (usize, AgentMode)>,
) {
    let lost = changes
        .iter()
        .find(|change| change.state == TaskState::Unreachable);
    let Some(lost) = lost else {
        return;
    };
    let mut later = modes.range(lost.revision..);
    let back = later.find(|(_, (_, mode))| *mode != AgentMode::Unreachable);
    let Some((_, (back, _))) = back else {
        return;
    };
    for (at, _, fact) in of_agents(history) {
        if let AgentFact::OrderTaken {
            action: OrderAction::Launch,
            task: Some(taken),
            repeated: false,
            ..
        } = fact
            && taken == task
        {
            findings.require(at < *back, [lost.at, *back, at], || {
                format!("the launch of {task} was delivered after the task was UNREACHABLE")
            });
        }
    }
}

fn modes(history: &History) -> ModeHistory {
    let mut modes = ModeHistory::new();
    for (at, event, fact) in of_agents(history) {
        if let (AgentFact::Mode { agent, mode }, Some(revision)) = (fact, event.revision) {
            let known = modes.entry(*agent).or_default();
            known.entry(revision).or_insert((at, *mode));
        }
    }
    modes
}

/// Checks that the agent is no longer unreachable when its task leaves UNREACHABLE for a live
/// state.
fn check_return(
    findings: &mut Findings,
    task: &TaskKey,
    pair: &[StateChange],
    modes: Option<&BTreeMap<Revision, (usize, AgentMode)>>,
) {
    let (before, next) = (pair[0], pair[1]);
    let runs_again = before.state == TaskState::Unreachable
        && !next.state.is_terminal()
        && next.state != TaskState::Unreachable;
    let Some(modes) = modes.filter(|_| runs_again) else {
        return;
    };
    // One entry may contain both, in either order.
    let by = Revision {
        index: next.revision.index,
        position: u32::MAX,
    };
    let Some((_, (at, mode))) = modes.range(..=by).next_back() else {
        return;
    };
    findings.require(
        *mode != AgentMode::Unreachable,
        [before.at, *at, next.at],
        || {
            format!(
                "{task} became {:?} again while its agent was still unreachable",
                next.state
            )
        },
    );
}

fn check_gone(history: &History, findings: &mut Findings, task: &TaskKey, changes: &[StateChange]) {
    let is_gone =
        |change: &&StateChange| matches!(change.state, TaskState::Gone | TaskState::GoneByOperator);
    if let (Some(gone), Some((audit, live))) = (changes.iter().find(is_gone), registered(history)) {
        findings.require(!live.contains(task), [gone.at, audit], || {
            format!("{task} was declared gone, and is in the registry at the end")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{AuditFinding, FinalTask};
    use crate::invariants::fixture::{AGENT, HistoryBuilder, assert_clean, assert_violation, key};
    use argosy_state::ids::{Epoch, OrderIndex};

    fn mode(builder: HistoryBuilder, index: u64, mode: AgentMode) -> HistoryBuilder {
        builder.observe_at("master-1", index, AgentFact::Mode { agent: AGENT, mode })
    }

    fn lost() -> HistoryBuilder {
        mode(
            HistoryBuilder::new().launched(3, "web", 1),
            5,
            AgentMode::Unreachable,
        )
        .changed(6, "web", TaskState::Unreachable)
    }

    #[test]
    fn a_task_that_returns_with_its_agent_passes() {
        let back = mode(lost(), 8, AgentMode::Registered);
        assert_clean(check, back.changed(8, "web", TaskState::Running));
    }

    #[test]
    fn a_task_that_returns_before_its_agent_is_reported() {
        assert_violation(
            check,
            lost().changed(8, "web", TaskState::Running),
            "still unreachable",
        );
    }

    #[test]
    fn a_gone_agent_that_returns_is_reported() {
        let gone = mode(lost(), 7, AgentMode::Gone);
        assert_violation(
            check,
            mode(gone, 9, AgentMode::Registered),
            "was declared gone",
        );
    }

    #[test]
    fn a_gone_task_that_is_live_at_the_end_is_reported() {
        let tasks = vec![FinalTask {
            task: key("web"),
            agent: AGENT,
            state: TaskState::Running,
        }];
        let builder = lost().changed(8, "web", TaskState::GoneByOperator);
        assert_violation(
            check,
            builder.observe("audit", AuditFinding::Registry { tasks }),
            "declared gone, and is in",
        );
    }

    #[test]
    fn a_launch_delivered_after_the_return_is_reported() {
        let taken = || AgentFact::OrderTaken {
            agent: AGENT,
            epoch: Epoch(12),
            order: OrderIndex(1),
            action: OrderAction::Launch,
            task: Some(key("web")),
            repeated: false,
        };
        let before = mode(lost().observe("agent-5", taken()), 8, AgentMode::Registered);
        assert_clean(check, before);
        let after = mode(lost(), 8, AgentMode::Registered).observe("agent-5", taken());
        assert_violation(check, after, "delivered after the task was UNREACHABLE");
    }
}
