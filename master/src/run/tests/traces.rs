//! The id of a request, from a client through a follower and the leader to an agent.

use argosy_proto::trace::{self, TraceContext, TraceIds};
use argosy_proto::v1::scheduler_client::SchedulerClient;
use argosy_proto::v1::scheduler_server::Scheduler;
use argosy_proto::{convert, v1};
use argosy_state::testing::{framework_info, spec};
use tonic::Request;

use super::actors::{ConnectionProof, TestCluster, link, protocol};
use super::routes::services;
use super::*;
use crate::service::spawn_reader;

const SESSION: u64 = 3;

fn subscription() -> v1::SubscribeRequest {
    v1::SubscribeRequest {
        protocol: protocol(),
        session: SESSION,
        info: Some(convert::framework_info(&framework_info("web"))),
        ..Default::default()
    }
}

/// Subscribes a framework, and waits for an offer.
pub(super) async fn offered(
    client: &mut SchedulerClient<tonic::transport::Channel>,
) -> (tonic::Streaming<v1::Event>, v1::Offer) {
    let subscribed = client.subscribe(subscription()).await;
    let mut events = subscribed.unwrap().into_inner();
    loop {
        let event = tokio::time::timeout(TIMEOUT, events.message()).await;
        let event = event.unwrap().unwrap().unwrap().event;
        if let Some(v1::event::Event::Offers(mut offers)) = event {
            return (events, offers.offers.remove(0));
        }
    }
}

pub(super) fn launch(offer: v1::Offer, number: u64) -> v1::AcceptRequest {
    let task = convert::spec(&spec(&format!("task-{number}"), "cpus:1;mem:64"));
    let launch = v1::Launch { tasks: vec![task] };
    v1::AcceptRequest {
        call: Some(v1::CallId {
            framework_id: offer.framework_id.clone(),
            session: SESSION,
            number,
            lowest_unanswered: number,
        }),
        offers: vec![v1::HeldOffer { offer: Some(offer) }],
        operations: vec![v1::Operation {
            operation: Some(v1::operation::Operation::Launch(launch)),
        }],
        // The rest is offered again at once.
        filter_ms: Some(0),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_of_a_call_reaches_the_agent_by_way_of_a_follower() {
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let (leader, follower) = cluster.places().await;
    let (_sender, mut orders) = link(&cluster, "agent/host-1", leader).await;
    let mut client = SchedulerClient::new(cluster.channel("framework/web", follower));
    let (mut events, mut offer) = offered(&mut client).await;
    let given = TraceIds::new(11).next();
    // The second call has no id: the follower, which the client calls, makes one.
    for (number, header) in [(1, Some(given.to_string())), (2, None)] {
        let mut call = Request::new(launch(offer, number));
        if let Some(header) = &header {
            let value = header.parse().unwrap();
            call.metadata_mut().insert(trace::HEADER, value);
        }
        let answer = tokio::time::timeout(TIMEOUT, client.accept(call)).await;
        let answer = answer.unwrap().unwrap();
        let id = answer.metadata().get(trace::REPLY_HEADER).unwrap();
        let id = id.to_str().unwrap().to_owned();
        let order = loop {
            let message = tokio::time::timeout(TIMEOUT, orders.message()).await;
            let message = message.unwrap().unwrap().unwrap().message;
            if let Some(v1::to_agent::Message::Order(order)) = message {
                break order;
            }
        };
        let traceparent = TraceContext::parse(&order.traceparent);
        assert_eq!(traceparent.unwrap().id().to_string(), id, "call {number}");
        if let Some(header) = header {
            assert_eq!(order.traceparent, header);
            assert_eq!(id, given.id().to_string());
        }
        offer = loop {
            let event = tokio::time::timeout(TIMEOUT, events.message()).await;
            let event = event.unwrap().unwrap().unwrap().event;
            if let Some(v1::event::Event::Offers(mut offers)) = event {
                break offers.offers.remove(0);
            }
        };
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_id_of_a_subscription_reaches_the_owner_with_its_begin_and_its_end() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    let mut handle = alone.handle.clone();
    let (_links, links) = mpsc::channel(8);
    handle.calls = OwnerCalls::new();
    let calls = handle.calls.clone();
    let mut inbox = Inbox { links, calls };
    let services = services(&handle);
    let context = TraceIds::new(5).next();
    let subscribed = Scheduler::subscribe(&services, Request::new(subscription()));
    let events = trace::scope(Some(context), subscribed).await.unwrap();
    // Whatever requests end the stream, it has the id of its own.
    drop(events);
    let mut traced = Vec::new();
    while traced.len() < 2 {
        let mut received = Vec::new();
        let receiving = inbox.receive(&mut received, 2);
        assert!(tokio::time::timeout(TIMEOUT, receiving).await.unwrap());
        match received.pop().unwrap() {
            OwnerMessage::FrameworkLink(_, _, _, context) => traced.push(("begin", context)),
            OwnerMessage::TracedInput(Input::FrameworkClosed { .. }, context) => {
                traced.push(("end", context));
            }
            _ => panic!("another message"),
        }
    }
    assert_eq!(traced, [("begin", Some(context)), ("end", Some(context))]);
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_compute_with_the_id_of_their_request() {
    let alone = SingleMaster::start().await;
    let context = TraceIds::new(6).next();
    let computed = async {
        tokio::task::yield_now().await;
        trace::current()
    };
    let computed = spawn_reader(&alone.handle, computed);
    let found = trace::scope(Some(context), computed).await.unwrap();
    assert_eq!(found, Some(context));
    alone.end().await;
}
