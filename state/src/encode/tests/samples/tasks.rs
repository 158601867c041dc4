//! Samples of tasks and their parts, each part at least once.

use std::sync::Arc;

use super::{key, revision, role, texts};
use crate::ids::{AgentId, GroupId, OrderIndex, Revision, TaskId};
use crate::resources::{
    Range, Reservation, Resource, ResourceIdentity, Resources, Value, VolumeIdentity,
};
use crate::task::{
    Check, CheckKind, CheckResults, CniNetwork, CommandSpec, Container, ContainerNetwork,
    ExecutorSpec, Exit, HealthCheck, HostPath, Kill, PublishedPort, Reason, Scheme, Task,
    TaskGroup, TaskSpec, TaskState, TaskUpdate, UpdateSource, Uri,
};

/// Returns every kind of amount and every part of an identity.
pub(super) fn resources() -> Resources {
    let mut disk = ResourceIdentity::plain("disk");
    disk.reservations = vec![Reservation {
        role: role("ops"),
        principal: "alice".to_owned(),
        labels: texts("why", "db"),
    }]
    .into();
    disk.volume = Some(Box::new(VolumeIdentity {
        id: "v1".to_owned(),
        container_path: "data".to_owned(),
    }));
    disk.revocable = true;
    disk.shared = true;
    let plain = |name: &str, value: Value| Resource {
        identity: ResourceIdentity::plain(name),
        value,
    };
    let range = |begin, end| Range { begin, end };
    Resources::collect([
        plain("cpus", Value::Scalar(1_500)),
        Resource {
            identity: disk,
            value: Value::Scalar(1_024_000),
        },
        plain("ports", Value::Ranges(vec![range(7, 9), range(20, 20)])),
        plain("zones", Value::Set(["a".into(), "b".into()].into())),
    ])
    .unwrap()
}

pub(super) fn spec(task: &str, run: CommandSpec) -> TaskSpec {
    TaskSpec {
        name: "the web".to_owned(),
        resources: resources(),
        environment: texts("PATH", "/bin"),
        user: "nobody".to_owned(),
        uris: vec![Uri {
            value: "https://example.org/a.tar".to_owned(),
            executable: true,
            output_file: "a".to_owned(),
            extract: false,
            sha256: String::new(),
            cache: false,
        }],
        host_paths: vec![HostPath {
            host_path: "/srv".to_owned(),
            container_path: "srv".to_owned(),
            read_only: true,
        }],
        grace_ms: 3_001,
        labels: texts("tier", "front"),
        max_completion_ms: 3_002,
        stop_after_ms: 3_003,
        ..TaskSpec::new(TaskId::new(task).unwrap(), run)
    }
}

pub(super) fn update(at: Revision, state: TaskState, exit: Option<Exit>) -> TaskUpdate {
    TaskUpdate {
        revision: at,
        state,
        source: UpdateSource::Task,
        reason: Reason::CommandExited,
        causes: Vec::new(),
        message: "done".to_owned(),
        exit,
        standing: CheckResults::default(),
        stopped: false,
        wall_ms: -5,
    }
}

pub(super) fn task(id: &str) -> Task {
    let last = update(revision(41, 3), TaskState::Failed, Some(Exit::Code(-7)));
    Task {
        key: key(4, id),
        agent: AgentId(3),
        role: role("web"),
        order: OrderIndex(11),
        spec: Arc::new(spec(id, CommandSpec::Shell("sleep 1".to_owned()))),
        kill: Some(Kill {
            order: OrderIndex(12),
            grace_ms: 600,
        }),
        limits_change: None,
        state: TaskState::Failed,
        agent_state: TaskState::Failed,
        standing: CheckResults::default(),
        reported: 5,
        latest: last.clone(),
        unacknowledged: vec![update(revision(40, 2), TaskState::Running, None), last],
        revision: revision(42, 1),
    }
}

/// Returns a task that runs, and is healthy but not ready.
pub(super) fn checked_task() -> Task {
    let standing = CheckResults {
        healthy: Some(true),
        ready: Some(false),
    };
    let [checked, ..] = checks();
    let latest = TaskUpdate {
        reason: Reason::ReadinessCheckStatusUpdated,
        standing,
        ..update(revision(40, 4), TaskState::Running, None)
    };
    Task {
        spec: Arc::new(checked),
        kill: None,
        state: TaskState::Running,
        agent_state: TaskState::Running,
        standing,
        latest: latest.clone(),
        unacknowledged: vec![latest],
        ..task("web-6")
    }
}

