//! Leaders are killed under load: nothing is lost, nothing happens twice.

use std::process::{Command, Stdio};
use std::time::Duration;

use argosy_client::scheduler::AcknowledgeMode;
use argosy_proto::v1;
use nix::sys::signal::Signal;

use crate::cluster::{Cluster, argosy, kill_count, sleepers, wait_until};
use crate::test_framework::{TestFramework, signatures, task, witnessed_task};

const LONG: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn every_task_starts_once_and_every_end_is_delivered_despite_many_kills() {
    let mut cluster = Cluster::start_tls(2).await;
    let framework = TestFramework::start_on(&cluster, "load").await;
    let witness = cluster.witness();
    let mut launched = 0;
    for _ in 0..kill_count() {
        framework.launch(
            (launched..launched + 60)
                .map(|number| witnessed_task(&format!("t{number}"), &witness, "sleep 0.05")),
        );
        launched += 60;
        cluster.fail_over().await;
    }
    framework
        .wait_for_event("every task has ended", LONG, |events| {
            (events.ended() >= launched).then_some(())
        })
        .await;
    let signed = signatures(&witness);
    let events = framework.events.lock().unwrap();
    let names = (0..launched).map(|number| format!("t{number}"));
    let missing: Vec<_> = names
        .filter(|name| !signed.contains_key(name))
        .map(|name| {
            let updates = events.updates.iter();
            updates
                .filter(|update| update.task_id == name)
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(missing.is_empty(), "tasks that never started: {missing:?}");
    assert!(
        signed.values().all(|times| *times == 1),
        "a task started twice: {signed:?}"
    );
    for number in 0..launched {
        let states = events.states(&format!("t{number}"));
        assert_eq!(
            states.last(),
            Some(&v1::TaskState::Finished),
            "t{number}: {states:?}"
        );
        assert_eq!(
            states
                .iter()
                .filter(|state| **state == v1::TaskState::Finished)
                .count(),
            1,
            "t{number}: {states:?}"
        );
    }
    assert!(events.errors.is_empty(), "{:?}", events.errors);
    assert!(
        events
            .answers
            .iter()
            .all(|answer| answer.not_launched().is_empty()),
        "{:?}",
        events.answers
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_run_survives_failovers_and_exits_with_the_tasks_code() {
    let mut cluster = Cluster::start_tls(1).await;
    let run = Command::new(argosy())
        .arg("run")
        .args(cluster.client_flags())
        .args([
            "--cpus",
            "0.1",
            "--mem",
            "16",
            "--",
            "sh",
            "-c",
            "echo one; sleep 8; echo two; exit 7",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the executable starts");
    cluster.fail_over().await;
    cluster.fail_over().await;
    let output = tokio::task::spawn_blocking(move || run.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let reported = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(7),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(reported.lines().collect::<Vec<_>>(), ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_stopped_transfers_leadership_first() {
    let mut cluster = Cluster::start_tls(0).await;
    let leader = cluster.leader().await;
    cluster.masters[leader].signal(Signal::SIGTERM);
    wait_until("it has ended", LONG, async || {
        cluster.masters[leader].has_ended().then_some(())
    })
    .await;
    let log = cluster.masters[leader].log();
    assert!(log.contains("leadership transferred"), "{log}");
    cluster.masters[leader].kill();
    assert_ne!(cluster.leader().await, leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returning_scheduler_receives_all_missed_updates() {
    let mut cluster = Cluster::start_tls(1).await;
    let mut config = cluster.scheduler("returning");
    config.acknowledge = AcknowledgeMode::Explicitly;
    config.tick = Duration::from_millis(50);
    let first = TestFramework::start_with(config).await;
    first.launch([task("slow", "sleep 3; exit 5")]);
    first
        .wait_for_event("it runs", LONG, |events| {
            events
                .states("slow")
                .contains(&v1::TaskState::Running)
                .then_some(())
        })
        .await;
    let config = first.kill().await;
    cluster.fail_over().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let second = TestFramework::start_with(TestFramework::successor(config)).await;
    let end = second
        .wait_for_event("the end arrives", LONG, |events| {
            events
                .updates
                .iter()
                .find(|update| update.task_id == "slow" && update.exit.is_some())
                .cloned()
        })
        .await;
    assert_eq!(end.exit.unwrap().how, Some(v1::exit::How::Code(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framework_torn_down_stays_torn_down() {
    let mut cluster = Cluster::start_tls(1).await;
    let framework = TestFramework::start_on(&cluster, "ending").await;
    framework.launch([task("long", "exec sleep 60061")]);
    framework
        .wait_for_event("it runs", LONG, |events| {
            events
                .states("long")
                .contains(&v1::TaskState::Running)
                .then_some(())
        })
        .await;
    wait_until("its process is there", LONG, async || {
        (!sleepers("60061").is_empty()).then_some(())
    })
    .await;
    let id = framework.id();
    // Its own answer, since that of the launch may arrive as late as this. The run may end before
    // it. Then the call is answered as lost, and what follows shows whether it was.
    let teardown = framework.driver.teardown().key;
    framework
        .wait_for_event("the teardown is answered", LONG, |events| {
            let mut answers = events.answers.iter();
            answers.any(|answer| answer.call == teardown).then_some(())
        })
        .await;
    let config = framework.kill().await;
    cluster.fail_over().await;
    let again = TestFramework::start_with(TestFramework::successor(config)).await;
    again
        .wait_for_event("it is refused", LONG, |events| {
            (!events.errors.is_empty()).then_some(())
        })
        .await;
    let operator = cluster.operator();
    wait_until("its task is dead and it is gone", LONG, async || {
        let live = operator
            .list_frameworks(v1::ListRequest::default())
            .await
            .ok()?;
        let is_gone = live
            .frameworks
            .iter()
            .all(|framework| framework.framework_id != id);
        (is_gone && sleepers("60061").is_empty()).then_some(())
    })
    .await;
}
