//! What a master is started with.

use std::path::PathBuf;
use std::time::Duration;

use argosy_proto::server::callers::Access;
use argosy_proto::server::hosts::Hosts;
use argosy_raft::{SnapshotPolicy, Timing};
use argosy_state::level::Level;

/// Settings of one master.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where log, registry and snapshots are kept.
    pub directory: PathBuf,
    /// How clients and other masters reach its API, `host:port`.
    pub api_address: String,
    /// How other masters reach its raft port, `host:port`.
    pub raft_address: String,
    /// Raft addresses of all masters, its own included.
    pub peers: Vec<String>,
    /// Found a group of one.
    pub bootstrap: bool,
    /// The times of elections.
    pub timing: Timing,
    /// When the log is cut.
    pub snapshot: SnapshotPolicy,
    /// How long an agent may be silent, in milliseconds of cluster time.
    pub agent_timeout_ms: u64,
    /// How long a scheduler that sends heartbeats may be silent before its stream is closed, in milliseconds of cluster
    /// time.
    pub framework_timeout_ms: u64,
    /// How long a framework's stream may be gone before it is recorded as disconnected, in
    /// milliseconds of cluster time.
    pub framework_grace_ms: u64,
    /// How long an agent that is unreachable or gone is remembered, in milliseconds of cluster time.
    pub lost_agent_ms: u64,
    /// How old the last acknowledgement of a quorum may be while this master acts as leader, in milliseconds.
    /// Nothing but promptness rests on it, as simulations of masters with a longer one show; `None`: the longest
    /// wait before an election.
    pub office_lease_ms: Option<u64>,
    /// A new cluster begins at no newer feature level than this one. Simulations of upgrades begin at a former level.
    pub founding_level: Level,
    /// Who may reach into tasks by its API, through the agents that have them.
    pub access: Access,
    /// Host names that its API answers to in requests that could be those of web pages, beside that of `api_address`,
    /// `localhost` and IP addresses.
    pub host_names: Vec<String>,
    /// Spreads retries; any number.
    pub seed: u64,
}

impl Config {
    /// Defaults for everything but places.
    #[must_use]
    pub fn new(directory: PathBuf, api_address: String, raft_address: String) -> Self {
        Self {
            directory,
            api_address,
            raft_address,
            peers: Vec::new(),
            bootstrap: false,
            timing: Timing::shipped(),
            snapshot: SnapshotPolicy::default(),
            agent_timeout_ms: 15_000,
            framework_timeout_ms: 15_000,
            framework_grace_ms: 10_000,
            lost_agent_ms: argosy_state::limits::LOST_AGENT_MS,
            office_lease_ms: None,
            founding_level: Level::NEWEST,
            access: Access::default(),
            host_names: Vec::new(),
            seed: 0,
        }
    }

    /// The names that its API answers to.
    pub(crate) fn hosts(&self) -> Hosts {
        let own = std::iter::once(&self.api_address);
        Hosts::new(own.chain(&self.host_names))
    }

    /// How old the last acknowledgement of a quorum may be while this master acts as leader.
    pub(crate) fn office_lease(&self) -> Duration {
        let lease_ms = self.office_lease_ms;
        Duration::from_millis(lease_ms.unwrap_or(self.timing.election_max_ms))
    }
}

/// The times that a leader works with, in milliseconds of cluster time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long an agent may be silent.
    pub(crate) agent_timeout_ms: u64,
    /// How long a scheduler that sends heartbeats may be silent.
    pub(crate) framework_timeout_ms: u64,
    /// How long a framework's stream may be gone.
    pub(crate) framework_grace_ms: u64,
    /// How long a lost agent is remembered.
    pub(crate) lost_agent_ms: u64,
    /// How long a leader that was deposed may answer agents before it notices.
    pub(crate) deposed_leader_ms: u64,
    /// How long a new leader waits for frameworks to present the offers that they hold.
    pub(crate) resume_ms: u64,
}
