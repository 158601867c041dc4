//! The timeline of a task: one line for each change of its state.

use argosy_proto::v1;

use super::{exit_word, reason_word, span_ms, state_word};

const DAY_MS: i64 = 24 * 3_600_000;
/// The least width of the column of states.
const STATE_WIDTH: usize = 11;

/// Returns the transitions of a task, one on each line. A line states how many were dropped before
/// the next one.
pub(crate) fn timeline(history: &[v1::TaskTransition]) -> String {
    let mut lines = Vec::with_capacity(history.len());
    let mut former: Option<&v1::TaskTransition> = None;
    let states = history.iter().map(|transition| transition.state);
    let width = states.map(|state| state_word(state).len()).max();
    let width = width.unwrap_or(0).max(STATE_WIDTH);
    for transition in history {
        let number = former.map_or(0, |former| former.number);
        let dropped = transition.number.saturating_sub(number.saturating_add(1));
        if dropped > 0 {
            lines.push(format!("({dropped} more are no longer kept)"));
        }
        lines.push(line(transition, former, width));
        former = Some(transition);
    }
    lines.join("\n")
}

/// Returns `2026-11-27 03:04:05.678Z  +1.2 s  running (agent, agent-reregistered)`.
fn line(
    transition: &v1::TaskTransition,
    former: Option<&v1::TaskTransition>,
    width: usize,
) -> String {
    let v1::TaskTransition { wall_ms, .. } = transition;
    // The clocks of agents and masters differ: a step backwards has no length.
    let passed = former.and_then(|former| wall_ms.checked_sub(former.wall_ms));
    let passed = passed.and_then(|ms| u64::try_from(ms).ok());
    let passed = passed.map_or_else(String::new, |ms| format!("+{}", span_ms(ms)));
    let source = match v1::Source::try_from(transition.source) {
        Ok(v1::Source::Master) => "master",
        Ok(v1::Source::Agent) => "agent",
        Ok(v1::Source::Task) => "task",
        Ok(v1::Source::Unspecified) | Err(_) => "",
    };
    let details = [
        source.to_owned(),
        reason_word(transition.reason),
        exit_word(transition.exit.as_ref()),
    ];
    let details: Vec<_> = details
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect();
    let at = utc(*wall_ms);
    let state = state_word(transition.state);
    format!("{at}  {passed:<9}  {state:<width$}  {}", details.join(", "))
        .trim_end()
        .to_owned()
}

/// Returns a time of the Unix epoch in UTC, such as `2026-11-27 03:04:05.678Z`.
pub(crate) fn utc(wall_ms: i64) -> String {
    let (days, ms) = (wall_ms.div_euclid(DAY_MS), wall_ms.rem_euclid(DAY_MS));
    let (year, month, day) = date(days);
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let (seconds, ms) = (ms / 1_000 % 60, ms % 1_000);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z")
}

/// Returns the date in the Gregorian calendar, by days since 1970-01-01. The calendar repeats every
/// 400 years; a year that begins in March has its leap day at the end.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // since 0000-03-01
    let (cycle, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (cycle * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn transition(number: u32, state: v1::TaskState, wall_ms: i64) -> v1::TaskTransition {
        v1::TaskTransition {
            number,
            state: state.into(),
            source: v1::Source::Agent.into(),
            wall_ms,
            ..v1::TaskTransition::default()
        }
    }

    #[test]
    fn a_timeline_has_times_reasons_and_the_count_of_dropped_lines() {
        let start = 1_795_748_645_678;
        let mut lost = transition(40, v1::TaskState::Unreachable, start + 3_600_000);
        lost.source = v1::Source::Master.into();
        lost.reason = v1::Reason::AgentUnreachable.into();
        let mut end = transition(41, v1::TaskState::Failed, start + 3_599_000);
        end.source = v1::Source::Task.into();
        end.reason = v1::Reason::CommandExited.into();
        end.exit = Some(v1::Exit {
            how: Some(v1::exit::How::Code(7)),
        });
        let history = [
            transition(1, v1::TaskState::Staging, start),
            transition(2, v1::TaskState::Running, start + 1_250),
            lost,
            end,
        ];
        expect![[r#"
            2026-11-27 03:04:05.678Z             staging      agent
            2026-11-27 03:04:06.928Z  +1.2 s     running      agent
            (37 more are no longer kept)
            2026-11-27 04:04:05.678Z  +59 min    unreachable  master, agent-unreachable
            2026-11-27 04:04:04.678Z             failed       task, command-exited, exit 7"#]]
        .assert_eq(&timeline(&history));
        let ended = timeline(&history[3..]);
        assert!(
            ended.starts_with("(40 more are no longer kept)\n"),
            "{ended}"
        );
        assert_eq!(timeline(&[]), "");
    }

    #[test]
    fn the_longest_state_does_not_move_the_details() {
        let lost = transition(2, v1::TaskState::GoneByOperator, 1_000);
        let history = [transition(1, v1::TaskState::Running, 0), lost];
        expect![[r#"
            1970-01-01 00:00:00.000Z             running           agent
            1970-01-01 00:00:01.000Z  +1 s       gone-by-operator  agent"#]]
        .assert_eq(&timeline(&history));
    }

    #[test]
    fn times_are_shown_in_utc() {
        for (wall_ms, expected) in [
            (0, "1970-01-01 00:00:00.000Z"),
            (-1, "1969-12-31 23:59:59.999Z"),
            (951_782_400_000, "2000-02-29 00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29 23:59:59.999Z"),
            (1_709_251_200_000, "2024-03-01 00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000Z"),
        ] {
            assert_eq!(utc(wall_ms), expected);
        }
        // Any number that a master could send has a form.
        for wall_ms in [i64::MIN, i64::MAX] {
            assert!(utc(wall_ms).ends_with('Z'));
        }
    }
}
