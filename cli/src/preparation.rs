//! What agents do for tasks that have not started yet, as one line on the terminal.

use std::convert::Infallible;
use std::time::Duration;

use argosy_proto::v1;
use serde::Deserialize;
use tokio::time::Instant;

use crate::files::{FileReader, ReadError};
use crate::output::{RateMeter, StatusLine, StatusMode, Transfer};

/// Interval at which agents are asked.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Number of failures in a row after which a task is not asked about any more. Agents and masters
/// of earlier releases know no preparations.
const MAX_FAILURES: u32 = 20;

/// Returns whether a task is assigned to an agent that has not started it yet.
pub(crate) fn is_prepared(task: &v1::Task) -> bool {
    use v1::TaskState::{Staging, Starting};
    matches!(task.state(), Staging | Starting) && !task.agent_id.is_empty()
}

/// A task that has not started yet.
pub(crate) struct PreparedTask {
    agent_id: String,
    framework_id: String,
    task_id: String,
    failures: u32,
}

impl PreparedTask {
    pub(crate) fn new(agent_id: &str, framework_id: &str, task_id: &str) -> Self {
        Self {
            agent_id: agent_id.to_owned(),
            framework_id: framework_id.to_owned(),
            task_id: task_id.to_owned(),
            failures: 0,
        }
    }

    pub(crate) fn of(task: &v1::Task) -> Self {
        Self::new(&task.agent_id, &task.framework_id, &task.task_id)
    }

    /// Asks its agent. Returns `None` if it has started or ended, or too many requests have failed.
    async fn ask(&mut self, files: &mut FileReader) -> Option<Preparation> {
        let name = format!("{}/{}", self.framework_id, self.task_id);
        let answer = files.preparation(&self.agent_id, &name).await;
        if matches!(answer, Err(ReadError::Broken(_) | ReadError::Busy { .. })) {
            files.use_next_master().await;
        }
        let found = answer.ok();
        let found = found.and_then(|body| serde_json::from_slice::<Preparation>(&body).ok());
        self.failures = match found {
            Some(_) => 0,
            None => self.failures + 1,
        };
        match found {
            Some(found) => Some(found).filter(Preparation::is_before_start),
            None => Some(Preparation::default()).filter(|_| self.failures < MAX_FAILURES),
        }
    }
}

/// The answer of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Preparation {
    state: String,
    step: Option<String>,
    item: Option<String>,
    received_bytes: u64,
    total_bytes: Option<u64>,
}

impl Preparation {
    fn is_before_start(&self) -> bool {
        matches!(
            self.state.as_str(),
            "waiting" | "fetching" | "prepared" | "starting"
        )
    }

    /// Returns what the agent does, or `None` if that is not worth a line.
    fn what(&self) -> Option<String> {
        let item = self.item.as_deref().unwrap_or_default();
        let verb = match (self.step.as_deref(), self.state.as_str()) {
            (Some("fetching-file"), _) => "fetching",
            (Some("pulling-image"), _) => "pulling",
            (Some("unpacking-file" | "unpacking-image"), _) => "unpacking",
            (Some("waiting"), _) => return Some("waiting to fetch".to_owned()),
            // A step of a later release.
            (Some(step), _) => step,
            (None, "prepared") => {
                return Some("waiting for the other tasks of its group".to_owned());
            }
            (None, "starting") => return Some("creating the container".to_owned()),
            (None, _) => return None,
        };
        Some(format!("{verb} {item}").trim_end().to_owned())
    }
}

/// The shown preparation, and its rate.
#[derive(Debug, Default)]
struct ShownPreparation {
    what: String,
    meter: RateMeter,
}

impl ShownPreparation {
    /// Returns the transfer of a preparation at a time, or `None` if it is not worth a line.
    fn transfer(&mut self, label: &str, found: &Preparation, at: Duration) -> Option<Transfer> {
        let what = format!("{label}{}", found.what()?);
        if what != self.what {
            self.meter = RateMeter::default();
            self.what.clone_from(&what);
        }
        let rate = self.meter.add(at, found.received_bytes);
        let has_bytes = found.received_bytes > 0;
        Some(Transfer {
            what,
            received_bytes: found.received_bytes,
            total_bytes: found.total_bytes,
            bytes_per_second: rate.filter(|_| has_bytes),
        })
    }
}

