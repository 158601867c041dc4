//! A scheduler that is controlled by the test and records all that it receives.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use argosy_client::scheduler::{
    AcknowledgeMode, CallResult, SchedulerError, SchedulerRunner, Subscription, is_terminal,
};
use argosy_client::{Masters, Scheduler, SchedulerConfig, SchedulerDriver};
use argosy_proto::v1;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, wait_until};

/// All received events, in order.
#[derive(Default)]
pub(crate) struct ReceivedEvents {
    pub(crate) framework_id: String,
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) offers: BTreeMap<String, v1::Offer>,
    pub(crate) rescinded: Vec<String>,
    pub(crate) updates: Vec<v1::TaskStatus>,
    pub(crate) answers: Vec<CallResult>,
    pub(crate) errors: Vec<SchedulerError>,
    /// Tasks to launch as soon as an offer is large enough.
    queue: VecDeque<v1::TaskSpec>,
    /// Whether offers are held instead of used for the queue.
    hold: bool,
}

impl ReceivedEvents {
    pub(crate) fn states(&self, task: &str) -> Vec<v1::TaskState> {
        self.updates
            .iter()
            .filter(|update| update.task_id == task)
            .map(v1::TaskStatus::state)
            .collect()
    }

    /// Takes the oldest offer. An offer becomes invalid when 64 newer ones of its agent have been
    /// used.
    fn pop_oldest(&mut self) -> Option<v1::Offer> {
        let age = |id: &&String| {
            let (epoch, serial) = id.split_once('.')?;
            Some((epoch.parse::<u64>().ok()?, serial.parse::<u64>().ok()?))
        };
        let oldest = self.offers.keys().min_by_key(age)?.clone();
        self.offers.remove(&oldest)
    }

    pub(crate) fn ended(&self) -> usize {
        self.updates
            .iter()
            .filter(|update| is_terminal(update.state()) && update.revision.is_some())
            .count()
    }
}

/// A running scheduler.
pub(crate) struct TestFramework {
    pub(crate) events: Arc<Mutex<ReceivedEvents>>,
    pub(crate) driver: SchedulerDriver,
    pub(crate) config: SchedulerConfig,
    stop: CancellationToken,
    run: JoinHandle<Result<(), SchedulerError>>,
    _witness: EventDump,
}

/// Prints what a framework waits for when its test fails.
struct EventDump(Arc<Mutex<ReceivedEvents>>);

impl Drop for EventDump {
    fn drop(&mut self) {
        let Ok(heard) = self.0.lock() else { return };
        if !std::thread::panicking() {
            return;
        }
        let is_open = |task: &String| {
            let states = heard.states(task);
            !states.last().is_some_and(|last| is_terminal(*last))
        };
        let open: Vec<_> = heard
            .answers
            .iter()
            .filter(|answer| answer.task_ids.iter().any(is_open))
            .collect();
        eprintln!(
            "--- framework {}: {} tasks in the queue, {} answers, offers in hand {:?}, rescinded {:?}, {} updates; \
             subscriptions {}; errors {:?}; launches with tasks that did not end: {open:?}",
            heard.framework_id,
            heard.queue.len(),
            heard.answers.len(),
            heard.offers.keys(),
            heard.rescinded,
            heard.updates.len(),
            heard.subscriptions.len(),
            heard.errors,
        );
    }
}

struct EventRecorder(Arc<Mutex<ReceivedEvents>>);

impl EventRecorder {
    fn launch(events: &mut ReceivedEvents, driver: &SchedulerDriver) {
        while !events.hold && !events.queue.is_empty() {
            let Some(offer) = events.pop_oldest() else {
                return;
            };
            let room = offer
                .resources
                .iter()
                .find(|resource| resource.name == "cpus")
                .and_then(|resource| match &resource.value {
                    Some(v1::resource::Value::ScalarMilli(milli)) => Some(*milli / 100),
                    _ => None,
                });
            let fit = usize::try_from(room.unwrap_or(0))
                .unwrap_or(0)
                .min(events.queue.len());
            let tasks: Vec<_> = events.queue.drain(..fit).collect();
            if tasks.is_empty() {
                driver.decline(&offer, Some(100));
            } else {
                drop(driver.accept(&offer, tasks));
            }
        }
    }
}

impl Scheduler for EventRecorder {
    fn registered(&mut self, _: &SchedulerDriver, subscription: &Subscription) {
        let mut events = self.0.lock().unwrap();
        events.framework_id.clone_from(&subscription.framework_id);
        events.subscriptions.push(subscription.clone());
    }

