//! A row of the table: what is done, and what must come of it.

use argosy_proto::v1;
use futures::future::LocalBoxFuture;

use super::calls::Stock;
use super::site::{Place, Site};

/// One case of bad input.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) does: Does,
    pub(crate) ends: End,
    /// Parts of what must be said: the field, its value, the remedy. Words in braces stand for
    /// places of the site.
    pub(crate) says: [&'static str; 3],
    pub(crate) keeps: Keeps,
}

/// What a user or a peer does.
#[derive(Clone, Copy)]
pub(crate) enum Does {
    /// Runs the executable until it ends by itself.
    Command(&'static str),
    /// Asks the leader over HTTP.
    Get(&'static str),
    /// Sends these bytes to every port of the cluster.
    Bytes(fn() -> Vec<u8>),
    /// Accepts offers, past the SDK, in a call that is refused as a whole.
    Accept(fn(&Stock) -> Vec<v1::Offer>, fn() -> Vec<v1::TaskSpec>),
    /// Launches tasks on an open offer; the call stands, its last task is refused.
    Launch(fn() -> Vec<v1::TaskSpec>),
    /// Launches a task that nobody can refuse before it runs.
    Task(fn() -> v1::TaskSpec),
    /// Takes several steps.
    Story(for<'a> fn(&'a Site) -> LocalBoxFuture<'a, Outcome>),
    /// Takes several steps that end processes of the cluster, while nothing else happens.
    Alone(for<'a> fn(&'a mut Site) -> LocalBoxFuture<'a, Outcome>),
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The process, with this code.
    Exit(i32),
    /// The process, aborted.
    Aborted,
    /// The process does not end: it asks again, and says so.
    GoesOn,
    /// The call, with this code.
    Code(tonic::Code),
    /// The call stands, one of its tasks is refused.
    Refused,
    /// The task.
    State(v1::TaskState),
    /// HTTP, with this status.
    Status(u16),
    /// Nobody could read an answer.
    Unsaid,
}

/// What must still be there. All processes of the cluster, what was written, and the task that runs
/// must in any case, which is judged when all rows have run.
#[derive(Clone, Copy)]
pub(crate) enum Keeps {
    Cluster,
    /// This file of the site, with this text in it.
    File(&'static str, &'static str),
    /// Nothing new in the folder for temporary files.
    Tidy,
    /// The other cluster can be started as before.
    OtherCluster,
    /// The agents that this cluster had, and no other.
    Agents,
}

/// How it ended, what was said, and where.
pub(crate) struct Outcome {
    pub(crate) ended: End,
    pub(crate) said: String,
    pub(crate) place: Place,
}

/// A row of bytes that are no message: nobody could read an answer.
pub(super) const fn garbage(name: &'static str, bytes: fn() -> Vec<u8>) -> Row {
    Row {
        name,
        does: Does::Bytes(bytes),
        ends: End::Unsaid,
        says: ["", "", ""],
        keeps: Keeps::Cluster,
    }
}
