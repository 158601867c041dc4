//! Tests of the change feed over connections to three masters: gRPC with the client library, and
//! server-sent events.

use std::collections::BTreeMap;

use argosy_client::{CallError, Connector, ConnectorConfig, Masters, OperatorClient, Watch};
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::write_operation::Operation;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::rtt::TestMasters;
use super::*;
use crate::change_ring::{ChangeRing, RingBounds};

type Running = AbortOnDropHandle<()>;

fn client(masters: &TestMasters) -> OperatorClient {
    let addresses = Masters::new(masters.api.iter()).unwrap();
    let client = OperatorClient::new(Connector::new(addresses, ConnectorConfig::default()));
    client.with_deadline(TIMEOUT)
}

fn roles() -> v1::WatchRequest {
    v1::WatchRequest {
        kinds: vec!["role".to_owned()],
        ..Default::default()
    }
}

async fn set_weight(client: &OperatorClient, role: String) {
    let weight_milli = 2_000;
    let operation = Operation::SetWeight(v1::SetWeight { role, weight_milli });
    client.write_operation(operation).await.unwrap();
}

/// Writes the weights of roles `r-0` and following, until it is dropped.
fn writer(client: OperatorClient) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        for number in 0.. {
            set_weight(&client, format!("r-{number}")).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }))
}

async fn next(watch: &mut Watch) -> Event {
    let event = timeout(TIMEOUT, watch.next()).await;
    event.expect("an event comes").unwrap()
}

