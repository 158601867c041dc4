//! The objects of a cluster, one file per object: its commands, their arguments and examples, and
//! what they do. `contexts` has the clusters themselves, as this user has named them.
//!
//! Each command makes its calls, chooses the exit code, and passes records to `output`.

mod acl;
mod agents;
mod audit;
mod contexts;
mod frameworks;
mod groups;
mod masters;
mod offers;
mod rate_limits;
mod secrets;
mod snapshots;
mod tasks;
mod tokens;
mod weights;

use anyhow::Context;
use argosy_proto::v1;
use tokio::runtime::{Builder, Runtime};

pub(crate) use acl::AclCommand;
pub(crate) use agents::AgentCommand;
pub(crate) use audit::AuditCommand;
pub(crate) use contexts::ContextCommand;
pub(crate) use frameworks::FrameworkCommand;
pub(crate) use groups::GroupCommand;
pub(crate) use masters::MasterCommand;
pub(crate) use offers::OfferCommand;
pub(crate) use rate_limits::LimitCommand;
pub(crate) use secrets::SecretCommand;
pub(crate) use snapshots::SnapshotCommand;
pub(crate) use tasks::{TaskCommand, TaskList, list as ps};
pub(crate) use tokens::TokenCommand;
pub(crate) use weights::WeightCommand;

use crate::args::OutputArguments;
use crate::exit::VerbResult;
use crate::operator::ListedGroup;
use crate::output::{ListLayout, ShownFailover};

/// The words of a command that prints a list, and the function that names its columns.
type ListCommand = (&'static [&'static str], fn() -> Vec<String>);

/// The commands that print a list, each with the names of its columns.
pub(crate) const LISTS: &[ListCommand] = &[
    (&["master", "list"], ListLayout::column_names::<v1::Master>),
    (
        &["master", "failovers"],
        ListLayout::column_names::<ShownFailover>,
    ),
    (&["agent", "list"], ListLayout::column_names::<v1::Agent>),
    (&["task", "list"], ListLayout::column_names::<v1::Task>),
    (&["ps"], ListLayout::column_names::<v1::Task>),
    (&["group", "list"], ListLayout::column_names::<ListedGroup>),
    (
        &["framework", "list"],
        ListLayout::column_names::<v1::Framework>,
    ),
    (&["offer", "list"], ListLayout::column_names::<v1::Offer>),
    (&["secret", "list"], ListLayout::column_names::<v1::Secret>),
    (
        &["weight", "list"],
        ListLayout::column_names::<v1::RoleWeight>,
    ),
    (&["token", "list"], ListLayout::column_names::<v1::Token>),
    (
        &["limit", "list"],
        ListLayout::column_names::<v1::SubjectLimit>,
    ),
];

/// A command on an object.
pub(crate) trait ObjectCommand {
    /// One line of help that names the commands on the object.
    const ABOUT: &'static str;
    /// Two examples for the help of the object.
    const EXAMPLES: &'static str;

    /// Executes the command.
    fn run(&self) -> VerbResult;

    /// Returns the output options, if the command has any. Its errors have the same format.
    fn output(&self) -> Option<OutputArguments>;
}

/// Executes a command that makes a few calls.
pub(crate) fn calls(command: impl Future<Output = VerbResult>) -> VerbResult {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(command)
}

/// Executes a command that shows the output of a task, or writes other output that may be long.
pub(crate) fn in_a_task(command: impl Future<Output = VerbResult>) -> VerbResult {
    let runtime = two_threads()?;
    let ended = runtime.block_on(command);
    // A thread may block without end on a terminal that accepts no output.
    runtime.shutdown_background();
    ended
}

/// Creates a runtime in which one thread may wait for a slow terminal while the other keeps the
/// session. Tasks that can all wait at the same time do so in `block_in_place`.
pub(crate) fn two_threads() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")
}
