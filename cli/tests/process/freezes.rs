//! Processes that stop and continue: a stale leader has no effect, one without followers releases
//! its agents.

use std::time::{Duration, Instant};

use argosy_proto::v1;
use nix::sys::signal::Signal;

use crate::cluster::{Cluster, TestMember, wait_until, write};
use crate::test_framework::{TestFramework, signatures, witnessed_task};

const LONG: Duration = Duration::from_secs(90);
/// Time for which a leader is frozen.
const FROZEN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn agents_reject_orders_of_a_leader_that_resumes_after_a_freeze() {
    let mut cluster = Cluster::start_tls(1).await;
    let framework = TestFramework::start_on(&cluster, "load").await;
    let witness = cluster.witness();
    framework.launch((0..20).map(|number| witnessed_task(&format!("a{number}"), &witness, "true")));
    let frozen = cluster.leader().await;
    cluster.masters[frozen].signal(Signal::SIGSTOP);
    let frozen_at = Instant::now();
    wait_until("another master leads", LONG, async || {
        let leader = cluster.leader().await;
        (leader != frozen).then_some(())
    })
    .await;
    framework.launch((0..20).map(|number| witnessed_task(&format!("b{number}"), &witness, "true")));
    framework
        .wait_for_event("all ended", LONG, |events| {
            (events.ended() >= 40).then_some(())
        })
        .await;
    cluster
        .yield_machine(FROZEN.saturating_sub(frozen_at.elapsed()))
        .await;
    assert!(frozen_at.elapsed() >= FROZEN);
    cluster.masters[frozen].signal(Signal::SIGCONT);
    framework.launch((0..20).map(|number| witnessed_task(&format!("c{number}"), &witness, "true")));
    framework
        .wait_for_event("all ended", LONG, |events| {
            (events.ended() >= 60).then_some(())
        })
        .await;
    let signed = signatures(&witness);
    assert_eq!(signed.len(), 60);
    assert!(signed.values().all(|times| *times == 1), "{signed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn launches_not_committed_before_the_leader_froze_happen_once() {
    let mut cluster = Cluster::start_tls(1).await;
    let framework = TestFramework::start_on(&cluster, "load").await;
    let witness = cluster.witness();
    framework
        .wait_for_event("an offer is held", LONG, |events| {
            (!events.offers.is_empty()).then_some(())
        })
        .await;
    let frozen = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|index| *index != frozen).collect();
    for index in &others {
        cluster.masters[*index].signal(Signal::SIGSTOP);
    }
    wait_until("both stall", LONG, async || {
        let mut others = others.iter().map(|index| &cluster.masters[*index]);
        others.all(TestMember::is_hung).then_some(())
    })
    .await;
    framework.launch((0..20).map(|number| witnessed_task(&format!("a{number}"), &witness, "true")));
    // It reaches the leader, which still leads and writes it to its own disk only.
    cluster.yield_machine(Duration::from_millis(200)).await;
    assert!(signatures(&witness).is_empty(), "started before the commit");
    cluster.masters[frozen].signal(Signal::SIGSTOP);
    for index in &others {
        cluster.masters[*index].signal(Signal::SIGCONT);
    }
    wait_until("another master leads", LONG, async || {
        let leader = cluster.leader().await;
        (leader != frozen).then_some(())
    })
    .await;
    cluster.masters[frozen].signal(Signal::SIGCONT);
    framework.launch((0..20).map(|number| witnessed_task(&format!("b{number}"), &witness, "true")));
    framework
        .wait_for_event("all ended", LONG, |events| {
            (events.ended() >= 40).then_some(())
        })
        .await;
    cluster.wait_caught_up().await;
    let signed = signatures(&witness);
    assert_eq!(signed.len(), 40);
    assert!(signed.values().all(|times| *times == 1), "{signed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_quorum_closes_links_within_a_second() {
    let cluster = Cluster::start_tls(1).await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    let leading = async || {
        cluster.masters[leader]
            .metric_is_one("argosy_master_is_active_leader")
            .await
    };
    let registered = async || {
        cluster.agents[0]
            .metric_is_one("argosy_agent_registered")
            .await
    };
    wait_until(
        "the leader shows that it leads, and the agent that it has one",
        LONG,
        async || (leading().await? && registered().await?).then_some(()),
    )
    .await;
    for index in &others {
        cluster.masters[*index].signal(Signal::SIGSTOP);
    }
    let alone = Instant::now();
    wait_until("it has stepped down", Duration::from_secs(5), async || {
        leading().await.filter(|here| !*here)
    })
    .await;
    let took = alone.elapsed();
    wait_until("its agent is let go", Duration::from_secs(5), async || {
        registered().await.filter(|here| !*here)
    })
    .await;
    for index in &others {
        cluster.masters[*index].signal(Signal::SIGCONT);
    }
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    cluster.wait_registered().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_passed_on_to_a_leader_that_freezes_does_not_wait_for_it() {
    let cluster = Cluster::start_tls(1).await;
    let leader = cluster.leader().await;
    cluster.masters[leader].signal(Signal::SIGSTOP);
    let mut calls = tokio::task::JoinSet::new();
    for index in (0..3).filter(|place| *place != leader) {
        // It knows this follower only, and does not know the leader.
        let only = cluster.masters[index].api().parse().unwrap();
        let connector = argosy_client::Connector::new(only, cluster.transport.connector());
        let operator = argosy_client::OperatorClient::new(connector);
        calls.spawn(async move {
            let asked = Instant::now();
            let answer = write(&operator, format!("by {index}")).await;
            answer.map(|_| asked.elapsed())
        });
    }
    let took = calls.join_all().await;
    cluster.masters[leader].signal(Signal::SIGCONT);
    let prompt = |took: &Option<Duration>| took.is_some_and(|took| took < Duration::from_secs(2));
    assert!(took.iter().all(prompt), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_leader_survives_status_requests() {
    let cluster = Cluster::start_tls(1).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut askers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let operator = cluster.operator();
        askers.spawn(async move {
            while Instant::now() < deadline {
                let asked = operator.get_cluster(v1::GetClusterRequest::default()).await;
                assert!(asked.is_ok(), "{asked:?}");
            }
        });
        let operator = cluster.operator();
        askers.spawn(async move {
            while Instant::now() < deadline {
                assert!(
                    write(&operator, format!("{:?}", Instant::now()))
                        .await
                        .is_some()
                );
            }
        });
    }
    while let Some(asked) = askers.join_next().await {
        asked.expect("every question and every write was answered");
    }
}
