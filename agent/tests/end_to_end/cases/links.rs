//! Tests of masters that appear, disappear and contradict each other.

use argosy_proto::v1;
use argosy_proto::v1::to_agent::Message as ToAgent;

use super::runs;
use crate::host::TestHost;
use crate::master::{Master, kill, shell};

super::cases!("links":
    masters_of_an_earlier_epoch_or_another_cluster_are_rejected,
    a_task_list_contains_all_tasks_and_orphans_are_killed,
    a_shutdown_kills_all_tasks_and_the_agent_registers_as_a_new_one,
    an_agent_leaves_a_frozen_leader_for_the_next_without_missing_a_heartbeat,
);

pub(super) async fn masters_of_an_earlier_epoch_or_another_cluster_are_rejected() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (link, _) = master.registered(true).await;
    drop(link);
    let (mut stale, hello) = master.link().await;
    assert_eq!(hello.highest_epoch, 5);
    stale.epoch = 4;
    stale.register(&hello, true).await;
    assert!(stale.try_next().await.is_none(), "the agent hangs up");
    let (mut link, _) = master.registered(true).await;
    link.epoch = 4;
    link.launch(1, shell("t", "exit 0")).await;
    assert!(link.try_next().await.is_none(), "the agent hangs up");
    let (mut link, hello) = master.registered(true).await;
    assert_eq!(hello.floor, 0, "the order was not taken");
    link.epoch = 6;
    link.launch(1, shell("t", "exit 0")).await;
    link.end_of("t").await;
    drop(link);
    let (_, hello) = master.link().await;
    assert_eq!(
        (hello.highest_epoch, hello.cluster_id.as_str()),
        (6, crate::master::CLUSTER)
    );
    agent.stop().await;
}

pub(super) async fn a_task_list_contains_all_tasks_and_orphans_are_killed() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    for (at, name) in ["b", "a", "c"].into_iter().enumerate() {
        link.launch(at as u64 + 1, shell(name, "sleep 60")).await;
        link.until(name, runs).await;
    }
    drop(link);
    let (mut link, _) = master.registered(false).await;
    let list = link.list().await;
    let names: Vec<_> = list
        .tasks
        .iter()
        .map(|task| (task.task_id.as_str(), task.order_index))
        .collect();
    assert_eq!(
        (names, list.floor, list.last),
        (vec![("a", 2), ("b", 1), ("c", 3)], 3, true)
    );
    link.kill_stray("b", 1).await;
    let left = |containers: &[serde_json::Value]| containers.len() == 2;
    while !left(&agent.containers().await) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    link.order(4, kill("a", 0)).await;
    link.order(5, kill("c", 0)).await;
    link.end_of("a").await;
    link.end_of("c").await;
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_shutdown_kills_all_tasks_and_the_agent_registers_as_a_new_one() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, first) = master.registered(true).await;
    link.launch(1, shell("t", "sleep 60")).await;
    link.until("t", runs).await;
    let reason = "it was declared gone".to_owned();
    link.send(ToAgent::Shutdown(v1::Shutdown { reason })).await;
    let (_link, second) = master.link().await;
    assert_eq!(
        (second.agent_id.as_str(), second.floor, second.digest),
        ("", 0, vec![0; 16])
    );
    assert_ne!(second.nonce, first.nonce);
    assert_eq!(second.confirmed_incarnation, 0);
    assert!(
        agent.containers().await.is_empty(),
        "it comes back only when nothing runs any more"
    );
    agent.stop().await;
}

pub(super) async fn an_agent_leaves_a_frozen_leader_for_the_next_without_missing_a_heartbeat() {
    let (host, mut frozen, mut next) = (
        TestHost::new(),
        Master::start().await,
        Master::start().await,
    );
    let other = next.address.to_string();
    // An observer of a leader learns its leadership, and observes another master.
    frozen.leadership.send_replace(v1::Reign {
        epoch: 5,
        leader_address: frozen.address.to_string(),
        here: true,
    });
    let agent = host.agent_with(frozen.address, |config| config.masters.push(other));
    let agent = agent.await;
    let (link, hello) = tokio::select! {
        linked = frozen.link() => linked,
        // The agent contacts either first; one that does not lead keeps it waiting until it learns
        // the leader.
        _ = async { loop { next.link().await; } } => unreachable!("it continues without a limit"),
    };
    let mut link = link;
    // Three minutes of silence would be no reason to leave.
    link.register_with(&hello, true, 60_000).await;
    link.launch(1, shell("t", "sleep 60")).await;
    link.until("t", runs).await;
    next.leadership.send_replace(v1::Reign {
        epoch: 6,
        leader_address: next.address.to_string(),
        here: true,
    });
    let (mut second, hello) = next.link().await;
    assert_eq!((hello.highest_epoch, hello.floor), (5, 1));
    second.epoch = 6;
    second.register(&hello, true).await;
    second.order(2, kill("t", 0)).await;
    second.end_of("t").await;
    assert!(link.try_next().await.is_none(), "the former link is open");
    assert_eq!(link.pings, 0, "no heartbeat was due in between");
    agent.stop().await;
}
