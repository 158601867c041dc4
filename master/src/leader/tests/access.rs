//! Tests of access at the leader: what no rule allows is refused before it is proposed.

use std::sync::Arc;

use argosy_state::access::AccessOperation;
use argosy_state::command::{CallAction, OperatorOperation};
use argosy_state::ids::Role;
use argosy_state::level::Level;
use argosy_state::limits;
use argosy_state::task::{HostPath, TaskSpec, TaskState};
use argosy_state::testing::{framework_info, key, spec};

use super::fixture::{AGENT, FRAMEWORK, World, new_framework};
use crate::leader::{Hello, Input};
use crate::links::LinkId;

/// The rights of `framework/web` in the role of all frameworks here.
const WEB: &str = "group framework:* = framework/web
    allow agent/* connect-agent *";

impl World {
    /// Returns a world that enforces this policy, with `framework-1` of `framework/web` on link-1
    /// and `agent-1` on link-2.
    fn enforcing(policy: &str) -> Self {
        let mut world = Self::new();
        world.enforce(policy);
        world.act_as("framework/web");
        world.subscribe("web");
        world.act_as("agent/host-1");
        world.agent("cpus:4;mem:4096");
        world.act_as("framework/web");
        world.clear_lines();
        world
    }

    /// Returns the only line since the last call.
    fn only_line(&mut self) -> String {
        let lines = self.take_lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.into_iter().next().unwrap()
    }

    fn expect_refused(&mut self, says: &str) {
        let line = self.only_line();
        assert!(line.contains("access-denied"), "{line}");
        assert!(line.contains(says), "{line}");
    }

    fn send_all_calls(&mut self) {
        self.kill("a");
        self.acknowledge(&["a"]);
        self.reconcile(&["a"], 1);
        self.decline(&[], 5_000);
        self.call(CallAction::Suppress(Vec::new()));
        self.call(CallAction::Revive(Vec::new()));
        self.call(CallAction::Update(framework_info("web")));
        let (request, actor) = (self.request(), self.actor.clone());
        let session = self.registry.framework(FRAMEWORK).unwrap().session;
        self.feed(Input::FrameworkHeartbeat {
            request,
            actor,
            framework: FRAMEWORK,
            session,
        });
        self.call(CallAction::Teardown);
    }
}

#[test]
fn the_proven_identity_is_the_principal_of_a_framework() {
    let world = World::enforcing(WEB);
    let framework = world.registry.framework(FRAMEWORK).unwrap();
    assert_ne!(framework_info("web").principal, "framework/web");
    assert_eq!(framework.info.principal, "framework/web");
}

#[test]
fn calls_on_a_framework_of_another_principal_are_refused_and_not_proposed() {
    let mut world = World::enforcing(WEB);
    world.accept("1.1", &["a"]);
    world.clear_lines();
    for actor in ["framework/other", "agent/host-1", "unauthenticated"] {
        world.act_as(actor);
        let entries = world.entries();
        world.send_all_calls();
        let lines = world.take_lines();
        assert_eq!(lines.len(), 9, "{lines:?}");
        let code = match actor {
            "unauthenticated" => "unauthenticated",
            _ => "access-denied",
        };
        assert!(lines.iter().all(|line| line.contains(code)), "{lines:?}");
        assert_eq!(world.entries(), entries, "{actor}");
        let offers = world.registry.framework(FRAMEWORK).unwrap();
        assert!(!offers.removing);
    }
    // A rule allows it.
    world.enforce(&format!(
        "{WEB}
        allow operator/olga kill-task role:*"
    ));
    world.act_as("operator/olga");
    world.kill("a");
    assert!(
        world
            .registry
            .task(&key(FRAMEWORK, "a"))
            .unwrap()
            .kill
            .is_some()
    );
    world.clear_lines();
}

#[test]
fn a_framework_may_call_for_itself_unless_a_rule_denies_it() {
    let mut world = World::enforcing(WEB);
    world.accept("1.1", &["a"]);
    world.report(LinkId(2), "a", 1, TaskState::Running);
    world.clear_lines();
    // The right to register is enough for calls on its own tasks.
    world.enforce("allow framework/web register-framework *");
    world.acknowledge(&["a"]);
    world.kill("a");
    let lines = world.take_lines();
    assert!(
        !lines.iter().any(|line| line.contains("denied")),
        "{lines:?}"
    );
    world.enforce(
        "allow framework/web register-framework *
        deny framework/web kill-task *",
    );
    world.kill("a");
    world.expect_refused("framework/web may not kill-task on framework-1/a");
    // A launch always needs a rule.
    let offer = world.offered_again();
    world.accept(&offer, &["b"]);
    let refused = world.take_lines().join(" ");
    assert!(refused.contains("may not launch-task"), "{refused}");
}

#[test]
fn registration_needs_a_rule_for_every_role() {
    let mut world = World::new();
    world.enforce("allow framework/web register-framework role:eng/%");
    world.act_as("framework/web");
    let roles = |names: &[&str]| names.iter().map(|name| Role::new(name).unwrap()).collect();
    for (names, is_allowed) in [
        (&["eng", "eng/web"][..], true),
        (&["eng", "ops"], false),
        (&["ops"], false),
    ] {
        let link = world.link();
        let mut info = framework_info("web");
        info.roles = roles(names);
        let frameworks = world.registry.frameworks().len();
        world.subscribe_with(link, new_framework(100 + link.0, info));
        let added = world.registry.frameworks().len() - frameworks;
        assert_eq!(added, usize::from(is_allowed), "{names:?}");
        let lines = world.take_lines();
        let is_refused = lines.iter().any(|line| line.contains("access-denied"));
        assert_eq!(is_refused, !is_allowed, "{lines:?}");
    }
}

#[test]
fn a_framework_is_taken_over_only_by_its_principal_or_by_a_rule() {
    let mut world = World::enforcing(WEB);
    world.act_as("framework/other");
    world.framework_returns(FRAMEWORK, &[]);
    let lines = world.take_lines();
    assert!(lines[0].contains("access-denied"), "{lines:?}");
    world.enforce(&format!(
        "{WEB}
        allow framework/other register-framework *
        allow framework/other update-framework framework:framework-1"
    ));
    world.framework_returns(FRAMEWORK, &[]);
    let framework = world.registry.framework(FRAMEWORK).unwrap();
    assert_eq!(framework.info.principal, "framework/web");
    let lines = world.take_lines();
    assert!(
        !lines.iter().any(|line| line.contains("denied")),
        "{lines:?}"
    );
}

#[test]
fn a_task_that_may_not_be_launched_is_refused_in_its_place() {
    let mut world = World::enforcing(WEB);
    let mut mounting = spec("b", "cpus:1");
    mounting.host_paths.push(HostPath {
        host_path: "/data".to_owned(),
        container_path: "data".to_owned(),
        read_only: true,
    });
    let tasks = vec![spec("a", "cpus:1"), mounting.clone(), spec("c", "cpus:1")];
    world.launch("1.1", tasks);
    let lines = world.take_lines();
    let answer = lines.iter().find(|line| line.starts_with("call-"));
    let answer = answer.unwrap_or_else(|| panic!("{lines:?}"));
    assert!(
        answer.ends_with(", task 0.1 refused access-denied"),
        "{answer}"
    );
    let launched = |world: &World, task| world.registry.task(&key(FRAMEWORK, task)).is_some();
    let found = ["a", "b", "c"].map(|task| launched(&world, task));
    assert_eq!(found, [true, false, true]);
    // If nothing can be launched, the offer is not used.
    let offer = world.offered_again();
    let entries = world.entries();
    world.launch(&offer, vec![mounting]);
    world.expect_refused("may not use-host-path");
    assert_eq!(world.entries(), entries);
    world.accept(&offer, &["d"]);
    assert!(launched(&world, "d"));
    world.clear_lines();
}

#[test]
fn too_many_tasks_are_refused_before_the_rules_are_asked_about_each() {
    let mut world = World::enforcing(WEB);
    let tasks = (0..=limits::TASKS_PER_CALL).map(|number| TaskSpec {
        user: "root".to_owned(),
        ..spec(&format!("t{number}"), "cpus:0.001")
    });
    let (mut accept, tokens) = world.acceptance("1.1", tasks.collect());
    accept.all_or_nothing = true;
    let call = world.call_of(CallAction::Accept(accept));
    world.send(call, tokens);
    let line = world.only_line();
    assert!(line.contains("257 tasks; at most 256"), "{line}");
}

#[test]
fn only_agents_connect_as_agents() {
    let mut world = World::new();
    world.enforce("allow agent/* connect-agent *");
    for actor in ["operator/root", "framework/web", "unauthenticated"] {
        world.act_as(actor);
        world.agent("cpus:4;mem:4096");
        let lines = world.take_lines();
        assert!(lines[0].contains("may not connect"), "{actor}: {lines:?}");
        assert!(lines[1].ends_with("closed"), "{lines:?}");
    }
    assert_eq!(world.registry.agents().len(), 0);
    world.act_as("agent/host-1");
    world.agent("cpus:4;mem:4096");
    assert!(world.registry.agent(AGENT).is_some());
    world.clear_lines();
}

#[test]
fn one_denied_operation_refuses_its_batch() {
    let mut world = World::enforcing(&format!(
        "{WEB}
        allow operator/olga set-weight role:eng/%"
    ));
    world.act_as("operator/olga");
    let weight = |role: &str| OperatorOperation::SetWeight {
        role: Role::new(role).unwrap(),
        weight_milli: 2_000,
    };
    world.operate(weight("eng"));
    world.clear_lines();
    let entries = world.entries();
    world.operate(weight("ops"));
    world.expect_refused("operator/olga may not set-weight on role:ops");
    world.operate(OperatorOperation::Teardown(FRAMEWORK));
    world.expect_refused("may not teardown-framework");
    world.operate(OperatorOperation::Deactivate(AGENT));
    world.expect_refused("may not deactivate-agent on agent-1");
    let request = world.request();
    let actor = world.actor.clone();
    let level = Level::NEWEST;
    world.feed(Input::RaiseLevel {
        request,
        actor,
        level,
    });
    world.expect_refused("may not raise-level on the cluster");
    assert_eq!(world.entries(), entries);
}

#[test]
fn links_end_when_the_rules_no_longer_allow_them() {
    let mut world = World::enforcing(WEB);
    world.act_as("operator/root");
    let policy = "group admin = operator/root".parse().unwrap();
    let set = AccessOperation::SetPolicy(Arc::new(policy));
    world.operate(OperatorOperation::Access(set));
    world.clear_lines();
    world.feed(Input::Tick);
    let lines = world.take_lines();
    for link in ["link-1", "link-2"] {
        let reason = lines
            .iter()
            .any(|line| line.starts_with(link) && line.contains("access-denied"));
        let end = lines.contains(&format!("{link} closed"));
        assert!(reason && end, "{lines:?}");
    }
}

/// An agent that returns without its id would otherwise be taken for a new one.
#[test]
fn an_agent_that_does_not_name_its_id_is_known_by_its_nonce() {
    let mut world = World::enforcing(WEB);
    world.enforce(&format!("{WEB}\ndeny everyone connect-agent agent:agent-1"));
    world.feed(Input::Tick);
    world.act_as("agent/host-1");
    let entries = world.entries();
    let named = world.hello_of(AGENT);
    let unnamed = Hello {
        agent: None,
        tried: vec![named.confirmed],
        ..named
    };
    world.clear_lines();
    let link = world.link();
    world.hello(link, unnamed);
    let lines = world.take_lines();
    assert!(lines[0].contains("access-denied"), "{lines:?}");
    assert_eq!(world.entries(), entries);
}

#[test]
fn rules_that_change_end_the_link_of_an_agent_whose_registration_is_in_flight() {
    let mut world = World::enforcing(WEB);
    world.slow_log();
    world.set_policy(&format!("{WEB}\ndeny everyone connect-agent agent:agent-1"));
    world.act_as("agent/host-1");
    // The former rules still allow it.
    let link = world.agent_returns(AGENT);
    world.clear_lines();
    assert!(world.commit_oldest(), "the rules");
    world.feed(Input::Tick);
    world.commit();
    let lines = world.take_lines();
    let refused = |line: &&String| line.starts_with(&format!("link-{} ", link.0));
    let lines: Vec<_> = lines.iter().filter(refused).collect();
    assert!(lines[0].contains("access-denied"), "{lines:?}");
    assert!(lines[1].ends_with("closed"), "{lines:?}");
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[test]
fn streams_end_by_the_roles_that_their_framework_has_now() {
    const BOTH: &str = "group framework:* = framework/web
        group framework:b = framework/web
        allow agent/* connect-agent *";
    let is_closed = |world: &mut World| {
        world.clear_lines();
        world.set_policy(WEB);
        world.feed(Input::Tick);
        let lines = world.take_lines();
        lines.iter().any(|line| line.contains("access-denied"))
    };
    let with_roles = |roles: &[&str]| {
        let mut info = framework_info("web");
        info.principal = "framework/web".to_owned();
        info.roles = roles.iter().map(|role| Role::new(role).unwrap()).collect();
        CallAction::Update(info)
    };
    let mut world = World::enforcing(BOTH);
    world.call(with_roles(&["*", "b"]));
    assert!(is_closed(&mut world), "it has offers in b");

    let mut world = World::enforcing(BOTH);
    world.call(with_roles(&["*", "b"]));
    world.framework_returns(FRAMEWORK, &[]);
    world.call(with_roles(&["*"]));
    assert!(!is_closed(&mut world), "it has left b");
}

#[test]
fn the_stream_of_another_principal_ends_with_its_right_to_the_framework() {
    let register = format!("{WEB}\nallow framework/other register-framework *");
    let update = "allow framework/other update-framework framework:framework-1";
    let mut world = World::enforcing(&format!("{register}\n{update}"));
    world.act_as("framework/other");
    world.framework_returns(FRAMEWORK, &[]);
    for (policy, is_closed) in [(format!("{register}\n{update}"), false), (register, true)] {
        world.clear_lines();
        world.set_policy(&policy);
        world.feed(Input::Tick);
        let lines = world.take_lines();
        let found = lines.iter().any(|line| line.contains("access-denied"));
        assert_eq!(found, is_closed, "{lines:?}");
    }
}
