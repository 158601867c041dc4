//! Changes of the group: a master joins, is removed, or takes the lead. Any master may be asked; the leader executes.
//!
//! One change at a time, through openraft's joint consensus. 1, 3 and 5 voters are the sizes to stay at, and more than five
//! are refused. Even sizes are let through, since masters join and go one by one and every way from one odd size to the next
//! passes an even one: such a group is as safe, it only bears no more failures than the odd size below it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tonic::{Code, Status as Refusal};
use tracing::info;

use crate::error::MembershipError;
use crate::network::{self, Caller, Peers};
use crate::node::Consensus;
use crate::settings::Timing;
use crate::status::Status;
use crate::types::{Member, TypeConfig};
use crate::wire::{self, proto};

/// A group has at most this many voters.
const MOST_VOTERS: usize = 5;
/// A learner this close to the leader's log may vote: it will have the rest within a round trip or two.
const CLOSE_ENTRIES: u64 = 256;
/// How long a learner may take without coming closer.
const STALLED: Duration = Duration::from_secs(20);
/// How long a new master, or a remote leader, may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a remote leader may take for a whole change: a learner may have to be sent a snapshot first.
const CHANGE_PATIENCE: Duration = Duration::from_secs(600);

/// What is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The master at this address becomes a learner, and then a voter if it is to be promoted.
    Join {
        raft_address: String,
        promote: bool,
    },
    Remove(u64),
    /// `None`: whoever is furthest.
    Transfer(Option<u64>),
}

/// Executes changes, or has the leader do it.
pub(crate) struct Changes {
    pub(crate) raft: Consensus,
    pub(crate) caller: Caller,
    pub(crate) peers: Peers,
    pub(crate) timing: Timing,
    pub(crate) status: watch::Receiver<Status>,
    /// Held through a change. A second one is refused instead of waiting.
    pub(crate) changing: Mutex<()>,
}

impl Changes {
    /// Changes the group. `forwarded`: another master has sent it here, so it is not sent on.
    pub(crate) async fn change(
        self: &Arc<Self>,
        change: Change,
        forwarded: bool,
    ) -> Result<u64, MembershipError> {
        let leader = self.status.borrow().leader.clone();
        let (id, member) = leader.ok_or(MembershipError::NoLeader)?;
        if id != self.caller.id {
            if forwarded {
                return Err(MembershipError::NoLeader);
            }
            return forward(&self.peers, self.caller.cluster_key, &member, &change).await;
        }
        let Ok(_one) = self.changing.try_lock() else {
            return Err(MembershipError::Busy);
        };
        match change {
            Change::Join {
                raft_address,
                promote,
            } => self.join(&raft_address, promote).await,
            Change::Remove(id) => self.remove(id).await,
            Change::Transfer(to) => self.transfer(to).await,
        }
    }

    async fn join(&self, address: &str, promote: bool) -> Result<u64, MembershipError> {
        let answer = network::ask(address, self.timing, PATIENCE)
            .await
            .map_err(|status| MembershipError::Unreachable {
                address: address.to_owned(),
                reason: status.message().to_owned(),
            })?;
        let (voters, members) = self.members();
        let Some(member) = answer.member else {
            let reason = "it does not say who it is".to_owned();
            return Err(MembershipError::Unreachable {
                address: address.to_owned(),
                reason,
            });
        };
        let former = members
            .iter()
            .find(|(_, one)| one.raft_address == member.raft_address);
        let former = former
            .filter(|(_, one)| one.incarnation != member.incarnation)
            .map(|(id, _)| *id);
        let id = match answer.identity {
            Some(identity) if identity.cluster_key != self.caller.cluster_key => {
                return Err(MembershipError::ForeignCluster {
                    address: address.to_owned(),
                });
            }
            Some(identity) if voters.contains(&identity.id) => {
                return Err(MembershipError::AlreadyMember {
                    address: address.to_owned(),
                    id: identity.id,
                });
            }
            // It was invited before, and the change was not finished: it goes on with the same id.
            Some(identity) => Some(identity.id),
            None => None,
        };
        let others = voters.iter().filter(|id| Some(**id) != former).count();
        if promote && others >= MOST_VOTERS {
            return Err(MembershipError::TooManyVoters(others));
        }
        if let (Some(id), false) = (former, promote) {
            return Err(MembershipError::Stranger {
                address: address.to_owned(),
                id,
            });
        }
        let id = match id {
            Some(id) => id,
            None => self.invite(&member, &members).await?,
        };
        if members.get(&id) != Some(&member) {
            let nodes = ChangeMembers::SetNodes(BTreeMap::from([(id, member.clone())]));
            self.commit(nodes).await?;
            info!(id, address, "a master joined as a learner");
        }
        if promote {
            self.promote(id, former).await?;
        }
        Ok(id)
    }

