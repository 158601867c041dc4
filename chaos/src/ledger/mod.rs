//! The ledger of all runs: lines that harnesses append, and the page that adds them up, so that
//! "cumulative" can be audited. It believes no sum that a line states; it makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::sim::graphs;

/// The harness whose seeds play connectivity graphs: which ones follows from their numbers.
pub(crate) const GRAPHS: &str = "sim-graphs";

/// One run, or a row of runs over several seeds, as a JSON line. What a harness does not know it
/// leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Run {
    /// Which harness: "sim-raft", "sim-system", "sim-graphs", "real", "power", "failover", "prove".
    pub tier: String,
    /// Of which commit the binaries were.
    #[serde(default)]
    pub commit: String,
    /// The first seed.
    #[serde(default)]
    pub seed: u64,
    /// How many seeds, from the first one on; a line without it is one run.
    #[serde(default = "one")]
    pub seeds: u64,
    /// Seconds that passed in the cluster: simulated ones, or real.
    #[serde(default)]
    pub seconds: u64,
    /// Faults of all kinds.
    #[serde(default)]
    pub faults: u64,
    /// Leaders of real processes that were killed.
    #[serde(default)]
    pub leader_kills: u64,
    /// Power cuts.
    #[serde(default)]
    pub power_cuts: u64,
    /// Changes of leader.
    #[serde(default)]
    pub leader_changes: u64,
    /// Operations of known end.
    #[serde(default)]
    pub operations: u64,
    /// Rules that did not hold.
    #[serde(default)]
    pub violations: u64,
    /// What the run did not reach of its own minimum; a run that proves too little adds nothing.
    #[serde(default)]
    pub proves_too_little: bool,
}

fn one() -> u64 {
    1
}

/// A bug that was found on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What was wrong, in a line.
    pub bug: String,
    /// How to see it again: a seed or a script.
    pub seed: String,
    /// Why it was so.
    pub cause: String,
    /// The commit that mended it; empty while it is open.
    #[serde(default)]
    pub fix: String,
    /// The test that keeps it.
    #[serde(default)]
    pub test: String,
}

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// A bug.
    Found(Found),
    /// A run.
    Run(Run),
}

/// A line that is none.
#[derive(Debug, thiserror::Error)]
#[error("line {number} of the ledger is neither a run nor a bug")]
pub struct LedgerError {
    /// From 1.
    pub number: usize,
    source: serde_json::Error,
}

/// Reads the lines; empty ones are passed over.
///
/// # Errors
/// The first line that is none.
pub fn read(text: &str) -> Result<Vec<Line>, LedgerError> {
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(place, line)| {
            serde_json::from_str(line).map_err(|source| LedgerError {
                number: place + 1,
                source,
            })
        })
        .collect()
}

/// What must be reached in sum before a release.
struct Goal {
    what: &'static str,
    least: u64,
    reached: fn(&Totals) -> u64,
}

const GOALS: [Goal; 8] = [
    Goal {
        what: "simulated hours of the whole system",
        least: 60,
        reached: |sums| sums.all.of("sim-system").seconds / 3600,
    },
    Goal {
        what: "faults in them",
        least: 100_000,
        reached: |sums| sums.all.of("sim-system").faults,
    },
    Goal {
        what: "kinds of connectivity graphs of five masters, each with each kind of place for the leader",
        least: graphs::CLASSES,
        reached: |sums| sums.all.graphs.range(..graphs::CLASSES).count() as u64,
    },
    Goal {
        what: "connectivity graphs of five masters, each with each place of the leader",
        least: graphs::CASES,
        reached: |sums| sums.all.graphs.len() as u64,
    },
    Goal {
        what: "leaders of real processes killed",
        least: 1_000,
        reached: |sums| sums.all.kills(),
    },
    Goal {
        what: "power cuts",
        least: 200,
        reached: |sums| sums.all.by_tier.values().map(|sum| sum.power_cuts).sum(),
    },
    Goal {
        what: "seeds of the whole system since the newest fix",
        least: 2_000,
        reached: |sums| sums.since_fix.of("sim-system").seeds,
    },
    Goal {
        what: "leaders of real processes killed since the newest fix",
        least: 100,
        reached: |sums| sums.since_fix.kills(),
    },
];

