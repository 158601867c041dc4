//! Flags for the limits of a task, which may exceed its reserved resources or restrict it further.

use argosy_proto::v1;
use argosy_state::task::Sizes;
use clap::Args;

use crate::parsers::{self, Milli};

/// Upper bounds on the resource use of a task.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// Maximum processor time, not below --cpus [default: as much as is free]
    #[arg(long, value_name = "NUMBER", value_parser = parsers::cpus)]
    cpu_limit: Option<Milli>,
    /// Maximum memory, not below --mem, which is reserved [default: --mem]
    #[arg(long, value_name = "SIZE", value_parser = parsers::size)]
    mem_limit: Option<Milli>,
    /// Maximum number of processes and threads [default: the agent's limit, which is never
    /// exceeded]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pids_limit: Option<u64>,
    /// Share of busy disks, 1 to 10000 [default: 100]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    io_weight: Option<u64>,
    /// Maximum bytes and operations per second on the sandbox's disk or another, as
    /// /dev/sda:rbps=10M,wiops=100; may be repeated
    #[arg(long = "io-limit", value_name = "[DISK:]KEY=NUMBER,…", value_parser = disk_limit)]
    io: Vec<v1::DiskLimit>,
    /// Open files of each process, up to the agent's --max-open-files [default: 4096]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(64..=1_048_576))]
    open_files: Option<u64>,
    /// Size of /dev/shm, which counts as the task's memory, up to the agent's --max-shm-size
    /// [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = parsers::size)]
    shm_size: Option<Milli>,
    /// Size of /tmp, which counts as the task's memory, up to the agent's --max-tmp-size [default:
    /// 64M]
    #[arg(long, value_name = "SIZE", value_parser = parsers::size)]
    tmp_size: Option<Milli>,
    /// Use the processors of --cpus, a whole number, exclusively
    #[arg(long)]
    exclusive_cpus: bool,
}

impl Limits {
    /// Returns the limits in wire form, or `None` if no limit is given.
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

    /// Returns the sizes of the task's container. A size that is not given is absent.
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            open_files: self.open_files,
            shm_bytes: self.shm_size.map(bytes),
            tmp_bytes: self.tmp_size.map(bytes),
        }
    }
}

/// Converts thousandths of MiB, the unit of agents, to bytes.
pub(super) fn bytes(size: Milli) -> u64 {
    size.0.unsigned_abs().saturating_mul(1 << 20) / 1_000
}

/// Parses the limits of one disk. The keys are those of the kernel's `io.max`.
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
    number.ok_or_else(|| {
        format!("{text:?} is not a number of operations per second: give at least 1")
    })
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
    fn a_limit_without_effect_is_rejected_with_a_message() {
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
