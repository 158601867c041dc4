//! One session, from the WebSocket to its end: four loops in one task, none of which waits for
//! another loop's peer.
//!
//! ```text
//! client ──frames──▶ listen ──input──▶ feed ──▶ command
//!        ◀──frames── send ◀──queue── relay ◀──
//! ```
//! `listen` never waits for the command, so signals and the client's disconnection are handled
//! immediately. A client that does not read fills the queue, then the command's pipes, and so
//! blocks only its own command.

use std::convert::Infallible;
use std::error::Error as _;
use std::fmt;
use std::io;
use std::pin::pin;
use std::time::Duration;

use argosy_isolation::{CommandOutcome, ExecNotice, ExecSessionError, ExecStreams, WindowSize};
use argosy_proto::exec::{AgentFrame, ClientFrame, DATA_LIMIT_BYTES, ExecResult};
use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};
use tokio_util::sync::CancellationToken;

use super::input::{InputChunk, InputQueue};
use super::stream::{CommandStream, SessionNotices};

/// Capacity of the queue of frames for the connection. While it is full, the command's output is
/// not read.
pub(super) const QUEUE_FRAMES: usize = 2;
/// Number of consecutive unanswered pings after which a client is considered gone.
const MAX_PINGS: u32 = 4;
/// The time without output after which the output of an ended command is closed: a process that it
/// did not start may hold it open.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// Maximum size of that remaining output: the capacity of a pipe.
const DRAIN_BYTES: usize = 1024 * 1024;
/// The time in which a client must take a frame. A person may pause the output for long, so it is
/// long, too; it ends the session of a client that only sends.
const STALL_LIMIT: Duration = Duration::from_secs(3_600);
/// The time for which a client may take to close after it has received the end.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The end-of-input character of a terminal.
const END_OF_INPUT: &[u8] = b"\x04";

/// A command that was started and executed. Dropping it ends the command.
pub(super) struct ExecCommand {
    notices: SessionNotices,
    stdin: CommandStream,
    /// The outputs, each with the frame type of its bytes.
    outputs: Vec<(CommandStream, FrameEncoder)>,
    is_terminal: bool,
}

/// The conversion of output bytes to a frame.
type FrameEncoder = fn(Bytes) -> AgentFrame;

impl ExecCommand {
    pub(super) fn new(notices: SessionNotices, streams: ExecStreams) -> io::Result<Self> {
        Ok(match streams {
            ExecStreams::Pipes {
                stdin,
                stdout,
                stderr,
            } => Self {
                notices,
                stdin: CommandStream::new(stdin)?,
                outputs: vec![
                    (CommandStream::new(stdout)?, AgentFrame::Stdout),
                    (CommandStream::new(stderr)?, AgentFrame::Stderr),
                ],
                is_terminal: false,
            },
            ExecStreams::Terminal(master) => {
                let master = CommandStream::new(master)?;
                Self {
                    notices,
                    stdin: master.clone(),
                    outputs: vec![(master, AgentFrame::Stdout)],
                    is_terminal: true,
                }
            }
        })
    }
}

/// The end of a session, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// The client received the command's result.
    Reported(ExecResult),
    /// The client disconnected; the command was ended if it had not.
    ClientGone(String),
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported(ExecResult::Code(code)) => write!(formatter, "exit {code}"),
            Self::Reported(ExecResult::Signal(signal)) => write!(formatter, "signal {signal}"),
            Self::Reported(ExecResult::Lost(why)) => formatter.write_str(why),
            Self::ClientGone(why) => write!(formatter, "ended with its client: {why}"),
        }
    }
}

/// Serves until the command has ended and the client has received the result, or the client has
/// disconnected.
pub(super) async fn attend(
    entered: ExecCommand,
    socket: WebSocket,
    silence: Duration,
) -> SessionEnd {
    let (sink, frames) = socket.split();
    let (queue, queued) = mpsc::channel(QUEUE_FRAMES);
    let (outcome, ended) = oneshot::channel();
    let input = InputQueue::default();
    let terminal = entered.is_terminal.then(|| entered.stdin.clone());
    let listener = SessionReceiver {
        frames,
        running: Some(CommandGuard {
            notices: entered.notices,
            outcome,
        }),
        terminal: terminal.clone(),
        idle_timeout: silence,
    };
    let speaker = StreamForwarder {
        stdin: entered.stdin,
        terminal,
        outputs: entered.outputs,
        queue,
    };
    let mut listen = pin!(listener.listen(&input));
    let reported = tokio::select! {
        why = &mut listen => return SessionEnd::ClientGone(why),
        reported = send(sink, queued, silence) => reported,
        never = speaker.run(&input, ended) => match never {},
    };
    let end = match reported {
        Ok(end) => end,
        Err(why) => return SessionEnd::ClientGone(why),
    };
    // Closed by the client: closing with unread input could destroy output that it has not read.
    let _ = timeout(CLOSE_TIMEOUT, listen).await;
    SessionEnd::Reported(end)
}

