//! Metrics for `/metrics`: counts that the owner publishes as gauges, and measurements that it
//! records.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use argosy_proto::v1;
use argosy_raft::{LogProgress, ProposeError, RaftStatus};
use argosy_state::Registry;
use argosy_state::agent::AgentMode;
use argosy_state::registry::BoundUsage;
use axum::http::HeaderMap;
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use tonic::Code;

use crate::checks::SliceSummary;
use crate::comparison::ComparisonResult;
use crate::leader::Leader;
use crate::links::{LINK_BYTES, Outbox};

/// The path prefix of calls of `argosy.v1`.
pub(crate) const CALLS: &str = "/argosy.v1.";

/// Counts that the owner publishes at each tick. They are cheap: the registry keeps these sizes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct OwnerCounts {
    is_leader: bool,
    is_active: bool,
    has_leader: bool,
    term: u64,
    epoch: u64,
    level: u32,
    voters: usize,
    last_index: u64,
    commit_index: u64,
    applied_index: u64,
    snapshot_index: u64,
    lag: Vec<(u64, u64)>,
    agents: [usize; 6],
    frameworks: [usize; 2],
    tasks: usize,
    tasks_live: usize,
    offers: usize,
    streams: [usize; 2],
    backlogs: [usize; 2],
    total: [i64; 2],
    usage: Vec<BoundUsage>,
}

/// Returns the number of entries that each other member lacks; all entries, until this leader has
/// had its answer.
fn lag(status: &RaftStatus, progress: &LogProgress) -> Vec<(u64, u64)> {
    let members = status.voters.iter().chain(&*status.learners);
    let others = members.filter(|(id, _)| status.is_leader && *id != status.id);
    let lag = |id| progress.lag.get(id).copied();
    others
        .map(|(id, _)| (*id, lag(id).unwrap_or(progress.last_log_index)))
        .collect()
}

const MODES: [(AgentMode, &str); 6] = [
    (AgentMode::Registered, "registered"),
    (AgentMode::Unreachable, "unreachable"),
    (AgentMode::Draining, "draining"),
    (AgentMode::Drained, "drained"),
    (AgentMode::Deactivated, "deactivated"),
    (AgentMode::Gone, "gone"),
];

impl OwnerCounts {
    pub(crate) fn of(
        registry: &Registry,
        leader: Option<&Leader>,
        (status, progress): (&RaftStatus, &LogProgress),
        links: &Outbox,
    ) -> Self {
        let linked = leader.map_or(0, Leader::linked_frameworks);
        Self {
            is_leader: status.is_leader,
            is_active: leader.is_some(),
            // A leader without an answer of a quorum does not count.
            has_leader: match status.is_leader {
                true => leader.is_some(),
                false => status.leader.is_some(),
            },
            term: status.term,
            epoch: registry.epoch().0,
            level: registry.level().0,
            voters: status.voters.len(),
            last_index: progress.last_log_index,
            commit_index: progress.committed_index,
            applied_index: registry.applied(),
            snapshot_index: progress.snapshot_index,
            lag: lag(status, progress),
            agents: MODES.map(|(mode, _)| registry.agents_in(mode)),
            frameworks: [linked, registry.frameworks().len().saturating_sub(linked)],
            tasks: registry.tasks().len(),
            tasks_live: registry.live_tasks(),
            offers: leader.map_or(0, |leader| leader.book().len()),
            streams: links.open(),
            backlogs: links.largest_backlogs(),
            total: [
                registry.total().scalar_milli("cpus"),
                registry.total().scalar_milli("mem"),
            ],
            usage: registry.usage().to_vec(),
        }
    }

