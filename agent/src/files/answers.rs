//! The three calls: a folder's list, a part of a file (followed or not), a whole file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};

use super::FilesError;
use super::place::{Place, Sandbox, Target, open_below, sandbox};
use crate::api::Shared;

/// Entries in one list; the rest is named by their number only.
const ENTRIES: usize = 10_000;
/// Bytes in one answer to a read that does not follow.
const READ_LIMIT_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes sent at a time.
const CHUNK_BYTES: u64 = 64 * 1024;
/// How often a followed file is looked at: doubled from the first to the last while nothing comes.
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_LAST: Duration = Duration::from_millis(200);

/// What can be asked.
#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    #[serde(default)]
    path: String,
    #[serde(default)]
    offset: u64,
    length: Option<u64>,
    #[serde(default)]
    follow: bool,
}

/// A folder's list.
#[derive(Debug, Serialize)]
struct Listing {
    path: String,
    entries: Vec<Entry>,
    /// Entries that are not listed, beyond the limit.
    left_out: usize,
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    path: String,
    /// "file", "folder", "link" or "other".
    kind: &'static str,
    size: u64,
    mode: String,
    modified_ms: i64,
}

type Parameters = Result<Query<Asked>, QueryRejection>;

fn parameters(asked: Parameters) -> Result<Asked, FilesError> {
    match asked {
        Ok(Query(asked)) => Ok(asked),
        Err(rejection) => Err(FilesError::Invalid {
            field: "query",
            value: rejection.body_text().chars().take(200).collect(),
            remedy: "use path=, offset=, length= (numbers) and follow=true",
        }),
    }
}

/// `GET /v1/files/browse?path=`
pub(crate) async fn browse(
    State(shared): State<Shared>,
    asked: Parameters,
) -> Result<Response, FilesError> {
    let asked = parameters(asked)?;
    let place = Place::parse(&asked.path)?;
    let (folder, parts) = match &place.target {
        Target::Frameworks => (shared.paths.sandboxes(), Vec::new()),
        Target::Tasks(framework) => (shared.paths.sandboxes(), vec![framework.clone()]),
        Target::Sandbox(key, parts) => {
            let found = sandbox(&place, key, &shared.paths, &shared.asker).await?;
            (found.folder, parts.clone())
        }
    };
    let list = move || list(&place, &folder, &parts);
    let listing = tokio::task::spawn_blocking(list)
        .await
        .expect("listing never panics")?;
    Ok(Json(listing).into_response())
}

fn list(place: &Place, folder: &Path, parts: &[String]) -> Result<Listing, FilesError> {
    let folder = open_below(place, folder, parts)?;
    let kind = folder.metadata().map_err(|source| place.failed(source))?;
    if !kind.is_dir() {
        return Err(FilesError::Kind {
            path: place.path.clone(),
            what: "a file; browse lists folders, read and download serve files",
        });
    }
    // By its descriptor: the folder that was opened, whatever its name means now.
    let opened = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(opened).map_err(|source| place.failed(source))? {
        names.push(entry.map_err(|source| place.failed(source))?);
    }
    names.sort_by_key(std::fs::DirEntry::file_name);
    let left_out = names.len().saturating_sub(ENTRIES);
    names.truncate(ENTRIES);
    let base = place.path.trim_matches('/');
    let base = if base.is_empty() { "tasks" } else { base };
    let entries = names.into_iter().filter_map(|entry| {
        // One that has gone since is simply not there.
        let metadata = entry.metadata().ok()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = match metadata.file_type() {
            kind if kind.is_file() => "file",
            kind if kind.is_dir() => "folder",
            kind if kind.is_symlink() => "link",
            _ => "other",
        };
        Some(Entry {
            path: format!("{base}/{name}"),
            name,
            kind,
            size: metadata.len(),
            mode: format!("{:04o}", metadata.mode() & 0o7777),
            modified_ms: metadata.mtime() * 1_000 + metadata.mtime_nsec() / 1_000_000,
        })
    });
    Ok(Listing {
        path: place.path.clone(),
        entries: entries.collect(),
        left_out,
    })
}

/// A file being served.
struct Served {
    shared: Shared,
    place: Place,
    file: File,
    size: u64,
    ended: bool,
    offset: u64,
    /// Where to stop, whatever the file's size.
    until: u64,
    pause: Duration,
}

