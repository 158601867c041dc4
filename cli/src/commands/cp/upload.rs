//! Copies to a sandbox, by a shell in the running task. Each file is written under another name,
//! and gets its own when all of it has arrived: the shell compares the size, because its input also
//! ends when this program does.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argosy_proto::exec::ExecResult;
use argosy_proto::v1;
use futures::stream::{self, TryStreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::local::{DEFAULT_MODE, LocalDirectory};
use super::local_tree::{LocalTree, display};
use super::operand::SandboxPath;
use super::progress::Progress;
use super::scripts::{COMMIT, CREATE, PROBE, REMOVE, WRITE};
use super::{CopyError, interruption, local_failure};
use crate::commands::exec::connection::{self, OpenError, SessionKind, SessionRequest};
use crate::commands::exec::transfer::{self, EndedCommand};
use crate::commands::exec::{self, may_be_entered, note_executor};
use crate::exit::{Failure, FailureCode};
use crate::operator::ClusterClient;
use crate::random;
use crate::transport::HttpMasters;

/// Number of files that are copied at once. A task can have 64 sessions.
const AT_ONCE: usize = 4;
/// Length of the paths of directories that one shell creates, in bytes; one path of up to 4,096
/// bytes may follow. In a URL, whose limit is 60,000 bytes, a byte may need three.
const DIRECTORIES_BYTES: usize = 8_000;
/// Time for the removal of incomplete files.
const REMOVAL_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn run(
    operator: &ClusterClient,
    from: Option<&Path>,
    task: &str,
    path: &SandboxPath,
    progress: &Progress,
) -> Result<(), CopyError> {
    let source = LocalSource::open(from)?;
    let task = operator.find_task(task).await?;
    let shown = format!("{}/{}", task.framework_id, task.task_id);
    may_be_entered(&task, &shown)?;
    note_executor(
        &task,
        &shown,
        "this is the sandbox of the executor and all its tasks",
    );
    let upload = Upload {
        masters: operator.http_masters(),
        task,
        shown,
        progress,
        token: random::number().map_err(Failure::from)?,
        next_draft: AtomicU64::new(0),
        drafts: Mutex::default(),
    };
    let copied = tokio::select! {
        copied = upload.copy(source, path) => copied,
        signal = interruption() => Err(signal.map_or_else(CopyError::Failed, CopyError::Signalled)),
    };
    upload.remove_drafts().await;
    copied
}

/// The source of a copy.
enum LocalSource {
    StandardInput,
    File {
        file: File,
        name: OsString,
    },
    Directory {
        directory: LocalDirectory,
        /// `None`: its content is copied.
        name: Option<OsString>,
    },
}

impl LocalSource {
    fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::StandardInput);
        };
        let failed = |error: io::Error| local_failure("read", &path.display().to_string(), &error);
        let ends_with_dot = path.as_os_str().as_bytes().ends_with(b"/.");
        let name = path.file_name().filter(|_| !ends_with_dot);
        let name = name.map(OsString::from);
        if path.is_dir() {
            let directory = LocalDirectory::open(path).map_err(failed)?;
            return Ok(Self::Directory { directory, name });
        }
        // A FIFO or a device that the user has named is read to its end, as by cat.
        let file = File::open(path).map_err(failed)?;
        let name = name.unwrap_or_default();
        Ok(Self::File { file, name })
    }
}

/// A copy to the sandbox of a task.
struct Upload<'a> {
    masters: HttpMasters,
    task: v1::Task,
    shown: String,
    progress: &'a Progress,
    /// A part of the names of drafts.
    token: u64,
    next_draft: AtomicU64,
    /// Files that do not have their name yet.
    drafts: Mutex<BTreeSet<String>>,
}

/// A file that is sent.
struct Input<'a> {
    reader: &'a mut (dyn AsyncRead + Unpin + Send),
    /// `None` if it is known at the end only.
    size: Option<u64>,
    mode: u32,
}

