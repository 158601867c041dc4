//! Arguments of commands on any object, and of those whose behaviour is in another module than
//! `objects`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::service::MasterStart;
use super::shared::{CalledMasters, ConnectionArguments, ListView, OutputArguments};
use crate::parsers;

/// Arguments of a list without filters.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    pub(crate) view: ListView,
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
    pub(crate) reach: CalledMasters,
    #[command(flatten)]
    pub(crate) start: MasterStart,
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

#[derive(Debug, Args)]
pub(crate) struct LogLevel {
    /// Id, unique prefix of an id, or address or host name
    pub(crate) id: String,
    /// Level, or modules with levels, as info or argosy_master=debug,info; without it, the present
    /// one is shown
    pub(crate) filter: Option<String>,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct Bundle {
    /// The archive [default: argosy-bundle-TIME.tar.gz, in this directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Also include the end of this log file; may be repeated. The journal of this host is always
    /// included
    #[arg(long = "log", value_name = "FILE")]
    pub(crate) logs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// A task or a group, with or without FRAMEWORK/ before it: id, unique prefix of an id, or name
    #[arg(value_name = "TASK|GROUP", required_unless_present = "framework")]
    pub(crate) task: Option<String>,
    /// Show the live tasks of this framework
    #[arg(long, value_name = "FRAMEWORK", conflicts_with = "task")]
    pub(crate) framework: Option<String>,
    /// With --framework, also show tasks that have ended
    // `requires` does not hold together with an argument that conflicts with the framework.
    #[arg(short, long, requires = "framework", conflicts_with = "task")]
    pub(crate) all: bool,
    /// Keep printing new output until the tasks have ended
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin with this many of the last lines of each stream [default: all lines]
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub(crate) tail: Option<u64>,
    /// Begin with what was written since then: 10m ago, or 2026-11-27T09:00:00Z; with --tail, the
    /// later of the two
    #[arg(long, value_name = "TIME", value_parser = parsers::point_in_time)]
    pub(crate) since: Option<parsers::PointInTime>,
    /// Begin each line with the time at which its first byte was written, in UTC; it is up to a
    /// tenth of a second early, and more in the older part of a long log
    #[arg(long)]
    pub(crate) timestamps: bool,
    /// Show only what the tasks wrote to standard output
    #[arg(long, conflicts_with = "stderr")]
    pub(crate) stdout: bool,
    /// Show only what the tasks wrote to standard error; it is printed to standard output
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
    /// Resources that a framework waits for, as cpus:4 or 'cpus:1;mem:64;ports:[31000-31000]'
    /// [default: the smallest amount that is worth an offer]
    #[arg(long, value_name = "RESOURCES", value_parser = parsers::demand)]
    pub(crate) wanted: Option<parsers::Demand>,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}
