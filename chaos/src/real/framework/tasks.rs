//! The tasks of the workload. Each records its start in the witness file, and short ones also
//! record their end. Tasks of groups record nothing, because they cannot have host paths.

use std::path::Path;
use std::time::Duration;

use argosy_client::resources::resources;
use argosy_proto::v1;

use super::WITNESS;
use super::port::PORTS;
use crate::real::inputs::{
    CONTENT, EXECUTOR, FETCHED, IMAGE_USER, SECRET, SECRET_CONTENT, TaskInputs,
};
use crate::rng::Rng;

/// Resources of each task. A task that uses less disk than it requests is never evicted.
pub(super) const RESOURCES: &str = "cpus:0.1;mem:16;disk:8";
/// Resources of an executor, in addition to those of its tasks.
pub(super) const EXECUTOR_RESOURCES: &str = "cpus:0.1;mem:32;disk:32";
/// File in which short tasks record their end.
pub(crate) const ENDS: &str = "ends";

/// Counts in the output of a service, from 0, one line each second.
const COUNT: &str = "n=0; while :; do echo $n; n=$((n + 1)); sleep 1; done";
/// The port at which a service listens that publishes its port.
const CONTAINER_PORT: u16 = 8_000;
/// The path of the secret in a task.
const SECRET_PATH: &str = "/word";
/// Bytes of the file system in memory that some services have.
const TMPFS_BYTES: u64 = 64 * 1024;

/// A part of the product that a service uses in addition. A defect of it ends the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feature {
    None,
    /// It has a bridge network, and publishes its port.
    PublishedPort,
    /// A check that always succeeds.
    HealthCheck,
    /// A file system in memory, and a directory of the sandbox, whose contents it compares again
    /// and again.
    Volumes,
    /// The scheduler changes its limits while it runs.
    ChangedLimits,
    /// Its root file system is an image with a file. It verifies the checksum of the file when it
    /// starts, and compares its first line again and again.
    Image,
    /// A file that the agent fetches, whose first line it compares again and again.
    FetchedFile,
    /// A secret, which it compares again and again.
    Secret,
    /// The executor of its framework runs it.
    Executor,
}

impl Feature {
    /// Returns the feature of the service with this id.
    fn of(task_id: &str) -> Self {
        let number: u64 = task_id
            .rsplit('-')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        match number % 8 {
            0 => Self::PublishedPort,
            1 => Self::HealthCheck,
            2 => Self::Volumes,
            3 => Self::ChangedLimits,
            4 => Self::Image,
            5 => Self::FetchedFile,
            6 => Self::Secret,
            _ => Self::Executor,
        }
    }

    /// Returns the command that reads what the service compares into `$read`, and the expected
    /// value; `None` if it compares nothing.
    fn comparison(self) -> Option<(String, &'static str)> {
        let read = |path: &str| format!("read -r read < {path}");
        match self {
            Self::None
            | Self::PublishedPort
            | Self::HealthCheck
            | Self::ChangedLimits
            | Self::Executor => None,
            Self::Volumes => Some((
                "read -r a < /scratch/me && read -r b < /kept/me && read=\"$a $b\"".to_owned(),
                "$me $me",
            )),
            Self::Image => Some((read("/content/file"), CONTENT)),
            Self::FetchedFile => Some((read(FETCHED), CONTENT)),
            Self::Secret => Some((read(SECRET_PATH), SECRET_CONTENT)),
        }
    }

    /// Returns the command by which the service begins.
    fn preparation(self) -> &'static str {
        match self {
            // The disk of the agent may be full.
            Self::Volumes => concat!(
                "echo \"$me\" > /scratch/me; ",
                "until echo \"$me\" > /kept/me; do sleep 1; done 2> /dev/null; "
            ),
            Self::Image => "(cd /content && busybox sha256sum -c sums > /dev/null) || exit 8; ",
            _ => "",
        }
    }
}

/// Returns whether a service, as TASK or FRAMEWORK/TASK, publishes its port.
pub(crate) fn publishes_port(service: &str) -> bool {
    group_of(service).is_none() && Feature::of(service) == Feature::PublishedPort
}

/// Returns whether a service, as TASK or FRAMEWORK/TASK, has an executor.
pub(crate) fn has_executor(service: &str) -> bool {
    TaskKind::is_service(service)
        && group_of(service).is_none()
        && Feature::of(service) == Feature::Executor
}

