//! The end of a container: the remaining processes are killed, the status is written to disk, and
//! then reported.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use argosy_host::atomic_file::Durability;
use argosy_host::packets::{WaitMode, error_chain, send_packet};
use argosy_host::sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::start::{StartError, wall_clock_ms};
use super::{Supervisor, lacking};
use crate::cgroup::oom::{OomKill, OomScope};
use crate::cgroup::{Cgroup, LastUsage};
use crate::runtime::messages::SupervisorNotice;
use crate::spec::LaunchSpec;
use crate::state_dir::{
    CommandOutcome, Exit, HandleFile, LifetimeUsage, StateDirectory, StateDirectoryError,
    StopReason,
};
use argosy_host::crash_point;

/// The time in which killed processes must leave the group; `destroy` finishes the rest.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(2);
/// The time for which remaining output is read if a process outside the container holds the pipe
/// open.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The time for which a status that cannot be written (a full disk) is kept for an agent that
/// connects.
const KEEP_LIMIT: Duration = Duration::from_secs(3600);
/// The interval at which writing is retried.
const KEEP_RETRY_MS: u16 = 1000;

fn not_started(reason: String) -> Exit {
    Exit {
        outcome: CommandOutcome::NotStarted,
        reason,
        stop: None,
        out_of_memory: false,
        memory_shortage: None,
        lacks_capability: false,
        nothing_left: false,
        usage: LifetimeUsage::default(),
        finished_at_ms: wall_clock_ms(),
    }
}

/// Refuses a request whose state directory cannot be trusted.
pub(crate) fn refuse_unread(agent: &OwnedFd, reason: &str) {
    let exit = Box::new(not_started(reason.to_owned()));
    // An agent that has exited by now asks again.
    let _ = send_packet(agent, &SupervisorNotice::Exited(exit), WaitMode::Return);
}

/// Refuses a request that could not be carried out.
pub(super) fn refuse(
    spec: &LaunchSpec,
    files: &StateDirectory,
    agent: &OwnedFd,
    error: &StartError,
) {
    let exit = not_started(error_chain(error));
    // Only the process that cancelled the start may write its end: another supervisor may run this
    // container.
    let voided = match files.cancel() {
        Ok(HandleFile::Cancelled) => true,
        Ok(HandleFile::Started(handle)) => {
            handle.nonce == spec.nonce && handle.supervisor.pid == std::process::id() as i32
        }
        Err(_) => false,
    };
    if voided {
        // On a full disk the notice below is the only report.
        let _ = files.write_exit(&exit, Durability::Cached);
    }
    crash_point!("ending.refused");
    let _ = send_packet(
        agent,
        &SupervisorNotice::Exited(Box::new(exit)),
        WaitMode::Return,
    );
}

