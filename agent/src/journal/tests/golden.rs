//! The bytes of records. The file of expected bytes was written by a release whose core worked on
//! wire messages: a journal does not depend on the types of the core.

use std::collections::VecDeque;
use std::fmt::Write as _;

use argosy_proto::convert;
use argosy_state::ids::{GroupId, TaskId, Timestamp};
use argosy_state::resources::Resources;
use argosy_state::task::{
    Check, CheckKind, CheckResults, CniNetwork, Code, CommandSpec, Container, ContainerNetwork,
    DiskLimit, ExecutorSpec, Explanation, HealthCheck, HostPath, ImagePull, KillSignal,
    LinuxCapability, PublishedPort, Scheme, SecurityOptions, Sizes, TaskGroup, TaskLimits,
    TaskSpec, TaskState, TaskVolume, Uri, VolumeSource,
};

use super::*;
use crate::core::{
    CheckTimes, ExecutorInfo, ExecutorRecord, FailureCause, LaunchOrder, NumberedUpdate,
    StartedFact, TaskFacts,
};
use crate::journal::record::{decode, encode};

const EXPECTED: &str = "tests/journal-records.txt";

fn plain(task: &str) -> TaskSpec {
    let command = CommandSpec::Shell("exec sleep 1000".into());
    TaskSpec {
        resources: "cpus:0.5;mem:64;ports:[31000-31001]".parse().unwrap(),
        grace_ms: 3_000,
        ..TaskSpec::new(TaskId::new(task).unwrap(), command)
    }
}

fn container(network: ContainerNetwork) -> Container {
    Container {
        image: "docker.io/library/nginx:1.27".into(),
        network,
        security_options: SecurityOptions {
            capabilities: [LinuxCapability::ALL[0]].into(),
            unconfined_seccomp: true,
            ..SecurityOptions::default()
        },
        sizes: Sizes {
            open_files: Some(65_536),
            ..Sizes::default()
        },
        pull: Some(ImagePull::Always),
    }
}

fn uri() -> Uri {
    Uri {
        value: "https://host/archive.tar.gz".into(),
        executable: false,
        output_file: "archive".into(),
        extract: true,
        sha256: "ab".repeat(32),
        cache: true,
    }
}

fn limits() -> TaskLimits {
    TaskLimits {
        cpu_millis: Some(1_500),
        pids: Some(7),
        io: vec![DiskLimit {
            disk: "/dev/sda".into(),
            read_bytes: Some(1),
            ..DiskLimit::default()
        }],
        exclusive_cpus: true,
        ..TaskLimits::default()
    }
}

/// Returns a task with every field. Maps have one entry: they are encoded in no fixed order.
fn full() -> TaskSpec {
    let port = PublishedPort {
        host: 8_080,
        container: 80,
        udp: true,
    };
    let http = Check::of(CheckKind::Http {
        scheme: Scheme::Https,
        port: 443,
        path: "/health".into(),
        statuses: [200, 204].into(),
    });
    let volumes = [
        VolumeSource::Sandbox("data".into()),
        VolumeSource::Tmpfs { bytes: 8_192 },
        VolumeSource::Secret("db".into()),
    ];
    let volumes = volumes.into_iter().zip(0..).map(|(source, at)| TaskVolume {
        container_path: format!("/volume-{at}"),
        read_only: at > 0,
        source,
    });
    TaskSpec {
        name: "a web server".into(),
        limits: Some(Box::new(limits())),
        container: container(ContainerNetwork::Bridge(vec![port])),
        environment: [("LANG".to_owned(), "C".to_owned())].into(),
        user: "www".into(),
        uris: vec![uri()],
        host_paths: vec![HostPath {
            host_path: "/srv/data".into(),
            container_path: "/data".into(),
            read_only: true,
        }],
        kill_signal: Some(KillSignal::Quit),
        labels: [("tier".to_owned(), "front".to_owned())].into(),
        max_completion_ms: 60_000,
        stop_after_ms: 30_000,
        health_check: Some(Box::new(HealthCheck::of(http))),
        readiness_check: Some(Box::new(Check::of(CheckKind::Argv(vec!["true".into()])))),
        volumes: volumes.collect(),
        tty: true,
        stdin: true,
        ..plain("full")
    }
}

