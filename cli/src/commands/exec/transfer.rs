//! A command in a task that is not the user's: its input comes from a reader, and its output is
//! collected.

use std::io;
use std::time::Duration;

use argosy_proto::exec::{
    AgentFrame, ClientFrame, DATA_LIMIT_BYTES, ExecResult, INPUT_WINDOW_BYTES, PING_EVERY,
    SILENCE_LIMIT,
};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::connection::Socket;

/// Maximum number of bytes of each output that are collected; the others are dropped.
const OUTPUT_BYTES: usize = 16 * 1024;
/// Timeout for the end of a connection whose command has ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A command that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndedCommand {
    pub(crate) result: ExecResult,
    /// The beginning of its standard output.
    pub(crate) stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub(crate) stderr: Vec<u8>,
    /// Number of bytes that were sent to its input.
    pub(crate) sent: u64,
}

/// The reason why the end of a command is not known. The agent kills it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    #[error("the connection was lost: {0}")]
    Broken(String),
    #[error("the input cannot be read: {0}")]
    Input(#[source] io::Error),
}

/// Sends all input to a command and waits for its end. `progress` is called with the size of each
/// chunk that is sent.
pub(crate) async fn run(
    socket: Socket,
    input: &mut (dyn AsyncRead + Unpin + Send),
    progress: &(dyn Fn(usize) + Sync),
) -> Result<EndedCommand, TransferError> {
    let (mut sink, mut frames) = socket.split();
    let mut ended = EndedCommand {
        result: ExecResult::Code(0),
        stdout: Vec::new(),
        stderr: Vec::new(),
        sent: 0,
    };
    let mut buffer = vec![0; DATA_LIMIT_BYTES];
    let (mut credit, mut has_input) = (INPUT_WINDOW_BYTES, true);
    let mut silent_at = Instant::now() + SILENCE_LIMIT;
    let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let length = credit.min(buffer.len());
        let message = tokio::select! {
            message = frames.next() => {
                silent_at = Instant::now() + SILENCE_LIMIT;
                match handle(message, &mut ended, &mut credit)? {
                    SessionState::Running => continue,
                    SessionState::Ended => {
                        // Otherwise the agent keeps the place of this command for five seconds.
                        let farewell = async {
                            sink.close().await?;
                            while frames.next().await.transpose()?.is_some() {}
                            Ok::<_, tokio_tungstenite::tungstenite::Error>(())
                        };
                        // The result is known in any case.
                        let _ = timeout(CLOSE_TIMEOUT, farewell).await;
                        return Ok(ended);
                    }
                }
            }
            () = sleep_until(silent_at) => {
                let silent = format!("no message arrived for {} s", SILENCE_LIMIT.as_secs());
                return Err(TransferError::Broken(silent));
            }
            read = input.read(&mut buffer[..length]), if has_input && length > 0 => {
                let count = read.map_err(TransferError::Input)?;
                // An empty frame is the end of the input.
                has_input = count > 0;
                credit -= count;
                ended.sent += count as u64;
                progress(count);
                let bytes = Bytes::copy_from_slice(&buffer[..count]);
                Message::Binary(ClientFrame::Input(bytes).encode())
            }
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        // The agent reads each frame at once. If it cannot be reached any more, a message of it may
        // still be readable.
        if sink.send(message).await.is_err() {
            has_input = false;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SessionState {
    Running,
    Ended,
}

type Received = Option<Result<Message, tokio_tungstenite::tungstenite::Error>>;

fn handle(
    message: Received,
    ended: &mut EndedCommand,
    credit: &mut usize,
) -> Result<SessionState, TransferError> {
    let broken = |text: &str| TransferError::Broken(text.to_owned());
    let bytes = match message {
        Some(Ok(Message::Binary(bytes))) => bytes,
        Some(Ok(Message::Text(_))) => return Err(broken("it carries a text message")),
        Some(Ok(_)) => return Ok(SessionState::Running),
        Some(Err(error)) => return Err(TransferError::Broken(crate::exit::chain(&error))),
        None => return Err(broken("it was closed before the end of the command")),
    };
    let frame = AgentFrame::decode(bytes);
    match frame.map_err(|error| TransferError::Broken(error.to_string()))? {
        AgentFrame::Stdout(bytes) => collect(&mut ended.stdout, &bytes),
        AgentFrame::Stderr(bytes) => collect(&mut ended.stderr, &bytes),
        AgentFrame::InputCredit(bytes) => {
            if bytes > INPUT_WINDOW_BYTES - *credit {
                return Err(broken("more input was acknowledged than was sent"));
            }
            *credit += bytes;
        }
        AgentFrame::End(result) => {
            ended.result = result;
            return Ok(SessionState::Ended);
        }
        AgentFrame::Attached(_) | AgentFrame::Missed(_) => {
            return Err(broken("it carries a message of another protocol"));
        }
    }
    Ok(SessionState::Running)
}

fn collect(all: &mut Vec<u8>, bytes: &[u8]) {
    let room = OUTPUT_BYTES.saturating_sub(all.len());
    all.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(frame: AgentFrame) -> Received {
        Some(Ok(Message::Binary(frame.encode())))
    }

    fn command() -> EndedCommand {
        EndedCommand {
            result: ExecResult::Code(0),
            stdout: Vec::new(),
            stderr: Vec::new(),
            sent: 0,
        }
    }

    #[test]
    fn output_is_collected_up_to_a_bound() {
        let (mut ended, mut credit) = (command(), INPUT_WINDOW_BYTES);
        let chunk = Bytes::from(vec![b'x'; DATA_LIMIT_BYTES]);
        let state = handle(binary(AgentFrame::Stderr(chunk)), &mut ended, &mut credit);
        assert_eq!(state.unwrap(), SessionState::Running);
        assert_eq!(ended.stderr.len(), OUTPUT_BYTES);
        let end = binary(AgentFrame::End(ExecResult::Code(7)));
        let state = handle(end, &mut ended, &mut credit).unwrap();
        assert_eq!(
            (state, ended.result),
            (SessionState::Ended, ExecResult::Code(7))
        );
    }

    #[test]
    fn only_sent_input_is_acknowledged() {
        let (mut ended, mut credit) = (command(), INPUT_WINDOW_BYTES - 10);
        let all = handle(binary(AgentFrame::InputCredit(10)), &mut ended, &mut credit);
        all.unwrap();
        assert_eq!(credit, INPUT_WINDOW_BYTES);
        for message in [
            binary(AgentFrame::InputCredit(1)),
            binary(AgentFrame::Missed(1)),
            Some(Ok(Message::text("hello"))),
            None,
        ] {
            assert!(handle(message, &mut ended, &mut credit).is_err());
        }
    }
}
