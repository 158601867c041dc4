//! Start and end of a `run` as text and as an exit code. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use argosy_proto::v1;

use super::pending_reason::PendingReason;
use crate::exit::{DONE, Failure, FailureCode, NEVER_STARTED};
use crate::output::{exit_word, reason_word, span_ms, state_word};

/// Times of events since the start of the program.
#[derive(Debug, Default)]
pub(super) struct RunTimes {
    pub(super) registered: Option<Duration>,
    pub(super) launched: Option<Duration>,
    pub(super) started: Option<Duration>,
}

fn span_text(time: Duration) -> String {
    span_ms(time.as_millis() as u64)
}

/// Returns `accepted 4 ms, on agent-2 after 40 ms, started after 110 ms`.
pub(super) fn start_text(times: &RunTimes, agent: &str) -> String {
    let of = |time: Option<Duration>| time.map(span_text).unwrap_or_default();
    format!(
        "accepted {}, on {agent} after {}, started after {}",
        of(times.registered),
        // The task's first update may arrive before the answer to its launch.
        of(times.launched.or(times.started)),
        of(times.started)
    )
}

/// Returns `agent-2 has been preparing it for 4 s: pulling image nginx, fetching 2 files`.
pub(super) fn preparation_text(tasks: &[v1::TaskSpec], agent: &str, waited: Duration) -> String {
    let images = tasks.iter().filter_map(|task| task.container.as_ref());
    let images: BTreeSet<_> = images
        .map(|container| container.image.as_str())
        .filter(|image| !image.is_empty())
        .collect();
    let images = images
        .into_iter()
        .map(|image| format!("pulling image {image}"));
    let files: usize = tasks.iter().map(|task| task.uris.len()).sum();
    let files = match files {
        0 => None,
        1 => Some("fetching 1 file".to_owned()),
        count => Some(format!("fetching {count} files")),
    };
    let steps: Vec<_> = images.chain(files).collect();
    let begin = format!("{agent} has been preparing it for {}", span_text(waited));
    match steps.is_empty() {
        true => begin,
        false => format!("{begin}: {}", steps.join(", ")),
    }
}

