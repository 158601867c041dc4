//! Linearizability: operations on registers are linearizable, and no response is older than an
//! earlier response.

use std::collections::BTreeMap;

use argosy_state::ids::Revision;

use super::Findings;
use crate::history::{Consistency, History, Operation};
use crate::linearizability::{Budget, SearchOutcome, registers, search};

/// Steps of the search for one register: a few seconds, with the same result on every machine.
const MAX_STEPS: u64 = 20_000_000;

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    for (key, calls) in registers(history) {
        findings.compared += calls.len() as u64;
        match search(&calls, Budget::Steps(MAX_STEPS)) {
            SearchOutcome::Linearizable => {}
            SearchOutcome::Undecided => findings.undecided.push(key.to_owned()),
            SearchOutcome::Impossible { stuck } => {
                let call = calls[stuck];
                let events: Vec<usize> = std::iter::once(call.start).chain(call.end).collect();
                findings.violation(
                    format!(
                        "no order of the {} calls on {key} explains {:?}",
                        calls.len(),
                        call.action
                    ),
                    events,
                );
            }
        }
    }
    check_revisions(history, &mut findings);
    findings
}

/// A call whose response has a revision.
struct RevisionedCall {
    start: usize,
    end: usize,
    revision: Revision,
}

/// Checks the revisions of responses for each register: a response is not older than any response
/// before the call began.
fn check_revisions(history: &History, findings: &mut Findings) {
    let mut answered: BTreeMap<&str, Vec<RevisionedCall>> = BTreeMap::new();
    for call in history.calls() {
        let key = match call.operation {
            Operation::Read {
                key,
                consistency: Consistency::Linearizable,
            } => key,
            Operation::Write { key, .. } => key,
            _ => continue,
        };
        let (Some((ended, event)), Some(_)) = (call.end, call.outcome()) else {
            continue;
        };
        if let Some(revision) = event.revision {
            let begun = call.position;
            answered.entry(key).or_default().push(RevisionedCall {
                start: begun,
                end: ended,
                revision,
            });
        }
    }
    for (key, mut calls) in answered {
        calls.sort_by_key(|call| call.end);
        let mut newest: Vec<usize> = Vec::with_capacity(calls.len());
        for (place, call) in calls.iter().enumerate() {
            let before = newest.last().copied().unwrap_or(place);
            let is_newer = call.revision >= calls[before].revision;
            newest.push(if is_newer { place } else { before });
        }
        for call in &calls {
            let before = calls.partition_point(|other| other.end < call.start);
            let Some(last) = before.checked_sub(1) else {
                continue;
            };
            let other = &calls[newest[last]];
            let shown = [other.end, call.start, call.end];
            findings.require(call.revision >= other.revision, shown, || {
                let (now, then) = (call.revision.index, other.revision.index);
                format!(
                    "{key} was answered as of entry {now}, after it had been answered as of {then}"
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::OperationResponse;
    use crate::invariants::fixture::{
        CallEnd, HistoryBuilder, assert_clean, assert_nothing_compared, assert_violation,
    };

    fn read(consistency: Consistency) -> Operation {
        let key = "weight/batch".to_owned();
        Operation::Read { key, consistency }
    }

    fn write(value: &str) -> Operation {
        Operation::Write {
            key: "weight/batch".to_owned(),
            value: Some(value.to_owned()),
            request: String::new(),
        }
    }

    fn found(value: &str) -> CallEnd {
        let value = Some(value.to_owned());
        CallEnd::Ok(OperationResponse::Value { value })
    }

    #[test]
    fn timeouts_rejections_and_stale_local_reads_pass() {
        let builder = HistoryBuilder::new()
            .call("a", write("1"), CallEnd::Ok(OperationResponse::Done))
            .call("a", write("2"), CallEnd::Info)
            .call("b", write("3"), CallEnd::Fail("invalid"))
            .call("b", read(Consistency::Linearizable), found("1"))
            .call("b", read(Consistency::Linearizable), found("2"))
            .call("b", read(Consistency::Local), found("1"))
            .call("b", read(Consistency::Linearizable), CallEnd::Info);
        assert_clean(check, builder);
        assert_nothing_compared(
            check,
            HistoryBuilder::new().call("b", read(Consistency::Local), found("1")),
        );
    }

    #[test]
    fn a_stale_read_is_reported() {
        let builder = HistoryBuilder::new()
            .call("a", write("1"), CallEnd::Ok(OperationResponse::Done))
            .call("a", write("2"), CallEnd::Ok(OperationResponse::Done))
            .call("b", read(Consistency::Linearizable), found("1"));
        assert_violation(check, builder, "weight/batch");
    }

    #[test]
    fn the_effect_of_a_rejected_write_is_reported() {
        let builder = HistoryBuilder::new()
            .call("a", write("1"), CallEnd::Fail("invalid"))
            .call("b", read(Consistency::Linearizable), found("1"));
        assert_violation(check, builder, "no order");
    }

    #[test]
    fn a_response_with_an_older_revision_is_reported() {
        let builder = |index| {
            HistoryBuilder::new()
                .begin("a", read(Consistency::Linearizable))
                .end_at("a", 1, index, None)
                .begin("b", read(Consistency::Linearizable))
                .end_at("b", 2, 7, None)
        };
        assert_clean(check, builder(7));
        assert_violation(check, builder(8), "as of entry 7, after");
    }
}
