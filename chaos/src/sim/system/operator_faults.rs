//! The operator that carries out some faults: changes of the cluster that need its API.

use std::collections::BTreeSet;
use std::time::Duration;

use argosy_client::{CallError, Connector, ConnectorConfig, Masters, OperatorClient};
use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation as Write;
use argosy_state::ids::OfferId;
use argosy_state::level::Level;

use super::world::{OperatorRequest, RAFT, World, master_name};
use crate::history::{Operation, OperationResponse};
use crate::sim::network;

/// Interval at which it polls its requests.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The beginning of a master's message about an existing voter, up to its id.
const EXISTING_VOTER: &str = "is a voter already (id ";
/// Maximum number of requests for one transfer.
const TRANSFERS: usize = 3;
/// A part of a master's message that the leader, to which it forwarded a change, may or may not
/// have received it.
const UNFINISHED: &str = "repeating the change is safe";
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs its process.
pub(super) async fn run_operator(world: World) -> turmoil::Result {
    let mut rng = world.new_incarnation("hand");
    let config = ConnectorConfig {
        dialer: network::dialer("hand", &world.cuts),
        seed: rng.next(),
    };
    let masters = Masters::new(world.masters())?;
    let client = OperatorClient::new(Connector::new(masters, config)).with_deadline(TIMEOUT);
    let mut count = 0;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let Some(order) = world.state().requests.pop_front() else {
            continue;
        };
        if let OperatorRequest::ListOffers = order {
            world.state().open = list_offers(&client).await;
            continue;
        }
        count += 1;
        world.state().operator_busy = true;
        let done = match order {
            OperatorRequest::Join(place) => join(&world, &client, place).await,
            OperatorRequest::Remove(place) => remove(&world, &client, place).await,
            OperatorRequest::RaiseLevel => raise_level(&world, &client).await,
            order => carry_out(&world, &client, order, count).await,
        };
        world.state().operator_busy = false;
        world.notes.count(match done {
            true => "orders of the operator done",
            false => "orders of the operator not done",
        });
    }
}

/// Raises the feature level, and repeats the request until it is done: a master that is down does
/// not report the levels that it supports.
async fn raise_level(world: &World, client: &OperatorClient) -> bool {
    let level = Level::NEWEST.0;
    match client.raise_level(v1::RaiseLevelRequest { level }).await {
        Ok(reply) if reply.level == level => {
            world.notes.count("levels raised");
            true
        }
        Ok(reply) => {
            let message = format!("the level is {} after a raise to {level}", reply.level);
            world.notes.violation(message);
            true
        }
        Err(why) => {
            note_reason(world, &why);
            world
                .state()
                .requests
                .push_back(OperatorRequest::RaiseLevel);
            false
        }
    }
}

/// Lets a master join. A failed request is repeated: without the master the group tolerates no
/// further loss.
async fn join(world: &World, client: &OperatorClient, place: usize) -> bool {
    let raft_address = address(place);
    let request = v1::JoinMasterRequest { raft_address };
    let id = match client.join_master(request).await {
        Ok(reply) => id_at(&reply.masters, place),
        // The response to an earlier request was lost with its leader.
        Err(CallError::Refused(refusal)) if refusal.message.contains(EXISTING_VOTER) => {
            known_id(&refusal.message)
        }
        Err(why) => {
            note_reason(world, &why);
            None
        }
    };
    let mut state = world.state();
    if let Some(id) = id {
        state.ids.insert(place, id);
    }
    match (&mut state.wiped, id) {
        (Some(wiped), Some(_)) => wiped.joined = true,
        (Some(_), None) => state.requests.push_back(OperatorRequest::Join(place)),
        (None, _) => {}
    }
    id.is_some()
}

/// Whether the request may or may not have been carried out, and may be repeated: a connection was
/// lost, here or behind the master that received it.
fn is_open(why: &CallError) -> bool {
    match why {
        CallError::Unanswered { .. } => true,
        CallError::Refused(refusal) => refusal.message.contains(UNFINISHED),
        CallError::NoMaster(_) => false,
    }
}

/// Stores the reason, for a later message about requests that are left.
fn note_reason(world: &World, why: &CallError) {
    world.state().operator_error = why.to_string();
}

/// Parses "… is a voter already (id 57)".
fn known_id(message: &str) -> Option<u64> {
    let (_, rest) = message.split_once(EXISTING_VOTER)?;
    rest.split(')').next()?.parse().ok()
}

