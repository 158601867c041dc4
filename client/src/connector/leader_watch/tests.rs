//! Tests with leaders that fall silent, and masters that report the next one. No heartbeats are
//! sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::agents_server::{Agents, AgentsServer};
use argosy_proto::v1::leadership_server::{Leadership, LeadershipServer};
use argosy_proto::v1::reigns_server::{Reigns, ReignsServer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::connector::{Connector, ConnectorConfig, FIRST_ATTEMPT};
use crate::leader::LeaderSearchStep;
use crate::uplink::Uplink;
use crate::{AgentUplink, Masters};

const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// A master whose every message the test writes.
struct ScriptedMaster {
    address: String,
    leadership: watch::Sender<Option<v1::Reign>>,
    listeners: Arc<AtomicUsize>,
    /// The epoch in which it serves agents; 0: it does not answer them.
    serving_epoch: watch::Sender<u64>,
    /// Number of agents that are rejected first.
    refusals: Arc<AtomicUsize>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct ScriptedService {
    leadership: watch::Receiver<Option<v1::Reign>>,
    listeners: Arc<AtomicUsize>,
    serving_epoch: watch::Receiver<u64>,
    refusals: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Agents for ScriptedService {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::ToAgent, Status>> + Send>>;

    async fn connect(
        &self,
        _: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut serves = self.serving_epoch.clone();
        let served = serves.wait_for(|epoch| *epoch > 0).await;
        let epoch = *served.map_err(|_| Status::unavailable("the test is over"))?;
        let fewer = |left: usize| left.checked_sub(1);
        let refusals = &self.refusals;
        if refusals
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer)
            .is_ok()
        {
            return Err(Status::unavailable("the leader was replaced"));
        }
        let (sender, receiver) = mpsc::channel(1);
        let first = v1::ToAgent {
            epoch,
            ..Default::default()
        };
        sender.try_send(Ok(first)).unwrap();
        // Open and silent without limit.
        let receiver = ReceiverStream::new(receiver).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(receiver)))
    }
}

type ReignStream = Pin<Box<dyn Stream<Item = Result<v1::Reign, Status>> + Send>>;

#[tonic::async_trait]
impl Leadership for ScriptedService {
    type WatchStream = ReignStream;

    async fn watch(&self, _: Request<v1::WatchReigns>) -> Result<Response<ReignStream>, Status> {
        self.listeners.fetch_add(1, Ordering::Relaxed);
        let epochs = WatchStream::new(self.leadership.clone());
        let reported = epochs.filter_map(|epoch_record| epoch_record.map(Ok));
        Ok(Response::new(Box::pin(reported)))
    }
}

#[tonic::async_trait]
impl Reigns for ScriptedService {
    type WatchStream = ReignStream;

    async fn watch(
        &self,
        request: Request<v1::WatchReigns>,
    ) -> Result<Response<ReignStream>, Status> {
        Leadership::watch(self, request).await
    }
}

/// The name under which a master serves the watch.
enum Watched {
    Leadership,
    /// As release 0.1.0 does.
    Reigns,
}

impl ScriptedMaster {
    async fn start(serves: u64) -> Self {
        Self::start_as(serves, Watched::Leadership).await
    }

    async fn start_as(serves: u64, watched: Watched) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (epoch_record, reign_seen) = watch::channel(None);
        let (serves, serves_seen) = watch::channel(serves);
        let listeners = Arc::new(AtomicUsize::new(0));
        let service = ScriptedService {
            leadership: reign_seen,
            listeners: Arc::clone(&listeners),
            serving_epoch: serves_seen,
            refusals: Arc::default(),
        };
        let refusals = Arc::clone(&service.refusals);
        let task = tokio::spawn(async move {
            let mut server = tonic::transport::Server::builder();
            let server = server.add_service(AgentsServer::new(service.clone()));
            let server = match watched {
                Watched::Leadership => server.add_service(LeadershipServer::new(service)),
                Watched::Reigns => server.add_service(ReignsServer::new(service)),
            };
            let streams = TcpListenerStream::new(listener);
            server.serve_with_incoming(streams).await.unwrap();
        });
        Self {
            address,
            leadership: epoch_record,
            listeners,
            serving_epoch: serves,
            refusals,
            _task: tokio_util::task::AbortOnDropHandle::new(task),
        }
    }

    /// Reports from now on that `leader` leads in `epoch`.
    fn announce(&self, epoch: u64, leader: &ScriptedMaster) {
        self.leadership.send_replace(Some(v1::Reign {
            epoch,
            leader_address: leader.address.clone(),
            here: leader.address == self.address,
        }));
    }
}