/// Returns whether a service may have a port: those that compare something, and those of an
/// executor, do not listen.
pub(super) fn may_have_port(task_id: &str) -> bool {
    let feature = Feature::of(task_id);
    feature.comparison().is_none() && feature != Feature::Executor
}

/// Returns whether the limits of this task are changed while it runs.
pub(super) fn has_changed_limits(task_id: &str) -> bool {
    TaskKind::is_service(task_id) && Feature::of(task_id) == Feature::ChangedLimits
}

/// The work of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskKind {
    /// Ends by itself after this many milliseconds with this code.
    Short { lasts_ms: u64, code: u8 },
    /// Runs until its agent ends it, because its health check fails.
    Sick,
    /// Runs until it is ended, and listens on its port, if it has one.
    Service { port: Option<u16> },
}

impl TaskKind {
    /// Returns a short task, which sometimes fails.
    pub(super) fn short(rng: &mut Rng) -> Self {
        if rng.percent(5) {
            return Self::Sick;
        }
        Self::Short {
            lasts_ms: rng.between(20, 1_500),
            code: if rng.percent(10) { 7 } else { 0 },
        }
    }

    /// Whether a task with this id is a service.
    pub(super) fn is_service(task_id: &str) -> bool {
        task_id.contains("-service-")
    }

    /// Returns the port that a task needs in addition to the resources of each task.
    pub(super) fn port(self) -> Option<u16> {
        match self {
            Self::Short { .. } | Self::Sick => None,
            Self::Service { port } => port,
        }
    }

    fn line(self, feature: Feature, own: &Path) -> String {
        match self {
            Self::Short { lasts_ms, code } => format!(
                "sleep {}.{:03}; echo \"$me {code}\" >> \"$there/{ENDS}\"; exit {code}",
                lasts_ms / 1_000,
                lasts_ms % 1_000
            ),
            Self::Sick => "sleep 1000".to_owned(),
            Self::Service { port: None } => match feature.comparison() {
                None => COUNT.to_owned(),
                Some((read, expected)) => format!(
                    "{}n=0; while {read} && [ \"$read\" = \"{expected}\" ]; \
                     do echo $n; n=$((n + 1)); sleep 1; done; exit 8",
                    feature.preparation()
                ),
            },
            Self::Service { port: Some(port) } => format!(
                "exec '{}' hold --port {} --witness \"$there/{PORTS}\" --task \"$me\"",
                own.display(),
                match feature {
                    Feature::PublishedPort => CONTAINER_PORT,
                    _ => port,
                },
            ),
        }
    }
}

/// Returns the network of a service with this port.
fn network(feature: Feature, port: u16) -> v1::Network {
    use v1::network::Mode;
    let published = v1::PublishedPort {
        host_port: port.into(),
        container_port: CONTAINER_PORT.into(),
        udp: false,
    };
    let mode = match feature {
        Feature::PublishedPort => Mode::Bridge(v1::BridgeNetwork {
            published: vec![published],
        }),
        // A second user of the port would find it taken.
        _ => Mode::Host(v1::HostNetwork {}),
    };
    v1::Network { mode: Some(mode) }
}

