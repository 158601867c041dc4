//! AccessEnforcement: once a denial or a revocation is acknowledged, no call that begins later
//! succeeds by the right that it took. A caller that has a right is not refused.
//!
//! Calls that a leader decides, and linearizable reads, are ordered by time. A read of the copy of
//! one master may be older: it is decided by the facts of the log index at which it is read.

use std::collections::BTreeMap;

use super::Findings;
use crate::history::{CallView, DecidedBy, History, HistoryEvent, Operation};

/// The reason of a call that was refused because of its caller.
pub(crate) const DENIED: &str = "access-denied";

/// A change of a right that took place, or may have taken place.
struct Change {
    is_allowed: bool,
    start: usize,
    /// The position of its acknowledgement.
    end: Option<usize>,
    /// The log index of an acknowledged change.
    index: Option<u64>,
}

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let calls = history.calls();
    let mut changes: BTreeMap<&str, Vec<Change>> = BTreeMap::new();
    for call in &calls {
        if let Operation::SetRight { right, is_allowed } = call.operation
            && call.failure().is_none()
        {
            let end = call.outcome().and(call.end);
            changes.entry(right).or_default().push(Change {
                is_allowed: *is_allowed,
                start: call.position,
                end: end.map(|(position, _)| position),
                index: end.and_then(|(_, event)| index(event)),
            });
        }
    }
    for call in &calls {
        if let Operation::UseRight { right, decided_by } = call.operation
            && let Some(used) = UsedRight::of(right, call)
            && let Some(changes) = changes.get(right.as_str())
        {
            match decided_by {
                DecidedBy::Leader => used.check_by_time(&mut findings, changes),
                DecidedBy::Master { min_index } => {
                    used.check_by_index(&mut findings, changes, *min_index)
                }
            }
        }
    }
    findings
}

/// A call that was served, or refused because of its caller.
struct UsedRight<'a> {
    right: &'a str,
    start: usize,
    end: usize,
    is_served: bool,
    /// The log index of the answer.
    index: Option<u64>,
}

impl<'a> UsedRight<'a> {
    /// Returns `None` for a call with another end.
    fn of(right: &'a str, call: &CallView<'_>) -> Option<Self> {
        let (end, event) = call.end?;
        let is_served = call.outcome().is_some();
        (is_served || call.failure() == Some(DENIED)).then_some(Self {
            right,
            start: call.position,
            end,
            is_served,
            index: index(event),
        })
    }

    /// Checks a decision about the state at some time between the beginning and the end of the
    /// call.
    fn check_by_time(&self, findings: &mut Findings, changes: &[Change]) {
        let is_before = |change: &&Change| change.end.is_some_and(|end| end < self.start);
        let former = changes.iter().filter(is_before);
        let former = former.max_by_key(|change| change.start);
        let since = former.map_or(0, |change| change.start);
        let later = changes
            .iter()
            .filter(|change| change.start > since && change.start < self.end);
        self.require(findings, former, later);
    }

    /// Checks a decision about the copy of one master, whose log index is that of the answer, or
    /// `min_index` at least.
    fn check_by_index(&self, findings: &mut Findings, changes: &[Change], min_index: u64) {
        let (least, most) = match self.index {
            Some(index) if self.is_served => (index, index),
            _ => (min_index, u64::MAX),
        };
        let is_in = |change: &&Change| change.index.is_some_and(|index| index <= least);
        let former = changes.iter().filter(is_in);
        let former = former.max_by_key(|change| change.index);
        let may_be_in = |change: &&Change| {
            let is_later = change
                .index
                .is_none_or(|index| index > least && index <= most);
            is_later && change.start < self.end
        };
        self.require(findings, former, changes.iter().filter(may_be_in));
    }

    /// Requires that one of the states that the decision may be about explains it.
    fn require<'c>(
        &self,
        findings: &mut Findings,
        former: Option<&'c Change>,
        later: impl Iterator<Item = &'c Change>,
    ) {
        let Some(former) = former else {
            return;
        };
        let mut possible = std::iter::once(former).chain(later);
        let explains = possible.any(|change| change.is_allowed == self.is_served);
        let events = [former.start, self.start, self.end];
        findings.require(explains, events, || {
            let (right, index) = (self.right, former.index.unwrap_or(0));
            match self.is_served {
                true => format!("a call used {right}, which was taken at index {index}"),
                false => format!("a call was refused, and {right} was given at index {index}"),
            }
        });
    }
}

