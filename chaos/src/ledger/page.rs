//! The page of the ledger: sums against minimums, sums by harness, lines that do not count, bugs,
//! and commits.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::goals::GOALS;
use super::renamed_tests;
use super::sums::{HarnessSum, LedgerTotals, totals};
use super::targets;
use super::{FoundBug, LedgerLine, REAL, SYSTEM};

const TITLE: &str = "# Ledger of the chaos runs

A program generates this page from `chaos-ledger.jsonl`. Every batch appends a line to that file when
it starts and another when it ends. Only the violations of a batch count if it did not complete, if it
proves too little, or if more than 10 % of its seeds (and at least two) violate a rule or abort. The line
of a fixed bug follows the lines of all runs that had the bug, or contains the time of its fix. Lines are
never changed: the descriptions of bugs keep the words of their time.
";

/// Returns the page that sums up the lines.
#[must_use]
pub fn render(lines: &[LedgerLine]) -> String {
    let totals = totals(lines);
    let mut page = TITLE.to_owned();
    write_goals(&mut page, &totals);
    page.push_str("\n## Sums by harness\n\n");
    page.push_str(HEAD);
    for (tier, sum) in &totals.all.by_tier {
        write_row(&mut page, tier, sum);
    }
    targets::write(&mut page, &totals.all);
    write_newest(&mut page, &totals);
    write_unfinished(&mut page, &totals);
    write_excluded(&mut page, &totals);
    write_bugs(&mut page, lines);
    page.push_str("\n## By commit\n\n");
    page.push_str(HEAD);
    for (commit, sums) in totals.commits.iter().rev() {
        for (tier, sum) in &sums.by_tier {
            write_row(&mut page, &format!("{commit} {tier}"), sum);
        }
    }
    page
}

fn write_goals(page: &mut String, totals: &LedgerTotals) {
    page.push_str("\n## Reached\n\n| What | At least | Reached |\n|---|--:|--:|\n");
    for goal in &GOALS {
        let [least, reached] = [goal.minimum, (goal.value)(totals)].map(number);
        write_cells(page, &[goal.name.to_owned(), least, reached]);
    }
    let excluded: u64 = totals.excluded.iter().map(|(_, sum)| sum.violations).sum();
    let mixed = totals.all.of(SYSTEM).mixed_faults;
    let (kills, kills_at_rest) = (totals.all.kills(), totals.all.kills_at_rest());
    let (cuts, cuts_before_load) = (totals.all.cuts(), totals.all.cuts_before_load());
    for (what, most, reached) in [
        (
            "leaders killed at rest: the only kind of fault of its batch",
            "–",
            kills_at_rest,
        ),
        (
            "leaders killed among other faults",
            "–",
            kills - kills_at_rest,
        ),
        (
            "power cuts before load (moments `PowerOn`, `Mounted`)",
            "–",
            cuts_before_load,
        ),
        (
            "power cuts under load, those of single disks included",
            "–",
            cuts.saturating_sub(cuts_before_load),
        ),
        (
            "minutes of real processes under several kinds of faults, which overlap at times",
            "–",
            totals.all.of(REAL).mixed_seconds / 60,
        ),
        (
            "violations since the newest fix",
            "0 at most",
            totals.since_fix.violations(),
        ),
        ("violations ever", "–", totals.all.violations() + excluded),
        ("runs that prove too little", "–", totals.all.too_little),
        (
            "faults and repairs of the whole system in old lines, which do not separate them",
            "–",
            mixed,
        ),
    ] {
        write_cells(page, &[what.to_owned(), most.to_owned(), number(reached)]);
    }
}

const HEAD: &str = "| | Runs | Seconds | Faults | Faults and repairs (old lines) | Leader kills | Power cuts | Changes of leader | Operations | Violations |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";

fn write_row(page: &mut String, name: &str, sum: &HarnessSum) {
    let numbers = [
        sum.seeds,
        sum.seconds,
        sum.faults,
        sum.mixed_faults,
        sum.leader_kills,
        sum.power_cuts,
        sum.leader_changes,
        sum.operations,
        sum.violations,
    ];
    let cells: Vec<String> = std::iter::once(name.to_owned())
        .chain(numbers.map(number))
        .collect();
    write_cells(page, &cells);
}

fn write_newest(page: &mut String, totals: &LedgerTotals) {
    page.push_str("\n## Newest commit of each harness\n\n| Harness | Commit | Time (UTC) | Working tree |\n|---|---|---|---|\n");
    for (tier, newest) in &totals.newest {
        let known = |text: &str| {
            if text.is_empty() {
                "not recorded"
            } else {
                text
            }
            .to_owned()
        };
        let cells = [
            tier.clone(),
            newest.commit.clone(),
            known(&newest.time),
            known(&newest.tree),
        ];
        write_cells(page, &cells);
    }
}

