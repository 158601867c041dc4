//! Reading a task's files through any master: one request, or following a file to its end.
//!
//! Every master forwards the agents' file API, so clients need no route to the agents.

use std::io;
use std::time::Duration;

use argosy_proto::server::hosts::CLIENT_HEADER;
use argosy_proto::{trace, v1};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Time for one master to begin its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Time without data after which a follow sends a new request. A dead connection is silent too.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Pause before a retry.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Time for which output is polled after the task has ended.
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

/// A reader with its own connections and a position in the list of masters.
pub(crate) struct FileReader {
    http: reqwest::Client,
    masters: Vec<String>,
    next: usize,
}

/// A chunk of a file. Chunks arrive in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileChunk<'a> {
    /// The next bytes.
    Bytes(&'a [u8]),
    /// The number of bytes that the agent no longer has.
    Missing(u64),
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
    pub(crate) fn new(masters: &[String]) -> anyhow::Result<Self> {
        // No proxy: cluster addresses are never reached through the environment's proxy. No
        // certificates: nothing here is encrypted, and a host may have none to load.
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .connect_timeout(Duration::from_secs(2))
            .default_headers(no_web_page())
            .build()?;
        Ok(Self {
            http,
            masters: masters.to_owned(),
            next: 0,
        })
    }

    /// Passes on all bytes that are available now.
    pub(crate) async fn read(
        &mut self,
        location: &FileLocation,
        sink: ChunkSink<'_>,
    ) -> Result<(), ReadError> {
        let mut offset = 0;
        let mut there = None;
        let mut attempts = self.masters.len().max(1) * 2;
        loop {
            let before = offset;
            match self
                .read_once(location, &mut offset, FollowMode::Stop, sink)
                .await
            {
                // An answer has a limit, and the answer after a missing chunk is a separate one.
                // Bytes that are written in the meantime are not requested, because that might
                // never end.
                Ok(reached) if offset > before && offset < *there.get_or_insert(reached.size) => {}
                Ok(_) => return Ok(()),
                Err(ReadError::Broken(_)) if attempts > 1 => {
                    attempts -= 1;
                    self.next += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
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
        };
        while offset < end {
            let before = offset;
            self.read_once(location, &mut offset, FollowMode::Stop, &mut bounded)
                .await?;
            if offset == before {
                break;
            }
        }
        Ok(())
    }

    /// Passes on all current and future bytes, until the task has ended and all was read. Resumes
    /// at its position after the loss of a master or connection. `over` is cancelled when the task
    /// is known to have ended: from then on, failures end the follow after a while.
    pub(crate) async fn follow(
        &mut self,
        location: &FileLocation,
        over: &CancellationToken,
        sink: ChunkSink<'_>,
    ) -> Result<(), ReadError> {
        let mut offset = 0;
        let mut last_chance: Option<Instant> = None;
        loop {
            let wait = if over.is_cancelled() {
                FollowMode::Stop
            } else {
                FollowMode::Follow
            };
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
                // As long as bytes arrive, waiting continues.
                Ok(_) if offset > before => last_chance = None,
                Ok(_) | Err(ReadError::NotFound(_)) => tokio::time::sleep(RETRY_PAUSE).await,
                Err(ReadError::Broken(_)) => {
                    self.next += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
            if over.is_cancelled() {
                let limit = *last_chance.get_or_insert_with(|| Instant::now() + AFTER_END);
                if Instant::now() >= limit {
                    return Err(ReadError::Broken(
                        "the rest of the output cannot be read".to_owned(),
                    ));
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
        let master = &self.masters[self.next % self.masters.len().max(1)];
        let follow = if wait == FollowMode::Follow {
            "&follow=true"
        } else {
            ""
        };
        let url = format!(
            "http://{master}/v1/agents/{}/files/read?path={}&offset={offset}{follow}",
            location.agent_id, location.path
        );
        let broken = |error: &dyn std::error::Error| ReadError::Broken(crate::exit::chain(error));
        let sent = tokio::time::timeout(ANSWER_LIMIT, self.http.get(&url).send()).await;
        let mut response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(broken(&error)),
            Err(_) => return Err(ReadError::Broken(format!("{master} does not answer"))),
        };
        let status = response.status();
        if !status.is_success() {
            let text = response_message(&response.text().await.unwrap_or_default());
            return Err(match status.as_u16() {
                404 => ReadError::NotFound(text),
                400..=499 => ReadError::Refused(text),
                _ => ReadError::Broken(text),
            });
        }
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let ended = header("x-argosy-ended").as_deref() == Some("true");
        let number = |name: &str| header(name).and_then(|value| value.parse::<u64>().ok());
        let size = number("x-argosy-size");
        let begin = number("x-argosy-offset").unwrap_or(*offset);
        if begin > *offset {
            sink(FileChunk::Missing(begin - *offset)).map_err(ReadError::Sink)?;
            *offset = begin;
        }
        loop {
            match tokio::time::timeout(SILENCE_LIMIT, response.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    sink(FileChunk::Bytes(&bytes)).map_err(ReadError::Sink)?;
                    *offset += bytes.len() as u64;
                }
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(broken(&error)),
                Err(_) => return Err(ReadError::Broken(format!("{master} stopped sending"))),
            }
        }
        let size = size.unwrap_or(*offset);
        Ok(ReadProgress {
            size,
            complete: ended && *offset >= size,
        })
    }
}

/// Returns headers that let this program reach masters by any name.
pub(crate) fn no_web_page() -> HeaderMap {
    let header = (
        HeaderName::from_static(CLIENT_HEADER),
        HeaderValue::from_static("argosy"),
    );
    let mut headers = HeaderMap::from_iter([header]);
    if let Some(context) = trace::request_header() {
        headers.insert(trace::HEADER, context);
    }
    headers
}

/// Returns the message in an error's body: the `message` of JSON, else the text itself.
pub(crate) fn response_message(body: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let found = parsed
        .as_ref()
        .and_then(|value| value.get("message")?.as_str());
    let text: String = found
        .unwrap_or(body)
        .chars()
        .filter(|letter| !letter.is_control())
        .take(300)
        .collect();
    if text.is_empty() {
        "no reason was given".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests;
