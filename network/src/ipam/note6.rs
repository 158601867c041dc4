//! The record that a network namespace forwarded no IPv6 before an agent enabled it.
//!
//! It is a file, since the settings of many devices do not fit into a link. It is written
//! completely, then renamed.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::PathBuf;

use argosy_host::atomic_file::{self, WriteOptions};

use super::notes::NamespaceId;
use super::{Ipam, draft_of, record_error, remove};
use crate::NetworkError;

/// The devices of a host that forwarded no IPv6, and the settings to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForwardingRecord6 {
    /// Whether devices may have values other than the recorded ones.
    pub(crate) is_pending: bool,
    /// The devices between which nothing may be forwarded.
    pub(crate) denied: Vec<String>,
    pub(crate) devices: Vec<DeviceSettings6>,
}

/// The settings of a device, or `default`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceSettings6 {
    pub(crate) name: String,
    pub(crate) forwarding: String,
    pub(crate) accept_ra: String,
}

const PENDING: &str = "pending";
const CLOSED: &str = "closed";
const DEVICE: &str = "device";

impl ForwardingRecord6 {
    /// Formats one line per device; device names have no spaces.
    fn text(&self) -> String {
        let mut text = String::new();
        if self.is_pending {
            let _ = writeln!(text, "{PENDING}");
        }
        for name in &self.denied {
            let _ = writeln!(text, "{CLOSED} {name}");
        }
        for device in &self.devices {
            let (forwarding, accept_ra) = (&device.forwarding, &device.accept_ra);
            let _ = writeln!(text, "{DEVICE} {} {forwarding} {accept_ra}", device.name);
        }
        text
    }

    fn parse(text: &str) -> Self {
        let mut noted = Self {
            is_pending: false,
            denied: Vec::new(),
            devices: Vec::new(),
        };
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                [PENDING] => noted.is_pending = true,
                [CLOSED, name] => noted.denied.push(name.to_owned()),
                [DEVICE, name, forwarding, accept_ra] => noted.devices.push(DeviceSettings6 {
                    name: name.to_owned(),
                    forwarding: forwarding.to_owned(),
                    accept_ra: accept_ra.to_owned(),
                }),
                // From a later release.
                _ => {}
            }
        }
        noted
    }
}

impl Ipam {
    /// Replaces an earlier record.
    pub(crate) fn record_ipv6(&self, noted: &ForwardingRecord6) -> Result<(), NetworkError> {
        let path = self.ipv6_path()?;
        let (draft, text) = (draft_of(&path), noted.text());
        // The directory is empty after a boot.
        let options = WriteOptions::CACHED;
        let written = atomic_file::replace(&path, &draft, text.as_bytes(), options);
        written.map_err(record_error("write", &path))
    }

    pub(crate) fn recorded_ipv6(&self) -> Result<Option<ForwardingRecord6>, NetworkError> {
        let path = self.ipv6_path()?;
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(ForwardingRecord6::parse(&text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(record_error("read", &path)(error)),
        }
    }

    pub(crate) fn clear_ipv6(&self) -> Result<(), NetworkError> {
        remove(&self.ipv6_path()?)
    }

    /// Returns the path, which includes the network namespace as for IPv4.
    fn ipv6_path(&self) -> Result<PathBuf, NetworkError> {
        let namespace = NamespaceId::current()?;
        Ok(self.directory.join(match namespace.cookie {
            Some(cookie) => format!("forwarding6-cookie-{cookie}"),
            None => format!("forwarding6-{}", namespace.inode),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn an_ipv6_record_round_trips_and_can_be_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let records = Ipam::open(directory.path(), Path::new("/a")).unwrap();
        assert_eq!(records.recorded_ipv6().unwrap(), None);
        let device = |name: &str| DeviceSettings6 {
            name: name.to_owned(),
            forwarding: "0".to_owned(),
            accept_ra: "1".to_owned(),
        };
        let many: Vec<_> = (0..500).map(|number| format!("veth{number}.7")).collect();
        for is_pending in [true, false] {
            let noted = ForwardingRecord6 {
                is_pending,
                denied: many.clone(),
                devices: vec![device("default"), device("eth0.100")],
            };
            records.record_ipv6(&noted).unwrap();
            assert_eq!(records.recorded_ipv6().unwrap(), Some(noted));
        }
        records.clear_ipv6().unwrap();
        assert_eq!(records.recorded_ipv6().unwrap(), None);
    }
}
