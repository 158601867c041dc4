//! Member changes: a master joins, is removed, or becomes the leader. Any master accepts the
//! request; the leader executes it.
//!
//! Changes run one at a time, through openraft's joint consensus. The recommended sizes are 1, 3
//! and 5 voters, and more than five are rejected. Even sizes are accepted because masters join and
//! leave one by one, so every path between two odd sizes passes an even one. Such a group is
//! equally safe, but it tolerates no more failures than the next smaller odd size.

mod addresses;
mod catch_up;
mod finish_change;
pub(crate) mod forwarding;
mod leader;
mod levels;
mod live_voters;

pub use levels::MembershipGuard;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use argosy_state::planted_bug;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::sync::{Mutex, watch};
use tonic::Status as Refusal;
use tracing::info;

use addresses::former_members;
use forwarding::forward;

use crate::error::MembershipError;
use crate::group::GroupHandle;
use crate::liveness::Liveness;
use crate::progress::LogProgress;
use crate::settings::Timing;
use crate::state_machine::Consensus;
use crate::status::RaftStatus;
use crate::transport::connections::{self, Peers};
use crate::transport::network::CallerIdentity;
use crate::transport::transfer_counts::TransferCounts;
use crate::transport::wire::proto;
use crate::types::{Member, TypeConfig};

/// The maximum number of voters in a group.
pub(crate) const MAX_VOTERS: usize = 5;
/// The maximum number of learners: the leader sends the whole log to each of them.
const MAX_LEARNERS: usize = 4;
/// The time for which a request waits for a quorum. The change itself remains in the log after
/// that.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// The timeout of a new master's answer, and of a change that waits for the previous one.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A requested change of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemberChange {
    /// Adds the master at this address as a learner, and then promotes it to a voter if requested.
    /// A voter that was moved with its data directory gets this address.
    Join {
        raft_address: String,
        promote: bool,
    },
    Remove(u64),
    /// Transfers leadership to this voter; `None`: to the one with the longest log of those that
    /// answer.
    Transfer(Option<u64>),
}

/// The executor of member changes. A node that does not lead forwards them to the leader.
pub(crate) struct MemberChanger {
    raft: Consensus,
    caller: CallerIdentity,
    peers: Peers,
    timing: Timing,
    status: watch::Receiver<RaftStatus>,
    liveness: Liveness,
    /// The transfers of snapshots to learners.
    transfers: TransferCounts,
    /// Held during a change. A second change waits briefly and is then rejected.
    change_lock: Arc<Mutex<()>>,
    /// The feature level of the cluster.
    level: AtomicU32,
}

impl MemberChanger {
    pub(crate) fn new(group: GroupHandle, transfers: TransferCounts) -> MemberChanger {
        let GroupHandle {
            raft,
            caller,
            peers,
            timing,
            status,
            liveness,
        } = group;
        let changing = Arc::default();
        MemberChanger {
            raft,
            caller,
            peers,
            timing,
            status,
            liveness,
            transfers,
            change_lock: changing,
            level: AtomicU32::new(0),
        }
    }

    /// Changes the group. `forwarded`: sent by another master, so it is not forwarded again.
    pub(crate) async fn change(
        self: &Arc<Self>,
        change: MemberChange,
        forwarded: bool,
    ) -> Result<u64, MembershipError> {
        let own = self.caller.id;
        let (id, leader) = match forwarded {
            true => self.leader(|id| id == own).await?,
            false => {
                let leader = self.status.borrow().leader.clone();
                leader.ok_or(MembershipError::NoLeader)?
            }
        };
        if id != own {
            return forward(&self.peers, self.caller.cluster_key, &leader, &change).await;
        }
        // A transfer changes no member, and must be possible while a change is stuck.
        if let MemberChange::Transfer(to) = change {
            return self.transfer(to).await;
        }
        // The previous change may be about to finish.
        let Ok(_one) = tokio::time::timeout(TIMEOUT, self.change_lock.lock()).await else {
            return Err(MembershipError::Busy);
        };
        self.finish_change().await?;
        match change {
            MemberChange::Join {
                raft_address,
                promote,
            } => self.join(&raft_address, promote).await,
            MemberChange::Remove(id) => self.remove(id).await,
            MemberChange::Transfer(to) => self.transfer(to).await,
        }
    }

