//! Arguments of `argosy update`, which changes the limits of a running task.

use argosy_proto::v1;
use clap::Args;

use super::limits::{bytes, disk_limit};
use super::shared::{ConnectionArguments, WriteArguments};
use crate::parsers::{self, Milli};

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// TASK or FRAMEWORK/TASK: id, unique prefix of an id, or name
    pub(crate) task: String,
    /// Maximum processor time, not below the task's cpus; none removes the limit
    #[arg(long, value_name = "NUMBER", value_parser = or_none(parsers::cpus))]
    cpu_limit: Option<LimitChange<Milli>>,
    /// Maximum memory, not below the task's mem; none is that amount
    #[arg(long, value_name = "SIZE", value_parser = or_none(parsers::size))]
    mem_limit: Option<LimitChange<Milli>>,
    /// Maximum number of processes and threads; none is the agent's limit, which is never exceeded
    #[arg(long, value_name = "NUMBER", value_parser = or_none(number))]
    pids_limit: Option<LimitChange<u64>>,
    /// Share of busy disks, 1 to 10000; none is 100
    #[arg(long, value_name = "NUMBER", value_parser = or_none(number))]
    io_weight: Option<LimitChange<u64>>,
    /// As for run, replacing the limits of that disk; none removes those of all disks; may be
    /// repeated
    #[arg(long = "io-limit", value_name = "[DISK:]KEY=NUMBER,…", value_parser = or_none(disk_limit))]
    io: Vec<LimitChange<v1::DiskLimit>>,
    /// Do not wait until the limits are in force
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) write: WriteArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

/// The change of one named limit.
#[derive(Debug, Clone, PartialEq)]
enum LimitChange<T> {
    Remove,
    Set(T),
}

impl<T: Clone> LimitChange<T> {
    fn value(&self) -> Option<T> {
        match self {
            Self::Remove => None,
            Self::Set(value) => Some(value.clone()),
        }
    }
}

/// Parses a value, or `none`, which removes a limit.
fn or_none<T>(
    parse: impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<LimitChange<T>, String> + Clone + Send + Sync + 'static {
    move |text| match text {
        "none" => Ok(LimitChange::Remove),
        _ => parse(text).map(LimitChange::Set),
    }
}

fn number(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{text:?} is not a number from 1; none removes the limit"))
}

impl Update {
    /// Returns whether any limit is named.
    pub(crate) fn names_any(&self) -> bool {
        let others = [&self.pids_limit, &self.io_weight];
        self.cpu_limit.is_some()
            || self.mem_limit.is_some()
            || others.iter().any(|change| change.is_some())
            || !self.io.is_empty()
    }

    /// Applies the named changes to the current limits.
    pub(crate) fn limits(&self, mut limits: v1::Limits) -> v1::Limits {
        if let Some(change) = &self.cpu_limit {
            limits.cpu_millis = change.value().map(|limit| limit.0.unsigned_abs());
        }
        if let Some(change) = &self.mem_limit {
            limits.memory_bytes = change.value().map(bytes);
        }
        if let Some(change) = &self.pids_limit {
            limits.pids = change.value();
        }
        if let Some(change) = &self.io_weight {
            limits.io_weight = change.value();
        }
        for change in &self.io {
            match change {
                LimitChange::Remove => limits.io.clear(),
                LimitChange::Set(limit) => {
                    limits.io.retain(|kept| kept.disk != limit.disk);
                    limits.io.push(limit.clone());
                }
            }
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct TestArguments {
        #[command(flatten)]
        update: Update,
    }

    fn parse_limits(args: &[&str]) -> v1::Limits {
        let line = [&["update", "web"], args].concat();
        let disk = |disk: &str| v1::DiskLimit {
            disk: disk.to_owned(),
            read_bytes: Some(1),
            ..v1::DiskLimit::default()
        };
        let before = v1::Limits {
            cpu_millis: Some(500),
            memory_bytes: Some(32 << 20),
            pids: Some(10),
            io_weight: Some(50),
            io: vec![disk(""), disk("/dev/sda")],
            exclusive_cpus: true,
        };
        TestArguments::try_parse_from(line)
            .unwrap()
            .update
            .limits(before)
    }

    #[test]
    fn unnamed_limits_are_unchanged() {
        let after = parse_limits(&["--mem-limit", "64M", "--pids-limit", "none"]);
        assert_eq!(after.memory_bytes, Some(64 << 20));
        assert_eq!(after.pids, None);
        assert_eq!((after.cpu_millis, after.io_weight), (Some(500), Some(50)));
        assert_eq!(after.io.len(), 2);
        assert!(after.exclusive_cpus);
    }

    #[test]
    fn limits_of_a_named_disk_are_replaced() {
        let after = parse_limits(&["--io-limit", "/dev/sda:wiops=7"]);
        let disks: Vec<_> = after.io.iter().map(|limit| limit.disk.as_str()).collect();
        assert_eq!(disks, ["", "/dev/sda"]);
        assert_eq!(after.io[1].read_bytes, None);
        assert_eq!(after.io[1].write_operations, Some(7));
        let lifted = parse_limits(&["--io-limit", "none", "--cpu-limit", "none"]);
        assert_eq!((lifted.io.len(), lifted.cpu_millis), (0, None));
    }

    #[test]
    fn a_change_requires_a_limit() {
        let update = |args: &[&str]| {
            let line = [&["update", "web"], args].concat();
            TestArguments::try_parse_from(line).map(|line| line.update.names_any())
        };
        assert!(!update(&[]).unwrap());
        for args in [
            ["--cpu-limit", "1"],
            ["--mem-limit", "none"],
            ["--pids-limit", "9"],
            ["--io-weight", "9"],
            ["--io-limit", "wiops=9"],
        ] {
            assert!(update(&args).unwrap(), "{args:?}");
        }
        assert!(update(&["--pids-limit", "0"]).is_err());
    }
}
