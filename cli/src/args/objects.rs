//! Nouns and their verbs, and the short verbs that look at things.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::service::{AgentStart, MasterStart};
use super::shared::{Reach, Show, Write};
use crate::parsers;

/// Verbs of masters.
#[derive(Debug, Subcommand)]
pub(crate) enum Master {
    /// Start a master
    #[command(after_help = "Examples:
  argosy master start --bootstrap            a group of one, for this host only
  argosy master start --listen 10.0.0.1 --peers 10.0.0.1,10.0.0.2,10.0.0.3 --insecure-plaintext")]
    Start(Box<MasterStart>),
    /// List the masters: who leads, who lags
    #[command(after_help = "Examples:
  argosy master list
  argosy master list -o wide")]
    List(Listing),
    /// Add a started, empty master to the group
    #[command(after_help = "Examples:
  argosy master join 10.0.0.4:5052
  argosy master join 10.0.0.4 --timeout 2m")]
    Join(MasterJoin),
    /// Remove a master from the group
    #[command(after_help = "Examples:
  argosy master remove master-3
  argosy master remove master-3 --dry-run")]
    Remove(MasterRemove),
    /// Hand leadership over
    #[command(after_help = "Examples:
  argosy master transfer                     to the master that is furthest along
  argosy master transfer master-2")]
    Transfer(MasterTransfer),
    /// Raise the feature level of the cluster after an upgrade
    #[command(
        name = "raise-level",
        long_about = "Raise the feature level of the cluster after an upgrade

Masters of two releases work together at the level of the older one. When every master is of the new release, this
command makes the cluster use what that release adds. It is refused while a master does not report that it knows the
new level. There is no way back: a master of the older release ends, and refuses its data directory.",
        after_help = "Examples:
  argosy master raise-level                  to the newest level that all masters know
  argosy master raise-level --to 3 --yes"
    )]
    RaiseLevel(MasterRaiseLevel),
    /// Replace the data of a stopped master of this host by that of the group
    #[command(
        long_about = "Replace the data of a stopped master of this host by that of the group

For a master that refuses to start because its data is damaged or differs from that of the group. It takes the same
flags as `argosy master start`. The group removes the former member, the data directory is emptied, and an empty
master joins as a new member and takes all data from the others. Then this command ends: start the master as always.
Nothing is removed while the other masters have no quorum. Interrupted at any point, it can be run again.",
        after_help = "Examples:
  argosy master rejoin --masters 10.0.0.1,10.0.0.2 --listen 10.0.0.3 --peers 10.0.0.1,10.0.0.2,10.0.0.3 --insecure-plaintext
  argosy master rejoin --masters 10.0.0.1 --peers 10.0.0.1,10.0.0.2,10.0.0.3 --dry-run"
    )]
    Rejoin(Box<MasterRejoin>),
}

/// A plain list.
#[derive(Debug, Args)]
pub(crate) struct Listing {
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Add a master.
#[derive(Debug, Args)]
pub(crate) struct MasterJoin {
    /// Raft address of the new master
    #[arg(value_name = "HOST:PORT", value_parser = |text: &str| parsers::address(text, parsers::RAFT_PORT))]
    pub(crate) raft_address: String,
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Remove a master.
#[derive(Debug, Args)]
pub(crate) struct MasterRemove {
    /// Its id or address, as `argosy master list` shows them
    pub(crate) master: String,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Hand leadership over.
#[derive(Debug, Args)]
pub(crate) struct MasterTransfer {
    /// Id or address of the next leader
    pub(crate) master: Option<String>,
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Raise the feature level.
#[derive(Debug, Args)]
pub(crate) struct MasterRaiseLevel {
    /// The level; by default the newest that all masters know
    #[arg(
        long,
        value_name = "LEVEL",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) to: u32,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Replace the data of a master.
#[derive(Debug, Args)]
pub(crate) struct MasterRejoin {
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) start: MasterStart,
}

/// Verbs of agents.
#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// Start the agent of this host
    #[command(after_help = "Examples:
  argosy agent start --masters 10.0.0.1,10.0.0.2,10.0.0.3 --listen 10.0.1.7 --insecure-plaintext
  argosy agent start --resources 'cpus:2;mem:1024;ports:[31000-31100]' --attribute zone=a")]
    Start(Box<AgentStart>),
    /// Stop the agent of this host; its tasks run on
    #[command(after_help = "Examples:
  argosy agent stop                          tasks run on and are found again by the next start
  argosy agent stop --kill-tasks             and nothing of them is left")]
    Stop(AgentStop),
    /// List the agents
    #[command(after_help = "Examples:
  argosy agent list
  argosy agent list -o wide")]
    List(Listing),
    /// Show one agent
    #[command(after_help = "Examples:
  argosy agent show agent-2
  argosy agent show node7.example -o json")]
    Show(Named),
}

/// Stop the agent of this host.
#[derive(Debug, Args)]
pub(crate) struct AgentStop {
    /// The directory it was started with
    #[arg(
        long,
        env = "ARGOSY_AGENT_DATA_DIR",
        value_name = "DIR",
        default_value = "/var/lib/argosy/agent"
    )]
    pub(crate) data_dir: PathBuf,
    /// End its tasks too: TERM, and KILL after the grace period
    #[arg(long)]
    pub(crate) kill_tasks: bool,
    /// Time between TERM and KILL
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parsers::duration)]
    pub(crate) grace: Duration,
    /// Give up after this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parsers::duration)]
    pub(crate) timeout: Duration,
}

