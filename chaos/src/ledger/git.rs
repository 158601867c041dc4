//! The part of a checkout's git history that the ledger needs.

use std::path::{Path, PathBuf};

use argosy_testbed::host_tools;

use super::CommitDistance;

/// The paths of the code that runs in production. Changes in them make a line old.
const PRODUCT: [&str; 14] = [
    "agent",
    "cli",
    "client",
    "content",
    "frameworks",
    "host",
    "isolation",
    "master",
    "network",
    "proto",
    "raft",
    "state",
    "tls",
    ":(exclude,glob)**/tests/**",
];

/// The reason why the git history has no answer.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no history at all, or only a part of it.
    #[error("git history is not available: {why}")]
    Absent {
        /// The reason.
        why: String,
    },
    /// No such commit is HEAD or one of its ancestors.
    #[error("there is no commit {commit:?} in this history")]
    Unknown { commit: String },
}

/// A file as it was at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileVersion {
    pub commit: String,
    /// The content of the file.
    pub text: String,
}

/// A checkout with its whole history.
#[derive(Debug)]
pub struct GitRepository {
    directory: PathBuf,
}

impl GitRepository {
    /// Opens a checkout.
    ///
    /// # Errors
    /// If the directory is not a checkout, git cannot be executed, or the clone is shallow.
    pub fn open(dir: &Path) -> Result<Self, GitError> {
        let git = Self {
            directory: dir.to_owned(),
        };
        match git.run(&["rev-parse", "--is-shallow-repository"])?.trim() {
            "false" => Ok(git),
            _ => Err(GitError::Absent {
                why: "this is a shallow clone".to_owned(),
            }),
        }
    }

    fn run(&self, args: &[&str]) -> Result<String, GitError> {
        let dir = self.directory.display().to_string();
        let words = [&["-C", dir.as_str()], args].concat();
        host_tools::run("git", &words).map_err(|error| GitError::Absent {
            why: error.to_string(),
        })
    }

    fn verify(&self, commit: &str) -> Result<(), GitError> {
        // An argument that begins with "-" would be an option.
        let is_name = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        // A repository keeps abandoned commits for weeks, so it is not enough that the commit
        // exists.
        let words = ["merge-base", "--is-ancestor", commit, "HEAD"];
        match is_name && self.run(&words).is_ok() {
            true => Ok(()),
            false => Err(GitError::Unknown {
                commit: commit.to_owned(),
            }),
        }
    }

    /// Whether HEAD or one of its ancestors is that commit.
    #[must_use]
    pub fn contains(&self, commit: &str) -> bool {
        self.verify(commit).is_ok()
    }

    /// Returns the distance between a commit and HEAD.
    ///
    /// # Errors
    /// If there is no such commit.
    pub fn distance(&self, commit: &str) -> Result<CommitDistance, GitError> {
        self.verify(commit)?;
        let commits = self.run(&["rev-list", "--count", &format!("{commit}..HEAD")])?;
        let words = ["diff", "--shortstat", commit, "HEAD", "--"];
        let changes = self.run(&[&words[..], &PRODUCT].concat())?;
        Ok(CommitDistance {
            commits: commits.trim().parse().unwrap_or(u64::MAX),
            changed_lines: changed_lines(&changes),
        })
    }

    /// Returns a file as it was when a line was added to another file; `None` if the line is not
    /// committed.
    ///
    /// # Errors
    /// If the file did not exist then.
    pub fn when_added(&self, line: &str, to: &str, file: &str) -> Result<Option<String>, GitError> {
        let search = format!("-S{line}");
        let words = ["log", "--reverse", "--format=%H", search.as_str(), "--", to];
        let commits = self.run(&words)?;
        let Some(commit) = commits.lines().next() else {
            return Ok(None);
        };
        self.run(&["show", &format!("{commit}:{file}")]).map(Some)
    }

    /// Returns a file as it was at every commit that changed it, from one commit on.
    ///
    /// # Errors
    /// If there is no such commit.
    pub fn versions(&self, path: &str, since: &str) -> Result<Vec<FileVersion>, GitError> {
        self.verify(since)?;
        let range = format!("{since}..HEAD");
        let words = ["rev-list", "--full-history", range.as_str(), "--", path];
        let later = self.run(&words)?;
        let commits = later.lines().chain([since]);
        commits
            .map(|commit| {
                let text = self.run(&["show", &format!("{commit}:{path}")])?;
                let commit = commit.to_owned();
                Ok(FileVersion { commit, text })
            })
            .collect()
    }
}

/// Returns the sum of " 3 files changed, 12 insertions(+), 4 deletions(-)".
fn changed_lines(shortstat: &str) -> u64 {
    let parts = shortstat.trim().split(", ");
    let lines = parts.filter(|part| part.contains("insertion") || part.contains("deletion"));
    let numbers = lines.filter_map(|part| part.split(' ').next()?.parse::<u64>().ok());
    numbers.sum()
}

