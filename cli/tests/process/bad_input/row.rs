//! A row of the table: the action, and the required result.

use argosy_proto::v1;
use futures::future::LocalBoxFuture;

use super::calls::OfferSet;
use super::environment::{BadInputCluster, RowAddresses};

/// One case of bad input.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) action: RowAction,
    pub(crate) end: RowEnd,
    /// Required parts of the message: the field, its value, the remedy. Words in braces stand for
    /// addresses and directories of the cluster.
    pub(crate) message: [&'static str; 3],
    pub(crate) unchanged: Unchanged,
}

/// The action of a user or a peer.
#[derive(Clone, Copy)]
pub(crate) enum RowAction {
    /// Runs the executable until it exits by itself.
    Command(&'static str),
    /// Sends a GET request to the leader.
    Get(&'static str),
    /// Sends these bytes to every port of the cluster.
    Bytes(fn() -> Vec<u8>),
    /// Accepts offers without the SDK, in a call that is rejected as a whole.
    Accept(fn(&OfferSet) -> Vec<v1::Offer>, fn() -> Vec<v1::TaskSpec>),
    /// Launches tasks on an open offer. The call succeeds, its last task is rejected.
    Launch(fn() -> Vec<v1::TaskSpec>),
    /// Launches a task whose defect appears only when it runs.
    Task(fn() -> v1::TaskSpec),
    /// Takes several steps.
    Steps(for<'a> fn(&'a BadInputCluster) -> LocalBoxFuture<'a, RowOutcome>),
    /// Takes several steps that end processes of the cluster, while nothing else runs.
    ExclusiveSteps(for<'a> fn(&'a mut BadInputCluster) -> LocalBoxFuture<'a, RowOutcome>),
}

/// The result of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowEnd {
    /// The process exits with this code.
    Exit(i32),
    /// The process aborts.
    Aborted,
    /// The process does not exit: it retries, and logs that.
    Retries,
    /// The call fails with this code.
    Code(tonic::Code),
    /// The call succeeds, one of its tasks is rejected.
    Refused,
    /// The task ends in this state.
    State(v1::TaskState),
    /// HTTP, with this status.
    Status(u16),
    /// No answer can be read.
    NoAnswer,
}

/// The part that must be unchanged. All processes of the cluster, the written data and the
/// long-running task must survive in any case, which is checked when all rows have run.
#[derive(Clone, Copy)]
pub(crate) enum Unchanged {
    Cluster,
    /// This file of the cluster, with this text in it.
    File(&'static str, &'static str),
    /// No new entry in the directory for temporary files.
    TemporaryFiles,
    /// The other cluster can be started as before.
    OtherCluster,
    /// The agents of this cluster, and no other.
    Agents,
}

/// The result, the message, and where it was reported.
pub(crate) struct RowOutcome {
    pub(crate) end: RowEnd,
    pub(crate) message: String,
    pub(crate) addresses: RowAddresses,
}

/// Returns a row of bytes that are not a message: no answer can be read.
pub(super) const fn garbage(name: &'static str, bytes: fn() -> Vec<u8>) -> Row {
    Row {
        name,
        action: RowAction::Bytes(bytes),
        end: RowEnd::NoAnswer,
        message: ["", "", ""],
        unchanged: Unchanged::Cluster,
    }
}