/// One record.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Id, unique beginning of one, or name
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Verbs of tasks.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// List tasks
    #[command(after_help = "Examples:
  argosy task list
  argosy task list --framework framework-7 --all -o wide")]
    List(TaskList),
    /// Show one task
    #[command(after_help = "Examples:
  argosy task show brave-otter
  argosy task show framework-7/web-3 -o json")]
    Show(Named),
    /// Kill a task: TERM, and KILL after the grace period
    #[command(after_help = "Examples:
  argosy task kill brave-otter
  argosy task kill framework-7/web-3 --grace 30s --detach")]
    Kill(TaskKill),
}

/// List tasks.
#[derive(Debug, Args)]
pub(crate) struct TaskList {
    /// Only those of this framework
    #[arg(long, value_name = "FRAMEWORK")]
    pub(crate) framework: Option<String>,
    /// Finished ones too
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Kill a task.
#[derive(Debug, Args)]
pub(crate) struct TaskKill {
    /// TASK or FRAMEWORK/TASK: id, unique beginning of one, or name
    pub(crate) task: String,
    /// Time between TERM and KILL [default: what the task was launched with]
    #[arg(long, value_name = "TIME", value_parser = parsers::duration)]
    pub(crate) grace: Option<Duration>,
    /// Do not wait for its end
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) write: Write,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Verbs of frameworks.
#[derive(Debug, Subcommand)]
pub(crate) enum Framework {
    /// List frameworks
    #[command(after_help = "Examples:
  argosy framework list
  argosy framework list --all -o json")]
    List(FrameworkList),
    /// Show one framework
    #[command(after_help = "Examples:
  argosy framework show framework-7
  argosy framework show wordcount -o json")]
    Show(Named),
    /// Remove a framework and kill its tasks, for good
    #[command(after_help = "Examples:
  argosy framework teardown framework-7
  argosy framework teardown wordcount --yes --detach")]
    Teardown(FrameworkTeardown),
}

/// List frameworks.
#[derive(Debug, Args)]
pub(crate) struct FrameworkList {
    /// Removed ones too
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Remove a framework.
#[derive(Debug, Args)]
pub(crate) struct FrameworkTeardown {
    /// Id, unique beginning of one, or name
    pub(crate) framework: String,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Do not wait until its tasks have ended
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) write: Write,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Verbs of offers.
#[derive(Debug, Subcommand)]
pub(crate) enum Offer {
    /// List the offers that are open now
    #[command(after_help = "Examples:
  argosy offer list
  argosy offer list -o ndjson")]
    List(Listing),
}

/// Live tasks.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Finished ones too
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Output of a task.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// TASK or FRAMEWORK/TASK: id, unique beginning of one, or name
    pub(crate) task: String,
    /// Go on until the task has ended
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Standard error instead of standard output
    #[arg(long)]
    pub(crate) stderr: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// The cluster in words.
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Why it does not run.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// A task (TASK or FRAMEWORK/TASK) or a framework
    #[arg(value_name = "TASK|FRAMEWORK")]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
}
