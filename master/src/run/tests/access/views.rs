//! What callers see of state and events: nothing of others, at every master.

use argosy_proto::transport::ExpectedPeer;
use argosy_proto::v1::watch_event::Event;
use axum::body::Body;
use axum::http::Request;

use super::*;

/// Reads the records of the next snapshot, as `KIND ID`.
async fn snapshot(events: &mut Streaming<v1::WatchEvent>) -> Vec<String> {
    snapshot_at(events).await.0
}

/// Returns the records of a snapshot, and its revision.
async fn snapshot_at(events: &mut Streaming<v1::WatchEvent>) -> (Vec<String>, u64) {
    let mut records = Vec::new();
    let mut begun = false;
    loop {
        let next = tokio::time::timeout(TIMEOUT, events.message()).await;
        match next.unwrap().unwrap().unwrap().event.unwrap() {
            Event::SnapshotBegin(_) => begun = true,
            Event::Record(record) if begun => {
                records.push(format!("{} {}", record.kind, record.id));
            }
            Event::SnapshotEnd(end) if begun => return (records, end.revision),
            _ => {}
        }
    }
}

/// Watches by the rules as of a revision. On a busy host there may be no leader for a moment.
async fn watch(
    cluster: &TestCluster,
    reader: (&str, usize),
    min_revision: u64,
) -> Streaming<v1::WatchEvent> {
    let request = v1::WatchRequest {
        min_revision,
        ..Default::default()
    };
    watch_by(cluster, reader, request).await
}

async fn watch_by(
    cluster: &TestCluster,
    (principal, place): (&str, usize),
    request: v1::WatchRequest,
) -> Streaming<v1::WatchEvent> {
    let mut client = OperatorClient::new(cluster.channel(principal, place));
    let request = v1::WatchRequest {
        kinds: ["agent", "framework", "task"].map(str::to_owned).to_vec(),
        ..request
    };
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match client.watch(request.clone()).await {
            Ok(events) => return events.into_inner(),
            Err(why) if why.code() == Code::Unavailable && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(why) => panic!("{why}"),
        }
    }
}

