//! `argosy logs`: the output of a task, of a group, or of all tasks of a framework, through any
//! master.

mod selection;

use std::io;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::exec::note_executor;
use crate::args::Logs;
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::files::{FileChunk, FileLocation, FileReader, ReadError};
use crate::operator::{ClusterClient, is_terminal};
use crate::output::{PrefixedOutput, Reader, StandardStream, note, wall_now_ms};
use crate::preparation::{self, PreparedTask};
use selection::{OutputSource, select, sources};

/// Interval at which a followed task is polled, so that its end is seen even if its agent is gone.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Pause between the polls of two tasks.
const POLL_PAUSE: Duration = Duration::from_millis(50);
/// Maximum number of tasks that are followed at once. Each needs two of the 256 file responses that
/// a master forwards.
const MAX_FOLLOWED: usize = 50;

pub(crate) async fn show(arguments: &Logs) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let tasks = select(&operator, arguments).await?;
    let sources = sources(tasks);
    for source in &sources {
        note_executor(
            &source.task,
            &source.shown(),
            "this is the output of the executor and all its tasks",
        );
    }
    if arguments.follow && sources.len() > MAX_FOLLOWED {
        return Err(Failure::usage(format!(
            "--follow: {} tasks have output, and at most {MAX_FOLLOWED} are followed at once",
            sources.len()
        ))
        .advise("name a task or a group"));
    }
    let files = FileReader::new(operator.http_masters());
    let mut results = Results::of(&sources);
    let request = LogRequest {
        arguments,
        since_ms: arguments.since.map(|since| since.wall_ms(wall_now_ms())),
    };
    match arguments.follow {
        true => follow_all(&operator, files, &sources, request, &mut results).await?,
        false => read_all(&files, &sources, request, &mut results).await?,
    }
    results.finish(&sources)
}

/// The part of each source that is shown.
#[derive(Clone, Copy)]
struct LogRequest<'a> {
    arguments: &'a Logs,
    /// The same time for all sources, in milliseconds since 1970.
    since_ms: Option<i64>,
}

/// Returns the streams to print, and where. A stream that was selected alone is printed to standard
/// output, so that it can be piped.
fn streams(arguments: &Logs) -> &'static [(&'static str, StandardStream)] {
    match (arguments.stdout, arguments.stderr) {
        (true, _) => &[("stdout", StandardStream::Output)],
        (false, true) => &[("stderr", StandardStream::Output)],
        (false, false) => &[
            ("stdout", StandardStream::Output),
            ("stderr", StandardStream::Error),
        ],
    }
}

