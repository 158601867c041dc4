//! `argosy exec`: one more command in a running task.

use clap::Args;

use super::shared::Reach;
use crate::parsers;

/// Run a command in a task.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// TASK or FRAMEWORK/TASK: id, unique beginning of one, or name
    pub(crate) task: String,
    /// Pass standard input on [default: the command has none]
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// User of the task's container: USER or USER:GROUP, names or numbers [default: the task's]
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Environment variable on top of the task's; may be repeated
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = parsers::pair)]
    pub(crate) environment: Vec<(String, String)>,
    /// Where it starts, as the task sees it [default: the sandbox]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}
