//! The secrets of the registry that a task uses.

use super::spec::TaskSpec;
use crate::secret::SecretName;

impl TaskSpec {
    /// Returns whether the task uses secrets of the registry.
    pub(super) fn has_registry_secrets(&self) -> bool {
        self.registry_secrets().next().is_some()
    }

    /// Returns the secrets of the registry that the task uses, in the order of its volumes.
    pub fn registry_secrets(&self) -> impl Iterator<Item = SecretName> {
        let volumes = self.volumes.iter();
        volumes.filter_map(|volume| volume.source.registry_secret())
    }
}
