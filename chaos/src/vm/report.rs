//! The reports of a guest, one line each, on a separate serial port.
//!
//! A truncated line is not a report: a cut may come in the middle of one.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use super::task_report::TaskReport;

/// Values of one agent's keys, as read back.
pub(crate) type Values = BTreeMap<String, u64>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GuestReport {
    /// All disks are mounted, and masters are being started.
    Mounted,
    /// The cluster answers, this long after the start of the masters.
    Serving { ms: u64 },
    /// One agent as a linearizable read returned it.
    State { agent: String, values: Values },
    /// A master's registry at an index.
    Digest {
        master: u64,
        applied: u64,
        digest: String,
    },
    /// Everything was read back, and all masters have applied the same entry.
    Settled { applied: u64 },
    /// An agent is registered, and load on it begins.
    Loading { agent: String },
    /// A batch is acknowledged.
    Acknowledged {
        writer: u64,
        batch: u64,
        revision: u64,
    },
    /// This disk is to lose its power now. The master on it is killed.
    PowerOff { disk: u64 },
    /// That disk is no longer in use. It may have power again.
    Released { disk: u64 },
    /// The master on that disk has caught up.
    CaughtUp { disk: u64, ms: u64 },
    /// The watchdog of this master has ended it, and it is started again.
    Stalled { master: u64 },
    /// A report about the agent and its tasks.
    Tasks(TaskReport),
    /// A case has ended. Without `why` it passed.
    CaseResult { case: String, ms: u64, why: String },
    /// An error that must not happen.
    Failed { why: String },
}

/// A line that is not a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid report of the guest: {line:?}")]
pub(crate) struct InvalidReport {
    line: String,
}

impl Display for GuestReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted => f.write_str("mounted"),
            Self::Serving { ms } => write!(f, "serving {ms}"),
            Self::State { agent, values } => {
                write!(f, "state {agent}")?;
                values
                    .iter()
                    .try_for_each(|(key, value)| write!(f, " {key}={value}"))
            }
            Self::Digest {
                master,
                applied,
                digest,
            } => write!(f, "digest {master} {applied} {digest}"),
            Self::Settled { applied } => write!(f, "settled {applied}"),
            Self::Loading { agent } => write!(f, "loading {agent}"),
            Self::Acknowledged {
                writer,
                batch,
                revision,
            } => write!(f, "ack {writer} {batch} {revision}"),
            Self::PowerOff { disk } => write!(f, "off {disk}"),
            Self::Released { disk } => write!(f, "released {disk}"),
            Self::CaughtUp { disk, ms } => write!(f, "back {disk} {ms}"),
            Self::Stalled { master } => write!(f, "stalled {master}"),
            Self::Tasks(report) => write!(f, "tasks {report}"),
            Self::CaseResult { case, ms, why } => {
                write!(f, "result {case} {ms} {}", one_line(why))
            }
            Self::Failed { why } => write!(f, "failed {}", one_line(why)),
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

impl FromStr for GuestReport {
    type Err = InvalidReport;

    fn from_str(line: &str) -> Result<Self, InvalidReport> {
        parse(line.trim_end()).ok_or_else(|| InvalidReport {
            line: line.chars().take(200).collect(),
        })
    }
}

fn parse(line: &str) -> Option<GuestReport> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut words = rest.split(' ');
    let mut number = || words.next()?.parse::<u64>().ok();
    Some(match verb {
        "mounted" => GuestReport::Mounted,
        "serving" => GuestReport::Serving { ms: number()? },
        "settled" => GuestReport::Settled { applied: number()? },
        "off" => GuestReport::PowerOff { disk: number()? },
        "released" => GuestReport::Released { disk: number()? },
        "back" => GuestReport::CaughtUp {
            disk: number()?,
            ms: number()?,
        },
        "ack" => GuestReport::Acknowledged {
            writer: number()?,
            batch: number()?,
            revision: number()?,
        },
        "digest" => GuestReport::Digest {
            master: number()?,
            applied: number()?,
            digest: words.next()?.to_owned(),
        },
        "state" => state(words)?,
        "stalled" => GuestReport::Stalled { master: number()? },
        "tasks" => GuestReport::Tasks(TaskReport::parse(rest)?),
        "loading" => GuestReport::Loading {
            agent: words.next().filter(|agent| !agent.is_empty())?.to_owned(),
        },
        "result" => {
            let (case, rest) = rest.split_once(' ')?;
            let (ms, why) = rest.split_once(' ').unwrap_or((rest, ""));
            GuestReport::CaseResult {
                case: case.to_owned(),
                ms: ms.parse().ok()?,
                why: why.to_owned(),
            }
        }
        "failed" => GuestReport::Failed {
            why: rest.to_owned(),
        },
        _ => return None,
    })
}

fn state<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<GuestReport> {
    let agent = words.next().filter(|agent| !agent.is_empty())?.to_owned();
    let pair = |word: &str| {
        let (key, value) = word.split_once('=')?;
        Some((key.to_owned(), value.parse().ok()?))
    };
    let values = words.map(pair).collect::<Option<_>>()?;
    Some(GuestReport::State { agent, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_parsed_back() {
        let values = Values::from([("w0-1".to_owned(), 61), ("w1-2".to_owned(), 2)]);
        for report in [
            GuestReport::Mounted,
            GuestReport::Serving { ms: 7 },
            GuestReport::State {
                agent: "agent-3".into(),
                values,
            },
            GuestReport::State {
                agent: "agent-4".into(),
                values: Values::new(),
            },
            GuestReport::Digest {
                master: 2,
                applied: 90,
                digest: "ab12".into(),
            },
            GuestReport::Settled { applied: 9 },
            GuestReport::Loading {
                agent: "agent-4".into(),
            },
            GuestReport::Acknowledged {
                writer: 1,
                batch: 2,
                revision: 3,
            },
            GuestReport::PowerOff { disk: 2 },
            GuestReport::Released { disk: 2 },
            GuestReport::CaughtUp { disk: 2, ms: 5 },
            GuestReport::Stalled { master: 2 },
            GuestReport::Tasks(TaskReport::Starts {
                tasks: vec!["1-1".into()],
            }),
            GuestReport::CaseResult {
                case: "limits".into(),
                ms: 12,
                why: String::new(),
            },
            GuestReport::CaseResult {
                case: "limits".into(),
                ms: 12,
                why: "memory.max is absent".into(),
            },
            GuestReport::Failed {
                why: "master-2 ended by itself".into(),
            },
        ] {
            assert_eq!(report.to_string().parse(), Ok(report.clone()), "{report}");
        }
    }

    #[test]
    fn truncated_and_kernel_lines_are_no_reports() {
        for line in [
            "",
            "ack 1 2",
            "ack 1 2 x",
            "[    1.2] random: crng",
            "state ",
            "result limits",
            "tasks agent",
        ] {
            assert!(line.parse::<GuestReport>().is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_multi_line_reason_becomes_one_line() {
        let report = GuestReport::Failed { why: "a\nb".into() };
        assert_eq!(report.to_string(), "failed a b");
    }
}