#[derive(Default)]
struct Sums {
    by_tier: BTreeMap<String, Run>,
    too_little: u64,
    /// Connectivity graphs that were played, by their numbers.
    graphs: BTreeSet<u64>,
}

/// Of all runs, and of those whose lines follow the newest bug that was mended.
#[derive(Default)]
struct Totals {
    all: Sums,
    since_fix: Sums,
}

impl Sums {
    fn of(&self, tier: &str) -> Run {
        self.by_tier.get(tier).cloned().unwrap_or_default()
    }

    fn kills(&self) -> u64 {
        self.by_tier.values().map(|sum| sum.leader_kills).sum()
    }

    fn violations(&self) -> u64 {
        self.by_tier.values().map(|sum| sum.violations).sum()
    }

    fn add(&mut self, run: &Run) {
        let sum = self.by_tier.entry(run.tier.clone()).or_default();
        // A violation counts whatever else a run has shown.
        sum.violations += run.violations;
        if run.proves_too_little {
            self.too_little += 1;
            return;
        }
        if run.tier == GRAPHS {
            // More seeds than that play the same again.
            let seeds = run.seed..run.seed.saturating_add(run.seeds.min(graphs::CASES));
            self.graphs.extend(seeds.flat_map(graphs::numbers));
        }
        sum.seeds += run.seeds;
        sum.seconds += run.seconds;
        sum.faults += run.faults;
        sum.leader_kills += run.leader_kills;
        sum.power_cuts += run.power_cuts;
        sum.leader_changes += run.leader_changes;
        sum.operations += run.operations;
    }
}

fn totals(lines: &[Line]) -> Totals {
    let mut totals = Totals::default();
    for line in lines {
        match line {
            Line::Run(run) => {
                totals.all.add(run);
                totals.since_fix.add(run);
            }
            Line::Found(found) if !found.fix.is_empty() => totals.since_fix = Sums::default(),
            Line::Found(_) => {}
        }
    }
    totals
}

/// The page: sums against what is asked for, sums by harness, bugs, and every commit's runs.
#[must_use]
pub fn render(lines: &[Line]) -> String {
    let totals = totals(lines);
    let mut page = String::from(
        "# Ledger of the chaos runs\n\nMade from `chaos-ledger.jsonl`, to which every run appends a line. A run that proves too little\nadds nothing but its violations. The line of a mended bug stands after those of all runs that it was in.\n\n## Reached\n\n| What | At least | Reached |\n|---|--:|--:|\n",
    );
    for goal in &GOALS {
        line(
            &mut page,
            &[
                goal.what.to_owned(),
                number(goal.least),
                number((goal.reached)(&totals)),
            ],
        );
    }
    for (what, most, reached) in [
        (
            "violations since the newest fix",
            "0 at most",
            totals.since_fix.violations(),
        ),
        ("violations ever", "–", totals.all.violations()),
        ("runs that prove too little", "–", totals.all.too_little),
    ] {
        line(
            &mut page,
            &[what.to_owned(), most.to_owned(), number(reached)],
        );
    }
    page.push_str("\n## By harness\n\n");
    page.push_str(HEAD);
    for (tier, sum) in &totals.all.by_tier {
        row(&mut page, tier, sum);
    }
    bugs(&mut page, lines);
    commits(&mut page, lines);
    page
}

const HEAD: &str = "| | Runs | Seconds | Faults | Leader kills | Power cuts | Changes of leader | Operations | Violations |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n";

fn row(page: &mut String, name: &str, run: &Run) {
    let numbers = [
        run.seeds,
        run.seconds,
        run.faults,
        run.leader_kills,
        run.power_cuts,
        run.leader_changes,
        run.operations,
        run.violations,
    ];
    let cells: Vec<String> = std::iter::once(name.to_owned())
        .chain(numbers.map(number))
        .collect();
    line(page, &cells);
}

