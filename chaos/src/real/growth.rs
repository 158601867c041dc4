//! How much the members of a run grow: memory, descriptors, files and open tasks, as the kernel and
//! the schedulers report them. A leak is a growth that does not end.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use argosy_host::ProcessId;
use argosy_testbed::cluster::Cluster;
use argosy_testbed::members::MemberKind;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::framework::FrameworkProgress;
use super::report::ReportedViolation;
use crate::history::Recorder;
use crate::invariants::Rule;

/// Pause between two samples.
const PAUSE: Duration = Duration::from_secs(10);
/// The shortest time between first and last sample in which growth is judged: in less, caches fill.
const JUDGED_FROM: Duration = Duration::from_secs(45 * 60);
/// Maximum number of samples whose pairs are compared.
const MAX_COMPARED: usize = 720;
const HOUR_NS: f64 = 3_600e9;

/// What is measured. Of several members, the largest value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GrowthMeasure {
    /// The resident memory of a master, in bytes.
    MasterMemory,
    /// The resident memory of an agent, in bytes.
    AgentMemory,
    /// The open descriptors of a master.
    MasterDescriptors,
    /// The open descriptors of an agent.
    AgentDescriptors,
    /// The data directory of a master, which contains its Raft log, in bytes on disk.
    MasterDisk,
    /// The data directory of an agent, in bytes on disk.
    AgentDisk,
    /// The log of a member, in bytes.
    Log,
    /// Tasks of all schedulers that are not known to have ended.
    OpenTasks,
}

impl GrowthMeasure {
    /// All of them, as each sample of a healthy cluster has them.
    const ALL: [Self; 8] = [
        Self::MasterMemory,
        Self::AgentMemory,
        Self::MasterDescriptors,
        Self::AgentDescriptors,
        Self::MasterDisk,
        Self::AgentDisk,
        Self::Log,
        Self::OpenTasks,
    ];

    /// Returns the growth in an hour that is no leak, in addition to a twentieth of the median.
    fn allowed_in_an_hour(self) -> u64 {
        match self {
            Self::MasterMemory | Self::AgentMemory => 4 << 20,
            Self::MasterDescriptors | Self::AgentDescriptors | Self::OpenTasks => 4,
            Self::MasterDisk => 16 << 20,
            // An agent keeps the output of its newest 10,000 tasks, for which it needs hours. The
            // lines of a log are about faults, and an operator rotates it.
            Self::AgentDisk | Self::Log => 64 << 20,
        }
    }
}

/// The greatest value of each measure at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GrowthSample {
    /// Nanoseconds since the run began.
    time_ns: u64,
    values: BTreeMap<GrowthMeasure, u64>,
}

/// The growth of one measure during a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// What was measured.
    pub measure: GrowthMeasure,
    /// The number of samples.
    pub samples: u64,
    /// Nanoseconds between the first sample and the last.
    pub span_ns: u64,
    /// The median.
    pub median: u64,
    /// The greatest value.
    pub max: u64,
    /// The median of the slopes between all pairs of samples (Theil 1950, Sen 1968), in an hour.
    /// Restarted members and single peaks have little influence on it.
    pub in_an_hour: f64,
}

impl Growth {
    #[allow(clippy::cast_precision_loss, reason = "values are below 2^52")]
    fn of(measure: GrowthMeasure, samples: &[GrowthSample]) -> Option<Self> {
        let values = samples.iter();
        let values = values.filter_map(|one| Some((one.time_ns, *one.values.get(&measure)?)));
        let values: Vec<(u64, u64)> = values.collect();
        let (first, last) = (values.first()?, values.last()?);
        let every = values.len().div_ceil(MAX_COMPARED);
        let compared: Vec<_> = values.iter().step_by(every).collect();
        let mut slopes = Vec::new();
        for (place, earlier) in compared.iter().enumerate() {
            for later in &compared[place + 1..] {
                let hours = (later.0 - earlier.0) as f64 / HOUR_NS;
                slopes.push((later.1 as f64 - earlier.1 as f64) / hours);
            }
        }
        slopes.sort_by(f64::total_cmp);
        let mut sorted: Vec<u64> = values.iter().map(|(_, value)| *value).collect();
        sorted.sort_unstable();
        Some(Self {
            measure,
            samples: values.len() as u64,
            span_ns: last.0 - first.0,
            median: sorted[sorted.len() / 2],
            max: sorted.last().copied()?,
            in_an_hour: slopes.get(slopes.len() / 2).copied().unwrap_or_default(),
        })
    }

