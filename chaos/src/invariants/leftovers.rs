//! NoLeftovers: after a task has ended and was cleaned up, nothing of it remains: no process,
//! cgroup, mount, namespace, interface, rule or directory.

use super::Findings;
use super::facts::audits;
use crate::history::{AuditFinding, History};

/// Checks a history by its audits.
pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    for (at, _, audit) in audits(history) {
        if let AuditFinding::Leftovers {
            place,
            looked_at,
            leftovers,
        } = audit
        {
            findings.compared += looked_at;
            for left in leftovers {
                findings.violation(format!("{left} is left behind on {place}"), [at]);
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        HistoryBuilder, assert_clean, assert_nothing_compared, assert_violation,
    };

    fn audit(looked_at: u64, leftovers: &[&str]) -> HistoryBuilder {
        let leftovers = leftovers.iter().map(ToString::to_string).collect();
        let place = "agent-3".to_owned();
        HistoryBuilder::new().observe(
            "audit",
            AuditFinding::Leftovers {
                place,
                looked_at,
                leftovers,
            },
        )
    }

    #[test]
    fn a_clean_host_passes_and_an_empty_audit_compares_nothing() {
        assert_clean(check, audit(40, &[]));
        assert_nothing_compared(check, audit(0, &[]));
    }

    #[test]
    fn leftovers_are_reported() {
        assert_violation(
            check,
            audit(40, &["cgroup /argosy/x"]),
            "cgroup /argosy/x is left behind on agent-3",
        );
    }
}
