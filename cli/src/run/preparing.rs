//! The time between the launch of a job and the start of its first task.

use std::convert::Infallible;
use std::time::Duration;

use argosy_proto::v1;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::outcome;
use crate::files::FileReader;
use crate::output::is_status_shown;
use crate::preparation::{self, PreparedTask};
use crate::transport::HttpMasters;

/// Time from the launch to the first line about the preparation of a task, and between such lines.
const REPORT_DELAY: Duration = Duration::from_secs(2);
const REPORT_INTERVAL: Duration = Duration::from_secs(15);

/// How the preparation of a job is shown.
pub(super) struct Preparing {
    /// The time since the launch at which it is reported next.
    next_report: Duration,
    /// Keeps the line on the terminal up to date.
    line: Option<BoxFuture<'static, Infallible>>,
}

impl Default for Preparing {
    fn default() -> Self {
        Self {
            next_report: REPORT_DELAY,
            line: None,
        }
    }
}

impl Preparing {
    /// Shows on the terminal what is done for these tasks, as long as [`Self::update`] is awaited.
    pub(super) fn show(
        &mut self,
        masters: HttpMasters,
        (agent_id, framework_id): (&str, &str),
        tasks: &[v1::TaskSpec],
    ) {
        let tasks = tasks.iter();
        let tasks = tasks.map(|task| PreparedTask::new(agent_id, framework_id, &task.task_id));
        self.line = Some(preparation::show(FileReader::new(masters), tasks.collect()).boxed());
    }

    /// Keeps the line up to date; never returns.
    pub(super) async fn update(&mut self) -> Infallible {
        match &mut self.line {
            Some(line) => line.await,
            None => std::future::pending().await,
        }
    }

    /// Erases the line: a task has started or ended.
    pub(super) fn end(&mut self) {
        self.line = None;
    }

    /// Returns a report if one is due this time after the launch. The line on a terminal replaces
    /// it.
    pub(super) fn report(
        &mut self,
        tasks: &[v1::TaskSpec],
        agent: &str,
        waited: Duration,
    ) -> Option<String> {
        if waited < self.next_report || is_status_shown() {
            return None;
        }
        self.next_report = waited + REPORT_INTERVAL;
        Some(outcome::preparation_text(tasks, agent, waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_report_comes_early_and_the_others_rarely() {
        let mut preparing = Preparing::default();
        let due: Vec<u64> = (0..40)
            .filter(|second| {
                let waited = Duration::from_secs(*second);
                preparing.report(&[], "agent-1", waited).is_some()
            })
            .collect();
        assert_eq!(due, [2, 17, 32]);
    }
}
