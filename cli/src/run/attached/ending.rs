//! The ends of an attached run: a signal, detaching, the removal of its framework.

use std::pin::pin;
use std::time::Duration;

use argosy_client::scheduler::SchedulerError;
use tokio::time::{sleep, timeout};

use super::super::pending_reason::PendingReason;
use super::super::signals::Signals;
use super::super::{outcome, session_failure};
use super::AttachedRun;
use crate::exit::{DONE, Failure, VerbResult};
use crate::output::{self, span_ms};

/// Timeout of the removal of the framework.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Exit code after Ctrl-C.
pub(super) const INTERRUPTED: u8 = 130;
/// Time for output that may be blocked, at the end of the run.
const BLOCKED_OUTPUT: Duration = Duration::from_secs(1);

/// The outcome of a cancelled run.
enum Cancelled {
    /// The job was never launched.
    Unlaunched,
    /// A launch was sent, which no answer has rejected; then the removal ended its tasks.
    MayHaveRun,
}

impl AttachedRun {
    /// Waits for the rest of the output of tasks that have ended, and returns whether it was
    /// written. After a signal, output that is blocked is abandoned.
    pub(super) async fn rest_is_written(&mut self, signals: &mut Signals) -> bool {
        let mut rest = pin!(self.write_rest());
        tokio::select! {
            () = &mut rest => true,
            () = signals.next() => timeout(BLOCKED_OUTPUT, rest).await.is_ok(),
        }
    }

    async fn write_rest(&mut self) {
        while let Some(tail) = self.tails.join_next().await {
            if let Ok(Err(error)) = tail {
                self.tail_ended(&error);
            }
        }
    }

    /// Ends the output, and the run with this result. Output that is blocked is abandoned after a
    /// signal.
    pub(super) async fn finish_output(
        mut self,
        signals: &mut Signals,
        ended: VerbResult,
    ) -> VerbResult {
        // A tail may have changed the mode of the terminal, and restores it.
        let stopped = timeout(BLOCKED_OUTPUT, self.tails.shutdown()).await;
        let is_abandoned = stopped.is_err() || matches!(ended, Ok(INTERRUPTED));
        tokio::select! {
            () = self.notes.finish() => ended,
            () = sleep(BLOCKED_OUTPUT), if is_abandoned => ended,
            () = signals.next() => Ok(INTERRUPTED),
        }
    }

    /// Handles Ctrl-C: cancels while waiting, ends the task while it runs, exits at the third.
    pub(super) async fn interrupted(&mut self) -> Result<Option<u8>, Failure> {
        self.interrupts += 1;
        let name = self.job.name().to_owned();
        // The end of this task ends its group.
        let first = self.members.first().to_owned();
        if self.agent_id.is_none() {
            let what = match self.cancel().await? {
                Cancelled::Unlaunched => "nothing was started",
                Cancelled::MayHaveRun => "it may have run, and was killed",
            };
            self.notes.print(format!("{name:<12} cancelled; {what}"));
            return Ok(Some(INTERRUPTED));
        }
        Ok(match self.interrupts {
            1 => {
                drop(self.session.driver.kill(&first, None));
                let grace = span_ms(self.options.grace.as_millis() as u64);
                self.notes.print(format!(
                    "{name:<12} asked to end, killed after {grace}; Ctrl-C again kills it now"
                ));
                None
            }
            2 => {
                for task in self.job.tasks() {
                    drop(self.session.driver.kill(&task.task_id, Some(0)));
                }
                self.notes.print(format!(
                    "{name:<12} is being killed; Ctrl-C again exits without waiting"
                ));
                None
            }
            _ => {
                self.notes.print(format!(
                    "{name:<12} abandoned; the masters remove it 10 s after this program has exited"
                ));
                Some(INTERRUPTED)
            }
        })
    }

