//! The check of each message: it is for this node, and from the master that its header names.
//!
//! The certificate of the connection proves the sender, if the transport has certificates: it must
//! be valid for the host of the member whose id the header has.

use argosy_proto::transport::PeerIdentity;
use openraft::async_runtime::WatchReceiver as _;
use tonic::{Request, Status};

use super::{FormedNode, RaftPort, newest_vote};
use crate::transport::versions;
use crate::transport::wire::proto;

/// The largest number of terms by which another master may be ahead: those of more than ten years,
/// with ten elections a second.
const TERMS_AHEAD: u64 = 1 << 32;

/// The peer of the connection on which a message has arrived.
pub(super) struct Sender(Option<PeerIdentity>);

impl Sender {
    pub(super) fn new(peer: &PeerIdentity) -> Self {
        Self(Some(peer.clone()))
    }

    /// Checks that the peer is the member with this id. A member that this node does not know yet
    /// may be any master: a new node knows none.
    fn check(&self, id: u64, formed: &FormedNode) -> Result<(), Status> {
        let Some(peer) = self.authenticated() else {
            return Ok(());
        };
        let metrics = formed.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let mut members = metrics.membership_config.nodes();
        let member = members.find(|(member, _)| **member == id);
        match member {
            Some((_, member)) if !peer.may_be_at(&member.raft_address) => {
                let address = &member.raft_address;
                Err(Status::permission_denied(format!(
                    "{peer} sends as master {id}, but its certificate is not for the host of {address}"
                )))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Returns the peer if its identity is proven.
    fn authenticated(&self) -> Option<&PeerIdentity> {
        let peer = self.0.as_ref();
        peer.filter(|peer| peer.principal().is_some())
    }
}

/// Returns a message and its sender.
pub(super) fn received<T>(request: Request<T>) -> (T, Sender) {
    let peer = request.extensions().get().cloned();
    (request.into_inner(), Sender(peer))
}

impl RaftPort {
    /// Returns the parts of this node, once it belongs to a group.
    pub(super) fn formed(&self) -> Result<&FormedNode, Status> {
        self.formed.get().ok_or_else(|| {
            Status::unavailable("this master is starting, or belongs to no group yet")
        })
    }

    /// Returns the group's consensus, for a message that is meant for this node.
    pub(super) fn admit(
        &self,
        header: Option<&proto::Header>,
        sender: &Sender,
    ) -> Result<&FormedNode, Status> {
        let header =
            header.ok_or_else(|| Status::invalid_argument("the message lacks the field header"))?;
        versions::check_format(header.format)?;
        let formed = self.formed()?;
        let own = formed.identity;
        if header.cluster_key != own.cluster_key {
            let (theirs, ours) = (header.cluster_key, own.cluster_key);
            return Err(Status::failed_precondition(format!(
                "a message of another cluster: its key is {theirs:016x}, ours {ours:016x}"
            )));
        }
        if header.to != own.id {
            return Err(Status::failed_precondition(format!(
                "a message for master {}, but this is master {}: the directory at {} is not the one that the group knows",
                header.to, own.id, self.member.raft_address
            )));
        }
        sender.check(header.from, formed)?;
        Ok(formed)
    }

    /// The same for a message whose vote is that of its sender. Its term may be newer than that of
    /// this node, but not so much that a few messages use up all terms.
    pub(super) fn admit_voter(
        &self,
        header: Option<&proto::Header>,
        vote: Option<&proto::Vote>,
        sender: &Sender,
    ) -> Result<&FormedNode, Status> {
        let formed = self.admit(header, sender)?;
        let newest = newest_vote(formed)
            .leader_id
            .term
            .saturating_add(TERMS_AHEAD);
        if let Some(vote) = vote
            && vote.term > newest
        {
            return Err(Status::invalid_argument(format!(
                "the term {} is too far ahead of that of this master",
                vote.term
            )));
        }
        let ids = header
            .map(|header| header.from)
            .zip(vote.map(|vote| vote.node));
        match (ids, sender.authenticated()) {
            (Some((from, voter)), Some(peer)) if from != voter => Err(Status::permission_denied(
                format!("{peer} sends as master {from} with a vote of master {voter}"),
            )),
            _ => Ok(formed),
        }
    }
}