fn connector(masters: &[&ScriptedMaster]) -> Connector {
    let masters = Masters::new(masters.iter().map(|master| &master.address)).unwrap();
    let config = ConnectorConfig {
        seed: 3,
        ..Default::default()
    };
    Connector::new(masters, config)
}

async fn open_link(connector: &Connector) -> (Uplink, v1::ToAgent) {
    let uplink = AgentUplink::new(connector.clone());
    let linked = async {
        let mut link = uplink
            .connect(v1::Hello::default(), STEP_TIMEOUT)
            .await
            .unwrap();
        let first = link.inbound.message().await.unwrap().unwrap();
        (link, first)
    };
    tokio::time::timeout(STEP_TIMEOUT, linked)
        .await
        .expect("no link")
}

/// Reads until the stream ends early, which a new epoch must cause.
async fn wait_for_end(link: &mut Uplink) -> String {
    let reported = tokio::time::timeout(STEP_TIMEOUT, link.inbound.message()).await;
    reported
        .expect("the stream stays open")
        .unwrap_err()
        .message()
        .to_owned()
}

#[tokio::test]
async fn a_silent_leaders_stream_ends_when_another_master_reports_a_new_epoch() {
    let (silent, next, other) = (
        ScriptedMaster::start(5).await,
        ScriptedMaster::start(0).await,
        ScriptedMaster::start(0).await,
    );
    let connector = connector(&[&silent, &next, &other]);
    connector.note_leader(&silent.address);
    let (mut link, first) = open_link(&connector).await;
    assert_eq!((first.epoch, &link.address), (5, &silent.address));
    // The epoch of the stream itself is no news, nor is a candidate's earlier one.
    other.announce(5, &silent);
    next.announce(4, &next);
    let early = tokio::time::timeout(Duration::from_millis(100), link.inbound.message()).await;
    assert!(early.is_err(), "it ended: {early:?}");
    next.serving_epoch.send_replace(9);
    next.announce(9, &next);
    other.announce(9, &next);
    assert_eq!(
        wait_for_end(&mut link).await,
        format!("{} leads since epoch 9", next.address)
    );
    assert_eq!(
        silent.listeners.load(Ordering::Relaxed),
        0,
        "the leader is not listened to"
    );
    let (link, first) = open_link(&connector).await;
    assert_eq!((first.epoch, &link.address), (9, &next.address));
}

