//! The record that a network namespace forwarded nothing before an agent enabled it.
//!
//! It is a file, since the names of many devices do not fit into a link. It is written completely,
//! then renamed.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use argosy_host::atomic_file::{self, WriteOptions};
use argosy_host::sys;
use nix::errno::Errno;

use super::{Ipam, draft_of, record_error, remove};
use crate::NetworkError;

/// The identity of a network namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamespaceId {
    /// Not reused before the next boot. `None` before Linux 5.14.
    pub(super) cookie: Option<u64>,
    /// Reused as soon as this namespace is removed.
    pub(super) inode: u64,
}

impl NamespaceId {
    /// Returns the calling thread's namespace.
    pub(super) fn current() -> Result<Self, NetworkError> {
        let path = Path::new("/proc/thread-self/ns/net");
        let found = fs::metadata(path).map_err(record_error("inspect", path))?;
        let socket = UnixDatagram::unbound().map_err(record_error("create a socket", path))?;
        let cookie = match sys::network::namespace_cookie(socket.as_fd()) {
            Ok(cookie) => Some(cookie),
            Err(Errno::ENOPROTOOPT) => None,
            Err(errno) => return Err(record_error("read the cookie of", path)(errno.into())),
        };
        Ok(Self {
            cookie,
            inode: found.ino(),
        })
    }
}

/// The devices of a host that forwarded nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ForwardingRecord {
    Devices(Vec<String>),
    /// An earlier release recorded none.
    Unknown,
}

impl ForwardingRecord {
    fn parse(target: &str) -> Self {
        match target.strip_prefix("off ") {
            Some(devices) => Self::Devices(devices.split_whitespace().map(str::to_owned).collect()),
            None => Self::Unknown,
        }
    }
}

impl Ipam {
    /// Records that the host, with these devices, forwarded nothing before an agent enabled it.
    /// Replaces an earlier record.
    pub(crate) fn record_denied(&self, devices: &[String]) -> Result<(), NetworkError> {
        let path = self.denied_path()?;
        let text = format!("off {}", devices.join(" "));
        // The directory is empty after a boot.
        let options = WriteOptions::CACHED;
        atomic_file::replace(&path, &draft_of(&path), text.as_bytes(), options)
            .map_err(record_error("write", &path))
    }

    /// Returns the devices of that record; `None` if there is no record.
    pub(crate) fn recorded_denied(&self) -> Result<Option<ForwardingRecord>, NetworkError> {
        let path = self.denied_path()?;
        let noted = match fs::read_link(&path) {
            // An earlier build wrote the text as the target of a link.
            Ok(target) => Ok(target.to_string_lossy().into_owned()),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => fs::read_to_string(&path),
            Err(error) => Err(error),
        };
        match noted {
            Ok(text) => Ok(Some(ForwardingRecord::parse(&text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(record_error("read", &path)(error)),
        }
    }

    pub(crate) fn clear_denied(&self) -> Result<(), NetworkError> {
        remove(&self.denied_path()?)
    }

    /// Returns the path of the record. The setting belongs to the agent's network namespace; agents
    /// in other namespaces may share this directory.
    fn denied_path(&self) -> Result<PathBuf, NetworkError> {
        self.denied_path_in(&NamespaceId::current()?)
    }

    fn denied_path_in(&self, namespace: &NamespaceId) -> Result<PathBuf, NetworkError> {
        let by_inode = self
            .directory
            .join(format!("forwarding-{}", namespace.inode));
        let Some(cookie) = namespace.cookie else {
            return Ok(by_inode);
        };
        let by_cookie = self.directory.join(format!("forwarding-cookie-{cookie}"));
        // A record of an earlier build belongs to this namespace, and must not apply to the next
        // one with the same inode.
        match fs::rename(&by_inode, &by_cookie) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(record_error("rename the link", &by_inode)(error))
            }
            Ok(()) | Err(_) => Ok(by_cookie),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_newest_record_is_used_and_an_empty_one_is_not_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let records = Ipam::open(directory.path(), Path::new("/a")).unwrap();
        assert_eq!(records.recorded_denied().unwrap(), None);
        symlink("off", records.denied_path().unwrap()).unwrap();
        assert_eq!(
            records.recorded_denied().unwrap(),
            Some(ForwardingRecord::Unknown)
        );
        records.clear_denied().unwrap();
        symlink("off eth0 eth1", records.denied_path().unwrap()).unwrap();
        assert_eq!(
            records.recorded_denied().unwrap(),
            Some(ForwardingRecord::Devices(vec![
                "eth0".to_owned(),
                "eth1".to_owned()
            ])),
            "of an earlier build"
        );
        let many = (0..1_000).map(|number| format!("veth{number}.7")).collect();
        for devices in [many, vec!["eth0".to_owned(), "eth1".to_owned()], Vec::new()] {
            records.record_denied(&devices).unwrap();
            let noted = records.recorded_denied().unwrap();
            assert_eq!(noted, Some(ForwardingRecord::Devices(devices)));
        }
        records.clear_denied().unwrap();
        assert_eq!(records.recorded_denied().unwrap(), None);
    }

    #[test]
    fn a_record_is_not_used_for_a_later_namespace_with_its_inode() {
        let directory = tempfile::tempdir().unwrap();
        let records = Ipam::open(directory.path(), Path::new("/a")).unwrap();
        let namespace = |cookie| NamespaceId { cookie, inode: 5 };
        let is_noted = |cookie| {
            let path = records.denied_path_in(&namespace(cookie)).unwrap();
            path.is_symlink()
        };
        assert!(!is_noted(Some(7)));
        let path = records.denied_path_in(&namespace(None)).unwrap();
        symlink("off", path).unwrap();
        assert!(is_noted(None), "a kernel without cookies knows no better");
        assert!(is_noted(Some(7)), "what an older release has left");
        assert!(!is_noted(Some(8)), "another's, which has its inode now");
        assert!(is_noted(Some(7)), "still");
    }

    #[test]
    fn a_namespace_is_identified_by_its_cookie_if_available() {
        let found = NamespaceId::current().unwrap();
        let again = NamespaceId::current().unwrap();
        assert_eq!((found.cookie, found.inode), (again.cookie, again.inode));
        let release = nix::sys::utsname::uname().unwrap();
        let release = release.release().to_string_lossy().into_owned();
        let mut numbers = release.split('.').map_while(|part| part.parse().ok());
        let has_cookies = (numbers.next(), numbers.next()) >= (Some(5), Some(14));
        assert_eq!(found.cookie.is_some(), has_cookies, "on Linux {release}");
    }
}
