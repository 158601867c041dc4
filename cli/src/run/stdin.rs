//! The client of a task with `--interactive`: attached to the task from its start to its end.

use std::io::{self, IsTerminal as _};

use argosy_proto::exec::{AttachOffsets, ExecResult};
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

use crate::commands::exec::attached::{self, ClientSessionEnd, StreamMode};
use crate::commands::exec::connection::{self, SessionKind, SessionRequest, Socket};
use crate::files::{FileChunk, FileLocation, FileReader, ReadError};
use crate::output::write_chunk;
use crate::transport::HttpMasters;

/// An attached client and its task.
pub(super) struct AttachedInput {
    pub(super) masters: HttpMasters,
    pub(super) agent_id: String,
    pub(super) framework_id: String,
    pub(super) task_id: String,
    /// Whether the task has a terminal.
    pub(super) tty: bool,
    /// Cancelled when the task is known to have ended.
    pub(super) ended: CancellationToken,
}

impl AttachedInput {
    /// Runs until the task has ended. The output of a task that ended before the client could
    /// attach is shown too.
    pub(super) async fn run(self) -> Result<(), ReadError> {
        let mut files = FileReader::new(self.masters.clone());
        let Ok((socket, begins)) = self.open().await else {
            return self.follow(&mut files).await;
        };
        for (file, end) in [("stdout", begins.stdout), ("stderr", begins.stderr)] {
            let mut sink = |piece: FileChunk<'_>| block_in_place(|| write_chunk(file, piece));
            let location = self.location(file);
            files.read_part(&location, 0, end, &mut sink).await?;
        }
        let mode = match self.tty && io::stdin().is_terminal() {
            true => StreamMode::Terminal,
            false => StreamMode::PipesWithoutSignals,
        };
        let left = attached::run(socket, mode).await;
        match left.map_err(|failure| ReadError::Broken(failure.message))? {
            // The framework receives the result of the task.
            ClientSessionEnd::Ended(ExecResult::Code(_) | ExecResult::Signal(_))
            | ClientSessionEnd::Detached => Ok(()),
            ClientSessionEnd::Ended(ExecResult::Lost(why)) | ClientSessionEnd::Broken(why) => {
                Err(ReadError::Broken(why))
            }
            // The terminal is gone, or this program is asked to exit: the task ends too.
            ClientSessionEnd::ReaderGone | ClientSessionEnd::Signalled(_) => {
                Err(ReadError::Sink(io::ErrorKind::BrokenPipe.into()))
            }
        }
    }

    async fn open(&self) -> Result<(Socket, AttachOffsets), String> {
        let task = format!("{}/{}", self.framework_id, self.task_id);
        let wanted = SessionRequest {
            call: SessionKind::Attach,
            agent_id: &self.agent_id,
            parameters: vec![("task", task), ("stdin", true.to_string())],
        };
        let socket = connection::open(&self.masters, &wanted).await;
        let mut socket = socket.map_err(|error| error.to_string())?;
        let offsets = attached::begin(&mut socket).await?;
        Ok((socket, offsets))
    }

    async fn follow(&self, files: &mut FileReader) -> Result<(), ReadError> {
        for file in ["stdout", "stderr"] {
            let mut sink = |piece: FileChunk<'_>| block_in_place(|| write_chunk(file, piece));
            files
                .follow(&self.location(file), 0, &self.ended, &mut sink)
                .await?;
        }
        Ok(())
    }

    fn location(&self, file: &str) -> FileLocation {
        FileLocation::of_task(&self.agent_id, &self.framework_id, &self.task_id, file)
    }
}
