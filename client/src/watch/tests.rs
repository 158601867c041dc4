//! Tests of positions, and of the search for a master: with masters that do not answer or whose
//! streams fail.

use argosy_fakes::FakeCluster;
use argosy_proto::transport::Dialer;
use argosy_state::access::{TokenId, TokenSecret};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::{DecodeBuf, Decoder, EncodeBody, EncodeBuf, Encoder};

use super::*;
use crate::connector::ConnectorConfig;
use crate::masters::Masters;

fn change(index: u64, position: u32) -> Event {
    Event::Change(v1::WatchChange {
        revision: Some(v1::Revision { index, position }),
        ..Default::default()
    })
}

fn progress(revision: u64) -> Event {
    Event::Progress(v1::WatchProgress {
        revision,
        ..Default::default()
    })
}

fn of_cluster(revision: u64, cluster: &str) -> v1::WatchSnapshot {
    v1::WatchSnapshot {
        revision,
        cluster_id: cluster.to_owned(),
    }
}

/// Returns the request of a reader that has received these events.
fn resumed(events: &[Event]) -> (Option<u64>, Option<u32>, u64) {
    let mut position = WatchPosition::default();
    for event in events {
        position.record(event);
    }
    let request = v1::WatchRequest::from(&position);
    (
        request.from_revision,
        request.from_position,
        request.min_revision,
    )
}

#[test]
fn a_reader_resumes_after_its_last_change_and_never_goes_back() {
    let end = |revision| Event::SnapshotEnd(of_cluster(revision, ""));
    assert_eq!(resumed(&[]), (None, None, 0));
    assert_eq!(resumed(&[end(7)]), (Some(7), None, 7));
    assert_eq!(resumed(&[end(7), change(9, 2)]), (Some(9), Some(2), 9));
    // Progress in the middle of an entry names the entry before it.
    let early = [end(7), change(9, 2), progress(8)];
    assert_eq!(resumed(&early), (Some(9), Some(2), 9));
    let caught_up = [end(7), change(9, 2), progress(12)];
    assert_eq!(resumed(&caught_up), (Some(12), None, 12));
}

#[test]
fn an_incomplete_snapshot_begins_again_and_is_not_older() {
    let begin = Event::SnapshotBegin(of_cluster(20, ""));
    let lost = Event::HistoryLost(v1::HistoryLost::default());
    let events = [
        change(9, 0),
        lost,
        begin,
        Event::Record(v1::WatchRecord::default()),
    ];
    assert_eq!(resumed(&events[..1]), (Some(9), Some(0), 9));
    assert_eq!(resumed(&events[..2]), (Some(9), Some(0), 9));
    assert_eq!(resumed(&events), (None, None, 9));
}

#[test]
fn a_snapshot_of_a_restored_cluster_may_be_older() {
    let snapshot = |revision| of_cluster(revision, "b");
    let before = Event::Progress(v1::WatchProgress {
        revision: 90,
        cluster_id: "a".to_owned(),
    });
    let mut position = WatchPosition::default();
    position.record(&before);
    let lost = Event::HistoryLost(v1::HistoryLost {
        oldest: 7,
        cluster_id: "b".to_owned(),
    });
    position.record(&lost);
    let request = v1::WatchRequest::from(&position);
    let resumed = (request.cluster_id.as_str(), request.from_revision);
    assert_eq!(resumed, ("a", Some(90)));
    position.record(&Event::SnapshotBegin(snapshot(7)));
    position.record(&Event::SnapshotEnd(snapshot(7)));
    let request = v1::WatchRequest::from(&position);
    assert_eq!(request.cluster_id, "b");
    assert_eq!((request.from_revision, request.min_revision), (Some(7), 7));
}

#[test]
fn the_revision_of_a_position_is_complete() {
    let mut position = WatchPosition::through(5);
    assert_eq!(position.revision(), Some(5));
    position.record(&change(9, 0));
    assert_eq!(position.revision(), Some(8));
    assert_eq!(WatchPosition::default().revision(), None);
}

fn watch(masters: &Masters, seed: u64, deadline: Duration) -> Watch {
    let config = ConnectorConfig {
        seed,
        ..ConnectorConfig::default()
    };
    let connector = Connector::new(masters.clone(), config);
    Watch::new(connector, deadline, v1::WatchRequest::default())
}

