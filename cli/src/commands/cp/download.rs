//! Copies from a sandbox. A hostile task can choose names, links and modes, and change its files at
//! any time: nothing is written outside of the destination.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argosy_proto::v1;
use tokio::task::block_in_place;

use super::local::{DEFAULT_MODE, DIRECTORY_MODE, LocalDirectory};
use super::operand::{SandboxPath, refusal_of_name};
use super::progress::Progress;
use super::{CopyError, MAX_DEPTH, local_failure, read_failure};
use crate::commands::exec::note_executor;
use crate::exit::{Failure, FailureCode};
use crate::files::{EntryKind, FileChunk, FileLocation, FileReader, ListedEntry, ReadError};
use crate::operator::ClusterClient;
use crate::output::note;

/// A copy from the sandbox of a task.
struct Download<'a> {
    files: FileReader,
    task: v1::Task,
    progress: &'a Progress,
}

/// A step of the copy of a directory.
enum Step {
    /// Create a directory and copy its entries. It is opened now and not before: only directories
    /// above the present one are open.
    Enter {
        /// Components in the sandbox.
        path: Vec<String>,
        parent: Arc<LocalDirectory>,
        mode: u32,
        depth: usize,
    },
    /// Set the mode of a directory that has all its entries.
    Leave { to: Arc<LocalDirectory>, mode: u32 },
}

/// The destination of a copy.
struct Destination {
    directory: LocalDirectory,
    /// The name of the copy in it.
    name: PathBuf,
}

pub(super) async fn run(
    operator: &ClusterClient,
    task: &str,
    path: &SandboxPath,
    to: Option<&Path>,
    progress: &Progress,
) -> Result<(), CopyError> {
    let task = operator.find_task(task).await?;
    let shown = format!("{}/{}", task.framework_id, task.task_id);
    if task.agent_id.is_empty() {
        let text = format!("{shown} has no agent yet, so it has no files");
        return Err(Failure::new(FailureCode::NotFound, text).into());
    }
    note_executor(
        &task,
        &shown,
        "this is the sandbox of the executor and all its tasks",
    );
    let mut download = Download {
        files: FileReader::new(operator.http_masters()),
        task,
        progress,
    };
    let source = download.source(path).await?;
    match (source, to) {
        (Source::Directory { .. }, None) => Err(Failure::usage(format!(
            "{} is a directory; only a file is copied to standard output",
            download.shown(&path.parts)
        ))
        .into()),
        (Source::File { .. }, None) => download.print(&path.parts).await,
        (Source::File { mode }, Some(to)) => download.file_to(path, mode, to).await,
        (Source::Directory { mode }, Some(to)) => download.directory_to(path, mode, to).await,
    }
}

/// The source of a copy.
enum Source {
    File {
        mode: u32,
    },
    Directory {
        /// `None`: that of the sandbox, which is not copied.
        mode: Option<u32>,
    },
}

