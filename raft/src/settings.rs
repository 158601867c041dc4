//! Settings of a node, and the openraft configuration that is derived from them.

use std::path::PathBuf;

use argosy_proto::clock::WallClock;
use argosy_proto::transport::{Dialer, Listener};
use openraft::Config;
use tokio::net::TcpListener;

use crate::error::StartError;

/// The size of openraft's queue of events. Consensus is its only reader and also writes to it: if a
/// stall of the disk filled it, consensus would wait for itself. It gets about 80 ticks a second,
/// so this is more than a month of them. It takes memory only for the events in it.
const EVENTS: u64 = 1 << 28;

/// The timing of elections, in milliseconds.
///
/// openraft elects a new leader after a lease of `election_max_ms` and a random wait between the
/// two election times. A leader whose process ends is replaced without that wait. So is a leader
/// from which a majority receives nothing for `silence_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The interval of a leader's heartbeats.
    pub heartbeat_ms: u64,
    /// The shortest silence after which followers ask each other whether the leader is lost. It
    /// grows on a machine that delays messages.
    pub silence_ms: u64,
    /// The shortest wait of a node that receives no messages.
    pub election_min_ms: u64,
    /// The longest such wait, and the lease of a leader.
    pub election_max_ms: u64,
    /// The deadline for a peer's answer to an append: longer than a disk may stall.
    pub append_deadline_ms: u64,
    /// The time after which a learner that makes no progress is not made a voter.
    pub learner_stall_ms: u64,
}

impl Timing {
    /// The timing for masters in one location: a silent leader is replaced after about 0.3 s, or
    /// 0.6 s without processor time.
    pub fn lan() -> Timing {
        Timing {
            heartbeat_ms: 60,
            silence_ms: 240,
            election_min_ms: 200,
            election_max_ms: 300,
            append_deadline_ms: 1_000,
            learner_stall_ms: 20_000,
        }
    }

    /// A shorter timing for tests.
    pub fn testing() -> Timing {
        Timing {
            heartbeat_ms: 50,
            silence_ms: 200,
            election_min_ms: 150,
            election_max_ms: 250,
            append_deadline_ms: 1_000,
            learner_stall_ms: 20_000,
        }
    }

    /// The timing for masters in several locations, up to about 200 ms apart.
    pub fn wan() -> Timing {
        Timing {
            heartbeat_ms: 300,
            silence_ms: 1_500,
            election_min_ms: 1_500,
            election_max_ms: 2_500,
            append_deadline_ms: 5_000,
            learner_stall_ms: 20_000,
        }
    }
}

/// The policy by which the log is truncated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// A snapshot is made after this many entries …
    pub entries: u64,
    /// … or this many bytes of commands, whichever comes first. The log keeps at least as many, and
    /// usually at most about twice as many (see `log_size`).
    pub bytes: u64,
}

impl Default for SnapshotPolicy {
    fn default() -> SnapshotPolicy {
        SnapshotPolicy {
            entries: 10_000,
            bytes: 64 << 20,
        }
    }
}

/// The settings of a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The data directory. `None`: data is in memory, and gone with the node.
    pub directory: Option<PathBuf>,
    /// The raft address under which the other masters reach this node, `host:port`.
    pub raft_address: String,
    /// The address under which clients reach this node, `host:port`.
    pub api_address: String,
    /// The raft addresses of all masters, including this one. May be empty if the directory already
    /// belongs to a group.
    pub peers: Vec<String>,
    /// Whether to form a group of one.
    pub bootstrap: bool,
    /// The timing of elections.
    pub timing: Timing,
    /// The policy by which the log is truncated.
    pub snapshot: SnapshotPolicy,
    /// A number that spreads the retries of several nodes; any value.
    pub seed: u64,
}

/// The environment of a node: its connections to other masters, and its clock.
pub struct NodeEnvironment {
    /// The listener for the other masters' connections.
    pub listener: Listener,
    /// The dialer of connections to them.
    pub dialer: Dialer,
    /// The wall clock, for measurements.
    pub wall: WallClock,
}

impl NodeEnvironment {
    /// Returns an environment with TCP and this machine's clock.
    #[must_use]
    pub fn tcp(listener: TcpListener) -> NodeEnvironment {
        NodeEnvironment {
            listener: Listener::tcp(listener),
            dialer: Dialer::tcp(),
            wall: WallClock::system(),
        }
    }
}

impl NodeConfig {
    /// Returns the list of masters in its canonical form: sorted, without duplicates.
    pub(crate) fn sorted_peers(&self) -> Vec<String> {
        let mut listed = self.peers.clone();
        listed.sort();
        listed.dedup();
        listed
    }

    /// Returns the openraft configuration. Each value is as conservative as openraft allows.
    pub(crate) fn openraft(&self) -> Result<Config, StartError> {
        let Timing {
            heartbeat_ms,
            silence_ms,
            election_min_ms,
            election_max_ms,
            append_deadline_ms,
            learner_stall_ms: _,
        } = self.timing;
        let settings = |reason: String| StartError::Settings { reason };
        let shortest = silence_ms.min(append_deadline_ms);
        if heartbeat_ms == 0 || shortest < heartbeat_ms || self.snapshot.entries == 0 {
            let reason = "heartbeat and snapshot entries must not be 0, nor silence and append deadline below the heartbeat";
            return Err(settings(reason.to_owned()));
        }
        if self.raft_address.is_empty() || self.api_address.is_empty() {
            return Err(settings(
                "a master needs a raft address and an API address to send to the others".to_owned(),
            ));
        }
        let config = Config {
            cluster_name: "argosy".to_owned(),
            heartbeat_interval: heartbeat_ms,
            election_timeout_min: election_min_ms,
            election_timeout_max: election_max_ms,
            // A node that cannot win changes no term.
            enable_pre_vote: Some(true),
            // A restarted leader must be elected: its registry may be behind what it had
            // acknowledged.
            enable_leader_restore: Some(false),
            // openraft counts only synced answers, and would stop its heartbeats over a slow disk.
            // `liveness` decides this instead.
            quorum_loss_probe_interval: None,
            // A log that lost entries is damaged; openraft must not accept it.
            allow_log_reversion: Some(false),
            // The log is read up to 1 MiB at a time; this only bounds messages of very small
            // entries.
            max_payload_entries: 1_024,
            // `log_size` triggers both, and knows which entries are still needed.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            install_snapshot_timeout: 60_000,
            notification_channel_size: Some(EVENTS),
            ..Config::default()
        };
        config
            .validate()
            .map_err(|error| settings(error.to_string()))
    }
}
