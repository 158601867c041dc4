//! The IPv6 prefix of this agent's containers: configured, or generated once and kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use argosy_host::atomic_file::{self, WriteOptions};
use argosy_network::{Subnet6, Subnet6Error};
use nix::libc::O_NOFOLLOW;

use crate::config::TaskSubnet6;
use crate::paths::Paths;

/// Maximum size of a file with a prefix, in bytes.
const FILE_BYTES: u64 = 256;

/// Returns the prefix of the agent of this directory, or the reason why it has none.
pub(super) fn prefix(setting: TaskSubnet6, directory: &Path) -> Result<Option<Subnet6>, String> {
    match setting {
        TaskSubnet6::Generated => load_or_generate(directory).map(Some),
        TaskSubnet6::Given(subnet) => Ok(Some(subnet)),
        TaskSubnet6::Off => Ok(None),
    }
}

/// Returns the prefix that an earlier run of the agent has generated, or a new one, which is on
/// disk when this returns.
fn load_or_generate(directory: &Path) -> Result<Subnet6, String> {
    let path = Paths::new(directory).network_prefix6();
    match read(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error: Subnet6Error| format!("{}: {error}; delete the file", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let generated = generate().map_err(|error| format!("no random numbers: {error}"))?;
            save(&path, generated)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            Ok(generated)
        }
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

fn generate() -> io::Result<Subnet6> {
    let mut identifier = [0; 5];
    File::open("/dev/urandom")?.read_exact(&mut identifier)?;
    Ok(Subnet6::unique_local(identifier))
}

/// Reads a file only if this process' own user owns it: it is root's if an agent that is not root
/// may add files to its directory.
fn read(path: &Path) -> io::Result<String> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(O_NOFOLLOW).open(path)?;
    let found = file.metadata()?;
    if found.uid() != nix::unistd::geteuid().as_raw() || found.nlink() != 1 {
        return Err(io::Error::other("it is owned by another user"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn save(path: &Path, subnet: Subnet6) -> io::Result<()> {
    let (draft, text) = (path.with_extension("draft"), format!("{subnet}\n"));
    atomic_file::replace(path, &draft, text.as_bytes(), WriteOptions::SYNCED)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_prefix_is_generated_once_and_is_unique() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let of = |directory: &Path| prefix(TaskSubnet6::Generated, directory).unwrap().unwrap();
        let first = of(one.path());
        assert_eq!(of(one.path()), first, "after a restart");
        // Of 2^40.
        assert_ne!(of(other.path()), first);
        let text = first.to_string();
        assert!(text.starts_with("fd") && text.ends_with("/64"), "{text}");
    }

    #[test]
    fn prefix_file_errors_name_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = Paths::new(directory.path()).network_prefix6();
        fs::write(&path, "rubbish").unwrap();
        let why = prefix(TaskSubnet6::Generated, directory.path()).unwrap_err();
        assert!(
            why.contains(path.to_str().unwrap()) && why.ends_with("delete the file"),
            "{why}"
        );
        let missing = directory.path().join("missing");
        let why = prefix(TaskSubnet6::Generated, &missing).unwrap_err();
        assert!(why.starts_with("cannot write"), "{why}");
    }

    #[test]
    fn without_ipv6_there_is_no_prefix() {
        assert_eq!(prefix(TaskSubnet6::Off, Path::new("/")), Ok(None));
    }
}
