//! Clients attached to the command: all see its output, and their input goes to its standard input.
//!
//! Never blocks on a client. It keeps at most one piece of input per client, and no output: bytes
//! that a session's socket does not accept are counted, and the client receives that count before
//! any later output.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use argosy_host::packets::ReceiveResult;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use crate::runtime::attachment::{
    AttachMessage, AttachRequest, INPUT_LIMIT_BYTES, OUTPUT_LIMIT_BYTES,
};
use crate::runtime::output::StreamName;

/// The maximum number of attached clients; a further one is refused with a message.
const CLIENTS: usize = 16;
/// The number of requests per client and turn, so that no client delays the others.
const REQUESTS_PER_TURN: usize = 16;
/// The end-of-file character of a terminal.
const END_OF_INPUT: u8 = 4;

/// The outer end of the command's standard input.
#[derive(Debug)]
pub(super) struct CommandInput {
    file: OwnedFd,
    /// With a terminal: its command's end, held open so that output is read to its very end, even
    /// if no process of the command has the terminal open in between.
    terminal: Option<OwnedFd>,
}

impl CommandInput {
    /// Wraps the writing end of a pipe.
    pub(super) fn pipe(file: OwnedFd) -> Result<Self, Errno> {
        set_nonblocking(&file)?;
        let terminal = None;
        Ok(Self { file, terminal })
    }

    /// Wraps the master of a terminal, and the command's end of it.
    pub(super) fn terminal(master: OwnedFd, command_side: OwnedFd) -> Result<Self, Errno> {
        set_nonblocking(&master)?;
        Ok(Self {
            file: master,
            terminal: Some(command_side),
        })
    }
}

fn set_nonblocking(file: &OwnedFd) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

/// The attached clients, and the destination of their input.
#[derive(Debug)]
pub(super) struct AttachedClients {
    clients: Vec<AttachedClient>,
    /// The command's input; `None` once it has ended, or if there never was one.
    input: Option<CommandInput>,
    /// Whether attached clients may write to it.
    is_open: bool,
    /// Whether a client has sent the end of input.
    is_ending: bool,
}

#[derive(Debug)]
struct AttachedClient {
    session: OwnedFd,
    /// Whether it may send input.
    stdin: bool,
    /// A piece of its input that is not completely written yet.
    pending: Vec<u8>,
    /// Whether the notice that a piece was taken is pending.
    owes_ack: bool,
    /// Bytes of missed output that are not reported to it yet.
    missed: u64,
}

/// Answers a session that is not attached.
pub(super) fn refuse(session: &OwnedFd, reason: &str) {
    // A client that has disconnected needs no answer.
    let _ = AttachMessage::Refused(reason).send(session.as_fd());
}

impl AttachedClients {
    /// `is_open`: attached clients may write to the command.
    pub(super) fn new(input: Option<CommandInput>, is_open: bool) -> Self {
        Self {
            clients: Vec::new(),
            input,
            is_open,
            is_ending: false,
        }
    }

    /// Sets the command's terminal.
    pub(super) fn set_terminal(&mut self, input: CommandInput) {
        self.input = Some(input);
    }

    /// Attaches a client, from these bytes of the command's streams on.
    pub(super) fn attach(&mut self, session: OwnedFd, stdin: bool, begins: [u64; 2]) {
        let reason = if self.clients.len() >= CLIENTS {
            Some("16 are attached to it already: detach one first")
        } else if stdin && !self.is_open {
            Some("its standard input is closed: it was not launched with stdin")
        } else if stdin && (self.input.is_none() || self.is_ending) {
            Some("its standard input has ended")
        } else {
            None
        };
        let reported = reason.map_or(AttachMessage::Attached(begins), AttachMessage::Refused);
        // A client that does not accept even this has disconnected.
        if reported.send(session.as_fd()).is_ok() && reason.is_none() {
            self.clients.push(AttachedClient {
                session,
                stdin,
                pending: Vec::new(),
                owes_ack: false,
                missed: 0,
            });
        }
    }

    /// Sends output of the command to all clients.
    pub(super) fn send_output(&mut self, stream: StreamName, bytes: &[u8]) {
        self.clients
            .retain_mut(|client| client.send_output(stream, bytes));
    }

    /// Reports the end of output. A client with an unreported gap gets more space in its socket for
    /// the report. Nothing can be sent after the supervisor exits, but sent data can still be read.
    pub(super) fn finish(&mut self) {
        for client in self
            .clients
            .iter_mut()
            .filter(|client| client.has_pending())
        {
            // Linux doubles the given size (socket(7)), and accepts any.
            if let Ok(bytes) = getsockopt(&client.session, sockopt::SndBuf) {
                let _ = setsockopt(&client.session, sockopt::SndBuf, &bytes);
            }
            client.send_pending();
        }
    }

