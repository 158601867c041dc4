//! Operations on one container: fetch its files, launch or adopt it, remove it.
//!
//! All but the first are blocking.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use argosy_host::{BootTime, ContainerId, crash_point};
use argosy_isolation::disk::DiskUsage;
use argosy_isolation::{Cgroup, ContainerUser, Isolation, LaunchDescriptors};
use argosy_proto::{trace, v1};
use argosy_state::ids::TaskKey;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::description::{LaunchParts, PreparedLaunch};
use super::fetching::FetchHandle;
use super::handles::ContainerControl;
use super::launch_failures::{self, LaunchStep};
use super::requests::ContainerStart;
use super::starting::start_cancelled;
use super::{
    ADOPTION_TRIES, RETRY_DELAY, RunnerState, container_task, description, host_ids, networks,
};
use crate::broker_client::AdoptedContainer;
use crate::core::{ContainerName, CreateError, RecoveredContainer};
use crate::disk;
use argosy_content::fetcher::{FetchContext, FetchProgress};

impl RunnerState {
    /// Pulls the image of a task and fetches its files, and counts a failure.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        start: &ContainerStart,
        meter: &watch::Sender<FetchProgress>,
        fetch: &FetchHandle,
    ) -> Result<(), CreateError> {
        let started_at = Instant::now();
        let result = self.fetch_all(start, meter, fetch).await;
        metrics::histogram!("argosy_agent_launch_duration_seconds", "step" => "fetch")
            .record(started_at.elapsed().as_secs_f64());
        result.inspect_err(|refusal| {
            if !fetch.is_cancelled() {
                launch_failures::count(LaunchStep::Fetch, refusal);
            }
        })
    }

    async fn fetch_all(
        self: &Arc<Self>,
        start: &ContainerStart,
        meter: &watch::Sender<FetchProgress>,
        fetch: &FetchHandle,
    ) -> Result<(), CreateError> {
        let sandbox = self.paths.sandbox(&start.key, start.name);
        let spec = start.launch.spec.clone().unwrap_or_default();
        let user = self.user(&spec).await?;
        let (shared, holder) = (self.clone(), start.resource_owner());
        let (key, name) = (start.key.clone(), start.name);
        let making = fetch.run_step(&self.slots, move || {
            let owner = shared.owner(holder, user.as_ref())?;
            crash_point!("fetch.users-taken");
            shared.broker.make_sandbox(&key, name, owner.as_ref())?;
            crash_point!("fetch.sandbox-made");
            Ok(owner)
        });
        let owner = making.await?;
        if let Some(bytes) = disk::enforced_bytes(self.enforcement, &spec) {
            self.limit_disk(start, owner.as_ref(), bytes, fetch).await?;
        }
        crash_point!("fetch.disk-bounded");
        let framework = start.key.framework;
        let pulling = self.images.pull(&spec, framework, start.name, meter);
        pulling.await.map_err(CreateError::fetch)?;
        let context = FetchContext {
            framework,
            owner: owner.as_ref(),
            reach: networks::server_access(start),
        };
        let fetching = self.fetcher.fetch_all(&spec.uris, &sandbox, context, meter);
        let result = fetching.await;
        crash_point!("fetch.fetched");
        let usage = match disk::enforced_bytes(self.enforcement, &spec) {
            Some(_) => self.disk_usage(&start.key, start.name).await,
            None => None,
        };
        result.map_err(|error| CreateError::fetch(error.explanation()))?;
        disk::check_usage(usage).map_err(CreateError::fetch)
    }

    /// Looks up the user that a task names.
    async fn user(&self, spec: &v1::TaskSpec) -> Result<Option<ContainerUser>, CreateError> {
        let (task, isolation) = (spec.clone(), self.settings.isolation);
        let look_up = move || description::user(&task, isolation);
        match description::names_host_user(spec) {
            false => look_up(),
            // Tasks without users do not wait for these lookups.
            true => run_in_slot(&self.user_slots, look_up).await,
        }
    }

    /// Looks up the user of a start that is not prepared.
    pub(super) async fn start_user(
        &self,
        start: &ContainerStart,
    ) -> Result<Option<ContainerUser>, CreateError> {
        match &start.launch.spec {
            Some(spec) => self.user(spec).await,
            // It is refused when it is prepared.
            None => Ok(None),
        }
    }

    /// Returns the task's usage of a disk with quotas.
    async fn disk_usage(self: &Arc<Self>, key: &TaskKey, name: ContainerName) -> Option<DiskUsage> {
        let (shared, key) = (self.clone(), key.clone());
        run_in_slot(&self.slots, move || shared.broker.disk_usage(&key, name)).await
    }

    /// Sets the task's disk limit in the kernel, as a step of its fetch.
    async fn limit_disk(
        self: &Arc<Self>,
        start: &ContainerStart,
        owner: Option<&ContainerUser>,
        bytes: u64,
        fetch: &FetchHandle,
    ) -> Result<(), CreateError> {
        let (shared, owner) = (self.clone(), owner.cloned());
        let (key, name) = (start.key.clone(), start.name);
        // As many at a time as containers.
        let bound = fetch.run_step(&self.slots, move || {
            shared.broker.limit_disk(&key, name, bytes)?;
            // The mount covers the former directory.
            shared.broker.make_sandbox(&key, name, owner.as_ref())
        });
        bound.await
    }

    /// Returns the owner of the sandbox's files, if that is not the agent's own user.
    pub(super) fn owner(
        &self,
        name: ContainerName,
        user: Option<&ContainerUser>,
    ) -> Result<Option<ContainerUser>, String> {
        if self.settings.isolation != Isolation::Full {
            return Ok(user.cloned());
        }
        let first = self.broker.allocate_ids(name);
        let first = first.map_err(|error| host_ids::none_free(&error))?;
        Ok(Some(description::command_user(user).on_host(first)))
    }

    pub(super) fn launch(
        &self,
        start: &ContainerStart,
        (prepared, parts): (Option<PreparedLaunch>, LaunchParts),
        control: &ContainerControl,
        cancelled: &CancellationToken,
    ) -> Result<argosy_isolation::Container, CreateError> {
        if cancelled.is_cancelled() {
            return Err(start_cancelled());
        }
        let prepared = match prepared {
            Some(prepared) => prepared,
            None => description::prepare(self, start, parts, cancelled)?,
        };
        let PreparedLaunch {
            mut spec,
            namespace,
        } = prepared;
        // A leader may have answered since it was prepared.
        let stop_at = control.newest_stop_at(start.stop_at);
        if let (Some(stop_after), Some(at)) = (&mut spec.stop_after, stop_at) {
            stop_after.deadline = BootTime(at.0);
        }
        crash_point!("launch.prepared");
        let descriptors = LaunchDescriptors {
            namespace: namespace.as_ref().map(AsFd::as_fd),
            secrets: start.secrets.as_ref().map(|secrets| secrets.file()),
        };
        // Its directory exists now: a cancellation after this point marks it as cancelled.
        if cancelled.is_cancelled() {
            return Err(start_cancelled());
        }
        let container = self.broker.launch(&spec, descriptors)?;
        crash_point!("launch.made");
        Ok(container)
    }

    /// Queries a container, a few times if its supervisor does not answer. Other queries use the
    /// slot in between.
    pub(super) async fn query(
        self: &Arc<Self>,
        name: ContainerName,
        key: &TaskKey,
    ) -> Result<argosy_isolation::Container, RecoveredContainer> {
        let mut tries = 1;
        loop {
            let (worker, of_worker) = (self.clone(), key.clone());
            let adopt = trace::inherited(move || worker.adopt(name, &of_worker));
            let found = run_in_slot(&self.query_slots, adopt).await;
            let is_unknown = matches!(found, Err(RecoveredContainer::Unknown));
            if !is_unknown || tries == ADOPTION_TRIES {
                return found;
            }
            tries += 1;
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    fn adopt(
        &self,
        name: ContainerName,
        key: &TaskKey,
    ) -> Result<argosy_isolation::Container, RecoveredContainer> {
        let directory = self.paths.container(name);
        let group = self.group(name).map(|group| group.path().to_owned());
        match self.broker.adopt(name, &directory, group) {
            Ok(AdoptedContainer::Running(container)) => {
                crash_point!("find.adopted");
                Ok(container)
            }
            Ok(AdoptedContainer::Exited(exit)) => {
                let exit = container_task::command_exit(exit);
                Err(RecoveredContainer::Exited(exit))
            }
            Ok(AdoptedContainer::Gone {
                reason,
                never_started,
            }) => {
                tracing::info!(container = %name, task = %key, reason, "a container has disappeared");
                Err(match never_started {
                    true => RecoveredContainer::NeverStarted,
                    false => RecoveredContainer::Gone,
                })
            }
            // It may run: only an answer proves its end.
            Err(why) => {
                tracing::warn!(container = %name, task = %key, why, "a container cannot be adopted yet");
                Err(RecoveredContainer::Unknown)
            }
        }
    }

    pub(super) fn group(&self, name: ContainerName) -> Option<Cgroup> {
        let id = ContainerId::new(name.to_string()).expect("digits and dashes make a name");
        self.tree.as_ref().map(|tree| tree.group(&id))
    }

    /// Removes a container. Its directory is removed later, with others: see `gc`.
    pub(super) fn remove(&self, name: ContainerName, is_ended: bool) -> Result<(), String> {
        self.broker.release(name, is_ended)?;
        self.images.release(name)?;
        self.cpus.release(name);
        crash_point!("remove.image-released");
        Ok(())
    }
}

/// Runs blocking work in a slot that it holds until it is done, even when its result is no longer
/// awaited.
pub(super) async fn run_in_slot<T: Send + 'static>(
    slots: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let slot = slots.clone().acquire_owned().await;
    let slot = slot.expect("slots are never closed");
    let done = tokio::task::spawn_blocking(move || {
        let _slot = slot;
        work()
    });
    done.await.expect("blocking work never panics")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn slots_are_held_until_the_work_completes() {
        let slots = Arc::new(Semaphore::new(1));
        assert_eq!(run_in_slot(&slots, || 7).await, 7);
        let (begun, is_begun) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let of_work = slots.clone();
        let waiting = tokio::spawn(async move {
            let work = move || {
                begun.send(()).unwrap();
                // An error means that the test has ended.
                let _ = gone.recv();
            };
            run_in_slot(&of_work, work).await;
        });
        let begun = tokio::task::spawn_blocking(move || is_begun.recv());
        begun.await.unwrap().unwrap();
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        assert_eq!(slots.available_permits(), 0, "it continues");
        go.send(()).unwrap();
        let again = tokio::time::timeout(Duration::from_secs(30), slots.acquire());
        drop(again.await.expect("it is done").unwrap());
    }
}
