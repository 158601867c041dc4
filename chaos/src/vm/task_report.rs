//! The reports of a guest about its agent and its tasks, as words of one line.

use std::fmt::{self, Display, Formatter};

use argosy_proto::v1;

/// The state of a task, with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObservedState {
    pub(crate) state: v1::TaskState,
    pub(crate) reason: v1::Reason,
}

/// The revision of an update, in the order of commits: log index, and position in the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UpdateRevision {
    pub(crate) index: u64,
    pub(crate) position: u32,
}

/// One report. Task ids are unique over all boots of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TaskReport {
    /// The masters have registered the framework under this id.
    Framework { id: String },
    /// The agent on the agent's disk is connected, and the registry names it so.
    Agent { id: String },
    /// The masters have accepted the launches of these tasks.
    Launched { tasks: Vec<String> },
    /// The framework has received an update, which it acknowledges after this report. Masters
    /// repeat updates without a committed acknowledgement, also older ones of a task.
    Updated {
        task: String,
        to: ObservedState,
        revision: UpdateRevision,
    },
    /// A linearizable read returned this task, with this explanation of its state.
    Found {
        task: String,
        at: ObservedState,
        why: String,
    },
    /// These tasks recorded their start on the agent's disk: each once for each start.
    Starts { tasks: Vec<String> },
    /// This process or cgroup of a task still exists, although all tasks have ended.
    Left { what: String },
    /// Everything about tasks was read back.
    Settled,
}

const STATE_PREFIX: &str = "TASK_STATE_";
const REASON_PREFIX: &str = "REASON_";

impl Display for ObservedState {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let state = self.state.as_str_name().trim_start_matches(STATE_PREFIX);
        let reason = self.reason.as_str_name().trim_start_matches(REASON_PREFIX);
        write!(f, "{state} {reason}")
    }
}

impl ObservedState {
    pub(crate) fn of(status: &v1::TaskStatus) -> Self {
        Self {
            state: status.state(),
            reason: status.reason(),
        }
    }

    fn parse(state: &str, reason: &str) -> Option<Self> {
        Some(Self {
            state: v1::TaskState::from_str_name(&format!("{STATE_PREFIX}{state}"))?,
            reason: v1::Reason::from_str_name(&format!("{REASON_PREFIX}{reason}"))?,
        })
    }
}

impl Display for TaskReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Framework { id } => write!(f, "framework {id}"),
            Self::Agent { id } => write!(f, "agent {id}"),
            Self::Launched { tasks } => write!(f, "launched {}", tasks.join(" ")),
            Self::Updated { task, to, revision } => {
                let UpdateRevision { index, position } = revision;
                write!(f, "updated {task} {to} {index} {position}")
            }
            Self::Found { task, at, why } => {
                write!(f, "found {task} {at} {}", why.replace(['\n', '\r'], " "))
            }
            Self::Starts { tasks } => write!(f, "starts {}", tasks.join(" ")),
            Self::Left { what } => write!(f, "left {}", what.replace(['\n', '\r'], " ")),
            Self::Settled => f.write_str("settled"),
        }
    }
}

impl TaskReport {
    /// Parses the words of a report; `None` if they are none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let words: Vec<&str> = rest.split(' ').filter(|word| !word.is_empty()).collect();
        let ids = || words.iter().map(|word| (*word).to_owned()).collect();
        Some(match (verb, &words[..]) {
            ("framework", [id]) => Self::Framework {
                id: (*id).to_owned(),
            },
            ("agent", [id]) => Self::Agent {
                id: (*id).to_owned(),
            },
            ("launched", [_, ..]) => Self::Launched { tasks: ids() },
            ("updated", [task, state, reason, index, position]) => Self::Updated {
                task: (*task).to_owned(),
                to: ObservedState::parse(state, reason)?,
                revision: UpdateRevision {
                    index: index.parse().ok()?,
                    position: position.parse().ok()?,
                },
            },
            ("found", [task, state, reason, why @ ..]) => Self::Found {
                task: (*task).to_owned(),
                at: ObservedState::parse(state, reason)?,
                why: why.join(" "),
            },
            ("starts", _) => Self::Starts { tasks: ids() },
            ("left", [_, ..]) => Self::Left {
                what: rest.to_owned(),
            },
            ("settled", []) => Self::Settled,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_parsed_back() {
        let at = ObservedState {
            state: v1::TaskState::GoneByOperator,
            reason: v1::Reason::AgentRebooted,
        };
        let task = "3-17".to_owned();
        for report in [
            TaskReport::Framework {
                id: "framework-7".into(),
            },
            TaskReport::Agent {
                id: "agent-2".into(),
            },
            TaskReport::Launched {
                tasks: vec!["3-1".into(), "3-2".into()],
            },
            TaskReport::Updated {
                task: task.clone(),
                to: at,
                revision: UpdateRevision {
                    index: 12,
                    position: 3,
                },
            },
            TaskReport::Found {
                task: task.clone(),
                at,
                why: "no such program".into(),
            },
            TaskReport::Found {
                task,
                at,
                why: String::new(),
            },
            TaskReport::Starts { tasks: Vec::new() },
            TaskReport::Starts {
                tasks: vec!["3-1".into(), "3-1".into()],
            },
            TaskReport::Left {
                what: "process 7".into(),
            },
            TaskReport::Settled,
        ] {
            let text = report.to_string();
            assert_eq!(TaskReport::parse(&text), Some(report), "{text}");
        }
    }

    #[test]
    fn truncated_reports_are_none() {
        for text in [
            "",
            "agent",
            "launched",
            "updated 3-1 FINISHED COMMAND_EXITED 12",
            "found 3-1 FINISHED COMMAND_EX",
            "left",
        ] {
            assert_eq!(TaskReport::parse(text), None, "{text:?}");
        }
    }
}
