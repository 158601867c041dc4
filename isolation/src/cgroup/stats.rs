//! The resource usage of a group, read from the kernel's files.
//!
//! A missing file belongs to a controller that the host lacks: its value is `None`. Limits are out
//! of scope: `limits` writes, this module reads.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// The resource usage of a group; `None` where the host has no controller that counts it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CgroupStats {
    /// Processor time, in microseconds. Like the next two fields, the kernel counts it without a
    /// controller.
    pub cpu_us: Option<u64>,
    /// The part of `cpu_us` in user mode.
    pub cpu_user_us: Option<u64>,
    /// The part of `cpu_us` in kernel mode.
    pub cpu_system_us: Option<u64>,
    /// Periods of `cpu.max` in which the group had runnable processes. 0 without that limit.
    pub cpu_periods: Option<u64>,
    /// The periods of `cpu_periods` in which the limit throttled the group.
    pub cpu_throttled_periods: Option<u64>,
    /// Time for which `cpu.max` throttled the group, in microseconds.
    pub cpu_throttled_us: Option<u64>,
    /// Current memory, in bytes: anonymous memory, page cache, and kernel memory of the group.
    pub memory_bytes: Option<u64>,
    /// The peak of `memory_bytes`.
    pub memory_peak_bytes: Option<u64>,
    /// The memory limit, in bytes; `None` also without a limit.
    pub memory_limit_bytes: Option<u64>,
    /// Current anonymous memory, in bytes. No file backs it, so only swap could reclaim it.
    pub memory_anonymous_bytes: Option<u64>,
    /// Current page cache and tmpfs memory, in bytes.
    pub memory_file_bytes: Option<u64>,
    /// Current kernel memory of the group, in bytes.
    pub memory_kernel_bytes: Option<u64>,
    /// The number of times the group was throttled, and its memory reclaimed, above `memory.high`.
    pub memory_high_events: Option<u64>,
    /// The number of times memory was reclaimed because the group reached `memory.max`.
    pub memory_max_events: Option<u64>,
    /// The number of times nothing was left to reclaim.
    pub out_of_memory_events: Option<u64>,
    /// The number of processes of the group that the OOM killer killed, whether the group or the
    /// host was out of memory.
    pub out_of_memory_kills: Option<u64>,
    /// Disk reads and writes.
    pub io: Option<IoStats>,
    /// Current number of processes and threads.
    pub pids: Option<u64>,
    /// The number of forks that `pids.max` prevented.
    pub pids_max_events: Option<u64>,
    /// Time lost waiting for a processor.
    pub cpu_pressure: Option<Pressure>,
    /// Time lost waiting for memory: reclaim, reading pages back, or throttling above
    /// `memory.high`.
    pub memory_pressure: Option<Pressure>,
    /// Time lost waiting for disks.
    pub io_pressure: Option<Pressure>,
}

/// Reads and writes that reached a device, summed over all devices. A request that one device
/// passes to another, as the device mapper does, counts at both. Memory file systems and hits of
/// the page cache do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct IoStats {
    pub read_bytes: u64,
    /// Bytes written. A write to the page cache counts when it is written back.
    pub written_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// Pressure stall information (PSI) of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pressure {
    /// At least one process waited.
    pub some: StallShares,
    /// All runnable processes waited, so no work was done. `None` where the kernel does not count
    /// it.
    pub full: Option<StallShares>,
}

/// Shares of time lost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StallShares {
    /// Over the last 10 seconds, in percent.
    pub average_10s_percent: f64,
    /// Over the last minute.
    pub average_60s_percent: f64,
    /// Over the last five minutes.
    pub average_300s_percent: f64,
    /// Total, in microseconds.
    pub total_us: u64,
}

/// The usage of a group that is about to be removed. It reads few files, because every task ends
/// once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LastUsage {
    pub(crate) cpu_us: Option<u64>,
    pub(crate) memory_peak_bytes: Option<u64>,
    /// Read only if processes were killed.
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) out_of_memory_events: Option<u64>,
    pub(crate) out_of_memory_kills: Option<u64>,
}

/// The files of a group.
struct StatFiles<'a>(&'a Path);

impl StatFiles<'_> {
    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.0.join(file)).ok()
    }

    /// Reads a file that holds one number, or returns `None` for "max".
    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }
}