impl Supervisor<'_> {
    /// Handles the end of the container, after init has ended.
    pub(super) fn finish(&mut self) {
        let own = sys::wait_child(self.init.pid, true).ok().flatten();
        crash_point!("ending.init-reaped");
        self.read_reports();
        self.kill_leftovers();
        crash_point!("ending.rest-killed");
        let attached = &mut self.attached;
        let show = &mut |stream, bytes: &[u8]| attached.send_output(stream, bytes);
        self.outputs.finish(DRAIN_TIMEOUT, &mut self.buffer, show);
        self.attached.finish();
        crash_point!("ending.output-kept");
        let exit = self.exit(own.as_ref());
        // `destroy` removes the rest.
        let removed = self.group.as_ref();
        let removed = removed.is_some_and(|group| group.remove(EMPTY_TIMEOUT).is_ok());
        crash_point!("ending.group-removed");
        self.write_exit(exit, removed && self.spec.namespaces.pid);
        crash_point!("ending.exit-sent");
        if self.listener.is_some() {
            // No process listens there any more; `destroy` removes it if this fails.
            let _ = std::fs::remove_file(self.files.control());
            crash_point!("ending.control-removed");
        }
    }

    fn exit(&self, own: Option<&sys::ExitedChild>) -> Exit {
        let last = self.group.as_ref().map(Cgroup::last_usage);
        let last = last.unwrap_or_default();
        let reported = self.exit_status.map(|(_, usage)| usage);
        let usage = LifetimeUsage {
            cpu_ms: match last.cpu_us {
                Some(cpu_us) => cpu_us / 1000,
                None => reported.map_or(own.map_or(0, |own| own.cpu_ms), |usage| usage.cpu_ms),
            },
            peak_memory_bytes: last
                .memory_peak_bytes
                .or_else(|| reported.and_then(|usage| usage.peak_memory_bytes)),
        };
        let ending = Ending {
            refused: self.refusal.is_some(),
            executed: self.executed,
            reported: self.exit_status.map(|(status, _)| status),
            own: own.map_or(libc::SIGKILL, |own| own.status),
        };
        let outcome = ending.outcome();
        let stop = self.termination.stop();
        let memory_shortage = oom_kill(&last, usage.peak_memory_bytes);
        Exit {
            outcome,
            reason: match &self.refusal {
                Some(refusal) => refusal.clone(),
                None => reason(outcome, stop, memory_shortage),
            },
            stop,
            out_of_memory: memory_shortage.is_some(),
            memory_shortage,
            lacks_capability: stop.is_none() && self.lacks_capability(outcome),
            nothing_left: false,
            usage,
            finished_at_ms: wall_clock_ms(),
        }
    }

    /// Whether the command failed for lack of a capability. True only where the profile has dropped
    /// it, and only if the command failed by itself.
    fn lacks_capability(&self, outcome: CommandOutcome) -> bool {
        let Some(profile) = &self.spec.profile else {
            return false;
        };
        let CommandOutcome::Exited(1..) = outcome else {
            return false;
        };
        let mut tails = self.outputs.tails(lacking::TAIL_BYTES).into_iter();
        tails.any(|tail| lacking::reports_denial(&tail, profile.isolation_layers.capabilities))
    }

    /// Writes the exit to disk, then reports it. An agent that receives it stores it in its
    /// journal, so the file must survive a power cut only if no agent is connected.
    fn write_exit(&mut self, exit: Exit, nothing_left: bool) {
        let started = Instant::now();
        loop {
            let durability = if self.connections.is_empty() {
                Durability::Synced
            } else {
                Durability::Cached
            };
            let written = self.files.write_exit(&exit, durability);
            let notice = self.send_notice(&SupervisorNotice::Exited(Box::new(Exit {
                nothing_left: nothing_left && self.listener.is_none() && written.is_ok(),
                ..exit.clone()
            })));
            if notice && written.is_ok() {
                return;
            }
            // An agent that received the notice may end before its journal has it. It gets the
            // notice once: its connection ends, as it would with this process.
            if notice {
                self.connections.clear();
            }
            // Waiting for an agent may take long, and must not delay the release of the mounts.
            self.mounts = None;
            match written {
                Ok(()) if durability == Durability::Synced => return,
                // The agent that it was meant for has disconnected: write it again, durably.
                Ok(()) => continue,
                Err(StateDirectoryError::Write { source, .. }) if super::is_gone(&source) => return,
                Err(_) if started.elapsed() > KEEP_LIMIT => return,
                Err(_) => {
                    self.listen();
                    let listener = self.listener.iter();
                    let mut watched: Vec<_> = listener
                        .map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN))
                        .collect();
                    // An agent connected or time passed: retry in both cases.
                    let _ = poll(&mut watched, PollTimeout::from(KEEP_RETRY_MS));
                    drop(watched);
                    self.accept();
                }
            }
        }
    }
}

/// The facts that determine the command's outcome.
#[derive(Clone, Copy)]
struct Ending {
    /// Init has reported that the command cannot be started.
    refused: bool,
    /// Init has reported that the command was started.
    executed: bool,
    /// The command's status, if init reported it.
    reported: Option<i32>,
    /// Init's own status.
    own: i32,
}

impl Ending {
    fn outcome(self) -> CommandOutcome {
        if self.refused {
            return CommandOutcome::NotStarted;
        }
        if let Some(status) = self.reported {
            return CommandOutcome::of_status(status);
        }
        match CommandOutcome::of_status(self.own) {
            // Init was killed with the command.
            killed @ CommandOutcome::Signaled(_) => killed,
            // An init that exits does not know the command's status, and kills the command.
            CommandOutcome::Exited(_) | CommandOutcome::NotStarted if self.executed => {
                CommandOutcome::Signaled(libc::SIGKILL)
            }
            CommandOutcome::Exited(_) | CommandOutcome::NotStarted => CommandOutcome::NotStarted,
        }
    }
}

