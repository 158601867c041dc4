//! What earlier lives of the agent left: containers that no journal knows are ended, and what the others have is taken
//! up again.
//!
//! Nothing of it keeps the agent from its work: what fails is logged once, shown by a metric, and tried again.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argosy_isolation::crash_points;
use metrics::{counter, gauge};

use super::{Runner, Shared, name_of};
use crate::core::ContainerName;

/// How long all orphans together may take to end before the agent starts beside them.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before what failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Names of what can fail, as logs and the metric `argosy_agent_unresolved` show them.
const ORPHANS: &str = "orphans";
const NETWORKS: &str = "networks";

impl Runner {
    /// Ends what earlier lives left and the journal does not know, before anything new is started; returns how many
    /// there were. Folders of containers that had ended are left to `gc`. An orphan that does not end is ended in the
    /// background, and keeps all that it has until then.
    ///
    /// # Errors
    /// If the agent's own folder or tree cannot be read.
    pub(crate) fn clear_orphans(&self, known: &[ContainerName]) -> io::Result<usize> {
        let known: BTreeSet<_> = known.iter().copied().collect();
        let found = self.shared.found()?;
        let orphans: Vec<_> = found.difference(&known).copied().collect();
        let alive = self.shared.end_all(&orphans);
        let kept: BTreeSet<_> = known.union(&alive).copied().collect();
        let is_open = self.shared.take_up(&kept);
        let mut left = alive;
        for name in &orphans {
            if !left.contains(name) && !self.shared.cleared(*name) {
                left.insert(*name);
            }
        }
        crash_points::passed("begin.orphans-removed");
        let kept: BTreeSet<_> = known.union(&left).copied().collect();
        self.shared.plugged.sweep(&kept);
        self.spawn(Arc::clone(&self.shared).settle(left, is_open));
        Ok(orphans.len())
    }
}

impl Shared {
    /// The containers that have a folder without an end, or a group.
    fn found(&self) -> io::Result<BTreeSet<ContainerName>> {
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

    /// Ends the processes of these containers; returns those that still live.
    fn end_all(&self, orphans: &[ContainerName]) -> BTreeSet<ContainerName> {
        let begun = Instant::now();
        let mut alive = BTreeSet::new();
        for name in orphans {
            // Each may take a while: those for which there is no time left are ended in the background.
            let ended = match begun.elapsed() < PATIENCE {
                true => self.broker.destroy(*name),
                false => Err("others took too long".to_owned()),
            };
            if let Err(why) = ended {
                tracing::warn!(container = %name, why, "a container that no journal knows does not end yet");
                alive.insert(*name);
            }
        }
        alive
    }

    /// Takes up what these containers have, and gives back what others had. False if networks are left to be taken up.
    fn take_up(&self, kept: &BTreeSet<ContainerName>) -> bool {
        let all = || kept.iter().copied().collect();
        if let Err(why) = self.broker.keep_users(all()) {
            tracing::warn!(why, "users of the host stay taken until the next start");
        }
        if let Err(why) = self.broker.resume_disks() {
            tracing::warn!(why, "file systems of earlier tasks stay as they are");
        }
        crash_points::passed("begin.users-kept");
        let resumed = self.broker.resume_networks(all());
        if let Err(why) = &resumed {
            tracing::error!(
                why,
                "networks of earlier containers cannot be taken up; those that run keep theirs, and it is tried again"
            );
        }
        crash_points::passed("begin.networks-resumed");
        self.cores.resume(&self.paths, kept);
        if let Err(why) = self.plugged.resume(kept) {
            tracing::error!(
                why,
                "what CNI plugins gave is not known; they take it back after the next start"
            );
        }
        resumed.is_ok()
    }

    /// Gives back what an orphan had, whose processes have ended. False if something of it is left.
    fn cleared(&self, name: ContainerName) -> bool {
        match self.remove(name, false) {
            Ok(()) => {
                counter!("argosy_agent_orphans_removed_total").increment(1);
                true
            }
            Err(why) => {
                tracing::warn!(container = %name, why, "a container that no journal knows cannot be removed yet");
                false
            }
        }
    }

    /// Tries again what has failed, until nothing is left to be done.
    async fn settle(self: Arc<Self>, mut left: BTreeSet<ContainerName>, mut is_open: bool) {
        loop {
            show(ORPHANS, left.len());
            show(NETWORKS, usize::from(!is_open));
            if left.is_empty() && is_open {
                return;
            }
            tokio::time::sleep(TRY_AGAIN).await;
            let shared = Arc::clone(&self);
            let again = tokio::task::spawn_blocking(move || {
                let gone: Vec<_> = left
                    .extract_if(.., |name| shared.is_removed(*name))
                    .collect();
                (left, gone, shared.broker.retry_networks().is_ok())
            });
            let gone;
            (left, gone, is_open) = again.await.expect("removing containers never panics");
            for name in gone {
                // What a plugin cannot take back now it is told to after the next start.
                if let Err(why) = self.plugged.unplug(name).await {
                    tracing::warn!(container = %name, why, "a CNI network cannot be deleted");
                }
            }
        }
    }

    /// Tries once, without a word if it fails.
    fn is_removed(&self, name: ContainerName) -> bool {
        let is_removed = self.remove(name, false).is_ok();
        if is_removed {
            counter!("argosy_agent_orphans_removed_total").increment(1);
            tracing::info!(container = %name, "a container that no journal knows is removed");
        }
        is_removed
    }
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn show(what: &'static str, count: usize) {
    gauge!("argosy_agent_unresolved", "what" => what).set(count as f64);
}
