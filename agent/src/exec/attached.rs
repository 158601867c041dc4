//! Attached to a task's own command: what it writes goes to the client, what the client sends goes to it.
//!
//! One loop. It hears the client at all times, so that signals and its end wait behind nothing; it asks the supervisor for
//! more only when the client has taken what there was. A client that is slow makes the supervisor leave output out for
//! it, and holds up nobody else. That it goes, or this agent does, means nothing to the command.

use std::collections::VecDeque;
use std::time::Duration;

use argosy_isolation::attachment::INPUT_LIMIT_BYTES;
use argosy_isolation::{Attachment, AttachmentError, AttachmentNotice, Outcome, WindowSize};
use argosy_proto::exec::{ATTACH_PROTOCOL, Begins, End, FromCommand, ToCommand};
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

use super::input::{Input, Next};
use super::request::AttachAsked;
use super::session::{Ending, FAREWELL, QUEUED, send, unreadable};
use super::{ExecError, START_LIMIT, container_of, speaking};
use crate::api::Shared;
use crate::descriptors::watched;
use crate::runner::AttachError;

/// `GET /v1/attach?task=FRAMEWORK/TASK&stdin=…`
pub(crate) async fn attach(
    State(shared): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ExecError> {
    super::refuse_pages(&headers)?;
    let asked = AttachAsked::parse(&query.unwrap_or_default())?;
    let upgrade = speaking(upgrade, ATTACH_PROTOCOL)?;
    let permit = shared.exec.admit()?;
    let attached = timeout(START_LIMIT, begin(&shared, &asked)).await;
    let late = |_| ExecError::Late {
        task: asked.task.clone(),
    };
    let attached = attached.map_err(late)??;
    tracing::info!(task = %asked.task, stdin = asked.stdin, "somebody has attached");
    let silence = shared.exec.silence;
    Ok(
        upgrade
            .on_upgrade(move |socket| run(attend(attached, socket, silence), asked.task, permit)),
    )
}

/// Attaches, and waits until that has worked.
async fn begin(shared: &Shared, asked: &AttachAsked) -> Result<Attached, ExecError> {
    let task = &asked.task;
    let name = container_of(shared, task).await?;
    let failed = |error: &dyn std::error::Error| ExecError::Failed {
        task: task.clone(),
        why: crate::error::sentence(error),
    };
    let attachment = shared.controls.attach(name.instance, asked.stdin).await;
    let attachment = attachment.map_err(|error| match error {
        AttachError::NotRunning | AttachError::Attachment(AttachmentError::Talk { .. }) => {
            ExecError::NotRunning(task.clone())
        }
        AttachError::Attachment(error @ AttachmentError::Early) => ExecError::Refused {
            reason: format!("nobody can attach to {task}: {error}"),
        },
        AttachError::Attachment(error) => failed(&error),
    })?;
    let attachment = watched(attachment, Interest::READABLE).map_err(|error| failed(&error))?;
    let mut attached = Attached {
        attachment,
        stdin: asked.stdin,
        frames: VecDeque::new(),
        feeding: Bytes::new(),
        on_its_way: 0,
        is_over: false,
        input_is_over: false,
    };
    match attached.notice().await {
        Ok(AttachmentNotice::Attached([stdout, stderr])) => {
            let begins = Begins { stdout, stderr };
            attached.frames.push_back(FromCommand::Attached(begins));
            Ok(attached)
        }
        Ok(AttachmentNotice::Refused { reason }) => Err(ExecError::Refused {
            reason: format!("nobody can attach to {task}: {reason}"),
        }),
        // It ended under us.
        Ok(_) | Err(AttachmentError::Lost) => Err(ExecError::NotRunning(task.clone())),
        Err(error) => Err(failed(&error)),
    }
}

async fn run(attended: impl Future<Output = Ending>, task: TaskKey, _permit: OwnedSemaphorePermit) {
    let sessions = metrics::gauge!("argosy_agent_attach_sessions");
    sessions.increment(1.0);
    let ending = attended.await;
    sessions.decrement(1.0);
    tracing::info!(task = %task, %ending, "somebody who was attached is gone");
}

/// Until the command has ended and the client knows, or the client is gone.
async fn attend(attached: Attached, socket: WebSocket, silence: Duration) -> Ending {
    let (sink, frames) = socket.split();
    let (queue, queued) = mpsc::channel(QUEUED);
    let mut serving = std::pin::pin!(attached.serve(frames, queue, silence));
    let told = tokio::select! {
        why = &mut serving => return Ending::ClientGone(why),
        told = send(sink, queued, silence) => told,
    };
    let Some(end) = told else {
        return Ending::ClientGone("it takes nothing any more".to_owned());
    };
    // Closed by the client: closing while something of its is unread could destroy what it has not read.
    let _ = timeout(FAREWELL, serving).await;
    Ending::Told(end)
}

/// When a client that cannot be read any more has had its time; never of one that can.
async fn over(farewell: &Option<(Instant, String)>) -> String {
    match farewell {
        Some((until, why)) => {
            sleep_until(*until).await;
            why.clone()
        }
        None => std::future::pending().await,
    }
}

/// One client, and the supervisor that it is attached to.
struct Attached {
    attachment: AsyncFd<Attachment>,
    /// The client may write to the command.
    stdin: bool,
    /// Told by the supervisor, and not yet taken by the connection. Nothing more is asked for while there are some.
    frames: VecDeque<FromCommand>,
    /// Input that comes after what is on its way.
    feeding: Bytes,
    /// Bytes of input that the supervisor has and the command may not.
    on_its_way: usize,
    /// The end has been told: only the client's going is waited for.
    is_over: bool,
    input_is_over: bool,
}

impl Attached {
    /// Why the client is gone.
    async fn serve(
        mut self,
        mut heard: SplitStream<WebSocket>,
        queue: mpsc::Sender<FromCommand>,
        silence: Duration,
    ) -> String {
        let input = Input::default();
        let mut last = Instant::now();
        // Set once nothing more of the client can be read: until then it may read what it is told.
        let mut farewell: Option<(Instant, String)> = None;
        loop {
            let takes_input = !self.is_over && !self.input_is_over && self.on_its_way == 0;
            let asks = !self.is_over && self.frames.is_empty();
            tokio::select! {
                why = over(&farewell) => return why,
                message = timeout_at(last + silence, heard.next()), if farewell.is_none() => {
                    last = Instant::now();
                    let message = match message {
                        Ok(Some(Ok(message))) => message,
                        Ok(Some(Err(error))) => {
                            self.end(unreadable(&error));
                            farewell = Some((last + FAREWELL, crate::error::sentence(&error)));
                            continue;
                        }
                        Ok(None) => return "the connection was closed".to_owned(),
                        Err(_) => {
                            return format!("nothing was heard for {} s", silence.as_secs());
                        }
                    };
                    match self.obey(message, &input) {
                        Ok(true) => {}
                        Ok(false) => return "it detached".to_owned(),
                        Err(why) => self.end(End::Lost(format!("the session was ended: {why}"))),
                    }
                }
                room = queue.reserve(), if !self.frames.is_empty() => match room {
                    Ok(room) => room.send(self.frames.pop_front().expect("there are some")),
                    // Whoever writes to the connection has gone, and says why.
                    Err(_) => std::future::pending().await,
                },
                notice = self.notice(), if asks => match notice {
                    Ok(notice) => self.take(notice, &input),
                    Err(error) => self.end(End::Lost(crate::error::sentence(&error))),
                },
                next = input.next(), if takes_input && self.feeding.is_empty() => match next {
                    Next::Bytes(bytes) => {
                        self.feeding = bytes;
                        self.feed();
                    }
                    Next::End => {
                        self.input_is_over = true;
                        self.or_end(|attachment| attachment.end_input());
                    }
                },
            }
        }
    }

    /// Waits for the next notice; nothing is lost when it is not waited for any more.
    async fn notice(&mut self) -> Result<AttachmentNotice, AttachmentError> {
        loop {
            if let Some(notice) = self.attachment.get_mut().notice()? {
                return Ok(notice);
            }
            let ready = self.attachment.readable().await;
            ready
                .map_err(|source| AttachmentError::Talk { source })?
                .clear_ready();
        }
    }

    /// False if the client goes.
    fn obey(&mut self, message: Message, input: &Input) -> Result<bool, String> {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(_) => return Err("frames are binary messages, not text".to_owned()),
            // Signs of life, answered below us.
            Message::Ping(_) | Message::Pong(_) => return Ok(true),
            Message::Close(_) => return Ok(false),
        };
        if self.is_over {
            return Ok(true);
        }
        match ToCommand::decode(bytes).map_err(|error| error.to_string())? {
            ToCommand::Input(bytes) if self.stdin => {
                input.add(&bytes).map_err(|error| error.to_string())?;
            }
            ToCommand::Input(_) => return Err("it sent input and had not asked to".to_owned()),
            ToCommand::Resize(size) => {
                let (rows, columns) = (size.rows, size.columns);
                self.or_end(|attachment| attachment.resize(WindowSize { rows, columns }));
            }
            ToCommand::Signal(signal) => self.or_end(|attachment| attachment.signal(signal)),
        }
        Ok(true)
    }

    fn take(&mut self, notice: AttachmentNotice, input: &Input) {
        match notice {
            AttachmentNotice::Output(bytes) => {
                self.frames.push_back(FromCommand::Output(bytes.into()));
            }
            AttachmentNotice::Errors(bytes) => {
                self.frames.push_back(FromCommand::Errors(bytes.into()));
            }
            AttachmentNotice::Missed(bytes) => self.frames.push_back(FromCommand::Missed(bytes)),
            AttachmentNotice::Taken => {
                let count = std::mem::take(&mut self.on_its_way);
                if count > 0 {
                    input.taken(count);
                    self.frames.push_back(FromCommand::Taken(count));
                }
                self.feed();
            }
            AttachmentNotice::Ended(Outcome::Exited(code)) => self.end(End::Code(code)),
            AttachmentNotice::Ended(Outcome::Signaled(signal)) => self.end(End::Signal(signal)),
            AttachmentNotice::Ended(Outcome::NotStarted)
            | AttachmentNotice::Attached(_)
            | AttachmentNotice::Refused { .. } => {
                let why = "its supervisor says what makes no sense";
                self.end(End::Lost(why.to_owned()));
            }
        }
    }

    /// Sends the next piece of input.
    fn feed(&mut self) {
        if self.feeding.is_empty() {
            return;
        }
        let piece = self
            .feeding
            .split_to(self.feeding.len().min(INPUT_LIMIT_BYTES));
        self.on_its_way = piece.len();
        self.or_end(|attachment| attachment.input(&piece));
    }

    fn or_end(&mut self, wish: impl FnOnce(&Attachment) -> Result<(), AttachmentError>) {
        if let Err(error) = wish(self.attachment.get_ref()) {
            self.end(End::Lost(crate::error::sentence(&error)));
        }
    }

    /// The client is told, and then gone.
    fn end(&mut self, end: End) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.frames.push_back(FromCommand::End(end));
        }
    }
}
