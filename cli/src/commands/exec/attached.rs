//! The session of a running command: its output is written, input and signals are forwarded to it.
//!
//! A separate task receives output and may wait for a slow reader; everything else continues.

use std::io::{self, Read, Write};
use std::sync::Arc;

use argosy_proto::exec::{
    AgentFrame, AttachOffsets, ClientFrame, DATA_LIMIT_BYTES, ExecResult, INPUT_WINDOW_BYTES,
    PING_EVERY, SILENCE_LIMIT, TerminalSize,
};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::block_in_place;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::connection::Socket;
use super::detach_keys::{DetachKeys, TypedInput};
use super::terminal::{self, RawMode};
use crate::exit::Failure;

/// The streams of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamMode {
    /// A terminal, connected to this one.
    Terminal,
    TerminalWithoutInput,
    /// Pipes, with standard input forwarded.
    Pipes,
    /// The same, while the caller handles the signals.
    PipesWithoutSignals,
    /// Pipes, with empty standard input.
    PipesWithoutInput,
    /// A task's own terminal, connected to this one until [`DetachKeys`] at the latest.
    AttachedTerminal,
    /// The output of a task only. Signals end this program and do not reach the task.
    OutputOnly,
}

/// The reason why the session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClientSessionEnd {
    /// The command ended.
    Ended(ExecResult),
    /// The connection broke.
    Broken(String),
    /// The user detached from the task.
    Detached,
    /// The reader of the output is gone.
    ReaderGone,
    /// A signal asked this program to exit.
    Signalled(i32),
}

/// Returns the position in the task's output at which the attachment begins, or why it is not
/// known.
pub(crate) async fn begin(socket: &mut Socket) -> Result<AttachOffsets, String> {
    loop {
        let message = match timeout(SILENCE_LIMIT, socket.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return Err(crate::exit::chain(&error)),
            Ok(None) | Err(_) => return Err("no message arrived".to_owned()),
        };
        if let Message::Binary(bytes) = message {
            return match AgentFrame::decode(bytes) {
                Ok(AgentFrame::Attached(begins)) => Ok(begins),
                Ok(_) => Err("it does not report where its output begins".to_owned()),
                Err(error) => Err(error.to_string()),
            };
        }
    }
}

/// Runs until the command has ended or the session is left. All received output is written by then.
pub(crate) async fn run(socket: Socket, mode: StreamMode) -> Result<ClientSessionEnd, Failure> {
    let mut listener = SignalListener::listen(mode).map_err(|error| Failure::of(&error))?;
    let _raw = match mode {
        StreamMode::Terminal | StreamMode::AttachedTerminal => {
            Some(RawMode::enter().map_err(|error| {
                Failure::failed(format!("cannot change the mode of the terminal: {error}"))
            })?)
        }
        StreamMode::TerminalWithoutInput
        | StreamMode::Pipes
        | StreamMode::PipesWithoutSignals
        | StreamMode::PipesWithoutInput
        | StreamMode::OutputOnly => None,
    };
    let (sink, frames) = socket.split();
    let window = Arc::new(Semaphore::new(INPUT_WINDOW_BYTES));
    let mut receiver = tokio::spawn(receive(frames, Arc::clone(&window)));
    let mut sender = InputSender {
        sink,
        window,
        input: input(mode),
        pending: None,
        size: None,
    };
    let left = tokio::select! {
        end = &mut receiver => Some(end),
        left = sender.send_input(&mut listener) => match left {
            Some(left) => return Ok(left),
            // Messages from before the connection broke may still be readable.
            None => None,
        },
    };
    let received = match left {
        Some(end) => end,
        None => receiver.await,
    };
    received.map_err(|error| Failure::of(&error))
}

