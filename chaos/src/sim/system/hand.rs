//! The operator's hand by which some faults are done: changes of the cluster that only its API can make.

use std::collections::BTreeSet;
use std::time::Duration;

use argosy_client::{CallError, Connector, ConnectorConfig, Masters, OperatorClient};
use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation as Write;
use argosy_state::ids::OfferId;

use super::world::{Order, RAFT, World, master_name};
use crate::sim::network;

/// How often it looks for something to do.
const LOOK: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(5);

/// Its process.
pub(super) async fn hand(world: World) -> turmoil::Result {
    let mut chance = world.new_life("hand");
    let config = ConnectorConfig {
        dialer: network::dialer("hand", &world.cuts),
        seed: chance.next(),
    };
    let masters = Masters::new(world.masters())?;
    let client = OperatorClient::new(Connector::new(masters, config)).with_deadline(PATIENCE);
    let mut count = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(order) = world.kept().orders.pop_front() else {
            continue;
        };
        if let Order::ListOffers = order {
            world.kept().open = list_offers(&client).await;
            continue;
        }
        count += 1;
        let done = carry_out(&client, order.clone(), count).await;
        if let Order::Join(place) = order {
            joined(&world, place, done);
        }
        world.notes.count(match done {
            true => "orders of the hand done",
            false => "orders of the hand not done",
        });
    }
}

/// A master that is not taken in is asked for again: without it the group bears no further loss.
fn joined(world: &World, place: usize, done: bool) {
    let mut kept = world.kept();
    match &mut kept.wiped {
        Some(wiped) if done => wiped.joined = true,
        Some(_) => kept.orders.push_back(Order::Join(place)),
        None => {}
    }
}

async fn list_offers(client: &OperatorClient) -> Option<BTreeSet<OfferId>> {
    let request = v1::ListRequest {
        page_size: 10_000,
        ..Default::default()
    };
    let page = client.list_offers(request).await.ok()?;
    let ids = page.offers.iter().map(|offer| offer.offer_id.parse());
    ids.collect::<Result<_, _>>().ok()
}

/// Whether it was done, as far as is known.
async fn carry_out(client: &OperatorClient, order: Order, count: u64) -> bool {
    let operation = match order {
        Order::Transfer => {
            let request = v1::TransferLeaderRequest::default();
            return client.transfer_leader(request).await.is_ok();
        }
        Order::Join(place) => {
            let raft_address = format!("{}:{RAFT}", master_name(place));
            let request = v1::JoinMasterRequest { raft_address };
            return match client.join_master(request).await {
                Ok(_) => true,
                // The answer to an earlier one was lost with its leader.
                Err(CallError::Refused(refusal)) => refusal.message.contains("is a voter already"),
                Err(_) => false,
            };
        }
        Order::ListOffers => return false,
        Order::Teardown(framework_id) => {
            Write::TeardownFramework(v1::TeardownFramework { framework_id })
        }
        Order::Deactivate(agent_id) => Write::DeactivateAgent(v1::DeactivateAgent { agent_id }),
        Order::Reactivate(agent_id) => Write::ReactivateAgent(v1::ReactivateAgent { agent_id }),
        Order::MarkGone(agent_id) => Write::MarkAgentGone(v1::MarkAgentGone { agent_id }),
    };
    let batch = v1::WriteBatch {
        request_id: format!("hand-{count}"),
        operations: vec![v1::WriteOperation {
            operation: Some(operation),
        }],
        ..Default::default()
    };
    client.write(batch).await.is_ok()
}