fn index(event: &HistoryEvent) -> Option<u64> {
    event.revision.map(|revision| revision.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        CallEnd, HistoryBuilder, assert_clean, assert_nothing_compared, assert_violation,
    };

    const RIGHT: &str = "operator/prober view-agent";

    fn set(is_allowed: bool) -> Operation {
        let right = RIGHT.to_owned();
        Operation::SetRight { right, is_allowed }
    }

    fn used(decided_by: DecidedBy) -> Operation {
        let right = RIGHT.to_owned();
        Operation::UseRight { right, decided_by }
    }

    /// A history in which the first call gives the right at index 10, and the second takes it at
    /// index 20.
    fn denied() -> HistoryBuilder {
        HistoryBuilder::new()
            .begin("admin", set(true))
            .end_done_at("admin", 1, 10)
            .begin("admin", set(false))
            .end_done_at("admin", 2, 20)
    }

    #[test]
    fn a_leader_decides_by_the_last_acknowledged_change() {
        let begun = denied().begin("prober", used(DecidedBy::Leader));
        assert_clean(check, begun.clone().end("prober", 3, CallEnd::Fail(DENIED)));
        let served = begun.end_done_at("prober", 3, 21);
        assert_violation(check, served, "which was taken at index 20");
        let refused = HistoryBuilder::new()
            .begin("admin", set(true))
            .end_done_at("admin", 1, 10)
            .call("prober", used(DecidedBy::Leader), CallEnd::Fail(DENIED));
        assert_violation(check, refused, "was given at index 10");
    }

    #[test]
    fn a_call_that_overlaps_a_change_may_be_decided_either_way() {
        let begun = HistoryBuilder::new()
            .begin("admin", set(true))
            .end_done_at("admin", 1, 10)
            .begin("prober", used(DecidedBy::Leader))
            .begin("admin", set(false));
        let served = begun.clone().end_done_at("prober", 2, 11);
        assert_clean(check, served.end_done_at("admin", 3, 20));
        let refused = begun.end("prober", 2, CallEnd::Fail(DENIED));
        assert_clean(check, refused.end("admin", 3, CallEnd::Info));
    }

    #[test]
    fn a_read_of_one_master_is_decided_by_the_index_of_its_answer() {
        let local = |min_index| used(DecidedBy::Master { min_index });
        let begun = denied().begin("prober", local(0));
        assert_clean(check, begun.clone().end_done_at("prober", 3, 19));
        let served = begun.end_done_at("prober", 3, 20);
        assert_violation(check, served, "which was taken at index 20");
        let given = denied()
            .begin("admin", set(true))
            .end_done_at("admin", 3, 30);
        let refused = |min_index| {
            let begun = given.clone().begin("prober", local(min_index));
            begun.end("prober", 4, CallEnd::Fail(DENIED))
        };
        assert_clean(check, refused(25));
        assert_violation(check, refused(30), "was given at index 30");
    }

    #[test]
    fn calls_with_another_end_and_unknown_rights_are_ignored() {
        let lost = denied().call("prober", used(DecidedBy::Leader), CallEnd::Info);
        assert_nothing_compared(check, lost);
        let refused = CallEnd::Fail("unknown-agent");
        let failed = denied().call("prober", used(DecidedBy::Leader), refused);
        assert_nothing_compared(check, failed);
        let unknown = HistoryBuilder::new()
            .begin("prober", used(DecidedBy::Leader))
            .end_done_at("prober", 1, 5);
        assert_nothing_compared(check, unknown);
        let never = HistoryBuilder::new().call("admin", set(false), CallEnd::Fail("no-leader"));
        let never = never.begin("prober", used(DecidedBy::Leader));
        assert_nothing_compared(check, never.end_done_at("prober", 2, 5));
    }
}
