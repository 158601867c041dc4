//! The exchange of failovers. Each master records its own epochs only, and asks the others for
//! theirs: when it starts, after each new epoch, and at intervals, since offers and launches follow
//! an epoch later.

use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;
use futures::future::join_all;
use tonic::{Code, Request, Status};
use tracing::debug;

use super::peers::{ConnectionUse, MasterConnections};
use crate::failovers::CAPACITY;
use crate::owner_handle::OwnerHandle;

/// The interval of queries without a new epoch.
const INTERVAL: Duration = Duration::from_secs(30);
/// The time after a new epoch in which its first offers are usually made.
const SETTLING: Duration = Duration::from_secs(1);
/// Timeout of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum length of a name or an address in a failover: those of a real master are shorter.
const NAME_BYTES: usize = 300;
/// The maximum number of other masters that are asked at a time.
const MASTERS: usize = 16;

/// Asks other masters until the owner ends.
pub(crate) async fn exchange_failovers(owner: OwnerHandle, connections: MasterConnections) {
    let mut status = owner.leader_status.clone();
    loop {
        let epoch = status.borrow_and_update().epoch;
        ask_all(&owner, &connections).await;
        let next = status.wait_for(|status| status.epoch != epoch);
        let next = tokio::time::timeout(INTERVAL, next).await;
        match next.map(|next| next.is_ok()) {
            Ok(true) => tokio::time::sleep(SETTLING).await,
            Ok(false) => return,
            Err(_) => {}
        }
    }
}

async fn ask_all(owner: &OwnerHandle, connections: &MasterConnections) {
    let members = owner.node.members().into_iter();
    let addresses = members.map(|member| member.member.api_address);
    let others = addresses.filter(|address| *address != owner.own_address);
    let asked = others.take(MASTERS).map(|address| async move {
        match failovers_of(connections, &address).await {
            Ok(found) => {
                let newest = owner.leader_status.borrow().epoch;
                owner.other_failovers.add(&known_epochs(found, newest));
            }
            // It is asked again.
            Err(status) => debug!(address, %status, "another master does not report its failovers"),
        }
    });
    join_all(asked).await;
}

/// Returns the failovers of epochs that this master knows: later ones would displace all others. A
/// master that is ahead is asked again. Failovers with names that no master can have are left out,
/// because their memory must be bounded.
fn known_epochs(mut found: Vec<v1::Failover>, newest: u64) -> Vec<v1::Failover> {
    found.retain(|failover| {
        let names = [
            &failover.leader,
            &failover.leader_address,
            &failover.former_leader,
            &failover.former_leader_address,
        ];
        failover.epoch <= newest && names.iter().all(|name| name.len() <= NAME_BYTES)
    });
    found
}

async fn failovers_of(
    connections: &MasterConnections,
    address: &str,
) -> Result<Vec<v1::Failover>, Status> {
    let lease = connections.lease(address, ConnectionUse::Calls)?;
    let mut request = Request::new(v1::GetClusterRequest {
        consistency: v1::Consistency::Local.into(),
    });
    request.set_timeout(ANSWER_TIMEOUT);
    let mut client = OperatorClient::new(lease.channel());
    let asked = tokio::time::timeout(ANSWER_TIMEOUT, client.get_cluster(request)).await;
    let asked = asked.map_err(|_| Status::deadline_exceeded("no answer in time"))?;
    let answer = asked.inspect_err(|status| {
        if status.code() == Code::Unauthenticated {
            connections.renew(address);
        }
    })?;
    let mut found = answer.into_inner().failovers;
    // A master reports no more, and what else it reports is not kept.
    let excess = found.len().saturating_sub(CAPACITY);
    found.drain(..excess);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failovers_of_epochs_to_come_are_left_out() {
        let failover = |epoch| v1::Failover {
            epoch,
            ..Default::default()
        };
        let found = vec![failover(3), failover(7), failover(u64::MAX)];
        assert_eq!(known_epochs(found, 7), [failover(3), failover(7)]);
    }

    #[test]
    fn failovers_with_oversized_names_are_left_out() {
        let named = |bytes| v1::Failover {
            epoch: 3,
            former_leader_address: "x".repeat(bytes),
            ..Default::default()
        };
        let found = vec![named(NAME_BYTES), named(NAME_BYTES + 1)];
        assert_eq!(known_epochs(found, 7), [named(NAME_BYTES)]);
    }
}
