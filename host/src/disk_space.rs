//! Space on the file system of a directory.

use std::io;
use std::path::Path;

use nix::sys::statvfs::{Statvfs, statvfs};

/// Returns the free and the total bytes of the file system with this directory. Free is what a
/// process without privileges may use.
///
/// # Errors
/// If the kernel does not report it.
pub fn disk_space(path: &Path) -> io::Result<(u64, u64)> {
    Ok(space_of(&statvfs(path)?))
}

/// Returns the usable and the total bytes of the file system with this directory. Usable are the
/// free bytes or, if that is less, the same part of all bytes as of all inodes is free: without a
/// free inode no byte can be used for a new file.
///
/// # Errors
/// If the kernel does not report it.
pub fn usable_space(path: &Path) -> io::Result<(u64, u64)> {
    let found = statvfs(path)?;
    let (free, total) = space_of(&found);
    let files = (found.files_available(), found.files());
    Ok((usable_bytes((free, total), files), total))
}

fn space_of(found: &Statvfs) -> (u64, u64) {
    let unit = u128::from(found.fragment_size());
    let bytes = |blocks| u64::try_from(u128::from(blocks) * unit).unwrap_or(u64::MAX);
    (bytes(found.blocks_available()), bytes(found.blocks()))
}

fn usable_bytes((free_bytes, total_bytes): (u64, u64), (free, files): (u64, u64)) -> u64 {
    // A file system without a fixed number of files, such as Btrfs, reports none.
    if files == 0 {
        return free_bytes;
    }
    let part = u128::from(total_bytes) * u128::from(free.min(files)) / u128::from(files);
    free_bytes.min(u64::try_from(part).expect("a part is at most the total"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_part_of_the_total() {
        let (free, total) = disk_space(Path::new("/")).unwrap();
        assert!(0 < total && free <= total, "{free} of {total}");
        assert!(disk_space(Path::new("/no/such/directory")).is_err());
    }

    #[test]
    fn usable_space_is_bounded_by_free_files() {
        assert_eq!(usable_bytes((500, 1_000), (80, 100)), 500);
        assert_eq!(usable_bytes((500, 1_000), (4, 100)), 40);
        assert_eq!(usable_bytes((500, 1_000), (0, 100)), 0);
        assert_eq!(usable_bytes((500, 1_000), (0, 0)), 500, "no fixed number");
        assert_eq!(usable_bytes((500, 1_000), (u64::MAX, 100)), 500);
        assert_eq!(usable_bytes((0, u64::MAX), (u64::MAX, u64::MAX)), 0);
        let (usable, total) = usable_space(Path::new("/")).unwrap();
        assert!(usable <= total, "{usable} of {total}");
        assert!(usable_space(Path::new("/no/such/directory")).is_err());
    }
}
