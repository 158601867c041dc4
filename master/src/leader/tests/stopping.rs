//! Tests of tasks that stop themselves on silent agents: when their frameworks are notified.

use argosy_state::command::{CallAction, OperatorOperation};
use argosy_state::task::{TaskSpec, TaskState};
use argosy_state::testing::spec;
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, LIMITS, World, task_key};
use crate::leader::Input;
use crate::links::LinkId;

/// Ten seconds, three of grace, and 5 % of both; then the lease of a leader that was deposed. At
/// the next tick.
const STOPPED_MS: u64 = (13_650 + LIMITS.deposed_leader_ms).next_multiple_of(100);

impl World {
    /// Like [`Self::with_offer`], with acknowledged tasks of one processor that stop themselves
    /// after the given milliseconds.
    pub(super) fn with_singletons(tasks: &[(&str, u64)]) -> Self {
        let mut world = Self::with_offer();
        world.launch_singletons(tasks);
        for (task, _) in tasks {
            world.report(LinkId(2), task, 1, TaskState::Running);
            world.acknowledge(&[task]);
        }
        world.clear_lines();
        world
    }

    pub(super) fn launch_singletons(&mut self, tasks: &[(&str, u64)]) {
        let singleton = |(task, stop_after_ms): &(&str, u64)| TaskSpec {
            stop_after_ms: *stop_after_ms,
            ..spec(task, "cpus:1")
        };
        for (at, part) in tasks.chunks(250).enumerate() {
            if at > 0 {
                // The rest of the previous call is offered again; the agent sends a heartbeat at
                // the end.
                self.advance_with(7_000, &[LinkId(2)]);
            }
            let specs = part.iter().map(singleton).collect();
            let (accept, tokens) = self.acceptance(&format!("1.{}", at + 1), specs);
            let call = self.call_of(CallAction::Accept(accept));
            self.send(call, tokens);
        }
        self.clear_lines();
    }
}

fn is_stopped(world: &World, task: &str) -> bool {
    world.registry.task(&task_key(task)).unwrap().is_stopped()
}

/// Returns the updates that were sent since the last call.
fn updates(world: &mut World) -> Vec<String> {
    let output = world.take_lines();
    let updates = output.into_iter().filter(|line| line.contains("update "));
    updates.collect()
}

