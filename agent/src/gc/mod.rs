//! Garbage collection of sandboxes, group directories, state directories and images.
//!
//! Sandboxes of ended tasks and the directories of their groups are removed after an hour, and all
//! but the newest thousand; the output of the tasks is kept longer (`logs`). While less of the
//! disk is free than the headroom, each round removes the oldest sandbox and the oldest output.
//! Below the disk's floor it removes all of them. State directories are removed with their
//! containers, and unused images while the disk is too full.
//!
//! Follows no link and crosses no mount. Directories are removed in rounds, apart from launches:
//! some file systems create files slowly next to ones just deleted.

mod logs;
mod orphans;
mod removal;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use argosy_host::process::boot_id;
use argosy_host::{BootTime, crash_point};
use tokio::sync::Notify;

use crate::broker_client::BrokerClient;
use crate::core::ContainerName;
use crate::disk::{DiskFloor, DiskSpace};
use crate::inbox::QueryHandle;
use crate::paths::{Paths, all_container_directories, container_directories};
use argosy_content::images::ImageManager;
use logs::KeptLogs;
pub(crate) use logs::{LogRetention, max_kept_bytes, reduce};
pub(crate) use orphans::RemainingOrphans;
pub(crate) use removal::remove;

/// Retention time of a sandbox after the end of its task.
const RETENTION: Duration = Duration::from_secs(3_600);
/// Maximum number of retained sandboxes of ended tasks.
const MAX_RETAINED: usize = 1_000;
/// The interval of rounds, unless many containers end.
const INTERVAL: Duration = Duration::from_secs(30);
/// A round starts immediately after this many containers have ended.
const MANY_ENDED: usize = MAX_RETAINED;
/// Maximum number of sandboxes in a request to the broker, whose messages have a maximum length.
const MAX_PER_REQUEST: usize = 500;

/// The count of containers that end between two rounds. Cheap to clone; all clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndedContainers(Arc<(AtomicUsize, Notify)>);

impl EndedContainers {
    /// Counts one container.
    pub(crate) fn count(&self) {
        let (count, many) = &*self.0;
        if count.fetch_add(1, Ordering::Relaxed) + 1 == MANY_ENDED {
            many.notify_one();
        }
    }

    /// Returns as soon as many containers have ended.
    async fn wait_for_many(&self) {
        self.0.1.notified().await;
    }

    fn reset(&self) {
        self.0.0.store(0, Ordering::Relaxed);
    }
}

/// The free space on the disk, compared with its thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DiskPressure {
    None,
    /// Less is free than the headroom.
    Low,
    /// Less is free than the floor: tasks are evicted.
    Critical,
}

/// The known ended sandboxes. Their ages restart with each start of the agent.
#[derive(Debug, Default)]
struct SandboxCollector {
    ended: BTreeMap<PathBuf, Instant>,
}

impl SandboxCollector {
    /// Returns those of `present` that are to be removed now. `live` are the tasks that have not
    /// ended, and their groups: a group keeps the sandbox of its first task, too, as its directory
    /// counts toward that task's disk usage. Without enough space the oldest is removed, or all;
    /// but none that has ended since the last round: its output may still be in use.
    fn select(
        &mut self,
        now: Instant,
        room: DiskPressure,
        present: Vec<(ContainerName, PathBuf)>,
        live: &BTreeSet<ContainerName>,
    ) -> Vec<PathBuf> {
        let is_live = |name: &ContainerName| {
            // The group of which it is the first task.
            let group = ContainerName { run: 0, ..*name };
            live.contains(name) || live.contains(&group)
        };
        let past: Vec<_> = present
            .into_iter()
            .filter(|(name, _)| !is_live(name))
            .collect();
        let former = std::mem::take(&mut self.ended);
        let mut aged: Vec<_> = past
            .into_iter()
            .map(|(name, path)| (former.get(&path).copied().unwrap_or(now), name, path))
            .collect();
        aged.sort_by(|a, b| b.cmp(a));
        // Rounds may be more frequent while many containers end.
        let has_been_there = |since: Instant| now.duration_since(since) >= INTERVAL / 2;
        let oldest = match room {
            DiskPressure::None | DiskPressure::Critical => None,
            DiskPressure::Low => aged.last().filter(|(since, ..)| has_been_there(*since)),
        };
        let oldest = oldest.map(|(_, _, path)| path.clone());
        let is_critical = room == DiskPressure::Critical;
        let mut leaving = Vec::new();
        for (at, (since, _, path)) in aged.into_iter().enumerate() {
            let is_oldest = oldest.as_ref() == Some(&path);
            let is_unaffordable = is_critical && has_been_there(since);
            if at >= MAX_RETAINED
                || now.duration_since(since) >= RETENTION
                || is_oldest
                || is_unaffordable
            {
                leaving.push(path.clone());
            }
            self.ended.insert(path, since);
        }
        leaving
    }
}

