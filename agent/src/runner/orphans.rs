//! Remains of earlier runs of the agent: orphans are ended, and the resources of other containers
//! are adopted.
//!
//! No failure stops the agent: it is logged once, shown by a metric, and retried.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argosy_host::crash_point;
use metrics::{counter, gauge};

use super::{Runner, RunnerState, name_of};
use crate::core::ContainerName;
use crate::gc::RemainingOrphans;

/// The time for which the agent waits for the ends of all orphans before it continues its start.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(2);
/// The delay before a retry.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// Names of possible failures, as logs and the metric `argosy_agent_unresolved` show them.
const ORPHANS: &str = "orphans";
const NETWORKS: &str = "networks";

impl Runner {
    /// Returns the orphans that are not removed yet.
    pub(crate) fn orphans(&self) -> RemainingOrphans {
        self.shared.orphans.clone()
    }

    /// Ends containers of earlier runs that the journal does not know, before anything new is
    /// started; returns their number. Directories of ended containers are left to `gc`. An orphan
    /// that does not end is ended in the background, and keeps all of its resources until then.
    ///
    /// # Errors
    /// If the agent's own directory or tree cannot be read.
    pub(crate) fn clear_orphans(&self, known: &[ContainerName]) -> io::Result<usize> {
        let known: BTreeSet<_> = known.iter().copied().collect();
        let found = self.shared.leftovers()?;
        let orphans: Vec<_> = found.difference(&known).copied().collect();
        let alive = self.shared.end_all(&orphans);
        let kept: BTreeSet<_> = known.union(&alive).copied().collect();
        let is_open = self.shared.resume_adopted(&kept);
        let mut left = alive;
        for name in &orphans {
            if !left.contains(name) && !self.shared.clean_up(*name) {
                left.insert(*name);
            }
        }
        crash_point!("begin.orphans-removed");
        let kept: BTreeSet<_> = known.union(&left).copied().collect();
        self.shared.cni.sweep(&kept);
        self.shared.orphans.replace(&left);
        self.spawn(Arc::clone(&self.shared).retry_until_clean(left, is_open));
        self.spawn(Arc::clone(&self.shared).watch_network_rules());
        Ok(orphans.len())
    }
}

impl RunnerState {
    /// Returns the containers with a cgroup, or with a directory that records no end.
    fn leftovers(&self) -> io::Result<BTreeSet<ContainerName>> {
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(self.paths.containers())? {
            let entry = entry?;
            if !entry.path().join("exit.json").exists() {
                found.extend(name_of(&entry.file_name()));
            }
        }
        if let Some(tree) = &self.tree {
            let groups = tree.containers().map_err(io::Error::other)?;
            found.extend(groups.iter().filter_map(|id| name_of(id.as_str().as_ref())));
        }
        Ok(found)
    }

    /// Ends the processes of these containers; returns those that still run.
    fn end_all(&self, orphans: &[ContainerName]) -> BTreeSet<ContainerName> {
        let started_at = Instant::now();
        let mut alive = BTreeSet::new();
        for name in orphans {
            // Each may take a while: the rest is ended in the background when the time is over.
            let ended = match started_at.elapsed() < STARTUP_TIMEOUT {
                true => self.broker.destroy(*name),
                false => Err("other containers took too long".to_owned()),
            };
            if let Err(why) = ended {
                tracing::warn!(container = %name, why, "an orphan does not end yet");
                alive.insert(*name);
            }
        }
        alive
    }

    /// Adopts the resources of these containers, and releases those of others. Returns false if
    /// networks are still to be adopted.
    fn resume_adopted(&self, kept: &BTreeSet<ContainerName>) -> bool {
        let all = || kept.iter().copied().collect();
        if let Err(why) = self.broker.retain_ids(all()) {
            tracing::warn!(why, "host ids stay allocated until the next start");
        }
        if let Err(why) = self.broker.resume_disks() {
            tracing::warn!(why, "file systems of earlier tasks are left unchanged");
        }
        crash_point!("begin.users-kept");
        let resumed = self.broker.resume_networks(all());
        if let Err(why) = &resumed {
            tracing::error!(
                why,
                "networks of earlier containers cannot be adopted; running ones keep theirs, retrying"
            );
        }
        crash_point!("begin.networks-resumed");
        self.cpus.resume(&self.paths, kept);
        if let Err(why) = self.cni.resume(kept) {
            tracing::error!(
                why,
                "CNI networks of earlier containers cannot be read; they are released after the next start"
            );
        }
        resumed.is_ok()
    }

    /// Releases the resources of an orphan whose processes have ended. Returns false if some are
    /// left.
    fn clean_up(&self, name: ContainerName) -> bool {
        match self.remove(name, false) {
            Ok(()) => {
                counter!("argosy_agent_orphans_removed_total").increment(1);
                true
            }
            Err(why) => {
                tracing::warn!(container = %name, why, "an orphan cannot be removed yet");
                false
            }
        }
    }

