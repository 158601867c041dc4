//! Those who are attached to the command: all see what it writes, and what they send goes to its standard input.
//!
//! Never waits for any of them. Of each it keeps at most one piece of input, and of nobody any output: what a session's
//! socket does not take is counted, and its client is told how much it missed before it is told anything more.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use crate::attachment::{INPUT_LIMIT_BYTES, OUTPUT_LIMIT_BYTES, Said, Wish};
use crate::messages::Received;
use crate::output::StreamName;

/// How many may be attached at a time; a further one is refused in words.
const CLIENTS: usize = 16;
/// How many wishes of one are looked at in a turn, so that none holds up the others.
const WISHES_A_TURN: usize = 16;
/// What a person types at a terminal for the end of input.
const END_OF_INPUT: u8 = 4;

/// The command's standard input, from outside.
#[derive(Debug)]
pub(super) struct Input {
    file: OwnedFd,
    /// With a terminal: its other side, held so that what the command writes is heard until its very end, whoever of its
    /// processes has the terminal open meanwhile.
    terminal: Option<OwnedFd>,
}

impl Input {
    /// The writing end of a pipe.
    pub(super) fn pipe(file: OwnedFd) -> Result<Self, Errno> {
        without_waiting(&file)?;
        let terminal = None;
        Ok(Self { file, terminal })
    }

    /// The master of a terminal, and the command's side of it.
    pub(super) fn terminal(master: OwnedFd, command_side: OwnedFd) -> Result<Self, Errno> {
        without_waiting(&master)?;
        Ok(Self {
            file: master,
            terminal: Some(command_side),
        })
    }
}

fn without_waiting(file: &OwnedFd) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

/// Who is attached, and where their input goes.
#[derive(Debug)]
pub(super) struct Attached {
    clients: Vec<Client>,
    /// Where what is written to the command goes; `None` once it has ended, or if it never was.
    input: Option<Input>,
    /// Whether those who are attached may write to it.
    is_open: bool,
    /// Somebody has said that there is no more of it.
    is_ending: bool,
}

#[derive(Debug)]
struct Client {
    session: OwnedFd,
    /// It may send input.
    stdin: bool,
    /// A piece of its input that the command has not taken whole.
    pending: Vec<u8>,
    /// It is still to be told that a piece was taken.
    owes_taken: bool,
    /// Bytes of output that it is still to be told it missed.
    missed: u64,
}

/// Answers a session that is attached to nothing.
pub(super) fn refuse(session: &OwnedFd, reason: &str) {
    // A client that is gone needs no answer.
    let _ = Said::Refused(reason).send(session.as_fd());
}

impl Attached {
    /// `is_open` if those who are attached may write to the command.
    pub(super) fn new(input: Option<Input>, is_open: bool) -> Self {
        Self {
            clients: Vec::new(),
            input,
            is_open,
            is_ending: false,
        }
    }

    /// The command has a terminal now.
    pub(super) fn give_terminal(&mut self, input: Input) {
        self.input = Some(input);
    }

    /// Takes one more, from these bytes of the command's streams on.
    pub(super) fn admit(&mut self, session: OwnedFd, stdin: bool, begins: [u64; 2]) {
        let reason = if self.clients.len() >= CLIENTS {
            Some("16 are attached to it already: detach one first")
        } else if stdin && !self.is_open {
            Some("its standard input takes nothing: it was not launched with stdin")
        } else if stdin && (self.input.is_none() || self.is_ending) {
            Some("its standard input has ended")
        } else {
            None
        };
        let said = reason.map_or(Said::Attached(begins), Said::Refused);
        // Who takes not even this is gone.
        if said.send(session.as_fd()).is_ok() && reason.is_none() {
            self.clients.push(Client {
                session,
                stdin,
                pending: Vec::new(),
                owes_taken: false,
                missed: 0,
            });
        }
    }

    /// The command has written this.
    pub(super) fn tell(&mut self, stream: StreamName, bytes: &[u8]) {
        self.clients.retain_mut(|client| client.tell(stream, bytes));
    }