/// Runs until the agent stops. Sandboxes are removed for lack of space when less of the disk is
/// free than `headroom_percent` or the floor.
pub(crate) async fn run(
    (paths, broker): (Paths, BrokerClient),
    (asker, orphans): (QueryHandle, RemainingOrphans),
    headroom_percent: u64,
    floor: DiskFloor,
    (retention, ends): (LogRetention, EndedContainers),
) {
    let mut collector = SandboxCollector::default();
    let mut kept = KeptLogs::default();
    let mut turn = tokio::time::interval(INTERVAL);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = turn.tick() => {}
            () = ends.wait_for_many() => {}
        }
        ends.reset();
        // The list is made before the query for live tasks, so it contains no later sandboxes.
        let (listed, floor) = (paths.clone(), floor.clone());
        let list = move || {
            let room = measure_pressure(&floor, headroom_percent);
            let mut present = all_container_directories(&listed.sandboxes());
            let boot = boot_id().ok();
            present = kept.split(present, |path| logs::read_mark(path, boot.as_deref()?));
            // A group's directory is removed like the sandbox of its last task.
            present.extend(all_container_directories(&listed.groups()));
            let directories = container_directories(&listed.containers());
            (present, kept, directories, room)
        };
        let listing = tokio::task::spawn_blocking(list).await;
        let (present, directories, room);
        (present, kept, directories, room) = listing.expect("listing never panics");
        let Some(containers) = asker.containers().await else {
            return;
        };
        // Without its directory, an orphan that still runs could never be ended.
        let mut known = orphans.names();
        known.extend(containers.iter().map(|view| view.name));
        let live = containers.iter().filter(|view| view.state != "ended");
        let live = live.flat_map(|view| [Some(view.name), view.group]);
        let live = live.flatten().collect();
        let listed = present.len();
        let leaving = collector.select(Instant::now(), room, present, &live);
        count_sandboxes(listed, leaving.len());
        let is_sandbox = |path: &PathBuf| path.starts_with(paths.sandboxes());
        let keeps_logs = retention.is_on() && room != DiskPressure::Critical;
        let (reduced, mut removed): (Vec<_>, Vec<_>) = leaving
            .into_iter()
            .partition(|path| keeps_logs && is_sandbox(path));
        removed.extend(leaving_logs(&kept, room, retention));
        let broker = broker.clone();
        let removing = move || {
            end_sandboxes(&broker, &removed, &reduced);
            for (name, _) in directories.iter().filter(|(name, _)| !known.contains(name)) {
                // Retried in the next round.
                let _ = broker.remove_container(*name);
                crash_point!("gc.directory-removed");
            }
        };
        let removed = tokio::task::spawn_blocking(removing).await;
        removed.expect("removing never panics");
    }
}

/// Removes sandboxes, and reduces others to the output of their tasks. A failed request does not
/// prevent the next one.
fn end_sandboxes(broker: &BrokerClient, removed: &[PathBuf], reduced: &[PathBuf]) {
    for some in removed.chunks(MAX_PER_REQUEST) {
        if let Err(why) = broker.end_sandboxes(some.to_vec(), false) {
            tracing::warn!(why, "sandboxes cannot be removed");
        }
    }
    for some in reduced.chunks(MAX_PER_REQUEST) {
        if let Err(why) = broker.end_sandboxes(some.to_vec(), true) {
            tracing::warn!(
                why,
                "sandboxes cannot be reduced to the output of their tasks"
            );
        }
    }
}

/// Records the result of a round. The directories of groups count as sandboxes.
#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn count_sandboxes(listed: usize, leaving: usize) {
    metrics::counter!("argosy_agent_sandboxes_removed_total").increment(leaving as u64);
    metrics::gauge!("argosy_agent_sandboxes").set(listed.saturating_sub(leaving) as f64);
}

/// Returns the output that is removed now: what exceeds its bounds, and the oldest one or all of it
/// for lack of space.
fn leaving_logs(kept: &KeptLogs, room: DiskPressure, retention: LogRetention) -> Vec<PathBuf> {
    let mut leaving = match room {
        DiskPressure::Critical => return kept.all(),
        DiskPressure::Low | DiskPressure::None => kept.select(BootTime::now(), retention),
    };
    if room == DiskPressure::Low && leaving.is_empty() {
        leaving.extend(kept.oldest());
    }
    leaving
}

/// Returns the free space. If it cannot be read, nothing is removed for lack of space.
fn measure_pressure(floor: &DiskFloor, headroom_percent: u64) -> DiskPressure {
    match floor.level() {
        Ok(level) => disk_pressure(level, headroom_percent),
        Err(error) => {
            tracing::warn!(why = %error, "free space cannot be read: no sandbox is removed for lack of it");
            DiskPressure::None
        }
    }
}

