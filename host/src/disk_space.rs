//! Space on the file system of a directory.

use std::io;
use std::path::Path;

/// Returns the free and the total bytes of the file system with this directory. Free is what a
/// process without privileges may use.
///
/// # Errors
/// If the kernel does not report it.
pub fn disk_space(path: &Path) -> io::Result<(u64, u64)> {
    let found = nix::sys::statvfs::statvfs(path)?;
    let unit = u128::from(found.fragment_size());
    let bytes = |blocks| u64::try_from(u128::from(blocks) * unit).unwrap_or(u64::MAX);
    Ok((bytes(found.blocks_available()), bytes(found.blocks())))
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
}