/// Writes frames to the connection, the end as the last one. Sends pings.
///
/// # Errors
/// If the connection broke before, or the client does not read.
pub(super) async fn send(
    mut sink: SplitSink<WebSocket, Message>,
    mut queued: mpsc::Receiver<AgentFrame>,
    silence: Duration,
) -> Result<ExecResult, String> {
    let every = silence / MAX_PINGS;
    let mut pings = interval_at(Instant::now() + every, every);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let gone = || "it no longer receives data".to_owned();
    loop {
        let frame = tokio::select! {
            frame = queued.recv() => Some(frame.ok_or_else(gone)?),
            _ = pings.tick() => None,
        };
        let message = match &frame {
            Some(frame) => Message::Binary(frame.encode()),
            None => Message::Ping(Bytes::new()),
        };
        match timeout(STALL_LIMIT, sink.send(message)).await {
            Ok(sent) => sent.map_err(|_| gone())?,
            Err(_) => return Err(format!("it read nothing for {} s", STALL_LIMIT.as_secs())),
        }
        if let Some(AgentFrame::End(end)) = frame {
            // The client may have disconnected by now; a failure to close is ignored.
            let _ = timeout(CLOSE_TIMEOUT, sink.close()).await;
            return Ok(end);
        }
    }
}

/// The receiver of messages from the client and from the exec monitor.
struct SessionReceiver {
    frames: SplitStream<WebSocket>,
    /// `None` once the end is known.
    running: Option<CommandGuard>,
    terminal: Option<CommandStream>,
    /// The timeout after which a silent client is considered gone.
    idle_timeout: Duration,
}

/// Dropping it ends the command.
struct CommandGuard {
    notices: SessionNotices,
    outcome: oneshot::Sender<ExecResult>,
}

impl SessionReceiver {
    /// Returns the reason for the client's disconnection.
    async fn listen(mut self, input: &InputQueue) -> String {
        loop {
            let message = tokio::select! {
                heard = timeout(self.idle_timeout, self.frames.next()) => match heard {
                    Ok(Some(Ok(message))) => message,
                    Ok(Some(Err(error))) if is_broken(&error) => {
                        return crate::error::error_chain(&error);
                    }
                    Ok(Some(Err(error))) => {
                        self.end(unreadable(&error));
                        // The client may still read the message, which closing with unread input
                        // could destroy.
                        sleep(CLOSE_TIMEOUT).await;
                        return crate::error::error_chain(&error);
                    }
                    Ok(None) => return "the connection was closed".to_owned(),
                    Err(_) => return format!("no message for {} s", self.idle_timeout.as_secs()),
                },
                reported = next_notice(&mut self.running) => {
                    self.end(end_of(reported));
                    continue;
                }
            };
            match message {
                Message::Binary(bytes) => {
                    if let Err(why) = self.handle_message(bytes, input) {
                        self.end(ExecResult::Lost(format!("it was ended: {why}")));
                    }
                }
                Message::Text(_) => {
                    let why = "it was ended: frames are binary messages, not text";
                    self.end(ExecResult::Lost(why.to_owned()));
                }
                // Pings and pongs are handled by the WebSocket library.
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Close(_) => return "it closed the session".to_owned(),
            }
        }
    }

    /// Ends the command if it still runs; no more notices are read.
    fn end(&mut self, end: ExecResult) {
        if let Some(CommandGuard { outcome, .. }) = self.running.take() {
            // The receiver lives as long as this does.
            let _ = outcome.send(end);
        }
    }

    fn handle_message(&self, message: Bytes, input: &InputQueue) -> Result<(), String> {
        let Some(CommandGuard { notices, .. }) = &self.running else {
            return Ok(());
        };
        match ClientFrame::decode(message).map_err(|error| error.to_string())? {
            ClientFrame::Input(bytes) => input.add(&bytes).map_err(|error| error.to_string()),
            ClientFrame::Resize(size) => {
                let terminal = self.terminal.as_ref();
                let terminal = terminal.ok_or("it has no terminal whose size could change")?;
                let (rows, columns) = (size.rows, size.columns);
                let resized = terminal.resize(WindowSize { rows, columns });
                resized.map_err(|error| format!("its terminal cannot be resized: {error}"))
            }
            ClientFrame::Signal(signal) => notices
                .signal(signal)
                .map_err(|error| crate::error::error_chain(&error)),
        }
    }
}

/// Whether the connection itself has failed or was closed, so that the client receives nothing any
/// more. After other errors, such as a message that is too large, it may still read.
pub(super) fn is_broken(error: &axum::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    matches!(
        cause,
        Some(
            tungstenite::Error::Io(_)
                | tungstenite::Error::ConnectionClosed
                | tungstenite::Error::AlreadyClosed
                | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        )
    )
}

