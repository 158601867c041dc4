//! `argosy attach`: the output and input of a task's own command, through any master.
//!
//! The task keeps running when this program ends, for any reason.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use argosy_proto::exec::{AttachOffsets, ExecResult};
use argosy_proto::v1;

use super::exec::attached::{self, ClientSessionEnd, StreamMode};
use super::exec::connection::{self, OpenError, SessionKind, SessionRequest, Socket};
use super::exec::{READER_GONE, by_signal, may_be_entered, note_executor};
use crate::args::Attach;
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::files::{FileChunk, FileLocation, FileReader, ReadError, TailBounds};
use crate::operator::ClusterClient;
use crate::output::note;
use crate::preparation::{self, PreparedTask};

/// Interval at which a task that has not started yet is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum size of the earlier output of each stream that is shown first, in bytes. New output
/// waits for it.
const TAIL_BYTES: u64 = 16 << 20;

pub(crate) async fn run(arguments: &Attach) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let task = operator.find_task(&arguments.task).await?;
    let shown = format!("{}/{}", task.framework_id, task.task_id);
    may_be_entered(&task, &shown)?;
    let spec = task.spec.clone().unwrap_or_default();
    let mode = stream_mode(arguments, &spec, io::stdin().is_terminal())?;
    let task = until_started(&operator, task, &shown).await?;
    let mut socket = open(&operator, &task, &shown, arguments.interactive).await?;
    note_executor(
        &task,
        &shown,
        "this is the output of the executor and all its tasks",
    );
    let offsets = attached::begin(&mut socket).await;
    let offsets = offsets.map_err(|why| connection_lost(&shown, &why))?;
    if arguments.tail > 0 {
        let mut files = FileReader::new(operator.http_masters());
        tail(&mut files, &task, arguments.tail as u64, offsets).await;
    }
    match attached::run(socket, mode).await? {
        ClientSessionEnd::Ended(ExecResult::Code(code)) => Ok(code as u8),
        ClientSessionEnd::Ended(ExecResult::Signal(signal)) => Ok(by_signal(signal)),
        ClientSessionEnd::Ended(ExecResult::Lost(why)) => Err(Failure::new(
            FailureCode::Unavailable,
            format!("cannot follow {shown} any longer: {why}"),
        )
        .advise(format!("argosy task show {shown} shows its state"))),
        ClientSessionEnd::Broken(why) => Err(connection_lost(&shown, &why)),
        ClientSessionEnd::Detached => {
            note(&format!("detached from {shown}, which keeps running"));
            Ok(DONE)
        }
        ClientSessionEnd::ReaderGone => Ok(READER_GONE),
        ClientSessionEnd::Signalled(signal) => Ok(by_signal(signal)),
    }
}

/// Returns the use of this program's streams.
fn stream_mode(
    arguments: &Attach,
    spec: &v1::TaskSpec,
    stdin_is_terminal: bool,
) -> Result<StreamMode, Failure> {
    let Attach {
        interactive, tty, ..
    } = arguments;
    if *tty && !spec.tty {
        return Err(
            Failure::usage("--tty: the task has no terminal; it was run without --tty")
                .advise("leave it out"),
        );
    }
    if *interactive && !spec.stdin {
        return Err(Failure::new(
            FailureCode::Refused,
            "--interactive: the task takes no input; it was run without --interactive",
        )
        .advise("leave it out to see the output only, or use argosy exec"));
    }
    match (tty, interactive) {
        (true, true) if !stdin_is_terminal => Err(Failure::usage(
            "--tty --interactive: standard input is not a terminal",
        )
        .advise("omit --tty to forward a file or pipe")),
        (true, true) => Ok(StreamMode::AttachedTerminal),
        (false, true) => Ok(StreamMode::Pipes),
        (true | false, false) => Ok(StreamMode::OutputOnly),
    }
}

/// Waits until a task has started: its agent may pull an image first, which takes long.
async fn until_started(
    operator: &ClusterClient,
    task: v1::Task,
    shown: &str,
) -> Result<v1::Task, Failure> {
    if !preparation::is_prepared(&task) {
        return Ok(task);
    }
    note(&format!(
        "{shown} has not started yet; waiting for its start"
    ));
    let files = FileReader::new(operator.http_masters());
    let started = async {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let now = operator.task(&task.framework_id, &task.task_id).await?;
            let Some(now) = now else {
                let text = format!("{shown} is not known any more");
                return Err(Failure::new(FailureCode::NotFound, text));
            };
            if !preparation::is_prepared(&now) {
                may_be_entered(&now, shown)?;
                return Ok(now);
            }
        }
    };
    tokio::select! {
        started = started => started,
        never = preparation::show(files, vec![PreparedTask::of(&task)]) => match never {},
    }
}

