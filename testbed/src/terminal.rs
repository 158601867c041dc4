//! Pseudo-terminals, and commands that run on them.
//!
//! It interprets nothing: the output of a command is passed on as it is.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetpgrp, tcsetwinsize};

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

/// A pseudo-terminal on which no command runs yet.
#[derive(Debug)]
pub struct PseudoTerminal {
    /// The end of the user, who writes keys and reads the output.
    pub user: File,
    /// The end of the command.
    command: OwnedFd,
}

impl PseudoTerminal {
    /// # Errors
    /// If the host has no further one.
    pub fn open(size: TerminalSize) -> io::Result<Self> {
        // No command may have the end of the user: the session exists as long as it is open.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = openpt(flags)?;
        unlockpt(&user)?;
        let command = ioctl_tiocgptpeer(&user, flags)?;
        resize(&user, size)?;
        let user = File::from(user);
        Ok(Self { user, command })
    }

    /// Starts a command as the leader of a new session at this terminal. `TERM` is `dumb`, unless
    /// the command sets it. Returns the end of the user, whose output ends with the last process
    /// that has the terminal open.
    ///
    /// # Errors
    /// If the command cannot be started.
    pub fn start(self, command: &Command) -> io::Result<(File, Child)> {
        let mut setsid = Command::new("setsid");
        setsid.args(["--ctty", "--wait"]).env("TERM", "dumb");
        let mut session = through(setsid, command);
        session
            .stdin(Stdio::from(self.command.try_clone()?))
            .stdout(Stdio::from(self.command.try_clone()?))
            .stderr(Stdio::from(self.command));
        let child = session.spawn()?;
        Ok((self.user, child))
    }
}

/// Changes the size of a terminal.
///
/// # Errors
/// If it is no terminal.
pub fn resize(terminal: &impl AsFd, size: TerminalSize) -> io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}

/// Returns the process that leads the foreground group of a terminal.
///
/// # Errors
/// If no session has the terminal.
pub fn foreground(terminal: &impl AsFd) -> io::Result<Pid> {
    let group = tcgetpgrp(terminal)?;
    Ok(Pid::from_raw(group.as_raw_nonzero().get()))
}

/// Returns the same command, started by another program.
pub fn through(mut starter: Command, command: &Command) -> Command {
    starter.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => starter.env(name, value),
            None => starter.env_remove(name),
        };
    }
    starter
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Reads all that is written to a terminal. Once no process has it open, reading fails.
    fn read_to_end(mut user: File) -> String {
        let mut output = Vec::new();
        // EIO is the end.
        let _ = user.read_to_end(&mut output);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn a_command_has_the_terminal_with_its_size_and_variables() {
        let size = TerminalSize {
            rows: 50,
            columns: 160,
        };
        let terminal = PseudoTerminal::open(size).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "stty size; echo $TERM $A; tty > /dev/tty"]);
        command.env("A", "b");
        let (user, mut child) = terminal.start(&command).unwrap();
        let output = read_to_end(user);
        assert!(child.wait().unwrap().success());
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[..2], ["50 160", "dumb b"], "{output}");
        assert!(lines[2].starts_with("/dev/pts/"), "{output}");
    }

    #[test]
    fn the_command_leads_the_foreground_of_the_terminal() {
        let size = TerminalSize {
            rows: 10,
            columns: 20,
        };
        let terminal = PseudoTerminal::open(size).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$; read line"]);
        let (mut user, mut child) = terminal.start(&command).unwrap();
        let mut output = String::new();
        while !output.ends_with('\n') {
            let mut byte = [0];
            user.read_exact(&mut byte).unwrap();
            output.push(char::from(byte[0]));
        }
        let leader = foreground(&user).unwrap();
        assert_eq!(output.trim(), leader.to_string());
        // The end of the user goes, so the kernel ends the session.
        drop(user);
        assert!(!child.wait().unwrap().success());
    }
}
