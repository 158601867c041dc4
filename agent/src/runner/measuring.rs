//! Which folders of a container are on the disk at its task's cost.

use argosy_state::ids::TaskKey;

use super::Runner;
use crate::core::ContainerName;
use crate::disk::{self, Measured};

impl Runner {
    /// Its sandbox, with its output and all that was fetched, and what it changes of its image. What is in memory is its
    /// memory; what is on host paths is nobody's to count.
    pub(super) fn measure(
        &self,
        name: ContainerName,
        key: &TaskKey,
        limit_bytes: u64,
        counts_nameless: bool,
    ) {
        let shared = &self.shared;
        let sandbox = shared.paths.sandbox(key, name);
        let keeper = disk::keeper(&shared.paths, name, &sandbox);
        let output = shared.settings.output.most_bytes();
        let Some(limit_bytes) = keeper.measured_above(limit_bytes, output) else {
            return;
        };
        let folders = vec![sandbox, shared.bounds.changes(name)];
        // What it has open elsewhere without a name looks like its own; and whose disk that is may hang.
        let group = self.shared.group(name).filter(|_| counts_nameless);
        let measured = Measured {
            folders,
            group: group.map(|group| group.path().to_owned()),
            limit_bytes,
        };
        self.meter.begin(name.instance, measured);
    }
}
