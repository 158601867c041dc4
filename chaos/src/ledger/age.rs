//! Checks that the newest line of each harness is recent enough for the current code.

use std::collections::BTreeMap;

use super::{EVERY_FAULT, GRAPHS, GitError, NewestLine, POWER, RAFT, REAL, SYSTEM};

/// The distance between the commit of a line and HEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitDistance {
    /// Commits since then.
    pub commits: u64,
    /// Lines of product code that were inserted or deleted since then.
    pub changed_lines: u64,
}

/// The maximum distance at which a line is valid for the current code.
const MAX_DISTANCE: CommitDistance = CommitDistance {
    commits: 400,
    changed_lines: 30_000,
};

/// Every harness, with a command that adds a line.
const HARNESSES: [(&str, &str); 6] = [
    (
        RAFT,
        "argosy-chaos sim --brief --raft-only --seeds 1000 --from $(date +%s)000",
    ),
    (
        SYSTEM,
        "argosy-chaos sim --brief --seeds 500 --from $(date +%s)000",
    ),
    (
        GRAPHS,
        "argosy-chaos sim --brief --graphs --seeds 20 --from $(date +%s)000",
    ),
    (
        REAL,
        "argosy-chaos run --pace quick --faults kill-leader --rounds 100",
    ),
    // Batches that only kill leaders keep only the entry above recent.
    (EVERY_FAULT, "argosy-chaos run --pace quick --each-once"),
    (
        POWER,
        "scripts/test-vm power-cuts --cuts 20 --seed $(date +%s)",
    ),
];

/// Returns a message for each harness whose newest line is missing or too old.
///
/// # Errors
/// If the git history has no answer at all.
pub fn stale_harnesses(
    newest: &BTreeMap<String, NewestLine>,
    distance: impl Fn(&str) -> Result<CommitDistance, GitError>,
) -> Result<Vec<String>, GitError> {
    let mut stale = Vec::new();
    for (tier, command) in HARNESSES {
        let state = match newest.get(tier).map(|line| &line.commit) {
            None => "has no line that counts".to_owned(),
            Some(commit) => match distance(commit) {
                Ok(distance) if distance.is_near() => continue,
                Ok(distance) => format!(
                    "is too old: the newest line is of {commit}, {} commits and {} changed lines of product code ago (at most {} and {})",
                    distance.commits,
                    distance.changed_lines,
                    MAX_DISTANCE.commits,
                    MAX_DISTANCE.changed_lines
                ),
                Err(error @ GitError::Unknown { .. }) => format!("cannot be dated: {error}"),
                Err(error @ GitError::Absent { .. }) => return Err(error),
            },
        };
        let command = format!("{command} --ledger docs/chaos-ledger.jsonl");
        stale.push(format!("{tier} {state}; add one: {command}"));
    }
    Ok(stale)
}

impl CommitDistance {
    fn is_near(self) -> bool {
        self.commits <= MAX_DISTANCE.commits && self.changed_lines <= MAX_DISTANCE.changed_lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::{newest, read};
    use super::*;

    fn all(commit: &str) -> BTreeMap<String, NewestLine> {
        let newest = |tier: &str| {
            let newest = NewestLine {
                commit: commit.to_owned(),
                time: String::new(),
                tree: String::new(),
            };
            (tier.to_owned(), newest)
        };
        HARNESSES.iter().map(|(tier, _)| newest(tier)).collect()
    }

    fn at(commits: u64, changed_lines: u64) -> impl Fn(&str) -> Result<CommitDistance, GitError> {
        move |_| {
            Ok(CommitDistance {
                commits,
                changed_lines,
            })
        }
    }

    #[test]
    fn a_line_is_too_old_after_so_many_commits_or_changed_lines() {
        assert_eq!(
            stale_harnesses(&all("aaa"), at(400, 30_000)).unwrap(),
            [""; 0]
        );
        for (commits, changed_lines) in [(401, 0), (0, 30_001)] {
            let stale = stale_harnesses(&all("aaa"), at(commits, changed_lines)).unwrap();
            assert_eq!(stale.len(), HARNESSES.len());
            let wanted = format!(
                "sim-raft is too old: the newest line is of aaa, {commits} commits and {changed_lines} changed lines"
            );
            assert!(stale[0].starts_with(&wanted), "{}", stale[0]);
            let command =
                "--raft-only --seeds 1000 --from $(date +%s)000 --ledger docs/chaos-ledger.jsonl";
            assert!(stale[0].ends_with(command), "{}", stale[0]);
        }
    }

    #[test]
    fn only_the_harness_without_a_line_is_reported() {
        let mut newest = all("aaa");
        newest.remove(POWER);
        let stale = stale_harnesses(&newest, at(1, 1)).unwrap();
        let [only] = &stale[..] else {
            panic!("{stale:?}");
        };
        assert!(only.starts_with("power has no line that counts; add one: scripts/test-vm"));
    }

    #[test]
    fn batches_that_only_kill_leaders_do_not_count_for_every_fault() {
        let line = |commit: &str, kinds: u64| {
            format!("{{\"tier\":\"real\",\"commit\":\"{commit}\",\"fault_kinds\":{kinds}}}\n")
        };
        let every_fault = |text: &str| {
            let newest = newest(&read(text).unwrap(), |_| true);
            assert_eq!(newest[REAL].commit, "ccc");
            newest.get(EVERY_FAULT).map(|line| line.commit.clone())
        };
        let few = [line("aaa", 19), line("ccc", 1)].concat();
        assert_eq!(every_fault(&few), None);
        let many = [line("aaa", 35), line("bbb", 20), line("ccc", 1)].concat();
        assert_eq!(every_fault(&many).as_deref(), Some("bbb"));
        let mut lines = all("aaa");
        lines.remove(EVERY_FAULT);
        let stale = stale_harnesses(&lines, at(1, 1)).unwrap();
        let [only] = &stale[..] else {
            panic!("{stale:?}");
        };
        assert!(only.contains("every fault once has no line that counts"));
        assert!(only.contains("--each-once --ledger docs/"), "{only}");
    }

    #[test]
    fn an_unknown_commit_is_too_old_and_a_missing_history_is_no_answer() {
        let unknown = |commit: &str| {
            Err(GitError::Unknown {
                commit: commit.to_owned(),
            })
        };
        let stale_lines = stale_harnesses(&all("fff"), unknown).unwrap();
        assert!(
            stale_lines[0].contains("no commit \"fff\""),
            "{stale_lines:?}"
        );
        let absent = |_: &str| {
            Err(GitError::Absent {
                why: "shallow".to_owned(),
            })
        };
        assert!(matches!(
            stale_harnesses(&all("aaa"), absent),
            Err(GitError::Absent { .. })
        ));
    }
}
