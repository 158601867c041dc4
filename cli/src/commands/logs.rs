//! `argosy logs`: the output of a task, through any master.

use std::io::{self, Write};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::exec::say_executor;
use crate::args::Logs;
use crate::exit::{Code, DONE, Ended, Failure};
use crate::files::{Files, Piece, Place, ReadError};
use crate::operator::{Operator, is_terminal};
use crate::output::note;

/// Interval at which a followed task is polled, so that its end is seen even if its agent is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn show(arguments: &Logs) -> Ended {
    let operator = Operator::open(&arguments.reach);
    let task = operator.find_task(&arguments.task).await?;
    let shown = format!("{}/{}", task.framework_id, task.task_id);
    if task.agent_id.is_empty() {
        return Err(Failure::new(
            Code::NotFound,
            format!("{shown} has no agent yet, so it has written nothing"),
        ));
    }
    let file = if arguments.stderr { "stderr" } else { "stdout" };
    let place = Place::of(&task, file);
    say_executor(
        &task,
        &shown,
        "this is the output of the executor and all its tasks",
    );
    let mut files = Files::new(operator.masters().addresses())?;
    let mut sink = |piece: Piece<'_>| match piece {
        Piece::Bytes(bytes) => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        Piece::Missing(count) => {
            note(&Piece::missing(count, file));
            Ok(())
        }
    };
    let read = if arguments.follow {
        let over = CancellationToken::new();
        let watch = watch(&operator, &task.framework_id, &task.task_id, &over);
        tokio::select! {
            read = files.follow(&place, &over, &mut sink) => read,
            never = watch => match never {},
        }
    } else {
        files.read(&place, &mut sink).await
    };
    read.map(|()| DONE)
        .or_else(|error| in_words(error, &shown, &task.agent_id))
}

/// Records when the task has ended; never returns.
async fn watch(
    operator: &Operator,
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
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn in_words(error: ReadError, shown: &str, agent_id: &str) -> Ended {
    match error {
        // A closed reader is not a failure.
        ReadError::Sink(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(DONE),
        ReadError::Sink(error) => Err(Failure::failed(format!("cannot write the output: {error}"))),
        ReadError::Absent(text) => Err(Failure::new(
            Code::NotFound,
            format!("the output of {shown} is not on {agent_id}: {text}"),
        )
        .advise("output is kept for an hour, or for the newest 1,000 tasks of an agent")),
        ReadError::Refused(text) => Err(Failure::new(
            Code::Refused,
            format!("the output of {shown} cannot be read: {text}"),
        )),
        ReadError::Broken(text) => Err(Failure::new(
            Code::Unavailable,
            format!("the output of {shown} cannot be read from {agent_id}: {text}"),
        )
        .advise("argosy agent list shows whether that agent is reachable")),
    }
}