impl Upload<'_> {
    async fn copy(&self, source: LocalSource, path: &SandboxPath) -> Result<(), CopyError> {
        match source {
            LocalSource::StandardInput => {
                let target = self.target(path, None).await?;
                let mut stdin = tokio::io::stdin();
                self.write(Input::unsized_of(&mut stdin), &target).await?;
            }
            LocalSource::File { file, name } => {
                let target = self.target(path, Some(&name)).await?;
                self.file(file, &target).await?;
            }
            LocalSource::Directory { directory, name } => {
                let target = self.directory_target(path, name).await?;
                self.directory(&directory, &target).await?;
            }
        }
        Ok(())
    }

    /// Returns the path of the copy of a file: this one, or its name in this directory.
    async fn target(&self, path: &SandboxPath, name: Option<&OsStr>) -> Result<String, Failure> {
        let target = relative(&path.parts);
        let is_directory = self.probe(&target).await? == "directory";
        match (is_directory, name) {
            (false, _) if path.is_directory => Err(Failure::failed(format!(
                "{} is no directory",
                self.named(&target)
            ))),
            (false, _) => Ok(target),
            (true, None) => Err(Failure::usage(format!(
                "{} is a directory; name a file",
                self.named(&target)
            ))),
            (true, Some(name)) => Ok(format!("{target}/{}", utf8(name)?)),
        }
    }

    /// Returns the path of the copy of a directory, which exists then.
    async fn directory_target(
        &self,
        path: &SandboxPath,
        name: Option<OsString>,
    ) -> Result<String, Failure> {
        let mut target = relative(&path.parts);
        match self.probe(&target).await?.as_str() {
            "directory" => match name {
                Some(name) => target = format!("{target}/{}", utf8(&name)?),
                None => return Ok(target),
            },
            "absent" => {}
            _ => {
                let text = format!("{} is no directory", self.named(&target));
                return Err(Failure::failed(text));
            }
        }
        let args = ["755".to_owned(), target.clone()];
        self.shell(CREATE, &args, &target).await?;
        Ok(target)
    }

    async fn directory(&self, directory: &LocalDirectory, to: &str) -> Result<(), CopyError> {
        let tree = LocalTree::read(directory, self.progress)?;
        let (mut args, mut length) = (Vec::new(), 0);
        for (at, (parts, mode)) in tree.directories.iter().enumerate() {
            let path = below(to, parts)?;
            length += path.len();
            // Its owner must be able to write the files in it.
            args.extend([format!("{:o}", mode | 0o700), path]);
            if length > DIRECTORIES_BYTES || at + 1 == tree.directories.len() {
                self.shell(CREATE, &std::mem::take(&mut args), to).await?;
                length = 0;
            }
        }
        let files = tree.files.iter().map(Ok::<_, CopyError>);
        stream::iter(files)
            .try_for_each_concurrent(AT_ONCE, |parts| self.file_below(directory, parts, to))
            .await
    }

    /// Copies a file of a directory. One that cannot be read is left out.
    async fn file_below(
        &self,
        directory: &LocalDirectory,
        parts: &[OsString],
        to: &str,
    ) -> Result<(), CopyError> {
        let target = below(to, parts)?;
        let Some((name, parents)) = parts.split_last() else {
            return Ok(());
        };
        let opened = directory.below(parents);
        match opened.and_then(|parent| parent.file(name)) {
            Ok(file) => Ok(self.file(file, &target).await?),
            Err(error) => {
                self.progress.leave_out(&display(parts), &error.to_string());
                Ok(())
            }
        }
    }

    async fn file(&self, file: File, target: &str) -> Result<(), Failure> {
        let metadata = file.metadata();
        let metadata = metadata.map_err(|error| local_failure("read", target, &error))?;
        let mut file = tokio::fs::File::from_std(file);
        if !metadata.is_file() {
            return self.write(Input::unsized_of(&mut file), target).await;
        }
        let size = metadata.len();
        // Of a file that grows, the first bytes are copied.
        let mut reader = file.take(size);
        let input = Input {
            reader: &mut reader,
            size: Some(size),
            mode: metadata.mode() & 0o777,
        };
        self.write(input, target).await
    }

    /// Writes a file under another name, then renames it.
    async fn write(&self, input: Input<'_>, target: &str) -> Result<(), Failure> {
        let number = self.next_draft.fetch_add(1, Ordering::Relaxed);
        let parent = target.rsplit_once('/').map_or(".", |(parent, _)| parent);
        let draft = format!("{parent}/.argosy-cp-{:016x}-{number}", self.token);
        self.drafts().insert(draft.clone());
        let mode = format!("{:o}", input.mode);
        let args = |size: u64| {
            let (draft, target) = (draft.clone(), target.to_owned());
            [draft, target, size.to_string(), mode.clone()]
        };
        match input.size {
            Some(size) => {
                let script = format!("{WRITE}\n{COMMIT}");
                self.script(&script, &args(size), input.reader, target)
                    .await?;
            }
            None => {
                let written = self.script(WRITE, &args(0), input.reader, target).await?;
                self.shell(COMMIT, &args(written.sent), target).await?;
            }
        }
        self.drafts().remove(&draft);
        self.progress.add_file();
        Ok(())
    }

    /// Returns what is at this path: `directory`, `other` or `absent`.
    async fn probe(&self, path: &str) -> Result<String, Failure> {
        let ended = self.shell(PROBE, &[path.to_owned()], path).await?;
        Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned())
    }

    /// Runs a script without input.
    async fn shell(
        &self,
        script: &str,
        args: &[String],
        target: &str,
    ) -> Result<EndedCommand, Failure> {
        let mut nothing = tokio::io::empty();
        self.script(script, args, &mut nothing, target).await
    }

    /// Runs a script, which must succeed.
    async fn script(
        &self,
        script: &str,
        args: &[String],
        input: &mut (dyn AsyncRead + Unpin + Send),
        target: &str,
    ) -> Result<EndedCommand, Failure> {
        let shown = self.named(target);
        let words = ["sh", "-c", script, "argosy-cp"].map(str::to_owned);
        let words = words.into_iter().chain(args.iter().cloned());
        let mut parameters = vec![("task", self.shown.clone())];
        parameters.extend(words.map(|word| ("argument", word)));
        let wanted = SessionRequest {
            call: SessionKind::Exec,
            agent_id: &self.task.agent_id,
            parameters,
        };
        let opened = connection::open(&self.masters, &wanted).await;
        let socket = opened.map_err(|error| self.open_failure(error))?;
        let progress = |count| self.progress.add_bytes(count);
        let ended = transfer::run(socket, input, &progress).await;
        let ended = ended.map_err(|error| {
            Failure::new(
                FailureCode::Unavailable,
                format!("cannot write {shown}: {error}"),
            )
        })?;
        let why = match &ended.result {
            ExecResult::Code(0) => return Ok(ended),
            ExecResult::Code(code) => format!("the shell exited with {code}"),
            ExecResult::Signal(signal) => format!("the shell was killed by signal {signal}"),
            ExecResult::Lost(why) => why.clone(),
        };
        let text = String::from_utf8_lossy(&ended.stderr);
        let text = match text.trim() {
            "" => why,
            text => text.replace("argosy-cp: ", ""),
        };
        Err(Failure::failed(format!("cannot write {shown}: {text}")))
    }

    fn open_failure(&self, error: OpenError) -> Failure {
        match error {
            OpenError::NotStarted(text) => Failure::failed(format!(
                "cannot copy to {}: its container has no shell: {text}",
                self.shown
            ))
            .advise("a copy to a task needs sh, cat, wc, chmod, mkdir, mv and rm in its image"),
            error => exec::failure(error, &self.shown),
        }
    }

    /// Removes files that did not get their names. A failure leaves files whose names show where
    /// they come from.
    async fn remove_drafts(&self) {
        let drafts: Vec<_> = std::mem::take(&mut *self.drafts()).into_iter().collect();
        if !drafts.is_empty() {
            let removal = self.shell(REMOVE, &drafts, ".");
            let _ = tokio::time::timeout(REMOVAL_LIMIT, removal).await;
        }
    }

    fn drafts(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.drafts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a path of the shell for messages.
    fn named(&self, path: &str) -> String {
        let path = path.strip_prefix("./").unwrap_or(path);
        format!("{}:{path}", self.task.task_id)
    }
}

impl<'a> Input<'a> {
    /// Returns an input that ends when its writer closes it.
    fn unsized_of(reader: &'a mut (dyn AsyncRead + Unpin + Send)) -> Self {
        Self {
            reader,
            size: None,
            mode: DEFAULT_MODE,
        }
    }
}

/// Returns a path in the sandbox, which is the working directory of the shell.
fn relative(parts: &[String]) -> String {
    let parts = std::iter::once(".").chain(parts.iter().map(String::as_str));
    parts.collect::<Vec<_>>().join("/")
}

fn below(directory: &str, parts: &[OsString]) -> Result<String, Failure> {
    let mut path = directory.to_owned();
    for part in parts {
        path.push('/');
        path.push_str(utf8(part)?);
    }
    Ok(path)
}

fn utf8(name: &OsStr) -> Result<&str, Failure> {
    name.to_str().ok_or_else(|| {
        Failure::failed(format!(
            "the name {name:?} is not UTF-8, which a command in a task needs"
        ))
    })
}