/// Shows what agents do for these tasks until this is dropped: one line, about the first of them
/// for which something is done. Asks nothing if standard error is not a terminal.
pub(crate) async fn show(mut files: FileReader, mut tasks: Vec<PreparedTask>) -> Infallible {
    let begun = Instant::now();
    let mut line = StatusLine::new(StatusMode::Shown);
    if !line.is_shown() {
        tasks.clear();
    }
    let has_labels = tasks.len() > 1;
    let mut shown = ShownPreparation::default();
    while !tasks.is_empty() {
        tokio::time::sleep(POLL_INTERVAL).await;
        let mut transfer = None;
        let mut at = 0;
        while at < tasks.len() && transfer.is_none() {
            let Some(found) = tasks[at].ask(&mut files).await else {
                tasks.remove(at);
                continue;
            };
            let label = match has_labels {
                true => format!("{}: ", tasks[at].task_id),
                false => String::new(),
            };
            transfer = shown.transfer(&label, &found, begun.elapsed());
            at += 1;
        }
        match transfer {
            Some(transfer) => line.show(|room| transfer.line(room)),
            None => line.clear(),
        }
    }
    drop(line);
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preparation(text: &str) -> Preparation {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_task_is_prepared_until_its_agent_has_started_it() {
        let of = |state: v1::TaskState, agent_id: &str| v1::Task {
            state: state.into(),
            agent_id: agent_id.to_owned(),
            ..v1::Task::default()
        };
        assert!(is_prepared(&of(v1::TaskState::Staging, "agent-1")));
        assert!(is_prepared(&of(v1::TaskState::Starting, "agent-1")));
        assert!(!is_prepared(&of(v1::TaskState::Staging, "")));
        assert!(!is_prepared(&of(v1::TaskState::Running, "agent-1")));
        let state = |state: &str| preparation(&format!(r#"{{"state": "{state}"}}"#));
        assert!(state("waiting").is_before_start() && state("starting").is_before_start());
        for over in ["running", "ended", "finding", "unknown"] {
            assert!(!state(over).is_before_start(), "{over}");
        }
    }

    #[test]
    fn each_step_has_its_words() {
        for (text, what) in [
            (r#"{"state": "waiting", "step": null}"#, None),
            (
                r#"{"state": "fetching", "step": "waiting"}"#,
                Some("waiting to fetch"),
            ),
            (
                r#"{"state": "fetching", "step": "pulling-image", "item": "nginx"}"#,
                Some("pulling nginx"),
            ),
            (
                r#"{"state": "fetching", "step": "unpacking-image", "item": "nginx"}"#,
                Some("unpacking nginx"),
            ),
            (
                r#"{"state": "fetching", "step": "fetching-file", "item": "http://h/f"}"#,
                Some("fetching http://h/f"),
            ),
            (
                r#"{"state": "fetching", "step": "verifying", "item": null, "more": 1}"#,
                Some("verifying"),
            ),
            (r#"{"state": "starting"}"#, Some("creating the container")),
            (r#"{"state": "running"}"#, None),
            ("{}", None),
        ] {
            assert_eq!(preparation(text).what().as_deref(), what, "{text}");
        }
    }

    #[test]
    fn the_rate_begins_again_with_each_item() {
        let pull = |item: &str, received: u64| {
            preparation(&format!(
                r#"{{"state": "fetching", "step": "pulling-image", "item": "{item}",
                    "received_bytes": {received}, "total_bytes": 4096}}"#
            ))
        };
        let mut shown = ShownPreparation::default();
        let mut line = |found: &Preparation, second| {
            let transfer = shown.transfer("web: ", found, Duration::from_secs(second));
            transfer.unwrap().line(80)
        };
        let begin = line(&pull("a", 0), 0);
        assert_eq!(begin, "web: pulling a  [>               ]  0 B of 4 KiB");
        let half = line(&pull("a", 2_048), 1);
        assert_eq!(
            half,
            "web: pulling a  [========>       ]  2 KiB of 4 KiB, 2 KiB/s"
        );
        let other = line(&pull("b", 2_048), 2);
        assert_eq!(other, "web: pulling b  [========>       ]  2 KiB of 4 KiB");
    }
}
