//! OOM kills of a container, in figures and as text.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The memory that was exhausted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OomScope {
    /// The container's: it reached its limit.
    Container,
    /// That of its host, or of an ancestor cgroup.
    Host,
}

/// The circumstances of an OOM kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomKill {
    /// The memory that was exhausted.
    pub of: OomScope,
    /// The container's limit, in bytes; `None` without a limit.
    pub limit_bytes: Option<u64>,
    /// Its peak usage, in bytes.
    pub used_bytes: Option<u64>,
    /// The number of its processes that were killed.
    pub killed: u64,
}

impl fmt::Display for OomKill {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.of {
            OomScope::Container => "out of memory",
            OomScope::Host => "its host was out of memory",
        })?;
        match (
            self.used_bytes.map(mebibytes),
            self.limit_bytes.map(mebibytes),
        ) {
            (Some(used), Some(limit)) => write!(formatter, ": used {used} MiB of {limit} MiB")?,
            (Some(used), None) => write!(formatter, ": used {used} MiB")?,
            (None, Some(limit)) => write!(formatter, ": its limit is {limit} MiB")?,
            (None, None) => {}
        }
        match self.killed {
            1 => formatter.write_str("; 1 process was killed"),
            count => write!(formatter, "; {count} processes were killed"),
        }
    }
}

/// Formats with one decimal, which is left out if it is zero.
#[must_use]
pub fn mebibytes(bytes: u64) -> String {
    const MIB: u128 = 1 << 20;
    let tenths = (u128::from(bytes) * 10 + MIB / 2) / MIB;
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        decimal => format!("{}.{decimal}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTAGE: OomKill = OomKill {
        of: OomScope::Container,
        limit_bytes: Some(128 << 20),
        used_bytes: Some(128 << 20),
        killed: 1,
    };

    #[test]
    fn an_oom_kill_is_formatted_with_its_figures() {
        let reported = |shortage: OomKill| shortage.to_string();
        assert_eq!(
            reported(SHORTAGE),
            "out of memory: used 128 MiB of 128 MiB; 1 process was killed"
        );
        let several = OomKill {
            used_bytes: Some((64 << 20) - (100 << 10)),
            limit_bytes: Some(64 << 20),
            killed: 3,
            ..SHORTAGE
        };
        assert_eq!(
            reported(several),
            "out of memory: used 63.9 MiB of 64 MiB; 3 processes were killed"
        );
        let uncounted = OomKill {
            used_bytes: None,
            ..SHORTAGE
        };
        assert_eq!(
            reported(uncounted),
            "out of memory: its limit is 128 MiB; 1 process was killed"
        );
        let of_host = OomKill {
            of: OomScope::Host,
            limit_bytes: None,
            ..SHORTAGE
        };
        assert_eq!(
            reported(of_host),
            "its host was out of memory: used 128 MiB; 1 process was killed"
        );
        assert_eq!(mebibytes(u64::MAX), "17592186044416");
    }
}
