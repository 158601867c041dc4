//! Member changes on the wire: requests that another master forwards to the leader, and their
//! errors.

use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, Status as Refusal};

use super::MemberChange;
use crate::error::MembershipError;
use crate::transport::connections::{self, Peers};
use crate::transport::wire::proto;
use crate::types::Member;

/// The timeout of a whole change at the leader: a learner may have to receive a snapshot first.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(600);

/// Forwards a change to another master: the leader, or any member that knows it when an empty node
/// requests to join.
pub(crate) async fn forward(
    peers: &Peers,
    cluster_key: u64,
    to: &Member,
    change: &MemberChange,
) -> Result<u64, MembershipError> {
    use proto::change_request::Change as Wire;
    let wire = match change {
        MemberChange::Join {
            raft_address,
            promote,
        } => Wire::Join(proto::Join {
            raft_address: raft_address.clone(),
            promote: *promote,
        }),
        MemberChange::Remove(id) => Wire::Remove(*id),
        MemberChange::Transfer(to) => Wire::Transfer(proto::TransferTo {
            id: to.unwrap_or(0),
        }),
    };
    let request = |format| proto::ChangeRequest {
        format,
        cluster_key,
        change: Some(wire.clone()),
        forwarded: cluster_key != 0,
    };
    let failed = |status: Refusal| match status.code() {
        // If the leader answers with this code, it has done nothing yet. If the transport failed
        // here, the leader may have received the request.
        Code::Unavailable if status.source().is_none() => MembershipError::NoLeader,
        Code::Unavailable => MembershipError::Unfinished {
            reason: format!("the leader does not answer ({})", status.message()),
        },
        Code::Aborted => MembershipError::Unfinished {
            reason: status.message().to_owned(),
        },
        _ => MembershipError::Refused(status.message().to_owned()),
    };
    let connections = peers.to(&to.raft_address).map_err(failed)?;
    let mut client = connections::client(connections.control.clone());
    match tokio::time::timeout(CHANGE_TIMEOUT, client.change(request(connections.format()))).await {
        Ok(Ok(answer)) => Ok(answer.into_inner().id),
        Ok(Err(status)) => Err(failed(status)),
        Err(_elapsed) => Err(MembershipError::Unfinished {
            reason: "the leader did not answer in time".to_owned(),
        }),
    }
}

/// Returns an error as it travels on the wire.
pub(crate) fn refusal(error: &MembershipError) -> Refusal {
    let code = match error {
        MembershipError::NoLeader | MembershipError::Stopped => Code::Unavailable,
        MembershipError::Unfinished { .. } => return Refusal::aborted(unfinished_reason(error)),
        MembershipError::Busy
        | MembershipError::UnknownMember(_)
        | MembershipError::AlreadyMember { .. }
        | MembershipError::TooManyVoters(_)
        | MembershipError::TooManyLearners(_)
        | MembershipError::LastVoter(_)
        | MembershipError::QuorumLost { .. }
        | MembershipError::Unreachable { .. }
        | MembershipError::ForeignCluster { .. }
        | MembershipError::Level { .. }
        | MembershipError::NewDirectory { .. }
        | MembershipError::AddressTaken { .. }
        | MembershipError::TwoProcesses { .. }
        | MembershipError::Lagging { .. }
        | MembershipError::NotTransferred { .. }
        | MembershipError::Refused(_) => Code::FailedPrecondition,
    };
    Refusal::new(code, error.to_string())
}

fn unfinished_reason(error: &MembershipError) -> String {
    match error {
        MembershipError::Unfinished { reason } => reason.clone(),
        other => other.to_string(),
    }
}
