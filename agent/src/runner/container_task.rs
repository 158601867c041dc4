//! The task of one container: waits for its supervisor's notices, and sends requests to it.

use std::fmt;
use std::time::Duration;

use argosy_host::{BootTime, crash_point};
use argosy_isolation::oom::mebibytes;
use argosy_isolation::{
    CommandOutcome, Container, Exit, Handle, OomKill, OomScope, StopReason, SupervisorNotice,
};
use argosy_state::ids::Timestamp;
use argosy_state::task::{Code, Explanation, LinuxCapability};
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::handles::ContainerControl;
use super::{RETRY_DELAY, RunnerState, boot_now};
use crate::core::{
    CommandExit, CommandStatus, ContainerName, Input, Instance, StartedFact, StopCause,
};
use crate::descriptors::watched;

/// The time after the grace period from which the agent ends a container without its supervisor.
const FORCE_AFTER: Duration = Duration::from_secs(10);

/// Reports the supervisor's notices to the loop, until the container has ended.
pub(super) async fn watch(
    shared: &RunnerState,
    name: ContainerName,
    container: Container,
    control: &ContainerControl,
) {
    follow(shared, name, container, control).await;
    control.close();
}

async fn follow(
    shared: &RunnerState,
    name: ContainerName,
    container: Container,
    control: &ContainerControl,
) {
    let instance = name.instance;
    let lost = |why: Explanation| Input::Lost { instance, why };
    let mut socket = match watched(container, Interest::READABLE) {
        Ok(socket) => socket,
        Err(error) => {
            let unwatched = Explanation::of(Code::SupervisorUnwatched, &[]);
            return shared
                .report(lost(unwatched.with_detail(error.to_string())))
                .await;
        }
    };
    let mut due = PendingActions::default();
    loop {
        match socket.get_mut().notice() {
            Ok(Some(SupervisorNotice::Started(handle))) => {
                crash_point!("watch.started");
                // Only a start that was cancelled had a deadline; the kill that follows has
                // another.
                due.force_at = None;
                let fact = started_fact(Some(&handle));
                shared.cpus.started(name);
                shared.report(Input::Started { instance, fact }).await;
                continue;
            }
            Ok(Some(SupervisorNotice::Exited(exit))) => {
                if exit.out_of_memory {
                    metrics::counter!("argosy_agent_oom_kills_total").increment(1);
                }
                crash_point!("watch.exited");
                let nothing_left = exit.nothing_left;
                let ended = command_exit(*exit);
                shared
                    .report(Input::Exited {
                        instance,
                        exit: ended,
                    })
                    .await;
                if nothing_left {
                    supervisor_ended(&mut socket, control).await;
                }
                return;
            }
            Ok(None) => {}
            Err(error) => {
                return shared
                    .report(lost(crate::error::error_chain(&error).into()))
                    .await;
            }
        }
        tokio::select! {
            ready = socket.readable() => match ready {
                Ok(mut guard) => guard.clear_ready(),
                Err(error) => return shared.report(lost(error.to_string().into())).await,
            },
            () = control.changed.notified() => due.forward(socket.get_ref(), control, instance),
            () = at(due.retry_at) => due.forward(socket.get_ref(), control, instance),
            () = at(due.force_at) => due.force_at = force(shared, name).await,
        }
    }
}

/// The next actions for a container.
#[derive(Default)]
struct PendingActions {
    /// The supervisor has not accepted an order yet.
    retry_at: Option<Instant>,
    /// The deadline of the supervisor.
    force_at: Option<Instant>,
}

impl PendingActions {
    fn forward(&mut self, container: &Container, control: &ContainerControl, instance: Instance) {
        let wishes = control.take();
        for entry in wishes.execs {
            // If the receiver no longer exists, the session ends immediately.
            let _ = entry.answer.send(container.exec(&entry.request));
        }
        for attach in wishes.attachments {
            // As above.
            let _ = attach.answer.send(container.attach(attach.stdin));
        }
        let has_started = container.handle().is_some();
        let grace_ms = grace_ms(wishes.is_cancelled, wishes.kill_grace_ms, has_started);
        if let Some(grace_ms) = grace_ms {
            let timeout = Duration::from_millis(grace_ms).saturating_add(FORCE_AFTER);
            // A grace period that exceeds the range of time never ends.
            let limit = Instant::now().checked_add(timeout);
            self.force_at = self.force_at.into_iter().chain(limit).min();
        }
        let kill = wishes
            .kill_grace_ms
            .map_or(Ok(()), |grace_ms| container.kill(grace_ms));
        let renew = wishes
            .stop_at
            .map_or(Ok(()), |at| container.renew(BootTime(at.0)));
        self.retry_at = None;
        for error in [&kill, &renew]
            .into_iter()
            .filter_map(|sent| sent.as_ref().err())
        {
            let order = instance.order.0;
            let why = crate::error::error_chain(error);
            tracing::warn!(
                order,
                why,
                "a supervisor does not accept an order; retrying"
            );
            self.retry_at = Some(Instant::now() + RETRY_DELAY);
        }
        control.restore(
            wishes.kill_grace_ms.filter(|_| kill.is_err()),
            wishes.stop_at.filter(|_| renew.is_err()),
        );
    }
}