/// Returns the figures if processes were OOM killed.
fn oom_kill(last: &LastUsage, used_bytes: Option<u64>) -> Option<OomKill> {
    let killed = last.out_of_memory_kills.filter(|kills| *kills > 0)?;
    Some(OomKill {
        // The kernel also kills here for a shortage of an ancestor, whose event it counts there.
        of: match last.out_of_memory_events {
            Some(0) => OomScope::Host,
            Some(_) | None => OomScope::Container,
        },
        limit_bytes: last.memory_limit_bytes,
        used_bytes,
        killed,
    })
}

fn reason(outcome: CommandOutcome, stop: Option<StopReason>, shortage: Option<OomKill>) -> String {
    let mut text = match outcome {
        CommandOutcome::Exited(code) => format!("exited with code {code}"),
        CommandOutcome::Signaled(number) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by signal {number} ({signal})"),
            Err(_) => format!("killed by signal {number}"),
        },
        CommandOutcome::NotStarted => "was not started".to_owned(),
    };
    match stop {
        Some(StopReason::Ordered) => text.push_str(" after it was told to end"),
        Some(StopReason::StopAfter) => {
            text.push_str(" because the agent did not renew its stop_after deadline");
        }
        None => {}
    }
    if let Some(shortage) = shortage {
        text.push_str(&format!("; {shortage}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLUTTON: LastUsage = LastUsage {
        cpu_us: Some(1),
        memory_peak_bytes: Some(32 << 20),
        memory_limit_bytes: Some(32 << 20),
        out_of_memory_events: Some(1),
        out_of_memory_kills: Some(2),
    };

    #[test]
    fn the_status_of_init_is_never_that_of_a_command_that_it_did_not_report() {
        let ending = Ending {
            refused: false,
            executed: false,
            reported: None,
            own: 0,
        };
        assert_eq!(ending.outcome(), CommandOutcome::NotStarted);
        let ran = Ending {
            executed: true,
            ..ending
        };
        assert_eq!(ran.outcome(), CommandOutcome::Signaled(9));
        let killed = Ending { own: 15, ..ending };
        assert_eq!(killed.outcome(), CommandOutcome::Signaled(15));
        let reported = Ending {
            reported: Some(7 << 8),
            ..ran
        };
        assert_eq!(reported.outcome(), CommandOutcome::Exited(7));
    }

    #[test]
    fn exit_reasons_are_formatted_as_sentences() {
        assert_eq!(
            reason(CommandOutcome::Exited(7), None, None),
            "exited with code 7"
        );
        let shortage = oom_kill(&GLUTTON, GLUTTON.memory_peak_bytes);
        assert_eq!(
            reason(
                CommandOutcome::Signaled(9),
                Some(StopReason::Ordered),
                shortage
            ),
            "killed by signal 9 (SIGKILL) after it was told to end; \
             out of memory: used 32 MiB of 32 MiB; 2 processes were killed"
        );
        assert_eq!(
            reason(CommandOutcome::Signaled(64), None, None),
            "killed by signal 64"
        );
    }

    #[test]
    fn host_memory_exhaustion_is_reported_as_the_hosts() {
        let whose = |last: LastUsage| oom_kill(&last, None).map(|shortage| shortage.of);
        assert_eq!(whose(GLUTTON), Some(OomScope::Container));
        let innocent = LastUsage {
            out_of_memory_events: Some(0),
            ..GLUTTON
        };
        assert_eq!(whose(innocent), Some(OomScope::Host));
        let at_its_limit = LastUsage {
            out_of_memory_kills: Some(0),
            ..GLUTTON
        };
        assert_eq!(whose(at_its_limit), None, "no process was killed");
        assert_eq!(whose(LastUsage::default()), None, "no kill was counted");
    }

    #[test]
    fn an_error_is_formatted_with_its_causes() {
        let error = StartError::MapUser {
            source: std::io::Error::other("not permitted"),
        };
        assert_eq!(
            error_chain(&error),
            "cannot map the user into the user namespace: not permitted"
        );
    }
}
