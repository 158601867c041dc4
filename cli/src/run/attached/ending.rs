//! The ends of an attached run: a signal, detaching, the removal of its framework.

use std::time::Duration;

use super::super::session_failure;
use super::AttachedRun;
use crate::exit::{DONE, Failure, VerbResult};
use crate::output::{self, note, span_ms};

/// Timeout of the removal of the framework.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Exit code after Ctrl-C.
const INTERRUPTED: u8 = 130;

impl AttachedRun {
    /// Handles Ctrl-C: cancels while waiting, ends the task while it runs, exits at the third.
    pub(super) async fn interrupted(&mut self) -> Option<u8> {
        self.interrupts += 1;
        let name = self.job.name().to_owned();
        // The end of this task ends its group.
        let first = self.members.first().to_owned();
        if self.agent_id.is_none() {
            self.remove().await;
            note(&format!("{name:<12} cancelled; nothing was started"));
            return Some(INTERRUPTED);
        }
        match self.interrupts {
            1 => {
                drop(self.session.driver.kill(&first, None));
                let grace = span_ms(self.options.grace.as_millis() as u64);
                note(&format!(
                    "{name:<12} asked to end, killed after {grace}; Ctrl-C again kills it now"
                ));
                None
            }
            2 => {
                for task in self.job.tasks() {
                    drop(self.session.driver.kill(&task.task_id, Some(0)));
                }
                note(&format!(
                    "{name:<12} is being killed; Ctrl-C again exits without waiting"
                ));
                None
            }
            _ => {
                note(&format!(
                    "{name:<12} abandoned; the masters remove it 10 s after this program has exited"
                ));
                Some(INTERRUPTED)
            }
        }
    }

    /// Detaches: prints the ids and exits. The framework stays until its last task has ended.
    pub(super) async fn detach(&mut self) -> VerbResult {
        self.session.driver.stop();
        // The session ends by itself once everything is acknowledged; a slow end changes nothing.
        let _ = tokio::time::timeout(REMOVE_TIMEOUT, &mut self.session.ended).await;
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

    /// Removes the framework. Only the history of a finished `run` remains.
    pub(super) async fn remove(&mut self) {
        drop(self.session.driver.teardown());
        // If there is no leader now, the masters remove it later: its failover timeout is zero.
        let _ = tokio::time::timeout(REMOVE_TIMEOUT, &mut self.session.ended).await;
    }

    pub(super) async fn session_ended(self) -> VerbResult {
        match self.session.ended.await {
            Ok(Err(error)) => Err(session_failure(&error, self.job.name())),
            Ok(Ok(())) => Err(Failure::failed(format!(
                "{} ended without an answer",
                self.job.name()
            ))),
            Err(error) => Err(Failure::failed(format!("the session failed: {error}"))),
        }
    }
}
