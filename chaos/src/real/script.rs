//! Timelines: the fault, its time and its duration.
//!
//! Each line is `at TIME FAULT [for TIME]`; `#` begins a comment.

use std::time::Duration;

use argosy_testbed::arguments::duration;

use super::faults::FaultName;

/// One line of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScriptStep {
    /// Time since the faults began.
    pub(crate) at: Duration,
    pub(crate) fault: FaultName,
    /// Its duration; absent for a random one.
    pub(crate) duration: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number}: {why}")]
pub(crate) struct InvalidLine {
    number: usize,
    why: String,
}

/// Parses a timeline. Its times must not decrease.
pub(crate) fn parse(text: &str) -> Result<Vec<ScriptStep>, InvalidLine> {
    let mut steps: Vec<ScriptStep> = Vec::new();
    for (position, line) in text.lines().enumerate() {
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let invalid = |why| InvalidLine {
            number: position + 1,
            why,
        };
        let step = step(content).map_err(invalid)?;
        if steps.last().is_some_and(|last| last.at > step.at) {
            return Err(invalid(format!(
                "{content:?} comes before the line above it"
            )));
        }
        steps.push(step);
    }
    if steps.is_empty() {
        return Err(InvalidLine {
            number: 1,
            why: "the timeline is empty".to_owned(),
        });
    }
    Ok(steps)
}

fn step(line: &str) -> Result<ScriptStep, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (at, fault, lasts) = match words.as_slice() {
        ["at", at, fault] => (at, fault, None),
        ["at", at, fault, "for", lasts] => (at, fault, Some(duration(lasts)?)),
        _ => return Err(format!("{line:?} is not \"at TIME FAULT [for TIME]\"")),
    };
    let at = if *at == "0s" {
        Duration::ZERO
    } else {
        duration(at)?
    };
    let fault = fault
        .parse::<FaultName>()
        .map_err(|error| error.to_string())?;
    Ok(ScriptStep {
        at,
        fault,
        duration: lasts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_comments_are_parsed() {
        let steps = parse("# warm up\nat 0s kill-leader\nat 2s pause-leader for 500ms # short\n");
        let steps = steps.unwrap();
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[1].duration, Some(Duration::from_millis(500)));
    }

    #[test]
    fn an_invalid_line_is_reported_with_its_number() {
        for (bad, expected) in [
            ("at 1s kill-leader\nat kill", "line 2"),
            ("at 1s kill-ladder", "kill-leader"),
            ("at 2s kill-leader\nat 1s kill-leader", "comes before"),
            ("at soon kill-leader", "90s"),
            ("# nothing", "empty"),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{bad:?}: {error}");
        }
    }
}
