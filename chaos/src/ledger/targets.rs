//! The fuzz targets in the ledger: how often each was executed.

use std::fmt::Write as _;

use super::page::number;
use super::sums::HarnessSums;

/// The executions that a release needs of a target.
const EXECUTIONS: u64 = 10_000_000;

/// Returns the number of targets with enough executions.
pub(super) fn sufficient(sums: &HarnessSums) -> u64 {
    let executions = sums.executions.values();
    executions.filter(|number| **number >= EXECUTIONS).count() as u64
}

/// Adds the executions of each target to the page, if there are any.
pub(super) fn write(page: &mut String, sums: &HarnessSums) {
    if sums.executions.is_empty() {
        return;
    }
    page.push_str("\n## Fuzz targets\n\n| Target | Executions |\n|---|--:|\n");
    for (target, executions) in &sums.executions {
        // Writing to a string never fails.
        let _ = writeln!(page, "| {target} | {} |", number(*executions));
    }
}

/// Returns lines of enough targets for a release.
#[cfg(test)]
pub(super) fn enough() -> String {
    let line = |number| {
        format!(
            "{{\"tier\":\"fuzz\",\"seed\":1,\"target\":\"t{number}\",\"executions\":{EXECUTIONS}}}\n"
        )
    };
    (0..25).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{read, render, shortfalls};

    /// A batch of a target as `scripts/fuzz` records it.
    fn batch(target: &str, outcome: &str, executions: u64, violations: u64) -> String {
        let id = format!("2026-11-28T20:00:00Z-{target}-{outcome}");
        format!(
            "{{\"event\":\"start\",\"tier\":\"fuzz\",\"commit\":\"aaa\",\"seed\":5,\"seeds\":1,\"target\":\"{target}\",\"batch\":\"{id}\"}}\n\
             {{\"event\":\"end\",\"tier\":\"fuzz\",\"commit\":\"aaa\",\"seed\":5,\"seeds\":1,\"target\":\"{target}\",\"batch\":\"{id}\",\"seconds\":60,\
             \"executions\":{executions},\"violations\":{violations},\"violating_seeds\":{violations},\"outcome\":\"{outcome}\",\"peak_rss_mb\":90}}\n"
        )
    }

    #[test]
    fn executions_of_a_target_are_added_up() {
        let lines = [
            batch("journal", "complete", 9_000_000, 0),
            batch("journal", "complete", 999_999, 1),
            batch("archive", "failed", 10_000_000, 0),
        ];
        let page = render(&read(&lines.concat()).unwrap());
        assert!(page.contains("| journal | 9,999,999 |\n"), "{page}");
        assert!(!page.contains("| archive |"), "{page}");
        assert!(page.contains("| violations ever | – | 1 |"), "{page}");
        assert!(!render(&[]).contains("Fuzz targets"));
    }

    #[test]
    fn a_release_needs_enough_executions_of_enough_targets() {
        let of_fuzzing = |targets: u64, executions: u64| {
            let batches =
                (0..targets).map(|number| batch(&format!("t{number}"), "complete", executions, 0));
            let lines = read(&batches.collect::<String>()).unwrap();
            let mut short = shortfalls(&lines);
            short.retain(|text| text.starts_with("fuzz targets"));
            short
        };
        assert_eq!(of_fuzzing(25, 10_000_000), [""; 0]);
        let wanted = "fuzz targets that were executed at least 10,000,000 times: ";
        assert_eq!(
            of_fuzzing(25, 9_999_999),
            [format!("{wanted}0, at least 25")]
        );
        assert_eq!(
            of_fuzzing(24, 10_000_000),
            [format!("{wanted}24, at least 25")]
        );
    }
}