    /// Sets every gauge.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub(crate) fn export(&self) {
        let flag = |flag: bool| if flag { 1.0 } else { 0.0 };
        gauge!("argosy_raft_is_leader").set(flag(self.is_leader));
        gauge!("argosy_master_is_active_leader").set(flag(self.is_active));
        gauge!("argosy_raft_has_leader").set(flag(self.has_leader));
        gauge!("argosy_raft_term").set(self.term as f64);
        gauge!("argosy_raft_epoch").set(self.epoch as f64);
        gauge!("argosy_feature_level").set(f64::from(self.level));
        gauge!("argosy_raft_voters").set(self.voters as f64);
        gauge!("argosy_raft_log_last_index").set(self.last_index as f64);
        gauge!("argosy_raft_commit_index").set(self.commit_index as f64);
        gauge!("argosy_raft_applied_index").set(self.applied_index as f64);
        gauge!("argosy_raft_snapshot_index").set(self.snapshot_index as f64);
        for (node, lag) in &self.lag {
            gauge!("argosy_raft_follower_lag_entries", "node" => format!("master-{node}"))
                .set(*lag as f64);
        }
        for ((_, mode), count) in MODES.iter().zip(self.agents) {
            gauge!("argosy_agents", "state" => *mode).set(count as f64);
        }
        for (state, count) in ["connected", "disconnected"]
            .into_iter()
            .zip(self.frameworks)
        {
            gauge!("argosy_frameworks", "state" => state).set(count as f64);
        }
        gauge!("argosy_tasks", "state" => "live").set(self.tasks_live as f64);
        gauge!("argosy_tasks", "state" => "ended-unacknowledged")
            .set(self.tasks.saturating_sub(self.tasks_live) as f64);
        gauge!("argosy_offers_outstanding").set(self.offers as f64);
        for (kind, count) in ["agent", "framework"].into_iter().zip(self.streams) {
            gauge!("argosy_streams", "peer_kind" => kind).set(count as f64);
        }
        for (kind, bytes) in ["agent", "framework"].into_iter().zip(self.backlogs) {
            gauge!("argosy_link_backlog_bytes", "peer_kind" => kind).set(bytes as f64);
        }
        gauge!("argosy_link_backlog_bytes_limit").set(LINK_BYTES as f64);
        for (resource, milli) in ["cpus", "mem"].into_iter().zip(self.total) {
            gauge!("argosy_resources", "resource" => resource, "use" => "total")
                .set(milli as f64 / 1_000.0);
        }
        self.export_usage();
    }

    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    fn export_usage(&self) {
        for usage in &self.usage {
            let kind = usage.kind;
            gauge!("argosy_registry_records", "kind" => kind).set(usage.records as f64);
            if let Some(most) = usage.most_records {
                gauge!("argosy_registry_records_limit", "kind" => kind).set(most as f64);
            }
            if let Some((bytes, most)) = usage.bytes {
                gauge!("argosy_registry_bytes", "kind" => kind).set(bytes as f64);
                gauge!("argosy_registry_bytes_limit", "kind" => kind).set(most as f64);
            }
        }
    }
}

/// A later phase was not delayed by the change of leader: there was no demand for an offer, or a
/// launch.
const FAILOVER_MS: u64 = 60_000;

/// The owner's metrics, as handles, so that recording costs next to nothing.
pub(crate) struct OwnerMetrics {
    /// Duration of one request of raft to apply entries, effects included.
    pub(crate) applied: Histogram,
    queued: Counter,
    full: Counter,
    too_large: Counter,
    not_leader: Counter,
    /// Commands that could not be decoded again: a defect.
    pub(crate) unreadable: Counter,
    checked: [Counter; 3],
    lag: Histogram,
    inbox: Gauge,
}

impl OwnerMetrics {
    pub(crate) fn new() -> Self {
        let proposals =
            |result: &'static str| counter!("argosy_raft_proposals_total", "result" => result);
        Self {
            applied: histogram!("argosy_raft_apply_duration_seconds"),
            queued: proposals("queued"),
            full: counter!("argosy_queue_full_total", "queue" => "proposals"),
            too_large: proposals("too-large"),
            not_leader: proposals("not-leader"),
            unreadable: proposals("unreadable"),
            checked: ["records", "offers", "left-out"]
                .map(|what| counter!("argosy_invariant_checks_total", "what" => what)),
            lag: histogram!("argosy_runtime_loop_lag_seconds"),
            inbox: gauge!("argosy_queue_depth", "queue" => "registry"),
        }
    }

