//! Tests that a refusal contains nothing that its caller may not view.

use argosy_state::command::{CallAction, OperatorOperation};
use argosy_state::ids::{FrameworkId, TaskId};
use argosy_state::task::TaskState;
use argosy_state::testing::key;

use super::fixture::{FRAMEWORK, World};
use crate::links::LinkId;

/// The rights of `framework/web`, and of callers that may not view what is in its role.
const RULES: &str = "group framework:* = framework/web
    allow agent/* connect-agent *
    allow framework/other register-framework role:other
    allow operator/nina kill-task role:other
    allow operator/nina exec *
    deny everyone kill-task agent:agent-1
    deny group:payroll kill-task *
    group payroll = operator/paul";

/// A framework that does not exist.
const ABSENT: FrameworkId = FrameworkId(9);

impl World {
    /// Returns a world with the running task `a` of `framework-1`.
    fn with_hidden_task() -> Self {
        let mut world = Self::new();
        world.enforce(RULES);
        world.act_as("framework/web");
        world.subscribe("web");
        world.act_as("agent/host-1");
        world.agent("cpus:4;mem:4096");
        world.act_as("framework/web");
        world.clear_lines();
        world.accept("1.1", &["a"]);
        world.report(LinkId(2), "a", 1, TaskState::Running);
        world.clear_lines();
        world
    }

    /// Returns the answer to a call, without the number of its request.
    fn answer_to(&mut self, ask: impl FnOnce(&mut Self)) -> String {
        ask(self);
        let lines = self.take_lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let (_, answer) = lines[0].split_once(' ').unwrap();
        answer.to_owned()
    }

    fn call_on(&mut self, framework: FrameworkId, action: CallAction) -> String {
        let mut call = self.call_of(action);
        call.framework = framework;
        self.answer_to(|world| world.send(call, Vec::new()))
    }
}

fn actions(task: &str) -> [CallAction; 3] {
    let task = TaskId::new(task).unwrap();
    let grace_ms = None;
    [
        CallAction::Kill { task, grace_ms },
        CallAction::Suppress(Vec::new()),
        CallAction::Teardown,
    ]
}

#[test]
fn a_call_on_a_hidden_framework_is_answered_as_on_one_that_does_not_exist() {
    let mut world = World::with_hidden_task();
    for actor in ["unauthenticated", "framework/other", "agent/x"] {
        world.act_as(actor);
        for action in actions("a") {
            let hit = world.call_on(FRAMEWORK, action.clone());
            let miss = world.call_on(ABSENT, action);
            assert_eq!(hit, miss.replace("framework-9", "framework-1"), "{actor}");
        }
    }
    assert!(!world.registry.framework(FRAMEWORK).unwrap().removing);
    // Its principal may view it.
    world.act_as("framework/web");
    let own = world.call_on(FRAMEWORK, actions("a")[0].clone());
    assert!(own.contains("framework/web may not kill-task"), "{own}");
}

#[test]
fn an_operation_on_a_hidden_task_is_refused_as_on_one_that_does_not_exist() {
    let mut world = World::with_hidden_task();
    let kill = |task: &str| OperatorOperation::KillTask {
        key: key(FRAMEWORK, task),
        grace_ms: None,
    };
    for actor in [
        "unauthenticated",
        "operator/nina",
        "operator/paul",
        "agent/x",
    ] {
        world.act_as(actor);
        let hit = world.answer_to(|world| world.operate(kill("a")));
        let miss = world.answer_to(|world| world.operate(kill("b")));
        assert_eq!(hit, miss.replace("framework-1/b", "framework-1/a"));
        for hidden in ["role:", "agent-1", "user:", "everyone", "payroll"] {
            assert!(!hit.contains(hidden), "{actor}: {hit}");
        }
        let hit = world.answer_to(|world| world.operate(OperatorOperation::Teardown(FRAMEWORK)));
        let miss = world.answer_to(|world| world.operate(OperatorOperation::Teardown(ABSENT)));
        assert_eq!(hit, miss.replace("framework-9", "framework-1"), "{actor}");
    }
}

#[test]
fn a_caller_that_may_view_the_rules_or_the_object_sees_it_in_a_refusal() {
    let mut world = World::with_hidden_task();
    let kill = || OperatorOperation::KillTask {
        key: key(FRAMEWORK, "a"),
        grace_ms: None,
    };
    world.enforce(&format!("{RULES}\nallow operator/paul view-task *"));
    world.act_as("operator/paul");
    let refused = world.answer_to(|world| world.operate(kill()));
    assert!(refused.contains("framework-1 agent-1"), "{refused}");
    assert!(!refused.contains("payroll"), "{refused}");
    world.enforce(&format!("{RULES}\nallow operator/paul view-access *"));
    let refused = world.answer_to(|world| world.operate(kill()));
    assert!(refused.contains("on framework-1/a: "), "{refused}");
    assert!(refused.contains("the rule \"deny"), "{refused}");
}
