//! Why an agent was not offered to a framework: the closed set, and how many agents fall under each.

use std::collections::BTreeMap;
use std::fmt;

use argosy_state::ids::{AgentId, Timestamp};
use argosy_state::resources::Resources;

/// Why a framework is not offered an agent, in the order in which it is judged: each agent counts
/// once, under the first that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The framework has no stream to this leader, or is being removed.
    NotActive,
    /// The framework has too many ended tasks whose updates it has not acknowledged.
    Unacknowledged,
    /// The framework reads its stream too slowly to be sent offers.
    Behind,
    /// The framework has suppressed offers in the role.
    Suppressed,
    /// The agent was declared gone.
    Gone,
    /// The agent has not been heard of for too long.
    Unreachable,
    /// The agent is being emptied, or is empty after that.
    Draining,
    /// An operator has deactivated the agent.
    Deactivated,
    /// The agent is not connected to this leader.
    NoLink,
    /// The agent could not hold it even if it were empty.
    TooSmall,
    /// What would do is reserved for another role, or of a kind that the framework has not asked for.
    NotVisible,
    /// The role would be above its limit.
    OverLimit,
    /// The framework declined it, and no more is free there than it declined.
    Filtered,
    /// It is offered to this framework; its answer is awaited.
    Offered,
    /// It is offered to others; their answer is awaited.
    OfferedElsewhere,
    /// Tasks use it.
    Busy,
    /// So little is free that it is not worth an offer.
    BelowMinimum,
    /// Nothing stands against it: it is offered in turn.
    Ready,
}

/// What a reason means for whoever waits, the better the later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outlook {
    /// No agent in this state could, now or later.
    Never,
    /// Somebody has to allow it first.
    NotAllowed,
    /// Not while things are as they are.
    NotNow,
    /// It was, or is, on offer.
    OfferedNotUsed,
    /// At once.
    Ready,
}

impl Reason {
    /// All, in the order in which they are judged.
    pub const ALL: [Self; 18] = [
        Self::NotActive,
        Self::Unacknowledged,
        Self::Behind,
        Self::Suppressed,
        Self::Gone,
        Self::Unreachable,
        Self::Draining,
        Self::Deactivated,
        Self::NoLink,
        Self::TooSmall,
        Self::NotVisible,
        Self::OverLimit,
        Self::Filtered,
        Self::Offered,
        Self::OfferedElsewhere,
        Self::Busy,
        Self::BelowMinimum,
        Self::Ready,
    ];

    /// Its name to machines: never given a new meaning.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotActive => "not-active",
            Self::Unacknowledged => "unacknowledged",
            Self::Behind => "behind",
            Self::Suppressed => "suppressed",
            Self::Gone => "gone",
            Self::Unreachable => "unreachable",
            Self::Draining => "draining",
            Self::Deactivated => "deactivated",
            Self::NoLink => "no-link",
            Self::TooSmall => "too-small",
            Self::NotVisible => "not-visible",
            Self::OverLimit => "over-limit",
            Self::Filtered => "filtered",
            Self::Offered => "offered",
            Self::OfferedElsewhere => "offered-elsewhere",
            Self::Busy => "busy",
            Self::BelowMinimum => "below-minimum",
            Self::Ready => "ready",
        }
    }

    /// What it means for whoever waits.
    #[must_use]
    pub fn outlook(self) -> Outlook {
        match self {
            Self::TooSmall | Self::Gone => Outlook::Never,
            Self::NotActive
            | Self::Unacknowledged
            | Self::Behind
            | Self::Unreachable
            | Self::NoLink
            | Self::OfferedElsewhere
            | Self::Busy
            | Self::BelowMinimum => Outlook::NotNow,
            Self::Suppressed
            | Self::Draining
            | Self::Deactivated
            | Self::NotVisible
            | Self::OverLimit => Outlook::NotAllowed,
            Self::Filtered | Self::Offered => Outlook::OfferedNotUsed,
            Self::Ready => Outlook::Ready,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Why one agent was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub agent: AgentId,
    /// The first check that failed.
    pub reason: Reason,
    /// In words, with numbers.
    pub detail: String,
}

/// Why a framework last declined an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastDecline {
    /// A code of the framework's own; may be empty.
    pub code: String,
    /// In words; may be empty.
    pub text: String,
    /// Of which agent.
    pub agent: AgentId,
    /// Cluster time.
    pub at: Timestamp,
}