    async fn join(&self, address: &str, promote: bool) -> Result<u64, MembershipError> {
        let (answer, member) = self.ask(address).await?;
        let (voters, members) = self.members();
        let formers = former_members(&members, &member);
        let id = match answer.identity {
            Some(identity) if identity.cluster_key != self.caller.cluster_key => {
                return Err(MembershipError::ForeignCluster {
                    address: address.to_owned(),
                });
            }
            Some(identity) if voters.contains(&identity.id) => {
                self.move_voter(identity.id, address, promote, (member, answer))
                    .await?;
                return Ok(identity.id);
            }
            // It was invited before and the change was not finished: it continues with the same id.
            Some(identity) => Some(identity.id),
            None => None,
        };
        let others = voters.difference(&formers).count();
        if promote && others >= MAX_VOTERS {
            return Err(MembershipError::TooManyVoters(others));
        }
        if !id.is_some_and(|id| members.contains_key(&id)) {
            check_learners(&voters, &members, &formers)?;
        }
        if let (Some(id), false) = (formers.last(), promote) {
            return Err(MembershipError::NewDirectory {
                address: address.to_owned(),
                id: *id,
            });
        }
        let id = match id {
            Some(id) => id,
            None => self.invite(&member, &members).await?,
        };
        if members.get(&id) != Some(&member) {
            self.set_addresses(id, &members, member, &answer).await?;
        }
        if promote {
            let replaced = planted_bug!(FormerVoterCounts, formers, BTreeSet::new());
            self.promote(id, replaced).await?;
        }
        Ok(id)
    }

    /// Asks the master at `address` for its identity and its member record, and checks that it
    /// supports the level of the cluster.
    async fn ask(&self, address: &str) -> Result<(proto::AskResponse, Member), MembershipError> {
        let unreachable = |reason: &str| MembershipError::Unreachable {
            address: address.to_owned(),
            reason: reason.to_owned(),
        };
        let question = connections::ask_request();
        let answer = self.peers.query(address, question, TIMEOUT).await;
        let answer = answer.map_err(|status| unreachable(status.message()))?;
        self.check_levels(address, &answer)?;
        let member = answer.member.clone();
        let member =
            member.ok_or_else(|| unreachable("its answer does not contain its member record"))?;
        Ok((answer, member))
    }

    /// Assigns an identity to an empty node. Its id is new: the index of an entry proposed for it.
    async fn invite(
        &self,
        member: &Member,
        members: &BTreeMap<u64, Member>,
    ) -> Result<u64, MembershipError> {
        // The ids of the first group are 1 to 5, and no entries were proposed for them.
        let known = members
            .keys()
            .copied()
            .max()
            .unwrap_or(0)
            .max(MAX_VOTERS as u64);
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
        let connections = self.peers.to(&member.raft_address).map_err(unreachable)?;
        let request = proto::InviteRequest {
            format: connections.format(),
            identity: Some(proto::Identity {
                cluster_key: self.caller.cluster_key,
                id,
            }),
            incarnation: member.incarnation,
        };
        let mut client = connections::client(connections.control.clone());
        let invited = tokio::time::timeout(TIMEOUT, client.invite(request)).await;
        invited
            .unwrap_or_else(|_elapsed| Err(Refusal::deadline_exceeded("no answer")))
            .map_err(unreachable)?;
        Ok(id)
    }

    /// Promotes a learner to a voter once it is close to the leader. It replaces the members that
    /// had its address before.
    async fn promote(&self, id: u64, formers: BTreeSet<u64>) -> Result<(), MembershipError> {
        self.catch_up(id).await?;
        let (mut voters, _) = self.members();
        voters.insert(id);
        voters.retain(|voter| !formers.contains(voter));
        let voting = voters.len();
        self.commit(ChangeMembers::ReplaceAllVoters(voters)).await?;
        // Only former learners are listed now: the change above removed a former voter.
        let listed = self.members().1;
        let left: BTreeSet<u64> = formers
            .into_iter()
            .filter(|id| listed.contains_key(id))
            .collect();
        if !left.is_empty() {
            self.commit(ChangeMembers::RemoveNodes(left)).await?;
        }
        if voting.is_multiple_of(2) {
            info!(
                voting,
                "an even number of voters tolerates no more failures than one less: join or remove another master"
            );
        }
        info!(id, "the new master is a voter");
        Ok(())
    }

