//! The directories of a container that count toward its task's disk usage.

use argosy_state::ids::{GroupId, TaskKey};

use super::Runner;
use crate::core::ContainerName;
use crate::disk::{DiskFloor, MeasureRequest, MeasuredTask};

impl Runner {
    /// Starts the measurements, until the agent stops.
    pub(super) fn begin_measuring(&self) {
        let shared = &self.shared;
        let floor = DiskFloor::new(shared.paths.sandboxes(), shared.settings.disk_floor_bytes);
        self.spawn(
            self.meter
                .clone()
                .run(shared.broker.clone(), shared.inbox.clone(), floor),
        );
    }

    /// Starts to measure its sandbox, with its output and all fetched files, and its changes of its
    /// image. Volumes in memory count as memory; host paths are not counted. The directory of a
    /// group counts toward its first task, too.
    pub(super) fn measure(
        &self,
        name: ContainerName,
        key: &TaskKey,
        (limit_bytes, requested_bytes): (u64, u64),
        counts_nameless: bool,
        group: Option<(String, ContainerName)>,
    ) {
        let shared = &self.shared;
        let leads_group = group.is_some();
        let directory = group.and_then(|(id, name)| {
            let id = GroupId::new(&id).ok()?;
            Some(shared.paths.group(key.framework, &id, name))
        });
        let mut directories = vec![shared.paths.sandbox(key, name)];
        directories.extend(directory);
        let wanted = MeasureRequest {
            key: key.clone(),
            name,
            output_bytes: shared.settings.output.max_bytes(),
            task: MeasuredTask {
                directories,
                // Unlinked files that it has open elsewhere look like its own; and that disk may
                // hang.
                processes: Some(name).filter(|_| counts_nameless && shared.tree.is_some()),
                limit_bytes,
                requested_bytes,
                leads_group,
            },
        };
        self.meter.begin(wanted);
    }
}
