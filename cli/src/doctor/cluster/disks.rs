//! The disks of masters and agents, by their metrics: how long syncs take at present, and how much
//! space is free.

use std::time::Duration;

use argosy_proto::v1;
use futures::{StreamExt, stream};

use super::super::checks::SLOW_SYNC;
use super::super::{CheckStatus, Finding};
use super::{MasterAnswer, host, names, warning};
use crate::output::{bytes, span_ms};
use crate::probe::{self, Member, ProbeClient};
use crate::transport::ClientTransport;

/// The histogram of the time in which a master's log reaches its disk.
pub(super) const SYNCS: &str = "argosy_raft_append_sync_duration_seconds";
/// Number of syncs during this command from which they are judged instead of those since the start
/// of a master.
const FEWEST: f64 = 20.0;
/// The share of syncs of a quarter of a second or longer from which a disk is slow.
const SLOW_SHARE: f64 = 0.001;
/// Maximum number of agents whose metrics are read, and how many at a time.
const AGENTS: usize = 100;
const AGENTS_AT_A_TIME: usize = 16;
/// Maximum size of an agent's page of metrics.
const METRICS_BYTES: usize = 4 << 20;
/// Timeout of an agent.
const AGENT_TIMEOUT: Duration = Duration::from_secs(1);
/// Free space below which a disk is full, as in the alert `ArgosyDiskFull`: a share of the disk, in
/// percent, and bytes.
const FULL: (f64, f64) = (2.0, 2.0 * 1024.0 * 1024.0 * 1024.0);
/// Free space below which a disk is soon full, in percent.
const LOW_PERCENT: f64 = 10.0;

/// The metrics of a master or an agent, or why there are none.
pub(super) struct MemberMetrics {
    pub(super) name: String,
    pub(super) metrics: Result<String, String>,
}

/// The syncs that a histogram has counted.
#[derive(Debug, Clone, Copy, PartialEq)]
struct SyncCounts {
    /// The sum of their durations in seconds.
    sum: f64,
    count: f64,
    /// Those that took a quarter of a second or longer.
    slow: f64,
}

impl SyncCounts {
    /// Returns the syncs after an earlier count. A master that was restarted counts from 0.
    fn since(self, earlier: Self) -> Self {
        if self.count < earlier.count || self.sum < earlier.sum || self.slow < earlier.slow {
            return self;
        }
        Self {
            sum: self.sum - earlier.sum,
            count: self.count - earlier.count,
            slow: self.slow - earlier.slow,
        }
    }

    fn slow_share(self) -> f64 {
        (self.slow / self.count).clamp(0.0, 1.0)
    }
}

/// Checks the syncs of each master. `passed`: the time between the two reads of its metrics.
pub(super) fn syncs(answers: &[MasterAnswer], passed: Duration) -> Vec<Finding> {
    let check = |answer: &MasterAnswer| match &answer.metrics {
        Ok(first) => Some(sync_finding(answer, first, passed)),
        // Whether it answers at all is another check.
        Err(_) if answer.cluster.is_err() => None,
        Err(why) => {
            let found = format!("{}: /metrics {why}", answer.name);
            let fix = "open its API port to this host";
            Some(warning("disk sync", found, fix))
        }
    };
    answers.iter().filter_map(check).collect()
}

fn sync_finding(answer: &MasterAnswer, first: &str, passed: Duration) -> Finding {
    let name = &answer.name;
    let earlier = sync_counts(first);
    let later = answer.later_metrics.as_deref().and_then(sync_counts);
    let Some(all) = later.or(earlier) else {
        let found = format!("{name} has synced nothing yet, or reports no times");
        return Finding::ok("disk sync", found);
    };
    let recent = match (earlier, later) {
        (Some(earlier), Some(later)) => Some(later.since(earlier)),
        _ => None,
    };
    let recent = recent.filter(|recent| recent.count >= FEWEST);
    let counts = recent.unwrap_or(all);
    let Ok(mean) = Duration::try_from_secs_f64(counts.sum / counts.count) else {
        return Finding::ok("disk sync", format!("{name} reports no usable times"));
    };
    let ms = mean.as_secs_f64() * 1_000.0;
    let period = match recent {
        Some(_) => format!("in the last {}", span_ms(passed.as_millis() as u64)),
        None => "since its start".to_owned(),
    };
    let found = format!(
        "{name}: {ms:.1} ms on average {period}, {:.1} % took 250 ms or more",
        counts.slow_share() * 100.0
    );
    // A stall since the start may be long over.
    let stalls = recent.is_some_and(|recent| recent.slow_share() >= SLOW_SHARE);
    let fix = "give the log a separate disk, or a faster one (--data-dir); every commit waits for a majority of disks";
    match mean >= SLOW_SYNC || stalls {
        true => warning("disk sync", found, fix),
        false => Finding::ok("disk sync", found),
    }
}

