//! Probes running tasks from inside their namespaces, and reports the results to the loop.
//! Evaluates one result at a time; the core decides about schedule and consequences.
//!
//! Each check of a task has at most one probe in progress, so their number is bounded by that of
//! the tasks.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use argosy_isolation::{
    CommandOutcome, ExecAction, ExecNotice, ExecRequest, ExecSession, ExecSessionError,
    ExecStreams, Probe, ProbeKind, ProbeResult, Program, Scheme,
};
use argosy_state::task::{self, CheckKind, Code, Explanation};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::Runner;
use super::handles::{ContainerControls, ExecStartError};
use crate::core::checks::{CancelReason, CheckPurpose, CheckResult, ProbeId};
use crate::core::{Input, Instance};
use crate::descriptors::watched;

/// Maximum output of a check command, in bytes; beyond it its streams are closed.
const OUTPUT_BYTES: usize = 1024 * 1024;
/// The part of the output that is kept for the explanation of a failure, in bytes: its end.
const TAIL_BYTES: usize = 256;
/// The time for which the remaining output of a failed command is awaited.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// The senders that cancel a probe, with the cause.
#[derive(Debug, Default)]
pub(super) struct RunningProbes(HashMap<(Instance, CheckPurpose), oneshot::Sender<CancelReason>>);

impl RunningProbes {
    /// Begins a probe. A probe of the same check that is still in progress ends.
    fn begin(&mut self, instance: Instance, kind: CheckPurpose) -> oneshot::Receiver<CancelReason> {
        let (stop, stopped) = oneshot::channel();
        self.0.insert((instance, kind), stop);
        stopped
    }

    /// Cancels a probe. A result that is known already stays known.
    pub(super) fn stop(&mut self, instance: Instance, kind: CheckPurpose, cause: CancelReason) {
        if let Some(stop) = self.0.remove(&(instance, kind)) {
            // A probe that has ended cannot be cancelled.
            let _ = stop.send(cause);
        }
    }

    /// Cancels all probes of a task that has ended.
    pub(super) fn forget(&mut self, instance: Instance) {
        for kind in [CheckPurpose::Health, CheckPurpose::Readiness] {
            self.stop(instance, kind, CancelReason::TaskEnded);
        }
    }
}

impl Runner {
    /// Starts a probe. The end of the probe ends the session, and with it the processes that it
    /// started in the container.
    pub(super) fn probe(
        &mut self,
        instance: Instance,
        probe: ProbeId,
        kind: CheckKind,
        timeout_ms: u64,
    ) {
        let stopped = self.probes.begin(instance, probe.kind);
        let (controls, shared) = (self.controls.clone(), self.shared.clone());
        self.spawn(async move {
            let answer = tokio::select! {
                cause = stopped => {
                    if cause == Ok(CancelReason::Timeout) {
                        count(probe.kind, &kind, "timed_out");
                    }
                    return;
                }
                answer = run_probe(&controls, instance, &kind, timeout_ms) => answer,
            };
            let (answer, result) = match answer {
                Ok(()) => (CheckResult::Passed, "passed"),
                Err(ProbeFailure::Failed(reason)) => (CheckResult::Failed(reason), "failed"),
                // The end of the container follows; otherwise the timeout ends the wait.
                Err(ProbeFailure::Unknown) => return,
            };
            count(probe.kind, &kind, result);
            let reported = Input::ProbeFinished {
                instance,
                probe,
                answer,
            };
            shared.report(reported).await;
        });
    }
}

/// Counts a probe, once. Probes that the end of their task interrupts are not counted.
fn count(check: CheckPurpose, kind: &CheckKind, result: &'static str) {
    let check = match check {
        CheckPurpose::Health => "health",
        CheckPurpose::Readiness => "readiness",
    };
    let kind = match kind {
        CheckKind::Shell(_) | CheckKind::Argv(_) => "command",
        CheckKind::Http { scheme, .. } => match scheme {
            task::Scheme::Http => "http",
            task::Scheme::Https => "https",
        },
        CheckKind::Tcp { .. } => "tcp",
    };
    let labels = [("check", check), ("kind", kind), ("result", result)];
    metrics::counter!("argosy_agent_checks_total", &labels).increment(1);
}

/// The reason for which a probe has not passed.
#[derive(Debug, PartialEq, Eq)]
enum ProbeFailure {
    /// The check failed, or could not run.
    Failed(Explanation),
    /// The session was closed, as it is when the container ends: that is no evidence about the
    /// task's health.
    Unknown,
}

impl From<String> for ProbeFailure {
    fn from(reason: String) -> Self {
        Self::Failed(reason.into())
    }
}

