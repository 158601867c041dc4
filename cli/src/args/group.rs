//! `argosy group`: tasks that start and end together.

use std::path::PathBuf;
use std::time::Duration;

use argosy_client::Masters;
use clap::{Args, Subcommand};

use super::shared::{Reach, Show, Write};
use crate::parsers;

/// Verbs of task groups.
#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// Run the tasks of a file as one group, show their output, end when all have ended
    #[command(after_help = "Examples:
  argosy group run site.json
  argosy group run --detach --role web site.json

The file is JSON. Each task says what argosy run can say, by the names of its flags:
  {\"group\": \"site\", \"tasks\": [
    {\"name\": \"web\", \"mem\": \"64M\", \"env\": [\"A=1\", \"B=2\"], \"command\": [\"serve\", \"--port\", \"80\"]},
    {\"name\": \"reader\", \"command\": [\"sh\", \"-c\", \"tail -F /group/access.log\"]}
  ]}

Tasks start in this order once all can start, share a network and the folder /group, and end in
turn, the last one first, when one of them fails or is killed. Ctrl-C ends the group.
It ends with the code of the first task that failed by itself, else 0.")]
    Run(GroupRun),
    /// List the groups that have a task
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

/// Run a group.
#[derive(Debug, Args)]
pub(crate) struct GroupRun {
    /// The group and its tasks; - for standard input
    pub(crate) file: PathBuf,
    /// Role whose share it uses
    #[arg(long, env = "ARGOSY_ROLE", value_name = "ROLE", default_value = "*")]
    pub(crate) role: String,
    /// Print the ids once it is launched, and leave it running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Wait at most so long for an agent to take it, then end with code 6 [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = parsers::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Say nothing but the tasks' output and errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Masters, any order [default: 127.0.0.1:5050, else a dev cluster at 127.77.0.1-3:5050]
    #[arg(long, env = "ARGOSY_MASTERS", value_name = "HOST:PORT,…", value_parser = parsers::masters)]
    pub(crate) masters: Option<Masters>,
}

/// List groups.
#[derive(Debug, Args)]
pub(crate) struct GroupList {
    /// Finished ones too
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Kill a group.
#[derive(Debug, Args)]
pub(crate) struct GroupKill {
    /// GROUP or FRAMEWORK/GROUP: id, or unique beginning of one
    pub(crate) group: String,
    /// Time between TERM and KILL of its first task [default: what that was launched with]
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
