//! The command line of `argosy-bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::agents::PER_CONNECTION;
use crate::leader_loss::LeaderLossArguments;

/// Measures Argosy and its peers on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "argosy-bench",
    version,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  argosy-bench registry --peer etcd --runs 5 --json registry.json
  argosy-bench tasks --peer hyperqueue --runs 5
  argosy-bench all --short
  argosy-bench leader-loss --loss kill,freeze --peers etcd,zookeeper --svg gaps.svg

All workloads run on loopback addresses with fsync on, in a directory that is removed at the end.
A run during which other processes used more than 0.3 cores is marked void."
)]
pub struct Arguments {
    #[command(subcommand)]
    pub(crate) measurement: Option<Measurement>,
    /// Workload to measure
    #[arg(value_enum, required = true)]
    pub(crate) workload: Option<Workload>,
    /// Peer to measure together with Argosy, where the workload has one
    #[arg(long, value_enum, default_value_t = Peer::Etcd)]
    pub(crate) peer: Peer,
    /// Measure the peer only
    #[arg(long)]
    pub(crate) peer_only: bool,
    /// Runs of each side, alternating [default: 5, short: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: Option<u32>,
    /// Shorter and fewer runs: for a gate, not for a table
    #[arg(long)]
    pub(crate) short: bool,
    /// Largest number of clients of `registry`
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    pub(crate) clients: usize,
    /// Also write all measurements to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Executable to measure [default: the one next to this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) argosy: Option<PathBuf>,
    /// Fail if a ratio is more than 20 % short of its goal
    #[arg(long)]
    pub(crate) gate: bool,
    /// Directory for the data of all members: on a real disk
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub(crate) directory: PathBuf,
    /// Agents of `idle` [default: 1,000, short: 200], `state-read` and `scrape` [default: 10,000,
    /// short: 500], `commands` [default: 1,000, short: 50] and `scale` [default: 50,000, short:
    /// 1,000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(crate) agents: Option<u32>,
    /// Tasks of each of these agents
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) tasks_per_agent: u32,
    /// Rules of access of `registry` with `--peer plaintext`, one of 100 about the writer. Without
    /// TLS no rule is enforced
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=9_000))]
    pub(crate) rules: u16,
    /// Agents of `scale` that share a connection; real agents have one each
    #[arg(long, value_name = "NUMBER", default_value_t = PER_CONNECTION, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) agents_per_connection: u32,
    /// Changes a second of `events`, in steps of 10
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub(crate) changes: u32,
    /// Keep data and logs of members in that directory
    #[arg(long)]
    pub(crate) keep: bool,
}

/// The measurements with arguments of their own.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Measurement {
    /// Measure how long a change of leader takes, for each way to lose a leader; as root
    LeaderLoss(Box<LeaderLossArguments>),
}

/// The workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Small changes by closed-loop clients
    Registry,
    /// Changes in batches of 256 on streams
    RegistryBatch,
    /// 10,000 empty tasks, on one agent
    Tasks,
    /// One empty container, compared with crun and runc; as root
    Start,
    /// 1,000 containers together on one agent; as root
    Containers,
    /// One task on an idle cluster, until it runs
    Latency,
    /// Rounds of the allocator, without a network
    Allocator,
    /// The leader is killed
    FailoverCrash,
    /// The leader is frozen
    FailoverFreeze,
    /// The disks of both followers are slow; needs strace
    Stall,
    /// The cost of an idle cluster
    Idle,
    /// Readers page through all tasks at the leader as fast as they can; one principal changes as
    /// much as it can
    Flood,
    /// 10,000 agents and 1,000 schedulers, spread over the masters
    Crowd,
    /// Readers page through lists of all agents and all tasks while others write
    StateRead,
    /// Scrapes of the metrics of 10,000 agents and 100,000 tasks while others write
    Scrape,
    /// 1,000 subscribers of changes at one follower
    Events,
    /// `argosy ps` and `argosy top` with 10,000 tasks
    Commands,
    /// 50,000 agents with 500,000 tasks: memory, rest, and a killed leader
    Scale,
    /// All workloads, one after the other
    All,
}

impl Workload {
    /// Returns the name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::RegistryBatch => "registry-batch",
            Self::Tasks => "tasks",
            Self::Start => "start",
            Self::Containers => "containers",
            Self::Latency => "latency",
            Self::Allocator => "allocator",
            Self::FailoverCrash => "failover-crash",
            Self::FailoverFreeze => "failover-freeze",
            Self::Stall => "stall",
            Self::Idle => "idle",
            Self::Flood => "flood",
            Self::Crowd => "crowd",
            Self::StateRead => "state-read",
            Self::Scrape => "scrape",
            Self::Events => "events",
            Self::Commands => "commands",
            Self::Scale => "scale",
            Self::All => "all",
        }
    }
}

