//! Tests of the small frameworks on fake masters.

use std::time::Duration;

use argosy_client::Masters;
use argosy_client::resources::resources;
use argosy_client::scheduler::{
    CallOutcome, CallResult, Scheduler, SchedulerConfig, SchedulerDriver, SchedulerRunner,
};
use argosy_fakes::{CallFault, FakeCluster, ReceivedInput};
use argosy_frameworks::five_tasks::FiveTasks;
use argosy_frameworks::progress::ProgressFormat;
use argosy_frameworks::steady::{CopySpec, Steady};
use argosy_proto::v1;
use argosy_proto::v1::TaskState;
use tokio_util::sync::CancellationToken;

fn configuration(cluster: &FakeCluster, name: &str) -> SchedulerConfig {
    SchedulerConfig::new(Masters::new(cluster.addresses()).unwrap(), name)
}

#[tokio::test]
async fn five_tasks_finish_and_are_acknowledged_before_the_framework_exits() {
    let cluster = FakeCluster::start(2).await;
    cluster.script(&[TaskState::Running, TaskState::Finished]);
    cluster.offer("agent-1", "cpus:0.3;mem:1024");
    cluster.fault(CallFault::LostReply, 1);
    let mut scheduler = FiveTasks::new("true");
    let runner = SchedulerRunner::new(configuration(&cluster, "five-tasks"));
    let run = async {
        tokio::join!(
            runner.run(&mut scheduler, CancellationToken::new()),
            async {
                cluster
                    .wait("the first tasks", |_| !cluster.launches().is_empty())
                    .await;
                cluster.change_leader();
                cluster.offer("agent-2", "cpus:4;mem:1024");
            }
        )
    };
    let (result, ()) = tokio::time::timeout(Duration::from_secs(20), run)
        .await
        .unwrap();
    assert_eq!(result, Ok(()));
    assert_eq!(scheduler.finished(), 5);
    let received = cluster.received();
    let acknowledged = |task: &str| {
        received.iter().any(|one| match one {
            ReceivedInput::Acknowledged(list) => list.iter().any(|(id, _)| id == task),
            _ => false,
        })
    };
    assert!((1..=5).all(|number| acknowledged(&format!("task-{number}"))));
    assert!(matches!(
        received.last(),
        Some(ReceivedInput::Called {
            kind: "teardown",
            ..
        })
    ));
}

/// Five tasks whose first acceptance is of an offer that no master knows, and whose answer is lost.
struct LostAcceptance {
    tasks: FiveTasks,
    is_offered: bool,
    is_answered: bool,
}

impl Scheduler for LostAcceptance {
    fn offers(&mut self, driver: &SchedulerDriver, mut offers: Vec<v1::Offer>) {
        if !self.is_offered {
            self.is_offered = true;
            "no-such-offer".clone_into(&mut offers[0].offer_id);
        }
        self.tasks.offers(driver, offers);
    }

    fn answered(&mut self, driver: &SchedulerDriver, answer: &CallResult) {
        let mut answer = answer.clone();
        if !self.is_answered {
            self.is_answered = true;
            assert_eq!(answer.not_launched().len(), 5, "{answer:?}");
            let CallOutcome::Refused(why) = answer.outcome else {
                panic!("no master has the offer: {answer:?}");
            };
            answer.outcome = CallOutcome::Lost(why);
        }
        self.tasks.answered(driver, &answer);
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        self.tasks.update(driver, status);
    }
}

#[tokio::test]
async fn five_tasks_whose_acceptance_got_no_answer_are_launched_if_no_master_knows_them() {
    let cluster = FakeCluster::start(1).await;
    cluster.script(&[TaskState::Running, TaskState::Finished]);
    cluster.offer("agent-1", "cpus:4;mem:1024");
    let mut scheduler = LostAcceptance {
        tasks: FiveTasks::new("true"),
        is_offered: false,
        is_answered: false,
    };
    let runner = SchedulerRunner::new(configuration(&cluster, "five-tasks"));
    let run = async {
        tokio::join!(
            runner.run(&mut scheduler, CancellationToken::new()),
            async {
                let is_reconciled =
                    |one: &ReceivedInput| matches!(one, ReceivedInput::Reconciled(_));
                cluster
                    .wait("the reconciliation", |all| all.iter().any(is_reconciled))
                    .await;
                cluster.offer("agent-2", "cpus:4;mem:1024");
            }
        )
    };
    let (result, ()) = tokio::time::timeout(Duration::from_secs(20), run)
        .await
        .expect("it ends");
    assert_eq!(result, Ok(()));
    assert_eq!(scheduler.tasks.finished(), 5);
}

fn two_copies() -> CopySpec {
    CopySpec {
        number: 2,
        with_port: true,
        template: v1::TaskSpec {
            argv: vec!["serve".into()],
            resources: resources("cpus:0.1;mem:32").unwrap(),
            ..Default::default()
        },
    }
}

async fn wait_for_call(cluster: &FakeCluster, wanted: &str) {
    let is_wanted =
        |one: &ReceivedInput| matches!(one, ReceivedInput::Called { kind, .. } if *kind == wanted);
    cluster.wait(wanted, |all| all.iter().any(is_wanted)).await;
}