    /// Gives an empty node its identity: an id that nobody had before, since it is the index of an entry taken for it.
    async fn invite(
        &self,
        member: &Member,
        members: &BTreeMap<u64, Member>,
    ) -> Result<u64, MembershipError> {
        // The first group's ids are 1 to 5, without entries of their own.
        let known = members
            .keys()
            .copied()
            .max()
            .unwrap_or(0)
            .max(MOST_VOTERS as u64);
        let id = loop {
            let written = self.raft.write_blank().await.map_err(unfinished)?;
            if written.log_id.index > known {
                break written.log_id.index;
            }
        };
        let unreachable = |status: Refusal| MembershipError::Unreachable {
            address: member.raft_address.clone(),
            reason: status.message().to_owned(),
        };
        let request = proto::InviteRequest {
            format: wire::FORMAT,
            identity: Some(proto::Identity {
                cluster_key: self.caller.cluster_key,
                id,
            }),
            incarnation: member.incarnation,
        };
        let connections = self.peers.to(&member.raft_address).map_err(unreachable)?;
        let mut client = network::client(connections.control.clone());
        let invited = tokio::time::timeout(PATIENCE, client.invite(request)).await;
        invited
            .unwrap_or_else(|_elapsed| Err(Refusal::deadline_exceeded("no answer")))
            .map_err(unreachable)?;
        Ok(id)
    }

    /// Makes a learner a voter once it is close to the leader, in place of the member whose address it took over.
    async fn promote(&self, id: u64, former: Option<u64>) -> Result<(), MembershipError> {
        self.catch_up(id).await?;
        let (mut voters, _) = self.members();
        voters.insert(id);
        if let Some(former) = former {
            voters.remove(&former);
        }
        let replaced = former.map(|former| ChangeMembers::RemoveNodes(BTreeSet::from([former])));
        let voting = voters.len();
        self.commit(ChangeMembers::ReplaceAllVoters(voters)).await?;
        if let Some(gone) = replaced {
            // Only a former learner is still listed now: a former voter left with the change above.
            if self.members().1.contains_key(&former.unwrap_or(0)) {
                self.commit(gone).await?;
            }
        }
        if voting.is_multiple_of(2) {
            info!(
                voting,
                "an even number of voters bears no more failures than one less: join or remove another master"
            );
        }
        info!(id, "the new master is a voter");
        Ok(())
    }

    async fn catch_up(&self, id: u64) -> Result<(), MembershipError> {
        let mut status = self.status.clone();
        let mut best = u64::MAX;
        let mut deadline = Instant::now() + STALLED;
        loop {
            let (leads, lag) = {
                let status = status.borrow_and_update();
                (
                    status.is_leader,
                    status.lag.get(&id).copied().unwrap_or(u64::MAX),
                )
            };
            if !leads {
                return Err(MembershipError::Unfinished {
                    reason: "the leader has changed".to_owned(),
                });
            }
            if lag <= CLOSE_ENTRIES {
                return Ok(());
            }
            if lag < best {
                (best, deadline) = (lag, Instant::now() + STALLED);
            }
            match tokio::time::timeout_at(deadline, status.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Err(MembershipError::Stopped),
                Err(_elapsed) => return Err(MembershipError::Lagging { id, lag }),
            }
        }
    }

    async fn remove(&self, id: u64) -> Result<u64, MembershipError> {
        let (voters, members) = self.members();
        if !members.contains_key(&id) {
            return Err(MembershipError::UnknownMember(id));
        }
        if !voters.contains(&id) {
            self.commit(ChangeMembers::RemoveNodes(BTreeSet::from([id])))
                .await?;
            return Ok(id);
        }
        if voters.len() == 1 {
            return Err(MembershipError::LastVoter(id));
        }
        let remaining: BTreeSet<u64> = voters.iter().copied().filter(|one| *one != id).collect();
        let alive = self.alive(&remaining);
        if alive <= remaining.len() / 2 {
            return Err(MembershipError::QuorumLost {
                id,
                alive,
                voters: remaining.len(),
            });
        }
        if id == self.caller.id {
            // A leader that goes hands over first, and its successor removes it.
            self.transfer(None).await?;
            let leader = self.status.borrow().leader.clone();
            let (_, leader) = leader.ok_or(MembershipError::NoLeader)?;
            return forward(
                &self.peers,
                self.caller.cluster_key,
                &leader,
                &Change::Remove(id),
            )
            .await;
        }
        self.commit(ChangeMembers::RemoveVoters(BTreeSet::from([id])))
            .await?;
        info!(id, "a master was removed");
        Ok(id)
    }

    /// How many of these voters have answered lately, the leader itself included.
    fn alive(&self, voters: &BTreeSet<u64>) -> usize {
        let fresh =
            Duration::from_millis(4 * self.timing.election_max_ms + self.timing.append_deadline_ms);
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let answered = |id: &u64| {
            let heard = metrics
                .heartbeat
                .as_ref()
                .and_then(|heard| heard.get(id).copied().flatten());
            *id == self.caller.id || heard.is_some_and(|at| at.elapsed() < fresh)
        };
        voters.iter().filter(|id| answered(id)).count()
    }

