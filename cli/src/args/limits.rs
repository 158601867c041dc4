//! Flags by which a task may use more than is kept for it, or less than is free.

use argosy_proto::v1;
use argosy_state::task::Sizes;
use clap::Args;

use crate::parsers::{self, Milli};

/// The most that a task uses.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// Most processor time, not below --cpus [default: as much as is free]
    #[arg(long, value_name = "NUMBER", value_parser = parsers::cpus)]
    cpu_limit: Option<Milli>,
    /// Most memory, not below --mem, which is kept for it [default: --mem]
    #[arg(long, value_name = "SIZE", value_parser = parsers::size)]
    mem_limit: Option<Milli>,
    /// Most processes and threads [default: the agent's limit, which is never exceeded]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pids_limit: Option<u64>,
    /// Share of busy disks, 1 to 10000 [default: 100]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    io_weight: Option<u64>,
    /// Most bytes and operations a second, of the sandbox's disk or another, as /dev/sda:rbps=10M,wiops=100; may be repeated
    #[arg(long = "io-limit", value_name = "[DISK:]KEY=NUMBER,…", value_parser = disk_limit)]
    io: Vec<v1::DiskLimit>,
    /// Open files of each of its processes, as far as the agent gives (see agent's --max-open-files) [default: 4096]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(64..=1_048_576))]
    open_files: Option<u64>,
    /// Size of its /dev/shm, which counts as its memory, as far as the agent gives [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = parsers::size)]
    shm_size: Option<Milli>,
    /// Size of its /tmp, which counts as its memory, as far as the agent gives [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = parsers::size)]
    tmp_size: Option<Milli>,
    /// Have the processors of --cpus, whole ones, for itself alone
    #[arg(long)]
    exclusive_cpus: bool,
}

impl Limits {
    /// As the wire has them; absent if none is given.
    pub(crate) fn wire(&self) -> Option<v1::Limits> {
        let limits = v1::Limits {
            cpu_millis: self.cpu_limit.map(|limit| limit.0.unsigned_abs()),
            memory_bytes: self.mem_limit.map(bytes),
            pids: self.pids_limit,
            io_weight: self.io_weight,
            io: self.io.clone(),
            exclusive_cpus: self.exclusive_cpus,
        };
        (limits != v1::Limits::default()).then_some(limits)
    }

    /// Sizes of its container; absent if none is given.
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            open_files: self.open_files,
            shm_bytes: self.shm_size.map(bytes),
            tmp_bytes: self.tmp_size.map(bytes),
        }
    }
}

/// From thousandths of MiB, as agents count them.
pub(super) fn bytes(size: Milli) -> u64 {
    size.0.unsigned_abs().saturating_mul(1 << 20) / 1_000
}

/// One disk and what is done with it at most; the keys are those of the kernel's `io.max`.
pub(super) fn disk_limit(text: &str) -> Result<v1::DiskLimit, String> {
    let (disk, pairs) = text.rsplit_once(':').unwrap_or(("", text));
    let mut limit = v1::DiskLimit {
        disk: disk.to_owned(),
        ..v1::DiskLimit::default()
    };
    for pair in pairs.split(',') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (place, number) = match key {
            "rbps" => (&mut limit.read_bytes, parsers::size(value).map(bytes)?),
            "wbps" => (&mut limit.write_bytes, parsers::size(value).map(bytes)?),
            "riops" => (&mut limit.read_operations, operations(value)?),
            "wiops" => (&mut limit.write_operations, operations(value)?),
            _ => {
                return Err(format!(
                    "{key:?} is none of rbps, wbps, riops, wiops; write as /dev/sda:rbps=10M,wiops=100"
                ));
            }
        };
        if place.replace(number).is_some() {
            return Err(format!("{key} is given twice for one disk"));
        }
    }
    Ok(limit)
}

fn operations(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{text:?} is no number of operations a second: give at least 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_limited_by_the_keys_of_the_kernel() {
        let limit = disk_limit("/dev/sda:rbps=10M,wiops=100").unwrap();
        assert_eq!(limit.disk, "/dev/sda");
        assert_eq!(limit.read_bytes, Some(10 << 20));
        assert_eq!(limit.write_operations, Some(100));
        assert_eq!((limit.write_bytes, limit.read_operations), (None, None));
        assert_eq!(disk_limit("wbps=1K").unwrap().disk, "");
    }

    #[test]
    fn what_limits_nothing_is_refused_in_words() {
        for (text, part) in [
            ("", "none of rbps"),
            ("/dev/sda:", "none of rbps"),
            ("speed=1", "\"speed\" is none"),
            ("riops=0", "at least 1"),
            ("rbps=fast", "write an amount"),
            ("wbps=1,wbps=2", "given twice"),
        ] {
            let refused = disk_limit(text).unwrap_err();
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }
}
