//! The gauges of a master, measured on its owner's state. A row of the table has the name of a
//! metric and the function that measures it.
//!
//! The owner measures at each tick, and `/metrics` shows the last result. A measurement costs the
//! same whatever the size of the registry, and its labels are from closed or bounded sets. Samples
//! of roles are made when they are written, from a copy of their usage. The result is written as
//! text and not kept by the recorder, which never forgets a series: those of the leader end with
//! its leadership.

use std::fmt::Write as _;
use std::time::Duration;

use argosy_proto::metric_list;
use argosy_state::agent::AgentMode;
use argosy_state::task::TaskState;

use super::samples::{OwnerState, SampleLabel, Samples, by, count, flag, number, write_labels};
use super::usage::{RoleFigures, resources, role_shares, role_usage};
use crate::leader::Leader;
use crate::links::LINK_BYTES;

/// A row of the table.
struct MeasuredMetric {
    name: &'static str,
    measure: Measurement,
}

/// The function that measures a metric.
enum Measurement {
    /// A metric without labels.
    Value(fn(&OwnerState<'_>) -> f64),
    /// A metric with a sample for each value of its labels; none while it has no meaning.
    Samples(fn(&OwnerState<'_>) -> Samples),
    /// A metric of roles.
    Roles(fn(&RoleFigures) -> Samples),
}

const fn value(name: &'static str, value: fn(&OwnerState<'_>) -> f64) -> MeasuredMetric {
    let measure = Measurement::Value(value);
    MeasuredMetric { name, measure }
}

const fn samples(name: &'static str, samples: fn(&OwnerState<'_>) -> Samples) -> MeasuredMetric {
    let measure = Measurement::Samples(samples);
    MeasuredMetric { name, measure }
}

const fn roles(name: &'static str, samples: fn(&RoleFigures) -> Samples) -> MeasuredMetric {
    let measure = Measurement::Roles(samples);
    MeasuredMetric { name, measure }
}

const MEASURED: &[MeasuredMetric] = &[
    value("argosy_raft_is_leader", |state| {
        flag(state.status.is_leader)
    }),
    value("argosy_master_is_active_leader", |state| {
        flag(state.leader.is_some())
    }),
    value("argosy_raft_has_leader", |state| {
        match state.status.is_leader {
            // A leader without an answer of a quorum does not count.
            true => flag(state.leader.is_some()),
            false => flag(state.status.leader.is_some()),
        }
    }),
    value("argosy_raft_term", |state| number(state.status.term)),
    value("argosy_raft_epoch", |state| {
        number(state.registry.epoch().0)
    }),
    value("argosy_feature_level", |state| {
        state.registry.level().0.into()
    }),
    value("argosy_raft_voters", |state| {
        count(state.status.voters.len())
    }),
    samples("argosy_raft_voters_in_contact", |state| {
        of_leader(state, |_| vec![(Vec::new(), voters_in_contact(state))])
    }),
    value("argosy_raft_log_last_index", |state| {
        number(state.progress.last_log_index)
    }),
    value("argosy_raft_commit_index", |state| {
        number(state.progress.committed_index)
    }),
    value("argosy_raft_applied_index", |state| {
        number(state.registry.applied())
    }),
    value("argosy_raft_snapshot_index", |state| {
        number(state.progress.snapshot_index)
    }),
    samples("argosy_raft_follower_lag_entries", follower_lag),
    samples("argosy_raft_last_contact_seconds", |state| {
        let contacts = state.contacts.iter();
        contacts
            .map(|(id, ago)| (vec![node(*id)], ago.as_secs_f64()))
            .collect()
    }),
    samples("argosy_store_bytes", |state| {
        let families = state.store.family_bytes.iter();
        by(
            "family",
            families.map(|(family, bytes)| (*family, number(*bytes))),
        )
    }),
    samples("argosy_store_stall_seconds_total", |state| {
        of_disk(state, state.store.stalled.as_secs_f64())
    }),
    samples("argosy_disk_free_bytes", |state| {
        of_disk(state, number(state.store.free_bytes))
    }),
    samples("argosy_disk_total_bytes", |state| {
        of_disk(state, number(state.store.total_bytes))
    }),
    samples("argosy_agents", |state| {
        by(
            "state",
            MODES.map(|(mode, name)| (name, count(state.registry.agents_in(mode)))),
        )
    }),
    samples("argosy_frameworks", |state| {
        of_leader(state, |leader| {
            let linked = leader.linked_frameworks();
            let others = state.registry.frameworks().len().saturating_sub(linked);
            let connections = [("connected", linked), ("disconnected", others)];
            by("state", connections.map(|(name, all)| (name, count(all))))
        })
    }),
    samples("argosy_tasks", |state| {
        let tasks = TASK_STATES.map(|one| (one, count(state.registry.tasks_in(one))));
        by("state", tasks.map(|(one, tasks)| (state_name(one), tasks)))
    }),
    value("argosy_updates_unacknowledged", |state| {
        count(state.registry.unacknowledged_updates())
    }),
    samples("argosy_offers_outstanding", |state| {
        of_leader(state, |leader| {
            vec![(Vec::new(), count(leader.book().len()))]
        })
    }),
    samples("argosy_allocator_waiting_demands", |state| {
        of_leader(state, |leader| {
            let waits = leader.allocator().waits();
            by(
                "reason",
                waits.map(|waits| (waits.reason.code(), count(waits.demands))),
            )
        })
    }),
    samples("argosy_allocator_oldest_demand_seconds", |state| {
        of_leader(state, |leader| {
            let waits = leader.allocator().waits();
            by(
                "reason",
                waits.map(|waits| {
                    let waited_ms = state.now.since_ms(waits.since);
                    (waits.reason.code(), number(waited_ms) / 1_000.0)
                }),
            )
        })
    }),
    samples("argosy_streams", |state| by_peer_kind(state.links.open())),
    samples("argosy_link_backlog_bytes", |state| {
        by_peer_kind(state.links.largest_backlogs())
    }),
    value("argosy_link_backlog_bytes_limit", |_| count(LINK_BYTES)),
    samples("argosy_resources", resources),
    roles("argosy_role_used", role_usage),
    roles("argosy_role_dominant_share_ratio", role_shares),
    samples("argosy_registry_records", |state| {
        let usage = state.registry.usage();
        by(
            "kind",
            usage.map(|usage| (usage.kind, number(usage.records))),
        )
    }),
    samples("argosy_registry_records_limit", |state| {
        let usage = state.registry.usage().into_iter();
        by(
            "kind",
            usage.filter_map(|usage| Some((usage.kind, number(usage.most_records?)))),
        )
    }),
    samples("argosy_registry_bytes", |state| {
        let usage = state.registry.usage().into_iter();
        by(
            "kind",
            usage.filter_map(|usage| Some((usage.kind, number(usage.bytes?.0)))),
        )
    }),
    samples("argosy_registry_bytes_limit", |state| {
        let usage = state.registry.usage().into_iter();
        by(
            "kind",
            usage.filter_map(|usage| Some((usage.kind, number(usage.bytes?.1)))),
        )
    }),
];

const MODES: [(AgentMode, &str); 6] = [
    (AgentMode::Registered, "registered"),
    (AgentMode::Unreachable, "unreachable"),
    (AgentMode::Draining, "draining"),
    (AgentMode::Drained, "drained"),
    (AgentMode::Deactivated, "deactivated"),
    (AgentMode::Gone, "gone"),
];

/// The states of tasks in the registry.
const TASK_STATES: [TaskState; 12] = [
    TaskState::Staging,
    TaskState::Starting,
    TaskState::Running,
    TaskState::Killing,
    TaskState::Unreachable,
    TaskState::Finished,
    TaskState::Failed,
    TaskState::Killed,
    TaskState::Error,
    TaskState::Dropped,
    TaskState::Gone,
    TaskState::GoneByOperator,
];

/// Returns the name of a state as a label.
pub(super) fn state_name(state: TaskState) -> &'static str {
    match state {
        TaskState::Staging => "staging",
        TaskState::Starting => "starting",
        TaskState::Running => "running",
        TaskState::Killing => "killing",
        TaskState::Finished => "finished",
        TaskState::Failed => "failed",
        TaskState::Killed => "killed",
        TaskState::Error => "error",
        TaskState::Dropped => "dropped",
        TaskState::Gone => "gone",
        TaskState::GoneByOperator => "gone-by-operator",
        TaskState::Unreachable => "unreachable",
        TaskState::Unknown => "unknown",
    }
}

/// The samples of one tick.
#[derive(Debug, Default)]
pub(crate) struct OwnerCounts {
    measured: Vec<(&'static str, Samples)>,
    roles: RoleFigures,
}

impl OwnerCounts {
    pub(crate) fn of(state: &OwnerState<'_>) -> Self {
        let measured = MEASURED.iter().filter_map(|row| match row.measure {
            Measurement::Value(value) => Some((row.name, vec![(Vec::new(), value(state))])),
            Measurement::Samples(samples) => Some((row.name, samples(state))),
            Measurement::Roles(_) => None,
        });
        Self {
            measured: measured.collect(),
            roles: RoleFigures::of(state.registry),
        }
    }