    pub(crate) fn proposed(&self, taken: &Result<(), ProposeError>) {
        match taken {
            Ok(()) => self.queued.increment(1),
            Err(ProposeError::Full) => self.full.increment(1),
            Err(ProposeError::TooLarge { .. }) => self.too_large.increment(1),
            Err(ProposeError::NotLeader | ProposeError::Stopped) => self.not_leader.increment(1),
        }
    }

    pub(crate) fn checked(&self, checked: SliceSummary) {
        let counts = [checked.records, checked.offers, checked.left_out];
        for (counter, count) in self.checked.iter().zip(counts) {
            counter.increment(count as u64);
        }
    }

    /// Records a tick: its delay, and the number of messages that wait for the owner.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub(crate) fn tick(&self, after: Duration, wanted: Duration, waiting: usize) {
        self.lag.record(after.saturating_sub(wanted));
        self.inbox.set(waiting as f64);
    }
}

/// Counts the logged digests that this master has compared with its own, or could not compare.
pub(crate) fn compared(all: &[ComparisonResult]) {
    for compared in all {
        let result = match compared {
            ComparisonResult::Equal => "equal",
            ComparisonResult::Unknown => "not-known",
        };
        counter!("argosy_digest_comparisons_total", "result" => result).increment(1);
    }
}

/// Records that a phase of a change of leader was reached at this wall time. The duration starts
/// when this master detected the failure of the former leader, or else at the election.
pub(crate) fn failover(phase: &'static str, failover: &v1::Failover, at_ms: i64) {
    let from_ms = match failover.dead_seen_ms {
        0 => failover.elected_ms,
        seen => seen,
    };
    let took_ms = u64::try_from(at_ms - from_ms).unwrap_or(0);
    if took_ms <= FAILOVER_MS {
        histogram!("argosy_failover_duration_seconds", "phase" => phase)
            .record(Duration::from_millis(took_ms));
    }
}

/// Durations of gRPC calls. A stream is timed to its opening; a rejection after its headers is not
/// seen.
#[derive(Default)]
pub(crate) struct CallTimes {
    /// Durations of successful calls of served methods, by path. The lock is held for a lookup.
    done: RwLock<BTreeMap<String, Histogram>>,
}

impl CallTimes {
    /// Records a call of this path that was answered with these headers.
    pub(crate) fn record(&self, path: &str, headers: &HeaderMap, took: Duration) {
        let code = headers.get("grpc-status");
        let code = code.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
        if code != Code::Ok {
            return of_calls(path, code).record(took);
        }
        let known = self.done.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = known.get(path) {
            return times.record(took);
        }
        drop(known);
        let times = of_calls(path, code);
        times.record(took);
        let mut known = self.done.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(path.to_owned(), times);
    }
}

fn of_calls(path: &str, code: Code) -> Histogram {
    let names = path
        .strip_prefix(CALLS)
        .and_then(|names| names.split_once('/'));
    // Names of methods that are not served are unbounded.
    let known = names.filter(|_| code != Code::Unimplemented);
    let (service, method) = known.unwrap_or(("other", "other"));
    let (service, method) = (service.to_owned(), method.to_owned());
    histogram!("argosy_rpc_duration_seconds", "service" => service, "method" => method, "code" => format!("{code:?}"))
}

const COUNTERS: [(&str, &str); 5] = [
    (
        "argosy_invariant_checks_total",
        "Records and offers checked for broken invariants, and those with too many tasks to check",
    ),
    (
        "argosy_digest_comparisons_total",
        "Logged digests of the registry, by result of the comparison with the digest of this master",
    ),
    (
        "argosy_raft_proposals_total",
        "Commands proposed to raft's queue, by outcome",
    ),
    (
        "argosy_queue_full_total",
        "Messages for which a bounded queue had no room",
    ),
    (
        "argosy_reads_cut_off_total",
        "Answers dropped because their readers were too slow",
    ),
];

