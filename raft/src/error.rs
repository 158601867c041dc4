//! Errors of operations on the Raft group, one enum for each operation.

use std::fmt;

use argosy_state::level::{Level, Levels};

use crate::storage::directory::OpenError;

/// The error of a node that does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The identity that the group assigned to this node cannot be saved.
    #[error("cannot save the identity that the group assigned to this master")]
    Identity {
        /// The cause.
        source: std::io::Error,
    },
    /// A setting contradicts another one.
    #[error("the raft settings are not usable: {reason}")]
    Settings {
        /// A description of the contradiction.
        reason: String,
    },
    /// The directory is empty, and no setting names the group to join or form.
    #[error(
        "the data directory is empty and no --peers are given; list all masters with --peers, or make a group of one with --bootstrap"
    )]
    NoPeers,
    /// The list of masters does not contain this one.
    #[error("the list of masters in --peers ({}) does not contain this one ({own}); every master takes the same list, itself included", peers.join(", "))]
    NotListed {
        /// The raft address that this master advertises.
        own: String,
        /// The list that this master was started with.
        peers: Vec<String>,
    },
    /// Two masters were started with different lists.
    #[error("the lists of masters differ: ours is {}, that of {peer} is {}; start all of them with the same --peers", ours.join(", "), theirs.join(", "))]
    UnequalPeers {
        /// The raft address of the other master.
        peer: String,
        /// The list of this master, sorted.
        ours: Vec<String>,
        /// The list of the other master, sorted.
        theirs: Vec<String>,
    },
    /// A group of one may not be formed while a listed master belongs to a group.
    #[error(
        "--bootstrap would make a second cluster: {peer} already belongs to one; leave --bootstrap out, or remove {peer} from --peers"
    )]
    AlreadyFormed {
        /// The raft address of the master that belongs to a group.
        peer: String,
    },
    /// A group of one may not be formed while listed masters may belong to a group.
    #[error(
        "--bootstrap could make a second cluster: {} does not answer, and may belong to one; start it, or remove it from --peers",
        peers.join(", ")
    )]
    SilentPeers {
        /// The raft addresses of the masters that do not answer.
        peers: Vec<String>,
    },
    /// A restored registry may not be continued while a listed master belongs to a group.
    #[error(
        "this directory has a restored registry, and {peer} belongs to a cluster: stop that master and empty its data directory, or remove it from --peers; masters with empty directories can join"
    )]
    RestoredBeside {
        /// The raft address of the master that belongs to a group.
        peer: String,
    },
    /// The directory, or a listed master, belongs to another cluster.
    #[error(
        "{peer} belongs to another cluster (its key is {theirs:016x}, ours {ours:016x}); give this master its own --data-dir, or the --peers of its cluster"
    )]
    ForeignCluster {
        /// The raft address of the other master.
        peer: String,
        /// The key of this master's cluster.
        ours: u64,
        /// The key of the other master's cluster.
        theirs: u64,
    },
    /// The stop token was cancelled before the node had started.
    #[error("stopped while waiting for the other masters")]
    Stopped,
    /// Consensus failed to start.
    #[error("consensus cannot start: {reason}")]
    Consensus {
        /// The error of openraft.
        reason: String,
    },
}

/// The error of a command that was not queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead.
    #[error("this master is not the leader")]
    NotLeader,
    /// The queue of commands that wait for a commit is full: retry later.
    #[error("too many commands wait for a commit")]
    Full,
    /// A command exceeds the maximum size of an entry.
    #[error("a command of {bytes} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The size of the command.
        bytes: usize,
        /// The maximum size.
        limit: usize,
    },
    /// The node is stopping or has failed.
    #[error("consensus has stopped")]
    Stopped,
}

/// The error of a read that was not confirmed. It may be retried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no leader at the moment.
    #[error("there is no leader at the moment")]
    NoLeader,
    /// The leader did not answer, or could not confirm that it still leads.
    #[error("the leader could not confirm the read: {reason}")]
    NotConfirmed {
        /// A description of the failure.
        reason: String,
    },
    /// The node is stopping or has failed.
    #[error("consensus has stopped")]
    Stopped,
}