#[tokio::test]
async fn a_master_that_never_answers_leaves_time_for_the_others() {
    let cluster = FakeCluster::start(1).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let masters = Masters::new([&silent, &cluster.addresses()[0]]).unwrap();
    // Each of them is the first one of some search. The others have less time than one attempt at a
    // master that has answered before.
    let deadline = Duration::from_secs(3);
    assert!(FIRST_ATTEMPT < deadline && deadline < ANSWER_TIMEOUT);
    let mut searches = JoinSet::new();
    let mut first = Vec::new();
    for seed in 0..8 {
        first.push(
            watch(&masters, seed, deadline)
                .connector
                .search_any()
                .next(),
        );
        let mut watch = watch(&masters, seed, deadline);
        searches.spawn(async move { watch.next().await });
    }
    assert!(first.contains(&LeaderSearchStep::Call(silent)));
    for result in searches.join_all().await {
        // The fake master does not support the call, and rejects it.
        assert!(matches!(result, Err(CallError::Refused(_))), "{result:?}");
    }
}

struct NoEvents;

impl Encoder for NoEvents {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for NoEvents {
    type Item = v1::WatchEvent;
    type Error = Status;

    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        Ok(None)
    }
}

fn open_stream(address: &str) -> OpenStream {
    OpenStream {
        address: address.to_owned(),
        events: Streaming::new_empty(NoEvents, Body::empty()),
    }
}

#[tokio::test]
async fn a_stream_is_resumed_if_its_key_was_revoked_and_ends_with_its_token() {
    let token = TokenSecret {
        id: TokenId(7),
        secret: [5; 32],
    };
    for (dialer, ends) in [
        (Dialer::tcp(), false),
        (Dialer::tcp().with_token(&token), true),
    ] {
        let config = ConnectorConfig { dialer, seed: 3 };
        let connector = Connector::new("a:1".parse().unwrap(), config);
        let mut watch = Watch::new(connector, SILENCE, v1::WatchRequest::default());
        watch.stream = Some(open_stream("a:1"));
        let refused = Status::unauthenticated("it was revoked");
        assert_eq!(watch.lost(&refused).is_err(), ends);
    }
}

#[tokio::test]
async fn a_master_whose_stream_has_failed_is_tried_last() {
    let masters: Masters = "a:1,b:1,c:1".parse().unwrap();
    let broken = || Status::from_error(Box::new(std::io::Error::other("reset")));
    let statuses: [&dyn Fn() -> Status; 3] = [
        &broken,
        &|| Status::unavailable("the master closed the stream"),
        &|| Status::deadline_exceeded("no event in time"),
    ];
    for (seed, status) in (0..8).flat_map(|seed| statuses.map(|status| (seed, status()))) {
        let mut watch = watch(&masters, seed, SILENCE);
        let addresses = masters.addresses().iter();
        addresses.for_each(|address| watch.connector.note_response(address));
        watch.stream = Some(open_stream("b:1"));
        watch.lost(&status).unwrap();
        let mut search = watch.search.take().unwrap();
        let round = [search.next(), search.next(), search.next()];
        let expected = LeaderSearchStep::Call("b:1".to_owned());
        assert_eq!(round[2], expected, "{status}: {round:?}");
    }
}

#[tokio::test]
async fn a_search_has_its_time_however_long_the_stream_was_silent_before() {
    let cluster = FakeCluster::start(1).await;
    let masters = Masters::new(["127.0.0.1:1", &cluster.addresses()[0]]).unwrap();
    let deadline = Duration::from_secs(1);
    let mut watch = watch(&masters, 3, deadline);
    // Silent for longer than a search may take; then it ends.
    let (sender, receiver) = mpsc::channel(1);
    let events = ReceiverStream::new(receiver);
    watch.stream = Some(OpenStream {
        address: "127.0.0.1:1".to_owned(),
        events: Streaming::new_empty(
            NoEvents,
            Body::new(EncodeBody::new_client(NoEvents, events, None, None)),
        ),
    });
    let silence = async move {
        tokio::time::sleep(deadline + Duration::from_millis(100)).await;
        drop::<mpsc::Sender<Result<(), Status>>>(sender);
    };
    let (result, ()) = tokio::join!(watch.next(), silence);
    // The fake master does not support the call, and rejects it.
    assert!(matches!(result, Err(CallError::Refused(_))), "{result:?}");
}
