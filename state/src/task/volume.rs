//! Volumes of a container, in addition to its root and its sandbox.

use crate::codec::canonical::CanonicalWriter;
use crate::codec::stored::stored;
use crate::secret::SecretName;

/// A volume of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskVolume {
    /// The path in the container: absolute, without `.` and `..`.
    pub container_path: String,
    /// Whether the task may not write to it. A secret is always read-only.
    pub read_only: bool,
    /// The contents of the volume.
    pub source: VolumeSource,
}

/// The contents of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A directory of the task's sandbox, by its path below the sandbox; created if it does not
    /// exist.
    Sandbox(String),
    /// A tmpfs, which is removed with the task.
    Tmpfs {
        /// The size, in bytes; counted as the task's memory.
        bytes: u64,
    },
    /// A file with a secret. A plain name is that of a secret that the agent's operator provides
    /// for the task's role. `ROLE/NAME` is a secret of the registry, which has its sealed form.
    Secret(String),
}

stored!(message TaskVolume {
    1 container_path: Text,
    2 read_only: Number,
    3 | 4 | 5 source: OneOf or "source of a volume",
});

impl VolumeSource {
    /// Returns the name of its secret, if it is one of the registry.
    #[must_use]
    pub fn registry_secret(&self) -> Option<SecretName> {
        match self {
            Self::Secret(text) => SecretName::new(text).ok(),
            Self::Sandbox(_) | Self::Tmpfs { .. } => None,
        }
    }
}

impl TaskVolume {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let TaskVolume {
            container_path,
            read_only,
            source,
        } = self;
        out.text(1, container_path);
        out.flag(2, *read_only);
        match source {
            VolumeSource::Sandbox(path) => out.chosen(3, |out| out.text(1, path)),
            VolumeSource::Tmpfs { bytes } => out.chosen(4, |out| out.number(1, *bytes)),
            VolumeSource::Secret(name) => out.chosen(5, |out| out.text(1, name)),
        }
    }
}

stored!(oneof VolumeSource {
    3 Sandbox(Text),
    4 Tmpfs { 1 bytes: Number },
    5 Secret(Text),
});
