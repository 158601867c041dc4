//! Tests of conversions: orders as masters send them keep their canonical form, and no order or
//! update changes on its way through the core.

use argosy_proto::convert;
use argosy_proto::v1;
use argosy_state::ids::{GroupId, TaskId};
use argosy_state::limits::MESSAGE_BYTES;
use argosy_state::task::{
    Check, CheckKind, CommandSpec, Container, ContainerNetwork, Discovery, ExecutorSpec,
    HealthCheck, KillSignal, PublishedPort, TaskGroup, TaskLimits, TaskSpec, Uri,
};

use super::{disk_limit_bytes, executor_update, launch, launch_from, update, update_from};
use crate::core::{OrderForm, RandomSequence};

/// Returns a random description, as a master stores one.
fn random_spec(random: &mut RandomSequence) -> TaskSpec {
    let mut maybe = |bound: u64| random.below(bound) == 0;
    let mut spec = TaskSpec {
        resources: "cpus:1;mem:64;ports:[31000-31005]".parse().unwrap(),
        grace_ms: 1_500,
        ..TaskSpec::new(
            TaskId::new("t").unwrap(),
            match maybe(2) {
                true => CommandSpec::Shell("true".into()),
                false => CommandSpec::Argv(vec!["true".into(), String::new()]),
            },
        )
    };
    spec.limits = maybe(3).then(|| Box::new(TaskLimits::default()));
    spec.container = random_container(&mut maybe);
    if maybe(3) {
        spec.environment = [("A".to_owned(), "b".to_owned())].into();
        spec.labels = [("c".to_owned(), String::new())].into();
    }
    if maybe(3) {
        spec.uris = vec![Uri {
            value: "/file".into(),
            executable: maybe(2),
            output_file: String::new(),
            extract: false,
            sha256: String::new(),
            cache: maybe(2),
        }];
    }
    spec.kill_signal = maybe(3).then_some(KillSignal::Hup);
    spec.discovery = maybe(3).then(|| Box::new(Discovery::default()));
    spec.stop_after_ms = u64::from(maybe(3));
    let check = Check::of(CheckKind::Tcp { port: 80 });
    spec.health_check = maybe(3).then(|| Box::new(HealthCheck::of(check.clone())));
    spec.readiness_check = maybe(3).then(|| Box::new(check));
    spec.group = maybe(4).then(|| {
        Box::new(TaskGroup {
            id: GroupId::new("g").unwrap(),
            place: 0,
            size: 2,
        })
    });
    match maybe(4) {
        true => of_executor(spec),
        false => spec,
    }
}

/// Makes a task one of an executor with the same command.
fn of_executor(spec: TaskSpec) -> TaskSpec {
    let executor = spec.clone();
    let executor = ExecutorSpec {
        executor: executor.task,
        resources: executor.resources,
        run: executor.run,
        container: executor.container,
        environment: executor.environment,
        user: executor.user,
        uris: executor.uris,
        grace_ms: executor.grace_ms,
    };
    TaskSpec {
        run: CommandSpec::Image,
        executor: Some(Box::new(executor)),
        ..spec
    }
}

fn random_container(maybe: &mut impl FnMut(u64) -> bool) -> Container {
    let mut container = Container::default();
    if maybe(3) {
        container.image = "web:1".into();
    }
    container.network = match (maybe(3), maybe(3)) {
        (true, true) => ContainerNetwork::None,
        (true, false) => ContainerNetwork::Bridge(vec![PublishedPort {
            host: 31_000,
            container: 80,
            udp: maybe(2),
        }]),
        (false, _) => ContainerNetwork::AgentDefault,
    };
    let is_default = container.network == ContainerNetwork::AgentDefault;
    container.security_options.host_network = is_default && maybe(3);
    container.sizes.open_files = maybe(3).then_some(64);
    container
}

#[test]
fn orders_of_masters_are_canonical() {
    let mut random = RandomSequence::new(7);
    for _ in 0..2_000 {
        let spec = random_spec(&mut random);
        let wire = v1::LaunchOrder {
            framework_id: "framework-4".into(),
            role: "web".into(),
            spec: Some(convert::spec(&spec)),
            framework_name: "a scheduler".into(),
            never_start: random.below(9) == 0,
        };
        let read = launch_from(wire.clone()).unwrap();
        assert_eq!((&read.form, &read.defect), (&OrderForm::Canonical, &None));
        assert_eq!(read.spec, spec);
        assert_eq!(launch(&read), wire);
        let stripped = read.stripped();
        assert_eq!(launch_from(launch(&stripped)), Some(stripped));
    }
}

#[test]
fn other_orders_keep_their_bytes_whatever_limits_follow() {
    let spec = v1::TaskSpec {
        task_id: "t".into(),
        resources: vec![v1::Resource::default()],
        limits: Some(v1::Limits::default()),
        ..v1::TaskSpec::default()
    };
    let mut wire = v1::LaunchOrder {
        framework_id: "framework-04".into(),
        spec: Some(spec),
        ..v1::LaunchOrder::default()
    };
    let mut read = launch_from(wire.clone()).unwrap();
    assert!(matches!(read.form, OrderForm::Verbatim(_)));
    assert!(read.defect.is_some());
    assert_eq!(launch(&read), wire);
    for pids in [Some(9), None] {
        let limits = pids.map(|pids| TaskLimits {
            pids: Some(pids),
            ..TaskLimits::default()
        });
        wire.spec.as_mut().unwrap().limits = limits.as_ref().map(convert::limits);
        read.spec.limits = limits.map(Box::new);
        assert_eq!(launch(&read), wire);
        assert_eq!(launch_from(wire.clone()), Some(read.clone()));
    }
}

#[test]
fn updates_of_later_releases_keep_their_bytes() {
    let mut wire = v1::NumberedUpdate {
        framework_id: "framework-4".into(),
        task_id: "t".into(),
        state: v1::TaskState::Running.into(),
        source: v1::Source::Agent.into(),
        ..v1::NumberedUpdate::default()
    };
    assert_eq!(update_from(wire.clone()).unwrap().verbatim, None);
    wire.reason = 1_000;
    let read = update_from(wire.clone()).unwrap();
    assert!(read.verbatim.is_some());
    assert_eq!(update(&read), wire);
}

#[test]
fn negative_disk_limits_count_as_none() {
    let amount = |milli| v1::Resource {
        name: "disk".to_owned(),
        value: Some(v1::resource::Value::ScalarMilli(milli)),
        ..v1::Resource::default()
    };
    let limit = |milli: &[i64]| {
        disk_limit_bytes(&v1::TaskSpec {
            resources: milli.iter().copied().map(amount).collect(),
            ..v1::TaskSpec::default()
        })
    };
    assert_eq!(limit(&[-5]), None);
    assert_eq!(limit(&[1_000, 2_000]), Some(3 << 20));
    assert!(limit(&[i64::MAX]).is_some());
}

#[test]
fn the_text_of_an_executor_is_cut_to_the_length_that_masters_keep() {
    let wire = v1::ExecutorUpdate {
        text: format!("x{}", "\u{e4}".repeat(2_000_000)),
        ..v1::ExecutorUpdate::default()
    };
    let text = executor_update(wire).text;
    // A character of two bytes does not fit at the limit.
    assert_eq!(
        (text.len(), text.capacity()),
        (MESSAGE_BYTES - 1, MESSAGE_BYTES - 1)
    );
}
