//! The addresses of members: those of a master that joins or was moved with its data directory, and
//! the former members at an address.
//!
//! The addresses of a voter change only when an operator requests it. A master does not request it
//! when it starts at another address: its data directory may be a copy, and two processes with one
//! identity could vote twice in a term.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use tracing::info;

use super::{MemberChanger, TIMEOUT};
use crate::error::MembershipError;
use crate::transport::connections;
use crate::transport::wire::proto;
use crate::types::Member;

impl MemberChanger {
    /// Changes the addresses of a voter that answers at another address than before.
    pub(super) async fn move_voter(
        &self,
        id: u64,
        address: &str,
        is_requested: bool,
        (member, answer): (Member, proto::AskResponse),
    ) -> Result<(), MembershipError> {
        let (_, members) = self.members();
        let has_moved = members
            .get(&id)
            .is_some_and(|known| *known != member && known.incarnation == member.incarnation);
        if !has_moved || !is_requested {
            let address = address.to_owned();
            return Err(MembershipError::AlreadyMember { address, id });
        }
        if let Some(other) = former_members(&members, &member).last() {
            return Err(MembershipError::AddressTaken {
                address: member.raft_address,
                id: *other,
            });
        }
        // The others will dial the address that it advertises, not the requested one.
        let (there, _) = self.ask(&member.raft_address).await?;
        if there.process_incarnation != answer.process_incarnation {
            return Err(MembershipError::Unreachable {
                address: member.raft_address,
                reason: format!(
                    "the process at {address} advertises it, and another one runs there"
                ),
            });
        }
        self.set_addresses(id, &members, member, &answer).await
    }

    /// Adds a learner, or changes the addresses of a member to those that it has reported.
    pub(super) async fn set_addresses(
        &self,
        id: u64,
        members: &BTreeMap<u64, Member>,
        member: Member,
        answer: &proto::AskResponse,
    ) -> Result<(), MembershipError> {
        let former = members.get(&id);
        if let Some(former) = former {
            self.check_former_address(id, former, &member, answer)
                .await?;
        }
        let address = member.raft_address.clone();
        let nodes = ChangeMembers::SetNodes(BTreeMap::from([(id, member)]));
        self.commit(nodes).await?;
        match former {
            Some(former) => info!(
                id,
                address,
                former = former.raft_address,
                "the addresses of a master were changed"
            ),
            None => info!(id, address, "a master joined as a learner"),
        }
        Ok(())
    }

    /// Rejects the change if another process with the identity of the member answers at its former
    /// address.
    async fn check_former_address(
        &self,
        id: u64,
        former: &Member,
        member: &Member,
        answer: &proto::AskResponse,
    ) -> Result<(), MembershipError> {
        let question = connections::ask_request();
        let asked = self.peers.query(&former.raft_address, question, TIMEOUT);
        // Without an answer it has stopped there, or only its host is cut off: the operator knows.
        let Ok(theirs) = asked.await else {
            return Ok(());
        };
        let is_member = theirs.identity.is_some_and(|identity| {
            identity.id == id && identity.cluster_key == self.caller.cluster_key
        });
        match is_member && theirs.process_incarnation != answer.process_incarnation {
            true => Err(MembershipError::TwoProcesses {
                id,
                former: former.raft_address.clone(),
                address: member.raft_address.clone(),
            }),
            false => Ok(()),
        }
    }
}

