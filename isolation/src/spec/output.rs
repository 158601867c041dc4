//! Limits on the stored output of a command.

use serde::{Deserialize, Serialize};

/// Limits on the stored output of each of a command's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputLimits {
    /// The maximum size of a file, in bytes.
    pub file_bytes: u64,
    /// The number of files, including the current one.
    pub files: u32,
    /// The number of bytes accepted per second; more is dropped, with a note.
    pub bytes_per_second: u64,
}

impl OutputLimits {
    /// Five files of 10 MiB, and 64 MiB per second.
    pub const DEFAULT: Self = Self {
        file_bytes: 10 * 1024 * 1024,
        files: 5,
        bytes_per_second: 64 * 1024 * 1024,
    };

    /// Returns the maximum size of both streams' files, in bytes.
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        let files = u64::from(self.files).saturating_mul(2);
        self.file_bytes.saturating_mul(files)
    }
}