const OWN: [&str; 2] = ["framework framework-1", "task framework-1/a"];
const ALL: [&str; 4] = [
    "agent agent-1",
    "framework framework-1",
    "framework framework-2",
    "task framework-1/a",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_show_only_what_their_reader_may_see_also_after_a_change_of_the_rules() {
    let (cluster, (leader, follower), population) = populated().await;
    for place in [leader, follower] {
        let revision = set_policy(&cluster, leader, POLICY).await;
        let mut web = watch(&cluster, ("framework/web", place), revision).await;
        let mut vera = watch(&cluster, ("operator/vera", place), revision).await;
        assert_eq!(snapshot(&mut vera).await, ALL);
        assert_eq!(snapshot(&mut web).await, OWN);
        // A change of another framework is no event.
        let weight = v1::SetWeight {
            role: "ops".to_owned(),
            weight_milli: 1_000 + place as u64,
        };
        let weight = v1::write_operation::Operation::SetWeight(weight);
        write(&cluster, ("operator/root", leader), weight)
            .await
            .unwrap();
        let moved = format!("{POLICY}\nallow framework/web view-framework role:ops");
        set_policy(&cluster, leader, &moved).await;
        assert_eq!(
            snapshot(&mut web).await,
            [OWN[0], "framework framework-2", OWN[1]]
        );
        // Without any right, the stream ends with the reason.
        let none = POLICY.replace("group framework:eng = framework/web\n", "");
        set_policy(&cluster, leader, &none).await;
        let ended = loop {
            let next = tokio::time::timeout(TIMEOUT, web.message()).await.unwrap();
            match next {
                Ok(event) => assert!(event.is_some(), "the stream ended without a reason"),
                Err(status) => break status,
            }
        };
        assert_eq!(End::of_result::<()>(Err(ended)), End::Denied);
    }
    drop(population);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_resumes_over_a_change_of_the_rules_begins_again() {
    let (cluster, (leader, follower), population) = populated().await;
    for place in [leader, follower] {
        let reader = ("framework/web", place);
        let set = set_policy(&cluster, leader, POLICY).await;
        let mut web = watch(&cluster, reader, set).await;
        let (records, read) = snapshot_at(&mut web).await;
        assert_eq!(records, OWN);
        let moved = format!("{POLICY}\nallow framework/web view-framework role:ops");
        let set = set_policy(&cluster, leader, &moved).await;
        let request = v1::WatchRequest {
            from_revision: Some(read),
            min_revision: set,
            ..Default::default()
        };
        let mut web = watch_by(&cluster, reader, request.clone()).await;
        assert_eq!(
            snapshot(&mut web).await,
            [OWN[0], "framework framework-2", OWN[1]]
        );
        let no_snapshot = v1::WatchRequest {
            no_snapshot: true,
            ..request.clone()
        };
        let mut web = watch_by(&cluster, reader, no_snapshot).await;
        let first = tokio::time::timeout(TIMEOUT, web.message()).await.unwrap();
        assert_eq!(first.unwrap_err().code(), Code::OutOfRange);
        // Everything that it has, it was shown by these rules.
        let since = v1::WatchRequest {
            from_revision: Some(set),
            ..request
        };
        let mut web = watch_by(&cluster, reader, since).await;
        let first = tokio::time::timeout(TIMEOUT, web.message()).await.unwrap();
        let first = first.unwrap().unwrap().event;
        assert!(matches!(first, Some(Event::Progress(_))), "{first:?}");
    }
    drop(population);
    cluster.end().await;
}

/// Returns the next change of a framework: its id, whether it is removed, and its roles.
async fn framework_change(events: &mut Streaming<v1::WatchEvent>) -> (String, bool, Vec<String>) {
    loop {
        let next = tokio::time::timeout(TIMEOUT, events.message()).await;
        let Event::Change(change) = next.unwrap().unwrap().unwrap().event.unwrap() else {
            continue;
        };
        let record = change.record.unwrap();
        if record.kind == "framework" {
            let roles = match record.record {
                Some(v1::watch_record::Record::Framework(framework)) => {
                    framework.info.unwrap().roles
                }
                _ => Vec::new(),
            };
            return (record.id, change.removed, roles);
        }
    }
}

/// Gives `framework-1` another role.
async fn move_to(cluster: &TestCluster, place: usize, role: &str, number: u64) {
    let mut info = convert::framework_info(&framework_info("framework/web"));
    info.roles = vec![role.to_owned()];
    let call = v1::CallId {
        number,
        lowest_unanswered: number,
        ..call_id("framework-1", SESSION)
    };
    let request = v1::UpdateFrameworkRequest {
        call: Some(call),
        info: Some(info),
    };
    let mut client = SchedulerClient::new(cluster.channel("framework/web", place));
    client.update_framework(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_framework_that_leaves_the_roles_that_a_reader_may_see_is_removed() {
    let (cluster, (leader, follower), population) = populated().await;
    let policy = format!(
        "{POLICY}\nallow operator/eve view-framework role:eng/%\nallow framework/web register-framework role:ops"
    );
    let revision = set_policy(&cluster, leader, &policy).await;
    let mut readers = Vec::new();
    for place in [leader, follower] {
        let mut eve = watch(&cluster, ("operator/eve", place), revision).await;
        assert_eq!(snapshot(&mut eve).await, ["framework framework-1"]);
        readers.push(eve);
    }
    for (round, role) in (0..).zip(["ops", "eng", "ops"]) {
        move_to(&cluster, leader, role, 2 + round).await;
        for eve in &mut readers {
            let is_seen = role == "eng";
            let roles = loop {
                let (id, is_removed, roles) = framework_change(eve).await;
                assert_eq!(id, "framework-1");
                if is_removed != is_seen {
                    break roles;
                }
            };
            // The removal does not show what it is now.
            let expected = if is_seen { &[role][..] } else { &[] };
            assert_eq!(roles, expected);
        }
    }
    drop(population);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_resumes_notices_that_a_framework_has_left_its_roles() {
    let (cluster, (leader, _), population) = populated().await;
    let policy = format!(
        "{POLICY}\nallow operator/eve view-framework role:eng/%\nallow framework/web register-framework role:ops"
    );
    let set = set_policy(&cluster, leader, &policy).await;
    let reader = ("operator/eve", leader);
    let mut eve = watch(&cluster, reader, set).await;
    let (records, read) = snapshot_at(&mut eve).await;
    assert_eq!(records, ["framework framework-1"]);
    let resume = v1::WatchRequest {
        from_revision: Some(read),
        ..Default::default()
    };
    let mut eve = watch_by(&cluster, reader, resume.clone()).await;
    move_to(&cluster, leader, "ops", 2).await;
    let (id, is_removed, roles) = framework_change(&mut eve).await;
    assert_eq!((id.as_str(), is_removed), ("framework-1", true));
    assert!(roles.is_empty(), "{roles:?}");
    // It has left before this one resumes, which cannot know what the reader has.
    let mut eve = watch_by(&cluster, reader, resume).await;
    assert!(snapshot(&mut eve).await.is_empty());
    drop(population);
    cluster.end().await;
}

/// Each agent offers the same ports, which only the sums of scalars leave out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_over_all_agents_and_tasks_are_the_same_for_readers_with_fewer_rights() {
    let (cluster, (leader, _), population) = populated().await;
    let mut agents = Vec::new();
    for (nonce, principal) in [(20, "agent/host-2"), (21, "agent/host-3")] {
        let agent = (nonce, "cpus:4;mem:4096;ports:[31000-31999]");
        agents.push(link_agent(&cluster, principal, leader, agent).await);
    }
    let policy = ["agent", "cluster", "task"]
        .map(|kind| format!("\nallow operator/eve view-{kind} *"))
        .concat();
    set_policy(&cluster, leader, &format!("{POLICY}{policy}")).await;
    let sums = async |principal: &str| {
        let mut client = OperatorClient::new(cluster.channel(principal, leader));
        let seen = client.get_cluster(v1::GetClusterRequest::default()).await;
        let seen = seen.unwrap().into_inner();
        (seen.agents, seen.total, seen.used, seen.offers)
    };
    let all = sums("operator/vera").await;
    assert_eq!(all.0, 3);
    assert!(all.3 > 0, "a reader without a right to offers sees none");
    let some = sums("operator/eve").await;
    assert_eq!(some, (all.0, all.1, all.2, 0));
    drop(population);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_lists_and_targets_have_only_what_their_reader_may_see() {
    let (cluster, (leader, follower), population) = populated().await;
    let policy = format!("{POLICY}\nallow framework/web view-cluster *");
    set_policy(&cluster, leader, &policy).await;
    for place in [leader, follower] {
        let counts = async |principal: &str| {
            let mut client = OperatorClient::new(cluster.channel(principal, place));
            let seen = client.get_cluster(v1::GetClusterRequest::default()).await;
            let seen = seen.unwrap().into_inner();
            let used = convert::resources_from("used", &seen.used).unwrap();
            let counts = (seen.agents, seen.frameworks, seen.tasks_live);
            (counts, seen.total.len(), used.to_string())
        };
        let everything = counts("operator/vera").await;
        assert_eq!(everything.0, (1, 2, 1));
        assert_eq!(counts("framework/web").await.0, (0, 1, 1));
        assert_eq!(counts("framework/web").await.1, 0);
        assert_eq!(counts("framework/web").await.2, everything.2);
        let mut client = OperatorClient::new(cluster.channel("framework/web", place));
        let page = client.list_frameworks(v1::ListRequest::default()).await;
        let page = page.unwrap().into_inner();
        let listed: Vec<_> = page
            .frameworks
            .iter()
            .map(|one| &one.framework_id)
            .collect();
        assert_eq!(listed, ["framework-1"]);
        let mut client = OperatorClient::new(cluster.channel("framework/other", place));
        let page = client.list_tasks(v1::ListRequest::default()).await.unwrap();
        let page = page.into_inner();
        assert_eq!((page.tasks.len(), page.next_page_token.as_str()), (0, ""));
        let targets = async |principal: &str| {
            let (client, address) = cluster.http(principal, place);
            let request = Request::get("/v1/sd/prometheus")
                .body(Body::empty())
                .unwrap();
            let answer = client
                .send(&address, &ExpectedPeer::MASTER, request)
                .await
                .unwrap();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20)
                .await
                .unwrap();
            let all: serde_json::Value = serde_json::from_slice(&body).unwrap();
            all.as_array().unwrap().len()
        };
        assert_eq!(targets("operator/vera").await, 4);
        assert_eq!(targets("framework/other").await, 0);
    }
    drop(population);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_has_only_the_agents_that_its_reader_may_see() {
    let (cluster, (leader, follower), population) = populated().await;
    let explained = async |place: usize| {
        let mut client = OperatorClient::new(cluster.channel("framework/web", place));
        let request = v1::ExplainRequest {
            framework_id: "framework-1".to_owned(),
            ..Default::default()
        };
        client.explain(request).await.unwrap().into_inner()
    };
    for place in [leader, follower] {
        set_policy(&cluster, leader, POLICY).await;
        let seen = explained(place).await;
        assert_eq!((seen.counts, seen.verdicts), (vec![], vec![]));
        assert!(seen.summary.contains("view-agent"), "{}", seen.summary);
        let policy = format!("{POLICY}\nallow framework/web view-agent agent:agent-1");
        set_policy(&cluster, leader, &policy).await;
        let seen = explained(place).await;
        let agents: u32 = seen.counts.iter().map(|count| count.agents).sum();
        assert_eq!(agents, 1, "{seen:?}");
    }
    drop(population);
    cluster.end().await;
}
