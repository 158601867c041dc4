//! What a container sees beside its root and its sandbox.

use crate::encode::stored::stored;
use crate::fingerprint::Writer;

/// A place of a container with contents of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskVolume {
    /// Where the container sees it: absolute, without `.` and `..`.
    pub container_path: String,
    /// Whether the task may not write to it. A secret never can be written to.
    pub read_only: bool,
    /// What it is.
    pub source: VolumeSource,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A folder of the task's sandbox, made if it is not there: a path below the sandbox.
    Sandbox(String),
    /// A file system in memory, which ends with the task.
    Tmpfs {
        /// The most it holds, in bytes; counted as the task's memory.
        bytes: u64,
    },
    /// A file with what an agent's operator keeps under this name for the task's role. The registry never has the value.
    Secret(String),
}

stored!(message TaskVolume {
    1 container_path: Text,
    2 read_only: Number,
    3 | 4 | 5 source: OneOf or "source of a volume",
});

impl TaskVolume {
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
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
