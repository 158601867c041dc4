//! Tests of the API of a group of three: streams and calls that a follower forwards to the leader.

use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::rtt::TestMasters;
use super::*;

/// Streams of one client's connection: fewer than a server accepts.
const PER_CONNECTION: u64 = 75;

fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_lazy()
}

async fn subscribed(channel: Channel, session: u64) -> Result<Streaming<v1::Event>, String> {
    let request = v1::SubscribeRequest {
        protocol: Some(argosy_proto::versions::VersionRange::OWN.first_message()),
        // It identifies a framework without an id.
        session,
        info: Some(v1::FrameworkInfo {
            name: format!("scheduler-{session}"),
            principal: "test".to_owned(),
            roles: vec!["ops".to_owned()],
            failover_timeout_ms: Some(60_000),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut client = SchedulerClient::new(channel);
    // A follower waits for the answer of its leader for only a second.
    let opening = async {
        loop {
            match client.subscribe(request.clone()).await {
                Err(status) if status.code() == tonic::Code::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                opened => return opened,
            }
        }
    };
    let mut stream = timeout(TIMEOUT, opening)
        .await
        .map_err(|_| "it does not open")?
        .map_err(|status| status.to_string())?;
    loop {
        let first = timeout(TIMEOUT, stream.get_mut().message()).await;
        let first = first
            .map_err(|_| "it is silent")?
            .map_err(|status| status.to_string())?;
        match first.and_then(|event| event.event) {
            Some(v1::event::Event::Subscribed(_)) => return Ok(stream.into_inner()),
            Some(v1::event::Event::Heartbeat(_)) => {}
            other => return Err(format!("{other:?}")),
        }
    }
}

/// Reads `count` heartbeats, or returns how the stream ended.
async fn heartbeats(stream: &mut Streaming<v1::Event>, count: usize) -> Result<(), String> {
    let mut heard = 0;
    while heard < count {
        let event = match timeout(TIMEOUT, stream.message()).await {
            Ok(Ok(Some(event))) => event,
            Ok(Ok(None)) => return Err("it ended".to_owned()),
            Ok(Err(status)) => return Err(status.to_string()),
            Err(_) => return Err("it is silent".to_owned()),
        };
        heard += usize::from(matches!(event.event, Some(v1::event::Event::Heartbeat(_))));
    }
    Ok(())
}

/// Opens hundreds of streams at a follower, reads all but one, and makes calls through the same
/// follower.
async fn streams_and_calls(follower: &str) -> Result<(), String> {
    let mut streams = Vec::new();
    for connection in 0..4 {
        let shared = channel(follower);
        for at in 0..PER_CONNECTION {
            let session = connection * PER_CONNECTION + at + 1;
            streams.push(subscribed(shared.clone(), session).await?);
        }
    }
    let _unread = subscribed(channel(follower), 1_000).await?;
    let heard = join_all(streams.iter_mut().map(|stream| heartbeats(stream, 4))).await;
    let broken: Vec<_> = heard.into_iter().filter_map(Result::err).collect();
    if let Some(why) = broken.first() {
        return Err(format!(
            "{} of {} streams broke: {why}",
            broken.len(),
            streams.len()
        ));
    }
    let client = OperatorClient::new(channel(follower));
    let calls = (0..20).map(|at| {
        let mut client = client.clone();
        async move {
            let weight = v1::SetWeight {
                role: format!("role-{at}"),
                weight_milli: 2_000,
            };
            let operation = v1::write_operation::Operation::SetWeight(weight);
            let operations = vec![v1::WriteOperation {
                operation: Some(operation),
            }];
            client
                .write_one(v1::WriteBatch {
                    operations,
                    ..Default::default()
                })
                .await
        }
    });
    let answers = timeout(TIMEOUT, join_all(calls))
        .await
        .map_err(|_| "calls hang")?;
    let answers: Result<Vec<_>, _> = answers.into_iter().collect();
    answers.map_err(|status| status.to_string())?;
    Ok(())
}

/// A heartbeat is one small frame. In an earlier version, 134 of them at the same time overloaded
/// the one connection between masters, and 200 streams left no room for a call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_follower_forwards_hundreds_of_streams_and_calls() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    // A busy host may change the leader, which ends every stream: that proves nothing, and is
    // retried.
    for _ in 0..5 {
        let (leader, _) = masters.leader().await;
        let epoch = masters.epoch().await;
        let found = streams_and_calls(&masters.api[(leader + 1) % 3]).await;
        match found {
            Ok(()) => return masters.end().await,
            Err(why) if epoch == masters.epoch().await => panic!("{why}"),
            Err(_) => {}
        }
    }
    panic!("no leader stays active");
}

/// Opens streams and calls at a follower and drops them immediately: from several connections, many
/// at the same moment, at all moments from before they are sent to after they are answered.
async fn opened_and_dropped(follower: &str, tries: u64) {
    const AT_ONCE: u64 = 40;
    let clients = (0..8).map(|client| async move {
        for at in 0..tries {
            let shared = channel(follower);
            let first = 10_000 + (client * tries + at) * AT_ONCE;
            let streams = (0..AT_ONCE).map(|more| subscribed(shared.clone(), first + more));
            let calls = (0..AT_ONCE).map(|_| {
                let mut operator = OperatorClient::new(shared.clone());
                async move { operator.list_agents(v1::ListRequest::default()).await }
            });
            let limit = Duration::from_micros(500 * (at % 40));
            let _ = timeout(limit, async {
                tokio::join!(join_all(streams), join_all(calls))
            })
            .await;
        }
    });
    join_all(clients).await;
}

/// A server ends a connection whose peer resets too many streams. Masters share connections among
/// their clients, so one client that resets its streams may not count against the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_a_client_opens_and_drops_end_no_stream_of_another_client() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    for _ in 0..5 {
        let (leader, _) = masters.leader().await;
        let epoch = masters.epoch().await;
        let follower = &masters.api[(leader + 1) % 3];
        let mut streams = Vec::new();
        for session in 1..=20 {
            streams.push(subscribed(channel(follower), session).await);
        }
        let listening = async {
            let streams = streams.iter_mut().filter_map(|stream| stream.as_mut().ok());
            join_all(streams.map(|stream| heartbeats(stream, 4))).await
        };
        let (heard, ()) = tokio::join!(listening, opened_and_dropped(follower, 80));
        let broken: Vec<_> = heard
            .iter()
            .filter_map(|heard| heard.as_ref().err())
            .collect();
        if heard.len() == streams.len() && broken.is_empty() {
            return masters.end().await;
        }
        if epoch == masters.epoch().await {
            panic!(
                "of 20 streams {} are left: {broken:?}",
                heard.len() - broken.len()
            );
        }
    }
    panic!("no leader stays active");
}

