//! Tests of the change feed of one master: its subscribers, without a connection.

use argosy_proto::transport::PeerIdentity;
use argosy_proto::v1;
use argosy_proto::v1::operator_server::Operator as _;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;
use argosy_proto::watch::PROGRESS_INTERVAL;
use argosy_raft::RecordWrite;
use argosy_state::command::Subscribe;
use argosy_state::ids::ClusterId;
use argosy_state::testing::{framework_info, registration};
use prost::Message as _;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::routes::services;
use super::*;
use crate::change_ring::{ChangeRing, RingBounds};
use crate::service::feed::SUBSCRIBERS_PER_CONNECTION;
use crate::service::{Feed, Subscription};

type Hub = AbortOnDropHandle<()>;

/// Starts a master with a hub.
async fn start() -> (SingleMaster, Services, Hub) {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    let services = services(&alone.handle);
    let hub = services.feed.clone().run(alone.handle.clone());
    (alone, services, AbortOnDropHandle::new(tokio::spawn(hub)))
}

/// Returns a request for changes after a log index, or after now.
fn changes_after(from_revision: Option<u64>) -> v1::WatchRequest {
    v1::WatchRequest {
        from_revision,
        no_snapshot: true,
        ..Default::default()
    }
}

async fn subscribe(services: &Services, request: v1::WatchRequest) -> Result<Subscription, Status> {
    services.subscribe(tonic::Request::new(request)).await
}

async fn next(subscription: &mut Subscription) -> Result<Event, Status> {
    let item = timeout(TIMEOUT, subscription.next()).await;
    let item = item
        .expect("an item comes")
        .expect("the stream has not ended")?;
    let event = v1::WatchEvent::decode(item.bytes()).unwrap();
    Ok(event.event.expect("this release knows the event"))
}