fn write_unfinished(page: &mut String, totals: &LedgerTotals) {
    page.push_str("\n## Batches that did not complete\n\n");
    if totals.unfinished.is_empty() {
        page.push_str("None since batches have a first line.\n");
        return;
    }
    page.push_str("| Harness | Commit | First seed | Time (UTC) | Why |\n|---|---|--:|---|---|\n");
    for batch in &totals.unfinished {
        let cells = [
            batch.tier.clone(),
            batch.commit.clone(),
            batch.seed.to_string(),
            batch.time.clone(),
            batch.reason.clone(),
        ];
        write_cells(page, &cells);
    }
}

fn write_excluded(page: &mut String, totals: &LedgerTotals) {
    page.push_str("\n## Lines that do not count\n\n| Harness | Commit | Lines | Seeds | Seconds | Violations | Why |\n|---|---|--:|--:|--:|--:|---|\n");
    for (correction, sum) in &totals.excluded {
        let mut cells = vec![correction.tier.clone(), correction.commit.clone()];
        cells.extend([sum.lines, sum.seeds, sum.seconds, sum.violations].map(number));
        cells.push(correction.why.clone());
        write_cells(page, &cells);
    }
}

/// Adds each bug once, at its first position, with the content of its newest line.
fn write_bugs(page: &mut String, lines: &[LedgerLine]) {
    page.push_str("\n## Bugs found\n\n| Bug | Seed or script | Cause | Fix | Kept by |\n|---|---|---|---|---|\n");
    let mut order: Vec<(&str, &str)> = Vec::new();
    let mut newest: BTreeMap<(&str, &str), &FoundBug> = BTreeMap::new();
    for line in lines {
        if let LedgerLine::Bug(found) = line {
            let key = (found.bug.as_str(), found.seed.as_str());
            if newest.insert(key, found).is_none() {
                order.push(key);
            }
        }
    }
    for key in order {
        let FoundBug {
            bug,
            seed,
            cause,
            fix,
            test,
            ..
        } = newest[&key];
        let fix = if fix.is_empty() { "open" } else { fix };
        let mut cells = [bug, seed, cause, fix].map(ToOwned::to_owned).to_vec();
        cells.push(renamed_tests::present_name(test));
        write_cells(page, &cells);
    }
}

fn write_cells(page: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    // Writing to a string never fails.
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}