/// Why a demand is not met, agent by agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explanation {
    /// What was judged; empty means the least that is worth an offer.
    pub wanted: Resources,
    /// Agents by reason; they add up to all agents judged.
    pub counts: BTreeMap<Reason, u32>,
    /// One an agent, ascending by agent, as many as were asked for.
    pub verdicts: Vec<Verdict>,
    /// Of those too small, the one that comes nearest, and all it has.
    pub nearest: Option<(AgentId, Resources)>,
    /// The newest decline of the framework in the role.
    pub last_decline: Option<LastDecline>,
    /// Full rounds begun in this reign when this was judged.
    pub round: u64,
    /// There are more agents: go on behind this one.
    pub next: Option<AgentId>,
    /// Bytes of the words of all verdicts.
    pub(super) verdict_bytes: usize,
}

impl Explanation {
    /// Agents judged.
    #[must_use]
    pub fn agents(&self) -> u32 {
        self.counts.values().sum()
    }

    /// Agents under a reason.
    #[must_use]
    pub fn count(&self, reason: Reason) -> u32 {
        self.counts.get(&reason).copied().unwrap_or(0)
    }

    /// Adds what was judged behind this.
    pub fn extend(&mut self, later: Self) {
        for (reason, agents) in later.counts {
            *self.counts.entry(reason).or_default() += agents;
        }
        self.verdicts.extend(later.verdicts);
        self.verdict_bytes += later.verdict_bytes;
        self.nearest = match (self.nearest.take(), later.nearest) {
            (Some(a), Some(b)) => Some(super::explain::nearer(&self.wanted, a, b)),
            (a, b) => a.or(b),
        };
        self.last_decline = later.last_decline;
        self.round = later.round;
        self.next = later.next;
    }

    /// One sentence on the whole: the best outlook that any agent has.
    #[must_use]
    pub fn summary(&self) -> String {
        let outlook = self.counts.keys().map(|reason| reason.outlook()).max();
        let Some(outlook) = outlook else {
            return "there are no agents".to_owned();
        };
        let only = |reason| self.count(reason) == self.agents();
        match outlook {
            Outlook::Ready => "it is about to be offered".to_owned(),
            Outlook::OfferedNotUsed if self.count(Reason::Offered) > 0 => {
                "it is on offer; the framework has not answered yet".to_owned()
            }
            Outlook::OfferedNotUsed => match &self.last_decline {
                Some(last) if !(last.text.is_empty() && last.code.is_empty()) => {
                    let why = if last.text.is_empty() {
                        &last.code
                    } else {
                        &last.text
                    };
                    format!("it was offered, and the framework declined: {why}")
                }
                Some(_) | None => "it was offered, and the framework declined".to_owned(),
            },
            Outlook::NotAllowed if only(Reason::Suppressed) => {
                "the framework has suppressed its offers".to_owned()
            }
            Outlook::NotNow if only(Reason::NotActive) => {
                "the framework is not connected".to_owned()
            }
            Outlook::NotAllowed => "no agent that is large enough may be used".to_owned(),
            Outlook::NotNow => "every agent that is large enough is busy or away".to_owned(),
            Outlook::Never => "no agent is large enough, now or later".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_reason_is_listed_once_in_the_order_of_judging() {
        assert!(Reason::ALL.is_sorted_by(|a, b| a < b));
        let codes: std::collections::BTreeSet<_> = Reason::ALL.map(Reason::code).into();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert_eq!(Reason::ALL.len(), Reason::Ready as usize + 1);
    }
}
