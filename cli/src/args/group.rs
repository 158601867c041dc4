//! Arguments of `argosy group run`, which runs tasks that start and end together.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::shared::ClusterArguments;
use crate::parsers;

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
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
}