/// Prints the present output of one source after the other.
async fn read_all(
    files: &FileReader,
    sources: &[OutputSource],
    request: LogRequest<'_>,
    results: &mut Results,
) -> Result<(), Failure> {
    for (at, source) in sources.iter().enumerate() {
        for (file, to) in streams(request.arguments) {
            let read = show_stream(files.clone(), source, file, *to, request).await;
            if results.add(at, source, read)?.is_gone() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Prints the output of all sources as it arrives, until their tasks have ended. Before they have
/// started, shows on the terminal what their agents do.
async fn follow_all(
    operator: &ClusterClient,
    files: FileReader,
    sources: &[OutputSource],
    request: LogRequest<'_>,
    results: &mut Results,
) -> Result<(), Failure> {
    let mut all = FuturesUnordered::new();
    for (at, source) in sources.iter().enumerate() {
        for (file, to) in streams(request.arguments) {
            let files = files.beginning_at(at);
            all.push(async move { (at, show_stream(files, source, file, *to, request).await) });
        }
    }
    let prepared = sources.iter().map(|source| &source.task);
    let prepared = prepared.filter(|task| preparation::is_prepared(task));
    let prepared = prepared.map(PreparedTask::of).collect();
    let shown = async {
        while let Some((at, read)) = all.next().await {
            if results.add(at, &sources[at], read)?.is_gone() {
                break;
            }
        }
        Ok::<(), Failure>(())
    };
    tokio::select! {
        shown = shown => shown,
        never = watch(operator, sources) => match never {},
        never = preparation::show(files, prepared) => match never {},
    }
}

/// Prints one stream of one source.
async fn show_stream(
    mut files: FileReader,
    source: &OutputSource,
    file: &'static str,
    to: StandardStream,
    request: LogRequest<'_>,
) -> Result<(), ReadError> {
    if source.task.agent_id.is_empty() {
        return Err(ReadError::NotFound("it has no agent yet".to_owned()));
    }
    let location = source.location(file);
    let follow = request.arguments.follow;
    let begin = match begin(&mut files, &location, request).await {
        // It may not have been started yet.
        Err(ReadError::NotFound(_)) if follow => 0,
        found => found?,
    };
    let mut output = PrefixedOutput::new(to, file, source.label.clone());
    if request.arguments.timestamps {
        files = files.with_times();
        output = output.with_times();
    }
    let mut sink = |piece: FileChunk<'_>| output.pass(piece);
    let read = match follow {
        true => {
            files
                .follow(&location, begin, &source.ended, &mut sink)
                .await
        }
        false => files.read(&location, begin, &mut sink).await,
    };
    output.finish(read)
}

/// Returns the offset of the first byte to print.
async fn begin(
    files: &mut FileReader,
    location: &FileLocation,
    request: LogRequest<'_>,
) -> Result<u64, ReadError> {
    let since = match request.since_ms {
        None => 0,
        Some(since_ms) => files.since_offset(location, since_ms).await?,
    };
    let tail = match request.arguments.tail {
        None => 0,
        Some(lines) => files.tail_offset(location, lines).await?,
    };
    Ok(since.max(tail))
}

/// Records which tasks have ended; never returns.
async fn watch(operator: &ClusterClient, sources: &[OutputSource]) -> std::convert::Infallible {
    // The number of tasks of each source that are known to have ended.
    let mut ended = vec![0; sources.len()];
    loop {
        for (source, ended) in sources.iter().zip(&mut ended) {
            while let Some(task_id) = source.task_ids.get(*ended) {
                let found = operator.task(&source.task.framework_id, task_id).await;
                let has_ended = match &found {
                    Ok(None) => true,
                    Ok(Some(task)) => is_terminal(task.state),
                    Err(_) => false,
                };
                if !has_ended {
                    break;
                }
                *ended += 1;
            }
            if *ended == source.task_ids.len() {
                source.ended.cancel();
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The results of reading the streams of all sources.
#[derive(Debug, PartialEq, Eq)]
struct Results {
    reader: Reader,
    /// For each source whether a stream was read, and the first failure.
    sources: Vec<(bool, Option<Failure>)>,
}

impl Results {
    fn of(sources: &[OutputSource]) -> Self {
        Self {
            reader: Reader::Present,
            sources: vec![(false, None); sources.len()],
        }
    }

    /// Adds the result of a stream. A failure of one of several sources is printed at once, since
    /// the others may be followed for a long time.
    fn add(
        &mut self,
        at: usize,
        source: &OutputSource,
        read: Result<(), ReadError>,
    ) -> Result<Reader, Failure> {
        let is_one_of_several = self.sources.len() > 1;
        let (is_read, failure) = &mut self.sources[at];
        match read {
            Ok(()) => *is_read = true,
            Err(ReadError::Sink(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.reader = Reader::Gone;
            }
            Err(ReadError::Sink(error)) => {
                return Err(Failure::failed(format!("cannot write the output: {error}")));
            }
            Err(error) if failure.is_none() => {
                let found = read_failure(&error, source);
                if is_one_of_several {
                    note(&found.message);
                }
                *failure = Some(found);
            }
            // Its other stream has failed before.
            Err(_) => {}
        }
        Ok(self.reader)
    }

    fn finish(self, sources: &[OutputSource]) -> VerbResult {
        if self.reader.is_gone() {
            return Ok(DONE);
        }
        let total = sources.len();
        let is_any_read = self.sources.iter().any(|(is_read, _)| *is_read);
        let failures = self.sources.into_iter().filter_map(|(_, failure)| failure);
        // Tasks that were never started have no output, and one stream may be removed by its task.
        let counts = |failure: &Failure| !is_any_read || failure.code != FailureCode::NotFound;
        let (mut counted, others): (Vec<_>, Vec<_>) = failures.partition(counts);
        if total == 1 {
            for failure in &others {
                note(&failure.message);
            }
        }
        match counted.len() {
            0 => Ok(DONE),
            _ if total == 1 => Err(counted.remove(0)),
            count => Err(Failure::new(
                counted[0].code,
                format!("the output of {count} of {total} tasks could not be shown"),
            )),
        }
    }
}

fn read_failure(error: &ReadError, source: &OutputSource) -> Failure {
    let (shown, agent_id) = (source.shown(), &source.task.agent_id);
    match error {
        ReadError::NotFound(_) if agent_id.is_empty() => Failure::new(
            FailureCode::NotFound,
            format!("{shown} has no agent yet, so it has written nothing"),
        ),
        ReadError::NotFound(text) => Failure::new(
            FailureCode::NotFound,
            format!("the output of {shown} is not on {agent_id}: {text}"),
        )
        .advise(
            "output of ended tasks is kept for 7 days and up to 1 GiB per agent, unless the agent was started with other bounds",
        ),
        ReadError::Refused(text) | ReadError::Busy { text, .. } => Failure::new(
            FailureCode::Refused,
            format!("the output of {shown} cannot be read: {text}"),
        ),
        ReadError::Broken(_) | ReadError::Sink(_) => Failure::new(
            FailureCode::Unavailable,
            format!("the output of {shown} cannot be read from {agent_id}: {error}"),
        )
        .advise("argosy agent list shows whether that agent is reachable"),
    }
}

#[cfg(test)]
mod tests {
    use argosy_proto::v1;
    use clap::Parser as _;

    use super::*;
    use crate::verbs::{Arguments, Verb};

    fn logs(args: &[&str]) -> Logs {
        let args = [&["argosy", "logs"], args].concat();
        match Arguments::try_parse_from(args).unwrap().verb {
            Verb::Logs(logs) => logs,
            other => panic!("{other:?}"),
        }
    }

    fn of_tasks(ids: &[&str]) -> Vec<OutputSource> {
        let tasks = ids.iter().map(|id| v1::Task {
            framework_id: "framework-1".to_owned(),
            task_id: (*id).to_owned(),
            agent_id: "agent-1".to_owned(),
            ..v1::Task::default()
        });
        sources(tasks.collect())
    }

    fn result(sources: &[OutputSource], reads: Vec<(usize, Result<(), ReadError>)>) -> VerbResult {
        let mut results = Results::of(sources);
        for (at, read) in reads {
            results.add(at, &sources[at], read)?;
        }
        results.finish(sources)
    }

    fn absent() -> Result<(), ReadError> {
        Err(ReadError::NotFound("no such file".to_owned()))
    }

    fn broken() -> Result<(), ReadError> {
        Err(ReadError::Broken("lost".to_owned()))
    }

    #[test]
    fn a_stream_that_is_selected_alone_is_printed_to_standard_output() {
        let both = streams(&logs(&["web"]));
        let error = ("stderr", StandardStream::Error);
        assert_eq!(both, [("stdout", StandardStream::Output), error]);
        let alone = streams(&logs(&["--stderr", "web"]));
        assert_eq!(alone, [("stderr", StandardStream::Output)]);
        let alone = streams(&logs(&["--stdout", "--framework", "shop"]));
        assert_eq!(alone, [("stdout", StandardStream::Output)]);
    }

    #[test]
    fn a_task_or_a_framework_is_named() {
        for bad in [
            &[][..],
            &["web", "--framework", "shop"],
            &["web", "--all"],
            &["web", "--tail", "some"],
            &["web", "--since", "yesterday"],
            &["web", "--stdout", "--stderr"],
        ] {
            let args = [&["argosy", "logs"], bad].concat();
            assert!(Arguments::try_parse_from(args).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_single_task_fails_if_nothing_of_it_can_be_read() {
        let web = of_tasks(&["web"]);
        let failure = result(&web, vec![(0, absent()), (0, absent())]).unwrap_err();
        assert_eq!(failure.code, FailureCode::NotFound);
        let failure = result(&web, vec![(0, Ok(())), (0, broken())]).unwrap_err();
        assert_eq!(failure.code, FailureCode::Unavailable);
        // The task has removed one of its files.
        assert_eq!(result(&web, vec![(0, absent()), (0, Ok(()))]), Ok(DONE));
    }

    #[test]
    fn of_several_tasks_those_without_output_are_no_failure() {
        let both = of_tasks(&["a", "b"]);
        assert_eq!(result(&both, vec![(0, absent()), (1, Ok(()))]), Ok(DONE));
        let failure = result(&both, vec![(0, broken()), (0, broken()), (1, Ok(()))]).unwrap_err();
        assert_eq!(
            failure.message,
            "the output of 1 of 2 tasks could not be shown"
        );
        assert_eq!(failure.code, FailureCode::Unavailable);
        let failure = result(&both, vec![(0, absent()), (1, absent())]).unwrap_err();
        assert_eq!(failure.code, FailureCode::NotFound);
    }

    #[test]
    fn a_closed_reader_ends_everything_without_a_failure() {
        let both = of_tasks(&["a", "b"]);
        let closed = Err(ReadError::Sink(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(result(&both, vec![(1, closed), (0, broken())]), Ok(DONE));
    }
}
