//! A task of which two must never run, on an agent that is cut off from the masters: it stops by
//! itself, and is replaced afterwards.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use argosy_client::scheduler::{CallResult, SchedulerRunner, Subscription};
use argosy_client::{Scheduler, SchedulerConfig, SchedulerDriver};
use argosy_frameworks::progress::ProgressFormat;
use argosy_frameworks::steady::{CopySpec, Steady};
use argosy_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, TestMember, sleepers, wait_until};
use crate::partitions::{PartitionNamespaces, in_a_network_of_its_own, may_make_networks};
use crate::test_framework::task;

const LONG: Duration = Duration::from_secs(60);
/// Longer than the agent timeout of this test: the copy still runs when it is lost.
const STOP_AFTER_MS: u64 = 6_000;

/// One update, and the number of processes of the task on this machine at its arrival.
#[derive(Debug, Clone, PartialEq)]
struct ObservedUpdate {
    task: String,
    state: v1::TaskState,
    reason: v1::Reason,
    stopped: bool,
    processes: usize,
}

/// A scheduler that records each update, and passes it on to [`Steady`].
struct UpdateRecorder {
    steady: Steady,
    mark: String,
    updates: Arc<Mutex<Vec<ObservedUpdate>>>,
}

impl Scheduler for UpdateRecorder {
    fn registered(&mut self, driver: &SchedulerDriver, subscription: &Subscription) {
        self.steady.registered(driver, subscription);
    }

    fn reconnected(&mut self, driver: &SchedulerDriver, subscription: &Subscription) {
        self.steady.reconnected(driver, subscription);
    }

    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        self.steady.offers(driver, offers);
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        self.updates.lock().unwrap().push(ObservedUpdate {
            task: status.task_id.clone(),
            state: status.state(),
            reason: status.reason(),
            stopped: status.stopped,
            processes: sleepers(&self.mark).len(),
        });
        self.steady.update(driver, status);
    }

    fn answered(&mut self, driver: &SchedulerDriver, answer: &CallResult) {
        self.steady.answered(driver, answer);
    }

    fn tick(&mut self, driver: &SchedulerDriver) {
        self.steady.tick(driver);
    }
}

/// Returns a task that holds a lock of the host while it runs, and records whether it got it. Only
/// KILL ends it.
fn singleton(directory: &Path, mark: &str) -> v1::TaskSpec {
    let path = directory.display();
    let line = format!(
        "trap '' TERM; exec 9>{path}/lock; \
         if flock -n 9; then echo alone >> {path}/starts; else echo second >> {path}/starts; fi; \
         exec sleep {mark}"
    );
    let shared = v1::HostPath {
        host_path: path.to_string(),
        container_path: path.to_string(),
        read_only: false,
    };
    v1::TaskSpec {
        host_paths: vec![shared],
        stop_after_ms: STOP_AFTER_MS,
        kill_policy: Some(v1::KillPolicy {
            grace_ms: 500,
            ..Default::default()
        }),
        ..task("", &line)
    }
}

/// Waits for such an update, and returns its position.
async fn position(
    updates: &Mutex<Vec<ObservedUpdate>>,
    what: &str,
    is_it: impl Fn(&ObservedUpdate) -> bool,
) -> usize {
    wait_until(what, LONG, async || {
        updates.lock().unwrap().iter().position(&is_it)
    })
    .await
}

/// Returns the number of the agent that has this task.
async fn agent_of(cluster: &Cluster, task: &str) -> usize {
    let operator = cluster.operator();
    let address = wait_until("the task is listed", LONG, async || {
        let page = operator.list_tasks(v1::ListRequest::default()).await.ok()?;
        let found = page.tasks.into_iter().find(|one| one.task_id == task);
        found.map(|task| task.agent_address)
    })
    .await;
    let api = |agent: &TestMember| address == format!("{}:5051", agent.address);
    1 + cluster.agents.iter().position(api).expect("it is ours")
}

