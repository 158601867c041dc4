//! The three calls: a directory listing, a part of a file (followed or not), a whole file.

use std::io;
use std::time::Duration;

use argosy_proto::file_path::FileTarget;
use argosy_proto::server::GuardedBody;
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{AppendHeaders, IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;

use super::answer_limits::AnswerSlot;
use super::listing::{LISTINGS, list};
use super::path::{FilePath, Sandbox, sandbox};
use super::reader::{MAX_OFFSET, ReadResult, StreamReader};
use super::times::{FoundTimes, TimesRequest};
use super::{FilesError, FilesState};

/// Maximum size of a response to a read that does not follow, in bytes.
const READ_LIMIT_BYTES: u64 = 4 * 1024 * 1024;
/// The polling interval of a followed file: doubled from the first to the last while nothing is
/// written.
const POLL_MIN: Duration = Duration::from_millis(10);
const POLL_MAX: Duration = Duration::from_millis(200);

/// The query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileQuery {
    #[serde(default)]
    path: String,
    #[serde(default)]
    offset: u64,
    length: Option<u64>,
    #[serde(default)]
    follow: bool,
    /// Whether the answer has frames with times.
    #[serde(default)]
    times: bool,
    /// The answer begins with the first byte that was written at this time or later, or at `offset`
    /// if that is behind it.
    since_ms: Option<i64>,
}

type FileQueryResult = Result<Query<FileQuery>, QueryRejection>;

fn parameters(query: FileQueryResult) -> Result<FileQuery, FilesError> {
    match query {
        Ok(Query(asked)) if asked.offset > MAX_OFFSET => Err(FilesError::Invalid {
            field: "offset",
            value: asked.offset.to_string(),
            remedy: "no file is so long; use at most 4611686018427387904",
        }),
        Ok(Query(asked)) => Ok(asked),
        Err(rejection) => Err(FilesError::Invalid {
            field: "query",
            value: rejection.body_text().chars().take(200).collect(),
            remedy: "use path=, offset=, length=, since_ms= (numbers), follow=true and times=true",
        }),
    }
}

/// Returns the parameters of a call that has no times.
fn parameters_without_times(query: FileQueryResult) -> Result<FileQuery, FilesError> {
    let query = parameters(query)?;
    let named = [
        ("times", query.times.then(|| true.to_string())),
        ("since_ms", query.since_ms.map(|ms| ms.to_string())),
    ];
    match named
        .into_iter()
        .find_map(|(field, value)| Some((field, value?)))
    {
        Some((field, value)) => Err(FilesError::Invalid {
            field,
            value,
            remedy: "only /v1/files/read accepts it",
        }),
        None => Ok(query),
    }
}

/// Handles `GET /v1/files/browse?path=`
pub(crate) async fn browse(
    State(shared): State<FilesState>,
    asked: FileQueryResult,
) -> Result<Response, FilesError> {
    let query = parameters_without_times(asked)?;
    let path = FilePath::parse(&query.path)?;
    let slot = shared.listings.try_acquire_owned();
    let slot = slot.map_err(|_| FilesError::Busy { most: LISTINGS })?;
    let (dir, parts) = match &path.target {
        FileTarget::Frameworks => (shared.paths.sandboxes(), Vec::new()),
        FileTarget::Tasks(framework) => (shared.paths.sandboxes(), vec![framework.clone()]),
        FileTarget::Sandbox(key, parts) => {
            let found = sandbox(&path, key, &shared.paths, &shared.queries).await?;
            (found.directory, parts.clone())
        }
    };
    // The slot is held until the directory is read, even after a disconnection of the client, and
    // then until the list is sent: it is in memory for so long.
    let list = move || (list(&path, &dir, &parts), slot);
    let listed = tokio::task::spawn_blocking(list).await;
    let (listing, slot) = listed.expect("listing never panics");
    let answer = Json(listing?).into_response();
    Ok(answer.map(|body| Body::new(GuardedBody::new(body, slot))))
}

/// A file being served.
struct FileResponse {
    shared: FilesState,
    path: FilePath,
    reader: StreamReader,
    found: FoundTimes,
    ended: bool,
    /// The offset at which to stop, whatever the file's size.
    end: u64,
    /// Held from before the file is opened until the response has ended.
    _slot: AnswerSlot,
    poll_interval: Duration,
}

/// Moves a reader to the first byte of an answer, and returns the offset of its end. Blocks.
type Seek = fn(&mut StreamReader, u64, &Sandbox) -> io::Result<u64>;

/// Opens the requested file, determines its size, and moves to the first byte of the answer.
async fn serve(
    shared: FilesState,
    path: FilePath,
    query: &FileQuery,
    seek: Seek,
) -> Result<FileResponse, FilesError> {
    let FileTarget::Sandbox(key, parts) = &path.target else {
        return Err(path.of_kind("a directory; browse lists it"));
    };
    let limits = match query.follow {
        true => &shared.followers,
        false => &shared.readers,
    };
    let slot = limits.admit(key)?;
    // First the state of the task, then the size: the file of an ended task is complete.
    let sandbox = sandbox(&path, key, &shared.paths, &shared.queries).await?;
    let ended = sandbox.ended;
    let (named, parts) = (path.clone(), parts.clone());
    let request = TimesRequest {
        times: query.times,
        since_ms: query.since_ms,
    };
    let offset = query.offset;
    let open = move || {
        // The reader first: then the times of all bytes of its size are recorded.
        let mut reader = StreamReader::open(&named, &sandbox, &parts)?;
        let found = request.find(&named, &sandbox, &parts, reader.size())?;
        let begin = offset.max(found.since.unwrap_or(0));
        let end = seek(&mut reader, begin, &sandbox).map_err(|source| named.failed(source))?;
        // The slot is held until here even if the client disconnects.
        Ok::<_, FilesError>((reader, found, end, slot))
    };
    let opened = tokio::task::spawn_blocking(open).await;
    let (reader, found, end, slot) = opened.expect("opening never panics")?;
    let asked = query.length.map(|length| offset.saturating_add(length));
    Ok(FileResponse {
        reader,
        found,
        end: asked.map_or(end, |asked| asked.min(end)),
        _slot: slot,
        poll_interval: POLL_MIN,
        shared,
        path,
        ended,
    })
}

