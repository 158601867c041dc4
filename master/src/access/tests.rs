//! Tests of decisions, and of the tables of calls, paths and operations.

mod operations;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use argosy_state::access::{Action, Policy};
use argosy_state::actor::Actor;
use argosy_state::ids::{AgentId, FrameworkId, Role};
use argosy_state::task::{HostPath, LinuxCapability, TaskSpec, TaskVolume, VolumeSource};
use argosy_state::testing::spec;

use super::decision::Permits;
use super::*;

/// Returns a policy of groups and rules, one a line.
fn policy(text: &str) -> Policy {
    text.parse().unwrap()
}

fn role(text: &str) -> Role {
    Role::new(text).unwrap()
}

fn may(policy: &Policy, actor: &str, action: &str, object: &Object<'_>) -> bool {
    let actor: Actor = actor.parse().unwrap();
    decide(policy, &actor, action.parse().unwrap(), object).is_allowed()
}

fn may_in(policy: &Policy, actor: &str, action: &str, of: &str) -> bool {
    may(policy, actor, action, &Object::role(&role(of)))
}

#[test]
fn a_denial_wins_over_every_rule_and_group_that_allows() {
    let policy = policy(
        "group admin = operator/alice operator/bob
         group ops = operator/bob
         allow operator/bob exec *
         deny group:ops exec role:prod/%
         deny everyone mark-gone *",
    );
    assert!(may_in(&policy, "operator/alice", "exec", "prod/db"));
    assert!(!may_in(&policy, "operator/bob", "exec", "prod/db"));
    assert!(!may_in(&policy, "operator/bob", "exec", "prod"));
    assert!(may_in(&policy, "operator/bob", "exec", "production"));
    assert!(may_in(&policy, "operator/bob", "kill-task", "prod/db"));
    let cluster = &Object::CLUSTER;
    assert!(!may(&policy, "operator/alice", "mark-gone", cluster));
    let bob: Actor = "operator/bob".parse().unwrap();
    let place = role("prod");
    let decision = decide(&policy, &bob, Action::Exec, &Object::role(&place));
    let by = Some("deny group:ops exec role:prod/%".parse().unwrap());
    assert_eq!(decision, Decision::Denied { by });
    // The cluster itself and masters are exempt.
    assert!(may(&policy, "cluster", "mark-gone", cluster));
    assert!(may(&policy, "master/m1", "mark-gone", cluster));
}

#[test]
fn what_no_rule_allows_is_denied_to_all_callers() {
    let none = policy("");
    for actor in [
        "operator/alice",
        "agent/a",
        "framework/f",
        "unauthenticated",
    ] {
        for action in Action::ALL {
            assert!(!may(&none, actor, action.as_str(), &Object::CLUSTER));
        }
    }
}

#[test]
fn initially_operators_are_admins_and_agents_may_only_connect() {
    let initial = Policy::initial();
    for action in Action::ALL {
        let action = action.as_str();
        let cluster = &Object::CLUSTER;
        assert!(may(&initial, "operator/alice", action, cluster), "{action}");
        assert!(!may(&initial, "unauthenticated", action, cluster));
        assert!(!may(&initial, "framework/web", action, cluster));
        let is_connect = action == "connect-agent";
        assert_eq!(may(&initial, "agent/a", action, cluster), is_connect);
    }
}

#[test]
fn the_rules_of_prometheus_allow_metrics_and_targets_and_nothing_else() {
    let rules = policy(include_str!("../../../deploy/prometheus/prometheus.acl"));
    let (agent, place) = (Object::agent(AgentId(7)), role("eng"));
    for action in Action::ALL {
        let (action, on_role) = (action.as_str(), &Object::role(&place));
        for object in [&Object::CLUSTER, &agent, on_role] {
            let is_allowed = may(&rules, "framework/prometheus", action, object);
            let wanted = ["view-metrics", "view-cluster", "view-agent", "view-task"];
            assert_eq!(is_allowed, wanted.contains(&action), "{action}");
            assert!(!may(&rules, "framework/other", action, object), "{action}");
        }
    }
}