    fn reconnected(&mut self, _: &SchedulerDriver, subscription: &Subscription) {
        self.0
            .lock()
            .unwrap()
            .subscriptions
            .push(subscription.clone());
    }

    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        let mut events = self.0.lock().unwrap();
        events.offers.extend(
            offers
                .into_iter()
                .map(|offer| (offer.offer_id.clone(), offer)),
        );
        Self::launch(&mut events, driver);
    }

    fn rescinded(&mut self, _: &SchedulerDriver, offer_id: &str, _: &str) {
        let mut events = self.0.lock().unwrap();
        events.offers.remove(offer_id);
        events.rescinded.push(offer_id.to_owned());
    }

    fn update(&mut self, _: &SchedulerDriver, status: &v1::TaskStatus) {
        self.0.lock().unwrap().updates.push(status.clone());
    }

    fn answered(&mut self, _: &SchedulerDriver, answer: &CallResult) {
        self.0.lock().unwrap().answers.push(answer.clone());
    }

    fn tick(&mut self, driver: &SchedulerDriver) {
        Self::launch(&mut self.0.lock().unwrap(), driver);
    }

    fn error(&mut self, _: &SchedulerDriver, error: &SchedulerError) {
        self.0.lock().unwrap().errors.push(error.clone());
    }
}

impl TestFramework {
    pub(crate) async fn start(masters: Masters, name: &str) -> Self {
        let mut config = SchedulerConfig::new(masters, name);
        config.tick = Duration::from_millis(50);
        Self::start_with(config).await
    }

    /// The same, with the transport of this cluster.
    pub(crate) async fn start_on(cluster: &Cluster, name: &str) -> Self {
        let mut config = cluster.scheduler(name);
        config.tick = Duration::from_millis(50);
        Self::start_with(config).await
    }

    pub(crate) async fn start_with(config: SchedulerConfig) -> Self {
        let heard = Arc::new(Mutex::new(ReceivedEvents::default()));
        let runner = SchedulerRunner::new(config.clone());
        let driver = runner.driver();
        let stop = CancellationToken::new();
        let mut recorder = EventRecorder(Arc::clone(&heard));
        let token = stop.clone();
        let run = tokio::spawn(async move { runner.run(&mut recorder, token).await });
        let framework = Self {
            _witness: EventDump(Arc::clone(&heard)),
            events: heard,
            driver,
            config,
            stop,
            run,
        };
        wait_until(
            "the framework is registered",
            Duration::from_secs(20),
            async || {
                let heard = framework.events.lock().unwrap();
                (!heard.framework_id.is_empty() || !heard.errors.is_empty()).then_some(())
            },
        )
        .await;
        framework
    }

    pub(crate) fn id(&self) -> String {
        self.events.lock().unwrap().framework_id.clone()
    }

    /// Launches tasks as offers allow.
    pub(crate) fn launch(&self, tasks: impl IntoIterator<Item = v1::TaskSpec>) {
        self.events.lock().unwrap().queue.extend(tasks);
    }

    /// Holds incoming offers instead of using them.
    pub(crate) fn hold_offers(&self, hold: bool) {
        self.events.lock().unwrap().hold = hold;
    }

    /// Waits until `ask` returns a value for the received events.
    pub(crate) async fn wait_for_event<T>(
        &self,
        what: &str,
        limit: Duration,
        mut ask: impl FnMut(&ReceivedEvents) -> Option<T>,
    ) -> T {
        wait_until(what, limit, async || ask(&self.events.lock().unwrap())).await
    }

    /// Stops the process without a call to the masters.
    pub(crate) async fn kill(self) -> SchedulerConfig {
        self.stop.cancel();
        let _ = self.run.await;
        let framework_id = Some(self.events.lock().unwrap().framework_id.clone());
        SchedulerConfig {
            framework_id,
            ..self.config
        }
    }

    /// Returns a scheduler of the same framework in a new process, with a new session.
    pub(crate) fn successor(mut config: SchedulerConfig) -> SchedulerConfig {
        config.session = SchedulerConfig::new(config.masters.clone(), "x").session;
        config.acknowledge = AcknowledgeMode::AfterCallback;
        config
    }
}

/// Returns a shell task of a tenth of a cpu.
pub(crate) fn task(id: &str, line: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        task_id: id.to_owned(),
        shell: line.to_owned(),
        resources: argosy_client::resources::resources("cpus:0.1;mem:16")
            .expect("these are resources"),
        ..Default::default()
    }
}

/// Returns a task that appends a line to the witness file `witness` (mounted at its own path)
/// before it runs `line`.
pub(crate) fn witnessed_task(id: &str, witness: &Path, line: &str) -> v1::TaskSpec {
    let directory = witness
        .parent()
        .expect("the file is in a directory")
        .display()
        .to_string();
    let sign = format!(
        "echo \"$ARGOSY_TASK_ID $(cat /proc/sys/kernel/random/uuid)\" >> {}; {line}",
        witness.display()
    );
    let path = v1::HostPath {
        host_path: directory.clone(),
        container_path: directory,
        read_only: false,
    };
    v1::TaskSpec {
        host_paths: vec![path],
        ..task(id, &sign)
    }
}

/// Returns how often each task signed.
pub(crate) fn signatures(witness: &Path) -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(witness).unwrap_or_default();
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        let id = line.split(' ').next().unwrap_or_default();
        *counts.entry(id.to_owned()).or_default() += 1;
    }
    counts
}
