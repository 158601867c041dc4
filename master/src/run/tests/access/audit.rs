//! What the audit logs have of decisions in the leader's step, of tickets and of secrets.

use std::path::Path;

use argosy_proto::server::audit::{AuditEntry, AuditEvent, verify};
use argosy_state::task::{TaskVolume, VolumeSource};

use super::*;
use crate::run::tests::actors::api;

/// Returns the events of a kind in the log of the master at `place`.
fn events(directory: &Path, place: usize, event: AuditEvent) -> Vec<AuditEntry> {
    let log = directory.join(api(place)).join("audit");
    let mut found = Vec::new();
    let verified = verify(std::slice::from_ref(&log), None, |line| {
        if line.entry.event == event {
            found.push(line.entry.clone());
        }
    });
    // A master that has recorded nothing may have no file.
    if std::fs::read_dir(&log).unwrap().next().is_some() {
        verified.unwrap();
    }
    found
}

/// Returns the refusals of a principal's calls of this path.
fn refusals(directory: &Path, place: usize, (principal, path): (&str, &str)) -> Vec<AuditEntry> {
    let mut found = events(directory, place, AuditEvent::CallRefused);
    found.retain(|entry| entry.principal == principal && entry.action == path);
    found
}

async fn next_offers(scheduler: &mut Streaming<v1::Event>) -> Vec<v1::Offer> {
    loop {
        if let v1::event::Event::Offers(offers) = next_event(scheduler).await {
            return offers.offers;
        }
    }
}