    /// Retries the failed steps until all succeed.
    async fn retry_until_clean(
        self: Arc<Self>,
        mut left: BTreeSet<ContainerName>,
        mut is_open: bool,
    ) {
        loop {
            set_gauge(ORPHANS, left.len());
            set_gauge(NETWORKS, usize::from(!is_open));
            if left.is_empty() && is_open {
                return;
            }
            tokio::time::sleep(RETRY_DELAY).await;
            let shared = Arc::clone(&self);
            let again = tokio::task::spawn_blocking(move || {
                let gone: Vec<_> = left
                    .extract_if(.., |name| shared.try_remove(*name))
                    .collect();
                (left, gone, shared.broker.retry_networks().is_ok())
            });
            let gone;
            (left, gone, is_open) = again.await.expect("removing containers never panics");
            self.orphans.replace(&left);
            for name in gone {
                // A network that a plugin cannot release now is released after the next start.
                if let Err(why) = self.cni.detach(name).await {
                    tracing::warn!(container = %name, why, "a CNI network cannot be deleted");
                }
            }
        }
    }

    /// Tries once, without a log message for a failure.
    fn try_remove(&self, name: ContainerName) -> bool {
        let is_removed = self.remove(name, false).is_ok();
        if is_removed {
            counter!("argosy_agent_orphans_removed_total").increment(1);
            tracing::info!(container = %name, "an orphan is removed");
        }
        is_removed
    }
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn set_gauge(what: &'static str, count: usize) {
    gauge!("argosy_agent_unresolved", "what" => what).set(count as f64);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::mpsc;

    use super::*;
    use crate::broker_client::BrokerClient;
    use crate::broker_client::request::{BrokerReply, BrokerRequest, OperationResult};
    use crate::config::Config;
    use crate::disk::DiskFloor;
    use crate::gc;
    use crate::host::HostFeatures;
    use crate::inbox::{AgentQuery, Event, QueryHandle};
    use crate::paths::Paths;
    use crate::start;

    /// A broker that ends no container until it may, and records the directories that it removes.
    #[derive(Default)]
    struct TestBroker {
        ends: AtomicBool,
        removed: Mutex<Vec<ContainerName>>,
    }

    impl TestBroker {
        fn perform(&self, request: BrokerRequest) -> OperationResult {
            let ends = self.ends.load(Ordering::Relaxed);
            let reply = match request {
                BrokerRequest::Destroy(_) | BrokerRequest::Release { .. } if !ends => {
                    return Err("it does not end".to_owned());
                }
                BrokerRequest::RemoveContainer(name) => {
                    self.removed.lock().unwrap().push(name);
                    BrokerReply::Done
                }
                BrokerRequest::ListCni => BrokerReply::Containers(Vec::new()),
                _ => BrokerReply::Done,
            };
            Ok((reply, Vec::new()))
        }

        fn removed(&self) -> BTreeSet<ContainerName> {
            self.removed.lock().unwrap().iter().copied().collect()
        }
    }

    /// Answers queries of this many rounds of the garbage collection: the core knows no container.
    async fn rounds(inbox: &mut mpsc::Receiver<Event>, count: usize) {
        let mut left = count;
        while left > 0 {
            if let Some(Event::Query(AgentQuery::Containers(answer))) = inbox.recv().await {
                let _ = answer.send(Vec::new());
                left -= 1;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_directory_of_an_orphan_is_kept_until_the_orphan_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let [orphan, ended]: [ContainerName; 2] = ["1-1-1", "1-2-1"].map(|id| id.parse().unwrap());
        for name in [orphan, ended] {
            std::fs::create_dir_all(paths.container(name)).unwrap();
        }
        std::fs::write(paths.container(ended).join("exit.json"), "{}").unwrap();
        let actions = Arc::new(TestBroker::default());
        let performing = Arc::clone(&actions);
        let broker = BrokerClient::Local(Arc::new(move |request, _| performing.perform(request)));
        let config = Config::new(directory.path().into(), Vec::new(), String::new());
        let (host, (sender, mut inbox)) = (HostFeatures::simulated(), mpsc::channel(64));
        let settings = start::container_settings(&config, &host, 1);
        let (at, by) = (paths.clone(), broker.clone());
        let runner = Runner::new(&config, settings, at, &host, by, sender.clone()).unwrap();
        assert_eq!(runner.clear_orphans(&[]).unwrap(), 1);
        let floor = DiskFloor::new(paths.sandboxes(), None);
        let retention = gc::LogRetention {
            age: config.log_retention,
            bytes: config.log_retention_bytes,
        };
        let limits = (retention, runner.ends());
        let queries = QueryHandle::new(sender);
        let known = (queries, runner.orphans());
        tokio::spawn(gc::run((paths, broker), known, 0, floor, limits));
        // The first round is complete when the second one begins.
        rounds(&mut inbox, 2).await;
        assert_eq!(actions.removed(), [ended].into());
        actions.ends.store(true, Ordering::Relaxed);
        rounds(&mut inbox, 3).await;
        assert_eq!(actions.removed(), [orphan, ended].into());
    }
}