impl CgroupStats {
    pub(super) fn read(group: &Path) -> Self {
        let files = StatFiles(group);
        let text = |file| files.text(file).unwrap_or_default();
        let pressure = |file| files.text(file).as_deref().and_then(pressure_of);
        let (cpu, memory) = (text("cpu.stat"), text("memory.stat"));
        let events = text("memory.events");
        Self {
            cpu_us: value_of(&cpu, "usage_usec"),
            cpu_user_us: value_of(&cpu, "user_usec"),
            cpu_system_us: value_of(&cpu, "system_usec"),
            cpu_periods: value_of(&cpu, "nr_periods"),
            cpu_throttled_periods: value_of(&cpu, "nr_throttled"),
            cpu_throttled_us: value_of(&cpu, "throttled_usec"),
            memory_bytes: files.number("memory.current"),
            memory_peak_bytes: files.number("memory.peak"),
            memory_limit_bytes: files.number("memory.max"),
            memory_anonymous_bytes: value_of(&memory, "anon"),
            memory_file_bytes: value_of(&memory, "file"),
            memory_kernel_bytes: value_of(&memory, "kernel"),
            memory_high_events: value_of(&events, "high"),
            memory_max_events: value_of(&events, "max"),
            out_of_memory_events: value_of(&events, "oom"),
            out_of_memory_kills: value_of(&events, "oom_kill"),
            io: files.text("io.stat").as_deref().map(io_of),
            pids: files.number("pids.current"),
            pids_max_events: value_of(&text("pids.events"), "max"),
            cpu_pressure: pressure("cpu.pressure"),
            memory_pressure: pressure("memory.pressure"),
            io_pressure: pressure("io.pressure"),
        }
    }
}

impl LastUsage {
    pub(super) fn read(group: &Path) -> Self {
        let files = StatFiles(group);
        let text = |file| files.text(file).unwrap_or_default();
        let events = text("memory.events");
        let kills = value_of(&events, "oom_kill");
        Self {
            cpu_us: value_of(&text("cpu.stat"), "usage_usec"),
            memory_peak_bytes: files.number("memory.peak"),
            memory_limit_bytes: kills
                .filter(|kills| *kills > 0)
                .and_then(|_| files.number("memory.max")),
            out_of_memory_events: value_of(&events, "oom"),
            out_of_memory_kills: kills,
        }
    }
}

/// Returns the number after `key` in the kernel's "key number" lines.
pub(super) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

/// Returns the number in a "key=number" word, if it has this key.
fn value_in<T: std::str::FromStr>(word: &str, key: &str) -> Option<T> {
    word.strip_prefix(key)?.strip_prefix('=')?.parse().ok()
}

/// Sums the lines of `io.stat`, one per device. The line of a device that the group never used may
/// have no figures.
fn io_of(text: &str) -> IoStats {
    let sum = |key| {
        let words = text.split_ascii_whitespace();
        let values = words.filter_map(|word| value_in::<u64>(word, key));
        values.fold(0, u64::saturating_add)
    };
    IoStats {
        read_bytes: sum("rbytes"),
        written_bytes: sum("wbytes"),
        reads: sum("rios"),
        writes: sum("wios"),
    }
}

