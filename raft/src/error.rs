//! What can go wrong between a master and its group, one enum an operation.

use argosy_state::level::{Level, Levels};

use crate::storage::directory::OpenError;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What the group decided about this node cannot be kept.
    #[error("cannot keep the identity that this master was given")]
    Identity {
        /// Why.
        source: std::io::Error,
    },
    /// A setting contradicts another one.
    #[error("the raft settings are not usable: {reason}")]
    Settings {
        /// What is wrong, in words.
        reason: String,
    },
    /// An empty directory, and nothing that says which group it is for.
    #[error(
        "the data directory is empty and no --peers are given; list all masters with --peers, or make a group of one with --bootstrap"
    )]
    NoPeers,
    /// The list of masters does not name this one.
    #[error("the list of masters in --peers ({}) does not contain this one ({own}); every master takes the same list, itself included", peers.join(", "))]
    NotListed {
        /// The raft address that this master tells the others.
        own: String,
        /// The list it was started with.
        peers: Vec<String>,
    },
    /// Two masters were started with different lists.
    #[error("the lists of masters differ: ours is {}, that of {peer} is {}; start all of them with the same --peers", ours.join(", "), theirs.join(", "))]
    UnequalPeers {
        /// The raft address of the other master.
        peer: String,
        /// Our list, sorted.
        ours: Vec<String>,
        /// Its list, sorted.
        theirs: Vec<String>,
    },
    /// A group of one may not be made beside a formed one.
    #[error(
        "--bootstrap would make a second cluster: {peer} already belongs to one; leave --bootstrap out, or remove {peer} from --peers"
    )]
    AlreadyFormed {
        /// The raft address of the formed master.
        peer: String,
    },
    /// The directory, or a listed master, belongs to another cluster.
    #[error(
        "{peer} belongs to another cluster (its key is {theirs:016x}, ours {ours:016x}); give this master its own --data-dir, or the --peers of its cluster"
    )]
    ForeignCluster {
        /// The raft address of the other master.
        peer: String,
        /// The key of our cluster.
        ours: u64,
        /// The key of its cluster.
        theirs: u64,
    },
    /// The stop token was cancelled before the node had started.
    #[error("stopped while waiting for the other masters")]
    Stopped,
    /// Consensus did not come up.
    #[error("consensus cannot start: {reason}")]
    Consensus {
        /// What openraft said.
        reason: String,
    },
}

/// Why a command was not taken into the queue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead.
    #[error("this master is not the leader")]
    NotLeader,
    /// As much waits for a commit as may wait: try again later.
    #[error("too many commands wait for a commit")]
    Full,
    /// A command is larger than an entry may be.
    #[error("a command of {bytes} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size that is taken.
        limit: usize,
    },
    /// The node is stopping or has failed.
    #[error("consensus has stopped")]
    Stopped,
}

/// Why a read could not be confirmed. It may be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no leader at the moment.
    #[error("there is no leader at the moment")]
    NoLeader,
    /// The leader could not be asked, or could not confirm that it still leads.
    #[error("the leader could not confirm the read: {reason}")]
    NotConfirmed {
        /// What failed.
        reason: String,
    },
    /// The node is stopping or has failed.
    #[error("consensus has stopped")]
    Stopped,
}

/// Why the group was not changed. Except for `Unfinished` nothing has changed for the voters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// There is no leader that could do it, as far as this node knows: ask another one.
    #[error("there is no leader at the moment; try again")]
    NoLeader,
    /// One change at a time.
    #[error("another change of the group is under way; wait until it is done")]
    Busy,
    /// No member has this id.
    #[error("no master has the id {0}; `argosy master list` shows them")]
    UnknownMember(u64),
    /// It is a voter already.
    #[error("{address} is a voter already (id {id})")]
    AlreadyMember {
        /// Its raft address.
        address: String,
        /// Its id.
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
    /// The last voter cannot go.
    #[error("master {0} is the last voter; a group cannot be empty")]
    LastVoter(u64),
    /// A removal that would leave too few living voters to commit anything.
    #[error(
        "without master {id} only {alive} of {voters} voters would be alive, which is no quorum; bring the others back first"
    )]
    QuorumLost {
        /// The node to be removed.
        id: u64,
        /// Living voters that would remain.
        alive: usize,
        /// Voters that would remain.
        voters: usize,
    },
    /// The master to join does not answer.
    #[error(
        "{address} does not answer ({reason}); start the new master first, with this cluster's masters as --peers"
    )]
    Unreachable {
        /// Its raft address.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The master to join belongs to another cluster.
    #[error(
        "{address} belongs to another cluster; empty its data directory first if that cluster is given up"
    )]
    ForeignCluster {
        /// Its raft address.
        address: String,
    },
    /// The master to join does not know the feature level of the cluster.
    #[error(
        "{address} knows the feature levels {levels}, and the cluster is at level {level}: install the release of the other masters there"
    )]
    Level {
        /// Its raft address.
        address: String,
        /// What it has reported.
        levels: Levels,
        /// That of the cluster.
        level: Level,
    },
    /// A master with an empty directory asked to join under the address of a member.
    #[error(
        "{address} is the address of master {id}, but the data directory there is a new one; `argosy master join {address}` replaces master {id} by it"
    )]
    Stranger {
        /// Its raft address.
        address: String,
        /// The member that has this address.
        id: u64,
    },
    /// The new learner did not come close to the leader's log.
    #[error(
        "master {id} joined as a learner but has not caught up ({}); join it again to make it a voter", behind(*.lag)
    )]
    Lagging {
        /// The new node.
        id: u64,
        /// How many entries it lacks; `None` if it never answered.
        lag: Option<u64>,
    },
    /// The transfer did not happen. If it had begun, the leader commits nothing more, and the group elects a leader.
    #[error("leadership was not taken over by {to}: {reason}")]
    NotTransferred {
        /// Why.
        reason: &'static str,
        /// Who should have taken it.
        to: u64,
    },
    /// It is not known whether the change happened: look at the list, then repeat it.
    #[error(
        "the change is unfinished: {reason}; `argosy master list` shows what holds now, and repeating the change is safe"
    )]
    Unfinished {
        /// What happened.
        reason: String,
    },
    /// The leader, which was asked on behalf of this node, refused.
    #[error("{0}")]
    Refused(String),
    /// The node is stopping or has failed.
    #[error("consensus has stopped")]
    Stopped,
}

fn behind(lag: Option<u64>) -> String {
    lag.map_or("it does not answer".to_owned(), |lag| {
        format!("{lag} entries behind")
    })
}
