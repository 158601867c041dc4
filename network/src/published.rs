//! The published ports of a host, for processes that only read the records of its agents.
//!
//! The directory is opened once, because such a process may be unable to open files later. Each
//! answer reflects the time of the call.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use super::Protocol;

/// The ports that containers of all agents of one host publish.
#[derive(Debug)]
pub struct PublishedPorts {
    /// `None`: no container of this host can publish a port.
    directory: Option<File>,
}

impl PublishedPorts {
    /// Creates the directory, so that it can be opened before a container publishes the first port.
    /// Needs root.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn prepare(records: &Path) -> io::Result<()> {
        fs::create_dir_all(ports(records))
    }

    /// Opens the records below this directory: [`super::RECORDS_DIR`].
    ///
    /// # Errors
    /// If it exists and cannot be opened.
    pub fn open(records: &Path) -> io::Result<Self> {
        let dir = match File::open(ports(records)) {
            Ok(dir) => Some(dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { directory: dir })
    }

    /// Whether a container publishes this TCP port.
    ///
    /// # Errors
    /// If the record cannot be looked up.
    pub fn has_tcp(&self, port: u16) -> io::Result<bool> {
        let Some(dir) = &self.directory else {
            return Ok(false);
        };
        let name = record(Protocol::Tcp, port);
        match fstatat(dir, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Returns the directory with a record of each published port.
pub(super) fn ports(records: &Path) -> PathBuf {
    records.join("ports")
}

/// Returns the name of a port's record.
pub(super) fn record(protocol: Protocol, port: u16) -> String {
    format!("{protocol}-{port}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_port_is_published_while_its_record_exists() {
        let records = tempfile::tempdir().unwrap();
        let none = PublishedPorts::open(records.path()).unwrap();
        PublishedPorts::prepare(records.path()).unwrap();
        let published = PublishedPorts::open(records.path()).unwrap();
        assert!(!published.has_tcp(8080).unwrap());
        for name in ["tcp-8080", "udp-53"] {
            let record = ports(records.path()).join(name);
            symlink("/a#c#10.183.0.5:80", record).unwrap();
        }
        assert!(published.has_tcp(8080).unwrap());
        assert!(!published.has_tcp(53).unwrap());
        assert!(!none.has_tcp(8080).unwrap());
        fs::remove_file(ports(records.path()).join("tcp-8080")).unwrap();
        assert!(!published.has_tcp(8080).unwrap());
    }
}