/// Returns a task that has stopped itself on an unreachable agent.
pub(super) fn stopped_task() -> Task {
    let latest = TaskUpdate {
        source: UpdateSource::Master,
        reason: Reason::StoppedWithoutLeader,
        stopped: true,
        ..update(revision(44, 5), TaskState::Unreachable, None)
    };
    Task {
        kill: None,
        state: TaskState::Unreachable,
        agent_state: TaskState::Running,
        latest: latest.clone(),
        unacknowledged: vec![latest],
        // The resources do not overlap those of the running task.
        spec: Arc::new(TaskSpec {
            resources: "cpus:0.5".parse().unwrap(),
            ..TaskSpec::clone(&task("web-84").spec)
        }),
        ..task("web-84")
    }
}

/// Returns a task with each kind of network.
pub(super) fn containers() -> Vec<TaskSpec> {
    let port = |udp| PublishedPort {
        host: 8080,
        container: 80,
        udp,
    };
    let networks = [
        ("web-3", ContainerNetwork::AgentDefault),
        ("web-4", ContainerNetwork::None),
        (
            "web-5",
            ContainerNetwork::Bridge(vec![port(false), port(true)]),
        ),
    ];
    let archive = Uri {
        value: "/srv/site.tar.gz".to_owned(),
        executable: false,
        output_file: "site".to_owned(),
        extract: true,
        sha256: "ab".repeat(32),
        cache: true,
    };
    let specs = networks.map(|(task, network)| TaskSpec {
        container: Container {
            image: "registry.example.org/web:1".to_owned(),
            network,
            ..Container::default()
        },
        uris: vec![archive.clone()],
        ..spec(task, CommandSpec::Image)
    });
    specs.into()
}

/// Returns a task in a CNI network, with a terminal and standard input.
pub(super) fn attached() -> TaskSpec {
    let port = PublishedPort {
        host: 8080,
        container: 80,
        udp: false,
    };
    TaskSpec {
        container: Container {
            network: ContainerNetwork::Cni(CniNetwork {
                name: "blue".to_owned(),
                published: vec![port],
            }),
            ..Container::default()
        },
        tty: true,
        stdin: true,
        ..spec("web-8", CommandSpec::Shell("sh".to_owned()))
    }
}

/// Returns the tasks of a group.
pub(super) fn group() -> [TaskSpec; 2] {
    [(0, "web-8"), (1, "web-9")].map(|(place, task)| TaskSpec {
        group: Some(Box::new(TaskGroup {
            id: GroupId::new("pod").unwrap(),
            place,
            size: 2,
        })),
        ..spec(task, CommandSpec::Shell("serve".to_owned()))
    })
}

/// Returns tasks with each kind of check.
pub(super) fn checks() -> [TaskSpec; 2] {
    let http = CheckKind::Http {
        scheme: Scheme::Http,
        port: 8080,
        path: "/health".to_owned(),
        statuses: [200, 204].into(),
    };
    let argv = CheckKind::Argv(vec!["check".to_owned(), "it".to_owned()]);
    let kinds = [
        ("web-6", http, CheckKind::Shell("test -e up".to_owned())),
        ("web-7", argv, CheckKind::Tcp { port: 9090 }),
    ];
    kinds.map(|(task, health, readiness)| TaskSpec {
        health_check: Some(Box::new(HealthCheck {
            check: Check {
                delay_ms: 1,
                interval_ms: 2,
                timeout_ms: 3,
                ..Check::of(health)
            },
            grace_ms: 4,
            failures: 5,
        })),
        readiness_check: Some(Box::new(Check::of(readiness))),
        ..spec(task, CommandSpec::Shell("serve".to_owned()))
    })
}

/// Returns a task with an HTTPS check.
pub(super) fn https_check() -> TaskSpec {
    let https = CheckKind::Http {
        scheme: Scheme::Https,
        port: 8443,
        path: "/".to_owned(),
        statuses: [].into(),
    };
    TaskSpec {
        readiness_check: Some(Box::new(Check::of(https))),
        ..spec("web-20", CommandSpec::Shell("serve".to_owned()))
    }
}

/// Returns tasks of executors with each kind of command.
pub(super) fn executors() -> Vec<TaskSpec> {
    let runs = [
        ("web-8", CommandSpec::Shell("run tasks".to_owned())),
        (
            "web-9",
            CommandSpec::Argv(vec!["run".to_owned(), "tasks".to_owned()]),
        ),
        ("web-10", CommandSpec::Image),
    ];
    let all = runs.map(|(task, run)| {
        let image = (run == CommandSpec::Image).then_some("registry.example.org/executor:1");
        let alike = spec(task, run);
        TaskSpec {
            executor: Some(Box::new(ExecutorSpec {
                executor: TaskId::new("executor-1").unwrap(),
                resources: alike.resources.clone(),
                run: alike.run.clone(),
                container: Container {
                    image: image.unwrap_or_default().to_owned(),
                    network: ContainerNetwork::None,
                    ..Container::default()
                },
                environment: texts("MODE", "fast"),
                user: "nobody".to_owned(),
                uris: alike.uris.clone(),
                grace_ms: 3_004,
            })),
            run: CommandSpec::Image,
            ..alike
        }
    });
    all.into()
}
