//! `argosy attach`: the streams of a task's own command.

use clap::Args;

use super::shared::Reach;

/// Attach to a running task.
#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// TASK or FRAMEWORK/TASK: id, unique beginning of one, or name
    pub(crate) task: String,
    /// Pass standard input on; the task must have been run with --interactive
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Let this terminal stand for the task's; the task must have been run with --tty
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Show so many of the lines that it wrote last, first
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) tail: usize,
    #[command(flatten)]
    pub(crate) reach: Reach,
}
