//! The gauges of a master. A row of the table has the name of a gauge, its help text, and the
//! function that measures it.
//!
//! The owner measures at each tick, and `/metrics` shows the last result. A measurement costs the
//! same whatever the size of the registry, and its labels are from closed sets.

use argosy_raft::{LogProgress, RaftStatus};
use argosy_state::Registry;
use argosy_state::agent::AgentMode;
use metrics::{Label, describe_gauge};

use crate::leader::Leader;
use crate::links::{LINK_BYTES, Outbox};

/// The state of the owner that gauges measure.
pub(crate) struct OwnerState<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) leader: Option<&'a Leader>,
    pub(crate) status: &'a RaftStatus,
    pub(crate) progress: &'a LogProgress,
    pub(crate) links: &'a Outbox,
}

/// A row of the table.
struct GaugeRow {
    name: &'static str,
    help: &'static str,
    measure: Measurement,
}

/// The function that measures a gauge.
enum Measurement {
    /// A gauge without labels.
    Value(fn(&OwnerState<'_>) -> f64),
    /// A gauge with a sample for each value of its labels.
    Samples(fn(&OwnerState<'_>) -> Samples),
    /// The file that keeps the gauge's handle sets it.
    RecordedElsewhere,
}

/// The labels and values of one gauge.
type Samples = Vec<(Vec<Label>, f64)>;

const fn gauge(
    name: &'static str,
    help: &'static str,
    value: fn(&OwnerState<'_>) -> f64,
) -> GaugeRow {
    let measure = Measurement::Value(value);
    GaugeRow {
        name,
        help,
        measure,
    }
}

const fn labelled(
    name: &'static str,
    help: &'static str,
    samples: fn(&OwnerState<'_>) -> Samples,
) -> GaugeRow {
    let measure = Measurement::Samples(samples);
    GaugeRow {
        name,
        help,
        measure,
    }
}

const fn recorded_elsewhere(name: &'static str, help: &'static str) -> GaugeRow {
    let measure = Measurement::RecordedElsewhere;
    GaugeRow {
        name,
        help,
        measure,
    }
}

const GAUGES: &[GaugeRow] = &[
    gauge(
        "argosy_raft_is_leader",
        "1 while this master leads its raft term",
        |state| flag(state.status.is_leader),
    ),
    gauge(
        "argosy_master_is_active_leader",
        "1 while this master acts as leader: its own epoch is the newest",
        |state| flag(state.leader.is_some()),
    ),
    gauge(
        "argosy_raft_has_leader",
        "1 while this master knows a leader",
        // A leader without an answer of a quorum does not count.
        |state| match state.status.is_leader {
            true => flag(state.leader.is_some()),
            false => flag(state.status.leader.is_some()),
        },
    ),
    gauge("argosy_raft_term", "Newest raft term seen", |state| {
        number(state.status.term)
    }),
    gauge(
        "argosy_raft_epoch",
        "Newest applied epoch: the log index of its OpenEpoch entry",
        |state| number(state.registry.epoch().0),
    ),
    gauge(
        "argosy_feature_level",
        "Feature level of the cluster, as applied by this master",
        |state| state.registry.level().0.into(),
    ),
    gauge("argosy_raft_voters", "Masters with a vote", |state| {
        count(state.status.voters.len())
    }),
    gauge(
        "argosy_raft_log_last_index",
        "Index of the last log entry",
        |state| number(state.progress.last_log_index),
    ),
    gauge(
        "argosy_raft_commit_index",
        "Index of the last entry known to be committed",
        |state| number(state.progress.committed_index),
    ),
    gauge(
        "argosy_raft_applied_index",
        "Index of the last entry applied to the registry",
        |state| number(state.registry.applied()),
    ),
    gauge(
        "argosy_raft_snapshot_index",
        "Index of the last entry up to which the log may be truncated",
        |state| number(state.progress.snapshot_index),
    ),
    labelled(
        "argosy_raft_follower_lag_entries",
        "Entries that a follower lacks, as last reported to the leader",
        follower_lag,
    ),
    labelled("argosy_agents", "Agents by mode", |state| {
        by(
            "state",
            MODES.map(|(mode, name)| (name, count(state.registry.agents_in(mode)))),
        )
    }),
    labelled(
        "argosy_frameworks",
        "Live frameworks by connection",
        |state| {
            let linked = state.leader.map_or(0, Leader::linked_frameworks);
            let others = state.registry.frameworks().len().saturating_sub(linked);
            let connections = [("connected", linked), ("disconnected", others)];
            by("state", connections.map(|(name, all)| (name, count(all))))
        },
    ),
    labelled("argosy_tasks", "Tasks in the registry", |state| {
        let live = state.registry.live_tasks();
        let ended = state.registry.tasks().len().saturating_sub(live);
        let states = [("live", live), ("ended-unacknowledged", ended)];
        by("state", states.map(|(name, all)| (name, count(all))))
    }),
    gauge(
        "argosy_offers_outstanding",
        "Open and pending offers",
        |state| count(state.leader.map_or(0, |leader| leader.book().len())),
    ),
    labelled("argosy_streams", "Open streams by kind of peer", |state| {
        by_peer_kind(state.links.open())
    }),
    labelled(
        "argosy_link_backlog_bytes",
        "Unread bytes on the fullest stream to a peer, by kind of peer",
        |state| by_peer_kind(state.links.largest_backlogs()),
    ),
    gauge(
        "argosy_link_backlog_bytes_limit",
        "Maximum unread bytes of a stream before it is closed",
        |_| count(LINK_BYTES),
    ),
    labelled(
        "argosy_resources",
        "Resources of registered agents",
        total_resources,
    ),
    labelled(
        "argosy_registry_records",
        "Records of the registry by kind",
        |state| {
            by(
                "kind",
                state
                    .registry
                    .usage()
                    .map(|usage| (usage.kind, number(usage.records))),
            )
        },
    ),
    labelled(
        "argosy_registry_records_limit",
        "Maximum number of records of a kind",
        |state| {
            let usage = state.registry.usage().into_iter();
            by(
                "kind",
                usage.filter_map(|usage| Some((usage.kind, number(usage.most_records?)))),
            )
        },
    ),
    labelled(
        "argosy_registry_bytes",
        "Approximate memory of the records of a kind",
        |state| {
            let usage = state.registry.usage().into_iter();
            by(
                "kind",
                usage.filter_map(|usage| Some((usage.kind, number(usage.bytes?.0)))),
            )
        },
    ),
    labelled(
        "argosy_registry_bytes_limit",
        "Maximum memory of the records of a kind; further records are rejected",
        |state| {
            let usage = state.registry.usage().into_iter();
            by(
                "kind",
                usage.filter_map(|usage| Some((usage.kind, number(usage.bytes?.1)))),
            )
        },
    ),
    recorded_elsewhere("argosy_queue_depth", "Number of items in a bounded queue"),
    recorded_elsewhere(
        "argosy_read_bytes",
        "Bytes that answers to reads hold while they are built and sent",
    ),
    recorded_elsewhere("argosy_watch_subscribers", "Subscribers of the change feed"),
    recorded_elsewhere(
        "argosy_watch_window_bytes",
        "Memory of the events that all subscribers share, as it is counted for its bound",
    ),
    recorded_elsewhere(
        "argosy_encoded_record_bytes",
        "Bytes of encoded records that are cached for lists",
    ),
];

const MODES: [(AgentMode, &str); 6] = [
    (AgentMode::Registered, "registered"),
    (AgentMode::Unreachable, "unreachable"),
    (AgentMode::Draining, "draining"),
    (AgentMode::Drained, "drained"),
    (AgentMode::Deactivated, "deactivated"),
    (AgentMode::Gone, "gone"),
];

/// The values of all measured gauges at one tick.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OwnerCounts {
    samples: Vec<(&'static str, Vec<Label>, f64)>,
}

impl Default for OwnerCounts {
    /// Returns the values before the first tick: those of an empty registry.
    fn default() -> Self {
        Self::of(&OwnerState {
            registry: &Registry::new(),
            leader: None,
            status: &RaftStatus::default(),
            progress: &LogProgress::default(),
            links: &Outbox::default(),
        })
    }
}

impl OwnerCounts {
    pub(crate) fn of(state: &OwnerState<'_>) -> Self {
        let mut all = Vec::with_capacity(2 * GAUGES.len());
        for row in GAUGES {
            match row.measure {
                Measurement::Value(value) => all.push((row.name, Vec::new(), value(state))),
                Measurement::Samples(samples) => {
                    let samples = samples(state).into_iter();
                    all.extend(samples.map(|(labels, value)| (row.name, labels, value)));
                }
                Measurement::RecordedElsewhere => {}
            }
        }
        Self { samples: all }
    }

    /// Sets every gauge.
    pub(crate) fn export(&self) {
        for (name, labels, value) in &self.samples {
            metrics::gauge!(*name, labels.clone()).set(*value);
        }
    }
}

/// Registers the help texts.
pub(super) fn describe() {
    for row in GAUGES {
        describe_gauge!(row.name, row.help);
    }
}

fn flag(flag: bool) -> f64 {
    if flag { 1.0 } else { 0.0 }
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn number(number: u64) -> f64 {
    number as f64
}

fn count(count: usize) -> f64 {
    number(count as u64)
}

/// Returns a sample for each value of one label.
fn by(label: &'static str, values: impl IntoIterator<Item = (&'static str, f64)>) -> Samples {
    let values = values.into_iter();
    values
        .map(|(name, value)| (vec![Label::from_static_parts(label, name)], value))
        .collect()
}

/// Returns the samples of agents and frameworks.
fn by_peer_kind([agents, frameworks]: [usize; 2]) -> Samples {
    let kinds = [("agent", agents), ("framework", frameworks)];
    by("peer_kind", kinds.map(|(kind, all)| (kind, count(all))))
}

/// Returns the number of entries that each other member lacks; all entries, until this leader has
/// had its answer.
fn follower_lag(state: &OwnerState<'_>) -> Samples {
    let OwnerState {
        status, progress, ..
    } = state;
    let members = status.voters.iter().chain(&*status.learners);
    let others = members.filter(|(id, _)| status.is_leader && *id != status.id);
    let lag = |id| progress.lag.get(id).copied();
    others
        .map(|(id, _)| {
            let node = Label::new("node", format!("master-{id}"));
            let lag = lag(id).unwrap_or(progress.last_log_index);
            (vec![node], number(lag))
        })
        .collect()
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn total_resources(state: &OwnerState<'_>) -> Samples {
    ["cpus", "mem"]
        .map(|resource| {
            let labels = vec![
                Label::from_static_parts("resource", resource),
                Label::from_static_parts("use", "total"),
            ];
            let milli = state.registry.total().scalar_milli(resource);
            (labels, milli as f64 / 1_000.0)
        })
        .into()
}