#[test]
fn a_rule_applies_to_its_own_facet_and_to_whole_components() {
    let policy = policy(
        "allow anonymous view-metrics *
         allow framework/web kill-task role:eng/%
         allow framework/web view-task framework:framework-7
         allow framework/web run-as-user user:www-data
         allow agent/a7 connect-agent agent:agent-7",
    );
    let web = "framework/web";
    assert!(may_in(&policy, web, "kill-task", "eng"));
    assert!(may_in(&policy, web, "kill-task", "eng/backend"));
    assert!(!may_in(&policy, web, "kill-task", "engineers"));
    assert!(!may_in(&policy, web, "kill-task", "ops"));
    assert!(!may(&policy, web, "kill-task", &Object::CLUSTER));
    let of = |framework| Object {
        framework: Some(FrameworkId(framework)),
        ..Object::CLUSTER
    };
    assert!(may(&policy, web, "view-task", &of(7)));
    assert!(!may(&policy, web, "view-task", &of(8)));
    let agent = |id| Object::agent(AgentId(id));
    assert!(may(&policy, "agent/a7", "connect-agent", &agent(7)));
    assert!(!may(&policy, "agent/a7", "connect-agent", &agent(8)));
    assert!(!may(&policy, "agent/a8", "connect-agent", &agent(7)));
    assert!(may(
        &policy,
        "unauthenticated",
        "view-metrics",
        &Object::CLUSTER
    ));
    assert!(!may(&policy, web, "view-metrics", &Object::CLUSTER));
    let user = Object {
        user: Some("www-data"),
        ..Object::CLUSTER
    };
    assert!(may(&policy, web, "run-as-user", &user));
}

#[test]
fn the_built_in_groups_have_their_rights() {
    let policy = policy(
        "group operator = operator/olga
         group viewer = operator/vera
         group framework:eng = framework/web",
    );
    let reserved = [
        "set-access",
        "create-token",
        "revoke",
        "set-secret",
        "change-masters",
        "raise-level",
    ];
    let eng = role("eng/web");
    for action in Action::ALL {
        let name = action.as_str();
        let operator = may(&policy, "operator/olga", name, &Object::CLUSTER);
        assert_eq!(operator, !reserved.contains(&name), "{name}");
        let viewer = may(&policy, "operator/vera", name, &Object::CLUSTER);
        assert_eq!(viewer, name.starts_with("view-") || name == "explain");
        assert!(!may(&policy, "framework/web", name, &Object::CLUSTER));
        assert!(!may_in(&policy, "framework/web", name, "ops"), "{name}");
    }
    for name in [
        "register-framework",
        "launch-task",
        "view-task",
        "use-image",
    ] {
        assert!(may(&policy, "framework/web", name, &Object::role(&eng)));
    }
    for name in ["exec", "use-host-path", "use-secret", "connect-agent"] {
        assert!(!may(&policy, "framework/web", name, &Object::role(&eng)));
    }
}

#[test]
fn schedulers_of_a_role_run_tasks_of_every_user_but_root() {
    let policy = policy("group framework:eng = framework/web");
    let eng = role("eng");
    let run_as = |user| {
        let object = Object {
            user: Some(user),
            ..Object::role(&eng)
        };
        may(&policy, "framework/web", "run-as-user", &object)
    };
    for user in ["www-data", "1000", "1000:0", "rooty"] {
        assert!(run_as(user), "{user}");
    }
    for user in ["root", "0", "00", "root:root", "0:1000", ":1000", ":0"] {
        assert!(!run_as(user), "{user}");
    }
}

#[test]
fn a_denied_user_is_denied_in_every_spelling() {
    let rules = "allow framework/web run-as-user *
                 deny framework/web run-as-user user:root
                 deny framework/web run-as-user user:www-data
                 deny framework/web run-as-user user:33";
    let run_as = |user: &str| launch(rules, |task| task.user = user.to_owned());
    for user in ["root", "0", "00", "root:root", "0:0", ":0", ":1000"] {
        assert!(run_as(user).is_some(), "{user}");
    }
    for user in ["www-data", "www-data:docker", "33", "033:1"] {
        assert!(run_as(user).is_some(), "{user}");
    }
    // A task without a user has the default one.
    for user in ["db", "db:root", "1000:33", "330", ""] {
        assert_eq!(run_as(user), None, "{user}");
    }
    let policy = policy("allow operator/bob exec *\ndeny operator/bob exec user:root");
    let exec = |user| {
        let task = Object {
            user,
            ..Object::CLUSTER
        };
        may(&policy, "operator/bob", "exec", &task)
    };
    assert!(!exec(Some("0")) && !exec(Some(":0")));
    assert!(exec(Some("1000:0")) && exec(None));
}