/// Returns the next change that is not one of the cluster.
async fn change(subscription: &mut Subscription) -> Result<v1::WatchChange, Status> {
    loop {
        match next(subscription).await? {
            Event::Change(change) if kind(&change) != "cluster" => return Ok(change),
            Event::Change(_) | Event::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn kind(change: &v1::WatchChange) -> &str {
    change
        .record
        .as_ref()
        .map_or("", |record| record.kind.as_str())
}

/// Registers an agent and subscribes a framework.
async fn populate(alone: &SingleMaster) {
    let epoch = Epoch(alone.active_leader().await.epoch);
    let registered =
        (1..4).map(|nonce| Command::RegisterAgent(registration(nonce, "cpus:1;mem:64")));
    let subscribe = |session| Subscribe {
        framework: None,
        session,
        info: framework_info("web"),
    };
    let subscribed = (7..9).map(|session| Command::Subscribe(subscribe(session)));
    alone.propose_all(epoch, registered.chain(subscribed)).await;
    let frameworks = async || {
        let view = alone.handle.view(0).await.unwrap();
        view.registry.frameworks().len()
    };
    let deadline = Instant::now() + TIMEOUT;
    while frameworks().await < 2 {
        assert!(Instant::now() < deadline, "nothing is applied");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_and_removals_are_sent_in_order_with_their_records() {
    let (alone, services, _hub) = start().await;
    let mut subscription = subscribe(&services, changes_after(None)).await.unwrap();
    let Event::Progress(begin) = next(&mut subscription).await.unwrap() else {
        panic!("the stream begins with its revision");
    };
    let mut revisions = Vec::new();
    for weight_milli in [2_000, 3_000, 1_000] {
        let written = alone.operate(weight(weight_milli)).await;
        let LeaderReply::Operated { revision, .. } = written else {
            panic!("{written:?}");
        };
        let change = change(&mut subscription).await.unwrap();
        let record = change.record.unwrap();
        assert_eq!((record.kind.as_str(), record.id.as_str()), ("role", "ops"));
        assert_eq!(change.revision.unwrap().index, revision.index);
        assert_eq!(change.removed, weight_milli == 1_000);
        let expected = (!change.removed).then(|| {
            Record::Role(v1::RoleWeight {
                role: "ops".to_owned(),
                weight_milli,
            })
        });
        assert_eq!(record.record, expected);
        revisions.push(revision.index);
    }
    // A reader that resumes gets the same changes, or only the last of them.
    let mut resumed = subscribe(&services, changes_after(Some(begin.revision)))
        .await
        .unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&revisions[2]) {
        let change = change(&mut resumed).await.unwrap();
        seen.push(change.revision.unwrap().index);
        assert_eq!(change.removed, seen.last() == Some(&revisions[2]));
    }
    assert!(revisions.ends_with(&seen), "{seen:?}");
    let caught_up = timeout(PROGRESS_INTERVAL / 2, next(&mut resumed)).await;
    let Ok(Ok(Event::Progress(end))) = caught_up else {
        panic!("it waits for an interval to know that it has everything");
    };
    assert!(end.revision >= revisions[2]);
    let mut caught_up = subscribe(&services, changes_after(Some(revisions[2])))
        .await
        .unwrap();
    let Event::Progress(progress) = next(&mut caught_up).await.unwrap() else {
        panic!("nothing has changed");
    };
    assert_eq!(progress.revision, revisions[2]);
    alone.end().await;
}

/// Reads a snapshot.
async fn snapshot(subscription: &mut Subscription) -> Vec<Record> {
    let Event::SnapshotBegin(begin) = next(subscription).await.unwrap() else {
        panic!("a snapshot begins");
    };
    let mut records = Vec::new();
    loop {
        match next(subscription).await.unwrap() {
            Event::Record(record) => records.extend(record.record),
            Event::SnapshotEnd(end) => {
                assert_eq!(begin, end);
                return records;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_history_is_followed_by_a_snapshot_that_equals_the_lists() {
    let (alone, services, _hub) = start().await;
    populate(&alone).await;
    let LeaderReply::Operated { revision, .. } = alone.operate(weight(2_000)).await else {
        panic!("it is done");
    };
    // As after a restart, or the installation of a snapshot.
    alone.handle.wait_applied(revision.index).await.unwrap();
    let oldest = *alone.handle.applied.borrow();
    alone.handle.changes.restart(oldest);
    let request = v1::WatchRequest {
        no_snapshot: false,
        kinds: ["agent", "framework", "role"].map(str::to_owned).into(),
        ..changes_after(Some(1))
    };
    let mut subscription = subscribe(&services, request).await.unwrap();
    assert!(matches!(
        next(&mut subscription).await,
        Ok(Event::Progress(_))
    ));
    let lost = next(&mut subscription).await.unwrap();
    assert!(matches!(lost, Event::HistoryLost(lost) if lost.oldest == oldest));
    let records = snapshot(&mut subscription).await;
    let (mut agents, mut frameworks, mut roles) = (Vec::new(), Vec::new(), 0);
    for record in records {
        match record {
            Record::Agent(agent) => agents.push(agent),
            Record::Framework(framework) => frameworks.push(framework),
            Record::Role(_) => roles += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(roles, 1);
    let local = || {
        tonic::Request::new(v1::ListRequest {
            consistency: v1::Consistency::Local.into(),
            ..Default::default()
        })
    };
    let listed = services.list_agents(local()).await.unwrap().into_inner();
    assert_eq!((agents.len(), agents), (3, listed.agents));
    let listed = services
        .list_frameworks(local())
        .await
        .unwrap()
        .into_inner();
    let without_times = |mut frameworks: Vec<v1::Framework>| {
        for framework in &mut frameworks {
            // Only the leader knows its links.
            (framework.connected, framework.active) = (false, false);
            framework.expires_in_ms = None;
        }
        frameworks
    };
    let frameworks = without_times(frameworks);
    assert_eq!(
        (frameworks.len(), frameworks),
        (2, without_times(listed.frameworks))
    );
    // Changes follow.
    alone.operate(weight(5_000)).await;
    assert_eq!(kind(&change(&mut subscription).await.unwrap()), "role");
    alone.end().await;
}

/// Returns a ring with the changes of these log entries, of which it has dropped all but the last.
fn ring_of_last(handle: &OwnerHandle, indexes: &[u64]) -> ChangeRing {
    let entry = |index: &u64| {
        let page = handle.changes.since(index - 1, 1).unwrap();
        let entry = Arc::clone(&page.entries[0]);
        assert_eq!(entry[0].revision.index, *index);
        entry
    };
    let entries: Vec<_> = indexes.iter().map(entry).collect();
    let bounds = RingBounds {
        records: entries.last().map_or(0, |last| last.len()),
        ..RingBounds::default()
    };
    let ring = ChangeRing::new(bounds, indexes[0] - 1);
    for entry in entries {
        let writes = entry.iter().map(|change| RecordWrite {
            key: change.key.clone(),
            value: change.value.clone(),
        });
        ring.add(entry[0].revision.index, &writes.collect::<Vec<_>>());
    }
    ring
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_the_newest_dropped_entry_has_lost_nothing() {
    let (alone, services, _hub) = start().await;
    let mut live = subscribe(&services, changes_after(None)).await.unwrap();
    let mut revisions = Vec::new();
    for weight_milli in [2_000, 3_000] {
        alone.operate(weight(weight_milli)).await;
        revisions.push(change(&mut live).await.unwrap().revision.unwrap());
    }
    let [dropped, kept] = revisions[..] else {
        panic!("there are two changes");
    };
    let mut handle = alone.handle.clone();
    handle.changes = ring_of_last(&handle, &[dropped.index, kept.index]);
    let services = self::services(&handle);
    let hub = services.feed.clone().run(handle);
    let _hub = AbortOnDropHandle::new(tokio::spawn(hub));
    let first = async |index, from_position| {
        let request = v1::WatchRequest {
            from_position,
            ..changes_after(Some(index))
        };
        let mut subscription = subscribe(&services, request).await.unwrap();
        loop {
            match next(&mut subscription).await.unwrap() {
                Event::Change(change) if kind(&change) == "cluster" => {}
                Event::Progress(_) => {}
                event => return event,
            }
        }
    };
    // It has the whole entry, or the last visible change of it.
    for position in [None, Some(dropped.position)] {
        let Event::Change(change) = first(dropped.index, position).await else {
            panic!("history is lost after position {position:?}");
        };
        assert_eq!(change.revision, Some(kept));
    }
    let oldest = dropped.index;
    let lost = first(oldest - 1, None).await;
    assert!(matches!(lost, Event::HistoryLost(lost) if lost.oldest == oldest));
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_without_a_registry_serves_no_stream() {
    let alone = SingleMaster::start().await;
    let services = services(&alone.handle);
    let hub = services.feed.clone().run(alone.handle.clone());
    let _hub = AbortOnDropHandle::new(tokio::spawn(hub));
    // It has no cluster until its first epoch.
    let opened = async {
        loop {
            match subscribe(&services, changes_after(None)).await {
                Ok(subscription) => break subscription,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let opened = timeout(TIMEOUT, opened).await;
    let mut subscription = opened.expect("the first epoch is opened");
    let Event::Progress(first) = next(&mut subscription).await.unwrap() else {
        panic!("it is the first event");
    };
    assert_ne!(first.cluster_id, ClusterId(0).to_string());
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_a_former_cluster_begins_again() {
    let (alone, services, _hub) = start().await;
    alone.operate(weight(2_000)).await;
    let applied = *alone.handle.applied.borrow();
    let mut subscription = subscribe(&services, changes_after(Some(1))).await.unwrap();
    let Event::Progress(progress) = next(&mut subscription).await.unwrap() else {
        panic!("it is the first event");
    };
    let own = progress.cluster_id;
    // The history of this master reaches back to both revisions, one of which it does not have.
    for revision in [1, applied + 1_000] {
        let of_cluster = |cluster: &str, no_snapshot| v1::WatchRequest {
            min_revision: revision,
            cluster_id: cluster.to_owned(),
            no_snapshot,
            ..changes_after(Some(revision))
        };
        let request = of_cluster("former", false);
        let mut subscription = subscribe(&services, request).await.unwrap();
        let lost = next(&mut subscription).await.unwrap();
        let Event::HistoryLost(lost) = lost else {
            panic!("{lost:?}");
        };
        assert_eq!(lost.cluster_id, own);
        let begun = next(&mut subscription).await.unwrap();
        assert!(matches!(begun, Event::SnapshotBegin(begin) if begin.cluster_id == own));
        let request = of_cluster("former", true);
        let mut subscription = subscribe(&services, request).await.unwrap();
        let lost = next(&mut subscription).await.unwrap();
        assert!(matches!(lost, Event::HistoryLost(_)), "{lost:?}");
        let refused = next(&mut subscription).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
        assert!(refused.message().contains("another cluster"), "{refused}");
    }
    let request = v1::WatchRequest {
        cluster_id: own,
        ..changes_after(Some(1))
    };
    let mut subscription = subscribe(&services, request).await.unwrap();
    let first = next(&mut subscription).await.unwrap();
    assert!(matches!(first, Event::Progress(_)), "{first:?}");
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_and_future_revisions_are_out_of_range() {
    let (alone, services, _hub) = start().await;
    alone.operate(weight(2_000)).await;
    let oldest = *alone.handle.applied.borrow();
    alone.handle.changes.restart(oldest);
    let mut subscription = subscribe(&services, changes_after(Some(1))).await.unwrap();
    assert!(matches!(
        next(&mut subscription).await,
        Ok(Event::Progress(_))
    ));
    assert!(matches!(
        next(&mut subscription).await,
        Ok(Event::HistoryLost(_))
    ));
    let expired = next(&mut subscription).await.unwrap_err();
    assert_eq!(expired.code(), Code::OutOfRange);
    assert!(
        expired.message().contains("begin with a snapshot"),
        "{expired}"
    );
    assert!(subscription.next().await.is_none());
    let future = *alone.handle.applied.borrow() + 1_000;
    for request in [
        changes_after(Some(future)),
        v1::WatchRequest {
            min_revision: future,
            ..changes_after(None)
        },
        changes_after(Some(u64::MAX)),
    ] {
        let refused = subscribe(&services, request).await.map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
        assert!(
            refused.message().contains("begin without a revision"),
            "{refused}"
        );
    }
    let misplaced = v1::WatchRequest {
        from_position: Some(1),
        ..changes_after(None)
    };
    let refused = subscribe(&services, misplaced).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    alone.end().await;
}

/// Returns an attribute of an agent that makes its record large.
fn large_attribute(agent: u64, number: usize, fill: &str) -> OperatorOperation {
    OperatorOperation::SetAttribute {
        agent: AgentId(agent),
        name: format!("a-{number}"),
        value: fill.repeat(4_000),
    }
}

/// Makes changes of more than 8 MiB, until only `other`, which reads them, has a place.
async fn pile_up(alone: &SingleMaster, services: &Services, other: &mut Subscription) {
    let mut read = 0;
    // Each change sends the whole record, so that 4 MiB are reached soon.
    for number in 1..120 {
        alone.operate(large_attribute(1, number, "x")).await;
        let change = change(other).await.unwrap();
        read += change.encoded_len();
    }
    assert!(read > 8 << 20, "{read}");
    let deadline = Instant::now() + TIMEOUT;
    while services.feed.free_places() < 1_999 {
        assert!(Instant::now() < deadline, "it is never cut off");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_disconnected_while_others_continue() {
    let (alone, services, _hub) = start().await;
    populate(&alone).await;
    let request = || v1::WatchRequest {
        kinds: vec!["agent".to_owned()],
        ..changes_after(None)
    };
    let mut slow = subscribe(&services, request()).await.unwrap();
    let mut other = subscribe(&services, request()).await.unwrap();
    for agent in [1, 2, 3] {
        alone.operate(large_attribute(agent, 0, "x")).await;
        change(&mut other).await.unwrap();
    }
    // It takes all three, and is sent the first.
    let sent = change(&mut slow).await.unwrap().revision.unwrap().index;
    pile_up(&alone, &services, &mut other).await;
    let refused = next(&mut slow).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(info.reason, "slow-reader");
    let revision: u64 = info.metadata["revision"].parse().unwrap();
    assert!(
        refused.message().contains(&format!("revision {revision}")),
        "{refused}"
    );
    // It resumes, and nothing is missing: neither what it had taken, nor what waited.
    assert!(revision >= sent, "{revision} {sent}");
    let resume = v1::WatchRequest {
        from_revision: Some(revision),
        ..request()
    };
    let mut resumed = subscribe(&services, resume).await.unwrap();
    let (mut attributes, mut agents) = (0, std::collections::BTreeSet::new());
    while attributes < 120 {
        let resumed = change(&mut resumed).await.unwrap();
        let Some(Record::Agent(agent)) = resumed.record.unwrap().record else {
            panic!("the agent has changed");
        };
        attributes = agent.info.unwrap().attributes.len();
        agents.insert(agent.agent_id);
    }
    assert_eq!(agents.len(), 3, "{agents:?}");
    alone.operate(large_attribute(1, 0, "y")).await;
    change(&mut other).await.unwrap();
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_no_change_is_disconnected_at_the_same_bound() {
    let (alone, services, _hub) = start().await;
    populate(&alone).await;
    let request = |no_snapshot| v1::WatchRequest {
        kinds: vec!["agent".to_owned()],
        no_snapshot,
        ..changes_after(None)
    };
    let unread = subscribe(&services, request(true)).await.unwrap();
    let mut listed = subscribe(&services, request(false)).await.unwrap();
    assert_eq!(snapshot(&mut listed).await.len(), 3);
    let mut other = subscribe(&services, request(true)).await.unwrap();
    pile_up(&alone, &services, &mut other).await;
    for mut stalled in [unread, listed] {
        let refused = next(&mut stalled).await.unwrap_err();
        assert!(refused.message().contains("more than 4 MiB"), "{refused}");
    }
    alone.end().await;
}

/// Opens server-sent events of agents without a connection, so that nothing buffers them.
async fn events(services: &Services, from: u64) -> axum::body::BodyDataStream {
    let access = argosy_proto::server::callers::ApiAccess::default();
    let limit = crate::http::exec::StreamLimit::new(1);
    let mut routes = http::router(services.clone(), None, limit, access);
    let path = format!("/v1/events?kinds=agent&snapshot=false&from={from}");
    let request = axum::http::Request::get(path).body(axum::body::Body::empty());
    let answer = tonic::codegen::Service::call(&mut routes, request.unwrap());
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().into_data_stream()
}

/// Reads until the text ends with an event that satisfies `is_last`; returns that event.
async fn read_to(
    events: &mut axum::body::BodyDataStream,
    is_last: impl Fn(&str) -> bool,
) -> String {
    loop {
        let chunk = timeout(TIMEOUT, futures::StreamExt::next(events)).await;
        let chunk = chunk.unwrap().expect("the stream has not ended").unwrap();
        let event = String::from_utf8(chunk.to_vec()).unwrap();
        if is_last(&event) {
            return event;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_of_events_gets_the_reason_and_resumes() {
    let (alone, services, _hub) = start().await;
    populate(&alone).await;
    let begin = *alone.handle.applied.borrow();
    let mut slow = events(&services, begin).await;
    alone.operate(large_attribute(2, 0, "x")).await;
    read_to(&mut slow, |event| event.contains("event: change")).await;
    let request = v1::WatchRequest {
        kinds: vec!["agent".to_owned()],
        ..changes_after(None)
    };
    let mut other = subscribe(&services, request).await.unwrap();
    pile_up(&alone, &services, &mut other).await;
    let error = read_to(&mut slow, |event| event.starts_with("event: error")).await;
    assert!(error.contains("ResourceExhausted"), "{error}");
    let (_, rest) = error.split_once("from revision ").expect("a revision");
    let revision = rest.split(|letter: char| !letter.is_ascii_digit()).next();
    let revision = revision.unwrap().parse().unwrap();
    let ended = timeout(TIMEOUT, futures::StreamExt::next(&mut slow)).await;
    assert!(ended.unwrap().is_none(), "the error is the last event");
    // Nothing is missing when it resumes there.
    let mut resumed = events(&services, revision).await;
    read_to(&mut resumed, |event| event.contains("\"a-119\"")).await;
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_of_one_connection_are_bounded() {
    let (alone, services, _hub) = start().await;
    let request = |port: u16| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let mut request = tonic::Request::new(changes_after(None));
        let peer = PeerIdentity::unauthenticated(Some(address));
        request.extensions_mut().insert(peer);
        request
    };
    let mut held = Vec::new();
    for _ in 0..SUBSCRIBERS_PER_CONNECTION {
        held.push(services.subscribe(request(1)).await.unwrap());
    }
    let refused = services.subscribe(request(1)).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.message().contains("256") && refused.message().contains("another connection"),
        "{refused}"
    );
    services.subscribe(request(2)).await.unwrap();
    drop(held.pop());
    services.subscribe(request(1)).await.unwrap();
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_subscribers_get_the_same_bytes_and_more_than_the_bound_are_rejected() {
    let (alone, mut services, _hub) = start().await;
    let mut all = Vec::new();
    for _ in 0..1_000 {
        let mut subscription = subscribe(&services, changes_after(None)).await.unwrap();
        next(&mut subscription).await.unwrap();
        all.push(subscription);
    }
    alone.operate(weight(2_000)).await;
    let mut found = std::collections::BTreeSet::new();
    for subscription in &mut all {
        let item = loop {
            let item = timeout(TIMEOUT, subscription.next()).await.unwrap();
            let item = item.unwrap().unwrap();
            let event = v1::WatchEvent::decode(item.bytes()).unwrap().event;
            if matches!(&event, Some(Event::Change(change)) if kind(change) == "role") {
                break item.bytes();
            }
        };
        found.insert(item.as_ptr().addr());
    }
    assert_eq!(found.len(), 1, "the change is encoded once");
    // Idle subscribers get a sign of life.
    while !matches!(next(&mut all[0]).await, Ok(Event::Progress(_))) {}
    drop(all);
    services.feed = Feed::bounded(2);
    let held = [
        subscribe(&services, changes_after(None)).await.unwrap(),
        subscribe(&services, changes_after(None)).await.unwrap(),
    ];
    let refused = subscribe(&services, changes_after(None)).await.map(drop);
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.message().contains("use another master"),
        "{refused}"
    );
    drop(held);
    subscribe(&services, changes_after(None)).await.unwrap();
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_kinds_and_fields_are_rejected() {
    let (alone, services, _hub) = start().await;
    for (kinds, filter, says) in [
        (
            vec!["answer"],
            None,
            "cluster, role, agent, framework, task",
        ),
        (vec!["agent"], Some("state"), "host_name, mode"),
    ] {
        let filter = filter.map(|field: &str| (field.to_owned(), "x".to_owned()));
        let request = v1::WatchRequest {
            kinds: kinds.into_iter().map(str::to_owned).collect(),
            filter: filter.into_iter().collect(),
            ..Default::default()
        };
        let refused = subscribe(&services, request).await.map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(says), "{refused}");
    }
    alone.end().await;
}

/// Sends a request of a subscriber to the routes; returns the status of a refusal.
async fn refusal(services: &Services, request: &v1::WatchRequest) -> Option<String> {
    let message = request.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    let request = axum::http::Request::post("/argosy.v1.Operator/Watch")
        .header("content-type", "application/grpc")
        .body(axum::body::Body::from(body));
    let mut routes = crate::service::watch_routes(services);
    let answer = tonic::codegen::Service::call(&mut routes, request.unwrap());
    let answer = answer.await.unwrap();
    let status = answer.headers().get("grpc-status");
    status.map(|status| status.to_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_requests_are_refused() {
    let (alone, services, _hub) = start().await;
    let request = |kinds| v1::WatchRequest {
        kinds: vec!["role".to_owned(); kinds],
        ..changes_after(None)
    };
    assert_eq!(refusal(&services, &request(10_000)).await, None);
    let out_of_range = (Code::OutOfRange as i32).to_string();
    assert_eq!(
        refusal(&services, &request(11_000)).await,
        Some(out_of_range)
    );
    alone.end().await;
}
