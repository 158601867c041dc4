//! `argosy logs`: the output of a task, through any master.

use std::io::{self, Write};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::exec::note_executor;
use crate::args::Logs;
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::files::{FileChunk, FileLocation, FileReader, ReadError};
use crate::operator::{ClusterClient, is_terminal};
use crate::output::note;

/// Interval at which a followed task is polled, so that its end is seen even if its agent is gone.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn show(arguments: &Logs) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach);
    let task = operator.find_task(&arguments.task).await?;
    let shown = format!("{}/{}", task.framework_id, task.task_id);
    if task.agent_id.is_empty() {
        return Err(Failure::new(
            FailureCode::NotFound,
            format!("{shown} has no agent yet, so it has written nothing"),
        ));
    }
    let file = if arguments.stderr { "stderr" } else { "stdout" };
    let location = FileLocation::of(&task, file);
    note_executor(
        &task,
        &shown,
        "this is the output of the executor and all its tasks",
    );
    let mut files = FileReader::new(operator.masters().addresses())?;
    let mut sink = |piece: FileChunk<'_>| match piece {
        FileChunk::Bytes(bytes) => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        FileChunk::Missing(count) => {
            note(&FileChunk::missing(count, file));
            Ok(())
        }
    };
    let read = if arguments.follow {
        let over = CancellationToken::new();
        let watch = watch(&operator, &task.framework_id, &task.task_id, &over);
        tokio::select! {
            read = files.follow(&location, &over, &mut sink) => read,
            never = watch => match never {},
        }
    } else {
        files.read(&location, &mut sink).await
    };
    read.map(|()| DONE)
        .or_else(|error| failure(error, &shown, &task.agent_id))
}

/// Records when the task has ended; never returns.
async fn watch(
    operator: &ClusterClient,
    framework_id: &str,
    task_id: &str,
    over: &CancellationToken,
) -> std::convert::Infallible {
    loop {
        let found = operator.task(framework_id, task_id).await;
        if matches!(&found, Ok(None)) || matches!(&found, Ok(Some(task)) if is_terminal(task.state))
        {
            over.cancel();
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn failure(error: ReadError, shown: &str, agent_id: &str) -> VerbResult {
    match error {
        // A closed reader is not a failure.
        ReadError::Sink(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(DONE),
        ReadError::Sink(error) => Err(Failure::failed(format!("cannot write the output: {error}"))),
        ReadError::NotFound(text) => Err(Failure::new(
            FailureCode::NotFound,
            format!("the output of {shown} is not on {agent_id}: {text}"),
        )
        .advise("output is kept for an hour, or for the newest 1,000 tasks of an agent")),
        ReadError::Refused(text) => Err(Failure::new(
            FailureCode::Refused,
            format!("the output of {shown} cannot be read: {text}"),
        )),
        ReadError::Broken(text) => Err(Failure::new(
            FailureCode::Unavailable,
            format!("the output of {shown} cannot be read from {agent_id}: {text}"),
        )
        .advise("argosy agent list shows whether that agent is reachable")),
    }
}
