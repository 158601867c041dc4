//! Reading a task's files through any master: a part, all of it, or following it to its end.
//!
//! Every master forwards the agents' file API, so clients need no route to the agents. The parts:
//! `request` (one call), `busy` (calls that are to be repeated later), `tail` (the last lines),
//! `times` (when output was written), `browse` (directories and whole files).

mod browse;
mod busy;
mod request;
mod tail;
mod times;

use std::io;
use std::time::Duration;

use argosy_proto::v1;
use argosy_state::planted_bug;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::transport::HttpMasters;

pub(crate) use browse::{EntryKind, ListedEntry};
use busy::BusyWait;
use request::FileCall;
pub(crate) use request::{encoded, error_body, no_web_page, response_message};
pub(crate) use tail::TailBounds;
use times::{FrameParser, earlier_release, times_refused};

/// Time for one master to begin its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Time without data after which a follow sends a new request. A dead connection is silent too.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Pause before a retry.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Time for which output is polled after the task has ended, or after its file has vanished.
const AFTER_END: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileLocation {
    pub(crate) agent_id: String,
    /// Such as `tasks/framework-1/web/stdout`.
    pub(crate) path: String,
    /// Whether other tasks write to it too, also after the task has ended.
    pub(crate) shared: bool,
}

impl FileLocation {
    /// Returns a file in the sandbox of a task's newest instance.
    pub(crate) fn of_task(agent_id: &str, framework_id: &str, task_id: &str, file: &str) -> Self {
        Self {
            agent_id: agent_id.to_owned(),
            path: format!("tasks/{framework_id}/{task_id}/{file}"),
            shared: false,
        }
    }

    /// Returns a file where a task wrote: in its own sandbox, or in that of the executor that runs
    /// it.
    pub(crate) fn of(task: &v1::Task, file: &str) -> Self {
        let executor = executor_of(task);
        let home = executor.unwrap_or(&task.task_id);
        Self {
            shared: executor.is_some(),
            ..Self::of_task(&task.agent_id, &task.framework_id, home, file)
        }
    }
}

/// Returns the executor that runs a task, or `None` if the task has its own container.
pub(crate) fn executor_of(task: &v1::Task) -> Option<&str> {
    let executor = task.spec.as_ref()?.executor.as_ref()?;
    Some(&executor.executor_id)
}

/// The reason why a file could not be read now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The file does not exist, or not yet.
    #[error("{0}")]
    NotFound(String),
    /// The master or agent rejected the request.
    #[error("{0}")]
    Refused(String),
    /// The master or agent has no capacity now, and asks to repeat the request after a pause.
    #[error("{text}")]
    Busy { text: String, pause: Duration },
    /// No master could be reached, or the answer broke off.
    #[error("{0}")]
    Broken(String),
    /// The data could not be passed on.
    #[error("cannot write the output")]
    Sink(#[source] io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ReadProgress {
    /// The number of bytes at the time of the request.
    size: u64,
    /// Whether the task has ended and all bytes were read.
    complete: bool,
}

/// Whether to wait for more data at the current end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FollowMode {
    Follow,
    Stop,
}

impl FollowMode {
    fn until(over: &CancellationToken) -> Self {
        match over.is_cancelled() {
            true => Self::Stop,
            false => Self::Follow,
        }
    }
}

/// A reader with a position in the list of masters.
#[derive(Clone)]
pub(crate) struct FileReader {
    masters: HttpMasters,
    next: usize,
    /// Whether reads request the times of the bytes.
    has_times: bool,
}

/// A chunk of a file. Chunks arrive in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileChunk<'a> {
    /// The next bytes.
    Bytes(&'a [u8]),
    /// The number of bytes that the agent no longer has.
    Missing(u64),
    /// The time at which the following bytes were written, in milliseconds since 1970; `None` if
    /// the agent does not know it. Only readers [with times](FileReader::with_times) pass it on.
    Time(Option<i64>),
}

impl FileChunk<'_> {
    /// Returns the message about missing bytes of this file.
    pub(crate) fn missing(count: u64, file: &str) -> String {
        format!(
            "{count} bytes of {file} are missing here: an agent keeps what was written last (--log-file-size, --log-files)"
        )
    }
}

