//! Schedulers whose streams end, and that resubscribe while the cluster records their
//! disconnection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argosy_client::OperatorClient;
use argosy_proto::v1;
use argosy_proto::v1::event::Event;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::{Cluster, wait_until};

const LONG: Duration = Duration::from_secs(20);
const SCHEDULERS: usize = 300;
/// Time without a stream before the leader proposes to disconnect the framework.
const GRACE: Duration = Duration::from_secs(1);
/// Time before the end of the grace period at which the resubscriptions begin. One follows a
/// millisecond after the other.
const BEFORE: Duration = Duration::from_millis(50);
/// The window of the race is a few milliseconds wide. Without the fix, 5 and 9 of 300 were stranded
/// in the first round.
const ROUNDS: usize = 2;

/// The numbers of events that the streams of one scheduler have received.
#[derive(Default)]
struct StreamCounts {
    subscriptions: AtomicU64,
    heartbeats: AtomicU64,
}

/// One scheduler, which resubscribes when its stream ends.
struct TestScheduler {
    request: v1::SubscribeRequest,
    received: Arc<StreamCounts>,
    /// The stream is open until this is dropped.
    reader: Option<AbortOnDropHandle<()>>,
}

impl TestScheduler {
    fn new(number: usize) -> Self {
        let info = v1::FrameworkInfo {
            name: format!("scheduler-{number}"),
            roles: vec!["*".to_owned()],
            // Far longer than this test.
            failover_timeout_ms: Some(600_000),
            ..Default::default()
        };
        let protocol = argosy_proto::versions::VersionRange::OWN.first_message();
        let request = v1::SubscribeRequest {
            protocol: Some(protocol),
            info: Some(info),
            session: number as u64 + 1,
            ..Default::default()
        };
        Self {
            request,
            received: Arc::default(),
            reader: None,
        }
    }

    /// Subscribes at this time.
    fn start(&mut self, channel: &Channel, at: Instant) {
        let (client, request) = (SchedulerClient::new(channel.clone()), self.request.clone());
        let received = Arc::clone(&self.received);
        let reader = async move {
            tokio::time::sleep_until(at).await;
            loop {
                read(client.clone(), request.clone(), &received).await;
            }
        };
        self.reader = Some(AbortOnDropHandle::new(tokio::spawn(reader)));
    }

    fn close(&mut self) {
        self.reader = None;
    }

    fn subscriptions(&self) -> u64 {
        self.received.subscriptions.load(Ordering::Relaxed)
    }

    fn heartbeats(&self) -> u64 {
        self.received.heartbeats.load(Ordering::Relaxed)
    }
}

/// Reads one stream until it ends.
async fn read(
    mut client: SchedulerClient<Channel>,
    request: v1::SubscribeRequest,
    received: &StreamCounts,
) {
    let Ok(stream) = client.subscribe(request).await else {
        return tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut stream = stream.into_inner();
    while let Ok(Some(event)) = stream.message().await {
        match event.event {
            Some(Event::Subscribed(_)) => received.subscriptions.fetch_add(1, Ordering::Relaxed),
            Some(Event::Heartbeat(_)) => received.heartbeats.fetch_add(1, Ordering::Relaxed),
            Some(Event::Error(error)) => panic!("the stream ends with {error:?}"),
            _ => continue,
        };
    }
}

/// Returns the frameworks that the operator sees as disconnected, or that are missing.
async fn disconnected_frameworks(operator: &OperatorClient) -> Option<Vec<v1::Framework>> {
    let page = operator.list_frameworks(v1::ListRequest::default()).await;
    let all = page.ok()?.frameworks;
    assert_eq!(all.len(), SCHEDULERS);
    let is_stranded =
        |one: &v1::Framework| !one.connected || !one.active || one.expires_in_ms.is_some();
    Some(all.into_iter().filter(is_stranded).collect())
}

/// Waits until every scheduler has a stream that receives heartbeats, and none is recorded as
/// disconnected.
async fn all_are_connected(schedulers: &[TestScheduler], operator: &OperatorClient) {
    let deadline = Instant::now() + LONG;
    loop {
        // Entries that are in flight to the log now are applied before the second heartbeat after
        // this.
        let before: Vec<u64> = schedulers.iter().map(TestScheduler::heartbeats).collect();
        wait_until("every stream brings heartbeats", LONG, async || {
            let mut both = schedulers.iter().zip(&before);
            both.all(|(scheduler, before)| scheduler.heartbeats() > before + 1)
                .then_some(())
        })
        .await;
        let stranded = wait_until("the frameworks are listed", LONG, async || {
            disconnected_frameworks(operator).await
        })
        .await;
        if stranded.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{} have streams with heartbeats and are recorded as disconnected: {stranded:#?}",
            stranded.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schedulers_that_return_while_their_disconnection_is_committed_are_connected() {
    let grace = format!("{}ms", GRACE.as_millis());
    let mut cluster = Cluster::start_with(0, &["--framework-disconnect-timeout", &grace]).await;
    cluster.release_machine();
    let leader = cluster.leader().await;
    let url = format!("http://{}", cluster.masters[leader].api());
    let channel = Endpoint::from_shared(url).unwrap().connect_lazy();
    let operator = cluster.operator();
    let mut schedulers: Vec<_> = (0..SCHEDULERS).map(TestScheduler::new).collect();
    for scheduler in &mut schedulers {
        scheduler.start(&channel, Instant::now());
    }
    wait_until("all are subscribed", LONG, async || {
        let mut all = schedulers.iter();
        all.all(|one| one.subscriptions() > 0).then_some(())
    })
    .await;
    for _ in 0..ROUNDS {
        schedulers.iter_mut().for_each(TestScheduler::close);
        let first = Instant::now() + GRACE - BEFORE;
        for (number, scheduler) in schedulers.iter_mut().enumerate() {
            scheduler.start(&channel, first + Duration::from_millis(number as u64));
        }
        tokio::time::sleep_until(first).await;
        all_are_connected(&schedulers, &operator).await;
    }
}
