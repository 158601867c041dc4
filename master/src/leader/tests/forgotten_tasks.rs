//! Tests of access to tasks that the registry does not have, or has at another agent.

use argosy_state::ids::AgentId;
use argosy_state::task::TaskState;
use argosy_state::testing::key;

use super::fixture::{AGENT, FRAMEWORK, World};
use crate::access::{Object, Reader};
use crate::links::LinkId;

/// Returns a world with the running task `a` of `framework-1`, in the role of all frameworks here.
fn world() -> World {
    let mut world = World::with_offer();
    world.accept("1.1", &["a"]);
    world.report(LinkId(2), "a", 1, TaskState::Running);
    world.clear_lines();
    world
}

/// Returns whether `operator/bob` may exec in a task at an agent, by these rules.
fn may_exec(world: &World, rules: &str, task: &str, agent: AgentId) -> bool {
    let policy = rules.parse().unwrap();
    let bob = Reader::As("operator/bob".parse().unwrap());
    let key = key(FRAMEWORK, task);
    let objects = Object::of_key(&world.registry, &key, Some(agent));
    let exec = argosy_state::access::Action::Exec;
    bob.check_all(&policy, exec, &objects).is_ok()
}

#[test]
fn a_denial_applies_to_a_task_that_the_registry_has_forgotten() {
    let world = world();
    let role = &world.registry.task(&key(FRAMEWORK, "a")).unwrap().role;
    let everything = "allow operator/bob exec *";
    let other = AgentId(AGENT.0 + 1);
    for (denied, of_known, of_forgotten, elsewhere) in [
        (format!("role:{role}"), false, false, false),
        ("role:other".to_owned(), true, true, true),
        // An unknown task may have had any user.
        ("user:payroll".to_owned(), true, false, false),
        (format!("agent:{AGENT}"), false, false, true),
        (format!("agent:{other}"), true, true, false),
        ("framework:framework-1".to_owned(), false, false, false),
        ("framework:framework-2".to_owned(), true, true, true),
    ] {
        let rules = format!("{everything}\ndeny operator/bob exec {denied}");
        assert!(may_exec(&world, everything, "forgotten", AGENT));
        let found = [
            may_exec(&world, &rules, "a", AGENT),
            may_exec(&world, &rules, "forgotten", AGENT),
            // The id was used there before.
            may_exec(&world, &rules, "a", other),
        ];
        assert_eq!(found, [of_known, of_forgotten, elsewhere], "{denied}");
    }
}

#[test]
fn a_forgotten_task_has_the_roles_of_its_framework() {
    let world = world();
    let role = &world.registry.task(&key(FRAMEWORK, "a")).unwrap().role;
    let allowed = format!("allow operator/bob exec role:{role}");
    assert!(may_exec(&world, &allowed, "forgotten", AGENT));
    let other = "allow operator/bob exec role:other";
    assert!(!may_exec(&world, other, "forgotten", AGENT));
}

#[test]
fn any_denial_applies_to_a_task_of_an_unknown_framework() {
    let world = World::new();
    let everything = "allow operator/bob exec *";
    assert!(may_exec(&world, everything, "a", AGENT));
    for denied in [
        "role:eng",
        "role:eng/%",
        "user:payroll",
        "agent:agent-1",
        "*",
    ] {
        let rules = format!("{everything}\ndeny operator/bob exec {denied}");
        assert!(!may_exec(&world, &rules, "a", AGENT), "{denied}");
    }
    let other_agent = format!("{everything}\ndeny operator/bob exec agent:agent-9");
    assert!(may_exec(&world, &other_agent, "a", AGENT));
}
