//! A committed kill is executed, even if processes crash before it is delivered.

use std::time::Duration;

use argosy_proto::v1;
use nix::sys::signal::Signal;

use crate::cluster::Cluster;
use crate::test_framework::{TestFramework, signatures, task, witnessed_task};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_kill_that_was_not_sent_is_executed_by_the_next_leader() {
    let mut cluster = Cluster::start_tls(1).await;
    let framework = TestFramework::start_on(&cluster, "killer").await;
    framework.launch([task("victim", "sleep 600")]);
    framework
        .wait_for_event("it runs", LONG, |events| {
            events
                .states("victim")
                .contains(&v1::TaskState::Running)
                .then_some(())
        })
        .await;
    cluster.agents[0].signal(Signal::SIGSTOP);
    let answer = framework.driver.kill("victim", Some(500)).answer().await;
    assert!(answer.is_done(), "{answer:?}");
    cluster.fail_over().await;
    cluster.agents[0].signal(Signal::SIGCONT);
    framework
        .wait_for_event("it is killed", LONG, |events| {
            events
                .states("victim")
                .contains(&v1::TaskState::Killed)
                .then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_killed_before_it_was_delivered_never_starts() {
    let cluster = Cluster::start_tls(1).await;
    let framework = TestFramework::start_on(&cluster, "killer").await;
    framework.hold_offers(true);
    let offer = framework
        .wait_for_event("an offer", LONG, |events| {
            events.offers.values().next().cloned()
        })
        .await;
    let witness = cluster.witness();
    cluster.agents[0].signal(Signal::SIGSTOP);
    let accepted = framework.driver.accept(
        &offer,
        vec![witnessed_task("unborn", &witness, "sleep 600")],
    );
    let killed = framework.driver.kill("unborn", None);
    assert!(accepted.answer().await.is_done());
    assert!(killed.answer().await.is_done());
    // The link that carried the launch is cut with its leader: the messages in it are lost.
    let mut cluster = cluster;
    cluster.agents[0].kill();
    cluster.agents[0].start();
    framework
        .wait_for_event("it ended", LONG, |events| {
            events
                .states("unborn")
                .contains(&v1::TaskState::Killed)
                .then_some(())
        })
        .await;
    assert!(signatures(&witness).is_empty(), "it started");
}

/// While nothing is written, the leader's view of a follower that was just killed is still that it
/// lags by no entry.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_not_healthy_before_a_restarted_master_reports_it() {
    let mut cluster = Cluster::start_tls(0).await;
    cluster.wait_caught_up().await;
    let follower = (cluster.leader().await + 1) % 3;
    cluster.masters[follower].kill();
    let reason = cluster.health_check().unhealthy_reason().await;
    let expected = format!("{} does not answer", cluster.masters[follower].api());
    assert!(
        reason
            .as_ref()
            .is_some_and(|reason| reason.starts_with(&expected)),
        "{reason:?}"
    );
    cluster.masters[follower].start();
    cluster.wait_caught_up().await;
}
