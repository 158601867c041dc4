//! Attachment to a task's own command: its output goes to the client, the client's input goes to
//! it.
//!
//! One loop. It reads from the client at all times, so that signals and the disconnection are
//! handled without delay. It requests more from the supervisor only when the client has received
//! all output. For a slow client the supervisor drops output, and no other client is delayed. The
//! end of the client or of this agent does not affect the command.

use std::collections::VecDeque;
use std::time::Duration;

use argosy_isolation::attachment::INPUT_LIMIT_BYTES;
use argosy_isolation::{Attachment, AttachmentError, AttachmentNotice, CommandOutcome, WindowSize};
use argosy_proto::exec::{ATTACH_PROTOCOL, AgentFrame, AttachOffsets, ClientFrame, ExecResult};
use argosy_state::ids::TaskKey;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{RawQuery, State};
use axum::http::header::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::SplitStream;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::input::{InputChunk, InputQueue};
use super::request::AttachOptions;
use super::session::{CLOSE_TIMEOUT, QUEUE_FRAMES, SessionEnd, is_broken, send, unreadable};
use super::{ExecError, ExecState, START_TIMEOUT, container_of, negotiate};
use crate::descriptors::watched;
use crate::runner::AttachError;

/// Handles `GET /v1/attach?task=FRAMEWORK/TASK&stdin=…`
pub(crate) async fn attach(
    State(shared): State<ExecState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ExecError> {
    super::reject_web_pages(&headers)?;
    let options = AttachOptions::parse(&query.unwrap_or_default())?;
    let upgrade = negotiate(upgrade, ATTACH_PROTOCOL)?;
    let permit = shared.limits.admit()?;
    let attached = timeout(START_TIMEOUT, begin(&shared, &options)).await;
    let late = |_| ExecError::Timeout {
        task: options.task.clone(),
    };
    let attached = attached.map_err(late)??;
    tracing::info!(task = %options.task, stdin = options.stdin, "client attached");
    let silence = shared.limits.idle_timeout;
    Ok(upgrade
        .on_upgrade(move |socket| run(attend(attached, socket, silence), options.task, permit)))
}

/// Attaches, and waits for the result.
async fn begin(shared: &ExecState, options: &AttachOptions) -> Result<AttachSession, ExecError> {
    let task = &options.task;
    let name = container_of(shared, task).await?;
    let failed = |error: &dyn std::error::Error| ExecError::Failed {
        task: task.clone(),
        why: crate::error::error_chain(error),
    };
    let attachment = shared.controls.attach(name.instance, options.stdin).await;
    let attachment = attachment.map_err(|error| match error {
        AttachError::NotRunning | AttachError::Attachment(AttachmentError::Socket { .. }) => {
            ExecError::NotRunning(task.clone())
        }
        AttachError::Attachment(error @ AttachmentError::NotStarted) => ExecError::Refused {
            reason: format!("cannot attach to {task}: {error}"),
        },
        AttachError::Attachment(error) => failed(&error),
    })?;
    let attachment = watched(attachment, Interest::READABLE).map_err(|error| failed(&error))?;
    let mut attached = AttachSession {
        attachment,
        stdin: options.stdin,
        frames: VecDeque::new(),
        pending_input: Bytes::new(),
        in_transit: 0,
        is_over: false,
        input_is_over: false,
    };
    match attached.notice().await {
        Ok(AttachmentNotice::Attached([stdout, stderr])) => {
            let begins = AttachOffsets { stdout, stderr };
            attached.frames.push_back(AgentFrame::Attached(begins));
            Ok(attached)
        }
        Ok(AttachmentNotice::Refused { reason }) => Err(ExecError::Refused {
            reason: format!("cannot attach to {task}: {reason}"),
        }),
        // The container ended during the request.
        Ok(_) | Err(AttachmentError::Lost) => Err(ExecError::NotRunning(task.clone())),
        Err(error) => Err(failed(&error)),
    }
}

async fn run(
    attended: impl Future<Output = SessionEnd>,
    task: TaskKey,
    _permit: OwnedSemaphorePermit,
) {
    let sessions = metrics::gauge!("argosy_agent_attach_sessions");
    sessions.increment(1.0);
    let ending = attended.await;
    sessions.decrement(1.0);
    tracing::info!(task = %task, %ending, "attached client disconnected");
}

/// Serves until the command has ended and the client has received the result, or the client has
/// disconnected.
async fn attend(attached: AttachSession, socket: WebSocket, silence: Duration) -> SessionEnd {
    let (sink, frames) = socket.split();
    let (queue, queued) = mpsc::channel(QUEUE_FRAMES);
    let mut serving = std::pin::pin!(attached.serve(frames, queue, silence));
    let reported = tokio::select! {
        why = &mut serving => return SessionEnd::ClientGone(why),
        reported = send(sink, queued, silence) => reported,
    };
    let end = match reported {
        Ok(end) => end,
        Err(why) => return SessionEnd::ClientGone(why),
    };
    // Closed by the client: closing with unread input could destroy output that it has not read.
    let _ = timeout(CLOSE_TIMEOUT, serving).await;
    SessionEnd::Reported(end)
}

/// Waits until the time of a client whose messages cannot be read is over; forever if they can.
async fn farewell_timeout(farewell: &Option<(Instant, String)>) -> String {
    match farewell {
        Some((until, why)) => {
            sleep_until(*until).await;
            why.clone()
        }
        None => std::future::pending().await,
    }
}

/// One client, and its attachment to the supervisor.
struct AttachSession {
    attachment: AsyncFd<Attachment>,
    /// Whether the client may write to the command.
    stdin: bool,
    /// Notices of the supervisor that the connection has not taken yet. No more are requested while
    /// there are some.
    frames: VecDeque<AgentFrame>,
    /// Input that follows the input in transit.
    pending_input: Bytes,
    /// Bytes of input that the supervisor has received and the command may not have.
    in_transit: usize,
    /// Whether the end has been sent: only the client's disconnection is awaited.
    is_over: bool,
    input_is_over: bool,
}

impl AttachSession {
    /// Returns the reason for the client's disconnection.
    async fn serve(
        mut self,
        mut heard: SplitStream<WebSocket>,
        queue: mpsc::Sender<AgentFrame>,
        silence: Duration,
    ) -> String {
        let input = InputQueue::default();
        let mut last = Instant::now();
        // Set once the client's messages cannot be read: until then it may read the remaining
        // output.
        let mut farewell: Option<(Instant, String)> = None;
        loop {
            let takes_input = !self.is_over && !self.input_is_over && self.in_transit == 0;
            let asks = !self.is_over && self.frames.is_empty();
            tokio::select! {
                why = farewell_timeout(&farewell) => return why,
                message = timeout_at(last + silence, heard.next()), if farewell.is_none() => {
                    last = Instant::now();
                    let message = match message {
                        Ok(Some(Ok(message))) => message,
                        Ok(Some(Err(error))) if is_broken(&error) => {
                            return crate::error::error_chain(&error);
                        }
                        Ok(Some(Err(error))) => {
                            self.end(unreadable(&error));
                            farewell = Some((last + CLOSE_TIMEOUT, crate::error::error_chain(&error)));
                            continue;
                        }
                        Ok(None) => return "the connection was closed".to_owned(),
                        Err(_) => {
                            return format!("no message for {} s", silence.as_secs());
                        }
                    };
                    match self.handle_message(message, &input) {
                        Ok(true) => {}
                        Ok(false) => return "it detached".to_owned(),
                        Err(why) => self.end(ExecResult::Lost(format!("the session was ended: {why}"))),
                    }
                }
                room = queue.reserve(), if !self.frames.is_empty() => match room {
                    Ok(room) => room.send(self.frames.pop_front().expect("there are some")),
                    // The writer of the connection has ended, and returns the reason.
                    Err(_) => std::future::pending().await,
                },
                notice = self.notice(), if asks => match notice {
                    Ok(notice) => self.handle_notice(notice, &input),
                    Err(error) => self.end(ExecResult::Lost(crate::error::error_chain(&error))),
                },
                next = input.next(), if takes_input && self.pending_input.is_empty() => match next {
                    InputChunk::Bytes(bytes) => {
                        self.pending_input = bytes;
                        self.feed();
                    }
                    InputChunk::End => {
                        self.input_is_over = true;
                        self.or_end(|attachment| attachment.end_input());
                    }
                },
            }
        }
    }

    /// Waits for the next notice. Cancel-safe.
    async fn notice(&mut self) -> Result<AttachmentNotice, AttachmentError> {
        loop {
            if let Some(notice) = self.attachment.get_mut().notice()? {
                return Ok(notice);
            }
            let ready = self.attachment.readable().await;
            ready
                .map_err(|source| AttachmentError::Socket { source })?
                .clear_ready();
        }
    }

    /// Handles a message of the client. Returns false if the client closes the session.
    fn handle_message(&mut self, message: Message, input: &InputQueue) -> Result<bool, String> {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(_) => return Err("frames are binary messages, not text".to_owned()),
            // Pings and pongs are handled by the WebSocket library.
            Message::Ping(_) | Message::Pong(_) => return Ok(true),
            Message::Close(_) => return Ok(false),
        };
        if self.is_over {
            return Ok(true);
        }
        match ClientFrame::decode(bytes).map_err(|error| error.to_string())? {
            ClientFrame::Input(bytes) if self.stdin => {
                input.add(&bytes).map_err(|error| error.to_string())?;
            }
            ClientFrame::Input(_) => {
                return Err("it sent input without having requested that".to_owned());
            }
            ClientFrame::Resize(size) => {
                let (rows, columns) = (size.rows, size.columns);
                self.or_end(|attachment| attachment.resize(WindowSize { rows, columns }));
            }
            ClientFrame::Signal(signal) => self.or_end(|attachment| attachment.signal(signal)),
        }
        Ok(true)
    }

    fn handle_notice(&mut self, notice: AttachmentNotice, input: &InputQueue) {
        match notice {
            AttachmentNotice::Output(bytes) => {
                self.frames.push_back(AgentFrame::Stdout(bytes.into()));
            }
            AttachmentNotice::Errors(bytes) => {
                self.frames.push_back(AgentFrame::Stderr(bytes.into()));
            }
            AttachmentNotice::Missed(bytes) => self.frames.push_back(AgentFrame::Missed(bytes)),
            AttachmentNotice::InputConsumed => {
                let count = std::mem::take(&mut self.in_transit);
                if count > 0 {
                    input.consumed(count);
                    self.frames.push_back(AgentFrame::InputCredit(count));
                }
                self.feed();
            }
            AttachmentNotice::Ended(CommandOutcome::Exited(code)) => {
                self.end(ExecResult::Code(code))
            }
            AttachmentNotice::Ended(CommandOutcome::Signaled(signal)) => {
                self.end(ExecResult::Signal(signal))
            }
            AttachmentNotice::Ended(CommandOutcome::NotStarted)
            | AttachmentNotice::Attached(_)
            | AttachmentNotice::Refused { .. } => {
                let why = "invalid message from its supervisor";
                self.end(ExecResult::Lost(why.to_owned()));
            }
        }
    }

    /// Sends the next piece of input.
    fn feed(&mut self) {
        if self.pending_input.is_empty() {
            return;
        }
        let piece = self
            .pending_input
            .split_to(self.pending_input.len().min(INPUT_LIMIT_BYTES));
        self.in_transit = piece.len();
        self.or_end(|attachment| attachment.input(&piece));
    }

    fn or_end(&mut self, wish: impl FnOnce(&Attachment) -> Result<(), AttachmentError>) {
        if let Err(error) = wish(self.attachment.get_ref()) {
            self.end(ExecResult::Lost(crate::error::error_chain(&error)));
        }
    }

    /// Sends the end to the client, which then disconnects.
    fn end(&mut self, end: ExecResult) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.frames.push_back(AgentFrame::End(end));
        }
    }
}