fn executor() -> ExecutorSpec {
    ExecutorSpec {
        executor: TaskId::new("runner").unwrap(),
        resources: "cpus:0.1;mem:32".parse().unwrap(),
        run: CommandSpec::Argv(vec!["/runner".into(), "--fast".into()]),
        container: container(ContainerNetwork::None),
        environment: [("A".to_owned(), "b".to_owned())].into(),
        user: String::new(),
        uris: vec![uri()],
        grace_ms: 5_000,
    }
}

fn reserved() -> Resources {
    let mut wire = convert::resources(&"cpus:2;disk:10;gpus:{a,b}".parse().unwrap());
    for resource in &mut wire {
        resource.reservations = vec![v1::Reservation {
            role: "web".into(),
            principal: "ops".into(),
            labels: [("k".to_owned(), "v".to_owned())].into(),
        }];
    }
    convert::resources_from("resources", &wire).unwrap()
}

/// Returns the order of this task.
fn order(spec: Option<v1::TaskSpec>) -> v1::LaunchOrder {
    v1::LaunchOrder {
        framework_id: "framework-3".into(),
        role: "web".into(),
        spec,
        framework_name: "a scheduler".into(),
        never_start: false,
    }
}

/// Returns orders as masters of this release send them.
fn canonical() -> Vec<(&'static str, v1::LaunchOrder)> {
    let cni = CniNetwork {
        name: "blue".into(),
        published: Vec::new(),
    };
    let group = TaskGroup {
        id: GroupId::new("pod").unwrap(),
        place: 1,
        size: 3,
    };
    let mut specs = ["reserved", "image", "host", "grouped", "hosted"].map(plain);
    specs[0].resources = reserved();
    specs[1].run = CommandSpec::Image;
    specs[1].container = container(ContainerNetwork::Cni(cni));
    specs[2].container.security_options.host_network = true;
    specs[3].group = Some(Box::new(group));
    specs[4].run = CommandSpec::Image;
    specs[4].executor = Some(Box::new(executor()));
    let names = [
        "reserved",
        "image",
        "host-network",
        "grouped",
        "of-executor",
    ];
    let specs = [("plain", plain("plain")), ("full", full())]
        .into_iter()
        .chain(names.into_iter().zip(specs));
    let orders = specs.map(|(name, spec)| (name, order(Some(convert::spec(&spec)))));
    let mut orders: Vec<_> = orders.collect();
    let killed = v1::LaunchOrder {
        never_start: true,
        ..order(Some(convert::spec(&plain("killed"))))
    };
    orders.push(("never-start", killed));
    orders
}

fn amount(name: &str, milli: i64) -> v1::Resource {
    v1::Resource {
        name: name.into(),
        value: Some(v1::resource::Value::ScalarMilli(milli)),
        ..v1::Resource::default()
    }
}

fn group(place: u32, size: u32, id: &str) -> Option<v1::TaskGroup> {
    Some(v1::TaskGroup {
        group_id: id.into(),
        place,
        size,
    })
}

/// A change of a description.
type Deviation = fn(&mut v1::TaskSpec);

/// The deviations of orders that no master of this release sends.
const DEVIATIONS: &[(&str, Deviation)] = &[
    ("no-kill-policy", |_| {}),
    ("no-command", |spec| spec.shell.clear()),
    ("two-commands", |spec| spec.argv = vec!["true".into()]),
    ("unordered-amounts", |spec| {
        spec.resources = vec![amount("mem", 64), amount("cpus", 1), amount("disk", 0)];
        spec.limits = Some(convert::limits(&limits()));
    }),
    ("negative-amount", |spec| {
        spec.resources = vec![amount("cpus", -1)];
    }),
    ("impossible-check", |spec| {
        spec.readiness_check = Some(v1::Check::default());
    }),
    ("unknown-signal", |spec| {
        spec.kill_policy = Some(v1::KillPolicy {
            grace_ms: 1,
            signal: 99,
        });
    }),
    ("unknown-scheme", |spec| {
        spec.uris = vec![v1::Uri {
            value: "ftp://host/file".into(),
            ..v1::Uri::default()
        }];
    }),
    ("place-outside", |spec| spec.group = group(2, 2, "pod")),
    ("nameless-group", |spec| spec.group = group(0, 2, "")),
    ("nameless-executor", |spec| {
        spec.executor = Some(v1::ExecutorSpec::default());
    }),
    // The journal has only these parts of a launch on a full disk.
    ("stripped", |spec| {
        spec.shell.clear();
        spec.resources = vec![amount("cpus", 500)];
        spec.group = group(0, 2, "pod");
    }),
];