/// Checks that a file still has every line of an older version, in the same order.
///
/// # Errors
/// The first line that is missing.
pub fn is_kept<'a>(old: &'a str, new: &str) -> Result<(), &'a str> {
    let mut new = new.lines();
    match old.lines().find(|line| !new.any(|kept| kept == *line)) {
        Some(missing) => Err(missing),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_may_be_added_and_neither_changed_removed_nor_moved() {
        let old = "a\nb\nb\nc\n";
        assert_eq!(is_kept(old, old), Ok(()));
        assert_eq!(is_kept(old, "a\nb\nb\nx\nc\nd\n"), Ok(()));
        assert_eq!(is_kept(old, "a\nb\nc\nd\n"), Err("b"));
        assert_eq!(is_kept(old, "b\nb\na\nc\n"), Err("b"));
        assert_eq!(is_kept(old, "a\nb\nb\nC\n"), Err("c"));
        assert_eq!(is_kept("", ""), Ok(()));
    }

    /// Tools and tests. Their changes make no line old.
    const NO_PRODUCT: [&str; 6] = ["bench", "chaos", "fakes", "model", "testbed", "testing"];

    #[test]
    fn every_crate_is_listed_as_product_or_not() {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).unwrap();
        let members = manifest.lines().find(|line| line.starts_with("members"));
        let mut members: Vec<_> = members.unwrap().split('"').skip(1).step_by(2).collect();
        let known = PRODUCT.iter().chain(&NO_PRODUCT);
        let mut known: Vec<_> = known
            .filter(|name| !name.starts_with(':'))
            .copied()
            .collect();
        members.sort_unstable();
        known.sort_unstable();
        assert_eq!(members, known);
    }

    #[test]
    fn insertions_and_deletions_are_changed_lines() {
        for (text, lines) in [
            ("", 0),
            (" 1 file changed, 1 insertion(+)\n", 1),
            (
                " 555 files changed, 71971 insertions(+), 4441 deletions(-)\n",
                76_412,
            ),
            (" 2 files changed, 7 deletions(-)", 7),
        ] {
            assert_eq!(changed_lines(text), lines, "{text}");
        }
    }

    /// Creates a repository with three versions of a file.
    fn repository() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let script = "git init -q . && git config user.email t@example.org && git config user.name t \
            && mkdir -p master/tests docs && for n in 1 2 3; do \
            echo $n >> docs/f; echo $n >> master/code; echo $n >> master/tests/t; \
            git add . && git commit -q -m $n; done";
        let words = [
            "-C",
            &directory.path().display().to_string(),
            "sh",
            "-c",
            script,
        ];
        host_tools::run("env", &words).unwrap();
        directory
    }

    #[test]
    fn distance_and_versions_come_from_the_history() {
        let directory = repository();
        let git = GitRepository::open(directory.path()).unwrap();
        let first = git.run(&["rev-parse", "--short", "HEAD~2"]).unwrap();
        let first = first.trim();
        let expected = CommitDistance {
            commits: 2,
            changed_lines: 2,
        };
        assert_eq!(
            git.distance(first).unwrap(),
            expected,
            "tests are no product"
        );
        let versions = git.versions("docs/f", first).unwrap();
        let texts: Vec<&str> = versions
            .iter()
            .map(|version| version.text.as_str())
            .collect();
        assert_eq!(texts, ["1\n2\n3\n", "1\n2\n", "1\n"]);
        for unknown in ["abcdef0", "", "--all", "HEAD"] {
            let error = git.distance(unknown).unwrap_err();
            assert!(matches!(error, GitError::Unknown { .. }), "{error}");
            assert!(!git.contains(unknown), "{unknown}");
        }
        assert!(git.contains(first));
    }

    #[test]
    fn an_abandoned_commit_is_not_part_of_the_history() {
        let directory = repository();
        let git = GitRepository::open(directory.path()).unwrap();
        let abandoned = git.run(&["rev-parse", "--short", "HEAD"]).unwrap();
        git.run(&["reset", "--quiet", "--hard", "HEAD~1"]).unwrap();
        let abandoned = abandoned.trim();
        git.run(&["cat-file", "-e", abandoned]).unwrap();
        assert!(!git.contains(abandoned));
        let error = git.versions("docs/f", abandoned).unwrap_err();
        assert!(matches!(error, GitError::Unknown { .. }), "{error}");
    }

    #[test]
    fn a_file_is_read_as_of_the_commit_that_added_a_line_to_another_file() {
        let directory = repository();
        let git = GitRepository::open(directory.path()).unwrap();
        let when = |line| git.when_added(line, "master/code", "docs/f").unwrap();
        assert_eq!(when("2").as_deref(), Some("1\n2\n"));
        assert_eq!(when("4"), None);
        assert!(git.when_added("2", "master/code", "docs/none").is_err());
    }

    #[test]
    fn a_shallow_clone_and_a_directory_without_history_are_reported() {
        let directory = repository();
        let clone = directory.path().join("clone");
        let [from, to] = [
            format!("file://{}", directory.path().display()),
            clone.display().to_string(),
        ];
        host_tools::run("git", &["clone", "-q", "--depth", "1", &from, &to]).unwrap();
        let error = GitRepository::open(&clone).unwrap_err().to_string();
        assert!(
            error.contains("not available: this is a shallow clone"),
            "{error}"
        );
        let empty = tempfile::tempdir().unwrap();
        let error = GitRepository::open(empty.path()).unwrap_err().to_string();
        assert!(error.contains("git history is not available"), "{error}");
    }
}
