//! Agents that return changed: with fewer resources, or without their data.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use argosy_client::OperatorClient;
use argosy_proto::v1;
use nix::sys::signal::Signal;

use crate::cluster::{AGENT_RESOURCES, Cluster, TestMember, sleepers, sleeping, wait_until};
use crate::test_framework::{TestFramework, task};

const LONG: Duration = Duration::from_secs(60);

async fn wait_for_state(framework: &TestFramework, name: &str, state: v1::TaskState) {
    framework
        .wait_for_event(&format!("{name} is {state:?}"), LONG, |events| {
            events.states(name).contains(&state).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returning_agent_that_shrank_below_its_tasks_keeps_them_without_offers() {
    let mut cluster = Cluster::start_tls(1).await;
    let framework = TestFramework::start_on(&cluster, "large").await;
    let mut large = task("large", "exec sleep 1000");
    for resource in &mut large.resources {
        if resource.name == "cpus" {
            resource.value = Some(v1::resource::Value::ScalarMilli(6_000));
        }
    }
    framework.launch([large]);
    wait_for_state(&framework, "large", v1::TaskState::Running).await;
    cluster.agents[0].kill();
    let smaller = AGENT_RESOURCES.replace("cpus:8", "cpus:4");
    cluster.agents[0].replace_argument(AGENT_RESOURCES, &smaller);
    cluster.agents[0].start();
    let operator = cluster.operator();
    wait_until("it is back, and smaller", LONG, async || {
        let page = operator
            .list_agents(v1::ListRequest::default())
            .await
            .ok()?;
        let agent = &page.agents[0];
        let info = agent.info.clone()?;
        let cpus = info.resources.iter().find(|one| one.name == "cpus")?;
        let is_smaller = cpus.value == Some(v1::resource::Value::ScalarMilli(4_000));
        (agent.connected && is_smaller && agent.live_tasks == 1).then_some(())
    })
    .await;
    framework.hold_offers(true);
    framework.events.lock().unwrap().offers.clear();
    // Long enough for several rounds of offers: this shows that something does not happen.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let promised = |offer: &v1::Offer| offer.resources.iter().any(|one| one.name == "cpus");
    let offered = framework.events.lock().unwrap().offers.clone();
    assert!(!offered.values().any(promised), "{offered:?}");
    framework.driver.kill("large", Some(0));
    wait_for_state(&framework, "large", v1::TaskState::Killed).await;
    framework
        .wait_for_event("all it has now is offered", LONG, |events| {
            let cpus = events.offers.values().flat_map(|offer| &offer.resources);
            let cpus = cpus.filter(|one| one.name == "cpus");
            let is_all =
                |one: &v1::Resource| one.value == Some(v1::resource::Value::ScalarMilli(4_000));
            cpus.into_iter().any(is_all).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_one_host_return_each_with_its_own_tasks() {
    let mut cluster = Cluster::start_tls(2).await;
    let framework = TestFramework::start_on(&cluster, "neighbours").await;
    let mark = format!("78{}.25", std::process::id());
    framework.hold_offers(true);
    let offers = framework
        .wait_for_event("an offer of each agent", LONG, |events| {
            let offers = events.offers.values().cloned();
            let offers = offers.map(|offer| (offer.agent_id.clone(), offer));
            let offers = BTreeMap::from_iter(offers);
            (offers.len() == 2).then_some(offers)
        })
        .await;
    let line = format!("exec sleep {mark}");
    let names = [["a", "b"], ["c", "d"]];
    for (offer, names) in offers.values().zip(names) {
        let tasks = names.map(|name| task(name, &line)).into();
        framework.driver.accept(offer, tasks);
    }
    let names = names.as_flattened();
    for name in names {
        wait_for_state(&framework, name, v1::TaskState::Running).await;
    }
    let operator = cluster.operator();
    let agents = async || {
        let page = operator.list_agents(v1::ListRequest::default()).await;
        let agents = page.ok()?.agents;
        let all_connected = agents.iter().all(|agent| agent.connected);
        let tasks = agents
            .iter()
            .map(|agent| (agent.agent_id.clone(), agent.live_tasks));
        all_connected.then(|| tasks.collect::<BTreeMap<_, _>>())
    };
    let before = wait_until("both are there", LONG, &agents).await;
    assert!(before.values().all(|tasks| *tasks == 2), "{before:?}");
    let processes = BTreeSet::from_iter(sleeping(&mark, 4).await);
    for agent in &mut cluster.agents {
        agent.kill();
    }
    for agent in &mut cluster.agents {
        agent.start();
    }
    for agent in &cluster.agents {
        wait_until("it is back", LONG, async || {
            let registered = agent.metric_is_one("argosy_agent_registered").await;
            registered.filter(|registered| *registered)
        })
        .await;
    }
    let after = wait_until("both are connected", LONG, &agents).await;
    assert_eq!(after, before);
    assert_eq!(BTreeSet::from_iter(sleepers(&mark)), processes);
    for name in names {
        framework.driver.kill(name, Some(0));
        wait_for_state(&framework, name, v1::TaskState::Killed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_destroys_unknown_containers_when_it_starts() {
    let mut cluster = Cluster::start_tls(1).await;
    let framework = TestFramework::start_on(&cluster, "forgotten").await;
    let mark = format!("77{}.25", std::process::id());
    // In a new session below a new process group; it still ends with the container.
    framework.launch([task(
        "long",
        &format!("setsid sleep {mark} & exec sleep {mark}"),
    )]);
    wait_until("both sleep", LONG, async || {
        (sleepers(&mark).len() == 2).then_some(())
    })
    .await;
    cluster.agents[0].kill();
    assert_eq!(sleepers(&mark).len(), 2);
    std::fs::remove_file(cluster.directory.path().join("agent-1/journal")).unwrap();
    cluster.agents[0].start();
    wait_until("both are gone", LONG, async || {
        sleepers(&mark).is_empty().then_some(())
    })
    .await;
    wait_until("it is counted", LONG, async || {
        let text = cluster.agents[0].metrics().await?;
        let line = "argosy_agent_orphans_removed_total 1";
        text.lines().any(|found| found == line).then_some(())
    })
    .await;
}

/// Returns tasks with their states, and agents, as an operator lists them.
async fn listed(operator: &OperatorClient) -> Option<(BTreeMap<String, i32>, BTreeSet<String>)> {
    let all = v1::ListRequest::default;
    let tasks = operator.list_tasks(all()).await.ok()?.tasks.into_iter();
    let agents = operator.list_agents(all()).await.ok()?.agents.into_iter();
    Some((
        tasks.map(|task| (task.task_id, task.state)).collect(),
        agents.map(|agent| agent.agent_id).collect(),
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_lists_all_tasks_and_agents_before_any_agent_reconnects() {
    let mut cluster = Cluster::start_tls(2).await;
    let framework = TestFramework::start_on(&cluster, "services").await;
    let names: Vec<String> = (0..10).map(|number| format!("service-{number}")).collect();
    framework.launch(names.iter().map(|name| task(name, "exec sleep 1000")));
    for name in &names {
        wait_for_state(&framework, name, v1::TaskState::Running).await;
    }
    let operator = cluster.operator();
    let before = listed(&operator).await.expect("the leader answers");
    assert_eq!((before.0.len(), before.1.len()), (10, 2));
    for agent in &cluster.agents {
        agent.signal(Signal::SIGSTOP);
    }
    wait_until("the agents stall", LONG, async || {
        let mut agents = cluster.agents.iter();
        agents.all(TestMember::is_hung).then_some(())
    })
    .await;
    let leader = cluster.leader().await;
    cluster.masters[leader].kill();
    let after = wait_until("the new leader answers", LONG, async || {
        listed(&operator).await
    });
    assert_eq!(after.await, before);
    assert_ne!(cluster.leader().await, leader);
}
