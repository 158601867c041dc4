//! Tests of what a request to an agent names, and who may make it.

use argosy_state::ids::Role;
use argosy_state::testing::{World, framework_info, key, spec};

use super::*;

const LOGS: &[Action] = &[Action::ViewLogs, Action::ReadSandbox];

fn task(request: &AgentRequest) -> Option<String> {
    match &request.named {
        Named::Task(key) => Some(key.to_string()),
        Named::AnyOf(_) | Named::Any | Named::Agent => None,
    }
}

fn file(query: &str) -> (Option<String>, &'static [Action]) {
    let request = AgentRequest::of_file(query);
    (task(&request), request.actions)
}

#[test]
fn a_path_names_its_task_and_whether_it_is_output() {
    let web = Some("framework-1/web".to_owned());
    let path = |path: &str| file(&format!("path={path}&offset=0"));
    for output in ["stdout", "stderr", "stdout.1", "stderr.12"] {
        let found = path(&format!("tasks/framework-1/web/{output}"));
        assert_eq!(found, (web.clone(), LOGS), "{output}");
    }
    for other in [
        "",
        "/a",
        "/stdoutx",
        "/stdout.old",
        "/a/stdout",
        "/stdout/a",
    ] {
        let (task, actions) = path(&format!("tasks/framework-1/web{other}"));
        assert_eq!((task, actions), (web.clone(), &LOGS[1..]), "{other}");
    }
    for spelling in [
        "tasks%2Fframework-1%2Fweb%2Fstdout",
        "tasks/framework-1/web/./stdout",
        "tasks/framework-1/web//stdout",
        "tasks//framework-1/web/stdout",
    ] {
        assert_eq!(path(spelling), (web.clone(), LOGS), "{spelling}");
    }
}

#[test]
fn a_path_that_could_mean_another_task_names_none() {
    for query in [
        "",
        "path=",
        "path=tasks",
        "path=tasks/framework-1",
        "path=tasks/framework-1/web/../api/stdout",
        "path=/tasks/framework-1/web/stdout",
        "path=tasks/framework-x/web/stdout",
        "path=tasks/framework-1/web/stdout&path=tasks/framework-1/api/stdout",
    ] {
        assert_eq!(file(query), (None, &LOGS[1..]), "{query}");
    }
    let two = "task=framework-1/web&task=framework-1/api";
    let request = AgentRequest::of_task(two, &[Action::Exec]);
    assert_eq!(request.named, Named::Any);
    let one = AgentRequest::of_task("argument=sh&task=framework-1/web", &[Action::Exec]);
    assert_eq!(task(&one).as_deref(), Some("framework-1/web"));
}

/// Returns whether `operator/bob` may make a file request to an agent. Its task `pay` is of the
/// role `hr`.
fn may_read(rules: &str, agent: u64, path: &str) -> bool {
    let mut world = World::new();
    let first = world.register("cpus:4;mem:4096");
    assert_eq!(first, AgentId(1));
    let mut info = framework_info("pay");
    let hr = Role::new("hr").unwrap();
    info.roles = [hr.clone()].into();
    let framework = world.subscribe_as(info);
    let mut offer = world.offer(framework, first, "cpus:1");
    offer.role = hr;
    world.accept(framework, vec![offer], vec![spec("pay", "cpus:1")]);
    let key = key(framework, "pay");
    assert!(world.registry.task(&key).is_some());
    let reader = Reader::As("operator/bob".parse().unwrap());
    let request = AgentRequest::of_file(&format!("path={path}"));
    let policy = rules.parse().unwrap();
    let decided = request.decide(&reader, &policy, &world.registry, Some(AgentId(agent)));
    decided.is_ok()
}

#[test]
fn no_spelling_of_a_path_evades_a_denial() {
    for denied in ["role:hr/%", "framework:framework-1", "agent:agent-1"] {
        let rules =
            format!("group operator = operator/bob\ndeny operator/bob read-sandbox {denied}");
        for path in [
            "tasks/framework-1/pay/a",
            "tasks/framework-1/pay//a",
            "tasks/framework-1/pay/./a",
            "tasks//framework-1/./pay/a",
            "./tasks/framework-1/pay/a",
            "tasks/framework-1/pay/../pay/a",
            "tasks/framework-1/pay/",
            // The names of tasks that the reader may not know.
            "tasks/framework-1",
            "tasks/framework-1/",
            "tasks",
            "",
            // A task that only the agent remembers.
            "tasks/framework-1/forgotten/a",
            "/tasks/framework-1/pay/a",
        ] {
            assert!(!may_read(&rules, 1, path), "{denied}: {path}");
        }
    }
}

#[test]
fn an_allowed_agent_does_not_open_its_denied_tasks() {
    let rules = "allow operator/bob read-sandbox agent:agent-1\n";
    let denied = format!("{rules}deny operator/bob read-sandbox role:hr");
    for path in ["tasks/framework-1/pay//a", "tasks/framework-1", "tasks"] {
        assert!(may_read(rules, 1, path), "{path}");
        assert!(!may_read(rules, 2, "tasks"), "{path}");
        assert!(!may_read(&denied, 1, path), "{path}");
    }
}

#[test]
fn a_denial_of_something_else_denies_no_file() {
    let rules = "group operator = operator/bob
        deny operator/bob read-sandbox role:ops
        deny operator/bob read-sandbox agent:agent-2
        deny operator/bob exec *
        deny operator/eve read-sandbox *";
    for path in ["tasks/framework-1/pay/a", "tasks/framework-1/pay//a"] {
        assert!(may_read(rules, 1, path), "{path}");
    }
    let rules = "group operator = operator/bob
        deny operator/bob read-sandbox agent:agent-2";
    for path in ["tasks", "tasks/framework-1", "tasks/framework-1/forgotten"] {
        assert!(may_read(rules, 1, path), "{path}");
        assert!(!may_read(rules, 2, path), "{path}");
    }
}