#[tokio::test]
async fn a_master_of_an_earlier_release_reports_new_epochs() {
    let silent = ScriptedMaster::start(5).await;
    let former = ScriptedMaster::start_as(9, Watched::Reigns).await;
    let connector = connector(&[&silent, &former]);
    connector.note_leader(&silent.address);
    let (mut link, _) = open_link(&connector).await;
    former.announce(9, &former);
    assert_eq!(
        wait_for_end(&mut link).await,
        format!("{} leads since epoch 9", former.address)
    );
    assert_eq!(former.listeners.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_search_does_not_wait_at_a_master_that_knows_no_leader() {
    let (silent, next) = (
        ScriptedMaster::start(0).await,
        ScriptedMaster::start(7).await,
    );
    let connector = connector(&[&silent, &next]);
    connector.note_leader(&silent.address);
    next.announce(7, &next);
    // Shorter than a master's timeout: waiting for it leaves no time for the other one.
    let uplink = AgentUplink::new(connector.clone());
    let found = uplink
        .connect(v1::Hello::default(), Duration::from_secs(2))
        .await;
    assert_eq!(found.map(|link| link.address), Ok(next.address.clone()));
}

/// A new process knows no leader. If the first master that it calls is cut off, it must not wait
/// for a report of that one.
#[tokio::test]
async fn a_new_process_listens_at_another_master_than_the_silent_one_that_it_calls() {
    let (silent, next) = (
        ScriptedMaster::start(0).await,
        ScriptedMaster::start(7).await,
    );
    next.announce(7, &next);
    let masters = Masters::new([&silent.address, &next.address]).unwrap();
    let of_seed = |seed| {
        let config = ConnectorConfig {
            seed,
            ..Default::default()
        };
        Connector::new(masters.clone(), config)
    };
    let first = LeaderSearchStep::Call(silent.address.clone());
    let seed = (0..).find(|seed| of_seed(*seed).search_any().next() == first);
    let uplink = AgentUplink::new(of_seed(seed.unwrap()));
    let found = uplink.connect(v1::Hello::default(), FIRST_ATTEMPT).await;
    assert_eq!(found.map(|link| link.address), Ok(next.address.clone()));
    assert_eq!(silent.listeners.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn one_leadership_stream_serves_a_process_and_resumes_at_another_master() {
    let (first, second) = (
        ScriptedMaster::start(5).await,
        ScriptedMaster::start(0).await,
    );
    let connector = connector(&[&first, &second]);
    connector.note_leader(&first.address);
    second.announce(5, &first);
    let (mut one, _) = open_link(&connector).await;
    let (mut two, _) = open_link(&connector).await;
    for link in [&mut one, &mut two] {
        let quiet = tokio::time::timeout(Duration::from_millis(50), link.inbound.message()).await;
        assert!(quiet.is_err(), "it ended: {quiet:?}");
    }
    drop(one);
    while second.listeners.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(second.listeners.load(Ordering::Relaxed), 1);
    second.announce(6, &second);
    wait_for_end(&mut two).await;
    // A caller that continues to read receives the same error.
    wait_for_end(&mut two).await;
}

#[tokio::test]
async fn a_single_master_is_not_called_repeatedly() {
    let only = ScriptedMaster::start(5).await;
    // The list names it differently than it names itself.
    let port = only.address.rsplit_once(':').unwrap().1;
    let masters = Masters::new([format!("localhost:{port}")]).unwrap();
    let connector = Connector::new(masters, ConnectorConfig::default());
    let (mut link, _) = open_link(&connector).await;
    only.announce(5, &only);
    let quiet = tokio::time::timeout(Duration::from_millis(500), link.inbound.message()).await;
    assert!(quiet.is_err(), "it ended: {quiet:?}");
    let asked = only.listeners.load(Ordering::Relaxed);
    assert!(asked <= 6, "it was asked {asked} times");
}

#[tokio::test]
async fn a_search_leaves_a_master_without_a_leader_after_a_timeout() {
    let (leader, silent, other) = (
        ScriptedMaster::start(5).await,
        ScriptedMaster::start(0).await,
        ScriptedMaster::start(0).await,
    );
    let connector = connector(&[&leader, &silent, &other]);
    connector.note_leader(&leader.address);
    let (mut link, _) = open_link(&connector).await;
    // The first that is not the leader is tried first.
    other.announce(9, &other);
    wait_for_end(&mut link).await;
    assert_eq!(silent.listeners.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_failed_master_is_tried_after_an_unknown_one() {
    let (silent, leader, other) = (
        ScriptedMaster::start(3).await,
        ScriptedMaster::start(5).await,
        ScriptedMaster::start(0).await,
    );
    let connector = connector(&[&silent, &leader, &other]);
    connector.note_leader(&silent.address);
    drop(open_link(&connector).await);
    connector.note_leader(&leader.address);
    let (mut link, _) = open_link(&connector).await;
    assert!(connector.is_responsive(&silent.address) && !connector.is_responsive(&other.address));
    other.announce(9, &other);
    wait_for_end(&mut link).await;
    assert_eq!(silent.listeners.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_search_returns_to_a_master_that_has_become_leader() {
    let (next, silent) = (
        ScriptedMaster::start(0).await,
        ScriptedMaster::start(0).await,
    );
    let connector = connector(&[&next, &silent]);
    connector.note_leader(&next.address);
    next.refusals.store(1, Ordering::Relaxed);
    let uplink = AgentUplink::new(connector.clone());
    // Shorter than a master's timeout: waiting for the silent one leaves no time.
    let hello = v1::Hello::default();
    let search = uplink.connect(hello, Duration::from_millis(2_500));
    let reported = async {
        silent.announce(7, &next);
        // Once it is reported as the leader, it rejects agents that came before.
        connector
            .until_replaced(Some(0), "nobody:1".to_owned())
            .await;
        next.serving_epoch.send_replace(7);
    };
    let (found, ()) = tokio::join!(search, reported);
    assert_eq!(found.map(|link| link.address), Ok(next.address.clone()));
}
