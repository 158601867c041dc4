//! Figures for `/metrics`: counts that the owner publishes, set as gauges at the rim.

use argosy_raft::Status;
use argosy_state::Registry;
use argosy_state::agent::AgentMode;
use metrics::{describe_gauge, gauge};

use crate::leader::Leader;

/// What the owner counts at each tick. Cheap: sizes that the registry knows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counts {
    is_leader: bool,
    in_office: bool,
    has_leader: bool,
    term: u64,
    epoch: u64,
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
    total: [i64; 2],
}

const MODES: [(AgentMode, &str); 6] = [
    (AgentMode::Registered, "registered"),
    (AgentMode::Unreachable, "unreachable"),
    (AgentMode::Draining, "draining"),
    (AgentMode::Drained, "drained"),
    (AgentMode::Deactivated, "deactivated"),
    (AgentMode::Gone, "gone"),
];

impl Counts {
    pub(crate) fn of(
        registry: &Registry,
        leader: Option<&Leader>,
        status: &Status,
        agents: usize,
        frameworks: usize,
    ) -> Self {
        let linked = leader.map_or(0, Leader::linked_frameworks);
        Self {
            is_leader: status.is_leader,
            in_office: leader.is_some(),
            has_leader: status.leader.is_some(),
            term: status.term,
            epoch: registry.epoch().0,
            voters: status.voters.len(),
            last_index: status.last_log_index,
            commit_index: status.committed_index,
            applied_index: registry.applied(),
            snapshot_index: status.snapshot_index,
            lag: status.lag.iter().map(|(node, lag)| (*node, *lag)).collect(),
            agents: MODES.map(|(mode, _)| registry.agents_in(mode)),
            frameworks: [linked, registry.frameworks().len().saturating_sub(linked)],
            tasks: registry.tasks().len(),
            tasks_live: registry.live_tasks(),
            offers: leader.map_or(0, |leader| leader.book().len()),
            streams: [agents, frameworks],
            total: [
                registry.total().scalar_milli("cpus"),
                registry.total().scalar_milli("mem"),
            ],
        }
    }

    /// Sets every gauge.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub(crate) fn show(&self) {
        let flag = |flag: bool| if flag { 1.0 } else { 0.0 };
        gauge!("argosy_raft_is_leader").set(flag(self.is_leader));
        gauge!("argosy_raft_in_office").set(flag(self.in_office));
        gauge!("argosy_raft_has_leader").set(flag(self.has_leader));
        gauge!("argosy_raft_term").set(self.term as f64);
        gauge!("argosy_raft_epoch").set(self.epoch as f64);
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
        for (resource, milli) in ["cpus", "mem"].into_iter().zip(self.total) {
            gauge!("argosy_resources", "resource" => resource, "use" => "total")
                .set(milli as f64 / 1_000.0);
        }
    }
}

/// Help texts, once a process.
pub(crate) fn describe() {
    for (name, help) in [
        (
            "argosy_raft_is_leader",
            "1 while this master leads its raft term",
        ),
        (
            "argosy_raft_in_office",
            "1 while this master acts as leader: its own epoch is the newest",
        ),
        (
            "argosy_raft_has_leader",
            "1 while this master knows a leader",
        ),
        ("argosy_raft_term", "Newest raft term seen"),
        (
            "argosy_raft_epoch",
            "Newest reign applied: the log index of its OpenEpoch entry",
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
            "Index of the last entry in the newest snapshot",
        ),
        (
            "argosy_raft_follower_lag_entries",
            "Entries that a follower lacks, as the leader last heard",
        ),
        ("argosy_agents", "Agents by mode"),
        ("argosy_frameworks", "Live frameworks by connection"),
        ("argosy_tasks", "Tasks in the registry"),
        ("argosy_offers_outstanding", "Open and pending offers"),
        ("argosy_streams", "Open streams by kind of peer"),
        ("argosy_resources", "Resources of registered agents"),
    ] {
        describe_gauge!(name, help);
    }
}
