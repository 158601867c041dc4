//! The answers of a launcher, as its agent counts them: whether it makes progress, and which
//! processes it has created.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use argosy_host::{ContainerId, ProcessId};
use nix::sys::socket::{MsgFlags, send};

/// Sends an answer, in the launcher. Never blocks: an agent has few unanswered requests, so there
/// is space unless the socket is closed.
pub(super) fn answer(socket: Option<&UnixStream>, pid: Option<i32>) {
    if let Some(socket) = socket {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        // If the answer cannot be sent, the agent has dropped this launcher.
        let _ = send(socket.as_raw_fd(), &encode(pid), flags);
    }
}

/// Encodes a process id, or 0 if no process was created.
fn encode(pid: Option<i32>) -> [u8; size_of::<i32>()] {
    pid.unwrap_or(0).to_le_bytes()
}

/// The unanswered requests of a launcher; see the file header.
#[derive(Debug)]
pub(super) struct PendingLaunches {
    /// Unanswered requests, with the container if they are launches.
    unanswered: VecDeque<Option<ContainerId>>,
    /// The time since when none of those was answered.
    waiting_since: Instant,
    /// The bytes of an incomplete answer.
    partial: Vec<u8>,
    supervisors: Vec<(ContainerId, ProcessId)>,
}

impl PendingLaunches {
    pub(super) fn new() -> Self {
        Self {
            unanswered: VecDeque::new(),
            waiting_since: Instant::now(),
            partial: Vec::new(),
            supervisors: Vec::new(),
        }
    }

    /// Records one more request.
    pub(super) fn expect(&mut self, container: Option<ContainerId>) {
        if self.unanswered.is_empty() {
            self.waiting_since = Instant::now();
        }
        self.unanswered.push_back(container);
    }

    /// Whether no awaited answer has come for this time.
    pub(super) fn are_overdue(&self, limit: Duration) -> bool {
        !self.unanswered.is_empty() && self.waiting_since.elapsed() >= limit
    }

    /// Handles bytes from the launcher of this process id.
    pub(super) fn push(&mut self, bytes: &[u8], launcher: u32) {
        self.waiting_since = Instant::now();
        self.partial.extend(bytes);
        while let Some((answer, rest)) = self.partial.split_first_chunk() {
            let pid = i32::from_le_bytes(*answer);
            self.partial = rest.to_vec();
            let Some(Some(container)) = self.unanswered.pop_front() else {
                continue;
            };
            // A process that has ended is no longer the launcher's child, even if its id was
            // reused.
            let process = ProcessId::of_child(pid, launcher);
            self.supervisors
                .extend(process.map(|process| (container, process)));
        }
    }

    /// Returns the supervisors that were created since the last call.
    pub(super) fn supervisors(&mut self) -> Vec<(ContainerId, ProcessId)> {
        std::mem::take(&mut self.supervisors)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn child() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    #[test]
    fn answers_match_their_requests_across_partial_reads() {
        let id = |name: &str| ContainerId::new(name).unwrap();
        let mut children = [child(), child()];
        let [first, second] = [&children[0], &children[1]].map(|child| child.id() as i32);
        let mut answers = PendingLaunches::new();
        for container in [
            Some(id("a")),
            None,
            Some(id("b")),
            Some(id("c")),
            Some(id("d")),
        ] {
            answers.expect(container);
        }
        // The second is not for a container, the third could not be created, and the fourth is not
        // a child of the launcher.
        let all = [Some(first), Some(second), None, Some(1), Some(second)].map(encode);
        for part in all.concat().chunks(3) {
            answers.push(part, std::process::id());
        }
        let made = answers.supervisors();
        let pids: Vec<_> = made
            .iter()
            .map(|(id, made)| (id.clone(), made.pid))
            .collect();
        assert_eq!(pids, [(id("a"), first), (id("d"), second)]);
        assert!(answers.supervisors().is_empty(), "reported once");
        assert!(!answers.are_overdue(Duration::ZERO), "all are answered");
        answers.expect(None);
        assert!(answers.are_overdue(Duration::ZERO));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
