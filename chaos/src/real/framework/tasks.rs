//! The tasks of the workload. Each records its start in the witness file, and short ones also
//! record their end.

use std::path::Path;

use argosy_client::resources::resources;
use argosy_proto::v1;

use super::WITNESS;
use super::port::PORTS;
use crate::rng::Rng;

/// Resources of each task.
pub(super) const RESOURCES: &str = "cpus:0.1;mem:16";
/// File in which short tasks record their end.
pub(crate) const ENDS: &str = "ends";

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

    fn line(self, own: &Path) -> String {
        match self {
            Self::Short { lasts_ms, code } => format!(
                "sleep {}.{:03}; echo \"$me {code}\" >> \"$there/{ENDS}\"; exit {code}",
                lasts_ms / 1_000,
                lasts_ms % 1_000
            ),
            Self::Service { port: None } => "exec sleep 1000000".to_owned(),
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
    v1::TaskSpec {
        task_id: id.to_owned(),
        container,
        shell: sign + &work.line(own),
        resources: resources(&uses).expect("the resources are valid"),
        kill_policy: Some(v1::KillPolicy {
            grace_ms: 300,
            ..v1::KillPolicy::default()
        }),
        host_paths: host_paths.collect(),
        ..Default::default()
    }
}