/// Returns the spec of a task of the run in `directory`. `own` is this executable.
pub(super) fn spec(id: &str, work: TaskKind, directory: &Path, own: &Path) -> v1::TaskSpec {
    let there = directory.join("shared").display().to_string();
    let inputs = TaskInputs::of(directory);
    if let (true, Some(program)) = (has_executor(id), inputs.executor()) {
        return executor_task(id, program);
    }
    // Only shell builtins: a start costs one process.
    let sign = format!(
        "there='{there}'; me=\"$ARGOSY_FRAMEWORK_ID/$ARGOSY_TASK_ID\"; \
         read -r nonce < /proc/sys/kernel/random/uuid; \
         read -r boot < /proc/sys/kernel/random/boot_id; \
         read -r stat < /proc/self/stat; set -- ${{stat#*) }}; \
         echo \"$me ${{ARGOSY_ORDER:--}} $nonce $boot $$ ${{20}}\" >> \"$there/{WITNESS}\"; "
    );
    let uses = match work.port() {
        Some(port) => format!("{RESOURCES};ports:[{port}-{port}]"),
        None => RESOURCES.to_owned(),
    };
    let program = work.port().map(|_| own.display().to_string());
    let host_paths = std::iter::once(there)
        .chain(program)
        .map(|path| v1::HostPath {
            host_path: path.clone(),
            container_path: path,
            read_only: false,
        });
    let feature = match work {
        TaskKind::Short { .. } | TaskKind::Sick => Feature::None,
        TaskKind::Service { .. } => Feature::of(id),
    };
    let container = work.port().map(|port| v1::ContainerSpec {
        network: Some(network(feature, port)),
        ..v1::ContainerSpec::default()
    });
    let image = (feature == Feature::Image).then(|| v1::ContainerSpec {
        image: inputs.image(),
        ..v1::ContainerSpec::default()
    });
    let health_check = match (work, feature) {
        (TaskKind::Sick, _) => Some(check("exit 1")),
        (_, Feature::HealthCheck) => Some(check("exit 0")),
        _ => None,
    };
    v1::TaskSpec {
        task_id: id.to_owned(),
        user: image.as_ref().map_or("", |_| IMAGE_USER).to_owned(),
        container: container.or(image),
        uris: match feature {
            Feature::FetchedFile => vec![inputs.fetched()],
            _ => Vec::new(),
        },
        shell: sign + &work.line(feature, own),
        resources: resources(&uses).expect("the resources are valid"),
        kill_policy: Some(v1::KillPolicy {
            grace_ms: 300,
            ..v1::KillPolicy::default()
        }),
        host_paths: host_paths.collect(),
        health_check,
        volumes: volumes(feature),
        ..Default::default()
    }
}

/// Returns a service of the executor of its framework. It records nothing, because executors cannot
/// have host paths.
fn executor_task(id: &str, program: v1::Uri) -> v1::TaskSpec {
    let framework = id.split("-service-").next().unwrap_or(id);
    let executor = v1::ExecutorSpec {
        executor_id: format!("{framework}-executor"),
        resources: resources(EXECUTOR_RESOURCES).expect("the resources are valid"),
        argv: vec![format!("./{EXECUTOR}")],
        uris: vec![program],
        grace_ms: 1_000,
        ..v1::ExecutorSpec::default()
    };
    v1::TaskSpec {
        task_id: id.to_owned(),
        shell: COUNT.to_owned(),
        resources: resources(RESOURCES).expect("the resources are valid"),
        kill_policy: Some(v1::KillPolicy {
            grace_ms: 300,
            ..v1::KillPolicy::default()
        }),
        executor: Some(executor),
        ..Default::default()
    }
}

/// Returns the time after which a service is killed: some soon, so that others begin, and others
/// late.
pub(super) fn service_lifetime(rng: &mut Rng) -> Duration {
    // A kill in the same moment follows its launch before the task has started.
    if rng.percent(8) {
        return Duration::ZERO;
    }
    Duration::from_millis(match rng.percent(40) {
        true => rng.between(0, 12_000),
        false => rng.between(12_000, 90_000),
    })
}

/// Returns a check by this command, which may fail twice.
fn check(shell: &str) -> v1::HealthCheck {
    let command = v1::CommandCheck {
        shell: shell.to_owned(),
        ..v1::CommandCheck::default()
    };
    v1::HealthCheck {
        check: Some(v1::Check {
            kind: Some(v1::check::Kind::Command(command)),
            delay_ms: Some(0),
            interval_ms: Some(1_000),
            ..v1::Check::default()
        }),
        ..v1::HealthCheck::default()
    }
}

fn volumes(feature: Feature) -> Vec<v1::TaskVolume> {
    use v1::task_volume::Source;
    let tmpfs = v1::Tmpfs { bytes: TMPFS_BYTES };
    let sources = match feature {
        Feature::Volumes => vec![
            ("/scratch", Source::Tmpfs(tmpfs)),
            ("/kept", Source::Sandbox("kept".to_owned())),
        ],
        Feature::Secret => vec![(SECRET_PATH, Source::Secret(SECRET.to_owned()))],
        _ => Vec::new(),
    };
    let volume = |(path, source): (&str, Source)| v1::TaskVolume {
        container_path: path.to_owned(),
        source: Some(source),
        ..v1::TaskVolume::default()
    };
    sources.into_iter().map(volume).collect()
}

