//! The tasks of the workload. Each records its start in the witness file, and short ones also
//! record their end. Tasks of groups record nothing, because they cannot have host paths.

use std::path::Path;
use std::time::Duration;

use argosy_client::resources::resources;
use argosy_proto::v1;

use super::WITNESS;
use super::port::PORTS;
use crate::rng::Rng;

/// Resources of each task. A task that uses less disk than it requests is never evicted.
pub(super) const RESOURCES: &str = "cpus:0.1;mem:16;disk:8";
/// File in which short tasks record their end.
pub(crate) const ENDS: &str = "ends";

/// Counts in the output of a service, from 0, one line each second.
const COUNT: &str = "n=0; while :; do echo $n; n=$((n + 1)); sleep 1; done";
/// Bytes of the file system in memory that some services have.
const TMPFS_BYTES: u64 = 64 * 1024;

/// A part of the product that a service uses in addition. A defect of it ends the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feature {
    None,
    /// A check that always succeeds.
    HealthCheck,
    /// A file system in memory, and a directory of the sandbox, whose contents it compares again
    /// and again.
    Volumes,
    /// The scheduler changes its limits while it runs.
    ChangedLimits,
}

impl Feature {
    /// Returns the feature of the service with this id.
    fn of(task_id: &str) -> Self {
        let number: u64 = task_id
            .rsplit('-')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        match number % 4 {
            1 => Self::HealthCheck,
            2 => Self::Volumes,
            3 => Self::ChangedLimits,
            _ => Self::None,
        }
    }
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
    /// Runs until it is ended, and listens on its port, if it has one.
    Service { port: Option<u16> },
}

impl TaskKind {
    /// Returns a short task, which sometimes fails.
    pub(super) fn short(rng: &mut Rng) -> Self {
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
            Self::Short { .. } => None,
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
            Self::Service { port: None } if feature == Feature::Volumes => concat!(
                "echo \"$me\" > /scratch/me; ",
                // The disk of the agent may be full.
                "until echo \"$me\" > /kept/me; do sleep 1; done 2> /dev/null; ",
                "n=0; while read -r a < /scratch/me && read -r b < /kept/me ",
                "&& [ \"$a $b\" = \"$me $me\" ]; do echo $n; n=$((n + 1)); sleep 1; done; exit 8"
            )
            .to_owned(),
            Self::Service { port: None } => COUNT.to_owned(),
            Self::Service { port: Some(port) } => format!(
                "exec '{}' hold --port {port} --witness \"$there/{PORTS}\" --task \"$me\"",
                own.display()
            ),
        }
    }
}

/// Returns the spec of a task that writes to the directory `shared`. `own` is this executable.
pub(super) fn spec(id: &str, work: TaskKind, shared: &Path, own: &Path) -> v1::TaskSpec {
    let there = shared.display().to_string();
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
    // A task with a port uses the host's network, so that a second user of the port would find it
    // taken.
    let container = work.port().map(|_| v1::ContainerSpec {
        network: Some(v1::Network {
            mode: Some(v1::network::Mode::Host(v1::HostNetwork {})),
        }),
        ..v1::ContainerSpec::default()
    });
    let feature = match work {
        TaskKind::Short { .. } => Feature::None,
        TaskKind::Service { .. } => Feature::of(id),
    };
    v1::TaskSpec {
        task_id: id.to_owned(),
        container,
        shell: sign + &work.line(feature, own),
        resources: resources(&uses).expect("the resources are valid"),
        kill_policy: Some(v1::KillPolicy {
            grace_ms: 300,
            ..v1::KillPolicy::default()
        }),
        host_paths: host_paths.collect(),
        health_check: (feature == Feature::HealthCheck).then(successful_check),
        volumes: match feature {
            Feature::Volumes => volumes(),
            Feature::None | Feature::HealthCheck | Feature::ChangedLimits => Vec::new(),
        },
        ..Default::default()
    }
}

/// Returns the time after which a service is killed: some soon, so that others begin, and others
/// late.
pub(super) fn service_lifetime(rng: &mut Rng) -> Duration {
    Duration::from_millis(match rng.percent(40) {
        true => rng.between(0, 12_000),
        false => rng.between(12_000, 90_000),
    })
}

fn successful_check() -> v1::HealthCheck {
    let command = v1::CommandCheck {
        shell: "exit 0".to_owned(),
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

fn volumes() -> Vec<v1::TaskVolume> {
    use v1::task_volume::Source;
    let tmpfs = v1::Tmpfs { bytes: TMPFS_BYTES };
    let sources = [
        ("/scratch", Source::Tmpfs(tmpfs)),
        ("/kept", Source::Sandbox("kept".to_owned())),
    ];
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
