//! Arguments of objects (masters, agents, tasks, frameworks, offers) and of short commands that
//! query them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::service::{AgentStart, MasterStart};
use super::shared::{ConnectionArguments, OutputArguments, WriteArguments};
use crate::parsers;

#[derive(Debug, Subcommand)]
pub(crate) enum MasterCommand {
    /// Start a master
    #[command(after_help = "Examples:
  argosy master start --bootstrap            a group of one, for this host only
  argosy master start --listen 10.0.0.1 --peers 10.0.0.1,10.0.0.2,10.0.0.3 --insecure-plaintext")]
    Start(Box<MasterStart>),
    /// List the masters, with leader and lag
    #[command(after_help = "Examples:
  argosy master list
  argosy master list -o wide")]
    List(ListArguments),
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
    /// Transfer leadership to another master
    #[command(after_help = "Examples:
  argosy master transfer                     to the most up-to-date master
  argosy master transfer master-2")]
    Transfer(MasterTransfer),
    /// Raise the feature level of the cluster after an upgrade
    #[command(
        name = "raise-level",
        long_about = "Raise the feature level of the cluster after an upgrade

Masters of two releases work together at the level of the older one. When every master runs the new release, this
command enables what that release adds. It is rejected while any master does not report support for the new level.
It cannot be undone: a master of the older release exits, and rejects its data directory.",
        after_help = "Examples:
  argosy master raise-level                  to the next level, if all masters support it
  argosy master raise-level --to 3 --yes"
    )]
    RaiseLevel(MasterRaiseLevel),
    /// Replace the data of a stopped master of this host with that of the group
    #[command(
        long_about = "Replace the data of a stopped master of this host with that of the group

For a master that refuses to start because its data is damaged or differs from that of the group. It takes the same
flags as `argosy master start`. The group removes the former member, the data directory is emptied, and an empty
master joins as a new member and copies all data from the others. Then this command exits: start the master as usual.
Nothing is removed while the other masters have no quorum. After an interruption at any point, it can be run again.",
        after_help = "Examples:
  argosy master rejoin --masters 10.0.0.1,10.0.0.2 --listen 10.0.0.3 --peers 10.0.0.1,10.0.0.2,10.0.0.3 --insecure-plaintext
  argosy master rejoin --masters 10.0.0.1 --peers 10.0.0.1,10.0.0.2,10.0.0.3 --dry-run"
    )]
    Rejoin(Box<MasterRejoin>),
}

/// Arguments of a list without filters.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct MasterJoin {
    /// Raft address of the new master
    #[arg(value_name = "HOST:PORT", value_parser = |text: &str| parsers::address(text, parsers::RAFT_PORT))]
    pub(crate) raft_address: String,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct MasterRemove {
    /// Id or address, as shown by `argosy master list`
    pub(crate) master: String,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
    /// Only show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct MasterTransfer {
    /// Id or address of the next leader
    pub(crate) master: Option<String>,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct MasterRaiseLevel {
    /// Feature level; by default the next one, if all masters support it
    #[arg(
        long,
        value_name = "LEVEL",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) to: u32,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct MasterRejoin {
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
    /// Only show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
    #[command(flatten)]
    pub(crate) start: MasterStart,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Start the agent of this host
    #[command(after_help = "Examples:
  argosy agent start --masters 10.0.0.1,10.0.0.2,10.0.0.3 --listen 10.0.1.7 --insecure-plaintext
  argosy agent start --resources 'cpus:2;mem:1024;ports:[31000-31100]' --attribute zone=a")]
    Start(Box<AgentStart>),
    /// Stop the agent of this host; its tasks keep running
    #[command(after_help = "Examples:
  argosy agent stop                          tasks keep running, and the next start recovers them
  argosy agent stop --kill-tasks             its tasks are killed and cleaned up")]
    Stop(AgentStop),
    /// List the agents
    #[command(after_help = "Examples:
  argosy agent list
  argosy agent list -o wide")]
    List(ListArguments),
    /// Show one agent
    #[command(after_help = "Examples:
  argosy agent show agent-2
  argosy agent show node7.example -o json")]
    Show(ShowArguments),
}

#[derive(Debug, Args)]
pub(crate) struct AgentStop {
    /// Data directory that the agent was started with
    #[arg(
        long,
        env = "ARGOSY_AGENT_DATA_DIR",
        value_name = "DIR",
        default_value = "/var/lib/argosy/agent"
    )]
    pub(crate) data_dir: PathBuf,
    /// Also end its tasks: TERM, and KILL after the grace period
    #[arg(long)]
    pub(crate) kill_tasks: bool,
    /// Time between TERM and KILL
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parsers::duration)]
    pub(crate) grace: Duration,
    /// Fail after this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parsers::duration)]
    pub(crate) timeout: Duration,
}

/// Arguments of a command that shows one object.
#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Id, unique prefix of an id, or name
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// List tasks
    #[command(after_help = "Examples:
  argosy task list
  argosy task list --framework framework-7 --all -o wide")]
    List(TaskList),
    /// Show one task
    #[command(after_help = "Examples:
  argosy task show brave-otter
  argosy task show framework-7/web-3 -o json")]
    Show(ShowArguments),
    /// Kill a task: TERM, and KILL after the grace period
    #[command(after_help = "Examples:
  argosy task kill brave-otter
  argosy task kill framework-7/web-3 --grace 30s --detach")]
    Kill(TaskKill),
}

#[derive(Debug, Args)]
pub(crate) struct TaskList {
    /// Only tasks of this framework
    #[arg(long, value_name = "FRAMEWORK")]
    pub(crate) framework: Option<String>,
    /// Include finished tasks
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct TaskKill {
    /// TASK or FRAMEWORK/TASK: id, unique prefix of an id, or name
    pub(crate) task: String,
    /// Grace period between TERM and KILL [default: as launched]
    #[arg(long, value_name = "TIME", value_parser = parsers::duration)]
    pub(crate) grace: Option<Duration>,
    /// Do not wait until it has ended
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) write: WriteArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FrameworkCommand {
    /// List frameworks
    #[command(after_help = "Examples:
  argosy framework list
  argosy framework list --all -o json")]
    List(FrameworkList),
    /// Show one framework
    #[command(after_help = "Examples:
  argosy framework show framework-7
  argosy framework show wordcount -o json")]
    Show(ShowArguments),
    /// Remove a framework and kill its tasks, permanently
    #[command(after_help = "Examples:
  argosy framework teardown framework-7
  argosy framework teardown wordcount --yes --detach")]
    Teardown(FrameworkTeardown),
}

#[derive(Debug, Args)]
pub(crate) struct FrameworkList {
    /// Include removed frameworks
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct FrameworkTeardown {
    /// Id, unique prefix of an id, or name
    pub(crate) framework: String,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
    /// Do not wait until its tasks have ended
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) write: WriteArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OfferCommand {
    /// List the open offers
    #[command(after_help = "Examples:
  argosy offer list
  argosy offer list -o ndjson")]
    List(ListArguments),
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Include finished tasks
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// TASK or FRAMEWORK/TASK: id, unique prefix of an id, or name
    pub(crate) task: String,
    /// Keep printing new output until the task has ended
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Show standard error instead of standard output
    #[arg(long)]
    pub(crate) stderr: bool,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// A task (TASK or FRAMEWORK/TASK) or a framework
    #[arg(value_name = "TASK|FRAMEWORK")]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}
