//! Estimates of the size of descriptions in the log and in memory.

use std::collections::BTreeMap;

use super::{
    CheckKind, CniNetwork, CommandSpec, Container, ContainerNetwork, Discovery, TaskLimits,
    TaskSpec, TaskVolume, VolumeSource,
};
use crate::ids::Level;

/// The estimated size of each part of a description, in addition to its text.
const PART_BYTES: usize = 16;

impl TaskSpec {
    /// Returns the estimated size of a description without its resources in the log and in memory,
    /// in bytes.
    pub(crate) fn estimated_size(&self, level: Level) -> usize {
        // Release 0.1.0 also counted the security options of executors.
        let executor = self
            .executor
            .as_ref()
            .filter(|_| level < Level::RELEASE_0_2);
        self.size_without_limits()
            + of_confinement(self)
            + executor.map_or(0, |executor| of_confinement(&executor.as_task()))
    }

    /// Returns the part of that size that the limits have.
    pub(crate) fn size_of_limits(&self) -> usize {
        self.limits.as_deref().map_or(0, TaskLimits::estimated_size)
    }

    /// Returns the same size without the limits, which may change later.
    #[must_use]
    pub fn size_without_limits(&self) -> usize {
        let run = match &self.run {
            CommandSpec::Image => 0,
            CommandSpec::Shell(line) => line.len(),
            CommandSpec::Argv(words) => words.iter().map(|word| PART_BYTES + word.len()).sum(),
        };
        let uris: usize = self
            .uris
            .iter()
            .map(|uri| PART_BYTES + uri.value.len() + uri.output_file.len() + uri.sha256.len())
            .sum();
        let paths: usize = self
            .host_paths
            .iter()
            .map(|path| PART_BYTES + path.host_path.len() + path.container_path.len())
            .sum();
        run + of_pairs(&self.environment)
            + of_pairs(&self.labels)
            + uris
            + paths
            + self.name.len()
            + self.user.len()
            + of_container(&self.container)
            + of_checks(self)
            + of_volumes(&self.volumes)
            + self.discovery.as_deref().map_or(0, of_discovery)
            + self
                .executor
                .as_ref()
                .map_or(0, |executor| executor.as_task().size_without_limits())
    }
}

impl TaskLimits {
    /// Returns the estimated size of the limits in a description.
    pub(crate) fn estimated_size(&self) -> usize {
        let disks = self.io.iter();
        disks.map(|limit| PART_BYTES + limit.disk.len()).sum()
    }
}

fn of_pairs(map: &BTreeMap<String, String>) -> usize {
    let pairs = map.iter();
    pairs
        .map(|(name, value)| PART_BYTES + name.len() + value.len())
        .sum()
}

fn of_discovery(discovery: &Discovery) -> usize {
    let ports = discovery.ports.iter();
    let ports = ports.map(|port| 2 * PART_BYTES + port.name.len() + of_pairs(&port.labels));
    PART_BYTES + discovery.name.len() + of_pairs(&discovery.labels) + ports.sum::<usize>()
}

fn of_checks(spec: &TaskSpec) -> usize {
    let health = spec.health_check.as_ref().map(|health| &health.check);
    let both = [health, spec.readiness_check.as_deref()];
    let each = both.into_iter().flatten().map(|check| {
        let text = match &check.kind {
            CheckKind::Shell(line) => line.len(),
            CheckKind::Argv(words) => words.iter().map(|word| PART_BYTES + word.len()).sum(),
            CheckKind::Http { path, statuses, .. } => path.len() + statuses.len() * PART_BYTES,
            CheckKind::Tcp { .. } => 0,
        };
        // The four times and counts of a check.
        4 * PART_BYTES + text
    });
    each.sum()
}

fn of_container(container: &Container) -> usize {
    let network = match &container.network {
        ContainerNetwork::AgentDefault | ContainerNetwork::None => 0,
        ContainerNetwork::Bridge(ports) => ports.len() * PART_BYTES,
        ContainerNetwork::Cni(CniNetwork { name, published }) => {
            name.len() + (published.len() + 1) * PART_BYTES
        }
    };
    container.image.len() + network
}

fn of_volumes(volumes: &[TaskVolume]) -> usize {
    let sizes = volumes.iter().map(|volume| {
        let source = match &volume.source {
            VolumeSource::Sandbox(text) | VolumeSource::Secret(text) => text.len(),
            VolumeSource::Tmpfs { .. } => 0,
        };
        PART_BYTES + volume.container_path.len() + source
    });
    sizes.sum()
}

fn of_confinement(spec: &TaskSpec) -> usize {
    spec.container.security_options.capabilities.len() * PART_BYTES + spec.size_of_limits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_task_without_checks_has_no_bytes_of_them() {
        assert_eq!(of_checks(&testing::spec("t", "cpus:1")), 0);
    }

    #[test]
    fn the_text_of_a_discovery_counts() {
        let plain = testing::spec("t", "cpus:1");
        let mut found = plain.clone();
        found.discovery = Some(Box::new(Discovery::sample()));
        let text = "web".len() + "metrics".len() + "path/stats".len() + "teamblue".len();
        let bytes = found.size_without_limits() - plain.size_without_limits();
        assert!(bytes >= text, "{bytes}");
    }
}