fn disk_pressure(level: DiskSpace, headroom_percent: u64) -> DiskPressure {
    let wanted = u128::from(level.total_bytes) * u128::from(headroom_percent.min(100));
    if level.is_below() {
        DiskPressure::Critical
    } else if u128::from(level.free_bytes) * 100 < wanted {
        DiskPressure::Low
    } else {
        DiskPressure::None
    }
}

/// Collects unused images until the agent stops.
pub(crate) async fn collect_images(images: Arc<ImageManager>, queries: QueryHandle) {
    let mut turn = tokio::time::interval(INTERVAL);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        let living = async {
            let containers = queries.containers().await?;
            Some(
                containers
                    .iter()
                    .map(|view| view.name.to_string())
                    .collect(),
            )
        };
        match images.collect_garbage(living).await {
            Ok(Some((0, 0))) => {}
            Ok(Some((images, layers))) => {
                tracing::info!(images, layers, "unused images were removed");
            }
            Ok(None) => return,
            Err(error) => {
                let why = crate::error::error_chain(&error);
                tracing::warn!(why, "unused images cannot be removed; retrying later");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use argosy_state::ids::{AgentId, FrameworkId, GroupId, OrderIndex};

    use super::*;
    use crate::broker_client::request::{BrokerReply, BrokerRequest, OperationResult};
    use crate::core::Instance;

    fn name(order: u64) -> ContainerName {
        let instance = Instance {
            agent: AgentId(1),
            order: OrderIndex(order),
        };
        ContainerName { instance, run: 1 }
    }

    fn present(count: u64) -> Vec<(ContainerName, PathBuf)> {
        (1..=count)
            .map(|order| (name(order), PathBuf::from(format!("/s/{order}"))))
            .collect()
    }

    #[test]
    fn ended_sandboxes_are_retained_for_an_hour() {
        let mut collector = SandboxCollector::default();
        let start = Instant::now();
        let live = BTreeSet::from([name(2)]);
        let mut select = |at, room| collector.select(at, room, present(2), &live);
        assert!(select(start, DiskPressure::None).is_empty());
        assert!(select(start + RETENTION / 2, DiskPressure::None).is_empty());
        let leaving = select(start + RETENTION, DiskPressure::None);
        assert_eq!(leaving, [PathBuf::from("/s/1")]);
    }

    #[test]
    fn the_first_sandbox_of_a_running_group_is_retained() {
        let mut collector = SandboxCollector::default();
        let start = Instant::now();
        let group = ContainerName { run: 0, ..name(2) };
        let mut select = |at, live: &[ContainerName]| {
            let live = live.iter().copied().collect();
            collector.select(at, DiskPressure::None, present(2), &live)
        };
        assert!(select(start, &[group]).is_empty());
        assert_eq!(select(start + RETENTION, &[group]), [PathBuf::from("/s/1")]);
        // Its hour begins when the last of them has ended.
        assert!(select(start + RETENTION, &[]).contains(&PathBuf::from("/s/1")));
        let leaving = select(start + RETENTION * 2, &[]);
        assert!(leaving.contains(&PathBuf::from("/s/2")), "{leaving:?}");
    }

    #[test]
    fn above_the_maximum_the_oldest_sandboxes_are_removed() {
        let mut collector = SandboxCollector::default();
        let (now, none) = (Instant::now(), BTreeSet::new());
        let mut leaving = collector.select(now, DiskPressure::None, present(1_002), &none);
        leaving.sort();
        assert_eq!(leaving, [PathBuf::from("/s/1"), PathBuf::from("/s/2")]);
    }

    #[test]
    fn a_full_disk_removes_the_oldest_sandbox_per_round_and_no_recent_one() {
        let mut collector = SandboxCollector::default();
        let (start, live) = (Instant::now(), BTreeSet::from([name(1)]));
        let mut round = |number: u32, room, there: &[u64]| {
            let there = there
                .iter()
                .map(|order| (name(*order), PathBuf::from(format!("/s/{order}"))));
            collector.select(start + INTERVAL * number, room, there.collect(), &live)
        };
        assert!(round(0, DiskPressure::Low, &[1, 2, 3]).is_empty());
        assert!(round(1, DiskPressure::None, &[1, 2, 3, 4]).is_empty());
        assert_eq!(
            round(2, DiskPressure::Low, &[1, 2, 3, 4]),
            [PathBuf::from("/s/2")]
        );
        assert_eq!(
            round(3, DiskPressure::Low, &[1, 3, 4]),
            [PathBuf::from("/s/3")]
        );
        assert_eq!(
            round(4, DiskPressure::Low, &[1, 4]),
            [PathBuf::from("/s/4")]
        );
        assert!(round(5, DiskPressure::Low, &[1]).is_empty(), "it lives");
    }

    #[test]
    fn below_the_floor_all_earlier_ended_sandboxes_are_removed() {
        let mut collector = SandboxCollector::default();
        let (start, live) = (Instant::now(), BTreeSet::from([name(1)]));
        let mut round = |number: u32, room, count| {
            let mut leaving =
                collector.select(start + INTERVAL * number, room, present(count), &live);
            leaving.sort();
            leaving
        };
        assert!(round(0, DiskPressure::Critical, 3).is_empty());
        let [second, third] = [2, 3].map(|order| PathBuf::from(format!("/s/{order}")));
        assert_eq!(round(1, DiskPressure::Critical, 4), [second, third]);
    }

    #[test]
    fn disk_pressure_starts_below_headroom_and_is_critical_below_the_floor() {
        let pressure = |free_bytes, total_bytes, percent| {
            let level = DiskSpace {
                free_bytes,
                total_bytes,
                floor_bytes: 50,
            };
            disk_pressure(level, percent)
        };
        assert_eq!(pressure(100, 1_000, 10), DiskPressure::None);
        assert_eq!(pressure(99, 1_000, 10), DiskPressure::Low);
        assert_eq!(pressure(50, 1_000, 0), DiskPressure::None);
        assert_eq!(pressure(49, 1_000, 0), DiskPressure::Critical);
        assert_eq!(pressure(u64::MAX, u64::MAX, 1_000), DiskPressure::None);
        let directory = tempfile::tempdir().unwrap();
        let floor = |path: &Path, bytes| DiskFloor::new(path.to_owned(), Some(bytes));
        assert_eq!(
            measure_pressure(&floor(directory.path(), 0), 0),
            DiskPressure::None
        );
        assert_eq!(
            measure_pressure(&floor(directory.path(), 0), 100),
            DiskPressure::Low,
            "something is on it"
        );
        assert_eq!(
            measure_pressure(&floor(directory.path(), u64::MAX), 0),
            DiskPressure::Critical,
            "no disk has so much"
        );
        let gone = floor(&directory.path().join("gone"), u64::MAX);
        assert_eq!(measure_pressure(&gone, 100), DiskPressure::None);
    }

    #[test]
    fn group_directories_are_listed_like_sandboxes() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let (framework, id) = (FrameworkId(1), GroupId::new("pod").unwrap());
        let name: ContainerName = "1-5-0".parse().unwrap();
        let group = paths.group(framework, &id, name);
        fs::create_dir_all(&group).unwrap();
        assert_eq!(
            all_container_directories(&paths.groups()),
            [(name, group.clone())]
        );
        remove(&paths, vec![group]);
        assert!(!paths.groups().join("framework-1").exists());
    }

    #[test]
    fn many_sandboxes_are_sent_in_several_requests_and_a_failed_one_stops_no_other() {
        let (send, sent) = std::sync::mpsc::channel();
        let perform = move |request: BrokerRequest, _: Vec<OwnedFd>| -> OperationResult {
            let (kind, paths) = match request {
                BrokerRequest::RemoveSandboxes(paths) => ("remove", paths),
                BrokerRequest::ReduceSandboxes(paths) => ("reduce", paths),
                other => panic!("unexpected: {other:?}"),
            };
            let is_first = paths[0] == Path::new("/s/1");
            send.send((kind, paths.len())).unwrap();
            match is_first {
                true => Err("refused".to_owned()),
                false => Ok((BrokerReply::Done, Vec::new())),
            }
        };
        let broker = BrokerClient::Local(Arc::new(perform));
        let paths = |count| -> Vec<PathBuf> {
            let all = present(count).into_iter();
            all.map(|(_, path)| path).collect()
        };
        end_sandboxes(&broker, &paths(1_001), &paths(501));
        end_sandboxes(&broker, &[], &[]);
        let sent: Vec<_> = sent.try_iter().collect();
        let expected = [
            ("remove", 500),
            ("remove", 500),
            ("remove", 1),
            ("reduce", 500),
            ("reduce", 1),
        ];
        assert_eq!(sent, expected);
    }

    #[tokio::test]
    async fn a_round_starts_immediately_after_many_ends() {
        let ends = EndedContainers::default();
        let many = ends.wait_for_many();
        tokio::pin!(many);
        (1..MANY_ENDED).for_each(|_| ends.count());
        assert!(futures::poll!(&mut many).is_pending());
        ends.count();
        many.await;
        ends.reset();
        (0..MANY_ENDED).for_each(|_| ends.count());
        ends.wait_for_many().await;
    }
}
