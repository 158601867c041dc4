//! `argosy cp`: files and directories from and to the sandbox of a task, through any master.
//!
//! Files of tasks are read by the file API of agents, which also works for tasks that have ended.
//! They are written by a shell in the task, with the permissions of its user.

mod download;
mod local;
mod local_tree;
mod operand;
mod progress;
mod scripts;
mod upload;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::exec::{READER_GONE, by_signal};
use super::interruption;
use crate::args::Cp;
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::files::ReadError;
use crate::operator::ClusterClient;
use operand::CopyRequest;
pub(crate) use operand::SandboxPrefix;
use progress::Progress;

/// Maximum depth of a directory that is copied.
const MAX_DEPTH: usize = 100;
/// Time for a copy to end after a signal.
const BLOCKED_OUTPUT: Duration = Duration::from_secs(1);

pub(crate) async fn run(arguments: &Cp) -> VerbResult {
    let copy = CopyRequest::of(&arguments.source, &arguments.destination)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let progress = Arc::new(Progress::new(arguments.quiet));
    let result = match copy {
        CopyRequest::FromTask { task, path, to } => {
            let progress = Arc::clone(&progress);
            let copy = async move {
                download::run(&operator, &task, &path, to.as_deref(), &progress).await
            };
            until_interrupted(copy).await
        }
        CopyRequest::ToTask { from, task, path } => {
            upload::run(&operator, from.as_deref(), &task, &path, &progress).await
        }
    };
    progress.finish();
    match result {
        Ok(()) => match progress.left_out() {
            0 => Ok(DONE),
            1 => Err(Failure::failed("1 entry was not copied")),
            count => Err(Failure::failed(format!("{count} entries were not copied"))),
        },
        Err(CopyError::ReaderGone) => Ok(READER_GONE),
        Err(CopyError::Signalled(signal)) => Ok(by_signal(signal)),
        Err(CopyError::Failed(failure)) => Err(failure),
    }
}

/// Performs a copy until it has ended, or a signal asks this program to exit. The copy is a
/// separate task: it may block on standard output that is not read.
async fn until_interrupted(
    copy: impl Future<Output = Result<(), CopyError>> + Send + 'static,
) -> Result<(), CopyError> {
    let mut copies = JoinSet::new();
    copies.spawn(copy);
    tokio::select! {
        copied = copies.join_next() => {
            copied.expect("there is one copy").map_err(|error| Failure::of(&error))?
        }
        signal = interruption() => {
            let signal = signal?;
            // The drafts are removed when the copy is dropped. One that is blocked has none.
            let _ = timeout(BLOCKED_OUTPUT, copies.shutdown()).await;
            Err(CopyError::Signalled(signal))
        }
    }
}

/// The reason why a copy ended early.
#[derive(Debug)]
enum CopyError {
    Failed(Failure),
    /// The reader of standard output is gone.
    ReaderGone,
    Signalled(i32),
}

impl From<Failure> for CopyError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Returns the failure of an operation on a path of this host.
fn local_failure(doing: &str, path: &str, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot {doing} {path}: {error}"))
}

/// Returns the failure of reading a file of a task.
fn read_failure(shown: &str, error: &ReadError) -> Failure {
    match error {
        ReadError::NotFound(text) => Failure::new(FailureCode::NotFound, text.clone()),
        ReadError::Refused(text) | ReadError::Busy { text, .. } => {
            Failure::new(FailureCode::Refused, text.clone())
        }
        ReadError::Broken(text) => Failure::new(
            FailureCode::Unavailable,
            format!("cannot read {shown}: {text}"),
        )
        .advise("argosy agent list shows whether its agent is reachable"),
        ReadError::Sink(error) => Failure::failed(format!("cannot write {shown} here: {error}")),
    }
}
