//! What a node is started with, and what openraft is told of it.

use std::path::PathBuf;

use argosy_proto::clock::WallClock;
use argosy_proto::transport::{Dialer, Listener};
use openraft::Config;
use tokio::net::TcpListener;

use crate::error::StartError;

/// The times that elections hang on, in milliseconds.
///
/// openraft elects a new leader after a lease of `election_max_ms` and a random wait between the two election times. A leader
/// whose process dies is replaced without that wait, and one that a majority does not hear after `silence_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader shows that it is there.
    pub heartbeat_ms: u64,
    /// The shortest silence after which followers ask each other whether the leader is lost: longer on a machine that makes
    /// messages wait.
    pub silence_ms: u64,
    /// The shortest wait of a node that hears nothing.
    pub election_min_ms: u64,
    /// The longest, and the lease of a leader.
    pub election_max_ms: u64,
    /// How long a peer may take to answer an append: longer than a disk may stall.
    pub append_deadline_ms: u64,
}

impl Timing {
    /// For masters in one place: a silent leader is replaced after about 0.3 s, or 0.6 s without processor time.
    pub fn shipped() -> Timing {
        Timing {
            heartbeat_ms: 60,
            silence_ms: 240,
            election_min_ms: 200,
            election_max_ms: 300,
            append_deadline_ms: 1_000,
        }
    }

    /// Shorter, for tests.
    pub fn testing() -> Timing {
        Timing {
            heartbeat_ms: 50,
            silence_ms: 200,
            election_min_ms: 150,
            election_max_ms: 250,
            append_deadline_ms: 1_000,
        }
    }

    /// For masters in several places, up to about 200 ms apart.
    pub fn wan() -> Timing {
        Timing {
            heartbeat_ms: 300,
            silence_ms: 1_500,
            election_min_ms: 1_500,
            election_max_ms: 2_500,
            append_deadline_ms: 5_000,
        }
    }
}

/// When the log is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// A snapshot is made after this many entries …
    pub entries: u64,
    /// … or this many bytes of commands, whichever comes first.
    pub bytes: u64,
    /// Entries that stay in the log behind a snapshot, for followers that are a little late.
    pub keep_entries: u64,
}

impl Default for SnapshotPolicy {
    fn default() -> SnapshotPolicy {
        SnapshotPolicy {
            entries: 10_000,
            bytes: 64 << 20,
            keep_entries: 5_000,
        }
    }
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where its data is kept. `None`: in memory, and gone with the node.
    pub directory: Option<PathBuf>,
    /// How the other masters reach its raft port, `host:port`.
    pub raft_address: String,
    /// How clients reach it, `host:port`.
    pub api_address: String,
    /// The raft addresses of all masters, its own included. May be empty when the directory belongs to a group already.
    pub peers: Vec<String>,
    /// Found a group of one.
    pub bootstrap: bool,
    /// The times of elections.
    pub timing: Timing,
    /// When the log is cut.
    pub snapshot: SnapshotPolicy,
    /// Spreads the retries of several nodes; any number.
    pub seed: u64,
}

/// What a node is given rather than makes: how it reaches others, and they it.
pub struct Surroundings {
    /// Where the other masters' connections come in.
    pub listener: Listener,
    /// Opens connections to them.
    pub dialer: Dialer,
    /// The time of day, for measurements.
    pub wall: WallClock,
}

impl Surroundings {
    /// TCP, and this machine's clock.
    #[must_use]
    pub fn tcp(listener: TcpListener) -> Surroundings {
        Surroundings {
            listener: Listener::tcp(listener),
            dialer: Dialer::tcp(),
            wall: WallClock::system(),
        }
    }
}

impl NodeConfig {
    /// The list of masters as it is compared: sorted, each once.
    pub(crate) fn listed(&self) -> Vec<String> {
        let mut listed = self.peers.clone();
        listed.sort();
        listed.dedup();
        listed
    }

    /// What openraft is told. Why each: it is as conservative as openraft allows.
    pub(crate) fn openraft(&self) -> Result<Config, StartError> {
        let Timing {
            heartbeat_ms,
            silence_ms,
            election_min_ms,
            election_max_ms,
            append_deadline_ms,
        } = self.timing;
        let settings = |reason: String| StartError::Settings { reason };
        let shortest = silence_ms.min(append_deadline_ms);
        if heartbeat_ms == 0 || shortest < heartbeat_ms || self.snapshot.entries == 0 {
            let reason = "heartbeat and snapshot entries must not be 0, nor silence and append deadline below the heartbeat";
            return Err(settings(reason.to_owned()));
        }
        if self.raft_address.is_empty() || self.api_address.is_empty() {
            return Err(settings(
                "a master needs a raft address and an API address to tell the others".to_owned(),
            ));
        }
        let config = Config {
            cluster_name: "argosy".to_owned(),
            heartbeat_interval: heartbeat_ms,
            election_timeout_min: election_min_ms,
            election_timeout_max: election_max_ms,
            // A node that cannot win changes no term.
            enable_pre_vote: Some(true),
            // A restarted leader must be elected: its registry may be behind what it had acknowledged.
            enable_leader_restore: Some(false),
            // openraft counts only what is synced, and would fall silent over a slow disk. `liveness` decides this instead.
            quorum_loss_probe_interval: None,
            // A log that lost entries is damage, never something to go along with.
            allow_log_reversion: Some(false),
            // The log is read up to 1 MiB at a time; this only bounds messages of very small entries.
            max_payload_entries: 1_024,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot.entries),
            max_in_snapshot_log_to_keep: self.snapshot.keep_entries,
            // Purges go in ranges.
            purge_batch_size: self.snapshot.keep_entries.clamp(1, 5_000),
            // Beyond what is kept, a follower gets a snapshot.
            replication_lag_threshold: self.snapshot.entries + self.snapshot.keep_entries + 1_000,
            install_snapshot_timeout: 60_000,
            ..Config::default()
        };
        config
            .validate()
            .map_err(|error| settings(error.to_string()))
    }
}