    /// Whether the samples cover enough time for a judgement.
    pub(crate) fn is_judged(&self) -> bool {
        Duration::from_nanos(self.span_ns) >= JUDGED_FROM
    }

    /// Returns a sentence if it grows without a bound.
    #[allow(clippy::cast_precision_loss, reason = "values are below 2^52")]
    pub(crate) fn leak(&self) -> Option<ReportedViolation> {
        let allowed = self.measure.allowed_in_an_hour() + self.median / 20;
        (self.is_judged() && self.in_an_hour > allowed as f64).then(|| ReportedViolation {
            checker: Rule::BoundedGrowth.to_string(),
            what: format!("{self}, and at most {allowed} is no leak"),
            time_ns: None,
        })
    }
}

impl std::fmt::Display for Growth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let minutes = self.span_ns / 60_000_000_000;
        write!(
            f,
            "{:?}: median {}, greatest {}, {:+.0} in an hour ({} samples in {minutes} min)",
            self.measure, self.median, self.max, self.in_an_hour, self.samples
        )
    }
}

/// Takes samples until it is finished.
pub(crate) struct GrowthRecorder {
    stop: CancellationToken,
    task: JoinHandle<Vec<GrowthSample>>,
}

impl GrowthRecorder {
    pub(crate) fn start(cluster: &Cluster, recorder: Recorder) -> Self {
        let members = GrowingMembers::of(cluster);
        let stop = CancellationToken::new();
        let is_over = stop.clone();
        let task = tokio::spawn(async move {
            let mut samples = Vec::new();
            while is_over
                .run_until_cancelled(time::sleep(PAUSE))
                .await
                .is_some()
            {
                let time_ns = recorder.now_ns();
                let members = members.clone();
                let values = tokio::task::spawn_blocking(move || members.values()).await;
                let values = values.expect("no sample panics");
                samples.push(GrowthSample { time_ns, values });
            }
            samples
        });
        Self { stop, task }
    }

    /// Ends it. The samples of the first quarter are ignored: caches fill, and memory that is freed
    /// later is allocated for the first time.
    ///
    /// # Errors
    /// If its task has failed.
    pub(crate) async fn finish(self) -> Result<Vec<Growth>> {
        self.stop.cancel();
        let samples = self.task.await.context("the growth was not measured")?;
        let later = &samples[samples.len() / 4..];
        let all = later.first().into_iter().flat_map(|one| one.values.keys());
        Ok(all.filter_map(|one| Growth::of(*one, later)).collect())
    }
}

/// The places of all that is measured.
#[derive(Debug, Clone)]
struct GrowingMembers {
    /// The data directory of each master and agent.
    data: Vec<(MemberKind, PathBuf)>,
    logs: PathBuf,
    progress_files: Vec<PathBuf>,
}

impl GrowingMembers {
    fn of(cluster: &Cluster) -> Self {
        let mut data = Vec::new();
        for kind in [MemberKind::Master, MemberKind::Agent] {
            let places = cluster.hosts_of(kind).into_iter();
            data.extend(places.map(|place| (kind, cluster.data(place))));
        }
        let schedulers = cluster.hosts_of(MemberKind::Framework).into_iter();
        Self {
            data,
            logs: cluster.environment.directory.logs(),
            progress_files: schedulers
                .map(|place| cluster.data(place).join("progress"))
                .collect(),
        }
    }