async fn open(
    operator: &ClusterClient,
    task: &v1::Task,
    shown: &str,
    stdin: bool,
) -> Result<Socket, Failure> {
    let wanted = SessionRequest {
        call: SessionKind::Attach,
        agent_id: &task.agent_id,
        parameters: vec![("task", shown.to_owned()), ("stdin", stdin.to_string())],
    };
    let opened = connection::open(&operator.http_masters(), &wanted).await;
    opened.map_err(|error| match error {
        OpenError::NotStarted(text) | OpenError::Refused(text) => {
            Failure::new(FailureCode::Refused, text)
        }
        OpenError::NotFound(text) => Failure::new(FailureCode::NotFound, text),
        OpenError::Unavailable(text) => {
            let text = format!("cannot attach to {shown}: {text}");
            Failure::new(FailureCode::Unavailable, text)
                .advise("argosy status shows the state of the cluster")
        }
        OpenError::TooLong { bytes } => Failure::failed(format!(
            "cannot attach to {shown}: its name takes {bytes} bytes"
        )),
    })
}

fn connection_lost(shown: &str, why: &str) -> Failure {
    let text = format!("the connection to {shown} was lost: {why}");
    Failure::new(FailureCode::Unavailable, text)
        .advise("the task keeps running; attach to it again")
}

/// Prints the last lines from before the attachment. A failure does not prevent the attachment.
async fn tail(files: &mut FileReader, task: &v1::Task, lines: u64, offsets: AttachOffsets) {
    for (file, end) in [("stdout", offsets.stdout), ("stderr", offsets.stderr)] {
        match print_tail(files, task, file, (lines, end)).await {
            Ok(()) => {}
            // A closed reader is noticed with the next output.
            Err(ReadError::Sink(_)) => return,
            Err(error) => return note(&format!("earlier output is not shown: {error}")),
        }
    }
}

/// Prints the last lines of one stream before an offset.
async fn print_tail(
    files: &mut FileReader,
    task: &v1::Task,
    file: &str,
    (lines, end): (u64, u64),
) -> Result<(), ReadError> {
    let location = FileLocation::of(task, file);
    let bounds = TailBounds {
        end,
        limit_bytes: TAIL_BYTES,
    };
    let start = files.tail_within(&location, lines, bounds).await?;
    if start.is_cut {
        note(&format!(
            "only the last {} MiB of earlier {file} are shown; argosy logs --tail shows more",
            TAIL_BYTES >> 20
        ));
    }
    let mut print = |piece: FileChunk<'_>| match (piece, file) {
        (FileChunk::Bytes(bytes), "stdout") => io::stdout().write_all(bytes),
        (FileChunk::Bytes(bytes), _) => io::stderr().write_all(bytes),
        (FileChunk::Missing(_) | FileChunk::Time(_), _) => Ok(()),
    };
    let read = files.read_part(&location, start.offset, end, &mut print);
    read.await?;
    io::stdout().flush().map_err(ReadError::Sink)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    use crate::verbs::{Arguments, Verb};

    fn attach(args: &[&str]) -> Attach {
        let args = [&["argosy", "attach"], args].concat();
        match Arguments::try_parse_from(args).unwrap().verb {
            Verb::Attach(attach) => attach,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unsupported_options_are_rejected_before_any_request() {
        let spec = |tty, stdin| v1::TaskSpec {
            tty,
            stdin,
            ..v1::TaskSpec::default()
        };
        let both = attach(&["-it", "web"]);
        let mode = |spec| super::stream_mode(&both, &spec, true);
        assert_eq!(
            mode(spec(true, true)).unwrap(),
            StreamMode::AttachedTerminal
        );
        let refused = mode(spec(false, true)).unwrap_err();
        assert!(refused.message.contains("--tty"), "{refused}");
        let refused = mode(spec(true, false)).unwrap_err();
        assert_eq!(refused.code, FailureCode::Refused);
        let piped = super::stream_mode(&both, &spec(true, true), false).unwrap_err();
        assert!(piped.message.contains("not a terminal"), "{piped}");
        let attach_arguments = attach(&["web"]);
        let mode = super::stream_mode(&attach_arguments, &spec(true, true), false);
        assert_eq!(mode.unwrap(), StreamMode::OutputOnly);
    }
}