impl From<ExecSessionError> for ProbeFailure {
    fn from(error: ExecSessionError) -> Self {
        match error {
            ExecSessionError::Lost | ExecSessionError::Socket { .. } => Self::Unknown,
            ExecSessionError::Spec(_)
            | ExecSessionError::Malformed { .. }
            | ExecSessionError::Timeout { .. } => {
                Self::Failed(crate::error::error_chain(&error).into())
            }
        }
    }
}

impl From<ExecStartError> for ProbeFailure {
    fn from(error: ExecStartError) -> Self {
        match error {
            ExecStartError::NotRunning => Self::Unknown,
            ExecStartError::Entry(error) => error.into(),
        }
    }
}

/// Runs a probe and waits for its result; the caller drops this at the timeout.
async fn run_probe(
    controls: &ContainerControls,
    instance: Instance,
    kind: &CheckKind,
    timeout_ms: u64,
) -> Result<(), ProbeFailure> {
    let request = ExecRequest::new(exec_action(kind, timeout_ms));
    let session = controls.exec(instance, request).await?;
    let socket = watched(session, Interest::READABLE)
        .map_err(|error| format!("cannot watch the probe: {error}"))?;
    follow_session(socket).await
}

fn exec_action(kind: &CheckKind, timeout_ms: u64) -> ExecAction {
    let probe = |port: u16, kind: ProbeKind| {
        ExecAction::Probe(Probe {
            port,
            timeout_ms,
            kind,
        })
    };
    match kind {
        CheckKind::Shell(line) => ExecAction::Command(Program::Shell(line.clone())),
        CheckKind::Argv(words) => ExecAction::Command(Program::Arguments(words.clone())),
        CheckKind::Http {
            scheme,
            port,
            path,
            statuses,
        } => probe(
            *port,
            ProbeKind::Http {
                scheme: match scheme {
                    task::Scheme::Http => Scheme::Http,
                    task::Scheme::Https => Scheme::Https,
                },
                path: path.clone(),
                statuses: statuses.clone(),
            },
        ),
        CheckKind::Tcp { port } => probe(*port, ProbeKind::Tcp),
    }
}

/// Follows a session to its last notice.
async fn follow_session(mut socket: AsyncFd<ExecSession>) -> Result<(), ProbeFailure> {
    let mut output = ProbeOutput::default();
    loop {
        match socket.get_mut().notice()? {
            Some(ExecNotice::Started(streams)) => {
                let opened = ProbeOutput::of(streams);
                output = opened.map_err(|error| format!("cannot read its output: {error}"))?;
                continue;
            }
            Some(ExecNotice::Probed(ProbeResult::Pass)) => return Ok(()),
            Some(ExecNotice::Probed(ProbeResult::Fail { reason }))
            | Some(ExecNotice::Refused { reason }) => return Err(reason.into()),
            Some(ExecNotice::Ended(CommandOutcome::Exited(0))) => return Ok(()),
            Some(ExecNotice::Ended(outcome)) => {
                // Background processes of the command may keep the streams open.
                let _ = tokio::time::timeout(DRAIN_TIMEOUT, output.drain()).await;
                return Err(ProbeFailure::Failed(explanation(
                    outcome,
                    output.last_line(),
                )));
            }
            None => {}
        }
        tokio::select! {
            ready = socket.readable() => ready.map_err(|error| error.to_string())?.clear_ready(),
            () = output.read_next() => {}
        }
    }
}

/// Explains how a command ended, with the last line of its output.
fn explanation(outcome: CommandOutcome, line: String) -> Explanation {
    let how = match outcome {
        CommandOutcome::Exited(code) => Explanation::of(Code::CheckExited, &[&code]),
        CommandOutcome::Signaled(signal) => Explanation::of(Code::CheckSignaled, &[&signal]),
        CommandOutcome::NotStarted => Explanation::of(Code::CheckNotStarted, &[]),
    };
    how.with_detail(line)
}

/// The output of a command: read continuously, so that it never blocks the command, and kept for
/// its last line.
#[derive(Debug, Default)]
struct ProbeOutput {
    streams: Vec<pipe::Receiver>,
    read_bytes: usize,
    tail: Vec<u8>,
}

impl ProbeOutput {
    /// Wraps the streams of a command. The input is at its end of file.
    fn of(streams: ExecStreams) -> io::Result<Self> {
        let read: Vec<OwnedFd> = match streams {
            ExecStreams::Pipes { stdout, stderr, .. } => vec![stdout, stderr],
            ExecStreams::Terminal(master) => {
                drop(master);
                return Err(io::Error::other("it has an unrequested terminal"));
            }
        };
        let opened = read.into_iter().map(pipe::Receiver::from_owned_fd);
        Ok(Self {
            streams: opened.collect::<io::Result<_>>()?,
            ..Self::default()
        })
    }