#[test]
fn a_task_with_an_image_and_a_writable_host_path_needs_every_user_but_root() {
    let needed = "allow framework/web use-image *\nallow framework/web use-host-path *";
    let launch = |rules: &str, read_only: bool, user: &str| {
        launch(&format!("{needed}\n{rules}"), |task| {
            task.user = user.to_owned();
            task.container.image = "db".to_owned();
            task.host_paths.push(HostPath {
                host_path: "/data".to_owned(),
                container_path: "data".to_owned(),
                read_only,
            });
        })
    };
    let one = "allow framework/web run-as-user user:www-data";
    let refused = launch("", false, "").unwrap();
    assert!(refused.contains("run-as-user"), "{refused}");
    // The image may give this name to another user of the host.
    assert!(launch(one, false, "www-data").is_some());
    assert_eq!(launch("", true, ""), None);
    let all = "allow framework/web run-as-user *";
    assert_eq!(launch(all, false, ""), None);
    let of_role = "allow framework/web run-as-user role:eng";
    assert_eq!(launch(of_role, false, "www-data"), None);
    let but = |user: &str| format!("{all}\ndeny framework/web run-as-user user:{user}");
    assert!(launch(&but("postgres"), false, "").is_some());
    assert_eq!(launch(&but("root"), false, ""), None);
    let scheduler = "group framework:eng = framework/web";
    assert_eq!(launch(scheduler, false, ""), None, "all users but root");
}

#[test]
fn a_rule_that_allows_a_user_allows_the_group_that_it_names() {
    let run_as = |rule: &str, user: &str| {
        let rule = format!("allow framework/web run-as-user user:{rule}");
        launch(&rule, |task| task.user = user.to_owned()).is_none()
    };
    assert!(run_as("www-data", "www-data") && run_as("33", "033"));
    assert!(run_as("www-data:www-data", "www-data:www-data"));
    assert!(!run_as("www-data", "www-data:docker"));
    assert!(!run_as("www-data:www-data", "www-data:docker"));
}

#[test]
fn several_roles_are_allowed_only_together() {
    let policy = policy("allow framework/web register-framework role:eng/%");
    let web: Actor = "framework/web".parse().unwrap();
    let permits = Permits::of(&policy, &web, Action::RegisterFramework);
    let decided = |roles: &[&str]| {
        let roles: Vec<Role> = roles.iter().map(|name| role(name)).collect();
        let (decision, _) = decide_all(&permits, roles.iter().map(Object::role));
        decision.is_allowed()
    };
    assert!(decided(&["eng", "eng/web"]));
    assert!(!decided(&["eng", "ops"]));
    assert!(!decided(&[]));
}