/// Writes the output of the command.
async fn receive(mut frames: SplitStream<Socket>, window: Arc<Semaphore>) -> ClientSessionEnd {
    loop {
        let message = match timeout(SILENCE_LIMIT, frames.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return ClientSessionEnd::Broken(crate::exit::chain(&error)),
            Ok(None) => {
                return ClientSessionEnd::Broken(
                    "it was closed before the end of the command".to_owned(),
                );
            }
            Err(_) => {
                let silent = format!("no message arrived for {} s", SILENCE_LIMIT.as_secs());
                return ClientSessionEnd::Broken(silent);
            }
        };
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            Message::Text(_) => {
                return ClientSessionEnd::Broken("it carries a text message".to_owned());
            }
        };
        let written = match AgentFrame::decode(bytes) {
            Ok(AgentFrame::Stdout(bytes)) => write(&mut io::stdout().lock(), &bytes),
            Ok(AgentFrame::Stderr(bytes)) => write(&mut io::stderr().lock(), &bytes),
            Ok(AgentFrame::InputCredit(bytes)) => {
                if bytes > INPUT_WINDOW_BYTES - window.available_permits().min(INPUT_WINDOW_BYTES) {
                    return ClientSessionEnd::Broken(
                        "more input was acknowledged than was sent".to_owned(),
                    );
                }
                window.add_permits(bytes);
                Ok(())
            }
            Ok(AgentFrame::End(end)) => return ClientSessionEnd::Ended(end),
            Ok(AgentFrame::Missed(bytes)) => {
                let missed = format!(
                    "\r\n[{bytes} bytes of output came faster than they could be shown]\r\n"
                );
                write(&mut io::stderr().lock(), missed.as_bytes())
            }
            Ok(AgentFrame::Attached(_)) => {
                return ClientSessionEnd::Broken("it begins twice".to_owned());
            }
            Err(error) => return ClientSessionEnd::Broken(error.to_string()),
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ClientSessionEnd::ReaderGone;
            }
            Err(error) => {
                return ClientSessionEnd::Broken(format!("the output cannot be written: {error}"));
            }
        }
    }
}

/// Writes without blocking the other tasks of this thread.
fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    block_in_place(|| to.write_all(bytes).and_then(|()| to.flush()))
}

/// Reads standard input chunk by chunk. An empty chunk is the end of input; a closed channel means
/// that the session is to be left. One chunk waits: input that is not taken is not read.
fn input(mode: StreamMode) -> mpsc::Receiver<StdinChunk> {
    let (pieces, received) = mpsc::channel(1);
    match mode {
        StreamMode::Terminal | StreamMode::Pipes | StreamMode::PipesWithoutSignals => {
            // A detached thread, because a read may block without end.
            std::thread::spawn(move || read(&pieces, None));
        }
        StreamMode::AttachedTerminal => {
            let keys = Some(DetachKeys::default());
            std::thread::spawn(move || read(&pieces, keys));
        }
        StreamMode::PipesWithoutInput => {
            // The channel has capacity for one.
            let _ = pieces.try_send(StdinChunk::Bytes(Bytes::new()));
        }
        StreamMode::TerminalWithoutInput | StreamMode::OutputOnly => {}
    }
    received
}

/// A chunk of standard input.
enum StdinChunk {
    Bytes(Bytes),
    /// The detach keys were typed.
    Detach,
}

fn read(pieces: &mpsc::Sender<StdinChunk>, mut keys: Option<DetachKeys>) {
    let mut buffer = vec![0; DATA_LIMIT_BYTES];
    loop {
        let count = match io::stdin().lock().read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A failed read is the end of input.
            Err(_) => 0,
        };
        let TypedInput { bytes, detaches } = match &mut keys {
            Some(keys) => keys.scan(&buffer[..count]),
            None => TypedInput {
                bytes: buffer[..count].to_vec(),
                detaches: false,
            },
        };
        // Nothing is left of a chunk that may be the beginning of the keys. An empty chunk would
        // mean the end of input.
        let is_sent = !bytes.is_empty() || count == 0;
        if is_sent
            && pieces
                .blocking_send(StdinChunk::Bytes(bytes.into()))
                .is_err()
        {
            return;
        }
        if detaches {
            // The receiver may be gone already.
            let _ = pieces.blocking_send(StdinChunk::Detach);
        }
        if detaches || count == 0 {
            return;
        }
    }
}

/// The sender of input and signals to the command.
struct InputSender {
    sink: SplitSink<Socket, Message>,
    /// A permit for each byte of input that may be sent.
    window: Arc<Semaphore>,
    input: mpsc::Receiver<StdinChunk>,
    /// A chunk for which there is no permit yet.
    pending: Option<Bytes>,
    /// The terminal size that was last sent to the command.
    size: Option<TerminalSize>,
}

/// A signal to this program.
enum SignalAction {
    /// It is forwarded to the command.
    PassedOn(i32),
    /// It ends this program, and the command with it.
    End(i32),
    Resized,
}

