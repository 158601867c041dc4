//! Arguments of `argosy group`, which manages tasks that start and end together.

use std::path::PathBuf;
use std::time::Duration;

use argosy_client::Masters;
use clap::{Args, Subcommand};

use super::shared::{ConnectionArguments, OutputArguments, WriteArguments};
use crate::parsers;

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Run the tasks of a file as one group, show their output, and exit when all have ended
    #[command(after_help = "Examples:
  argosy group run site.json
  argosy group run --detach --role web site.json

The file is JSON. The fields of a task are named as the flags of argosy run:
  {\"group\": \"site\", \"tasks\": [
    {\"name\": \"web\", \"mem\": \"64M\", \"env\": [\"A=1\", \"B=2\"], \"command\": [\"serve\", \"--port\", \"80\"]},
    {\"name\": \"reader\", \"command\": [\"sh\", \"-c\", \"tail -F /group/access.log\"]}
  ]}

Tasks start in this order once all can start. They share a network and the directory /group. When
one fails or is killed, they end one by one, the last one first. Ctrl-C ends the group.
The exit code is that of the first task that failed by itself, else 0.")]
    Run(GroupRun),
    /// List the groups that have tasks
    #[command(after_help = "Examples:
  argosy group list
  argosy group list --all -o wide")]
    List(GroupList),
    /// Kill all tasks of a group, the last one first
    #[command(after_help = "Examples:
  argosy group kill site
  argosy group kill framework-7/site --detach")]
    Kill(GroupKill),
}

#[derive(Debug, Args)]
pub(crate) struct GroupRun {
    /// File with the group and its tasks; - for standard input
    pub(crate) file: PathBuf,
    /// Role whose share is used
    #[arg(long, env = "ARGOSY_ROLE", value_name = "ROLE", default_value = "*")]
    pub(crate) role: String,
    /// Print the ids after the launch, and leave the group running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Maximum time to wait for an agent; exits with code 6 after it [default: unlimited]
    #[arg(long, value_name = "TIME", value_parser = parsers::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Print only the tasks' output and errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Masters, in any order [default: 127.0.0.1:5050, else a dev cluster at 127.77.0.1-3:5050]
    #[arg(long, env = "ARGOSY_MASTERS", value_name = "HOST:PORT,…", value_parser = parsers::masters)]
    pub(crate) masters: Option<Masters>,
}

#[derive(Debug, Args)]
pub(crate) struct GroupList {
    /// Include finished groups
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct GroupKill {
    /// GROUP or FRAMEWORK/GROUP: id, or unique prefix of an id
    pub(crate) group: String,
    /// Grace period between TERM and KILL of its first task [default: as launched]
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
