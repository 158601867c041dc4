//! Estimates of the size of descriptions in the log and in memory.

use super::{checks, confinement, container, volumes};
use crate::level::Level;
use crate::task::{CommandSpec, TaskSpec};

/// The estimated size of each part of a description, in addition to its text.
const PART_BYTES: usize = 16;

/// Returns the estimated size of a description without its resources in the log and in memory, in
/// bytes.
pub(super) fn of(spec: &TaskSpec, level: Level) -> usize {
    // Release 0.1.0 also counted the security options of executors.
    let executor = spec
        .executor
        .as_ref()
        .filter(|_| level < Level::RELEASE_0_2);
    size_without_limits(spec)
        + confinement::size(spec, PART_BYTES)
        + executor.map_or(0, |executor| {
            confinement::size(&executor.as_task(), PART_BYTES)
        })
}

/// Returns the same size without the limits, which may change later.
pub(crate) fn size_without_limits(spec: &TaskSpec) -> usize {
    let pairs = |map: &crate::command::Labels| {
        map.iter()
            .map(|(name, value)| PART_BYTES + name.len() + value.len())
            .sum::<usize>()
    };
    let run = match &spec.run {
        CommandSpec::Image => 0,
        CommandSpec::Shell(line) => line.len(),
        CommandSpec::Argv(words) => words.iter().map(|word| PART_BYTES + word.len()).sum(),
    };
    let uris: usize = spec
        .uris
        .iter()
        .map(|uri| PART_BYTES + uri.value.len() + uri.output_file.len() + uri.sha256.len())
        .sum();
    let paths: usize = spec
        .host_paths
        .iter()
        .map(|path| PART_BYTES + path.host_path.len() + path.container_path.len())
        .sum();
    run + pairs(&spec.environment)
        + pairs(&spec.labels)
        + uris
        + paths
        + spec.name.len()
        + spec.user.len()
        + container::size(&spec.container, PART_BYTES)
        + checks::size(spec, PART_BYTES)
        + volumes::size(&spec.volumes, PART_BYTES)
        + spec
            .executor
            .as_ref()
            .map_or(0, |executor| size_without_limits(&executor.as_task()))
}