/// Has the rest of `agent-1` offered to the scheduler of `framework-1`, and accepts it with these
/// tasks through the master at `place`.
async fn accept(
    (cluster, place): (&TestCluster, usize),
    population: &mut Population,
    tasks: Vec<v1::TaskSpec>,
) -> v1::AcceptReply {
    let [web, other] = &mut population._frameworks[..] else {
        panic!("there are two schedulers");
    };
    // The other one has it, because the first one has declined it for some seconds.
    let offer_ids = next_offers(other)
        .await
        .into_iter()
        .map(|offer| offer.offer_id);
    let decline = v1::DeclineRequest {
        framework_id: "framework-2".to_owned(),
        session: SESSION,
        offer_ids: offer_ids.collect(),
        filter_ms: Some(600_000),
        ..Default::default()
    };
    let mut client = SchedulerClient::new(cluster.channel("framework/other", place));
    client.decline(decline).await.unwrap();
    let call = |number| {
        Some(v1::CallId {
            number,
            lowest_unanswered: number,
            ..call_id("framework-1", SESSION)
        })
    };
    let mut client = SchedulerClient::new(cluster.channel("framework/web", place));
    let roles = Vec::new();
    let revive = v1::ReviveRequest {
        call: call(2),
        roles,
    };
    client.revive(revive).await.unwrap();
    let held = next_offers(web)
        .await
        .into_iter()
        .map(|offer| v1::HeldOffer { offer: Some(offer) });
    let launch = v1::operation::Operation::Launch(v1::Launch { tasks });
    let request = v1::AcceptRequest {
        call: call(3),
        offers: held.collect(),
        operations: vec![v1::Operation {
            operation: Some(launch),
        }],
        ..Default::default()
    };
    let accepted = tokio::time::timeout(TIMEOUT, client.accept(request)).await;
    accepted.unwrap().unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_the_leader_refuses_is_in_the_log_of_the_master_that_it_uses() {
    let (cluster, (leader, follower), population) = populated().await;
    let mut refused = subscribe(&cluster, ("framework/other", follower), "eng", 5).await;
    match next_event(&mut refused).await {
        v1::event::Event::Error(error) => assert_eq!(error.code, "access-denied"),
        other => panic!("{other:?}"),
    }
    drop((refused, population));
    let directory = cluster.end().await;
    let path = "/argosy.v1.Scheduler/Subscribe";
    let found = refusals(directory.path(), follower, ("framework/other", path));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].outcome, "PermissionDenied");
    assert_eq!(found[0].request_id.len(), 32);
    // The leader has it with the master that forwards it.
    let master = format!("master/m{follower}");
    let forwarded = refusals(directory.path(), leader, (&master, path));
    assert_eq!(forwarded.len(), 1, "{forwarded:?}");
    assert_eq!(forwarded[0].on_behalf_of, "framework/other");
    assert_eq!(forwarded[0].request_id, found[0].request_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_new_rules_end_are_in_the_log() {
    let (cluster, (leader, _), mut population) = populated().await;
    set_policy(&cluster, leader, "group admin = operator/root").await;
    let web = &mut population._frameworks[0];
    while !matches!(next_event(web).await, v1::event::Event::Error(_)) {}
    let (_, agent) = &mut population._agent;
    loop {
        let message = tokio::time::timeout(TIMEOUT, agent.message()).await;
        let message = message.unwrap().unwrap().unwrap().message;
        if matches!(message, Some(v1::to_agent::Message::Refused(_))) {
            break;
        }
    }
    drop(population);
    let directory = cluster.end().await;
    for caller in [
        ("framework/web", "/argosy.v1.Scheduler/Subscribe"),
        ("agent/host-1", "/argosy.v1.Agents/Connect"),
    ] {
        let found = refusals(directory.path(), leader, caller);
        assert_eq!(found.len(), 1, "{caller:?}: {found:?}");
        assert_eq!(found[0].outcome, "PermissionDenied");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_the_leader_refuses_are_in_the_log_of_the_master_that_is_called() {
    let (cluster, (_, follower), mut population) = populated().await;
    let task = |id: &str, user: &str| v1::TaskSpec {
        user: user.to_owned(),
        ..convert::spec(&spec(id, "cpus:0.5"))
    };
    let tasks = vec![task("b", ""), task("c", "root")];
    let reply = accept((&cluster, follower), &mut population, tasks).await;
    let refused: Vec<_> = reply.refused.iter().map(|one| one.position).collect();
    assert_eq!(refused, [1], "{:?}", reply.refused);
    drop(population);
    let directory = cluster.end().await;
    let path = "/argosy.v1.Scheduler/Accept";
    let found = refusals(directory.path(), follower, ("framework/web", path));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].outcome, "PermissionDenied");
    assert_eq!(found[0].object, "tasks at the positions 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issued_tickets_are_in_the_log_of_the_master_that_issues_them() {
    let (cluster, (leader, follower), population) = populated().await;
    let wanted = |verb: v1::TicketVerb, path: &str| v1::IssueTicketsRequest {
        agent_id: "agent-1".to_owned(),
        verb: verb.into(),
        targets: vec![v1::TicketTarget {
            framework_id: "framework-1".to_owned(),
            task_id: "a".to_owned(),
            path: path.to_owned(),
        }],
        valid_ms: 0,
    };
    let exec = wanted(v1::TicketVerb::Exec, "");
    let file = wanted(v1::TicketVerb::ReadFiles, "out/part-1");
    let mut client = OperatorClient::new(cluster.channel("operator/root", follower));
    client.issue_tickets(exec.clone()).await.unwrap();
    client.issue_tickets(file).await.unwrap();
    // No ticket, and no event of one.
    let mut other = OperatorClient::new(cluster.channel("framework/other", follower));
    other.issue_tickets(exec).await.unwrap_err();
    drop(population);
    let directory = cluster.end().await;
    let found = events(directory.path(), follower, AuditEvent::TicketIssued);
    let found: Vec<_> = found
        .iter()
        .map(|entry| {
            (
                entry.principal.as_str(),
                entry.action.as_str(),
                entry.object.as_str(),
            )
        })
        .collect();
    let root = "operator/root";
    let wanted = [
        (root, "exec", "agent-1: framework-1/a"),
        (root, "read-sandbox", "agent-1: framework-1/a:out/part-1"),
    ];
    assert_eq!(found, wanted);
    assert_eq!(
        events(directory.path(), leader, AuditEvent::TicketIssued),
        []
    );
}

async fn set_secret(cluster: &TestCluster, place: usize) {
    let secret = v1::SetSecret {
        name: "eng/db".to_owned(),
        value: b"secret value".to_vec(),
    };
    let set = v1::write_operation::Operation::SetSecret(secret);
    let written = write(cluster, ("operator/root", place), set).await;
    written.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_that_are_sent_are_in_the_log_once_for_each_launch() {
    let (cluster, (leader, _), mut population) = populated().await;
    let rules = format!("{POLICY}\nallow framework/web use-secret *");
    set_policy(&cluster, leader, &rules).await;
    set_secret(&cluster, leader).await;
    let mut task = spec("b", "cpus:0.5");
    task.volumes = vec![TaskVolume {
        container_path: "/run/secrets/db".to_owned(),
        read_only: true,
        source: VolumeSource::Secret("eng/db".to_owned()),
    }];
    let task = vec![convert::spec(&task)];
    let reply = accept((&cluster, leader), &mut population, task).await;
    assert_eq!(reply.refused, []);
    let (to_leader, agent) = &mut population._agent;
    let mut next = async || {
        let message = tokio::time::timeout(TIMEOUT, agent.message()).await;
        message.unwrap().unwrap().unwrap().message.unwrap()
    };
    let order_index = loop {
        if let v1::to_agent::Message::Order(order) = next().await
            && let Some(v1::order::Order::Launch(launch)) = &order.order
            && launch.spec.as_ref().is_some_and(|spec| spec.task_id == "b")
        {
            break order.index;
        }
    };
    // An agent repeats its request until it is answered.
    for order_index in [order_index, order_index, order_index + 1] {
        let wanted = v1::SecretsWanted {
            framework_id: "framework-1".to_owned(),
            task_id: "b".to_owned(),
            order_index,
        };
        let message = Some(v1::from_agent::Message::SecretsWanted(wanted));
        to_leader.send(v1::FromAgent { message }).unwrap();
        while !matches!(next().await, v1::to_agent::Message::TaskSecrets(_)) {}
    }
    drop(population);
    let directory = cluster.end().await;
    let found = events(directory.path(), leader, AuditEvent::SecretSent);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].principal, "agent/host-1");
    assert_eq!(found[0].object, "framework-1/b: eng/db");
    assert_eq!(
        (found[0].action.as_str(), found[0].count),
        ("use-secret", 1)
    );
    assert_eq!(found[0].request_id.len(), 32);
    let log = directory.path().join(api(leader)).join("audit");
    for file in std::fs::read_dir(log).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("secret value"));
    }
}