fn foreign() -> Vec<(&'static str, v1::LaunchOrder)> {
    let orders = DEVIATIONS.iter().map(|(name, deviate)| {
        let mut spec = v1::TaskSpec {
            task_id: "foreign".into(),
            shell: "true".into(),
            ..v1::TaskSpec::default()
        };
        deviate(&mut spec);
        (*name, order(Some(spec)))
    });
    orders.collect()
}

fn updates() -> Vec<(&'static str, v1::NumberedUpdate)> {
    let base = || v1::NumberedUpdate {
        framework_id: "framework-3".into(),
        task_id: "plain".into(),
        order_index: 9,
        number: 2,
        state: v1::TaskState::Running.into(),
        source: v1::Source::Agent.into(),
        wall_ms: 1_700_000_000_000,
        ..v1::NumberedUpdate::default()
    };
    let why = Explanation::of(Code::GroupTaskFailed, &[&"web"]).with_detail("refused");
    let (causes, text, detail_bytes) = convert::to_wire_causes(why);
    let mut updates: Vec<_> = [
        "plain",
        "ended",
        "with-causes",
        "limits-in-force",
        "limits-refused",
        "of-a-later-release",
    ]
    .map(|name| (name, base()))
    .into();
    let ended = &mut updates[1].1;
    ended.state = v1::TaskState::Failed.into();
    ended.source = v1::Source::Task.into();
    ended.reason = v1::Reason::CommandExited.into();
    ended.text = "it exited with 3".into();
    let how = Some(v1::exit::How::Code(3));
    ended.exit = Some(v1::Exit { how });
    let with_causes = &mut updates[2].1;
    with_causes.reason = v1::Reason::HealthCheckStatusUpdated.into();
    with_causes.causes = causes.clone();
    with_causes.text = text.clone();
    with_causes.detail_bytes = detail_bytes;
    (with_causes.healthy, with_causes.ready) = (Some(false), Some(true));
    updates[3].1.limits = Some(v1::LimitsReport {
        order_index: 12,
        ..v1::LimitsReport::default()
    });
    updates[4].1.reason = v1::Reason::LimitsUpdated.into();
    updates[4].1.limits = Some(v1::LimitsReport {
        order_index: 12,
        refusal: Some(text.clone()),
        held: Some(convert::limits(&limits())),
        causes,
        detail_bytes,
    });
    let later = &mut updates[5].1;
    (later.state, later.source, later.reason) = (77, 78, 79);
    later.causes = vec![v1::Cause {
        code: "of-a-later-release".into(),
        arguments: vec!["1".into()],
    }];
    later.text = text;
    later.detail_bytes = 1_000;
    later.exit = Some(v1::Exit { how: None });
    updates
}

const INSTANCE: Instance = Instance {
    agent: AgentId(4),
    order: OrderIndex(9),
};

fn task(launch: v1::LaunchOrder, updates: Vec<v1::NumberedUpdate>) -> JournalRecord {
    let key = key_of(&launch);
    JournalRecord::Task {
        instance: INSTANCE,
        facts: Box::new(TaskFacts {
            key,
            launch: launch_of(launch),
            run: 6,
            kill_grace_ms: Some(2_000),
            limits_order: OrderIndex(12),
            limits_reported: OrderIndex(11),
            started: Some(StartedFact {
                pid: 77,
                at: Timestamp(5_000),
            }),
            updates: updates.into_iter().map(update_of).collect::<VecDeque<_>>(),
            newest_update: 8,
            committed: 2,
            state: TaskState::Killing,
            check_results: CheckResults {
                healthy: Some(false),
                ready: None,
            },
            check_times: CheckTimes {
                healthy: Some(-1),
                ready: None,
            },
            failure: Some(FailureCause::Unhealthy(
                Explanation::of(Code::HealthCheckFailed, &[&3]).with_detail("no"),
            )),
            executor_serial: 1,
            held: true,
            former: false,
        }),
    }
}

fn key_of(launch: &v1::LaunchOrder) -> argosy_state::ids::TaskKey {
    let task = &launch.spec.as_ref().unwrap().task_id;
    crate::core::task_key(&launch.framework_id, task).unwrap()
}

/// Returns an order as the core has it.
fn launch_of(order: v1::LaunchOrder) -> Arc<LaunchOrder> {
    Arc::new(wire::launch_from(order).unwrap())
}

