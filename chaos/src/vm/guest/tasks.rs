//! The framework of the machine: it launches short tasks on the agent until the cut, and reports
//! all acknowledgements.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use argosy_client::SchedulerConfig;
use argosy_client::resources::resources;
use argosy_client::scheduler::{
    CallOutcome, CallResult, Scheduler, SchedulerDriver, SchedulerError, SchedulerRunner,
    Subscription, is_terminal,
};
use argosy_proto::v1;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::report::GuestReport;
use super::super::task_report::{ObservedState, TaskReport, UpdateRevision};
use super::images::{self, TaskImages};
use super::kernel_args::KernelArgs;
use super::{ReportPort, agent, cluster, show};

/// Tasks that are open at the same time.
const OPEN_TASKS: usize = 4;
/// Interval at which the start of the load is noticed.
const TICK: Duration = Duration::from_millis(50);
/// Time for which other agents are not offered again, in milliseconds.
const DECLINED_MS: u64 = 600_000;

/// The running framework. It launches nothing before the load begins.
pub(super) struct TaskFramework {
    running: JoinHandle<Result<(), SchedulerError>>,
}

/// The start of the load.
pub(super) type LoadStart = watch::Sender<Option<TaskLoad>>;

/// The agent and the images of tasks that are launched under load.
pub(super) struct TaskLoad {
    /// The agent on which tasks are launched.
    pub(super) agent: String,
    pub(super) images: TaskImages,
}

impl TaskFramework {
    /// Subscribes as the framework of earlier boots, if the command line names it.
    pub(super) fn start(args: &KernelArgs, port: &ReportPort) -> anyhow::Result<(Self, LoadStart)> {
        let (load_start, load) = watch::channel(None);
        let mut config = SchedulerConfig::new(cluster::addresses().parse()?, "power-cuts");
        config.framework_id = args.text("framework").map(str::to_owned);
        config.first_subscription = None;
        config.tick = TICK;
        let mut scheduler = TaskScheduler {
            port: port.clone(),
            boot: args.number("boot")?,
            load,
            offers: BTreeMap::new(),
            open: BTreeSet::new(),
            requested: 0,
        };
        let running = tokio::spawn(async move {
            let runner = SchedulerRunner::new(config);
            runner.run(&mut scheduler, CancellationToken::new()).await
        });
        Ok((Self { running }, load_start))
    }

    /// Waits for the end of the session, which is always a failure.
    pub(super) async fn failure(&mut self) -> anyhow::Error {
        match (&mut self.running).await {
            Ok(Ok(())) => anyhow::anyhow!("the framework cannot report"),
            Ok(Err(error)) => anyhow::Error::from(error).context("the framework's session ended"),
            Err(error) => error.into(),
        }
    }
}

struct TaskScheduler {
    port: ReportPort,
    /// Number of this boot, which makes task ids unique.
    boot: u64,
    load: watch::Receiver<Option<TaskLoad>>,
    offers: BTreeMap<String, v1::Offer>,
    /// Tasks whose launch was requested and whose end is unknown.
    open: BTreeSet<String>,
    requested: u64,
}

impl TaskScheduler {
    fn report(&self, driver: &SchedulerDriver, report: TaskReport) {
        if let Err(error) = self.port.send(&GuestReport::Tasks(report)) {
            show(&format!("framework: {error:#}"));
            driver.stop();
        }
    }

    /// Launches tasks on the offers of the agent, and declines those of others.
    fn use_offers(&mut self, driver: &SchedulerDriver) {
        let load = self.load.borrow();
        let Some(load) = load.as_ref() else {
            return;
        };
        let is_other = |_: &String, offer: &mut v1::Offer| offer.agent_id != load.agent;
        for offer in self.offers.extract_if(.., is_other).map(|(_, offer)| offer) {
            driver.decline(&offer, Some(DECLINED_MS));
        }
        while self.open.len() < OPEN_TASKS {
            let Some((_, offer)) = self.offers.pop_first() else {
                return;
            };
            let mut tasks = Vec::new();
            while self.open.len() < OPEN_TASKS {
                self.requested += 1;
                let task = task(self.boot, self.requested, load.images.of(self.requested));
                self.open.insert(task.task_id.clone());
                tasks.push(task);
            }
            drop(driver.accept(&offer, tasks));
        }
    }
}

impl Scheduler for TaskScheduler {
    fn registered(&mut self, driver: &SchedulerDriver, subscription: &Subscription) {
        let id = subscription.framework_id.clone();
        self.report(driver, TaskReport::Framework { id });
    }

    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        let offers = offers.into_iter();
        self.offers
            .extend(offers.map(|offer| (offer.offer_id.clone(), offer)));
        self.use_offers(driver);
    }

    fn rescinded(&mut self, _: &SchedulerDriver, offer_id: &str, _: &str) {
        self.offers.remove(offer_id);
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        // Only answers to a reconciliation, which is never requested, have no revision.
        let revision = status.revision.unwrap_or_default();
        let report = TaskReport::Updated {
            task: status.task_id.clone(),
            to: ObservedState::of(status),
            revision: UpdateRevision {
                index: revision.index,
                position: revision.position,
            },
        };
        self.report(driver, report);
        if is_terminal(status.state()) {
            self.open.remove(&status.task_id);
            self.use_offers(driver);
        }
    }

    fn answered(&mut self, driver: &SchedulerDriver, answer: &CallResult) {
        if answer.is_done() {
            let refused: BTreeSet<&str> = answer.not_launched().iter().map(|(id, _)| *id).collect();
            let launched = answer.task_ids.iter();
            let launched = launched.filter(|id| !refused.contains(id.as_str()));
            let tasks: Vec<String> = launched.cloned().collect();
            if !tasks.is_empty() {
                self.report(driver, TaskReport::Launched { tasks });
            }
        }
        for (task, why) in answer.not_launched() {
            show(&format!("framework: task {task} was not launched: {why}"));
            self.open.remove(task);
        }
        // They may run. Then their updates arrive.
        if matches!(answer.outcome, CallOutcome::Lost(_)) {
            answer.task_ids.iter().for_each(|task| {
                self.open.remove(task);
            });
        }
    }

    fn tick(&mut self, driver: &SchedulerDriver) {
        self.use_offers(driver);
    }
}

/// Returns a task that records its start, syncs the record, and exits after 0 to 0.7 s. That of an
/// image first compares the content of the image.
fn task(boot: u64, number: u64, image: Option<&str>) -> v1::TaskSpec {
    let (id, starts) = (format!("{boot}-{number}"), agent::starts_file());
    let starts = starts.display();
    let shared = agent::shared().display().to_string();
    let record = format!(
        "printf '\\n%s;\\n' {id} >> {starts} && busybox sync {starts} && sleep 0.{}",
        number % 8
    );
    let container = image.map(|image| v1::ContainerSpec {
        image: image.to_owned(),
        ..Default::default()
    });
    v1::TaskSpec {
        shell: match image {
            Some(_) => format!("{} && {record}", images::COMPARE),
            None => record,
        },
        container,
        // On host paths, the root of an image is refused.
        user: image.map_or("", |_| "1000").to_owned(),
        task_id: id,
        resources: resources("cpus:0.1;mem:32").expect("the resources are valid"),
        host_paths: vec![v1::HostPath {
            host_path: shared.clone(),
            container_path: shared,
            read_only: false,
        }],
        ..Default::default()
    }
}