/// Subscribes with the longest release that the size of a call allows, in a version that no master
/// supports. Returns the code of the refusal.
async fn refused_with_long_release(follower: &str) -> tonic::Code {
    let request = v1::SubscribeRequest {
        protocol: Some(v1::Protocol {
            version: 99,
            release: "x".repeat(512 << 10),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut client = SchedulerClient::new(channel(follower));
    let opened = timeout(TIMEOUT, client.subscribe(request)).await;
    opened.unwrap().expect_err("no such version").code()
}

/// Masters share connections among their clients, and a client of HTTP/2 ends a connection when a
/// header of an answer is too long for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_with_a_long_text_in_its_error_ends_no_stream_of_another_client() {
    let masters = TestMasters::start_timed(Timing::wan()).await;
    for _ in 0..5 {
        let (leader, _) = masters.leader().await;
        let epoch = masters.epoch().await;
        let follower = &masters.api[(leader + 1) % 3];
        let mut streams = Vec::new();
        for session in 1..=20 {
            streams.push(subscribed(channel(follower), session).await);
        }
        let code = refused_with_long_release(follower).await;
        let listening = streams.iter_mut().filter_map(|stream| stream.as_mut().ok());
        let heard = join_all(listening.map(|stream| heartbeats(stream, 2))).await;
        let broken = heard.iter().filter_map(|heard| heard.as_ref().err());
        let broken: Vec<_> = broken.collect();
        let is_refused = code == tonic::Code::FailedPrecondition;
        if is_refused && heard.len() == streams.len() && broken.is_empty() {
            return masters.end().await;
        }
        if epoch == masters.epoch().await {
            let left = heard.len() - broken.len();
            panic!("{code:?}; of 20 streams {left} are left: {broken:?}");
        }
    }
    panic!("no leader stays active");
}