async fn two_agents_apart(namespaces: &mut PartitionNamespaces) -> Cluster {
    let directory = tempfile::tempdir().expect("a temporary folder");
    let more = ["--agent-timeout", "4s"];
    let masters = (0..3).map(|index| namespaces.master(&directory, index, &more));
    let masters = masters.collect();
    let agents = (1..=2).map(|number| namespaces.agent_apart(&directory, number));
    let agents = agents.collect();
    Cluster::of(masters, agents, directory).await
}

/// Checks the updates. These two report that the first copy has stopped, and how it ended.
fn one_replaced_the_other(all: &[ObservedUpdate], stopped: usize, ended: usize) {
    assert_eq!(all[stopped].task, "one-0-1");
    assert_eq!(all[stopped].state, v1::TaskState::Unreachable);
    assert_eq!(all[stopped].processes, 0, "it still runs: {all:?}");
    let by_itself = v1::Reason::StoppedWithoutLeader;
    assert_eq!(all[ended].reason, by_itself, "{all:?}");
    // Lost is not stopped: the loss came first, and caused no replacement.
    let lost = |one: &ObservedUpdate| one.state == v1::TaskState::Unreachable && !one.stopped;
    let lost = all.iter().position(lost);
    assert!(lost.is_some_and(|lost| lost < stopped), "{all:?}");
    let second = all.iter().position(|one| one.task == "one-0-2");
    assert!(second.is_some_and(|second| second > stopped), "{all:?}");
    assert!(!all.iter().any(|one| one.task == "one-0-3"), "{all:?}");
}

/// Creates the files to which each copy of the singleton writes.
fn make_shared_files(directory: &Path) {
    for name in ["lock", "starts"] {
        let path = directory.join(name);
        File::create(&path).unwrap();
        // Each container has separate users.
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    }
}

#[test]
fn a_singleton_on_a_partitioned_agent_is_replaced_after_it_stopped_itself() {
    if !may_make_networks() {
        return;
    }
    in_a_network_of_its_own(async || {
        let mut namespaces = PartitionNamespaces::new();
        let mut cluster = two_agents_apart(&mut namespaces).await;
        let witness = cluster.witness();
        let directory = witness.parent().unwrap();
        make_shared_files(directory);
        let mark = format!("79{}.5", std::process::id());
        let copies = CopySpec {
            number: 1,
            with_port: false,
            template: singleton(directory, &mark),
        };
        let updates = Arc::default();
        let mut watched = UpdateRecorder {
            steady: Steady::new(copies, "one", ProgressFormat::None),
            mark,
            updates: Arc::clone(&updates),
        };
        let mut config = SchedulerConfig::new(cluster.masters_list(), "steady");
        config.tick = Duration::from_millis(50);
        let runner = SchedulerRunner::new(config);
        let driver = runner.driver();
        let run =
            tokio::spawn(async move { runner.run(&mut watched, CancellationToken::new()).await });
        let running = |task: &'static str| {
            move |update: &ObservedUpdate| {
                update.task == task && update.state == v1::TaskState::Running
            }
        };
        position(&updates, "the first copy runs", running("one-0-1")).await;
        let first = agent_of(&cluster, "one-0-1").await;
        PartitionNamespaces::cut_agent(first);
        cluster.release_machine();
        let stopped = position(&updates, "the first copy has stopped", |one| one.stopped).await;
        position(&updates, "the second copy runs", running("one-0-2")).await;
        assert_ne!(agent_of(&cluster, "one-0-2").await, first);
        PartitionNamespaces::heal_agent(first);
        let ended = position(&updates, "its agent reports the end", |one| {
            one.task == "one-0-1" && one.state == v1::TaskState::Failed
        })
        .await;
        let all = updates.lock().unwrap().clone();
        one_replaced_the_other(&all, stopped, ended);
        let starts = wait_until("both copies have started", LONG, async || {
            let text = std::fs::read_to_string(directory.join("starts")).unwrap();
            (text.lines().count() == 2).then_some(text)
        })
        .await;
        assert_eq!(starts, "alone\nalone\n", "two at a time: {all:?}");
        driver.teardown();
        let ended = tokio::time::timeout(LONG, run).await;
        ended.expect("the framework ends").unwrap().unwrap();
        drop(cluster);
        drop(namespaces);
    });
}