impl Download<'_> {
    fn location(&self, parts: &[String]) -> FileLocation {
        FileLocation::of(&self.task, &parts.join("/"))
    }

    /// Returns the path of a file for messages.
    fn shown(&self, parts: &[String]) -> String {
        format!("{}:{}", self.task.task_id, parts.join("/"))
    }

    fn failure(&self, parts: &[String], error: &ReadError) -> Failure {
        read_failure(&self.shown(parts), error)
    }

    /// Finds the source in the list of its directory, which alone has its kind and mode.
    async fn source(&mut self, path: &SandboxPath) -> Result<Source, Failure> {
        let Some((name, directory)) = path.parts.split_last() else {
            return Ok(Source::Directory { mode: None });
        };
        let location = self.location(directory);
        let listing = self.files.browse(&location).await;
        let listing = listing.map_err(|error| self.failure(directory, &error))?;
        let found = listing.entries.iter().find(|entry| entry.name == *name);
        let shown = self.shown(&path.parts);
        let Some(found) = found else {
            if listing.left_out > 0 {
                // It may be one of those that are not listed.
                return Ok(Source::File { mode: DEFAULT_MODE });
            }
            let text = format!("there is no {shown}");
            return Err(Failure::new(FailureCode::NotFound, text));
        };
        match found.kind() {
            EntryKind::Directory => Ok(Source::Directory { mode: found.mode() }),
            EntryKind::File if path.is_directory => {
                Err(Failure::failed(format!("{shown} is no directory")))
            }
            EntryKind::File => Ok(Source::File {
                mode: found.mode().unwrap_or(DEFAULT_MODE),
            }),
            EntryKind::Link => Err(Failure::failed(format!(
                "{shown} is a link; name the file that it leads to"
            ))),
            EntryKind::Other => Err(Failure::failed(format!("{shown} is a special file"))),
        }
    }

    /// Writes a file to standard output.
    async fn print(&mut self, parts: &[String]) -> Result<(), CopyError> {
        let location = self.location(parts);
        let progress = self.progress;
        let mut has_begun = false;
        let mut attempts = self.files.attempts();
        loop {
            let mut sink = |piece: FileChunk<'_>| -> io::Result<()> {
                match piece {
                    FileChunk::Bytes(bytes) => {
                        has_begun = true;
                        // A paused reader blocks this thread. The other one handles signals.
                        block_in_place(|| {
                            let mut stdout = io::stdout().lock();
                            stdout.write_all(bytes).and_then(|()| stdout.flush())
                        })?;
                        progress.add_bytes(bytes.len());
                    }
                    FileChunk::Missing(count) => note(&FileChunk::missing(count, &location.path)),
                    FileChunk::Time(_) => {}
                }
                Ok(())
            };
            let copied = self.files.download_once(&location, &mut sink).await;
            match copied {
                Ok(()) => {
                    progress.add_file();
                    return Ok(());
                }
                // What was printed cannot be taken back.
                Err(ReadError::Broken(_)) if attempts > 1 && !has_begun => {
                    attempts -= 1;
                    self.files.use_next_master().await;
                }
                Err(ReadError::Sink(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(CopyError::ReaderGone);
                }
                Err(error) => return Err(self.failure(parts, &error).into()),
            }
        }
    }

    async fn file_to(&mut self, path: &SandboxPath, mode: u32, to: &Path) -> Result<(), CopyError> {
        let name = path.name().unwrap_or_default();
        let ends_as_directory = to.as_os_str().as_encoded_bytes().ends_with(b"/");
        if !to.is_dir() && ends_as_directory {
            let text = format!("{} is no directory", to.display());
            return Err(Failure::failed(text).into());
        }
        let place = Destination::of(to, Some(name))?;
        let copied = self.file(&path.parts, &place.directory, place.name.as_os_str(), mode);
        copied.await.map_err(|error| match error {
            ReadError::Sink(error) => {
                local_failure("write", &to.display().to_string(), &error).into()
            }
            error => self.failure(&path.parts, &error).into(),
        })
    }

    /// Copies a file. Local errors are those of the sink.
    async fn file(
        &mut self,
        parts: &[String],
        to: &LocalDirectory,
        name: &OsStr,
        mode: u32,
    ) -> Result<(), ReadError> {
        let location = self.location(parts);
        let progress = self.progress;
        let mut draft = to.draft(name).map_err(ReadError::Sink)?;
        let mut attempts = self.files.attempts();
        loop {
            let mut written = 0;
            let mut sink = |piece: FileChunk<'_>| -> io::Result<()> {
                match piece {
                    FileChunk::Bytes(bytes) => {
                        draft.write(bytes)?;
                        written += bytes.len() as u64;
                        progress.add_bytes(bytes.len());
                    }
                    FileChunk::Missing(count) => note(&FileChunk::missing(count, &location.path)),
                    FileChunk::Time(_) => {}
                }
                Ok(())
            };
            let copied = self.files.download_once(&location, &mut sink).await;
            match copied {
                Ok(()) => break,
                // From the beginning: the file may have been replaced.
                Err(ReadError::Broken(_)) if attempts > 1 => {
                    attempts -= 1;
                    progress.take_back(written);
                    draft.restart().map_err(ReadError::Sink)?;
                    self.files.use_next_master().await;
                }
                Err(error) => return Err(error),
            }
        }
        draft.finish(mode).map_err(ReadError::Sink)?;
        progress.add_file();
        Ok(())
    }

    async fn directory_to(
        &mut self,
        path: &SandboxPath,
        mode: Option<u32>,
        to: &Path,
    ) -> Result<(), CopyError> {
        let failed = |error: io::Error| {
            CopyError::from(local_failure("write", &to.display().to_string(), &error))
        };
        let name = path.name().filter(|_| !path.is_content);
        let (directory, is_new) = match (to.is_dir(), name) {
            // Its content is added to this directory.
            (true, None) => (LocalDirectory::open(to).map_err(failed)?, false),
            _ => {
                let place = Destination::of(to, name)?;
                let created = place.directory.create(place.name.as_os_str());
                created.map_err(failed)?
            }
        };
        let directory = Arc::new(directory);
        let mut steps = Vec::new();
        if is_new {
            steps.push(Step::Leave {
                to: Arc::clone(&directory),
                mode: mode.unwrap_or(DIRECTORY_MODE),
            });
        }
        self.entries(&path.parts, &directory, 0, &mut steps).await?;
        drop(directory);
        while let Some(step) = steps.pop() {
            match step {
                Step::Enter {
                    path,
                    parent,
                    mode,
                    depth,
                } => {
                    let Some((to, is_new)) = self.create(&path, &parent)? else {
                        continue;
                    };
                    if is_new {
                        let to = Arc::clone(&to);
                        steps.push(Step::Leave { to, mode });
                    }
                    self.entries(&path, &to, depth, &mut steps).await?;
                }
                Step::Leave { to, mode } => to.set_mode(mode).map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Creates a directory, or leaves it out.
    fn create(
        &self,
        path: &[String],
        parent: &LocalDirectory,
    ) -> Result<Option<(Arc<LocalDirectory>, bool)>, CopyError> {
        let name = path.last().map(String::as_str).unwrap_or_default();
        match parent.create(OsStr::new(name)) {
            Ok((directory, is_new)) => Ok(Some((Arc::new(directory), is_new))),
            Err(error) if is_full(&error) => {
                Err(self.failure(path, &ReadError::Sink(error)).into())
            }
            Err(error) => {
                let why = error.to_string();
                self.progress.leave_out(&self.shown(path), &why);
                Ok(None)
            }
        }
    }

    /// Copies the files of a directory, and adds steps for the directories in it.
    async fn entries(
        &mut self,
        path: &[String],
        to: &Arc<LocalDirectory>,
        depth: usize,
        steps: &mut Vec<Step>,
    ) -> Result<(), CopyError> {
        let location = self.location(path);
        let listing = match self.files.browse(&location).await {
            Ok(listing) => listing,
            Err(error) if depth > 0 && is_of_one_entry(&error) => {
                self.progress
                    .leave_out(&self.shown(path), &error.to_string());
                return Ok(());
            }
            Err(error) => return Err(self.failure(path, &error).into()),
        };
        if listing.left_out > 0 {
            let text = format!("{} of its entries are not listed", listing.left_out);
            self.progress.leave_out(&self.shown(path), &text);
        }
        let begin = steps.len();
        for entry in &listing.entries {
            let parts = [path, std::slice::from_ref(&entry.name)].concat();
            let copied = match self.entry(entry, &parts, to, depth, steps).await {
                Err(error) if is_of_one_entry(&error) => Some(error.to_string()),
                Err(ReadError::Sink(error)) if !is_full(&error) => Some(error.to_string()),
                Err(error) => return Err(self.failure(&parts, &error).into()),
                Ok(left_out) => left_out.map(str::to_owned),
            };
            if let Some(why) = copied {
                self.progress.leave_out(&self.shown(&parts), &why);
            }
        }
        // The last one is the next: they are copied in order.
        steps[begin..].reverse();
        Ok(())
    }

    /// Copies a file, or adds steps for a directory, or returns why it is left out.
    async fn entry(
        &mut self,
        entry: &ListedEntry,
        parts: &[String],
        to: &Arc<LocalDirectory>,
        depth: usize,
        steps: &mut Vec<Step>,
    ) -> Result<Option<&'static str>, ReadError> {
        if let Some(why) = refusal_of_name(&entry.name) {
            return Ok(Some(why));
        }
        let name = OsStr::new(&entry.name);
        match entry.kind() {
            EntryKind::File => {
                let mode = entry.mode().unwrap_or(DEFAULT_MODE);
                self.file(parts, to, name, mode).await?;
            }
            EntryKind::Directory if depth >= MAX_DEPTH => {
                return Ok(Some("it is deeper than 100 directories"));
            }
            EntryKind::Directory => {
                steps.push(Step::Enter {
                    path: parts.to_vec(),
                    parent: Arc::clone(to),
                    mode: entry.mode().unwrap_or(DIRECTORY_MODE),
                    depth: depth + 1,
                });
            }
            EntryKind::Link => return Ok(Some("it is a link")),
            EntryKind::Other => return Ok(Some("it is a special file")),
        }
        Ok(None)
    }
}

impl Destination {
    /// Returns the place of a copy: in this directory under its name, else at this path.
    fn of(to: &Path, name: Option<&str>) -> Result<Self, Failure> {
        let failed = |error: io::Error| local_failure("write", &to.display().to_string(), &error);
        if to.is_dir()
            && let Some(name) = name
        {
            return Ok(Self {
                directory: LocalDirectory::open(to).map_err(failed)?,
                name: name.into(),
            });
        }
        let Some(name) = to.file_name() else {
            let text = format!("{} is no name of a file", to.display());
            return Err(Failure::usage(text));
        };
        Ok(Self {
            directory: LocalDirectory::parent_of(to).map_err(failed)?,
            name: name.into(),
        })
    }
}

/// Returns whether an error concerns one entry only, which was removed or replaced.
fn is_of_one_entry(error: &ReadError) -> bool {
    use ReadError::{Busy, NotFound, Refused};
    matches!(error, NotFound(_) | Refused(_) | Busy { .. })
}

/// Returns whether there is no space for any further file.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        StorageFull | QuotaExceeded | ReadOnlyFilesystem
    )
}

#[cfg(test)]
mod tests;
