//! Remedies for operators against errors of a host.

use std::io;

use nix::errno::Errno;

/// Returns whether a write failed because the disk, a quota or the file descriptors are used up. A
/// later write can succeed.
#[must_use]
pub fn is_exhausted(source: &io::Error) -> bool {
    let error = source.raw_os_error().map(Errno::from_raw);
    matches!(
        error,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOSPC | Errno::EDQUOT)
    )
}

/// Returns a remedy for a failed write: of a file or directory that cannot be created, written or
/// synced.
#[must_use]
pub fn of_failed_write(source: &io::Error) -> &'static str {
    match source.raw_os_error().map(Errno::from_raw) {
        // Without file descriptors a process fails as if its disk were broken.
        Some(Errno::EMFILE | Errno::ENFILE) => OPEN_FILES,
        Some(Errno::ENOSPC | Errno::EDQUOT) => FREE_SPACE,
        Some(_) => DISK,
        // RocksDB reports errors as texts.
        None => {
            let text = source.to_string().to_lowercase();
            let expected = |words| text.contains(words);
            if expected("too many open files") {
                OPEN_FILES
            } else if expected("no space left on device") || expected("disk quota exceeded") {
                FREE_SPACE
            } else {
                DISK
            }
        }
    }
}

const OPEN_FILES: &str = "raise the limit of open files (LimitNOFILE in the unit, ulimit -n)";
const FREE_SPACE: &str = "make room on the disk";
const DISK: &str = "check the disk";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exhausted_descriptors_and_full_disks_are_not_reported_as_disk_errors() {
        for (errno, text, remedy) in [
            (Errno::EMFILE, "IO error: Too many open files", OPEN_FILES),
            (Errno::ENFILE, "Too many open files in system", OPEN_FILES),
            (
                Errno::ENOSPC,
                "IO error: No space left on device",
                FREE_SPACE,
            ),
            (Errno::EDQUOT, "IO error: Disk quota exceeded", FREE_SPACE),
            (Errno::EIO, "IO error: Input/output error", DISK),
        ] {
            assert_eq!(of_failed_write(&errno.into()), remedy, "{errno}");
            assert_eq!(of_failed_write(&io::Error::other(text)), remedy, "{text}");
        }
    }
}