/// The destination of output. It is called with one chunk after the other.
pub(crate) type ChunkSink<'a> = &'a mut (dyn FnMut(FileChunk<'_>) -> io::Result<()> + Send);

impl FileReader {
    pub(crate) fn new(masters: HttpMasters) -> Self {
        Self {
            masters,
            next: 0,
            has_times: false,
        }
    }

    #[cfg(test)]
    pub(crate) fn plaintext(addresses: Vec<String>) -> Self {
        let transport = crate::transport::ClientTransport::plaintext();
        Self::new(HttpMasters::new(addresses, &transport))
    }

    /// Returns a reader that also passes on the times of the bytes that it reads or follows.
    pub(crate) fn with_times(self) -> Self {
        Self {
            has_times: true,
            ..self
        }
    }

    /// Returns a reader whose first request is for this one of the masters, modulo their number.
    /// Many readers then share the masters' bounds.
    pub(crate) fn beginning_at(&self, master: usize) -> Self {
        Self {
            next: master,
            ..self.clone()
        }
    }

    /// Returns the number of attempts of a call that fails for lack of a connection.
    pub(crate) fn attempts(&self) -> usize {
        self.masters.addresses.len().max(1) * 2
    }

    /// Makes the next master the present one, after a pause.
    pub(crate) async fn use_next_master(&mut self) {
        self.use_next_master_after(RETRY_PAUSE).await;
    }

    async fn use_next_master_after(&mut self, pause: Duration) {
        self.next += 1;
        tokio::time::sleep(pause).await;
    }

    /// Passes on all bytes that are available now, from this offset on.
    pub(crate) async fn read(
        &mut self,
        location: &FileLocation,
        begin: u64,
        sink: ChunkSink<'_>,
    ) -> Result<(), ReadError> {
        let mut offset = begin;
        let mut there = None;
        let (mut attempts, mut busy) = (self.attempts(), BusyWait::default());
        loop {
            let before = offset;
            match self
                .read_once(location, &mut offset, FollowMode::Stop, sink)
                .await
            {
                // An answer has a limit, and the answer after a missing chunk is a separate one.
                // Bytes that are written in the meantime are not requested, because that might
                // never end.
                Ok(reached) if offset > before && offset < *there.get_or_insert(reached.size) => {
                    busy.answered();
                }
                Ok(_) => return Ok(()),
                Err(ReadError::Busy { text, pause }) => {
                    let pause = busy.refused(&text, pause)?;
                    self.use_next_master_after(pause).await;
                }
                Err(ReadError::Broken(_)) if attempts > 1 => {
                    attempts -= 1;
                    self.use_next_master().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Passes on the bytes that are available now from one offset to another.
    pub(crate) async fn read_part(
        &mut self,
        location: &FileLocation,
        begin: u64,
        end: u64,
        sink: ChunkSink<'_>,
    ) -> Result<(), ReadError> {
        let (mut offset, mut seen) = (begin, begin);
        let mut bounded = |piece: FileChunk<'_>| match piece {
            FileChunk::Bytes(bytes) => {
                let room = usize::try_from(end.saturating_sub(seen)).unwrap_or(usize::MAX);
                seen += bytes.len() as u64;
                sink(FileChunk::Bytes(&bytes[..bytes.len().min(room)]))
            }
            FileChunk::Missing(count) => {
                seen += count;
                sink(FileChunk::Missing(count))
            }
            FileChunk::Time(_) => sink(piece),
        };
        let (mut attempts, mut busy) = (self.attempts(), BusyWait::default());
        while offset < end {
            let before = offset;
            let read = self.read_once(location, &mut offset, FollowMode::Stop, &mut bounded);
            match read.await {
                Ok(_) if offset > before => busy.answered(),
                Ok(_) => break,
                Err(ReadError::Busy { text, pause }) => {
                    let pause = busy.refused(&text, pause)?;
                    self.use_next_master_after(pause).await;
                }
                Err(ReadError::Broken(_)) if attempts > 1 => {
                    attempts -= 1;
                    self.use_next_master().await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Passes on all current and future bytes from this offset on, until the task has ended and all
    /// was read. Resumes at its position after the loss of a master or connection. `over` is
    /// cancelled when the task is known to have ended: from then on, failures end the follow after
    /// a while. So does a file that vanishes; before its first answer, it may not exist yet. If an
    /// agent or master has no capacity, the follow continues later.
    pub(crate) async fn follow(
        &mut self,
        location: &FileLocation,
        begin: u64,
        over: &CancellationToken,
        sink: ChunkSink<'_>,
    ) -> Result<(), ReadError> {
        let mut offset = begin;
        let mut last_chance: Option<Instant> = None;
        let mut progress = FollowProgress::default();
        loop {
            let wait = FollowMode::until(over);
            let before = offset;
            let outcome = tokio::select! {
                outcome = self.read_once(location, &mut offset, wait, sink) => outcome,
                // Requests the same range without waiting: no more bytes will be written.
                () = over.cancelled(), if wait == FollowMode::Follow => {
                    last_chance = Some(Instant::now() + AFTER_END);
                    continue;
                }
            };
            match outcome {
                Ok(reached) if reached.complete => return Ok(()),
                // What others write from now on does not belong to the task.
                Ok(reached)
                    if location.shared && wait == FollowMode::Stop && offset >= reached.size =>
                {
                    return Ok(());
                }
                Ok(_) => {
                    progress.found();
                    // As long as bytes arrive, waiting continues.
                    match offset > before {
                        true => last_chance = None,
                        false => tokio::time::sleep(RETRY_PAUSE).await,
                    }
                }
                Err(ReadError::NotFound(text)) => {
                    progress.absent(text, Instant::now())?;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(ReadError::Busy { text, pause }) => {
                    let pause = progress.busy.refused(&text, pause)?;
                    self.use_next_master_after(pause).await;
                    // Its task may have ended in the pause: the next request finds that.
                    continue;
                }
                Err(ReadError::Broken(_)) => {
                    if offset > before {
                        progress.found();
                    }
                    planted_bug!(OutputResumesLate => offset += 1);
                    self.use_next_master().await;
                }
                Err(error) => return Err(error),
            }
            if over.is_cancelled() {
                let limit = *last_chance.get_or_insert_with(|| Instant::now() + AFTER_END);
                if Instant::now() >= limit {
                    return Err(progress.error());
                }
            }
        }
    }

    /// Sends one request from `offset` on. `offset` advances by every byte that is passed on or
    /// reported as missing.
    async fn read_once(
        &mut self,
        location: &FileLocation,
        offset: &mut u64,
        wait: FollowMode,
        sink: ChunkSink<'_>,
    ) -> Result<ReadProgress, ReadError> {
        let follow = match wait {
            FollowMode::Follow => "&follow=true",
            FollowMode::Stop => "",
        };
        let times = if self.has_times { "&times=true" } else { "" };
        let more = format!("&offset={offset}{follow}{times}");
        let answer = self.send(FileCall::Read, location, &more).await;
        let mut answer = answer.map_err(|error| times_refused(error, location))?;
        if self.has_times && !answer.has_times() {
            return Err(earlier_release(location));
        }
        let (ended, size) = (answer.has_ended(), answer.size());
        let begin = answer.offset().unwrap_or(*offset);
        if begin > *offset {
            sink(FileChunk::Missing(begin - *offset)).map_err(ReadError::Sink)?;
            *offset = begin;
        }
        let mut frames = FrameParser::default();
        while let Some(bytes) = answer.next().await? {
            let passed = match self.has_times {
                true => frames.pass(&bytes, sink),
                false => sink(FileChunk::Bytes(&bytes)).map(|()| bytes.len() as u64),
            };
            *offset += passed.map_err(ReadError::Sink)?;
        }
        let size = size.unwrap_or(*offset);
        Ok(ReadProgress {
            size,
            complete: ended && *offset >= size,
        })
    }
}

/// Whether a followed file exists.
#[derive(Debug, Default)]
struct FollowProgress {
    was_found: bool,
    /// The time from which it is absent, and the message of the agent.
    absent: Option<(Instant, String)>,
    busy: BusyWait,
}

impl FollowProgress {
    fn found(&mut self) {
        self.was_found = true;
        self.absent = None;
        self.busy.answered();
    }

    /// Returns an error if the file existed before, and has been absent for a while. An agent that
    /// starts again may not know its tasks at once.
    fn absent(&mut self, text: String, now: Instant) -> Result<(), ReadError> {
        let since = self.absent.as_ref().map_or(now, |(since, _)| *since);
        self.absent = Some((since, text));
        match self.was_found && now.duration_since(since) >= AFTER_END {
            true => Err(self.error()),
            false => Ok(()),
        }
    }

    /// Returns the reason why the follow ends too early.
    fn error(&self) -> ReadError {
        match &self.absent {
            Some((_, text)) if self.was_found => {
                ReadError::NotFound(format!("it vanished while it was followed: {text}"))
            }
            Some((_, text)) => ReadError::NotFound(text.clone()),
            None => ReadError::Broken("the rest of the output cannot be read".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
