//! A person at a terminal, with `argosy` on it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::cluster::Cluster;

/// The same command, started by another.
pub(crate) fn through(mut starter: Command, command: &Command) -> Command {
    starter.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => starter.env(name, value),
            None => starter.env_remove(name),
        };
    }
    starter
}

/// A terminal, and `argosy` at it: the process that leads its session.
pub(crate) struct Desk {
    pub(crate) person: File,
    screen: String,
    pub(crate) argosy: Child,
}

impl Desk {
    pub(crate) fn sit_down(cluster: &Cluster, rows: u16, columns: u16, words: &[&str]) -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&person).unwrap();
        let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal: OwnedFd = ioctl_tiocgptpeer(&person, peer).unwrap();
        resize(&person, rows, columns);
        let there = || Stdio::from(terminal.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).env("TERM", "dumb");
        let mut command = through(command, &cluster.argosy(words));
        let argosy = command.stdin(there()).stdout(there()).stderr(there());
        let argosy = argosy.spawn().unwrap();
        Self {
            person: File::from(person),
            screen: String::new(),
            argosy,
        }
    }

    /// Reads the screen until this is on it.
    pub(crate) fn see(&mut self, text: &str) {
        let mut buffer = [0; 1024];
        while !self.screen.contains(text) {
            let count = self.person.read(&mut buffer);
            let count = count.unwrap_or_else(|error| panic!("{error}: {:?}", self.screen));
            self.screen
                .push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.person.write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn mode(&self) -> (u32, u32) {
        let mode = tcgetattr(&self.person).unwrap();
        (mode.local_modes.bits(), mode.input_modes.bits())
    }
}

pub(crate) fn resize(terminal: &impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).unwrap();
}