    fn values(&self) -> BTreeMap<GrowthMeasure, u64> {
        let mut values = BTreeMap::new();
        let mut found = |measure, value: u64| {
            let greatest: &mut u64 = values.entry(measure).or_default();
            *greatest = value.max(*greatest);
        };
        for (kind, directory) in &self.data {
            let (memory, descriptors, disk) = match kind {
                MemberKind::Master => (
                    GrowthMeasure::MasterMemory,
                    GrowthMeasure::MasterDescriptors,
                    GrowthMeasure::MasterDisk,
                ),
                _ => (
                    GrowthMeasure::AgentMemory,
                    GrowthMeasure::AgentDescriptors,
                    GrowthMeasure::AgentDisk,
                ),
            };
            found(disk, bytes_on_disk(directory));
            // A member that is being restarted has no process.
            if let Some(pid) = process_with(*kind, directory) {
                found(memory, resident_bytes(pid));
                found(descriptors, entries(&format!("/proc/{pid}/fd")));
            }
        }
        for log in fs::read_dir(&self.logs).into_iter().flatten().flatten() {
            found(
                GrowthMeasure::Log,
                log.metadata().map_or(0, |log| log.len()),
            );
        }
        let open = self.progress_files.iter();
        let open = open.map(|file| FrameworkProgress::read(file).open.len() as u64);
        found(GrowthMeasure::OpenTasks, open.sum());
        values
    }
}

/// Returns a sentence for each measure of which a run with this time of faults has no judgement.
pub(crate) fn shortfalls(found: &[Growth], faults: Duration) -> Vec<String> {
    // Three quarters of the samples are used.
    if faults < JUDGED_FROM / 3 * 4 {
        return Vec::new();
    }
    let judged = |measure| {
        let mut all = found.iter();
        all.any(|growth| growth.measure == measure && growth.is_judged())
    };
    let missing = GrowthMeasure::ALL.into_iter();
    let missing = missing.filter(|measure| !judged(*measure));
    missing
        .map(|measure| format!("the growth of {measure:?} was not measured for {JUDGED_FROM:?}"))
        .collect()
}

/// Returns the process of the master or agent with this data directory. Children that an agent
/// forks for its privileged operations have the same command, and are younger.
fn process_with(kind: MemberKind, directory: &Path) -> Option<i32> {
    let role: &[u8] = match kind {
        MemberKind::Master => b"master",
        _ => b"agent",
    };
    let directory = directory.as_os_str().as_encoded_bytes();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let members = pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        is_command_of(&line, role, directory)
    });
    let processes = members.filter_map(|pid| ProcessId::of(pid).ok());
    let oldest = processes.min_by_key(|process| (process.start_ticks, process.pid));
    oldest.map(|process| process.pid)
}

/// Whether a command line, with zero bytes between its words, starts this member. That of a tracer
/// does not.
fn is_command_of(line: &[u8], role: &[u8], directory: &[u8]) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let mut pairs = words.windows(2);
    words.get(1..3) == Some(&[role, b"start".as_slice()])
        && pairs.any(|pair| pair == [b"--data-dir".as_slice(), directory])
}

fn resident_bytes(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("VmRSS:"));
    let kib = lines
        .next()
        .and_then(|line| line.trim().split(' ').next()?.parse().ok());
    kib.map_or(0, |kib: u64| kib << 10)
}

fn entries(directory: &str) -> u64 {
    fs::read_dir(directory).map_or(0, |entries| entries.count() as u64)
}