impl InputSender {
    /// Returns why the command is left, or `None` if the connection accepts nothing more.
    async fn send_input(&mut self, listener: &mut SignalListener) -> Option<ClientSessionEnd> {
        let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.send_size(listener).await?;
        loop {
            let message = tokio::select! {
                reported = listener.next() => match reported {
                    SignalAction::End(signal) => return Some(ClientSessionEnd::Signalled(signal)),
                    SignalAction::PassedOn(signal) => Some(frame(&ClientFrame::Signal(signal))),
                    SignalAction::Resized => None,
                },
                piece = self.next_piece() => match piece {
                    StdinChunk::Bytes(bytes) => Some(frame(&ClientFrame::Input(bytes))),
                    StdinChunk::Detach => return Some(ClientSessionEnd::Detached),
                },
                _ = pings.tick() => Some(Message::Ping(Bytes::new())),
            };
            // First, so that input typed after a resize arrives after it, whichever is noticed
            // first.
            self.send_size(listener).await?;
            if let Some(message) = message {
                self.sink.send(message).await.ok()?;
            }
        }
    }

    /// Sends the size of this terminal to the command if it has changed.
    async fn send_size(&mut self, listener: &SignalListener) -> Option<()> {
        let size = terminal::size().filter(|_| listener.has_terminal);
        match size {
            Some(size) if self.size.replace(size) != Some(size) => {
                self.sink.send(frame(&ClientFrame::Resize(size))).await.ok()
            }
            _ => Some(()),
        }
    }

    /// Returns the next chunk of input for which there is a permit. Nothing is lost if the call is
    /// cancelled.
    async fn next_piece(&mut self) -> StdinChunk {
        let piece = match self.pending.take() {
            Some(piece) => piece,
            None => match self.input.recv().await {
                Some(StdinChunk::Bytes(piece)) => piece,
                Some(StdinChunk::Detach) => return StdinChunk::Detach,
                None => return std::future::pending().await,
            },
        };
        let count = u32::try_from(piece.len()).expect("a piece fits into a frame");
        self.pending = Some(piece);
        let room = self.window.acquire_many(count).await;
        room.expect("the window is never closed").forget();
        let piece = self.pending.take();
        StdinChunk::Bytes(piece.expect("it was put there above"))
    }
}

fn frame(frame: &ClientFrame) -> Message {
    Message::Binary(frame.encode())
}

/// The signals of this program.
struct SignalListener {
    /// Signals for the command: a user's Ctrl-C, and requests to exit.
    signals: Vec<(i32, Signal)>,
    /// Whether they end this program instead of going to the command.
    ends_program: bool,
    has_terminal: bool,
    resized: Signal,
}

impl SignalListener {
    /// With a terminal, signals end this program, so that the terminal is restored; Ctrl-C is not a
    /// signal there. Without one, signals that a command may handle are forwarded, and the others
    /// end this program immediately.
    fn listen(mode: StreamMode) -> io::Result<Self> {
        let (has_terminal, ends) = match mode {
            StreamMode::Terminal
            | StreamMode::TerminalWithoutInput
            | StreamMode::AttachedTerminal => (true, true),
            StreamMode::OutputOnly => (false, true),
            StreamMode::Pipes | StreamMode::PipesWithoutSignals | StreamMode::PipesWithoutInput => {
                (false, false)
            }
        };
        let mut kinds = Vec::new();
        if mode != StreamMode::PipesWithoutSignals {
            kinds.extend([SignalKind::interrupt(), SignalKind::terminate()]);
        }
        if has_terminal {
            kinds.extend([SignalKind::hangup(), SignalKind::quit()]);
        }
        let listen = |kind: SignalKind| Ok((kind.as_raw_value(), signal(kind)?));
        Ok(Self {
            signals: kinds.into_iter().map(listen).collect::<io::Result<_>>()?,
            ends_program: ends,
            has_terminal,
            resized: signal(SignalKind::window_change())?,
        })
    }

    async fn next(&mut self) -> SignalAction {
        let meant = self.signals.iter_mut();
        let meant = meant.map(|(number, signal)| {
            Box::pin(async {
                signal.recv().await;
                *number
            })
        });
        let mut meant: FuturesUnordered<_> = meant.collect();
        tokio::select! {
            Some(number) = meant.next() => match self.ends_program {
                true => SignalAction::End(number),
                false => SignalAction::PassedOn(number),
            },
            _ = self.resized.recv(), if self.has_terminal => SignalAction::Resized,
            // No signal is for this program.
            else => std::future::pending().await,
        }
    }
}