/// Returns `finished, exit 0, 2.1 s`, with the reason where it is not obvious.
pub(super) fn end_text(status: &v1::TaskStatus, ran: Option<Duration>) -> String {
    use v1::Reason as R;
    let is_plain = matches!(
        status.reason(),
        R::Unspecified | R::CommandExited | R::TaskKilled
    );
    let mut parts = vec![state_word(status.state), exit_word(status.exit.as_ref())];
    if !is_plain {
        parts.push(reason_word(status.reason));
    }
    parts.push(ran.map(span_text).unwrap_or_default());
    if !is_plain {
        parts.push(status.message.clone());
    } else if let Some((_, advice)) = status.message.split_once("; ") {
        // The words before contain the rest.
        parts.push(advice.to_owned());
    }
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

/// Returns the failure that no agent took the task within the given time.
pub(super) fn not_placed(
    name: &str,
    limit: Duration,
    why: Result<PendingReason, Failure>,
) -> Failure {
    let PendingReason { reason, lines } = why.unwrap_or_else(|failure| PendingReason {
        reason: failure.message,
        lines: Vec::new(),
    });
    let message = format!("{name} had no agent after {}: {reason}", span_text(limit));
    lines.into_iter().fold(
        Failure::new(FailureCode::NotPlaced, message),
        Failure::advise,
    )
}

/// Returns the failure that a job was launched while its time limit passed, and removed again.
pub(super) fn launched_too_late(name: &str, limit: Duration) -> Failure {
    let limit = span_text(limit);
    let message = format!(
        "{name} had no agent after {limit}, and was launched while it was cancelled: it may have run, and was killed"
    );
    Failure::new(FailureCode::Unavailable, message)
}

/// Returns the failure that the launch of a job in this framework has no answer.
pub(super) fn launch_unknown((name, framework_id): (&str, &str), why: &str) -> Failure {
    let message = format!("{name} may have been started: {why}");
    Failure::new(FailureCode::Unavailable, message).advise(format!(
        "argosy framework teardown {framework_id} removes it and its tasks"
    ))
}

/// Returns the task's own code; 128 + n on signal n; 125 if it never started.
pub(super) fn exit_code(status: &v1::TaskStatus, has_started: bool) -> u8 {
    if !has_started {
        return NEVER_STARTED;
    }
    match status.exit.as_ref().and_then(|exit| exit.how.as_ref()) {
        // The kernel keeps eight bits of a code.
        Some(v1::exit::How::Code(code)) => *code as u8,
        Some(v1::exit::How::Signal(signal)) => {
            128u8.saturating_add(u8::try_from(*signal).unwrap_or(127))
        }
        None if status.state() == v1::TaskState::Finished => DONE,
        None => FailureCode::Failed as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task_status(state: v1::TaskState, how: Option<v1::exit::How>) -> v1::TaskStatus {
        v1::TaskStatus {
            state: state.into(),
            exit: how.map(|how| v1::Exit { how: Some(how) }),
            ..v1::TaskStatus::default()
        }
    }

    #[test]
    fn preparation_names_what_takes_time() {
        let container = |image: &str| v1::TaskSpec {
            container: Some(v1::ContainerSpec {
                image: image.to_owned(),
                ..v1::ContainerSpec::default()
            }),
            uris: vec![v1::Uri::default()],
            ..v1::TaskSpec::default()
        };
        let text =
            |tasks: &[v1::TaskSpec]| preparation_text(tasks, "agent-2", Duration::from_secs(4));
        assert_eq!(
            text(&[v1::TaskSpec::default()]),
            "agent-2 has been preparing it for 4 s"
        );
        assert_eq!(
            text(&[container("nginx"), container("nginx")]),
            "agent-2 has been preparing it for 4 s: pulling image nginx, fetching 2 files"
        );
    }

    #[test]
    fn run_ends_with_the_tasks_own_code() {
        use v1::TaskState as S;
        use v1::exit::How;
        let table = [
            (task_status(S::Finished, Some(How::Code(0))), true, 0),
            (task_status(S::Failed, Some(How::Code(7))), true, 7),
            (task_status(S::Failed, Some(How::Signal(9))), true, 137),
            (task_status(S::Killed, Some(How::Signal(15))), true, 143),
            (task_status(S::Killed, Some(How::Code(0))), true, 0),
            (task_status(S::Gone, None), true, 1),
            (task_status(S::Failed, None), false, 125),
            (task_status(S::Dropped, None), false, 125),
        ];
        for (status, has_started, code) in table {
            assert_eq!(exit_code(&status, has_started), code, "{status:?}");
        }
    }

    #[test]
    fn start_and_end_messages_match_the_expected_texts() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let times = RunTimes {
            registered: ms(4),
            launched: ms(40),
            started: ms(110),
        };
        assert_eq!(
            start_text(&times, "agent-2"),
            "accepted 4 ms, on agent-2 after 40 ms, started after 110 ms"
        );
        let mut status = task_status(v1::TaskState::Finished, Some(v1::exit::How::Code(0)));
        status.reason = v1::Reason::CommandExited.into();
        assert_eq!(end_text(&status, ms(2_100)), "finished, exit 0, 2.1 s");
        let mut status = task_status(v1::TaskState::Failed, Some(v1::exit::How::Code(1)));
        status.reason = v1::Reason::CommandExited.into();
        status.message = "exited with code 1; it lacks something".to_owned();
        assert_eq!(
            end_text(&status, ms(20)),
            "failed, exit 1, 20 ms, it lacks something"
        );
        let mut status = task_status(v1::TaskState::Failed, None);
        status.reason = v1::Reason::CommandNotStarted.into();
        status.message = "no such file: nope".to_owned();
        assert_eq!(
            end_text(&status, None),
            "failed, command-not-started, no such file: nope"
        );
    }

    #[test]
    fn an_unplaced_task_is_reported_with_reason_and_remedy() {
        let why = PendingReason {
            reason: "no agent is large enough".to_owned(),
            lines: vec!["helps: --cpus 2".to_owned()],
        };
        let failure = not_placed("calm-heron", Duration::from_secs(5), Ok(why));
        assert_eq!(failure.code, FailureCode::NotPlaced);
        assert_eq!(
            failure.to_string(),
            "calm-heron had no agent after 5 s: no agent is large enough\n  helps: --cpus 2"
        );
    }
}
