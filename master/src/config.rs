//! Start settings of a master.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use argosy_proto::server::audit::AuditSettings;
use argosy_proto::server::callers::ApiAccess;
use argosy_proto::server::hosts::AllowedHosts;
use argosy_raft::{SnapshotPolicy, Timing};
use argosy_state::level::Level;

use crate::certificate_issuer::CertificateIssuer;
use crate::secret_keys::SecretKeys;

/// Settings of one master.
#[derive(Debug, Clone)]
pub struct MasterConfig {
    /// Directory of the log, the registry and the snapshots.
    pub directory: PathBuf,
    /// API address of this master, as clients and other masters reach it, `host:port`.
    pub api_address: String,
    /// Raft address of this master, as other masters reach it, `host:port`.
    pub raft_address: String,
    /// Raft addresses of all masters, including this one.
    pub peers: Vec<String>,
    /// Whether to bootstrap a group of one master.
    pub bootstrap: bool,
    /// Election timing.
    pub timing: Timing,
    /// The policy by which snapshots are taken and the log is truncated.
    pub snapshot: SnapshotPolicy,
    /// Time after which a silent agent becomes unreachable, in milliseconds of cluster time.
    pub agent_timeout_ms: u64,
    /// Time after which the stream of a silent scheduler that sends heartbeats is closed, in
    /// milliseconds of cluster time.
    pub framework_timeout_ms: u64,
    /// Time for which a framework may be without a stream before it is recorded as disconnected, in
    /// milliseconds of cluster time.
    pub framework_grace_ms: u64,
    /// Time for which an unreachable or gone agent is remembered, in milliseconds of cluster time.
    pub lost_agent_ms: u64,
    /// The lease: maximum age of a quorum's last acknowledgement while this master acts as leader,
    /// in milliseconds. Only promptness depends on it, as simulations of masters with a longer
    /// lease show. `None`: the longest wait before an election.
    pub leader_lease_ms: Option<u64>,
    /// The highest feature level at which a new cluster begins. Simulations of upgrades begin at an
    /// earlier level.
    pub initial_level: Level,
    /// The clients that may enter tasks through the API, by way of the agents.
    pub access: ApiAccess,
    /// The size of a file of the audit log in the directory, in MiB; 0 means that there is no log.
    pub audit_file_mib: u64,
    /// Whether the rules of the cluster are enforced: what no rule allows to the proven identity of
    /// a caller is refused. Without a transport that proves identities, no rule can be enforced.
    pub enforces_access: bool,
    /// Host names that the API accepts in requests that could come from web pages, in addition to
    /// that of `api_address`, `localhost` and IP addresses.
    pub host_names: Vec<String>,
    /// The keys that seal secrets; the first one also seals new values. `None`: there are no
    /// secrets in the registry.
    pub secret_keys: Option<Arc<SecretKeys>>,
    /// The certificate authority for hosts that join by a token. `None`: this master issues no
    /// certificates.
    pub certificate_issuer: Option<CertificateIssuer>,
    /// Seed that spreads retries; any number.
    pub seed: u64,
}

impl MasterConfig {
    /// Returns the defaults for everything except directory and addresses.
    #[must_use]
    pub fn new(directory: PathBuf, api_address: String, raft_address: String) -> Self {
        Self {
            directory,
            api_address,
            raft_address,
            peers: Vec::new(),
            bootstrap: false,
            timing: Timing::lan(),
            snapshot: SnapshotPolicy::default(),
            agent_timeout_ms: 15_000,
            framework_timeout_ms: 15_000,
            framework_grace_ms: 10_000,
            lost_agent_ms: argosy_state::limits::LOST_AGENT_MS,
            leader_lease_ms: None,
            initial_level: Level::NEWEST,
            access: ApiAccess::default(),
            audit_file_mib: 0,
            enforces_access: false,
            host_names: Vec::new(),
            secret_keys: None,
            certificate_issuer: None,
            seed: 0,
        }
    }

    /// Returns the host names that the API accepts.
    pub(crate) fn hosts(&self) -> AllowedHosts {
        let own = std::iter::once(&self.api_address);
        AllowedHosts::new(own.chain(&self.host_names))
    }

    /// Returns the settings of the audit log, if there is one.
    pub(crate) fn audit(&self) -> Option<AuditSettings> {
        AuditSettings::below(&self.directory, self.audit_file_mib)
    }

    /// Returns the maximum age of a quorum's last acknowledgement while this master acts as leader.
    pub(crate) fn leader_lease(&self) -> Duration {
        let lease_ms = self.leader_lease_ms;
        Duration::from_millis(lease_ms.unwrap_or(self.timing.election_max_ms))
    }
}

/// Time limits of a leader, in milliseconds of cluster time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaderTimeouts {
    /// Time after which a silent agent becomes unreachable.
    pub(crate) agent_timeout_ms: u64,
    /// Time after which the stream of a silent scheduler that sends heartbeats is closed.
    pub(crate) framework_timeout_ms: u64,
    /// Time for which a framework may be without a stream.
    pub(crate) framework_grace_ms: u64,
    /// Time for which a lost agent is remembered.
    pub(crate) lost_agent_ms: u64,
    /// Time for which a deposed leader may still answer agents before it notices.
    pub(crate) deposed_leader_ms: u64,
    /// Time for which a new leader waits for frameworks to present the offers that they hold.
    pub(crate) resume_ms: u64,
}
