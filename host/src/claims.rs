//! Claims of numbers and names that one holder of a host may have at a time: addresses, ports,
//! ranges of user ids.
//!
//! ```text
//! addresses/10.183.0.5   -> /var/lib/argosy#c-1
//! ids/17                 -> /var/lib/argosy#1-5-0
//! ```
//! A claim is a symbolic link in a directory that all agents of the host share. The kernel creates
//! each link for only one of several callers, and none is ever half-written. The target names the
//! holder, usually an agent's directory and one of its containers. Nothing here decides when a
//! claim is released: that depends on what was claimed.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The separator of the parts of a holder; it occurs in no container name.
pub const SEPARATOR: char = '#';

/// Claims a path for a holder; returns whether it was free.
///
/// # Errors
/// If the link cannot be created for another reason.
pub fn claim(path: &Path, holder: impl AsRef<Path>) -> io::Result<bool> {
    match symlink(holder, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Releases a claim; succeeds if there is none.
///
/// # Errors
/// If the link cannot be removed.
pub fn release(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Returns names and holders of all claims in a directory. A claim that is released during the call
/// may be missing; other files are skipped.
///
/// # Errors
/// If the directory cannot be read.
pub fn list(directory: &Path) -> io::Result<Vec<(String, String)>> {
    let mut claims = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(holder) = fs::read_link(entry.path()) else {
            continue;
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        claims.push((name, holder.to_string_lossy().into_owned()));
    }
    Ok(claims)
}

/// Returns the holder for a container of the agent with this directory, or for another part of it.
#[must_use]
pub fn holder(owner: &Path, part: &str) -> String {
    format!("{}{SEPARATOR}{part}", owner.display())
}

/// Divides a holder into the agent's directory and its part.
#[must_use]
pub fn split_holder(holder: &str) -> Option<(PathBuf, &str)> {
    let (owner, part) = holder.rsplit_once(SEPARATOR)?;
    Some((PathBuf::from(owner), part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_of_many_callers_gets_a_claim() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("17");
        let granted = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..8)
                .map(|caller| {
                    let holder = holder(Path::new("/a"), &caller.to_string());
                    scope.spawn(|| claim(&path, holder).unwrap())
                })
                .collect();
            let granted = calls.into_iter().map(|call| call.join().unwrap());
            granted.filter(|is_granted| *is_granted).count()
        });
        assert_eq!(granted, 1);
        release(&path).unwrap();
        release(&path).unwrap();
        assert!(claim(&path, "/b#c").unwrap());
    }

    #[test]
    fn claims_are_listed_with_their_holders() {
        let directory = tempfile::tempdir().unwrap();
        let owner = Path::new("/var/lib/a#1");
        claim(&directory.path().join("17"), holder(owner, "c-1")).unwrap();
        fs::write(directory.path().join("no-claim"), "text").unwrap();
        let claims = list(directory.path()).unwrap();
        assert_eq!(claims, [("17".to_owned(), "/var/lib/a#1#c-1".to_owned())]);
        assert_eq!(split_holder(&claims[0].1), Some((owner.to_owned(), "c-1")));
        assert_eq!(split_holder("no parts"), None);
    }

    #[test]
    fn errors_other_than_a_conflict_are_returned() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone");
        assert!(claim(&gone.join("17"), "/a#c").is_err());
        assert!(list(&gone).is_err());
    }
}