fn pressure_of(text: &str) -> Option<Pressure> {
    let stall = |kind| {
        let mut lines = text.lines();
        let words = lines.find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let average = |key| {
            let mut words = words.split(' ');
            words.find_map(|word| value_in::<f64>(word, key))
        };
        Some(StallShares {
            average_10s_percent: average("avg10")?,
            average_60s_percent: average("avg60")?,
            average_300s_percent: average("avg300")?,
            total_us: words.split(' ').find_map(|word| value_in(word, "total"))?,
        })
    };
    Some(Pressure {
        some: stall("some")?,
        full: stall("full"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    const CPU: &str = "usage_usec 2250911\nuser_usec 1820313\nsystem_usec 430598\n\
        core_sched.force_idle_usec 0\nnr_periods 48\nnr_throttled 44\nthrottled_usec 2160446\n\
        nr_bursts 0\nburst_usec 0\n";
    const MEMORY: &str = "anon 30474240\nfile 1048576\nkernel 1359872\nkernel_stack 49152\n\
        pagetables 180224\nsec_pagetables 0\npercpu 0\nsock 0\nvmalloc 0\nshmem 1048576\n\
        file_mapped 0\nfile_dirty 0\nfile_writeback 0\nswapcached 0\nanon_thp 0\n";
    const EVENTS: &str = "low 0\nhigh 91\nmax 23\noom 1\noom_kill 3\noom_group_kill 1\n";

    #[test]
    fn a_group_with_all_controllers_reports_all_statistics() {
        let directory = directory(&[
            ("cpu.stat", CPU),
            ("memory.current", "32882688\n"),
            ("memory.peak", "33554432\n"),
            ("memory.max", "33554432\n"),
            ("memory.stat", MEMORY),
            ("memory.events", EVENTS),
            ("pids.current", "7\n"),
            ("pids.events", "max 2\n"),
        ]);
        let stats = CgroupStats::read(directory.path());
        assert_eq!(
            (stats.cpu_us, stats.cpu_user_us, stats.cpu_system_us),
            (Some(2_250_911), Some(1_820_313), Some(430_598))
        );
        assert_eq!(
            (stats.cpu_periods, stats.cpu_throttled_periods),
            (Some(48), Some(44))
        );
        assert_eq!(stats.cpu_throttled_us, Some(2_160_446));
        assert_eq!(stats.memory_bytes, Some(32_882_688));
        assert_eq!(stats.memory_peak_bytes, stats.memory_limit_bytes);
        assert_eq!(stats.memory_anonymous_bytes, Some(30_474_240));
        assert_eq!(stats.memory_file_bytes, Some(1_048_576));
        assert_eq!(stats.memory_kernel_bytes, Some(1_359_872));
        assert_eq!(
            (stats.memory_high_events, stats.memory_max_events),
            (Some(91), Some(23))
        );
        assert_eq!(
            (stats.out_of_memory_events, stats.out_of_memory_kills),
            (Some(1), Some(3))
        );
        assert_eq!((stats.pids, stats.pids_max_events), (Some(7), Some(2)));
    }

    #[test]
    fn a_group_without_controllers_reports_its_cpu_time() {
        let directory = directory(&[("cpu.stat", "usage_usec 9\nuser_usec 4\nsystem_usec 5\n")]);
        let expected = CgroupStats {
            cpu_us: Some(9),
            cpu_user_us: Some(4),
            cpu_system_us: Some(5),
            ..CgroupStats::default()
        };
        assert_eq!(CgroupStats::read(directory.path()), expected);
        assert_eq!(
            CgroupStats::read(&directory.path().join("gone")),
            CgroupStats::default(),
            "a removed group is not an error either"
        );
    }

    #[test]
    fn no_memory_limit_is_none() {
        let directory = directory(&[("memory.max", "max\n")]);
        assert_eq!(CgroupStats::read(directory.path()).memory_limit_bytes, None);
    }

    #[test]
    fn io_is_summed_over_devices() {
        let text = "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n\
                    254:16 \n\
                    254:32 rbytes=1000000 wbytes=0 rios=30 wios=0 dbytes=512 dios=9\n";
        let expected = IoStats {
            read_bytes: 1_004_096,
            written_bytes: 8_192,
            reads: 31,
            writes: 2,
        };
        assert_eq!(io_of(text), expected);
        assert_eq!(io_of(""), IoStats::default(), "no disk was used");
    }

    #[test]
    fn pressure_is_read_with_and_without_its_second_line() {
        let some = "some avg10=1.23 avg60=0.40 avg300=100.00 total=1234567\n";
        let old = pressure_of(some).unwrap();
        assert_eq!(old.full, None);
        assert_eq!(
            old.some,
            StallShares {
                average_10s_percent: 1.23,
                average_60s_percent: 0.4,
                average_300s_percent: 100.0,
                total_us: 1_234_567,
            }
        );
        let full = "full avg10=0.00 avg60=0.00 avg300=0.00 total=89\n";
        let new = pressure_of(&format!("{some}{full}")).unwrap();
        assert_eq!(new.some, old.some);
        assert_eq!(new.full.map(|full| full.total_us), Some(89));
        for garbled in ["", "some", "some avg10=x avg60=0 avg300=0 total=0", "full "] {
            assert_eq!(pressure_of(garbled), None, "{garbled:?}");
        }
    }

    #[test]
    fn the_limit_is_read_last_and_only_after_a_kill() {
        let files = [
            ("cpu.stat", CPU),
            ("memory.peak", "33554432\n"),
            ("memory.max", "33554432\n"),
        ];
        let peaceful = LastUsage::read(directory(&files).path());
        assert_eq!(peaceful.cpu_us, Some(2_250_911));
        assert_eq!(peaceful.memory_peak_bytes, Some(33_554_432));
        assert_eq!(peaceful.memory_limit_bytes, None);
        let killed = directory(&[&files[..], &[("memory.events", EVENTS)]].concat());
        let killed = LastUsage::read(killed.path());
        assert_eq!(killed.memory_limit_bytes, Some(33_554_432));
        assert_eq!(killed.out_of_memory_kills, Some(3));
    }
}
