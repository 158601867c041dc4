//! Reasons for which an agent was not offered to a framework: the closed set, and the number of
//! agents under each.

use std::collections::BTreeMap;
use std::fmt;

use argosy_state::ids::{AgentId, Timestamp};
use argosy_state::resources::{Resource, Resources};

/// The reason for which a framework is not offered an agent, in the order of the checks. Each agent
/// counts once, under the first check that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SkipReason {
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
    /// No heartbeat of the agent has arrived in time.
    Unreachable,
    /// An operator has withdrawn the agent from offers.
    Deactivated,
    /// The agent is not connected to this leader.
    NoLink,
    /// The agent could not hold the request even if it were empty.
    TooSmall,
    /// Sufficient resources are reserved for another role, or of a kind that the framework has not
    /// requested.
    NotVisible,
    /// The role would exceed its limit.
    OverLimit,
    /// The framework declined the agent, and the free resources there do not exceed the declined
    /// ones.
    Filtered,
    /// The agent is on offer to this framework, which has not answered yet.
    Offered,
    /// The agent is on offer to other frameworks, which have not answered yet.
    OfferedElsewhere,
    /// Tasks use the resources.
    Busy,
    /// The free resources are below the minimum that is worth an offer.
    BelowMinimum,
    /// No check fails: the agent is offered in turn.
    Ready,
}

/// The meaning of a reason for a waiting framework; later variants are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outlook {
    /// No agent in this state could ever hold the request.
    Never,
    /// An operator or a framework has to allow it first.
    NotAllowed,
    /// Not in the current state of the cluster.
    NotNow,
    /// The resources were, or are, on offer.
    OfferedNotUsed,
    /// The agent is offered in turn.
    Ready,
}

impl SkipReason {
    /// All reasons, in the order of the checks.
    pub const ALL: [Self; 17] = [
        Self::NotActive,
        Self::Unacknowledged,
        Self::Behind,
        Self::Suppressed,
        Self::Gone,
        Self::Unreachable,
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

    /// Returns the stable machine-readable code, which never changes its meaning.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotActive => "not-active",
            Self::Unacknowledged => "unacknowledged",
            Self::Behind => "behind",
            Self::Suppressed => "suppressed",
            Self::Gone => "gone",
            Self::Unreachable => "unreachable",
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

    /// Returns the outlook for a waiting framework.
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
            Self::Suppressed | Self::Deactivated | Self::NotVisible | Self::OverLimit => {
                Outlook::NotAllowed
            }
            Self::Filtered | Self::Offered => Outlook::OfferedNotUsed,
            Self::Ready => Outlook::Ready,
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The result for one agent that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedAgent {
    /// The agent that was evaluated.
    pub agent: AgentId,
    /// The first check that failed.
    pub reason: SkipReason,
    /// A human-readable detail, with numbers.
    pub detail: String,
}

/// A framework's most recent decline of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastDecline {
    /// The framework's own code; may be empty.
    pub code: String,
    /// The framework's own text; may be empty.
    pub text: String,
    /// The agent whose offer was declined.
    pub agent: AgentId,
    /// The cluster time of the decline.
    pub at: Timestamp,
}

/// The reasons for which a demand is not met, agent by agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DemandExplanation {
    /// The resources that were requested; empty means the minimum that is worth an offer.
    pub wanted: Resources,
    /// Agents by reason; the counts add up to all evaluated agents.
    pub counts: BTreeMap<SkipReason, u32>,
    /// Those under `Filtered` and `Offered` of which the framework was offered a remainder only:
    /// tasks, or offers to others, hold the rest.
    pub(super) remainders: BTreeMap<SkipReason, u32>,
    /// The reason of each agent, ascending by agent, up to the requested number.
    pub skipped: Vec<SkippedAgent>,
    /// The agent that comes closest among those that are too small, and its total.
    pub nearest: Option<(AgentId, Resources)>,
    /// The newest decline of the framework in the role.
    pub last_decline: Option<LastDecline>,
    /// Full rounds that had begun in this epoch at the time of this explanation.
    pub round: u64,
    /// The last agent of this page if more follow: continue after it.
    pub next: Option<AgentId>,
    /// Bytes of all details.
    pub(super) detail_bytes: usize,
}

