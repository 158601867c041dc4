//! The disk usage of tasks, and its limits.
//!
//! The kernel enforces the limits if the operator enables that (`quota`); otherwise usage is
//! measured each second. A single thread scans the directories of all tasks. The number of entries
//! that it visits in a second is bounded (`schedule`), however many files tasks create; it follows
//! no link and crosses no mount (`scan`). At intervals it also counts open files that are unlinked
//! (`unlinked`). While the disk is almost full (`floor`), tasks are evicted (`eviction`).

mod eviction;
mod floor;
mod pass;
mod quota;
mod scan;
mod schedule;
mod unlinked;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argosy_state::ids::TaskKey;
use argosy_state::task::{Code, Explanation};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::broker_client::BrokerClient;
use crate::core::{ContainerName, Input, Instance};
use crate::inbox::Event;
use eviction::Evictions;
pub(crate) use floor::{DiskFloor, DiskSpace};
pub(crate) use quota::{DiskLimits, check, check_usage, enforced_bytes, release, scope, usage};
pub(crate) use scan::Scan;
use schedule::ScanSchedule;

/// The interval of measurements.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);

/// A task whose disk usage is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MeasuredTask {
    /// The directories with its files.
    pub(crate) directories: Vec<PathBuf>,
    /// The container whose processes are scanned, too.
    pub(crate) processes: Option<ContainerName>,
    /// The limit in bytes; [`u64::MAX`] for no limit.
    pub(crate) limit_bytes: u64,
    /// The requested amount in bytes: a task within its request is never evicted.
    pub(crate) requested_bytes: u64,
    /// Whether one of the directories is its group's, and may grow after the task has ended.
    pub(crate) leads_group: bool,
}

/// A task whose disk usage is measured unless the kernel limits it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MeasureRequest {
    pub(crate) key: TaskKey,
    pub(crate) name: ContainerName,
    /// Maximum size of its stored output.
    pub(crate) output_bytes: u64,
    /// The measured task, without the changes of its image.
    pub(crate) task: MeasuredTask,
}

impl MeasureRequest {
    /// Returns `None` if the task cannot exceed its limit. Blocks.
    fn resolve(self, broker: &BrokerClient) -> Option<MeasuredTask> {
        let Self {
            key,
            name,
            output_bytes,
            mut task,
        } = self;
        let scope = broker.quota_scope(&key, name);
        match scope.and_then(|scope| Ok((scope, broker.changes(name)?))) {
            Ok((scope, changes)) => {
                let limit_bytes = task.limit_bytes;
                task.limit_bytes = scope.measured_above(limit_bytes, output_bytes)?;
                // After its sandbox, before the directory of its group.
                task.directories.insert(1, changes);
                Some(task)
            }
            Err(why) => {
                tracing::warn!(container = %name, why, "the disk of a task is not measured");
                None
            }
        }
    }
}

/// The disk usage of a task, and its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TaskDiskUsage {
    instance: Instance,
    used_bytes: u64,
    requested_bytes: u64,
}

/// An excess of a task over its disk limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskExcess {
    pub(crate) instance: Instance,
    /// The bytes that were found until they exceeded the limit.
    pub(crate) found_bytes: u64,
    pub(crate) limit_bytes: u64,
    /// The requested amount of its task.
    pub(crate) requested_bytes: u64,
    /// Whether its directories are nested too deeply to be measured: that counts as an excess.
    pub(crate) is_too_deep: bool,
}

impl DiskExcess {
    /// Returns the bytes by which its task exceeds its request at least.
    fn above_request(&self) -> u64 {
        self.found_bytes.saturating_sub(self.requested_bytes)
    }

    fn explanation(&self) -> Explanation {
        let [found, limit] = [self.found_bytes, self.limit_bytes].map(mebibytes);
        match self.is_too_deep {
            true => Explanation::of(Code::DirectoriesTooDeep, &[&scan::MAX_DEPTH, &limit]),
            false => Explanation::of(Code::DiskExceeded, &[&found, &limit]),
        }
    }
}

/// Formats mebibytes with at most one decimal, rounded up: an excess never looks like the limit.
fn mebibytes(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10).div_ceil(1 << 20);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => whole.to_string(),
        (whole, tenth) => format!("{whole}.{tenth}"),
    }
}

/// The tasks to be measured. Cheap to clone; all clones share one list.
#[derive(Debug, Clone, Default)]
pub(crate) struct DiskMeter(Arc<Mutex<Vec<MeterChange>>>);

/// A change for the next round. Their number is bounded by that of containers that start and end in
/// a second.
#[derive(Debug)]
enum MeterChange {
    Begin(Box<MeasureRequest>),
    End(Instance),
    EndGroup(Instance),
}

