//! The command line of `argosy-chaos run`.

use std::path::PathBuf;
use std::time::Duration;

use argosy_client::Masters;
use argosy_testbed::arguments::{ClusterSize, duration};
use argosy_testbed::certificates::IdentityFiles;
use argosy_testbed::testbed::ClusterTransport;
use clap::{Args, ValueEnum};

use super::faults::FaultName;

/// Arguments of a run on real processes under real faults.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// Time in which faults are injected
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// The seed of the choice of faults, times and targets [default: from the clock]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Masters x agents; masters are 1, 3 or 5
    #[arg(long, value_name = "MxA", default_value = "3x3")]
    pub(crate) size: ClusterSize,
    /// Only these faults, as kill-leader,pause-agent [default: all that this host can do]
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        conflicts_with = "script"
    )]
    pub(crate) faults: Vec<FaultName>,
    /// A timeline instead of random faults: lines as "at 10s kill-leader for 3s"
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<PathBuf>,
    /// End after this number of faults, however long that takes
    #[arg(long, value_name = "NUMBER", conflicts_with = "script")]
    pub(crate) rounds: Option<u64>,
    /// End after every possible fault has been injected once
    #[arg(long, conflicts_with_all = ["script", "rounds"])]
    pub(crate) each_once: bool,
    /// Duration of faults and of the pauses between them
    #[arg(long, value_enum, value_name = "PACE", default_value_t = FaultTiming::Usual)]
    pub(crate) pace: FaultTiming,
    /// Write the report as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write the report as one HTML page to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Append the first and the last line of this run to this ledger
    #[arg(long, value_name = "FILE", conflicts_with = "masters")]
    pub(crate) ledger: Option<PathBuf>,
    /// Directory for history, logs and witness files of a run with violations
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/tmp/argosy-chaos-findings"
    )]
    pub(crate) findings: PathBuf,
    /// Keep these files of a run without violations, too
    #[arg(long)]
    pub(crate) keep: bool,
    /// Directory for the data of the members during the run, on a real disk
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub(crate) directory: PathBuf,
    /// The executable under test [default: the one next to this program]
    #[arg(long, env = "ARGOSY_BIN", value_name = "PATH")]
    pub(crate) argosy: Option<PathBuf>,
    /// The executable of another release, for the fault other-release. Both must know the feature
    /// level of the cluster
    #[arg(long, value_name = "PATH", conflicts_with = "masters")]
    pub(crate) other_release: Option<PathBuf>,
    /// Minimum number of operations, below which the run proves too little [default: 5 for each
    /// second]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) least_operations: Option<u64>,
    /// Minimum number of leader changes, below which the run proves too little [default: 1 for each
    /// minute]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) least_leader_changes: Option<u64>,
    /// Run on an existing cluster: the addresses of its masters, in any order
    #[arg(long, value_name = "HOST:PORT,…", requires = "only")]
    pub(crate) masters: Option<Masters>,
    /// The faults that may be injected into the existing cluster
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', requires = "masters", conflicts_with_all = ["faults", "script"])]
    pub(crate) only: Vec<FaultName>,
    /// Do not ask for confirmation before touching an existing cluster
    #[arg(long, requires = "masters")]
    pub(crate) yes: bool,
    /// The identity of an operator of the existing cluster.
    #[command(flatten)]
    pub(crate) tls: Option<IdentityFiles>,
    /// Use no TLS between all processes, to compare it with TLS
    #[arg(long, conflicts_with_all = ["certificate", "key", "ca"])]
    pub(crate) insecure_plaintext: bool,
}

impl RunArguments {
    /// Returns the transport of a cluster that the run starts.
    pub(crate) fn transport(&self) -> ClusterTransport {
        match self.insecure_plaintext {
            true => ClusterTransport::Plaintext,
            false => ClusterTransport::Tls,
        }
    }
}

/// Arguments of `argosy-chaos report`, which shows the report of an earlier run.
#[derive(Debug, Clone, Args)]
pub struct ReportArguments {
    /// The file that `run --report` wrote
    #[arg(value_name = "FILE")]
    pub(crate) report: PathBuf,
    /// Write the report as one HTML page to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// The duration of faults and of the pauses between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FaultTiming {
    /// The usual random times
    Usual,
    /// A third of the usual times, for a gate
    Quick,
}

impl FaultTiming {
    /// Scales a time.
    pub(crate) fn of(self, time: Duration) -> Duration {
        match self {
            Self::Usual => time,
            Self::Quick => time / 3,
        }
    }
}