/// Removes a master. A failed request is repeated.
async fn remove(world: &World, client: &OperatorClient, place: usize) -> bool {
    let id = world.state().id(place);
    let node_id = format!("master-{id}");
    let request = v1::RemoveMasterRequest { node_id };
    let removed = match client.remove_master(request).await {
        Ok(_) => true,
        // The response to an earlier request was lost, or the master has another id by now that was
        // not reported.
        Err(CallError::Refused(refusal)) if refusal.message.contains("no master has the id") => {
            match member(client, place).await {
                Ok(Some(id)) => {
                    world.state().ids.insert(place, id);
                    false
                }
                Ok(None) => true,
                Err(why) => {
                    note_reason(world, &why);
                    false
                }
            }
        }
        Err(why) => {
            note_reason(world, &why);
            false
        }
    };
    let mut state = world.state();
    match &mut state.leaving {
        Some(leaving) if removed => leaving.removed = true,
        Some(_) => state.requests.push_back(OperatorRequest::Remove(place)),
        None => {}
    }
    removed
}

/// Returns the id of the member with the address of this place.
async fn member(client: &OperatorClient, place: usize) -> Result<Option<u64>, CallError> {
    let request = v1::GetClusterRequest {
        consistency: v1::Consistency::Linearizable.into(),
    };
    let cluster = client.get_cluster(request).await?;
    Ok(id_at(&cluster.masters, place))
}

/// Returns the newest id at the address of this place. While a change is in progress, the former id
/// of a replaced master is listed too.
fn id_at(masters: &[v1::Master], place: usize) -> Option<u64> {
    let address = address(place);
    let members = masters
        .iter()
        .filter(|master| master.raft_address == address);
    let ids = members.filter_map(|master| master.node_id.strip_prefix("master-")?.parse().ok());
    ids.max()
}

fn address(place: usize) -> String {
    format!("{}:{RAFT}", master_name(place))
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

/// Carries out a request. Returns whether it was done, as far as is known.
async fn carry_out(
    world: &World,
    client: &OperatorClient,
    order: OperatorRequest,
    count: u64,
) -> bool {
    let operation = match order {
        OperatorRequest::Transfer(to) => {
            let node_id = to.map(master_name).unwrap_or_default();
            let request = v1::TransferLeaderRequest { node_id };
            for _ in 0..TRANSFERS {
                let Err(why) = client.transfer_leader(request.clone()).await else {
                    return true;
                };
                note_reason(world, &why);
                if !is_open(&why) {
                    break;
                }
            }
            return false;
        }
        OperatorRequest::Join(_)
        | OperatorRequest::Remove(_)
        | OperatorRequest::RaiseLevel
        | OperatorRequest::ListOffers => return false,
        OperatorRequest::Teardown(framework_id) => {
            return tear_down(world, client, framework_id, count).await;
        }
        OperatorRequest::Deactivate(agent_id) => {
            Write::DeactivateAgent(v1::DeactivateAgent { agent_id })
        }
        OperatorRequest::Reactivate(agent_id) => {
            Write::ReactivateAgent(v1::ReactivateAgent { agent_id })
        }
        OperatorRequest::MarkGone(agent_id) => Write::MarkAgentGone(v1::MarkAgentGone { agent_id }),
    };
    client.write(batch(operation, count)).await.is_ok()
}

fn batch(operation: Write, count: u64) -> v1::WriteBatch {
    v1::WriteBatch {
        request_id: format!("hand-{count}"),
        operations: vec![v1::WriteOperation {
            operation: Some(operation),
        }],
        ..Default::default()
    }
}

/// Tears a framework down. This is recorded as an operation: checkers accept the ends that a
/// teardown causes only if it was requested.
async fn tear_down(
    world: &World,
    client: &OperatorClient,
    framework_id: String,
    count: u64,
) -> bool {
    let recorder = &world.notes.recorder;
    let call = framework_id.parse().ok().map(|framework| {
        let operation = Operation::Teardown {
            name: None,
            framework,
        };
        recorder.invoke("hand", operation)
    });
    let write = Write::TeardownFramework(v1::TeardownFramework { framework_id });
    let answer = client.write(batch(write, count)).await;
    let Some(call) = call else {
        return answer.is_ok();
    };
    match &answer {
        Ok(reply) => match reply.outcomes.first() {
            Some(outcome) if outcome.done => {
                let revision = argosy_proto::convert::revision_from(reply.revision);
                recorder.ok(call, OperationResponse::Done, Some(revision));
            }
            Some(outcome) => recorder.fail(call, outcome.code.clone()),
            None => recorder.info(call, "an answer without outcomes"),
        },
        Err(CallError::Unanswered { .. }) => recorder.info(call, "unanswered"),
        Err(why) => recorder.fail(call, why.to_string()),
    }
    answer.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_two_ids_at_an_address_is_the_present_one() {
        let member = |id: u64| v1::Master {
            node_id: format!("master-{id}"),
            raft_address: address(1),
            ..v1::Master::default()
        };
        assert_eq!(id_at(&[member(2), member(121)], 1), Some(121));
        assert_eq!(id_at(&[member(2)], 0), None);
    }

    #[test]
    fn the_id_of_a_former_member_is_parsed_from_its_rejection() {
        let message = "cannot join: master-4:5052 is a voter already (id 57)";
        assert_eq!(known_id(message), Some(57));
        assert_eq!(known_id("no leader"), None);
    }
}