#[test]
fn framework_is_notified_when_a_task_has_stopped_itself() {
    let mut world = World::with_singletons(&[("a", 10_000), ("b", 60_000), ("c", 0)]);
    world.advance(LIMITS.agent_timeout_ms);
    assert_eq!(world.state_of("a"), TaskState::Unreachable);
    world.clear_lines();
    let entries = world.entries();
    world.advance(STOPPED_MS - 100);
    world.expect_nothing();
    assert_eq!(world.entries(), entries, "nothing is written before");
    world.advance(100);
    world.expect(&expect![[r#"
        link-1 <- update a UNREACHABLE at 12.0 (STOPPED_WITHOUT_LEADER) stopped
    "#]]);
    assert!(is_stopped(&world, "a"));
    assert!(!is_stopped(&world, "b") && !is_stopped(&world, "c"));
    let entries = world.entries();
    // 60 + 3 s, and 5 %: 52.5 s later.
    world.advance(52_400);
    assert_eq!(world.entries(), entries);
    assert!(!is_stopped(&world, "b"));
    world.advance(100);
    assert_eq!(updates(&mut world).len(), 1);
    assert!(is_stopped(&world, "b"));
    let entries = world.entries();
    world.advance(600_000);
    world.clear_lines();
    assert!(!is_stopped(&world, "c"), "it may run without a limit");
    assert_eq!(world.entries(), entries, "and nothing is asked again");
}

#[test]
fn stop_is_resent_until_acknowledged() {
    let mut world = World::with_singletons(&[("a", 10_000)]);
    world.advance(LIMITS.agent_timeout_ms + STOPPED_MS);
    world.clear_lines();
    world.framework_returns(FRAMEWORK, &[]);
    let reported = updates(&mut world);
    assert!(
        reported.len() == 1 && reported[0].ends_with("stopped"),
        "{reported:?}"
    );
    world.reconcile(&["a"], 9);
    world.expect(&expect![[r#"
        call-3: reconciled [a UNREACHABLE (RECONCILIATION) stopped]
    "#]]);
    world.acknowledge(&["a"]);
    world.clear_lines();
    world.framework_returns(FRAMEWORK, &[]);
    assert_eq!(updates(&mut world), Vec::<String>::new());
}

#[test]
fn new_leader_restarts_the_stop_timer() {
    let mut world = World::with_singletons(&[("a", 10_000)]);
    world.advance(LIMITS.agent_timeout_ms);
    world.advance(STOPPED_MS - 100);
    // The former leader may have answered the agent until now, although it has long been recorded
    // as UNREACHABLE.
    world.new_leader();
    world.advance(STOPPED_MS - 100);
    world.clear_lines();
    assert!(!is_stopped(&world, "a"));
    world.advance(100);
    world.clear_lines();
    assert!(is_stopped(&world, "a"));
}

#[test]
fn contact_restarts_the_stop_timer() {
    let mut world = World::with_singletons(&[("a", 10_000)]);
    world.advance(LIMITS.agent_timeout_ms);
    world.advance(10_000);
    // It sends a hello, and falls silent before it has sent its list.
    let link = world.agent_returns(AGENT);
    world.feed(Input::AgentClosed { link });
    assert_eq!(world.state_of("a"), TaskState::Unreachable);
    world.advance(LIMITS.agent_timeout_ms);
    world.advance(STOPPED_MS - 100);
    world.clear_lines();
    assert!(!is_stopped(&world, "a"));
    world.advance(100);
    world.clear_lines();
    assert!(is_stopped(&world, "a"));
}

#[test]
fn tasks_of_a_connected_agent_are_not_stopped() {
    let mut world = World::with_singletons(&[("a", 10_000)]);
    world.advance_with(100_000, &[LinkId(2)]);
    world.clear_lines();
    assert_eq!(world.state_of("a"), TaskState::Running);
}

#[test]
fn decision_on_a_changed_record_is_retried() {
    let mut world = World::with_singletons(&[("a", 10_000)]);
    world.advance(LIMITS.agent_timeout_ms);
    world.slow_log();
    world.operate(OperatorOperation::Deactivate(AGENT));
    // Decided before the operator's change is applied, and applied after it.
    world.advance(STOPPED_MS);
    world.commit();
    world.clear_lines();
    assert!(!is_stopped(&world, "a"));
    world.advance(1_000);
    world.commit();
    world.clear_lines();
    assert!(is_stopped(&world, "a"));
}

#[test]
fn an_agent_that_returns_reports_how_a_stopped_task_ended() {
    let mut world = World::with_singletons(&[("a", 10_000)]);
    world.advance(LIMITS.agent_timeout_ms + STOPPED_MS);
    world.acknowledge(&["a"]);
    world.clear_lines();
    let link = world.agent_returns(AGENT);
    world.report(link, "a", 2, TaskState::Failed);
    world.list(link, 1, &[("a", 1)]);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
        link-1 <- update a FAILED at 11.0 (UNSPECIFIED)
        link-3 <- committed framework-1/a@1 #2 released
        link-3 <- kill stray framework-1/a@1
        link-1 <- offers 1.3 * agent-1 cpus:4;mem:4096
    "#]]);
    assert_eq!(world.state_of("a"), TaskState::Failed);
}

#[test]
fn many_tasks_of_an_agent_stop_in_batches() {
    let names: Vec<String> = (0..600).map(|number| format!("t{number:03}")).collect();
    let mut world = World::new();
    world.subscribe("web");
    world.agent("cpus:600;mem:4096");
    let singletons: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 10_000)).collect();
    world.launch_singletons(&singletons);
    world.advance(LIMITS.agent_timeout_ms + STOPPED_MS);
    world.clear_lines();
    let stopped = |world: &World| names.iter().filter(|name| is_stopped(world, name)).count();
    assert_eq!(stopped(&world), argosy_state::limits::TASKS_PER_SWEEP);
    world.advance(200);
    world.clear_lines();
    assert_eq!(stopped(&world), 600);
}