    /// Hands leadership over, and returns who leads then. The message is not answered, so the metrics are watched.
    async fn transfer(&self, to: Option<u64>) -> Result<u64, MembershipError> {
        let (voters, members) = self.members();
        if let Some(to) = to.filter(|to| !members.contains_key(to)) {
            return Err(MembershipError::UnknownMember(to));
        }
        if to == Some(self.caller.id) {
            return Ok(self.caller.id);
        }
        let furthest = || {
            let status = self.status.borrow();
            let others = voters.iter().filter(|id| **id != self.caller.id);
            others
                .min_by_key(|id| (status.lag.get(id).copied().unwrap_or(u64::MAX), **id))
                .copied()
        };
        let Some(to) = to.or_else(furthest).filter(|to| voters.contains(to)) else {
            return Err(MembershipError::NotTransferred {
                to: to.unwrap_or(self.caller.id),
            });
        };
        let mut status = self.status.clone();
        self.raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|_ended| MembershipError::Stopped)?;
        let patience =
            Duration::from_millis(4 * self.timing.election_max_ms + self.timing.append_deadline_ms);
        let own = self.caller.id;
        let changed =
            status.wait_for(|status| status.leader.as_ref().is_some_and(|(id, _)| *id != own));
        match tokio::time::timeout(patience, changed).await {
            Ok(Ok(status)) => Ok(status.leader.as_ref().map_or(to, |(id, _)| *id)),
            Ok(Err(_closed)) => Err(MembershipError::Stopped),
            Err(_elapsed) => Err(MembershipError::NotTransferred { to }),
        }
    }

    fn members(&self) -> (BTreeSet<u64>, BTreeMap<u64, Member>) {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let members = membership
            .nodes()
            .map(|(id, member)| (*id, member.clone()))
            .collect();
        (membership.voter_ids().collect(), members)
    }

    async fn commit(&self, change: ChangeMembers<u64, Member>) -> Result<(), MembershipError> {
        match self.raft.change_membership(change, false).await {
            Ok(_committed) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            ))) => Err(MembershipError::Busy),
            Err(error) => Err(unfinished(error)),
        }
    }
}

fn unfinished(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MembershipError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => MembershipError::NoLeader,
        RaftError::Fatal(_) => MembershipError::Stopped,
        RaftError::APIError(other) => MembershipError::Unfinished {
            reason: other.to_string(),
        },
    }
}

/// Has another master change the group: the leader, or any formed one that knows it when an empty node asks to join.
pub(crate) async fn forward(
    peers: &Peers,
    cluster_key: u64,
    to: &Member,
    change: &Change,
) -> Result<u64, MembershipError> {
    use proto::change_request::Change as Wire;
    let wire = match change {
        Change::Join {
            raft_address,
            promote,
        } => Wire::Join(proto::Join {
            raft_address: raft_address.clone(),
            promote: *promote,
        }),
        Change::Remove(id) => Wire::Remove(*id),
        Change::Transfer(to) => Wire::Transfer(proto::TransferTo {
            id: to.unwrap_or(0),
        }),
    };
    let request = proto::ChangeRequest {
        format: wire::FORMAT,
        cluster_key,
        change: Some(wire),
        forwarded: cluster_key != 0,
    };
    let failed = |status: Refusal| match status.code() {
        Code::Unavailable => MembershipError::NoLeader,
        Code::Aborted => MembershipError::Unfinished {
            reason: status.message().to_owned(),
        },
        _ => MembershipError::Refused(status.message().to_owned()),
    };
    let connections = peers.to(&to.raft_address).map_err(failed)?;
    let mut client = network::client(connections.control.clone());
    match tokio::time::timeout(CHANGE_PATIENCE, client.change(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner().id),
        Ok(Err(status)) => Err(failed(status)),
        Err(_elapsed) => Err(MembershipError::Unfinished {
            reason: "the leader did not answer in time".to_owned(),
        }),
    }
}

/// A refusal on the wire.
pub(crate) fn refusal(error: &MembershipError) -> Refusal {
    let code = match error {
        MembershipError::NoLeader | MembershipError::Stopped => Code::Unavailable,
        MembershipError::Unfinished { .. } => return Refusal::aborted(unfinished_reason(error)),
        MembershipError::Busy
        | MembershipError::UnknownMember(_)
        | MembershipError::AlreadyMember { .. }
        | MembershipError::TooManyVoters(_)
        | MembershipError::LastVoter(_)
        | MembershipError::QuorumLost { .. }
        | MembershipError::Unreachable { .. }
        | MembershipError::ForeignCluster { .. }
        | MembershipError::Stranger { .. }
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
