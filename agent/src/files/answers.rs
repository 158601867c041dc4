//! The three calls: a folder's list, a part of a file (followed or not), a whole file.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
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
use super::place::{Place, Target, open_below, sandbox};
use super::reader::{Reader, Step};
use crate::api::Shared;

/// Entries in one list; the rest is named by their number only.
const ENTRIES: usize = 10_000;
/// Bytes in one answer to a read that does not follow.
const READ_LIMIT_BYTES: u64 = 4 * 1024 * 1024;
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
    reader: Reader,
    ended: bool,
    /// Where to stop, whatever the file's size.
    until: u64,
    pause: Duration,
}

/// What is asked for, opened, and how much of it there is.
async fn serve(shared: Shared, place: Place, asked: &Asked) -> Result<Served, FilesError> {
    let Target::Sandbox(key, parts) = &place.target else {
        return Err(FilesError::Kind {
            path: place.path.clone(),
            what: "a folder; browse lists it",
        });
    };
    // First whether it has ended, then the size: what an ended task wrote is all in it.
    let sandbox = sandbox(&place, key, &shared.paths, &shared.asker).await?;
    let ended = sandbox.ended;
    let (named, parts) = (place.clone(), parts.clone());
    let open = move || Reader::open(&named, &sandbox, &parts);
    let opened = tokio::task::spawn_blocking(open).await;
    Ok(Served {
        reader: opened.expect("opening never panics")?,
        until: asked
            .length
            .map_or(u64::MAX, |length| asked.offset.saturating_add(length)),
        pause: LOOK_FIRST,
        shared,
        place,
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
    let (place, reader) = (&served.place, &mut served.reader);
    reader
        .seek(asked.offset, served.ended)
        .map_err(|source| place.failed(source))?;
    let headers = served.headers();
    if asked.follow {
        return Ok((headers, follow(served)).into_response());
    }
    let most = served.reader.offset().saturating_add(READ_LIMIT_BYTES);
    served.until = served.until.min(most);
    Ok((headers, part(served)).into_response())
}

/// `GET /v1/files/download?path=`
pub(crate) async fn download(
    State(shared): State<Shared>,
    asked: Parameters,
) -> Result<Response, FilesError> {
    let asked = parameters(asked)?;
    let mut served = serve(shared, Place::parse(&asked.path)?, &asked).await?;
    let (place, reader) = (&served.place, &mut served.reader);
    let end = reader
        .seek_whole(asked.offset)
        .map_err(|source| place.failed(source))?;
    // What is appended while it is sent would not fit the length that was promised.
    served.until = served.until.min(end);
    let name = served.place.path.rsplit('/').next().unwrap_or("file");
    let name: String = name
        .chars()
        .filter(|c| c.is_ascii_graphic() && *c != '"' && *c != '\\')
        .collect();
    let length = served.until.saturating_sub(served.reader.offset());
    let headers = [
        (CONTENT_LENGTH.as_str(), length.to_string()),
        (
            CONTENT_DISPOSITION.as_str(),
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    Ok((headers, served.headers(), part(served)).into_response())
}

/// What is there now.
fn part(served: Served) -> Body {
    Body::from_stream(stream::try_unfold(served, |served: Served| async move {
        Ok::<_, io::Error>(match served.next().await? {
            (served, Step::Bytes(bytes)) => Some((Bytes::from(bytes), served)),
            (_, Step::Nothing | Step::Gap) => None,
        })
    }))
}

/// What is there, and what comes until the task has ended. Ends at a gap, too: the next answer says where it ends.
fn follow(served: Served) -> Body {
    Body::from_stream(stream::try_unfold(
        served,
        |mut served: Served| async move {
            loop {
                // Asked before the file is read: what an ended task wrote is then all there.
                let ended = served.has_ended().await;
                let step;
                (served, step) = served.next().await?;
                match step {
                    Step::Bytes(bytes) => {
                        served.pause = LOOK_FIRST;
                        return Ok::<_, io::Error>(Some((Bytes::from(bytes), served)));
                    }
                    Step::Gap => return Ok(None),
                    Step::Nothing => {}
                }
                if ended || served.reader.offset() >= served.until {
                    return Ok(None);
                }
                tokio::time::sleep(served.pause).await;
                served.pause = (served.pause * 2).min(LOOK_LAST);
            }
        },
    ))
}

impl Served {
    fn headers(&self) -> [(&'static str, String); 4] {
        [
            (CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
            ("x-argosy-offset", self.reader.offset().to_string()),
            ("x-argosy-size", self.reader.size().to_string()),
            ("x-argosy-ended", self.ended.to_string()),
        ]
    }

    async fn has_ended(&mut self) -> bool {
        if let Target::Sandbox(key, _) = &self.place.target
            && !self.ended
        {
            let view = self.shared.asker.task(key.clone()).await;
            self.ended = view.is_none_or(|view| view.ended);
        }
        self.ended
    }

    /// Reads on.
    async fn next(mut self) -> io::Result<(Self, Step)> {
        let read = move || {
            let step = self.reader.next(self.until);
            step.map(|step| (self, step))
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.expect("reading never panics")
    }
}
