//! The client of a task with `--interactive`: attached to the task from its start to its end.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use argosy_proto::exec::{AttachOffsets, ExecResult};
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::commands::exec::attached::{self, ClientSessionEnd, StreamMode};
use crate::commands::exec::connection::{self, SessionKind, SessionRequest, Socket};
use crate::files::{FileChunk, FileLocation, FileReader, ReadError};
use crate::output::write_chunk;
use crate::transport::HttpMasters;

/// Time from a failed attachment until the end of its task is known.
const END_DELAY: Duration = Duration::from_secs(1);

/// An attached client and its task.
pub(super) struct AttachedInput {
    pub(super) masters: HttpMasters,
    pub(super) agent_id: String,
    pub(super) framework_id: String,
    pub(super) task_id: String,
    /// Whether the task has a terminal.
    pub(super) tty: bool,
    /// Lines on standard error.
    pub(super) notes: mpsc::Sender<String>,
    /// Cancelled when the task is known to have ended.
    pub(super) ended: CancellationToken,
}

impl AttachedInput {
    /// Runs until the task has ended. The output of a task that ended before the client could
    /// attach is shown too.
    pub(super) async fn run(self) -> Result<(), ReadError> {
        let mut files = FileReader::new(self.masters.clone());
        let (socket, begins) = match self.open().await {
            Ok(opened) => opened,
            Err(why) => {
                self.print_failure(&why).await;
                return self.follow(&mut files).await;
            }
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

    /// Prints why the task gets no input. The reason may also be that the task has ended, which is
    /// known a moment later.
    async fn print_failure(&self, why: &str) {
        if timeout(END_DELAY, self.ended.cancelled()).await.is_err() {
            let task = format!("{}/{}", self.framework_id, self.task_id);
            let text = format!("gets no input: {why}; argosy attach -i {task} forwards it");
            // Full: the reader has paused for long.
            let _ = self.notes.try_send(format!("{:<12} {text}", self.task_id));
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::transport::ClientTransport;

    /// Starts a master that rejects an attachment, and has an ended task without output.
    async fn master() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let refused = r#"{"message":"attachments are off"}"#;
        let length = refused.len();
        let empty = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-argosy-size: 0\r\n\
            x-argosy-ended: true\r\nconnection: close\r\n\r\n";
        let answers = [
            format!("HTTP/1.1 403 x\r\ncontent-length: {length}\r\n\r\n{refused}"),
            empty.to_owned(),
            empty.to_owned(),
        ];
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }

    /// Returns what is printed if the attachment to a task is rejected.
    async fn printed(ended: CancellationToken) -> Option<String> {
        let (notes, mut lines) = mpsc::channel(1);
        let input = AttachedInput {
            masters: HttpMasters::new(vec![master().await], &ClientTransport::plaintext()),
            agent_id: "agent-1".to_owned(),
            framework_id: "framework-1".to_owned(),
            task_id: "web".to_owned(),
            tty: false,
            notes,
            ended,
        };
        input.run().await.unwrap();
        lines.recv().await
    }

    #[tokio::test]
    async fn a_rejected_attachment_is_printed_unless_its_task_has_ended() {
        let line = printed(CancellationToken::new()).await;
        assert_eq!(
            line.as_deref(),
            Some(
                "web          gets no input: attachments are off; argosy attach -i \
                 framework-1/web forwards it"
            )
        );
        let ended = CancellationToken::new();
        ended.cancel();
        assert_eq!(printed(ended).await, None);
    }
}
