//! Arguments of `argosy attach`, which attaches to the streams of a task's own command.

use clap::Args;

use super::shared::ConnectionArguments;

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// TASK or FRAMEWORK/TASK: id, unique prefix of an id, or name
    pub(crate) task: String,
    /// Forward standard input; the task must have been started with --interactive
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Connect this terminal to the task's; the task must have been started with --tty
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Show this many of the last lines of output first, at most 16 MiB of each stream
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) tail: usize,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}