/// Returns the end for a client whose messages cannot be read: a frame that is too large, or no
/// WebSocket.
pub(super) fn unreadable(error: &axum::Error) -> ExecResult {
    let why = crate::error::error_chain(error);
    ExecResult::Lost(format!(
        "it was ended: a message of the client cannot be read ({why}); a message holds at most {DATA_LIMIT_BYTES} bytes and its channel"
    ))
}

async fn next_notice(running: &mut Option<CommandGuard>) -> Result<ExecNotice, ExecSessionError> {
    match running {
        Some(running) => running.notices.next().await,
        None => std::future::pending().await,
    }
}

fn end_of(notice: Result<ExecNotice, ExecSessionError>) -> ExecResult {
    match notice {
        Ok(ExecNotice::Ended(CommandOutcome::Exited(code))) => ExecResult::Code(code),
        Ok(ExecNotice::Ended(CommandOutcome::Signaled(signal))) => ExecResult::Signal(signal),
        Ok(ExecNotice::Refused { reason }) => ExecResult::Lost(reason),
        Ok(
            ExecNotice::Ended(CommandOutcome::NotStarted)
            | ExecNotice::Started(_)
            | ExecNotice::Probed(_),
        ) => ExecResult::Lost("invalid message from the exec monitor".to_owned()),
        Err(error) => ExecResult::Lost(crate::error::error_chain(&error)),
    }
}

/// The forwarder of the command's input and output.
struct StreamForwarder {
    stdin: CommandStream,
    terminal: Option<CommandStream>,
    outputs: Vec<(CommandStream, FrameEncoder)>,
    queue: mpsc::Sender<AgentFrame>,
}

impl StreamForwarder {
    /// Sends the output before the end, whichever was received first. Then there is nothing left to
    /// send.
    async fn run(self, input: &InputQueue, mut ended: oneshot::Receiver<ExecResult>) -> Infallible {
        let over = CancellationToken::new();
        let relays = self.outputs.into_iter();
        let relays = relays.map(|(from, channel)| relay(from, channel, &self.queue, &over));
        let mut relays = pin!(join_all(relays));
        let mut feed = pin!(feed(self.stdin, self.terminal, input, &self.queue));
        let mut is_drained = false;
        let end = loop {
            tokio::select! {
                end = &mut ended => break end,
                _ = &mut relays, if !is_drained => is_drained = true,
                never = &mut feed => match never {},
            }
        };
        over.cancel();
        if !is_drained {
            relays.await;
        }
        // Without an end the receiver is closed, and the session is over.
        if let Ok(end) = end {
            let _ = self.queue.send(AgentFrame::End(end)).await;
        }
        std::future::pending().await
    }
}

/// Writes the client's input to the command. A command that no longer reads must not block its
/// client: its input is accepted, and discarded.
async fn feed(
    stdin: CommandStream,
    terminal: Option<CommandStream>,
    input: &InputQueue,
    queue: &mpsc::Sender<AgentFrame>,
) -> Infallible {
    let mut stdin = Some(stdin);
    while let InputChunk::Bytes(bytes) = input.next().await {
        if let Some(to) = &stdin
            && to.write_all(&bytes).await.is_err()
        {
            stdin = None;
        }
        input.consumed(bytes.len());
        // The receiver is closed only with the session.
        let _ = queue.send(AgentFrame::InputCredit(bytes.len())).await;
    }
    drop(stdin);
    if let Some(terminal) = terminal {
        // The terminal may have no reader.
        let _ = terminal.write_all(END_OF_INPUT).await;
    }
    std::future::pending().await
}

async fn relay(
    from: CommandStream,
    channel: FrameEncoder,
    queue: &mpsc::Sender<AgentFrame>,
    over: &CancellationToken,
) {
    let mut buffer = vec![0; DATA_LIMIT_BYTES];
    let mut left = DRAIN_BYTES;
    let mut patience = DRAIN_LIMIT;
    while left > 0 {
        let waits_since = over.is_cancelled().then(Instant::now);
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = silent_after(over, patience) => return,
        };
        let waited = waits_since.map_or(Duration::ZERO, |began| began.elapsed());
        patience = patience.saturating_sub(waited);
        // An output that cannot be read has ended.
        let Ok(count @ 1..) = read else { return };
        let bytes = Bytes::copy_from_slice(&buffer[..count]);
        if queue.send(channel(bytes)).await.is_err() {
            return;
        }
        if over.is_cancelled() {
            left = left.saturating_sub(count);
        }
    }
}

async fn silent_after(over: &CancellationToken, patience: Duration) {
    over.cancelled().await;
    sleep(patience).await;
}

#[cfg(test)]
mod tests;