impl MeterChange {
    fn apply(
        self,
        rounds: &mut ScanSchedule,
        seen: impl FnOnce(MeasureRequest) -> Option<MeasuredTask>,
    ) {
        match self {
            Self::Begin(wanted) => {
                let instance = wanted.name.instance;
                match seen(*wanted) {
                    Some(measured) => rounds.begin(instance, measured),
                    // It may have been measured while its files were fetched.
                    None => rounds.end(instance),
                }
            }
            Self::End(instance) if rounds.leads_group(instance) => {}
            Self::End(instance) | Self::EndGroup(instance) => rounds.end(instance),
        }
    }
}

impl DiskMeter {
    /// Begins a measurement in the next round.
    pub(crate) fn begin(&self, wanted: MeasureRequest) {
        self.push(MeterChange::Begin(Box::new(wanted)));
    }

    /// Ends a measurement. The first task of a group continues. It is no error if it was never
    /// begun.
    pub(crate) fn end(&self, instance: Instance) {
        self.push(MeterChange::End(instance));
    }

    /// Ends the measurement of the first task of a group that is removed.
    pub(crate) fn end_group(&self, first: Instance) {
        self.push(MeterChange::EndGroup(first));
    }

    fn push(&self, change: MeterChange) {
        // A lock, since the loop adds and another thread takes; each holds it for one line.
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.push(change);
    }

    fn take(&self) -> Vec<MeterChange> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Measures until the agent stops, and evicts below the floor. Results wait while the agent's
    /// loop is busy.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub(crate) async fn run(
        self,
        broker: BrokerClient,
        inbox: mpsc::Sender<Event>,
        floor: DiskFloor,
    ) {
        let mut rounds = ScanSchedule::of(broker.clone());
        let mut evictions = Evictions::new(floor);
        let mut interval = tokio::time::interval(ROUND_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let changes = self.take();
            if rounds.is_empty() && changes.is_empty() {
                continue;
            }
            let broker = broker.clone();
            let round = tokio::task::spawn_blocking(move || {
                for change in changes {
                    change.apply(&mut rounds, |wanted| wanted.resolve(&broker));
                }
                let found = rounds.round();
                let used_bytes = rounds.used_bytes() as f64;
                metrics::gauge!("argosy_agent_sandbox_bytes").set(used_bytes);
                let evicted = evictions.next(&mut rounds, &found);
                let found = found.into_iter().map(|excess| {
                    metrics::counter!("argosy_agent_disk_kills_total").increment(1);
                    (excess.instance, excess.explanation())
                });
                let mut ends: Vec<_> = found.collect();
                ends.extend(evicted);
                (rounds, evictions, ends)
            });
            let ends;
            (rounds, evictions, ends) = round.await.expect("measuring never panics");
            for (instance, why) in ends {
                let input = Input::DiskLimitExceeded { instance, why };
                if inbox.send(Event::Core(input)).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::{AgentId, OrderIndex};

    use super::*;

    #[test]
    fn the_first_group_task_is_measured_until_the_group_is_removed() {
        let [alone, first] = [1, 2].map(|order| Instance {
            agent: AgentId(1),
            order: OrderIndex(order),
        });
        let mut rounds = ScanSchedule::in_process();
        for (instance, leads_group) in [(alone, false), (first, true)] {
            let task = MeasuredTask {
                directories: Vec::new(),
                processes: None,
                limit_bytes: 1,
                requested_bytes: 1,
                leads_group,
            };
            let wanted = MeasureRequest {
                key: crate::core::task_key("framework-1", "web").unwrap(),
                name: ContainerName { instance, run: 1 },
                output_bytes: 0,
                task,
            };
            let begin = MeterChange::Begin(Box::new(wanted));
            begin.apply(&mut rounds, |wanted| Some(wanted.task));
        }
        MeterChange::End(alone).apply(&mut rounds, |_| None);
        MeterChange::End(first).apply(&mut rounds, |_| None);
        assert!(rounds.leads_group(first));
        MeterChange::EndGroup(first).apply(&mut rounds, |_| None);
        assert!(rounds.is_empty());
    }

    #[test]
    fn a_disk_excess_is_explained_with_limit_and_usage() {
        let instance = Instance {
            agent: AgentId(1),
            order: OrderIndex(1),
        };
        let excess = DiskExcess {
            instance,
            found_bytes: (64 << 20) + 1,
            limit_bytes: 64 << 20,
            requested_bytes: 0,
            is_too_deep: false,
        };
        assert_eq!(
            excess.explanation().to_string(),
            "out of disk: used 64.1 MiB of 64 MiB; ask for more disk, or write less"
        );
        let deep = DiskExcess {
            is_too_deep: true,
            ..excess
        };
        let deep = deep.explanation().to_string();
        assert!(deep.contains("more than 256 deep"), "{deep}");
    }
}
