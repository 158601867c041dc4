//! Arguments of `argosy cp`, which copies files from and to the sandboxes of tasks.

use std::ffi::OsString;

use clap::Args;

use super::shared::ConnectionArguments;

#[derive(Debug, Args)]
pub(crate) struct Cp {
    /// TASK:PATH, or a file or directory of this host; - is standard input
    pub(crate) source: OsString,
    /// TASK:PATH, or a file or directory of this host; - is standard output
    pub(crate) destination: OsString,
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}