    /// Reads the next output. Never completes once the streams are closed. Cancel-safe.
    async fn read_next(&mut self) {
        let at = match self.streams.as_slice() {
            [] => pending().await,
            [only] => only.readable().await.map(|()| 0),
            [first, second, ..] => tokio::select! {
                ready = first.readable() => ready.map(|()| 0),
                ready = second.readable() => ready.map(|()| 1),
            },
        };
        let Ok(at) = at else {
            return self.streams.clear();
        };
        let mut part = [0; 4096];
        match self.streams[at].try_read(&mut part) {
            Ok(0) => drop(self.streams.remove(at)),
            Ok(count) => self.append(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => drop(self.streams.remove(at)),
        }
        if self.read_bytes > OUTPUT_BYTES {
            self.streams.clear();
        }
    }

    async fn drain(&mut self) {
        while !self.streams.is_empty() {
            self.read_next().await;
        }
    }

    fn append(&mut self, part: &[u8]) {
        self.read_bytes += part.len();
        self.tail.extend_from_slice(part);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
    }

    /// Returns the last non-empty line, with only printable characters, since the bytes are
    /// untrusted.
    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let mut lines = text.split(['\n', '\r']).map(str::trim);
        let last = lines.rfind(|line| !line.is_empty()).unwrap_or_default();
        last.chars().filter(|letter| !letter.is_control()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(parts: &[&[u8]]) -> ProbeOutput {
        let mut output = ProbeOutput::default();
        parts.iter().for_each(|part| output.append(part));
        output
    }

    #[test]
    fn failures_are_explained_with_the_last_output_line() {
        let output = kept(&[b"one\n", b"cannot\x1b[1m connect\r\n \n"]);
        let line = output.last_line();
        assert_eq!(line, "cannot[1m connect");
        let reported = explanation(CommandOutcome::Exited(7), line);
        assert_eq!(
            reported.to_string(),
            "it exited with code 7: cannot[1m connect"
        );
        let reported = explanation(CommandOutcome::Signaled(9), String::new());
        assert_eq!(reported.to_string(), "signal 9 ended it");
    }

    #[test]
    fn only_the_end_of_the_output_is_kept() {
        let mut output = kept(&[&[b'a'; 4096], b"\xff"]);
        assert_eq!(output.tail.len(), TAIL_BYTES);
        assert_eq!(
            (output.read_bytes, output.last_line().chars().count()),
            (4097, TAIL_BYTES)
        );
        output.append(&[b'\n'; TAIL_BYTES]);
        assert_eq!(output.last_line(), "");
    }

    #[tokio::test]
    async fn output_beyond_the_limit_closes_the_streams() {
        let (reader, mut writer) = io::pipe().unwrap();
        let (silent, _held) = io::pipe().unwrap();
        let streams = ExecStreams::Pipes {
            stdin: OwnedFd::from(io::pipe().unwrap().1),
            stdout: reader.into(),
            stderr: silent.into(),
        };
        let mut output = ProbeOutput::of(streams).unwrap();
        let talks = std::thread::spawn(move || {
            use std::io::Write as _;
            while writer.write_all(&[b'x'; 65_536]).is_ok() {}
        });
        while !output.streams.is_empty() {
            output.read_next().await;
        }
        talks.join().unwrap();
        assert!(output.read_bytes <= OUTPUT_BYTES + 4096);
    }

    #[test]
    fn an_interrupted_probe_is_not_a_check_result() {
        assert_eq!(
            ProbeFailure::from(ExecStartError::NotRunning),
            ProbeFailure::Unknown
        );
        assert_eq!(
            ProbeFailure::from(ExecSessionError::Lost),
            ProbeFailure::Unknown
        );
        let late = ProbeFailure::from(ExecSessionError::Timeout { waited_ms: 1 });
        assert!(matches!(late, ProbeFailure::Failed(_)));
    }

    #[test]
    fn every_check_kind_maps_to_its_probe() {
        let http = CheckKind::Http {
            scheme: task::Scheme::Https,
            port: 80,
            path: "/x".into(),
            statuses: [204].into(),
        };
        let ExecAction::Probe(probe) = exec_action(&http, 500) else {
            panic!("it is asked by a probe")
        };
        assert_eq!((probe.port, probe.timeout_ms), (80, 500));
        let asked = ProbeKind::Http {
            scheme: Scheme::Https,
            path: "/x".to_owned(),
            statuses: [204].into(),
        };
        assert_eq!(probe.kind, asked);
        let line = exec_action(&CheckKind::Shell("true".into()), 1);
        assert_eq!(line, ExecAction::Command(Program::Shell("true".into())));
    }
}
