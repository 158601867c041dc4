//! ResourceConservation: for every agent, after every entry, the used, offered and free resources
//! add up to the total.

use super::Findings;
use super::facts::of_agents;
use crate::history::{AgentFact, History};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    for (at, _, fact) in of_agents(history) {
        let AgentFact::Account {
            agent,
            index,
            total,
            used,
            offered,
            free,
        } = fact
        else {
            continue;
        };
        let sum = used.plus(offered).and_then(|sum| sum.plus(free));
        findings.require(sum.as_ref() == Some(total), [at], || match sum {
            Some(sum) => format!("after entry {index} {agent} gives {total}, but used, offered and free are {sum}"),
            None => format!("after entry {index} of {agent} something is used, offered or free twice: {used}; {offered}; {free}"),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        AGENT, HistoryBuilder, assert_clean, assert_violation, resources,
    };

    fn account(used: &str, free: &str) -> HistoryBuilder {
        let seen = AgentFact::Account {
            agent: AGENT,
            index: 9,
            total: resources("cpus:4;ports:[1-9]"),
            used: resources(used),
            offered: resources("cpus:1"),
            free: resources(free),
        };
        HistoryBuilder::new().observe("master-1", seen)
    }

    #[test]
    fn a_balanced_account_passes() {
        assert_clean(check, account("cpus:2;ports:[1-3]", "cpus:1;ports:[4-9]"));
    }

    #[test]
    fn a_difference_of_a_thousandth_is_reported() {
        let lost = account("cpus:2;ports:[1-3]", "cpus:0.999;ports:[4-9]");
        assert_violation(check, lost, "after entry 9 agent-5 gives");
        let freed_twice = account("cpus:2;ports:[1-3]", "cpus:1.001;ports:[4-9]");
        assert_violation(check, freed_twice, "used, offered and free are");
    }

    #[test]
    fn a_port_that_is_used_and_free_is_reported() {
        assert_violation(
            check,
            account("cpus:2;ports:[1-3]", "cpus:1;ports:[3-9]"),
            "twice",
        );
    }
}