/// Returns an update as the core has it.
fn update_of(update: v1::NumberedUpdate) -> NumberedUpdate {
    wire::update_from(update).unwrap()
}

fn records() -> Vec<(String, JournalRecord)> {
    let mut records = Vec::new();
    for (kind, orders) in [("launch", canonical()), ("launch foreign", foreign())] {
        for (name, launch) in orders {
            let body = OrderBody::Launch {
                agent: Some(AgentId(4)),
                key: key_of(&launch),
                launch: launch_of(launch),
                run: 6,
            };
            let order = OrderIndex(9);
            let record = JournalRecord::OrderAccepted { order, body };
            records.push((format!("{kind} {name}"), record));
        }
    }
    for (name, update) in updates() {
        let record = JournalRecord::Updated {
            instance: INSTANCE,
            update: Box::new(update_of(update)),
        };
        records.push((format!("update {name}"), record));
    }
    for (kind, orders) in [("task", canonical()), ("task foreign", foreign())] {
        for (name, launch) in orders {
            let updates = updates().into_iter().map(|(_, update)| update).collect();
            records.push((format!("{kind} {name}"), task(launch, updates)));
        }
    }
    for (name, limits) in [("none", None), ("some", Some(limits()))] {
        let body = OrderBody::Limits {
            instance: INSTANCE,
            limits,
        };
        let order = OrderIndex(12);
        let record = JournalRecord::OrderAccepted { order, body };
        records.push((format!("limits {name}"), record));
    }
    records.push(("executor".into(), created(None, None)));
    let last = created(None, Some(INSTANCE));
    records.push(("executor and its last task".into(), last));
    let why = || Some(Explanation::from("out of disk"));
    records.push(("executor over its disk limit".into(), created(why(), None)));
    for (name, disk_excess) in [("ending", None), ("ending over its disk limit", why())] {
        let record = JournalRecord::Executor(ExecutorRecord::Ending {
            instance: INSTANCE,
            disk_excess,
        });
        records.push((format!("executor {name}"), record));
    }
    records
}

/// Returns the record of an executor.
fn created(disk_excess: Option<Explanation>, last_task: Option<Instance>) -> JournalRecord {
    let as_task = TaskSpec {
        executor: Some(Box::new(executor())),
        ..executor().as_task()
    };
    let launch = order(Some(convert::spec(&as_task)));
    let facts = ExecutorInfo {
        key: key_of(&launch),
        launch: launch_of(launch),
        run: 6,
        started: None,
        ending: true,
        disk_excess,
        last_task,
    };
    JournalRecord::Executor(ExecutorRecord::Created {
        instance: INSTANCE,
        facts: Box::new(facts),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16));
    bytes.map(Result::unwrap).collect()
}

#[test]
fn records_have_the_bytes_of_the_first_release_that_wrote_them() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(EXPECTED);
    let records = records();
    if std::env::var_os("ARGOSY_BLESS").is_some() {
        let lines = records.iter();
        let lines = lines.map(|(name, record)| format!("{name}: {}\n", hex(&encode(record))));
        fs::write(&path, lines.collect::<String>()).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    assert_eq!(expected.lines().count(), records.len());
    for (line, (name, record)) in expected.lines().zip(&records) {
        let (wanted, stored) = line.split_once(": ").unwrap();
        assert_eq!(wanted, name);
        assert_eq!(stored, hex(&encode(record)), "{name}");
        let read = decode(&bytes(stored)).unwrap();
        assert_eq!(&read, record, "{name}");
        assert_eq!(hex(&encode(&read)), stored, "{name}");
    }
}

/// A journal that 0.1.0 has compacted contains no disk excess: its tasks read as those without one.
#[test]
fn compacted_records_of_tasks_have_the_reason_for_which_the_agent_ends_them() {
    let (_, launch) = canonical().swap_remove(0);
    let JournalRecord::Task { instance, facts } = task(launch, Vec::new()) else {
        panic!("it is the record of a task");
    };
    let why = Explanation::of(Code::GroupDirectory, &[&"web"]).with_detail("no");
    for failure in [
        None,
        Some(FailureCause::Unhealthy(why.clone())),
        Some(FailureCause::DiskLimitExceeded(why)),
    ] {
        let facts = Box::new(TaskFacts {
            failure,
            ..(*facts).clone()
        });
        let record = JournalRecord::Task { instance, facts };
        assert_eq!(decode(&encode(&record)), Some(record));
    }
}
