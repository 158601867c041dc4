//! A user at a terminal, running `argosy` on it.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use argosy_testbed::terminal::{self, PseudoTerminal, TerminalSize};
use nix::unistd::Pid;
use rustix::termios::tcgetattr;

use crate::cluster::{DevCluster, STEP_TIMEOUT, wait_for};

/// A terminal, and `argosy` at it: the process that leads its session.
pub(crate) struct TestTerminal {
    pub(crate) pty: File,
    /// The terminal's mode before its use.
    pub(crate) initial_mode: (u32, u32),
    screen: String,
    /// Further output; closed when no process can write to the terminal any more.
    output: Receiver<String>,
    argosy: Child,
}

impl TestTerminal {
    pub(crate) fn start(cluster: &DevCluster, rows: u16, columns: u16, words: &[&str]) -> Self {
        Self::of(&cluster.argosy(words), rows, columns)
    }

    pub(crate) fn of(argosy: &Command, rows: u16, columns: u16) -> Self {
        let terminal = PseudoTerminal::open(TerminalSize { rows, columns }).unwrap();
        let before = mode(&terminal.user);
        let (controller, argosy) = terminal.start(argosy).unwrap();
        Self {
            output: watch(controller.try_clone().unwrap()),
            initial_mode: before,
            pty: controller,
            screen: String::new(),
            argosy,
        }
    }

    /// Waits until this is on the screen.
    pub(crate) fn wait_for_output(&mut self, text: &str) {
        self.wait_until(text, |screen| screen.contains(text));
    }

    /// Waits until the whole output has this property.
    pub(crate) fn wait_until(&mut self, what: &str, holds: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + STEP_TIMEOUT;
        while !holds(&self.screen) {
            let shown = self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let shown = shown.unwrap_or_else(|error| {
                panic!("{what:?} was not seen ({error}): {:?}", self.screen)
            });
            self.screen.push_str(&shown);
        }
    }

    /// Returns the whole output up to now.
    pub(crate) fn output(&self) -> &str {
        &self.screen
    }

    /// Returns the process in the foreground of the terminal.
    pub(crate) fn foreground(&self) -> Pid {
        terminal::foreground(&self.pty).unwrap()
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.pty.write_all(keys.as_bytes()).unwrap();
    }

    /// Returns the exit code of `argosy`, once it has exited.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let mut ended = None;
        let words = format!("the end of argosy at {:?}", self.screen);
        wait_for(&words, || {
            ended = self.argosy.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap().code()
    }

    pub(crate) fn mode(&self) -> (u32, u32) {
        mode(&self.pty)
    }
}

fn mode(terminal: &File) -> (u32, u32) {
    let mode = tcgetattr(terminal).unwrap();
    (mode.local_modes.bits(), mode.input_modes.bits())
}

impl Drop for TestTerminal {
    fn drop(&mut self) {
        // It has exited, unless the test has failed.
        let _ = self.argosy.kill();
        let _ = self.argosy.wait();
    }
}

/// Reads all that is written to this terminal.
fn watch(mut controller: File) -> Receiver<String> {
    let (shows, shown) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = controller.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if shows.send(text).is_err() {
                return;
            }
        }
    });
    shown
}

pub(crate) fn resize(controller: &File, rows: u16, columns: u16) {
    terminal::resize(controller, TerminalSize { rows, columns }).unwrap();
}
