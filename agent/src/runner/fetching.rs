//! Fetches in progress, their listing for the API, and their cancellation.

use std::sync::Arc;

use argosy_content::fetcher::{FetchProgress, REPORT_INTERVAL, report};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::Runner;
use super::operations::run_in_slot;
use super::requests::ContainerStart;
use super::starting::start_cancelled;
use crate::core::{CreateError, Input, Instance};

/// Maximum number of tasks whose files are fetched concurrently. It is high because a task that
/// waits for its server keeps its slot.
pub(super) const SLOTS: usize = 128;

/// A fetch that can be cancelled. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct FetchHandle {
    cancelled: CancellationToken,
    /// Locked by the running step. A lock, because no cancellation interrupts a step, and the
    /// removal of the container waits for it.
    step: Arc<Mutex<()>>,
}

impl FetchHandle {
    /// Runs a step of the fetch in a slot: blocking work that acquires resources of the container.
    /// Does nothing once the fetch is cancelled.
    pub(super) async fn run_step<T: Send + 'static>(
        &self,
        slots: &Arc<Semaphore>,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, CreateError> {
        let fetch = self.clone();
        let step = move || {
            let _running = fetch.step.blocking_lock();
            (!fetch.is_cancelled()).then(work)
        };
        match run_in_slot(slots, step).await {
            Some(done) => done.map_err(CreateError::fetch),
            None => Err(start_cancelled()),
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Waits for the running step of a cancelled fetch. No step begins later.
    pub(super) async fn wait_for_step(&self) {
        drop(self.step.lock().await);
    }
}

impl Runner {
    pub(super) fn fetch(&mut self, start: ContainerStart) {
        let shared = self.shared.clone();
        let fetch = FetchHandle::default();
        let instance = start.name.instance;
        self.fetches.insert(instance, fetch.clone());
        let (meter, seen) = watch::channel(FetchProgress::default());
        let listed = self.preparations.add(instance, seen.clone());
        self.spawn(async move {
            let _listed = listed;
            let fetching = async {
                let _slot = shared.fetch_slots.acquire(start.key.framework).await;
                shared.fetch(&start, &meter, &fetch).await
            };
            let say = |progress| shared.report(Input::Fetching { instance, progress });
            let result = tokio::select! {
                // A running step continues, and the removal of the container waits for it.
                biased;
                () = fetch.cancelled.cancelled() => return shared.images.forget(instance),
                result = fetching => result,
                never = report(seen, REPORT_INTERVAL, say) => match never {},
            };
            let result = result.inspect_err(|_| shared.images.forget(instance));
            shared.report(Input::Fetched { instance, result }).await;
        });
    }

    pub(super) fn cancel_fetch(&self, instance: Instance) {
        if let Some(fetch) = self.fetches.get(&instance) {
            fetch.cancelled.cancel();
        }
        // The core may already have received the completion.
        self.shared.images.forget(instance);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{self, PoisonError};
    use std::time::Duration;

    use argosy_isolation::Isolation;
    use argosy_proto::v1;
    use futures::FutureExt as _;
    use tokio::sync::{Notify, mpsc};

    use super::*;
    use crate::broker_client::BrokerClient;
    use crate::broker_client::request::{BrokerReply, BrokerRequest, OperationResult};
    use crate::config::Config;
    use crate::core::{ContainerName, task_key};
    use crate::host::HostFeatures;
    use crate::inbox::Event;
    use crate::paths::Paths;
    use crate::runner::CONTAINER_SLOTS;
    use crate::start;

    /// A broker that allocates and releases host ids when the test lets it continue.
    struct TestBroker {
        /// Notified by each allocation before it is made.
        allocating: Notify,
        /// Returns an error once the test has dropped the sender.
        held: sync::Mutex<Receiver<()>>,
        allocated: sync::Mutex<BTreeSet<ContainerName>>,
    }

    impl TestBroker {
        fn new() -> (Arc<Self>, Sender<()>) {
            let (go, held) = channel();
            let broker = Self {
                allocating: Notify::new(),
                held: sync::Mutex::new(held),
                allocated: sync::Mutex::default(),
            };
            (Arc::new(broker), go)
        }

        fn perform(&self, request: BrokerRequest) -> OperationResult {
            let reply = match request {
                BrokerRequest::AllocateUsers(name) => {
                    self.allocating.notify_one();
                    self.wait();
                    self.allocated().insert(name);
                    BrokerReply::Number(100_000)
                }
                BrokerRequest::Release { name, .. } => {
                    self.wait();
                    self.allocated().remove(&name);
                    BrokerReply::Done
                }
                _ => BrokerReply::Done,
            };
            Ok((reply, Vec::new()))
        }

        fn wait(&self) {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            // The error means that it may continue.
            let _ = held.recv();
        }

        fn allocated(&self) -> sync::MutexGuard<'_, BTreeSet<ContainerName>> {
            self.allocated.lock().unwrap()
        }
    }

    async fn destroyed(inbox: &mut mpsc::Receiver<Event>) -> ContainerName {
        loop {
            let event = inbox.recv().await.expect("the runner holds a sender");
            if let Event::Core(Input::Destroyed { name }) = event {
                return name;
            }
        }
    }

    #[tokio::test]
    async fn the_removal_of_a_container_waits_for_the_running_step_of_its_fetch() {
        let directory = tempfile::tempdir().unwrap();
        let (actions, go) = TestBroker::new();
        let performing = Arc::clone(&actions);
        let broker = BrokerClient::Local(Arc::new(move |request, _| performing.perform(request)));
        let config = Config::new(directory.path().into(), Vec::new(), String::new());
        let host = HostFeatures {
            isolation: Isolation::Full,
            ..HostFeatures::simulated()
        };
        let (sender, mut inbox) = mpsc::channel(64);
        let settings = start::container_settings(&config, &host, 1);
        let paths = Paths::new(directory.path());
        let mut runner = Runner::new(&config, settings, paths, &host, broker, sender).unwrap();
        let name: ContainerName = "1-1-1".parse().unwrap();
        let key = task_key("framework-1", "web").unwrap();
        runner.fetch(ContainerStart {
            name,
            key: key.clone(),
            launch: Arc::new(v1::LaunchOrder::default()),
            stop_at: None,
            group: None,
            predecessors: Vec::new(),
            secrets: None,
        });
        actions.allocating.notified().await;
        runner.cancel_fetch(name.instance);
        runner.destroy(name, key);
        // Every task runs until it waits.
        tokio::task::yield_now().await;
        assert_eq!(
            runner.shared.removal_slots.available_permits(),
            CONTAINER_SLOTS,
            "the removal has begun"
        );
        drop(go);
        let end = tokio::time::timeout(Duration::from_secs(30), destroyed(&mut inbox)).await;
        assert_eq!(end.unwrap(), name);
        assert!(actions.allocated().is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_fetch_begins_no_step() {
        let (fetch, slots) = (FetchHandle::default(), Arc::new(Semaphore::new(1)));
        assert_eq!(fetch.run_step(&slots, || Ok(7)).await, Ok(7));
        fetch.cancelled.cancel();
        fetch.wait_for_step().now_or_never().expect("none runs");
        let step = fetch.run_step::<()>(&slots, || panic!("it is cancelled"));
        assert_eq!(step.await, Err(start_cancelled()));
    }
}