    /// Detaches: prints the ids and exits. The framework stays until its last task has ended.
    pub(super) async fn detach(&mut self) -> VerbResult {
        self.session.driver.stop();
        // The session ends by itself once everything is acknowledged; a slow end changes nothing.
        let ended = timeout(REMOVE_TIMEOUT, &mut self.session.ended).await;
        if let Ok(Ok(Err(error))) = ended {
            return Err(session_failure(&error, self.job.name()));
        }
        let id = |name: &str| format!("{}/{name}", self.framework_id);
        let tasks = self.job.tasks().iter();
        let lines: String = tasks.map(|task| id(&task.task_id) + "\n").collect();
        output::print(&lines)?;
        let first = id(self.members.first());
        let kill = match self.job.group() {
            "" => format!("argosy task kill {first}"),
            group => format!("argosy group kill {}", id(group)),
        };
        self.print(&format!(
            "keeps running; argosy logs -f {first} follows it, {kill} ends it"
        ));
        Ok(DONE)
    }

    /// Handles a launch without an answer. It fails a run that would detach now. Of another one,
    /// the updates of its tasks show whether they were launched, or the session ends.
    pub(super) fn launch_lost(&self, why: &str) -> Result<(), Failure> {
        if self.options.detach {
            let place = (self.job.name(), self.framework_id.as_str());
            return Err(outcome::launch_unknown(place, why));
        }
        tracing::debug!(why, "the launch has no answer");
        Ok(())
    }

    /// Ends a run without an agent at its time limit, unless an agent took it at the last moment.
    pub(super) async fn out_of_time(
        &mut self,
        limit: Duration,
        why: Result<PendingReason, Failure>,
        signals: &mut Signals,
    ) -> Result<Option<u8>, Failure> {
        // Those that arrived while the masters were asked for the reason.
        while let Ok(event) = self.session.events.try_recv() {
            if let Some(code) = self.handle(event, signals).await? {
                return Ok(Some(code));
            }
        }
        if self.agent_id.is_some() {
            return Ok(None);
        }
        let cancelled = self.cancel().await?;
        let name = self.job.name();
        Err(match cancelled {
            Cancelled::Unlaunched => outcome::not_placed(name, limit, why),
            Cancelled::MayHaveRun => outcome::launched_too_late(name, limit),
        })
    }

    /// Removes the framework before its task is known to have an agent. Fails if the task may start
    /// nevertheless.
    async fn cancel(&mut self) -> Result<Cancelled, Failure> {
        let is_removed = self.remove().await;
        while let Ok(event) = self.session.events.try_recv() {
            self.record_launch(&event);
        }
        match (self.may_have_launched, is_removed) {
            (false, _) => Ok(Cancelled::Unlaunched),
            // The masters have decided about the launch before the removal.
            (true, true) => Ok(Cancelled::MayHaveRun),
            (true, false) => {
                let (name, id) = (self.job.name(), &self.framework_id);
                let why = format!("no master has confirmed the removal of {id}");
                Err(outcome::launch_unknown((name, id), &why))
            }
        }
    }

    /// Removes the framework, and returns whether it is certainly removed. Only the history of a
    /// finished `run` remains.
    pub(super) async fn remove(&mut self) -> bool {
        drop(self.session.driver.teardown());
        // If there is no leader now, the masters remove it later, unless it was to be detached.
        let ended = timeout(REMOVE_TIMEOUT, &mut self.session.ended).await;
        matches!(ended, Ok(Ok(Ok(()) | Err(SchedulerError::Removed(_)))))
    }

    pub(super) async fn session_ended(&mut self) -> VerbResult {
        match (&mut self.session.ended).await {
            Ok(Err(error)) => Err(session_failure(&error, self.job.name())),
            Ok(Ok(())) => Err(Failure::failed(format!(
                "{} ended without an answer",
                self.job.name()
            ))),
            Err(error) => Err(Failure::failed(format!("the session failed: {error}"))),
        }
    }
}
