//! The id of a request, from a client through a follower and the leader to an agent.

use argosy_proto::trace::{self, TraceContext, TraceIds};
use argosy_proto::v1::scheduler_client::SchedulerClient;
use argosy_proto::{convert, v1};
use argosy_state::testing::{framework_info, spec};
use tonic::Request;

use super::actors::{ConnectionProof, TestCluster, link, protocol};
use super::*;

const SESSION: u64 = 3;

/// Subscribes a framework, and waits for an offer.
async fn offered(
    client: &mut SchedulerClient<tonic::transport::Channel>,
) -> (tonic::Streaming<v1::Event>, v1::Offer) {
    let request = v1::SubscribeRequest {
        protocol: protocol(),
        session: SESSION,
        info: Some(convert::framework_info(&framework_info("web"))),
        ..Default::default()
    };
    let mut events = client.subscribe(request).await.unwrap().into_inner();
    loop {
        let event = tokio::time::timeout(TIMEOUT, events.message()).await;
        let event = event.unwrap().unwrap().unwrap().event;
        if let Some(v1::event::Event::Offers(mut offers)) = event {
            return (events, offers.offers.remove(0));
        }
    }
}

fn launch(offer: v1::Offer, number: u64) -> v1::AcceptRequest {
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