/// The error of a member change. Except after `Unfinished`, the voters are unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// This node knows no leader that could execute the change: retry at another node.
    #[error("there is no leader at the moment; try again")]
    NoLeader,
    /// Only one change may run at a time.
    #[error("another change of the group is under way; wait until it is done")]
    Busy,
    /// No member has this id.
    #[error("no master has the id {0}; `argosy master list` shows them")]
    UnknownMember(u64),
    /// The master is a voter already, with these addresses.
    #[error("{address} is a voter already (id {id})")]
    AlreadyMember {
        /// The raft address of the master.
        address: String,
        /// The id of the master.
        id: u64,
    },
    /// A group has at most five voters.
    #[error("the group has {0} voters already; 1, 3 and 5 are the sizes that make sense")]
    TooManyVoters(usize),
    /// A group has at most four learners.
    #[error(
        "the group has {0} learners already, which is the limit; remove one with `argosy master remove`, or make it a voter"
    )]
    TooManyLearners(usize),
    /// The last voter cannot be removed.
    #[error("master {0} is the last voter; a group cannot be empty")]
    LastVoter(u64),
    /// The removal would leave too few live voters for a quorum.
    #[error(
        "without master {id} only {alive} of {voters} voters would be alive, which is no quorum; bring the others back first"
    )]
    QuorumLost {
        /// The node to be removed.
        id: u64,
        /// The live voters that would remain.
        alive: usize,
        /// The voters that would remain.
        voters: usize,
    },
    /// The joining master does not answer.
    #[error(
        "{address} does not answer ({reason}); start the new master first, with this cluster's masters as --peers"
    )]
    Unreachable {
        /// The raft address of the joining master.
        address: String,
        /// A description of the failure.
        reason: String,
    },
    /// The joining master belongs to another cluster.
    #[error(
        "{address} belongs to another cluster; if that cluster is no longer needed, empty the data directory there first"
    )]
    ForeignCluster {
        /// The raft address of the joining master.
        address: String,
    },
    /// The joining master does not support the feature level of the cluster.
    #[error(
        "{address} knows the feature levels {levels}, and the cluster is at level {level}: install the release of the other masters there"
    )]
    Level {
        /// The raft address of the joining master.
        address: String,
        /// The levels that it has reported.
        levels: Levels,
        /// The level of the cluster.
        level: Level,
    },
    /// A master with an empty directory requested to join under the address of a member.
    #[error(
        "{address} is the address of master {id}, but the data directory there is a new one; `argosy master join {address}` replaces master {id} by it"
    )]
    NewDirectory {
        /// The raft address of the joining master.
        address: String,
        /// The member that has this address.
        id: u64,
    },
    /// The new address of a member is that of another member.
    #[error(
        "{address} is the address of master {id}; remove that master, or change its address first"
    )]
    AddressTaken {
        /// The new raft address.
        address: String,
        /// The member that has this address.
        id: u64,
    },
    /// Two processes have the identity of one member.
    #[error(
        "a process with the identity of master {id} runs at {former}, and another one at {address}; stop the one that uses a copy of the data directory"
    )]
    TwoProcesses {
        /// The id of the member.
        id: u64,
        /// The raft address that the membership has.
        former: String,
        /// The new raft address.
        address: String,
    },
    /// The new learner did not come close to the leader's log.
    #[error(
        "master {id} joined as a learner but has not caught up ({progress}); join it again to make it a voter"
    )]
    Lagging {
        /// The id of the new node.
        id: u64,
        /// The progress of the new node.
        progress: LearnerProgress,
    },
    /// The transfer did not happen. If it had begun, the leader commits nothing more and the group
    /// elects a leader.
    #[error("leadership was not taken over by {to}: {reason}")]
    NotTransferred {
        /// A description of the cause.
        reason: &'static str,
        /// The id of the intended leader.
        to: u64,
    },
    /// It is unknown whether the change happened: check the list, then repeat the change.
    #[error(
        "the change is unfinished: {reason}; `argosy master list` shows what holds now, and repeating the change is safe"
    )]
    Unfinished {
        /// A description of the failure.
        reason: String,
    },
    /// The leader, to which this node forwarded the change, rejected it.
    #[error("{0}")]
    Refused(String),
    /// The node is stopping or has failed.
    #[error("consensus has stopped")]
    Stopped,
}

/// The progress of a learner that has not caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnerProgress {
    /// The learner lacks this many entries.
    Behind(u64),
    /// The learner answers, and has not installed a snapshot.
    NoSnapshot,
    /// The learner has not answered.
    Silent,
}

impl fmt::Display for LearnerProgress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LearnerProgress::Behind(lag) => write!(formatter, "{lag} entries behind"),
            LearnerProgress::NoSnapshot => {
                formatter.write_str("the transfer of its snapshot stalls or fails")
            }
            LearnerProgress::Silent => formatter.write_str("it does not answer"),
        }
    }
}