#[test]
fn a_view_of_everything_is_known_before_any_record_is_read() {
    let sight = |text: &str, actor: &str| {
        let reader = Reader::As(actor.parse().unwrap());
        reader.sight_by(&policy(text), Action::ViewTask)
    };
    let alice = "operator/alice";
    assert!(sight("group viewer = operator/alice", alice).is_all());
    assert!(sight("allow operator/* view-task *", alice).is_all());
    assert!(sight("", "master/m1").is_all());
    let part = sight("allow operator/* view-task role:eng/%", alice);
    assert!(!part.is_all() && part.some().is_ok());
    let denied = sight(
        "allow operator/* view-task *
         deny operator/* view-task role:eng",
        alice,
    );
    assert!(!denied.is_all() && denied.some().is_ok());
    assert!(denied.role(&role("ops")) && !denied.role(&role("eng")));
    let none = sight("allow operator/bob view-task *", alice);
    let why = none.some().unwrap_err().to_string();
    assert!(why.contains("operator/alice may not view-task"), "{why}");
    let all = Reader::Unrestricted.sight_by(&policy("deny everyone * *"), Action::ViewTask);
    assert!(all.is_all());
}

/// Returns why `framework/web` may not launch a task in `eng`.
fn launch(rules: &str, change: impl FnOnce(&mut TaskSpec)) -> Option<String> {
    let policy = policy(&format!(
        "allow framework/web launch-task role:eng\n{rules}"
    ));
    let mut task = spec("a", "cpus:1");
    change(&mut task);
    let web: Actor = "framework/web".parse().unwrap();
    let eng = role("eng");
    let mut permits = PermitCache::default();
    permits.follow(&policy.into());
    let denied = denied_launch(&mut permits, &web, Object::role(&eng), &task);
    denied.err().map(|denial| denial.to_string())
}

#[test]
fn each_property_of_a_launched_task_needs_its_right() {
    assert_eq!(launch("", |_| ()), None);
    let refused = launch("deny framework/* launch-task *", |_| ()).unwrap();
    assert!(
        refused.contains("may not launch-task on role:eng"),
        "{refused}"
    );
    type Change = fn(&mut TaskSpec);
    let cases: [(&str, &str, Change); 6] = [
        ("run-as-user", "user:db", |task| task.user = "db".to_owned()),
        ("use-image", "image:registry.example/eng/", |task| {
            task.container.image = "registry.example/eng/db:1".to_owned();
        }),
        ("use-security-option", "role:eng", |task| {
            let options = &mut task.container.security_options;
            options.capabilities.insert(LinuxCapability::Chown);
        }),
        ("use-host-network", "role:eng", |task| {
            task.container.security_options.host_network = true;
        }),
        ("use-host-path", "host-path:/data", |task| {
            task.host_paths.push(HostPath {
                host_path: "/data/db".to_owned(),
                container_path: "db".to_owned(),
                read_only: true,
            });
        }),
        ("use-secret", "secret:eng/key", |task| {
            task.volumes.push(TaskVolume {
                container_path: "/run/secrets/key".to_owned(),
                read_only: true,
                source: VolumeSource::Secret("key".to_owned()),
            });
        }),
    ];
    for (action, object, change) in cases {
        let refused = launch("", change).unwrap();
        assert!(refused.contains(&format!("may not {action}")), "{refused}");
        let allow = format!("allow framework/web {action} {object}");
        assert_eq!(launch(&allow, change), None, "{action}");
        let both = format!("{allow}\ndeny framework/web {action} *");
        assert!(launch(&both, change).is_some(), "{action}");
    }
}

#[test]
fn a_rule_about_a_secret_of_the_registry_applies_to_tasks_that_use_it() {
    let mount = |rules: &str, secret: &str| {
        launch(rules, |task| {
            task.volumes.push(TaskVolume {
                container_path: "/run/secrets/key".to_owned(),
                read_only: true,
                source: VolumeSource::Secret(secret.to_owned()),
            });
        })
    };
    let allow = |object: &str| format!("allow framework/web use-secret {object}");
    let one = allow("secret:eng/key");
    assert_eq!(mount(&one, "eng/key"), None);
    // A secret of the agent has the role of the task.
    assert_eq!(mount(&one, "key"), None);
    for other in ["eng/other", "eng/web/key", "*/key", "other"] {
        let refused = mount(&one, other).unwrap();
        assert!(
            refused.contains("may not use-secret on secret:"),
            "{refused}"
        );
    }
    assert_eq!(mount(&allow("secret:eng/%"), "eng/web/key"), None);
    assert!(mount(&allow("secret:eng/%"), "ops/key").is_some());
    // The role of a rule that allows it is that of the secret.
    assert_eq!(mount(&allow("role:eng"), "eng/key"), None);
    assert!(mount(&allow("role:eng"), "*/key").is_some());
    let denied = format!(
        "{}\nallow framework/web view-access *\ndeny everyone use-secret secret:*/key",
        allow("*")
    );
    assert_eq!(mount(&denied, "eng/key"), None);
    let refused = mount(&denied, "*/key").unwrap();
    assert!(
        refused.contains("deny everyone use-secret secret:*/key"),
        "{refused}"
    );
}

#[test]
fn a_denied_host_path_is_not_mounted_with_a_directory_above_it() {
    let rules = "allow framework/web use-host-path *
                 deny framework/web use-host-path host-path:/etc/argosy";
    let mount = |path: &str| {
        let host_path = path.to_owned();
        launch(rules, |task| {
            task.host_paths.push(HostPath {
                host_path,
                container_path: "x".to_owned(),
                read_only: true,
            });
        })
    };
    for path in ["/data", "/etc/other", "/etc/argosy2"] {
        assert_eq!(mount(path), None, "{path}");
    }
    for path in [
        "/etc/argosy",
        "/etc/argosy/tls",
        "/etc",
        "/",
        "/data/../etc/argosy",
    ] {
        assert!(mount(path).is_some(), "{path}");
    }
}