impl DemandExplanation {
    /// Returns the number of evaluated agents.
    #[must_use]
    pub fn agents(&self) -> u32 {
        self.counts.values().sum()
    }

    /// Returns the number of agents under a reason.
    #[must_use]
    pub fn count(&self, reason: SkipReason) -> u32 {
        self.counts.get(&reason).copied().unwrap_or(0)
    }

    /// Appends the next page.
    pub fn extend(&mut self, later: Self) {
        for (reason, agents) in later.counts {
            *self.counts.entry(reason).or_default() += agents;
        }
        for (reason, agents) in later.remainders {
            *self.remainders.entry(reason).or_default() += agents;
        }
        self.skipped.extend(later.skipped);
        self.detail_bytes += later.detail_bytes;
        self.nearest = match (self.nearest.take(), later.nearest) {
            (Some(a), Some(b)) => Some(nearer(&self.wanted, a, b)),
            (a, b) => a.or(b),
        };
        self.last_decline = later.last_decline;
        self.round = later.round;
        self.next = later.next;
    }

    /// Returns a one-sentence summary: the best outlook of any agent.
    #[must_use]
    pub fn summary(&self) -> String {
        let outlook = self.counts.keys().map(|reason| reason.outlook()).max();
        let Some(outlook) = outlook else {
            return "there are no agents".to_owned();
        };
        let only = |reason| self.count(reason) == self.agents();
        match outlook {
            Outlook::Ready => "it is about to be offered".to_owned(),
            Outlook::OfferedNotUsed if self.count(SkipReason::Offered) > 0 => {
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
            Outlook::NotAllowed if only(SkipReason::Suppressed) => {
                "the framework has suppressed its offers".to_owned()
            }
            Outlook::NotNow if only(SkipReason::NotActive) => {
                "the framework is not connected".to_owned()
            }
            Outlook::NotAllowed => "no agent that is large enough may be used".to_owned(),
            Outlook::NotNow => "every agent that is large enough is busy or away".to_owned(),
            Outlook::Never => "no agent is large enough, now or later".to_owned(),
        }
    }
}

/// Returns the agent that comes closer to the requested resources. Each is rated by the kind of
/// which it has the smallest fraction of the request. The first agent wins a tie.
pub(super) fn nearer(
    wanted: &Resources,
    first: (AgentId, Resources),
    second: (AgentId, Resources),
) -> (AgentId, Resources) {
    // The worst kind as (have, asked); compared by cross-multiplication.
    let worst = |have: &Resources| {
        let parts = wanted.iter().map(|asked| {
            let asked_milli = asked.value.scalar_milli();
            let have_milli = have.scalar_milli(&asked.identity.name).min(asked_milli);
            if asked_milli > 0 {
                (i128::from(have_milli), i128::from(asked_milli))
            } else {
                (i128::from(covers(have, asked)), 1)
            }
        });
        parts
            .min_by(|a, b| (a.0 * b.1).cmp(&(b.0 * a.1)))
            .unwrap_or((0, 1))
    };
    let (a, b) = (worst(&first.1), worst(&second.1));
    if b.0 * a.1 > a.0 * b.1 { second } else { first }
}

/// Returns whether `have` contains the requested amount, whatever its reservation.
pub(super) fn covers(have: &Resources, asked: &Resource) -> bool {
    let milli = asked.value.scalar_milli();
    if milli > 0 {
        have.scalar_milli(&asked.identity.name) >= milli
    } else {
        have.contains_part(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::SkipReason;

    #[test]
    fn every_reason_is_listed_once_in_order_of_evaluation() {
        assert!(SkipReason::ALL.is_sorted_by(|a, b| a < b));
        let codes: std::collections::BTreeSet<_> = SkipReason::ALL.map(SkipReason::code).into();
        assert_eq!(codes.len(), SkipReason::ALL.len());
        assert_eq!(SkipReason::ALL.len(), SkipReason::Ready as usize + 1);
    }
}