    /// The command has written all it ever will. Whoever has not read enough to be told what it missed gets room in its
    /// socket for that, because nothing is sent once the supervisor has ended, while what was sent can still be read.
    pub(super) fn finish(&mut self) {
        for client in self.clients.iter_mut().filter(|client| client.owes()) {
            // Linux doubles the size that is set (socket(7)), and takes any.
            if let Ok(bytes) = getsockopt(&client.session, sockopt::SndBuf) {
                let _ = setsockopt(&client.session, sockopt::SndBuf, &bytes);
            }
            client.settle();
        }
    }

    /// What is to be watched: each client, then the input if somebody's waits for it.
    pub(super) fn watched(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let clients = self.clients.iter().map(|client| {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, client.owes());
            (client.session.as_fd(), events)
        });
        let waits = self.clients.iter().any(|client| !client.pending.is_empty());
        let input = self.input.iter().filter(move |_| waits);
        clients.chain(input.map(|input| (input.file.as_fd(), PollFlags::POLLOUT)))
    }

    /// Hears those of whom `watched` had something, and passes input on. Returns the signals that are wished for.
    pub(super) fn serve(&mut self) -> Vec<i32> {
        let mut signals = Vec::new();
        let mut clients = std::mem::take(&mut self.clients);
        clients.retain_mut(|client| self.hear(client, &mut signals) && client.settle());
        self.clients = clients;
        self.pass_on();
        signals
    }

    /// False if it is gone.
    fn hear(&mut self, client: &mut Client, signals: &mut Vec<i32>) -> bool {
        for _ in 0..WISHES_A_TURN {
            match Wish::receive(client.session.as_fd()) {
                Ok(Received::Message(Wish::Input(bytes))) => {
                    // Whoever may not, or does not wait until a piece is taken, does not keep to what was agreed.
                    if !client.stdin || client.pending.len() + bytes.len() > INPUT_LIMIT_BYTES {
                        return false;
                    }
                    client.pending.extend(bytes);
                }
                Ok(Received::Message(Wish::End)) => self.is_ending |= client.stdin,
                Ok(Received::Message(Wish::Size(size))) => {
                    if let Some(Input {
                        file,
                        terminal: Some(_),
                    }) = &self.input
                    {
                        // A terminal of ours takes any size.
                        let _ = size.set(file);
                    }
                }
                Ok(Received::Message(Wish::Signal(signal))) => signals.push(signal),
                Ok(Received::Nothing) => return true,
                Ok(Received::Closed) | Err(_) => return false,
            }
        }
        true
    }

    /// Writes what waits, and the end of input behind it.
    fn pass_on(&mut self) {
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
                // A command that reads no more must not hold up who writes to it: what comes is taken, and lost.
                None | Some(Err(_)) => client.pending.clear(),
            }
            waits |= !client.pending.is_empty();
            client.owes_taken |= client.pending.is_empty();
        }
        if self.is_ending && !waits {
            self.end_input();
        }
        self.clients.retain_mut(Client::settle);
    }

    fn end_input(&mut self) {
        match &self.input {
            Some(Input {
                file,
                terminal: Some(_),
            }) => {
                match nix::unistd::write(file, &[END_OF_INPUT]) {
                    // Tried again in the next turn that anything brings about.
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    // A program may read on at a terminal behind an end, as shells started from shells do.
                    Ok(_) | Err(_) => self.is_ending = false,
                }
            }
            Some(Input { terminal: None, .. }) => self.input = None,
            None => {}
        }
    }
}

impl Client {
    fn owes(&self) -> bool {
        self.owes_taken || self.missed > 0
    }

    /// False if it is gone.
    fn tell(&mut self, stream: StreamName, bytes: &[u8]) -> bool {
        if !self.settle() {
            return false;
        }
        let mut left = bytes.len();
        for piece in bytes.chunks(OUTPUT_LIMIT_BYTES) {
            // Nothing comes behind a gap before the gap is told.
            if self.missed == 0 {
                match Said::Wrote(stream, piece).send(self.session.as_fd()) {
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

    /// Tells what it is owed, as far as it takes it. False if it is gone.
    fn settle(&mut self) -> bool {
        if self.owes_taken {
            match Said::Taken.send(self.session.as_fd()) {
                Ok(()) => self.owes_taken = false,
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return true,
                Err(_) => return false,
            }
        }
        if self.missed > 0 {
            match Said::Missed(self.missed).send(self.session.as_fd()) {
                Ok(()) => self.missed = 0,
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {}
                Err(_) => return false,
            }
        }
        true
    }
}