    fn progress(&self) -> LogProgress {
        LogProgress::of(&self.raft.metrics().borrow_watched())
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
        let alive = self.wait_for_majority(&remaining).await;
        if alive <= remaining.len() / 2 {
            self.check_leads()?;
            return Err(MembershipError::QuorumLost {
                id,
                alive,
                voters: remaining.len(),
            });
        }
        if id == self.caller.id {
            // A leader that is removed transfers leadership first, and its successor removes it.
            self.transfer(None).await?;
            let (_, leader) = self.leader(|leader| leader != id).await?;
            let again = MemberChange::Remove(id);
            return forward(&self.peers, self.caller.cluster_key, &leader, &again).await;
        }
        self.commit(ChangeMembers::RemoveVoters(BTreeSet::from([id])))
            .await?;
        info!(id, "a master was removed");
        Ok(id)
    }

    /// Transfers leadership and returns the new leader's id, which the status reports.
    async fn transfer(&self, to: Option<u64>) -> Result<u64, MembershipError> {
        let (voters, members) = self.members();
        if let Some(to) = to.filter(|to| !members.contains_key(to)) {
            return Err(MembershipError::UnknownMember(to));
        }
        if to == Some(self.caller.id) {
            return Ok(self.caller.id);
        }
        let to_any = || self.successor(&voters);
        let Some(to) = to.or_else(to_any).filter(|to| voters.contains(to)) else {
            return Err(MembershipError::NotTransferred {
                to: to.unwrap_or(self.caller.id),
                reason: "it is not a voter",
            });
        };
        // openraft's leader stays silent after a transfer to a dead node, until another is elected.
        if self.wait_for_majority(&BTreeSet::from([to])).await == 0 {
            self.check_leads()?;
            let reason = "it has not answered lately; the present leader keeps leading";
            return Err(MembershipError::NotTransferred { to, reason });
        }
        self.raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|_ended| MembershipError::Stopped)?;
        let own = self.caller.id;
        match self.leader(|id| id != own).await {
            Ok((leader, _)) => Ok(leader),
            Err(MembershipError::NoLeader) => {
                let reason = "it did not take over in time; the group elects a leader";
                Err(MembershipError::NotTransferred { to, reason })
            }
            Err(error) => Err(error),
        }
    }

    async fn leader(
        &self,
        expected: impl Fn(u64) -> bool,
    ) -> Result<(u64, Member), MembershipError> {
        leader::wait_for_leader(self.status.clone(), &self.timing, expected).await
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
        let committed = self.raft.change_membership(change, false);
        let Ok(committed) = tokio::time::timeout(COMMIT_TIMEOUT, committed).await else {
            let reason = "too few masters answer to commit it".to_owned();
            return Err(MembershipError::Unfinished { reason });
        };
        match committed {
            Ok(_committed) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            ))) => Err(MembershipError::Busy),
            Err(error) => Err(unfinished(error)),
        }
    }
}

/// Maps an error of a proposal. An appended entry may still be committed by the next leader.
fn unfinished(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MembershipError {
    let reason = match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            "this master is no longer the leader".to_owned()
        }
        RaftError::Fatal(_) => "consensus has stopped".to_owned(),
        RaftError::APIError(other) => other.to_string(),
    };
    MembershipError::Unfinished { reason }
}

/// Checks that there is room for one more learner, not counting those whose address it takes over.
fn check_learners(
    voters: &BTreeSet<u64>,
    members: &BTreeMap<u64, Member>,
    formers: &BTreeSet<u64>,
) -> Result<(), MembershipError> {
    let stays = |id: &&u64| !voters.contains(id) && !formers.contains(id);
    let learners = members.keys().filter(stays).count();
    match learners < MAX_LEARNERS {
        true => Ok(()),
        false => Err(MembershipError::TooManyLearners(learners)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifth_learner_is_rejected_unless_it_replaces_one() {
        let member = |id| Member {
            raft_address: format!("m{id}:1"),
            api_address: format!("m{id}:2"),
            incarnation: id,
        };
        let members: BTreeMap<u64, Member> = (1..=7).map(|id| (id, member(id))).collect();
        let voters = BTreeSet::from([1, 2, 3]);
        let full = check_learners(&voters, &members, &BTreeSet::new());
        assert_eq!(full, Err(MembershipError::TooManyLearners(4)));
        assert!(check_learners(&voters, &members, &BTreeSet::from([5])).is_ok());
        let more_voters = BTreeSet::from([1, 2, 3, 4]);
        assert!(check_learners(&more_voters, &members, &BTreeSet::new()).is_ok());
    }
}