/// Returns the members that had this address with other data directories: more than one if the last
/// replacement was not finished.
pub(super) fn former_members(members: &BTreeMap<u64, Member>, member: &Member) -> BTreeSet<u64> {
    let is_former = |one: &Member| {
        one.raft_address == member.raft_address && one.incarnation != member.incarnation
    };
    let formers = members.iter().filter(|(_, one)| is_former(one));
    formers.map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use argosy_proto::transport::{Listener, PeerIdentity};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::election::leader_contact::LeaderContact;
    use crate::membership::MemberChange;
    use crate::port::tests::TestPort;
    use crate::port::{self, RaftPort};
    use crate::settings::Timing;
    use crate::types::NodeIdentity;

    const ANY_PORT: &str = "127.0.0.1:0";

    /// Serves a port with the identity of the only voter of this group at another address, and
    /// returns the address. `process`: the incarnation of the process that it reports.
    async fn serve_copy(group: &TestPort, process: u64, listen: &str) -> String {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let own = group.node.members().remove(0);
        let identity = NodeIdentity {
            cluster_key: group.node.cluster_key(),
            id: own.id,
        };
        let copy = RaftPort {
            process_incarnation: process,
            member: Member {
                raft_address: address.clone(),
                ..own.member
            },
            peers: Vec::new(),
            identity: OnceLock::from(identity),
            formed: OnceLock::new(),
            unequal: OnceLock::new(),
            invitations: mpsc::channel(1).0,
            leader_contact: LeaderContact::new(Timing::testing()),
            stop: CancellationToken::new(),
        };
        tokio::spawn(port::serve(Arc::new(copy), Listener::tcp(listener)));
        address
    }

    async fn leading() -> TestPort {
        let group = TestPort::start().await;
        let mut status = group.node.status();
        status.wait_for(|status| status.is_leader).await.unwrap();
        group
    }

    #[tokio::test]
    async fn an_address_does_not_change_while_the_member_runs_at_the_former_one() {
        let group = leading().await;
        let (id, process) = (group.node.id(), group.node.incarnation());
        let address = serve_copy(&group, process.wrapping_add(1), ANY_PORT).await;
        let refused = group.node.join(&address).await;
        let former = group.address.clone();
        let expected = MembershipError::TwoProcesses {
            id,
            former,
            address,
        };
        assert_eq!(refused, Err(expected));
        // The same process may have two addresses, and the leader may be the one that has moved.
        let address = serve_copy(&group, process, ANY_PORT).await;
        assert_eq!(group.node.join(&address).await, Ok(id));
        let mut status = group.node.status();
        let recorded = status.wait_for(|status| {
            let mismatch = status.address_mismatch.as_ref();
            mismatch.is_some_and(|mismatch| mismatch.recorded.raft_address == address)
        });
        recorded.await.unwrap();
    }

    #[tokio::test]
    async fn a_member_does_not_move_to_the_address_of_another_one() {
        let group = leading().await;
        let listener = TcpListener::bind(ANY_PORT).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peers = vec![group.address.clone(), address.clone()];
        let any_peer = PeerIdentity::unauthenticated(None);
        let joining = TestPort::start_at(listener, address.clone(), peers, any_peer);
        let joining = tokio::spawn(joining);
        // A learner: the group keeps its quorum without it.
        let change = MemberChange::Join {
            raft_address: address.clone(),
            promote: false,
        };
        let added = group.node.parts().changes.change(change, false).await;
        joining.await.unwrap().node.stop().await;
        let process = group.node.incarnation();
        serve_copy(&group, process, &address).await;
        let refused = group.node.join(&address).await;
        let expected = MembershipError::AddressTaken {
            id: added.unwrap(),
            address,
        };
        assert_eq!(refused, Err(expected));
    }

    #[tokio::test]
    async fn only_an_operator_changes_an_address() {
        let group = leading().await;
        let address = serve_copy(&group, group.node.incarnation(), ANY_PORT).await;
        // As from an empty node, which is not authorized.
        let change = MemberChange::Join {
            raft_address: address.clone(),
            promote: false,
        };
        let refused = group.node.parts().changes.change(change, false).await;
        let id = group.node.id();
        assert_eq!(refused, Err(MembershipError::AlreadyMember { address, id }));
    }

    /// Reproduces seed 6000368 of the simulation: the second one counted as a sixth voter.
    #[test]
    fn all_that_had_the_address_before_give_way() {
        let member = |place: u64, incarnation| Member {
            raft_address: format!("m{place}:1"),
            api_address: format!("m{place}:2"),
            incarnation,
        };
        let all = [(1, 1, 11), (3, 3, 13), (272, 3, 14), (300, 3, 15)];
        let members = all.map(|(id, place, key)| (id, member(place, key)));
        let members = BTreeMap::from(members);
        let former = |id, key| former_members(&members, &member(id, key));
        assert_eq!(former(3, 15), BTreeSet::from([3, 272]));
        assert_eq!(former(1, 11), BTreeSet::new());
    }
}