    /// Returns the descriptors to poll: each client, then the input if data or the end of input
    /// waits for it.
    pub(super) fn poll_fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let clients = self.clients.iter().map(|client| {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, client.has_pending());
            (client.session.as_fd(), events)
        });
        let waits = self.is_ending || self.clients.iter().any(|client| !client.pending.is_empty());
        let input = self.input.iter().filter(move |_| waits);
        clients.chain(input.map(|input| (input.file.as_fd(), PollFlags::POLLOUT)))
    }

    /// Reads the requests of the clients that are ready, and writes input to the command. Returns
    /// the requested signals.
    pub(super) fn serve(&mut self) -> Vec<i32> {
        let mut signals = Vec::new();
        let mut clients = std::mem::take(&mut self.clients);
        clients.retain_mut(|client| self.receive(client, &mut signals) && client.send_pending());
        self.clients = clients;
        self.write_input();
        signals
    }

    /// Returns false if the client has disconnected.
    fn receive(&mut self, client: &mut AttachedClient, signals: &mut Vec<i32>) -> bool {
        for _ in 0..REQUESTS_PER_TURN {
            match AttachRequest::receive(client.session.as_fd()) {
                Ok(ReceiveResult::Message(AttachRequest::Input(bytes))) => {
                    // A client without permission, or one that does not wait until a piece is
                    // taken, violates the protocol.
                    if !client.stdin || client.pending.len() + bytes.len() > INPUT_LIMIT_BYTES {
                        return false;
                    }
                    client.pending.extend(bytes);
                }
                Ok(ReceiveResult::Message(AttachRequest::EndInput)) => {
                    self.is_ending |= client.stdin
                }
                Ok(ReceiveResult::Message(AttachRequest::Resize(size))) => {
                    if let Some(CommandInput {
                        file,
                        terminal: Some(_),
                    }) = &self.input
                    {
                        // The supervisor's terminal accepts any size.
                        let _ = size.set(file);
                    }
                }
                Ok(ReceiveResult::Message(AttachRequest::Signal(signal))) => signals.push(signal),
                Ok(ReceiveResult::Nothing) => return true,
                Ok(ReceiveResult::Closed) | Err(_) => return false,
            }
        }
        true
    }

    /// Writes pending input, and the end of input after it.
    fn write_input(&mut self) {
        let mut waits = false;
        for client in &mut self.clients {
            if client.pending.is_empty() {
                continue;
            }
            match self
                .input
                .as_ref()
                .map(|input| nix::unistd::write(&input.file, &client.pending))
            {
                Some(Ok(count)) => drop(client.pending.drain(..count)),
                Some(Err(Errno::EAGAIN | Errno::EINTR)) => {}
                // A command that reads no more must not block its clients: their input is accepted
                // and dropped.
                None | Some(Err(_)) => client.pending.clear(),
            }
            waits |= !client.pending.is_empty();
            client.owes_ack |= client.pending.is_empty();
        }
        if self.is_ending && !waits {
            self.end_input();
        }
        self.clients.retain_mut(AttachedClient::send_pending);
    }

    fn end_input(&mut self) {
        match &self.input {
            Some(CommandInput {
                file,
                terminal: Some(_),
            }) => {
                match nix::unistd::write(file, &[END_OF_INPUT]) {
                    // Retried when the terminal has space.
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    // A program may read on at a terminal after an end of file, as nested shells
                    // do.
                    Ok(_) | Err(_) => self.is_ending = false,
                }
            }
            Some(CommandInput { terminal: None, .. }) => self.input = None,
            None => {}
        }
    }
}

impl AttachedClient {
    fn has_pending(&self) -> bool {
        self.owes_ack || self.missed > 0
    }

    /// Returns false if the client has disconnected.
    fn send_output(&mut self, stream: StreamName, bytes: &[u8]) -> bool {
        if !self.send_pending() {
            return false;
        }
        let mut left = bytes.len();
        for piece in bytes.chunks(OUTPUT_LIMIT_BYTES) {
            // Nothing is sent after a gap before the gap is reported.
            if self.missed == 0 {
                match AttachMessage::Output(stream, piece).send(self.session.as_fd()) {
                    Ok(()) => {
                        left -= piece.len();
                        continue;
                    }
                    Err(Errno::EAGAIN | Errno::ENOBUFS) => {}
                    Err(_) => return false,
                }
            }
            self.missed += left as u64;
            return true;
        }
        true
    }

    /// Sends pending notices, as far as the client accepts them. Returns false if it has
    /// disconnected.
    fn send_pending(&mut self) -> bool {
        if self.owes_ack {
            match AttachMessage::InputConsumed.send(self.session.as_fd()) {
                Ok(()) => self.owes_ack = false,
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return true,
                Err(_) => return false,
            }
        }
        if self.missed > 0 {
            match AttachMessage::Missed(self.missed).send(self.session.as_fd()) {
                Ok(()) => self.missed = 0,
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {}
                Err(_) => return false,
            }
        }
        true
    }
}