/// Reads the histogram of syncs. Returns `None` if it is empty, absent or unreadable.
fn sync_counts(metrics: &str) -> Option<SyncCounts> {
    let sum = total(metrics, &format!("{SYNCS}_sum"), "")?;
    let count = total(metrics, &format!("{SYNCS}_count"), "")?;
    let quick = total(metrics, &format!("{SYNCS}_bucket"), "le=\"0.25\"").unwrap_or(count);
    let slow = (count - quick).max(0.0);
    (count > 0.0).then_some(SyncCounts { sum, count, slow })
}

/// Returns the sum of a metric's series whose labels contain a text.
fn total(metrics: &str, name: &str, label: &str) -> Option<f64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let is_it = rest.starts_with(['{', ' ']) && rest.contains(label);
        let value: f64 = is_it.then(|| rest.rsplit(' ').next())??.parse().ok()?;
        (value.is_finite() && value >= 0.0).then_some(value)
    });
    values.reduce(|sum, next| sum + next)
}

/// Reads the metrics of connected agents. Returns whether some were left out.
pub(super) async fn of_agents(
    agents: &[v1::Agent],
    transport: &ClientTransport,
    timeout: Duration,
) -> (Vec<MemberMetrics>, bool) {
    let http = &ProbeClient::new(transport, timeout.min(AGENT_TIMEOUT));
    let connected: Vec<_> = agents.iter().filter(|agent| agent.connected).collect();
    let read = |agent: v1::Agent| async move {
        let address = agent.info.as_ref().map(|info| info.address.clone());
        let address = address.unwrap_or_default();
        // Its agent reports it.
        let metrics = match probe::is_host_and_port(&address) {
            true => {
                let member = Member::agent(&address);
                http.text(member, "/metrics", METRICS_BYTES).await
            }
            false => Err("has no address host:port".to_owned()),
        };
        let name = host(&agent).to_owned();
        MemberMetrics { name, metrics }
    };
    let some = connected.iter().take(AGENTS);
    let read = stream::iter(some.map(|agent| (*agent).clone())).map(read);
    let all = read.buffered(AGENTS_AT_A_TIME).collect().await;
    (all, connected.len() > AGENTS)
}

/// Checks the free space of the disks with the members' data.
pub(super) fn space(members: &[MemberMetrics], is_cut: bool) -> Finding {
    let (mut full, mut low, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    let mut least: Option<f64> = None;
    let mut count = 0;
    for MemberMetrics { name, metrics } in members {
        let text = match metrics {
            Ok(text) => text,
            Err(why) => {
                unknown.push(format!("{name} ({why})"));
                continue;
            }
        };
        let free = total(text, "argosy_disk_free_bytes", "");
        let size = total(text, "argosy_disk_total_bytes", "").filter(|size| *size > 0.0);
        let (Some(free), Some(size)) = (free, size) else {
            unknown.push(format!("{name} (reports none)"));
            continue;
        };
        let percent = free / size * 100.0;
        let shown = format!("{name} has {} ({percent:.0} %)", bytes(free as u64));
        if percent < FULL.0 && free < FULL.1 {
            full.push(shown);
        } else if percent < LOW_PERCENT {
            low.push(shown);
        }
        count += 1;
        least = Some(least.map_or(percent, |least| least.min(percent)));
    }
    let cut = match is_cut {
        true => format!(" (only the first {AGENTS} agents were asked)"),
        false => String::new(),
    };
    let listed = |all: &[String]| names(all.iter().map(String::as_str));
    let scarce = [full.as_slice(), &low].concat();
    if !scarce.is_empty() {
        let status = match full.is_empty() {
            true => CheckStatus::Warning,
            false => CheckStatus::Failed,
        };
        let found = format!("free: {}{cut}", listed(&scarce));
        let fix = "make room there: a master that cannot write exits, and an agent evicts tasks (docs/operate/runbooks/disk-full.md)";
        return Finding::new("disk space", status, found, fix);
    }
    if !unknown.is_empty() {
        let found = format!("unknown of {}{cut}", listed(&unknown));
        return warning("disk space", found, "open their API ports to this host");
    }
    let Some(least) = least else {
        return warning("disk space", "no member has answered", "start the masters");
    };
    let noun = if count == 1 { "member" } else { "members" };
    let found = format!("at least {least:.0} % is free on {count} {noun}{cut}");
    Finding::ok("disk space", found)
}
