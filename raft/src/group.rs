//! The handles that the tasks of a node share once it belongs to a group.

use tokio::sync::watch;

use crate::liveness::Liveness;
use crate::settings::Timing;
use crate::state_machine::Consensus;
use crate::status::RaftStatus;
use crate::transport::connections::Peers;
use crate::transport::network::CallerIdentity;

/// The parts of a node that reads, elections, member changes and the port use.
#[derive(Clone)]
pub(crate) struct GroupHandle {
    pub(crate) raft: Consensus,
    pub(crate) caller: CallerIdentity,
    pub(crate) peers: Peers,
    pub(crate) timing: Timing,
    pub(crate) status: watch::Receiver<RaftStatus>,
    pub(crate) liveness: Liveness,
}