/// Launches two copies, makes one unreachable, fails the other. Returns their ids and the
/// successor's.
async fn lose_two_copies(cluster: &FakeCluster) -> (String, String, String) {
    for agent in ["agent-1", "agent-2"] {
        cluster.offer(agent, "cpus:1;mem:1024;ports:[31000-31001]");
    }
    cluster
        .wait("two copies", |_| cluster.launches().len() == 2)
        .await;
    let specs = cluster.take_launched();
    assert!(
        specs
            .iter()
            .all(|spec| spec.environment["PORT0"].starts_with("3100"))
    );
    for spec in &specs {
        cluster.update(&spec.task_id, TaskState::Running);
    }
    // No offers while all run; offers again when one is missing.
    wait_for_call(cluster, "suppress").await;
    cluster.update(&specs[0].task_id, TaskState::Unreachable);
    cluster.update(&specs[1].task_id, TaskState::Failed);
    wait_for_call(cluster, "revive").await;
    cluster.offer("agent-3", "cpus:1;mem:1024;ports:[31000-31001]");
    cluster
        .wait("the third copy", |_| cluster.launches().len() == 3)
        .await;
    let third = cluster.take_launched();
    cluster.update(&third[0].task_id, TaskState::Running);
    let id = |spec: &v1::TaskSpec| spec.task_id.clone();
    (id(&specs[0]), id(&specs[1]), id(&third[0]))
}

#[tokio::test]
async fn an_ended_copy_is_replaced_and_an_unreachable_one_is_not() {
    let cluster = FakeCluster::start(2).await;
    let mut config = configuration(&cluster, "steady");
    config.tick = Duration::from_millis(10);
    let mut scheduler = Steady::new(two_copies(), "web", ProgressFormat::None);
    let runner = SchedulerRunner::new(config);
    let driver = runner.driver();
    let script = async {
        let ids = lose_two_copies(&cluster).await;
        // Its answer arrives after the updates.
        driver.reconcile(Vec::new()).answer().await;
        driver.stop();
        ids
    };
    let run = async { tokio::join!(runner.run(&mut scheduler, CancellationToken::new()), script) };
    let (result, (away, failed, third)) = tokio::time::timeout(Duration::from_secs(30), run)
        .await
        .unwrap();
    assert_eq!(result, Ok(()));
    assert_eq!(scheduler.replaced, 1);
    let copy = |task: &str| task.rsplit_once('-').unwrap().0.to_owned();
    assert_eq!(copy(&third), copy(&failed));
    assert_ne!(copy(&third), copy(&away));
    assert_eq!(scheduler.running()[0].0, third);
}

#[tokio::test]
async fn a_copy_that_stops_itself_is_replaced_after_it_stopped() {
    let cluster = FakeCluster::start(2).await;
    let mut config = configuration(&cluster, "steady");
    config.tick = Duration::from_millis(10);
    let mut copies = two_copies();
    copies.number = 1;
    copies.template.stop_after_ms = 10_000;
    let mut scheduler = Steady::new(copies, "db", ProgressFormat::None);
    let runner = SchedulerRunner::new(config);
    let driver = runner.driver();
    let script = async {
        cluster.offer("agent-1", "cpus:1;mem:1024;ports:[31000-31001]");
        cluster
            .wait("the copy", |_| cluster.launches().len() == 1)
            .await;
        let first = cluster.take_launched().remove(0);
        assert_eq!(first.stop_after_ms, 10_000);
        cluster.update(&first.task_id, TaskState::Running);
        wait_for_call(&cluster, "suppress").await;
        cluster.update(&first.task_id, TaskState::Unreachable);
        // Its answer arrives after the update: nothing was requested.
        driver.reconcile(Vec::new()).answer().await;
        let asked = |all: &[ReceivedInput]| {
            let calls = all.iter().filter(
                |one| matches!(one, ReceivedInput::Called { kind, .. } if *kind == "revive"),
            );
            calls.count()
        };
        assert_eq!(asked(&cluster.received()), 0);
        cluster.stop(&first.task_id);
        wait_for_call(&cluster, "revive").await;
        cluster.offer("agent-2", "cpus:1;mem:1024;ports:[31000-31001]");
        cluster
            .wait("its successor", |_| cluster.launches().len() == 2)
            .await;
        let second = cluster.take_launched().remove(0);
        cluster.update(&second.task_id, TaskState::Running);
        // The host returns, and its agent reports the end, which was already counted.
        cluster.update(&first.task_id, TaskState::Failed);
        driver.reconcile(Vec::new()).answer().await;
        driver.stop();
        second.task_id
    };
    let run = async { tokio::join!(runner.run(&mut scheduler, CancellationToken::new()), script) };
    let (result, second) = tokio::time::timeout(Duration::from_secs(30), run)
        .await
        .unwrap();
    assert_eq!(result, Ok(()));
    assert_eq!(scheduler.replaced, 1);
    assert_eq!(scheduler.running()[0].0, second);
}