/// The peers of Argosy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Three members of etcd with their default settings
    Etcd,
    /// Argosy without TLS; the other side is Argosy with TLS. For `registry`, `registry-batch`,
    /// `failover-crash`, `failover-freeze`, `flood` and `scale`
    Plaintext,
    /// For tasks: one server and one worker of HyperQueue, its `hq` on the PATH
    Hyperqueue,
    /// No peer
    None,
}

/// The length and number of measurements, by form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Runs of each side.
    pub(crate) runs: u32,
    /// Unmeasured time at the start of a closed loop.
    pub(crate) warm_up: Duration,
    /// Measured time of a closed loop.
    pub(crate) measured: Duration,
    /// Maximum number of clients of a closed loop of single changes.
    pub(crate) clients: usize,
    /// Kills of a leader, for each side and load.
    pub(crate) kills: u32,
    /// Empty tasks.
    pub(crate) tasks: u32,
    /// Single tasks whose start is timed.
    pub(crate) starts: u32,
    /// Containers that run together on one agent.
    pub(crate) containers: u32,
    /// Time for which the disks of followers are slow.
    pub(crate) stall: Duration,
    /// Time for which an idle cluster is measured.
    pub(crate) idle: Duration,
    /// Idle agents of the second cluster; the first is empty.
    pub(crate) idle_agents: u32,
    /// Time for which readers flood the leader.
    pub(crate) flood: Duration,
    /// Connections of readers.
    pub(crate) flood_connections: u32,
    /// Time for which calls are measured next to a crowd.
    pub(crate) crowd: Duration,
    /// Agents of the crowd.
    pub(crate) crowd_agents: u32,
    /// Schedulers of the crowd.
    pub(crate) crowd_schedulers: u32,
    /// Agents in the lists.
    pub(crate) state_agents: u32,
    /// Tasks of each of them.
    pub(crate) tasks_per_agent: u32,
    /// Rules of access of `registry`.
    pub(crate) rules: usize,
    /// Agents of `scale`.
    pub(crate) scale_agents: u32,
    /// Those that share a connection.
    pub(crate) agents_per_connection: u32,
    /// Rounds of `state-read` and `scrape`: writers alone, then together with readers.
    pub(crate) state_rounds: u32,
    /// Time for which scrapes are measured in each condition.
    pub(crate) scrape: Duration,
    /// Subscribers that read.
    pub(crate) subscribers: usize,
    /// Time for which subscribers are measured.
    pub(crate) events: Duration,
    /// Changes a second while subscribers are measured.
    pub(crate) changes: u32,
    /// Agents while commands are measured.
    pub(crate) command_agents: u32,
    /// Time for which a page of `argosy top` is measured.
    pub(crate) top: Duration,
}

impl Arguments {
    pub(crate) fn extent(&self) -> Extent {
        match self.short {
            true => self.short_extent(),
            false => self.long_extent(),
        }
    }

    fn short_extent(&self) -> Extent {
        let seconds = Duration::from_secs_f64;
        Extent {
            runs: self.runs.unwrap_or(1),
            warm_up: seconds(0.5),
            measured: seconds(2.0),
            clients: self.clients,
            kills: 5,
            tasks: 2_000,
            starts: 50,
            containers: 200,
            stall: seconds(10.0),
            idle: seconds(10.0),
            idle_agents: self.agents.unwrap_or(200),
            flood: seconds(8.0),
            flood_connections: 60,
            crowd: seconds(8.0),
            crowd_agents: 600,
            crowd_schedulers: 120,
            state_agents: self.agents.unwrap_or(500),
            tasks_per_agent: self.tasks_per_agent,
            scale_agents: self.agents.unwrap_or(1_000),
            agents_per_connection: self.agents_per_connection,
            rules: usize::from(self.rules),
            state_rounds: 1,
            scrape: seconds(3.0),
            subscribers: 100,
            events: seconds(8.0),
            changes: self.changes,
            command_agents: self.agents.unwrap_or(50),
            top: seconds(3.0),
        }
    }

    fn long_extent(&self) -> Extent {
        let seconds = Duration::from_secs_f64;
        Extent {
            runs: self.runs.unwrap_or(5),
            warm_up: seconds(1.0),
            measured: seconds(6.0),
            clients: self.clients,
            kills: 30,
            tasks: 10_000,
            starts: 200,
            containers: 1_000,
            stall: seconds(60.0),
            idle: seconds(60.0),
            idle_agents: self.agents.unwrap_or(1_000),
            flood: seconds(20.0),
            flood_connections: 200,
            crowd: seconds(30.0),
            crowd_agents: 10_000,
            crowd_schedulers: 1_000,
            state_agents: self.agents.unwrap_or(10_000),
            tasks_per_agent: self.tasks_per_agent,
            scale_agents: self.agents.unwrap_or(50_000),
            agents_per_connection: self.agents_per_connection,
            rules: usize::from(self.rules),
            state_rounds: 3,
            scrape: seconds(20.0),
            subscribers: 990,
            // More than the minute after which a stalled subscriber is disconnected.
            events: seconds(75.0),
            changes: self.changes,
            command_agents: self.agents.unwrap_or(1_000),
            top: seconds(30.0),
        }
    }
}