fn bugs(page: &mut String, lines: &[Line]) {
    page.push_str("\n## Bugs found\n\n| Bug | Seed or script | Cause | Fix | Kept by |\n|---|---|---|---|---|\n");
    for found in lines {
        if let Line::Found(found) = found {
            let Found {
                bug,
                seed,
                cause,
                fix,
                test,
            } = found;
            let fix = if fix.is_empty() { "open" } else { fix };
            let cells = [bug, seed, cause, fix, test].map(ToOwned::to_owned);
            line(page, &cells);
        }
    }
}

/// The runs of each commit and harness, the newest commit first.
fn commits(page: &mut String, lines: &[Line]) {
    page.push_str("\n## By commit\n\n");
    page.push_str(HEAD);
    let mut order: Vec<&str> = Vec::new();
    let mut by_commit: BTreeMap<&str, Sums> = BTreeMap::new();
    for found in lines {
        if let Line::Run(run) = found {
            order.retain(|commit| *commit != run.commit);
            order.push(&run.commit);
            by_commit.entry(&run.commit).or_default().add(run);
        }
    }
    for commit in order.into_iter().rev() {
        for (tier, sum) in &by_commit[commit].by_tier {
            row(page, &format!("{commit} {tier}"), sum);
        }
    }
}

fn line(page: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    // Writing to a string never fails.
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}

/// 1234567 as "1,234,567".
fn number(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for group in digits.as_bytes()[first..].chunks(3) {
        if !text.is_empty() {
            text.push(',');
        }
        text.extend(group.iter().map(|digit| char::from(*digit)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"
{"tier":"sim-system","commit":"aaa","seed":1,"seeds":1500,"seconds":7200,"faults":40000,"operations":9}
{"tier":"real","commit":"bbb","version":"0.1.0","seed":7,"seconds":60,"leader_kills":25,"violations":0}
{"tier":"real","commit":"bbb","seed":8,"seconds":60,"leader_kills":99,"violations":2,"proves_too_little":true}
{"tier":"sim-graphs","commit":"bbb","seed":14,"seeds":2,"seconds":140}
{"tier":"sim-graphs","commit":"bbb","seed":15,"seeds":2,"seconds":140}
{"bug":"a|b","seed":"seed 4","cause":"c","fix":"","test":"t"}
{"bug":"d","seed":"seed 5","cause":"c","fix":"bbb","test":"t"}
{"tier":"sim-system","commit":"bbb","seed":1,"seeds":500,"seconds":3600,"faults":1000}
{"bug":"open ones change nothing","seed":"seed 6","cause":"c"}
{"tier":"real","commit":"bbb","seed":9,"leader_kills":3}
"#;

    #[test]
    fn sums_are_made_and_a_run_that_proves_too_little_adds_only_violations() {
        let page = render(&read(LINES).unwrap());
        for wanted in [
            "| simulated hours of the whole system | 60 | 3 |",
            "| faults in them | 100,000 | 41,000 |",
            "| leaders of real processes killed | 1,000 | 28 |",
            "| seeds of the whole system since the newest fix | 2,000 | 500 |",
            "| leaders of real processes killed since the newest fix | 100 | 3 |",
            "| violations since the newest fix | 0 at most | 0 |",
            "| violations ever | – | 2 |",
            "each with each place of the leader | 5,120 | 18 |",
            "each with each kind of place for the leader | 90 | 12 |",
            "| runs that prove too little | – | 1 |",
            "| sim-system | 2,000 | 10,800 | 41,000 |",
            "| a\\|b | seed 4 | c | open | t |",
        ] {
            assert!(page.contains(wanted), "{wanted}\n{page}");
        }
        let newest = page.find("bbb real").unwrap();
        assert!(
            newest < page.find("aaa sim-system").unwrap(),
            "the newest first"
        );
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let error = read("{\"tier\":\"real\"}\n\n{\"tier\":4}\n").unwrap_err();
        assert_eq!(error.number, 3);
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn numbers_are_grouped() {
        for (given, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(number(given), text);
        }
    }
}
