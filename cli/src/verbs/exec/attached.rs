//! While the command runs: what comes from it is written, what is typed and signalled goes to it.
//!
//! Hearing has a task of its own, which may wait for a slow reader on its thread; all else goes on meanwhile.

use std::io::{self, Read, Write};
use std::sync::Arc;

use argosy_proto::exec::{
    DATA_LIMIT_BYTES, End, FromCommand, INPUT_WINDOW_BYTES, PING_EVERY, SILENCE_LIMIT, ToCommand,
};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::connection::Socket;
use super::terminal::{self, Raw};
use crate::exit::Failure;

/// What the command has for streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// A terminal that this one stands for.
    Terminal,
    /// A terminal at which nobody types.
    TerminalWithoutInput,
    /// Pipes, standard input passed on.
    Pipes,
    /// Pipes, standard input at its end.
    PipesWithoutInput,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Left {
    /// The command did.
    Ended(End),
    /// The connection did.
    Broken(String),
    /// Nobody reads what it writes.
    ReaderGone,
    /// A signal told this program to end.
    Told(i32),
}

/// Until the command has ended, or is to be left. What it wrote has been written then.
pub(super) async fn attend(socket: Socket, manner: Manner) -> Result<Left, Failure> {
    let has_terminal = matches!(manner, Manner::Terminal | Manner::TerminalWithoutInput);
    let mut told = Told::listen(has_terminal).map_err(|error| Failure::of(&error))?;
    let _raw = match manner {
        Manner::Terminal => Some(Raw::enter().map_err(|error| {
            Failure::failed(format!("cannot change the mode of the terminal: {error}"))
        })?),
        Manner::TerminalWithoutInput | Manner::Pipes | Manner::PipesWithoutInput => None,
    };
    let (sink, frames) = socket.split();
    let window = Arc::new(Semaphore::new(INPUT_WINDOW_BYTES));
    let mut hearing = tokio::spawn(hear(frames, Arc::clone(&window)));
    let mut speaking = Speaking {
        sink,
        window,
        input: input(manner),
        waiting: None,
    };
    let left = tokio::select! {
        heard = &mut hearing => Some(heard),
        told = speaking.speak(&mut told) => match told {
            Some(signal) => return Ok(Left::Told(signal)),
            // What was said before the connection broke may still be there to be heard.
            None => None,
        },
    };
    let heard = match left {
        Some(heard) => heard,
        None => hearing.await,
    };
    heard.map_err(|error| Failure::of(&error))
}

/// Writes what the command writes.
async fn hear(mut frames: SplitStream<Socket>, window: Arc<Semaphore>) -> Left {
    loop {
        let message = match timeout(SILENCE_LIMIT, frames.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return Left::Broken(crate::exit::chain(&error)),
            Ok(None) => return Left::Broken("it was closed before the command's end".to_owned()),
            Err(_) => {
                let silent = format!("nothing was heard for {} s", SILENCE_LIMIT.as_secs());
                return Left::Broken(silent);
            }
        };
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            Message::Text(_) => return Left::Broken("it carries text".to_owned()),
        };
        let written = match FromCommand::decode(bytes) {
            Ok(FromCommand::Output(bytes)) => write(&mut io::stdout().lock(), &bytes),
            Ok(FromCommand::Errors(bytes)) => write(&mut io::stderr().lock(), &bytes),
            Ok(FromCommand::Taken(bytes)) => {
                if bytes > INPUT_WINDOW_BYTES - window.available_permits().min(INPUT_WINDOW_BYTES) {
                    return Left::Broken("more input was taken than was sent".to_owned());
                }
                window.add_permits(bytes);
                Ok(())
            }
            Ok(FromCommand::End(end)) => return Left::Ended(end),
            Err(error) => return Left::Broken(error.to_string()),
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Left::ReaderGone,
            Err(error) => return Left::Broken(format!("what it wrote cannot be written: {error}")),
        }
    }
}

fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// Standard input, piece by piece; an empty piece is its end. One piece waits: what is not taken is not read.
fn input(manner: Manner) -> mpsc::Receiver<Bytes> {
    let (pieces, received) = mpsc::channel(1);
    match manner {
        Manner::Terminal | Manner::Pipes => {
            // A thread that nobody waits for: it may read for ever.
            std::thread::spawn(move || read(&pieces));
        }
        Manner::PipesWithoutInput => {
            // There is room for one.
            let _ = pieces.try_send(Bytes::new());
        }
        Manner::TerminalWithoutInput => {}
    }
    received
}

fn read(pieces: &mpsc::Sender<Bytes>) {
    let mut buffer = vec![0; DATA_LIMIT_BYTES];
    loop {
        let count = match io::stdin().lock().read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // What cannot be read has ended.
            Err(_) => 0,
        };
        let piece = Bytes::copy_from_slice(&buffer[..count]);
        if pieces.blocking_send(piece).is_err() || count == 0 {
            return;
        }
    }
}

/// What goes to the command.
struct Speaking {
    sink: SplitSink<Socket, Message>,
    /// A permit for each byte of input that may be sent.
    window: Arc<Semaphore>,
    input: mpsc::Receiver<Bytes>,
    /// A piece for which there is no room yet.
    waiting: Option<Bytes>,
}

/// What this program was told by a signal.
enum Signalled {
    /// The command gets it.
    PassedOn(i32),
    /// This program ends by it, and the command with it.
    End(i32),
    Resized,
}

impl Speaking {
    /// The signal by which this program is to end; `None` if the connection takes nothing more.
    async fn speak(&mut self, told: &mut Told) -> Option<i32> {
        let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                told = told.next() => match told {
                    Signalled::End(signal) => return Some(signal),
                    Signalled::PassedOn(signal) => frame(&ToCommand::Signal(signal)),
                    Signalled::Resized => match terminal::size() {
                        Some(size) => frame(&ToCommand::Resize(size)),
                        None => continue,
                    },
                },
                piece = self.next_piece() => frame(&ToCommand::Input(piece)),
                _ = pings.tick() => Message::Ping(Bytes::new()),
            };
            self.sink.send(message).await.ok()?;
        }
    }

    /// The next piece of input for which there is room. Nothing is lost when it is not waited for any more.
    async fn next_piece(&mut self) -> Bytes {
        let piece = match self.waiting.take() {
            Some(piece) => piece,
            None => match self.input.recv().await {
                Some(piece) => piece,
                None => return std::future::pending().await,
            },
        };
        let count = u32::try_from(piece.len()).expect("a piece fits into a frame");
        self.waiting = Some(piece);
        let room = self.window.acquire_many(count).await;
        room.expect("the window is never closed").forget();
        self.waiting.take().expect("it was put there above")
    }
}

fn frame(frame: &ToCommand) -> Message {
    Message::Binary(frame.encode())
}

/// The signals of this program.
struct Told {
    /// They mean the command: a person's Ctrl-C, and whoever ends this program.
    meant: Vec<(i32, Signal)>,
    has_terminal: bool,
    resized: Signal,
    /// The size may have changed before anybody listened.
    is_new: bool,
}

impl Told {
    /// With a terminal they end this program, so that it is left as it was found; Ctrl-C is no signal there. Without one,
    /// those that a command may want to handle are passed on, and the others end this program at once.
    fn listen(has_terminal: bool) -> io::Result<Self> {
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        if has_terminal {
            kinds.extend([SignalKind::hangup(), SignalKind::quit()]);
        }
        let listen = |kind: SignalKind| Ok((kind.as_raw_value(), signal(kind)?));
        Ok(Self {
            meant: kinds.into_iter().map(listen).collect::<io::Result<_>>()?,
            has_terminal,
            resized: signal(SignalKind::window_change())?,
            is_new: true,
        })
    }

    async fn next(&mut self) -> Signalled {
        if self.has_terminal && std::mem::take(&mut self.is_new) {
            return Signalled::Resized;
        }
        let meant = self.meant.iter_mut();
        let meant = meant.map(|(number, signal)| {
            Box::pin(async {
                signal.recv().await;
                *number
            })
        });
        tokio::select! {
            (number, ..) = futures::future::select_all(meant) => match self.has_terminal {
                true => Signalled::End(number),
                false => Signalled::PassedOn(number),
            },
            _ = self.resized.recv(), if self.has_terminal => Signalled::Resized,
        }
    }
}