    /// Writes the samples in the text format of Prometheus. A metric without samples is left out.
    pub(crate) fn write(&self, text: &mut String) {
        for (name, samples) in &self.measured {
            write_metric(text, name, samples);
        }
        for (name, samples) in self.of_roles() {
            write_metric(text, name, &samples);
        }
    }

    /// Returns the metrics of roles.
    pub(super) fn of_roles(&self) -> impl Iterator<Item = (&'static str, Samples)> {
        MEASURED.iter().filter_map(|row| match row.measure {
            Measurement::Roles(samples) => Some((row.name, samples(&self.roles))),
            Measurement::Value(_) | Measurement::Samples(_) => None,
        })
    }

    /// Returns what was measured at the tick, by metric.
    #[cfg(test)]
    pub(super) fn of_tick(&self) -> &[(&'static str, Samples)] {
        &self.measured
    }
}

fn write_metric(text: &mut String, name: &str, samples: &Samples) {
    if samples.is_empty() {
        return;
    }
    let listed = metric_list::find(name).expect("a test compares the table with the list");
    let (help, kind) = (listed.help, listed.kind.name());
    // Writing to a string never fails.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        text.push_str(name);
        write_labels(text, labels);
        let _ = writeln!(text, " {value}");
    }
    text.push('\n');
}

/// Returns samples that only the active leader has.
fn of_leader(state: &OwnerState<'_>, samples: impl FnOnce(&Leader) -> Samples) -> Samples {
    state.leader.map(samples).unwrap_or_default()
}

/// Time since the newest contact with a voter after which it counts as lost.
const LOST_CONTACT: Duration = Duration::from_secs(10);

/// Returns the number of voters that have answered this leader recently, including itself.
fn voters_in_contact(state: &OwnerState<'_>) -> f64 {
    let has_answered = |id: &u64| {
        let mut contacts = state.contacts.iter();
        contacts.any(|(other, ago)| other == id && *ago < LOST_CONTACT)
    };
    let voters = state.status.voters.iter();
    let present = voters.filter(|(id, _)| *id == state.status.id || has_answered(id));
    count(present.count())
}

/// Returns a value that is known once a store on a disk has been measured.
fn of_disk(state: &OwnerState<'_>, value: f64) -> Samples {
    let is_known = state.store.total_bytes > 0;
    is_known.then(|| (Vec::new(), value)).into_iter().collect()
}

/// Returns the label of another master.
fn node(id: u64) -> SampleLabel {
    ("node", format!("master-{id}").into())
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
    let others = members.filter(|(id, _)| state.leader.is_some() && *id != status.id);
    others
        .map(|(id, _)| {
            let lag = progress.lag.get(id).copied();
            (
                vec![node(*id)],
                number(lag.unwrap_or(progress.last_log_index)),
            )
        })
        .collect()
}
