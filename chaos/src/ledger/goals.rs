//! The sums that must be reached before a release.

use super::page::number;
use super::sums::{LedgerTotals, totals};
use super::targets;
use super::{LedgerLine, RAFT, SYSTEM};
use crate::faults::graphs;

/// A sum that must be reached before a release.
pub(super) struct ReleaseGoal {
    pub(super) name: &'static str,
    pub(super) minimum: u64,
    pub(super) value: fn(&LedgerTotals) -> u64,
}

pub(super) const GOALS: [ReleaseGoal; 12] = [
    ReleaseGoal {
        name: "simulated hours of the whole system",
        minimum: 100,
        value: |sums| sums.all.of(SYSTEM).seconds / 3600,
    },
    ReleaseGoal {
        name: "faults in them, without repairs",
        minimum: 100_000,
        value: |sums| sums.all.of(SYSTEM).faults,
    },
    ReleaseGoal {
        name: "kinds of connectivity graphs of five masters, each with each kind of place for the leader",
        minimum: graphs::CLASSES,
        value: |sums| sums.all.graphs.range(..graphs::CLASSES).count() as u64,
    },
    ReleaseGoal {
        name: "connectivity graphs of five masters, each with each place of the leader",
        minimum: graphs::CASES,
        value: |sums| sums.all.graphs.len() as u64,
    },
    ReleaseGoal {
        name: "seeds of raft alone",
        minimum: 20_000,
        value: |sums| sums.all.of(RAFT).seeds,
    },
    ReleaseGoal {
        name: "leaders of real processes killed",
        minimum: 1_000,
        value: |sums| sums.all.kills(),
    },
    ReleaseGoal {
        name: "power cuts",
        minimum: 300,
        value: |sums| sums.all.cuts(),
    },
    ReleaseGoal {
        name: "power cuts after at least 1,000 acknowledged operations since the boot",
        minimum: 200,
        value: |sums| sums.all.loaded_cuts(),
    },
    ReleaseGoal {
        name: "power cuts of a machine with an agent and launched tasks",
        minimum: 300,
        value: |sums| sums.all.task_cuts(),
    },
    ReleaseGoal {
        name: "fuzz targets that were executed at least 10,000,000 times",
        minimum: 25,
        value: |sums| targets::sufficient(&sums.all),
    },
    ReleaseGoal {
        name: "seeds of the whole system since the newest fix",
        minimum: 2_000,
        value: |sums| sums.since_fix.of(SYSTEM).seeds,
    },
    ReleaseGoal {
        name: "leaders of real processes killed since the newest fix",
        minimum: 100,
        value: |sums| sums.since_fix.kills(),
    },
];

/// Returns a message for each minimum of a release that the lines do not reach.
#[must_use]
pub fn shortfalls(lines: &[LedgerLine]) -> Vec<String> {
    let totals = totals(lines);
    let mut short = Vec::new();
    for goal in &GOALS {
        let reached = (goal.value)(&totals);
        if reached < goal.minimum {
            let [reached, least] = [reached, goal.minimum].map(number);
            short.push(format!("{}: {reached}, at least {least}", goal.name));
        }
    }
    let violations = totals.since_fix.violations();
    if violations > 0 {
        let violations = number(violations);
        short.push(format!(
            "violations since the newest fix: {violations}, at most 0"
        ));
    }
    short
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    #[test]
    fn missed_minimums_and_violations_are_shortfalls_of_a_release() {
        let enough = r#"
{"tier":"sim-system","seed":1,"seeds":2000,"seconds":360000,"faults":9}
{"event":"end","batch":"b","tier":"sim-system","seed":1,"seeds":1,"faults":100000}
{"tier":"sim-graphs","seed":1,"seeds":5120}
{"tier":"sim-raft","seed":1,"seeds":20000}
{"tier":"real","seed":1,"leader_kills":1000}
{"tier":"power","seed":1,"power_cuts":300,"loaded_cuts":200,"task_cuts":300}
"#;
        let enough = &[enough, &targets::enough()].concat();
        let short = |text: &str| shortfalls(&read(text).unwrap());
        assert_eq!(short(enough), [""; 0]);
        assert_eq!(
            short(&enough.replace("\"power_cuts\":300", "\"power_cuts\":299")),
            ["power cuts: 299, at least 300"]
        );
        let wanted = "power cuts after at least 1,000 acknowledged operations since the boot";
        assert_eq!(
            short(&enough.replace("\"loaded_cuts\":200", "\"loaded_cuts\":199")),
            [format!("{wanted}: 199, at least 200")]
        );
        let violated = r#"{"tier":"real","seed":2,"violations":1}"#;
        assert_eq!(
            short(&format!("{enough}{violated}\n")),
            ["violations since the newest fix: 1, at most 0"]
        );
        assert_eq!(short("").len(), GOALS.len());
    }
}