/// Returns the time in milliseconds after which a supervisor that is to end is late, without
/// [`FORCE_AFTER`]. A start is cancelled at once. If it was too late for that, a kill follows, with
/// the grace period of the task.
fn grace_ms(is_cancelled: bool, kill_grace_ms: Option<u64>, has_started: bool) -> Option<u64> {
    kill_grace_ms.or((is_cancelled && !has_started).then_some(0))
}

/// Records that the supervisor of a container that ended normally has exited, too. A supervisor
/// that does not exit is killed by the removal, which then finds no such record.
async fn supervisor_ended(socket: &mut AsyncFd<Container>, control: &ContainerControl) {
    // New exec requests are refused from here on.
    control.close();
    while let Ok(mut ready) = socket.readable().await {
        if ready.get_inner().is_closed() {
            return control.mark_ended();
        }
        ready.clear_ready();
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Ends a container without its supervisor, which is stopped or hangs, and then the supervisor: its
/// connection closes after that, and the loop receives the end. Returns the time of the next
/// attempt if a process of it still runs.
async fn force(shared: &RunnerState, name: ContainerName) -> Option<Instant> {
    tracing::warn!(container = %name, "the supervisor has not ended its container in time: the agent ends both");
    metrics::counter!("argosy_agent_forced_kills_total").increment(1);
    let broker = shared.broker.clone();
    let _slot = shared.removal_slots.acquire().await;
    let ended = tokio::task::spawn_blocking(move || broker.destroy(name)).await;
    let ended = ended.expect("ending a container never panics");
    let why = ended.err()?;
    tracing::warn!(container = %name, why, "a container cannot be ended yet");
    Some(Instant::now() + FORCE_AFTER)
}

/// Returns the start time of a container's first process on the boot clock. A wall clock may jump.
pub(super) fn started_fact(handle: Option<&Handle>) -> StartedFact {
    let now = boot_now();
    StartedFact {
        pid: handle.map_or(0, |handle| handle.init.pid),
        at: handle.map_or(now, |handle| now.min(Timestamp(handle.init.started_at().0))),
    }
}

pub(super) fn command_exit(exit: Exit) -> CommandExit {
    CommandExit {
        status: match exit.outcome {
            CommandOutcome::Exited(code) => CommandStatus::Code(code),
            CommandOutcome::Signaled(signal) => CommandStatus::Signal(signal),
            CommandOutcome::NotStarted => CommandStatus::NotStarted,
        },
        stop: exit.stop.map(|stop| match stop {
            StopReason::Ordered => StopCause::Ordered,
            StopReason::StopAfter => StopCause::StopAfter,
        }),
        out_of_memory: exit.out_of_memory,
        why: explanation(exit),
    }
}

/// Explains how a command ended, why its processes were killed, and the remedy if it may not change
/// an owner or a user.
fn explanation(exit: Exit) -> Explanation {
    let how = |[by_itself, ordered, stop_after]: [Code; 3], number: &dyn fmt::Display| {
        let code = match exit.stop {
            None => by_itself,
            Some(StopReason::Ordered) => ordered,
            Some(StopReason::StopAfter) => stop_after,
        };
        Explanation::of(code, &[number])
    };
    let mut why = match exit.outcome {
        CommandOutcome::Exited(code) => how(
            [Code::Exited, Code::ExitedOrdered, Code::ExitedStopAfter],
            &code,
        ),
        CommandOutcome::Signaled(number) => {
            let name = Signal::try_from(number).map(|signal| format!(" ({signal})"));
            how(
                [
                    Code::Signaled,
                    Code::SignaledOrdered,
                    Code::SignaledStopAfter,
                ],
                &format_args!("{number}{}", name.unwrap_or_default()),
            )
        }
        // The message of the process that failed to start it, in full.
        CommandOutcome::NotStarted => return exit.reason.into(),
    };
    if let Some(shortage) = exit.memory_shortage {
        why = why.then(oom_explanation(&shortage));
    }
    if exit.lacks_capability {
        let set = LinuxCapability::SERVER_NAME;
        why = why.then(Explanation::of(Code::OwnerUnchanged, &[&set, &set]));
    }
    why
}

fn oom_explanation(shortage: &OomKill) -> Explanation {
    let is_own = shortage.of == OomScope::Container;
    let code = |own: Code, host: Code| if is_own { own } else { host };
    let [used, limit] =
        [shortage.used_bytes, shortage.limit_bytes].map(|bytes| bytes.map(mebibytes));
    let whose = match (used, limit) {
        (Some(used), Some(limit)) => Explanation::of(
            code(Code::OutOfMemoryOf, Code::HostOutOfMemoryOf),
            &[&used, &limit],
        ),
        (Some(used), None) => Explanation::of(
            code(Code::OutOfMemoryUsed, Code::HostOutOfMemoryUsed),
            &[&used],
        ),
        (None, Some(limit)) => Explanation::of(
            code(Code::OutOfMemoryLimit, Code::HostOutOfMemoryLimit),
            &[&limit],
        ),
        (None, None) => Explanation::of(code(Code::OutOfMemory, Code::HostOutOfMemory), &[]),
    };
    whose.then(match shortage.killed {
        1 => Explanation::of(Code::ProcessKilled, &[]),
        count => Explanation::of(Code::ProcessesKilled, &[&count]),
    })
}

#[cfg(test)]
mod tests {
    use argosy_host::{ContainerId, ProcessId};
    use argosy_isolation::LifetimeUsage;

    use super::*;

    fn exit(outcome: CommandOutcome, stop: Option<StopReason>, shortage: Option<OomKill>) -> Exit {
        Exit {
            outcome,
            reason: "was not started".to_owned(),
            stop,
            out_of_memory: shortage.is_some(),
            memory_shortage: shortage,
            lacks_capability: false,
            nothing_left: false,
            usage: LifetimeUsage::default(),
            finished_at_ms: 0,
        }
    }

    fn describe(outcome: CommandOutcome, stop: Option<StopReason>) -> String {
        let why = explanation(exit(outcome, stop, None));
        assert_eq!((why.causes.len(), why.detail.as_str()), (1, ""));
        why.to_string()
    }

    #[test]
    fn exits_are_explained_by_codes() {
        use CommandOutcome::{Exited, Signaled};
        assert_eq!(describe(Exited(7), None), "exited with code 7");
        assert_eq!(
            describe(Signaled(15), Some(StopReason::Ordered)),
            "killed by signal 15 (SIGTERM) after it was told to end"
        );
        assert_eq!(
            describe(Signaled(64), Some(StopReason::StopAfter)),
            "killed by signal 64 because the agent did not renew its stop_after deadline"
        );
        let output = explanation(exit(CommandOutcome::NotStarted, None, None));
        assert_eq!(output, Explanation::from("was not started"));
        let mut lacks = exit(Exited(1), None, None);
        lacks.lacks_capability = true;
        let lacks = explanation(lacks);
        assert_eq!(lacks.causes[1].code, "owner-unchanged");
        assert_eq!(lacks.causes[1].arguments, ["SERVER", "SERVER"]);
    }

    #[test]
    fn oom_kills_are_explained_from_the_container_report() {
        for of in [OomScope::Container, OomScope::Host] {
            for (used, limit) in [
                (None, None),
                (Some(1), None),
                (None, Some(2)),
                (Some(1), Some(2)),
            ] {
                let bytes = |mib: u64| mib << 20;
                let shortage = OomKill {
                    of,
                    limit_bytes: limit.map(bytes),
                    used_bytes: used.map(bytes),
                    killed: used.unwrap_or(2),
                };
                let why = explanation(exit(CommandOutcome::Exited(1), None, Some(shortage)));
                assert_eq!(why.to_string(), format!("exited with code 1; {shortage}"));
                assert!(why.detail.is_empty());
            }
        }
    }

    #[test]
    fn a_cancellation_that_is_too_late_does_not_shorten_the_grace_period() {
        for (is_cancelled, kill, has_started, expected) in [
            (false, None, false, None),
            (true, None, false, Some(0)),
            (true, Some(60_000), false, Some(60_000)),
            (true, None, true, None),
            (true, Some(60_000), true, Some(60_000)),
        ] {
            let found = grace_ms(is_cancelled, kill, has_started);
            assert_eq!(found, expected, "{is_cancelled} {kill:?} {has_started}");
        }
    }

    #[test]
    fn wall_clock_jumps_do_not_change_start_times() {
        // Old enough for its start to be a whole clock tick ago.
        let own = ProcessId::of(std::os::unix::process::parent_id().cast_signed()).unwrap();
        let handle = |started_at_ms| Handle {
            version: 1,
            container: ContainerId::new("1-1-1").unwrap(),
            nonce: 7,
            boot_id: "boot".into(),
            supervisor: own,
            init: own,
            cgroup: None,
            missing: argosy_isolation::MissingControllers::default(),
            started_at_ms,
            attachable: true,
        };
        let before = boot_now();
        let [early, late] = [0, u64::MAX].map(|wall_ms| started_fact(Some(&handle(wall_ms))));
        assert_eq!(early, late);
        let ticks_ms = own.start_ticks * 10;
        assert!(early.at.0 >= ticks_ms && early.at.0 <= ticks_ms + 10);
        assert!(early.at <= before, "{early:?}");
    }
}
