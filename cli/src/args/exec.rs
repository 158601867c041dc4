//! Arguments of `argosy exec`, which runs one more command in a running task.

use clap::Args;

use super::shared::ConnectionArguments;
use crate::parsers;

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// TASK or FRAMEWORK/TASK: id, unique prefix of an id, or name
    pub(crate) task: String,
    /// Forward standard input [default: the command has none]
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Allocate a terminal for the command
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// User in the task's container: USER or USER:GROUP, names or numbers [default: the task's]
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Environment variable in addition to the task's; may be repeated
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = parsers::pair)]
    pub(crate) environment: Vec<(String, String)>,
    /// Working directory, as the task sees it [default: the sandbox]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}