/// Formats 1234567 as "1,234,567".
pub(super) fn number(number: u64) -> String {
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
    use super::super::{newest, read};
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

    const BATCHES: &str = r#"
{"event":"start","batch":"b1","tier":"sim-system","commit":"ccc","seed":1,"seeds":20,"time":"2026-01-01T00:00:01Z"}
{"event":"end","batch":"b1","tier":"sim-system","commit":"ccc","seed":1,"seeds":20,"faults":300,"violations":2,"aborted_seeds":1,"time":"2026-01-01T00:00:02Z","tree":"clean"}
{"event":"start","batch":"b2","tier":"real","commit":"ddd","seed":2,"seeds":1,"time":"2026-01-01T00:00:03Z"}
{"event":"start","batch":"b3","tier":"power","commit":"ddd","seed":3,"seeds":20,"time":"2026-01-01T00:00:04Z"}
{"event":"end","batch":"b3","tier":"power","commit":"ddd","seed":3,"seeds":20,"power_cuts":20,"outcome":"failed","error":"no kernel","violations":1,"time":"2026-01-01T00:00:05Z"}
"#;

    fn contains(page: &str, rows: &[&str]) {
        for wanted in rows {
            assert!(page.contains(wanted), "{wanted}\n{page}");
        }
    }

    #[test]
    fn a_run_that_proves_too_little_adds_only_its_violations_to_the_sums() {
        let page = render(&read(LINES).unwrap());
        contains(
            &page,
            &[
                "| simulated hours of the whole system | 100 | 3 |",
                "| faults in them, without repairs | 100,000 | 0 |",
                "which do not separate them | – | 41,000 |",
                "| leaders of real processes killed | 1,000 | 28 |",
                "| seeds of the whole system since the newest fix | 2,000 | 500 |",
                "| leaders of real processes killed since the newest fix | 100 | 3 |",
                "| violations since the newest fix | 0 at most | 0 |",
                "| violations ever | – | 2 |",
                "each with each place of the leader | 5,120 | 18 |",
                "each with each kind of place for the leader | 90 | 12 |",
                "| runs that prove too little | – | 1 |",
                "| sim-system | 2,000 | 10,800 | 0 | 41,000 |",
                "| a\\|b | seed 4 | c | open | t |",
                "| sim-system | bbb | not recorded | not recorded |",
            ],
        );
        let newest = page.find("bbb real").unwrap();
        let oldest = page.find("aaa sim-system").unwrap();
        assert!(newest < oldest, "the newest first");
    }

    #[test]
    fn a_batch_without_a_last_line_or_that_failed_is_shown_and_adds_only_violations() {
        let lines = read(BATCHES).unwrap();
        let page = render(&lines);
        contains(
            &page,
            &[
                "| faults in them, without repairs | 100,000 | 300 |",
                "| power cuts | 300 | 0 |",
                "| violations ever | – | 3 |",
                "| real | ddd | 2 | 2026-01-01T00:00:03Z | interrupted: it has no last line |",
                "| power | ddd | 3 | 2026-01-01T00:00:05Z | failed: no kernel |",
                "| sim-system | ccc | 2026-01-01T00:00:02Z | clean |",
            ],
        );
        let newest = newest(&lines, |_| true);
        assert_eq!(newest.keys().collect::<Vec<_>>(), [SYSTEM]);
    }

    #[test]
    fn a_batch_with_a_broken_history_adds_only_violations_and_is_not_the_newest() {
        let broken = BATCHES.replace("\"seeds\":20,\"faults\"", "\"seeds\":19,\"faults\"");
        let lines = read(&broken).unwrap();
        contains(
            &render(&lines),
            &[
                "| faults in them, without repairs | 100,000 | 0 |",
                "| violations ever | – | 3 |",
            ],
        );
        assert!(newest(&lines, |_| true).is_empty());
    }

    #[test]
    fn the_newest_line_that_counts_is_of_a_known_commit() {
        let lines = read(LINES).unwrap();
        let of_system = |is_known: fn(&str) -> bool| {
            let newest = newest(&lines, is_known);
            newest.get(SYSTEM).map(|line| line.commit.clone())
        };
        assert_eq!(of_system(|_| true).as_deref(), Some("bbb"));
        assert_eq!(of_system(|commit| commit != "bbb").as_deref(), Some("aaa"));
        assert_eq!(of_system(|_| false), None);
    }

    #[test]
    fn a_line_of_a_dirty_tree_counts_and_is_not_the_newest() {
        let dirty = r#"{"tier":"sim-system","commit":"eee","seed":1,"seeds":10,"tree":"dirty"}"#;
        let lines = read(&format!("{LINES}{dirty}\n")).unwrap();
        assert_eq!(newest(&lines, |_| true)[SYSTEM].commit, "bbb");
        contains(&render(&lines), &["| eee sim-system | 10 |"]);
    }

    #[test]
    fn lines_that_a_later_line_corrects_do_not_count_and_are_shown() {
        let correction = r#"{"event":"correction","tier":"sim-system","commit":"aaa","seed":1,"seeds":1500,"why":"broken history"}"#;
        let again = r#"{"tier":"sim-system","commit":"aaa","seed":1,"seeds":10,"seconds":3600}"#;
        let page = render(&read(&format!("{LINES}{correction}\n{again}\n")).unwrap());
        contains(
            &page,
            &[
                "| simulated hours of the whole system | 100 | 2 |",
                "| sim-system | aaa | 1 | 1,500 | 7,200 | 0 | broken history |",
                "| aaa sim-system | 10 |",
            ],
        );
    }

    #[test]
    fn a_later_line_of_a_bug_replaces_the_earlier_one() {
        let fixed = r#"{"bug":"a|b","seed":"seed 4","cause":"c2","fix":"eee","test":"t2"}"#;
        let page = render(&read(&format!("{LINES}{fixed}\n")).unwrap());
        contains(&page, &["| a\\|b | seed 4 | c2 | eee | t2 |"]);
        assert!(!page.contains("| seed 4 | c | open |"), "{page}");
        contains(
            &page,
            &["| seeds of the whole system since the newest fix | 2,000 | 0 |"],
        );
    }

    #[test]
    fn kills_at_rest_cuts_before_load_and_mixed_faults_are_listed_separately() {
        let lines = r#"
{"tier":"real","commit":"a","seed":1,"seconds":100,"faults":50,"leader_kills":50,"fault_kinds":1}
{"tier":"real","commit":"a","seed":2,"seconds":605,"faults":174,"leader_kills":25,"fault_kinds":35}
{"tier":"real","commit":"a","seed":3,"seconds":219,"faults":54,"leader_kills":7}
{"tier":"power","commit":"a","seed":4,"seeds":20,"power_cuts":31,"machine_cuts":20,"moments":{"DiskBack":4,"DiskOff":4,"Loading":8,"Mounted":3,"PowerOn":1,"Settled":1}}
"#;
        contains(
            &render(&read(lines).unwrap()),
            &[
                "| leaders killed at rest: the only kind of fault of its batch | – | 50 |",
                "| leaders killed among other faults | – | 32 |",
                "(moments `PowerOn`, `Mounted`) | – | 4 |",
                "| power cuts under load, those of single disks included | – | 27 |",
                "several kinds of faults, which overlap at times | – | 10 |",
            ],
        );
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