/// Returns the disk usage of a directory, without other file systems below it. Files may be removed
/// at the same time.
fn bytes_on_disk(directory: &Path) -> u64 {
    let Ok(own) = fs::symlink_metadata(directory) else {
        return 0;
    };
    let mut bytes = 0;
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            // Of a link itself.
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if found.dev() == own.dev() {
                bytes += found.blocks() * 512;
                directories.extend(found.is_dir().then(|| entry.path()));
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_NS: u64 = 60_000_000_000;

    /// Returns the growth of a measure that has these values, one each minute.
    fn growth(measure: GrowthMeasure, values: impl Iterator<Item = u64>) -> Growth {
        let samples = (0..).zip(values).map(|(minute, value)| GrowthSample {
            time_ns: minute * MINUTE_NS,
            values: [(measure, value)].into(),
        });
        Growth::of(measure, &samples.collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_measure_that_grows_without_end_is_a_leak() {
        let descriptors = |minute: u64| 50 + minute / 6;
        let leaking = growth(GrowthMeasure::MasterDescriptors, (0..60).map(descriptors));
        assert!((9.0..11.0).contains(&leaking.in_an_hour), "{leaking}");
        let found = leaking.leak().unwrap();
        assert_eq!(found.checker, Rule::BoundedGrowth.to_string());
        assert!(found.what.contains("MasterDescriptors"), "{}", found.what);
        let short = growth(GrowthMeasure::MasterDescriptors, (0..40).map(descriptors));
        assert_eq!(short.leak(), None, "caches fill in a short time");
    }

    #[test]
    fn levels_peaks_and_periods_are_no_leak() {
        let level = |_| 80_000_000;
        let one_peak = |minute| if minute > 50 { 800_000_000 } else { 80_000_000 };
        let periodic = |minute| 80_000_000 + minute % 9 * 4_000_000;
        let falling = |minute| 80_000_000 - minute * 1_000_000;
        let restarted = |minute| if minute < 30 { 80_000_000 } else { 20_000_000 };
        let all: [fn(u64) -> u64; 5] = [level, one_peak, periodic, falling, restarted];
        for (place, values) in all.into_iter().enumerate() {
            let found = growth(GrowthMeasure::AgentMemory, (0..60).map(values));
            assert_eq!(found.leak(), None, "{place}");
            assert!(found.is_judged());
        }
    }

    #[test]
    fn many_samples_are_thinned() {
        let samples = (0..20_000).map(|place| GrowthSample {
            time_ns: place * MINUTE_NS / 60,
            values: [(GrowthMeasure::MasterDisk, place * 10)].into(),
        });
        let found = Growth::of(GrowthMeasure::MasterDisk, &samples.collect::<Vec<_>>()).unwrap();
        assert_eq!((found.samples, found.max), (20_000, 199_990));
        assert!((35_999.0..36_001.0).contains(&found.in_an_hour), "{found}");
    }

    #[test]
    fn a_long_run_must_measure_everything() {
        let hour = Duration::from_secs(3_600);
        let all = GrowthMeasure::ALL.map(|measure| growth(measure, (0..60).map(|_| 1)));
        assert_eq!(shortfalls(&all, hour), [""; 0]);
        assert_eq!(
            shortfalls(&[], hour / 2),
            [""; 0],
            "it is too short to judge"
        );
        let missing = shortfalls(&all[1..], hour);
        assert!(
            missing.len() == 1 && missing[0].contains("MasterMemory"),
            "{missing:?}"
        );
        let brief = GrowthMeasure::ALL.map(|measure| growth(measure, (0..30).map(|_| 1)));
        assert_eq!(shortfalls(&brief, hour).len(), 8);
    }

    #[test]
    fn the_process_of_a_member_is_found_by_its_command() {
        let line = |words: &[&str]| words.join("\0").into_bytes();
        let own = [
            "argosy",
            "master",
            "start",
            "--data-dir",
            "/run/a",
            "--peers",
            "b",
        ];
        assert!(is_command_of(&line(&own), b"master", b"/run/a"));
        assert!(!is_command_of(&line(&own), b"agent", b"/run/a"));
        assert!(!is_command_of(&line(&own), b"master", b"/run/ab"));
        let traced = [["strace"].as_slice(), own.as_slice()].concat();
        assert!(!is_command_of(&line(&traced), b"master", b"/run/a"));
    }

    #[test]
    fn samples_are_what_the_kernel_reports() {
        let directory = tempfile::tempdir().unwrap();
        let before = bytes_on_disk(directory.path());
        fs::create_dir(directory.path().join("inner")).unwrap();
        fs::write(directory.path().join("inner/file"), vec![1; 1 << 20]).unwrap();
        let grown = bytes_on_disk(directory.path()) - before;
        assert!((1 << 20..2 << 20).contains(&grown), "{grown}");
        assert_eq!(bytes_on_disk(&directory.path().join("gone")), 0);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(resident_bytes(own) > 1 << 20);
        assert!(entries(&format!("/proc/{own}/fd")) >= 3);
        assert_eq!((resident_bytes(-1), entries("/proc/none/fd")), (0, 0));
    }
}