const DURATIONS: [(&str, &str); 7] = [
    (
        "argosy_raft_apply_duration_seconds",
        "Time to apply the entries of one request, including their effects",
    ),
    (
        "argosy_runtime_loop_lag_seconds",
        "Delay of the ticks of the loop that owns the registry",
    ),
    (
        "argosy_master_turn_seconds",
        "Duration of one turn of the loop that owns the registry: at most 5 ms",
    ),
    (
        "argosy_master_turn_cpu_seconds",
        "CPU time of one such turn; for the rest of its duration it waited for a processor",
    ),
    (
        "argosy_master_inbox_lag_seconds",
        "Delay with which the loop that owns the registry processes messages of its links",
    ),
    (
        "argosy_failover_duration_seconds",
        "Time from the detected failure of the former leader, or from the election, to a phase of the change",
    ),
    (
        "argosy_rpc_duration_seconds",
        "Time to the answer of a call, or to the opening of a stream",
    ),
];

const GAUGES: &[(&str, &str)] = &[
    (
        "argosy_raft_is_leader",
        "1 while this master leads its raft term",
    ),
    (
        "argosy_master_is_active_leader",
        "1 while this master acts as leader: its own epoch is the newest",
    ),
    (
        "argosy_raft_has_leader",
        "1 while this master knows a leader",
    ),
    ("argosy_raft_term", "Newest raft term seen"),
    (
        "argosy_raft_epoch",
        "Newest applied epoch: the log index of its OpenEpoch entry",
    ),
    (
        "argosy_feature_level",
        "Feature level of the cluster, as applied by this master",
    ),
    ("argosy_raft_voters", "Masters with a vote"),
    ("argosy_raft_log_last_index", "Index of the last log entry"),
    (
        "argosy_raft_commit_index",
        "Index of the last entry known to be committed",
    ),
    (
        "argosy_raft_applied_index",
        "Index of the last entry applied to the registry",
    ),
    (
        "argosy_raft_snapshot_index",
        "Index of the last entry up to which the log may be truncated",
    ),
    (
        "argosy_raft_follower_lag_entries",
        "Entries that a follower lacks, as last reported to the leader",
    ),
    ("argosy_agents", "Agents by mode"),
    ("argosy_frameworks", "Live frameworks by connection"),
    ("argosy_tasks", "Tasks in the registry"),
    ("argosy_offers_outstanding", "Open and pending offers"),
    ("argosy_streams", "Open streams by kind of peer"),
    (
        "argosy_link_backlog_bytes",
        "Unread bytes on the fullest stream to a peer, by kind of peer",
    ),
    (
        "argosy_link_backlog_bytes_limit",
        "Maximum unread bytes of a stream before it is closed",
    ),
    ("argosy_resources", "Resources of registered agents"),
    ("argosy_registry_records", "Records of the registry by kind"),
    (
        "argosy_registry_records_limit",
        "Maximum number of records of a kind",
    ),
    (
        "argosy_registry_bytes",
        "Approximate memory of the records of a kind",
    ),
    (
        "argosy_registry_bytes_limit",
        "Maximum memory of the records of a kind; further records are rejected",
    ),
    ("argosy_queue_depth", "Number of items in a bounded queue"),
    (
        "argosy_read_bytes",
        "Bytes that answers to reads hold while they are built and sent",
    ),
    (
        "argosy_encoded_record_bytes",
        "Bytes of encoded records that are cached for lists",
    ),
];

/// Registers the help texts, once in each process.
pub(crate) fn describe() {
    argosy_proto::server::describe();
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
    }
    for (name, help) in DURATIONS {
        describe_histogram!(name, Unit::Seconds, help);
    }
    for (name, help) in GAUGES {
        describe_gauge!(*name, *help);
    }
}