/// Returns the task ids of the two services of a group.
pub(super) fn group_members(group_id: &str) -> [String; 2] {
    [1, 2].map(|place| format!("{group_id}-service-{place}"))
}

/// Returns the group of a task; `None` if it has none.
pub(crate) fn group_of(task_id: &str) -> Option<&str> {
    let (group_id, _place) = task_id.rsplit_once("-service-")?;
    group_id.contains("-group-").then_some(group_id)
}

/// Returns two services that start together. The second one fails unless it sees the file of the
/// first in the directory of their group.
pub(super) fn group(task_ids: &[String; 2]) -> Vec<v1::TaskSpec> {
    let lines = [
        concat!(
            "until echo \"$ARGOSY_GROUP_ID\" > \"$ARGOSY_GROUP_DIR/first\"; do sleep 1; done ",
            "2> /dev/null; "
        ),
        concat!(
            "tries=0; until read -r id < \"$ARGOSY_GROUP_DIR/first\" ",
            "&& [ \"$id\" = \"$ARGOSY_GROUP_ID\" ]; ",
            "do tries=$((tries + 1)); [ $tries -lt 600 ] || exit 9; sleep 0.1; done 2> /dev/null; "
        ),
    ];
    let member = |(id, line): (&String, &str)| v1::TaskSpec {
        task_id: id.clone(),
        shell: format!("{line}{COUNT}"),
        resources: resources(RESOURCES).expect("the resources are valid"),
        kill_policy: Some(v1::KillPolicy {
            grace_ms: 300,
            ..v1::KillPolicy::default()
        }),
        ..Default::default()
    };
    task_ids.iter().zip(lines).map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_use_every_feature_and_those_that_compare_have_no_port() {
        let (directory, own) = (Path::new("/run"), Path::new("/own"));
        let service = |number: u64| {
            let id = format!("f-service-{number}");
            let kind = TaskKind::Service { port: None };
            (may_have_port(&id), spec(&id, kind, directory, own))
        };
        let specs: Vec<_> = (0..7).map(service).collect();
        let compares = |(may_have_port, spec): &(bool, v1::TaskSpec)| {
            assert_ne!(
                spec.shell.contains("exit 8"),
                *may_have_port,
                "{}",
                spec.shell
            );
            !may_have_port
        };
        assert_eq!(specs.iter().filter(|one| compares(one)).count(), 4);
        let using = |is_used: &dyn Fn(&v1::TaskSpec) -> bool| {
            specs.iter().filter(|(_, spec)| is_used(spec)).count()
        };
        assert_eq!(
            using(&|spec| spec.container.is_some() && spec.user == IMAGE_USER),
            1
        );
        assert_eq!(using(&|spec| !spec.uris.is_empty()), 1);
        assert_eq!(using(&|spec| !spec.volumes.is_empty()), 2);
        assert_eq!(using(&|spec| spec.health_check.is_some()), 1);
        assert!(publishes_port("framework-1/f-service-8"));
        let published = spec(
            "f-service-8",
            TaskKind::Service { port: Some(31_000) },
            directory,
            own,
        );
        let mode = published.container.unwrap().network.unwrap().mode;
        assert!(
            matches!(mode, Some(v1::network::Mode::Bridge(bridge)) if bridge.published[0].host_port == 31_000)
        );
        assert!(published.shell.contains("--port 8000 "));
        assert!(has_executor("framework-1/f-service-7") && !may_have_port("f-service-7"));
        let ours = executor_task("f-service-7", v1::Uri::default());
        assert_eq!(ours.executor.unwrap().executor_id, "f-executor");
        let sick = spec("f-short-1", TaskKind::Sick, directory, own);
        assert_eq!(sick.health_check, Some(check("exit 1")));
    }

    #[test]
    fn members_of_a_group_are_services_and_name_it() {
        let members = group_members("f-1-group-7");
        for member in &members {
            assert!(TaskKind::is_service(member));
            assert_eq!(group_of(member), Some("f-1-group-7"));
        }
        assert_eq!(group_of("f-1-service-7"), None);
        assert_eq!(group_of("f-1-short-7"), None);
    }
}