/// Reads until the role `r-N` has changed; counts the changes of each role.
async fn read_to(watch: &mut Watch, number: u32, counts: &mut BTreeMap<String, u32>) {
    let last = format!("r-{number}");
    while !counts.contains_key(&last) {
        match next(watch).await {
            Event::Change(change) => {
                assert!(!change.removed);
                *counts.entry(change.record.unwrap().id).or_default() += 1;
            }
            Event::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_continues_after_its_leader_ends_and_nothing_is_lost_or_repeated() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    let client = client(&masters);
    // Any master serves a watch; this one is to be at the leader.
    let mut watch = loop {
        let mut watch = client.watch(roles());
        while !matches!(next(&mut watch).await, Event::SnapshotEnd(_)) {}
        if watch.master() == Some(&masters.api[leader]) {
            break watch;
        }
    };
    let writer = writer(client.clone());
    let mut counts = BTreeMap::new();
    read_to(&mut watch, 40, &mut counts).await;
    masters.stop(leader);
    read_to(&mut watch, 200, &mut counts).await;
    assert_ne!(watch.master(), Some(&*masters.api[leader]));
    // The revision of the position is that of a complete prefix.
    let position = v1::WatchRequest::from(watch.position());
    assert!(watch.position().revision() <= position.from_revision);
    let all: Vec<_> = (0..=200).map(|number| format!("r-{number}")).collect();
    let lost: Vec<_> = all
        .iter()
        .filter(|role| !counts.contains_key(*role))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
    let repeated: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(repeated.is_empty(), "{repeated:?}");
    drop(writer);
    masters.end().await;
}

/// Serves the feed of a master, as that master or as one that was restarted at this log index.
async fn serve_feed(alone: &SingleMaster, restarted_at: Option<u64>) -> (String, [Running; 2]) {
    let mut handle = alone.handle.clone();
    if let Some(floor) = restarted_at {
        handle.changes = ChangeRing::new(RingBounds::default(), floor);
    }
    let services = routes::services(&handle);
    let hub = tokio::spawn(services.feed.clone().run(handle));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let calls = crate::service::watch_routes(&services);
    let server = tokio::spawn(async move { axum::serve(socket, calls).await.unwrap() });
    (address, [hub, server].map(AbortOnDropHandle::new))
}

/// Returns the first event that is not a progress message.
async fn first(watch: &mut Watch) -> Event {
    loop {
        match next(watch).await {
            Event::Progress(_) => {}
            event => return event,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_without_snapshots_finds_the_master_that_has_the_history() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    let begin = *alone.handle.applied.borrow();
    let LeaderReply::Operated { revision, .. } = alone.operate(weight(2_000)).await else {
        panic!("it is done");
    };
    alone.handle.wait_applied(revision.index).await.unwrap();
    let (whole, _whole) = serve_feed(&alone, None).await;
    let (lost, _lost) = serve_feed(&alone, Some(revision.index)).await;
    let (less, _less) = serve_feed(&alone, Some(begin + 1)).await;
    let watch = |masters: [&String; 3], seed| {
        let config = ConnectorConfig {
            seed,
            ..ConnectorConfig::default()
        };
        let connector = Connector::new(Masters::new(masters).unwrap(), config);
        OperatorClient::new(connector).watch(v1::WatchRequest {
            from_revision: Some(begin),
            no_snapshot: true,
            ..roles()
        })
    };
    // By these seeds, the search begins at each of the masters.
    for seed in 1..=12 {
        let mut watch = watch([&lost, &whole, &less], seed);
        let Event::Change(change) = first(&mut watch).await else {
            panic!("seed {seed}: another master has the change");
        };
        assert_eq!(change.record.unwrap().id, "ops");
        assert_eq!(watch.master(), Some(whole.as_str()));
    }
    let stopped = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = stopped.local_addr().unwrap().to_string();
    drop(stopped);
    for seed in 1..=3 {
        let mut watch = watch([&lost, &address, &less], seed);
        let oldest = begin + 1;
        let event = first(&mut watch).await;
        assert!(matches!(event, Event::HistoryLost(lost) if lost.oldest == oldest));
        let Err(CallError::Refused(refusal)) = watch.next().await else {
            panic!("the loss is an error");
        };
        assert!(refusal.is_out_of_range(), "{refusal}");
        assert!(refusal.message.contains(&lost), "{refusal}");
    }
    alone.end().await;
}

/// A stream of server-sent events.
struct Events {
    response: reqwest::Response,
    text: String,
}

/// One event: its id, name and data.
type SentEvent = (Option<String>, String, serde_json::Value);

impl Events {
    async fn open(address: &str, query: &str, last: Option<&str>) -> Self {
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]);
        let request = http.build().unwrap();
        let mut request = request.get(format!("http://{address}/v1/events?{query}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = timeout(TIMEOUT, request.send()).await.unwrap().unwrap();
        Self {
            response,
            text: String::new(),
        }
    }

    async fn next(&mut self) -> SentEvent {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if event.contains("data: ") {
                    return parsed(&event);
                }
                continue;
            }
            let chunk = timeout(TIMEOUT, self.response.chunk()).await;
            let chunk = chunk.expect("something comes").unwrap();
            let chunk = chunk.expect("the stream has not ended");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Returns the next change of a role: its id, and the role.
    async fn change(&mut self) -> (String, String) {
        loop {
            let (id, name, data) = self.next().await;
            if name == "change" {
                let role = data["change"]["record"]["id"].as_str().unwrap();
                return (id.expect("a change has an id"), role.to_owned());
            }
            assert_eq!(name, "progress", "{data}");
        }
    }
}

fn parsed(event: &str) -> SentEvent {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
    let data = serde_json::from_str(field("data: ").unwrap()).unwrap();
    let id = field("id: ").map(str::to_owned);
    (id, field("event: ").unwrap().to_owned(), data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sent_events_resume_at_another_master_from_the_last_event_id() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    let client = client(&masters);
    let query = "kinds=role&snapshot=false";
    let mut events = Events::open(&masters.api[leader], query, None).await;
    let kind = events.response.headers().get("content-type").unwrap();
    assert_eq!(kind, "text/event-stream");
    let (begin, name, _) = events.next().await;
    assert_eq!(name, "progress");
    for number in 0..3 {
        set_weight(&client, format!("r-{number}")).await;
    }
    let (first, role) = events.change().await;
    assert_eq!(role, "r-0");
    drop(events);
    // The header takes precedence over the URL, which a client repeats.
    let query = format!("{query}&from={}", begin.unwrap());
    for place in 0..3 {
        let mut resumed = Events::open(&masters.api[place], &query, Some(&first)).await;
        assert_eq!(resumed.change().await.1, "r-1");
        assert_eq!(resumed.change().await.1, "r-2");
    }
    let mut from = Events::open(&masters.api[leader], &query, None).await;
    assert_eq!(from.change().await.1, "r-0");
    // A snapshot by default.
    let mut snapshot = Events::open(&masters.api[leader], "kinds=role", None).await;
    let mut names = Vec::new();
    while names.last().map(String::as_str) != Some("snapshot_end") {
        let (id, name, _) = snapshot.next().await;
        // A reader that reconnects within a snapshot must get all of it, even if it had an id.
        let has_id = name != "record";
        assert_eq!(id.is_some(), has_id, "{name}");
        let is_begin = id.is_some_and(|id| id.starts_with("0@"));
        assert_eq!(is_begin, name == "snapshot_begin");
        names.push(name);
    }
    assert_eq!(
        names,
        [
            "snapshot_begin",
            "record",
            "record",
            "record",
            "snapshot_end"
        ]
    );
    masters.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_ids_and_unknown_parameters_of_events_are_rejected() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    let (leader, _) = masters.leader().await;
    let address = &masters.api[leader];
    let future = u64::MAX.to_string();
    let long = "9".repeat(5_000);
    for (query, last, says) in [
        ("", Some("../../etc/passwd"), "no revision"),
        ("", Some("1.2.3"), "no revision"),
        ("", Some(long.as_str()), "no revision"),
        ("", Some(future.as_str()), "newest one of this cluster"),
        ("from=-1", None, "no revision"),
        ("kinds=tasks", None, "cluster, role, agent, framework, task"),
        ("colour=blue", None, "\\\"colour\\\" is none of"),
        ("snapshot=perhaps", None, "snapshot"),
    ] {
        let refused = Events::open(address, query, last).await.response;
        assert_eq!(refused.status().as_u16(), 400, "{query} {last:?}");
        let text = refused.text().await.unwrap();
        assert!(text.contains(says) && text.len() < 500, "{text}");
    }
    masters.end().await;
}