/// Handles `GET /v1/files/read?path=&offset=&length=&since_ms=[&times=true][&follow=true]`
pub(crate) async fn read(
    State(shared): State<FilesState>,
    asked: FileQueryResult,
) -> Result<Response, FilesError> {
    let query = parameters(asked)?;
    let seek: Seek = |reader, offset, sandbox| {
        reader.seek(offset, sandbox.ended)?;
        Ok(u64::MAX)
    };
    let mut served = serve(shared, FilePath::parse(&query.path)?, &query, seek).await?;
    let headers = served.headers();
    if query.follow {
        return Ok((headers, follow(served)).into_response());
    }
    let most = served.reader.offset().saturating_add(READ_LIMIT_BYTES);
    served.end = served.end.min(most);
    Ok((headers, part(served)).into_response())
}

/// Handles `GET /v1/files/download?path=`
pub(crate) async fn download(
    State(shared): State<FilesState>,
    asked: FileQueryResult,
) -> Result<Response, FilesError> {
    let query = parameters_without_times(asked)?;
    // Bytes that are appended during the transfer would exceed the announced length.
    let seek: Seek = |reader, offset, _| reader.seek_whole(offset);
    let served = serve(shared, FilePath::parse(&query.path)?, &query, seek).await?;
    let name = served.path.path.rsplit('/').next().unwrap_or("file");
    let name: String = name
        .chars()
        .filter(|c| c.is_ascii_graphic() && *c != '"' && *c != '\\')
        .collect();
    let length = served.end.saturating_sub(served.reader.offset());
    let headers = [
        (CONTENT_LENGTH.as_str(), length.to_string()),
        (
            CONTENT_DISPOSITION.as_str(),
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    Ok((headers, served.headers(), part(served)).into_response())
}

/// Returns a body with the available bytes.
fn part(served: FileResponse) -> Body {
    Body::from_stream(stream::try_unfold(
        served,
        |served: FileResponse| async move {
            Ok::<_, io::Error>(match served.next().await? {
                (served, ReadResult::Bytes(bytes)) => Some((Bytes::from(bytes), served)),
                (_, ReadResult::Nothing | ReadResult::Gap) => None,
            })
        },
    ))
}

/// Returns a body with the available bytes, and all that follow until the task has ended. Ends at a
/// gap, too: the next response reports where the gap ends.
fn follow(served: FileResponse) -> Body {
    Body::from_stream(stream::try_unfold(
        served,
        |mut served: FileResponse| async move {
            loop {
                // What is known before the file is read: then the file of an ended task is
                // complete.
                let ended = served.ended;
                let step;
                (served, step) = served.next().await?;
                match step {
                    ReadResult::Bytes(bytes) => {
                        served.poll_interval = POLL_MIN;
                        return Ok::<_, io::Error>(Some((Bytes::from(bytes), served)));
                    }
                    ReadResult::Gap => return Ok(None),
                    ReadResult::Nothing => {}
                }
                if ended || served.reader.offset() >= served.end {
                    return Ok(None);
                }
                // Queried at the end of the file only, not for each part of it.
                if !served.has_ended().await {
                    tokio::time::sleep(served.poll_interval).await;
                    served.poll_interval = (served.poll_interval * 2).min(POLL_MAX);
                }
            }
        },
    ))
}

impl FileResponse {
    fn headers(&self) -> AppendHeaders<Vec<(&'static str, String)>> {
        let mut headers = vec![
            (CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
            ("x-argosy-offset", self.reader.offset().to_string()),
            ("x-argosy-size", self.reader.size().to_string()),
            ("x-argosy-ended", self.ended.to_string()),
        ];
        if self.found.times.is_some() {
            headers.push(("x-argosy-times", true.to_string()));
        }
        if let Some(since) = self.found.since {
            headers.push(("x-argosy-since-offset", since.to_string()));
        }
        AppendHeaders(headers)
    }

    async fn has_ended(&mut self) -> bool {
        if let FileTarget::Sandbox(key, _) = &self.path.target
            && !self.ended
        {
            let view = self.shared.queries.task(key.clone()).await;
            self.ended = view.is_none_or(|view| view.ended);
        }
        self.ended
    }

    /// Reads on. The bytes are framed if times were requested.
    async fn next(mut self) -> io::Result<(Self, ReadResult)> {
        let read = move || {
            let mut step = self.reader.next(self.end)?;
            if let (ReadResult::Bytes(bytes), Some(times)) = (&mut step, &mut self.found.times) {
                let begin = self.reader.offset() - bytes.len() as u64;
                *bytes = times.frames(begin, bytes);
            }
            Ok((self, step))
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.expect("reading never panics")
    }
}

/// Returns what a query of the three calls names, for a fuzz target.
#[cfg(feature = "fuzzing")]
pub(crate) fn requested_files(uri: &axum::http::Uri) -> Option<FileTarget> {
    let query = parameters(Query::try_from_uri(uri)).ok()?;
    let path = FilePath::parse(&query.path).ok()?;
    Some(path.target)
}
