//! The tasks of the workload: each signs the witness file at its start, and short ones their end too.

use std::path::Path;

use argosy_client::resources::resources;
use argosy_proto::v1;

use super::port::PORTS;
use crate::real::cluster::WITNESS;
use crate::rng::Chance;

/// What each task uses.
pub(super) const RESOURCES: &str = "cpus:0.1;mem:16";
/// File in which short tasks sign their end.
pub(crate) const ENDS: &str = "ends";

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Ends by itself after so many milliseconds with this code.
    Short { lasts_ms: u64, code: u8 },
    /// Runs until somebody ends it, and listens on its port all the while, if it has one.
    Service { port: Option<u16> },
}

impl Work {
    /// A short task, now and then one that fails.
    pub(super) fn short(chance: &mut Chance) -> Self {
        Self::Short {
            lasts_ms: chance.between(20, 1_500),
            code: if chance.percent(10) { 7 } else { 0 },
        }
    }

    /// Whether a task with this id is a service.
    pub(super) fn is_service(task_id: &str) -> bool {
        task_id.contains("-service-")
    }

    /// Beside what each task uses.
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

/// The spec of a task that signs in the folder `shared`; `own` is this executable.
pub(super) fn spec(id: &str, work: Work, shared: &Path, own: &Path) -> v1::TaskSpec {
    let there = shared.display().to_string();
    // The shell's own words only: a start costs one process.
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
    // Who holds a port is in the host's network, where others would find it taken.
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
        resources: resources(&uses).expect("these are resources"),
        kill_policy: Some(v1::KillPolicy {
            grace_ms: 300,
            ..v1::KillPolicy::default()
        }),
        host_paths: host_paths.collect(),
        ..Default::default()
    }
}