#[test]
fn a_denial_names_who_what_the_object_the_rule_and_a_remedy() {
    let text = |rules: &str, actor: &str| {
        let actor: Actor = actor.parse().unwrap();
        let eng = role("eng");
        let object = Object::role(&eng);
        let decision = decide(&policy(rules), &actor, Action::KillTask, &object);
        let may = |action, object: &Object<'_>| {
            decide(&policy(rules), &actor, action, object).is_allowed()
        };
        let denial = Denial::of(decision, &actor, Action::KillTask, &object, may);
        let denial = denial.unwrap_err();
        (denial.code(), denial.to_string())
    };
    let view = "allow operator/bob view-access *";
    let denied = format!("{view}\ndeny operator/bob kill-task *");
    let (code, by_rule) = text(&denied, "operator/bob");
    assert_eq!(code, DENIED);
    assert_eq!(
        by_rule,
        "operator/bob may not kill-task on role:eng: the rule \"deny operator/bob kill-task *\" denies it; an admin can change the rules with argosy acl set"
    );
    let (code, by_none) = text(view, "operator/bob");
    assert_eq!(code, DENIED);
    assert!(
        by_none.contains("\"allow operator/bob kill-task *\""),
        "{by_none}"
    );
    // Other callers do not learn whether a rule denies it or none allows it.
    let (_, by_none) = text("", "operator/bob");
    assert!(by_none.contains("argosy acl set"), "{by_none}");
    assert_eq!(text("deny operator/bob * *", "operator/bob").1, by_none);
    let (code, unproven) = text("", "unauthenticated");
    assert_eq!(code, UNPROVEN);
    assert!(unproven.contains("--token-file"), "{unproven}");
    assert_eq!(
        text("deny anonymous * *", "unauthenticated"),
        (code, unproven)
    );
}

/// Returns the calls of all services of the protocol, as `SERVICE/CALL`.
fn calls_of_the_protocol() -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto/argosy/v1");
    let mut calls = BTreeSet::new();
    for file in fs::read_dir(directory).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let mut service = String::new();
        for line in text.lines().map(str::trim) {
            let first = |rest: &str| rest.split([' ', '(']).next().unwrap().to_owned();
            if let Some(rest) = line.strip_prefix("service ") {
                service = first(rest);
            } else if let Some(rest) = line.strip_prefix("rpc ") {
                calls.insert(format!("{service}/{}", first(rest)));
            }
        }
    }
    calls
}

#[test]
fn every_call_of_the_protocol_has_one_row() {
    let expected = calls_of_the_protocol();
    assert!(expected.len() > 30, "{expected:?}");
    let rows: Vec<String> = CALLS.iter().map(|(call, _)| (*call).to_owned()).collect();
    let distinct: BTreeSet<String> = rows.iter().cloned().collect();
    assert_eq!(distinct.len(), rows.len(), "a call has two rows");
    assert_eq!(distinct, expected);
    let path = "/argosy.v1.Operator/RaiseLevel";
    assert_eq!(check_of_call(path), Some(Check::Leader(Action::RaiseLevel)));
    assert_eq!(check_of_call("/argosy.v1.Operator/Invented"), None);
}

#[test]
fn only_the_state_of_a_process_and_the_list_of_paths_are_open() {
    let open = crate::http::ROUTES.iter().filter(|route| {
        let check = crate::http::check_of(route.method, route.path);
        check.expect("it has a row") == Check::Open
    });
    let open: Vec<_> = open.map(|route| route.path).collect();
    assert_eq!(open, ["/healthz", "/readyz"]);
    for (method, path) in [("GET", "/"), ("GET", "/v1")] {
        assert_eq!(crate::http::check_of(method, path), Some(Check::Open));
    }
    assert_eq!(crate::http::check_of("GET", "/v1/invented"), None);
    let metrics = Some(Check::Local(Action::ViewMetrics));
    assert_eq!(crate::http::check_of("HEAD", "/metrics"), metrics);
}