async fn serve(shared: Shared, place: Place, asked: &Asked) -> Result<Served, FilesError> {
    let Target::Sandbox(key, parts) = &place.target else {
        return Err(FilesError::Kind {
            path: place.path.clone(),
            what: "a folder; browse lists it",
        });
    };
    // First whether it has ended, then the size: what an ended task wrote is all in it.
    let Sandbox { folder, ended } = sandbox(&place, key, &shared.paths, &shared.asker).await?;
    let file = open_below(&place, &folder, parts)?;
    let metadata = file.metadata().map_err(|source| place.failed(source))?;
    let what = match metadata.file_type() {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some("a folder; browse lists it"),
        _ => Some("a special file"),
    };
    if let Some(what) = what {
        let path = place.path;
        return Err(FilesError::Kind { path, what });
    }
    Ok(Served {
        size: metadata.len(),
        until: asked
            .length
            .map_or(u64::MAX, |length| asked.offset.saturating_add(length)),
        offset: asked.offset,
        pause: LOOK_FIRST,
        shared,
        place,
        file,
        ended,
    })
}

/// `GET /v1/files/read?path=&offset=&length=[&follow=true]`
pub(crate) async fn read(
    State(shared): State<Shared>,
    asked: Parameters,
) -> Result<Response, FilesError> {
    let asked = parameters(asked)?;
    let mut served = serve(shared, Place::parse(&asked.path)?, &asked).await?;
    let headers = [
        (CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
        ("x-argosy-size", served.size.to_string()),
        ("x-argosy-ended", served.ended.to_string()),
    ];
    if asked.follow {
        return Ok((headers, follow(served)).into_response());
    }
    served.until = served
        .until
        .min(served.offset.saturating_add(READ_LIMIT_BYTES));
    Ok((headers, part(served)).into_response())
}

/// `GET /v1/files/download?path=`
pub(crate) async fn download(
    State(shared): State<Shared>,
    asked: Parameters,
) -> Result<Response, FilesError> {
    let asked = parameters(asked)?;
    let mut served = serve(shared, Place::parse(&asked.path)?, &asked).await?;
    // What is appended while it is sent would not fit the length that was promised.
    served.until = served.until.min(served.size);
    let name = served.place.path.rsplit('/').next().unwrap_or("file");
    let name: String = name
        .chars()
        .filter(|c| c.is_ascii_graphic() && *c != '"' && *c != '\\')
        .collect();
    let headers = [
        (CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
        (
            CONTENT_LENGTH.as_str(),
            served.until.saturating_sub(served.offset).to_string(),
        ),
        (
            CONTENT_DISPOSITION.as_str(),
            format!("attachment; filename=\"{name}\""),
        ),
        ("x-argosy-size", served.size.to_string()),
        ("x-argosy-ended", served.ended.to_string()),
    ];
    Ok((headers, part(served)).into_response())
}

/// What is there now.
fn part(served: Served) -> Body {
    Body::from_stream(stream::try_unfold(served, |mut served| async move {
        let bytes = served.next().await?;
        Ok::<_, io::Error>((!bytes.is_empty()).then_some((bytes, served)))
    }))
}

/// What is there, and what comes until the task has ended.
fn follow(served: Served) -> Body {
    Body::from_stream(stream::try_unfold(served, |mut served| async move {
        loop {
            // Asked before the file is read: what an ended task wrote is then all there.
            let ended = served.has_ended().await;
            let bytes = served.next().await?;
            if !bytes.is_empty() {
                served.pause = LOOK_FIRST;
                return Ok::<_, io::Error>(Some((bytes, served)));
            }
            if ended || served.offset >= served.until {
                return Ok(None);
            }
            tokio::time::sleep(served.pause).await;
            served.pause = (served.pause * 2).min(LOOK_LAST);
        }
    }))
}

impl Served {
    async fn has_ended(&mut self) -> bool {
        if let Target::Sandbox(key, _) = &self.place.target
            && !self.ended
        {
            let view = self.shared.asker.task(key.clone()).await;
            self.ended = view.is_none_or(|view| view.ended);
        }
        self.ended
    }

    /// The next bytes, none at the end of what is there.
    async fn next(&mut self) -> io::Result<Bytes> {
        let length = self.until.saturating_sub(self.offset).min(CHUNK_BYTES);
        let file = self.file.try_clone()?;
        let offset = self.offset;
        let read = move || -> io::Result<Vec<u8>> {
            let mut buffer = vec![0; usize::try_from(length).expect("a chunk is small")];
            let length = file.read_at(&mut buffer, offset)?;
            buffer.truncate(length);
            Ok(buffer)
        };
        let bytes = tokio::task::spawn_blocking(read)
            .await
            .expect("reading never panics")?;
        self.offset += bytes.len() as u64;
        Ok(Bytes::from(bytes))
    }
}
