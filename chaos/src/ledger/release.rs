//! Checks that each release was recorded with a ledger that reaches every minimum.

use super::{GitError, read, shortfalls};

/// Releases from before the ledger had minimums. When a minimum rises, the releases until then are
/// added.
const BEFORE_THE_MINIMUMS: [&str; 1] = ["0.1.0"];

/// Returns a message for each release of `releases.txt` whose ledger misses a minimum. `ledger_of`
/// returns the ledger of the commit that added a line.
///
/// # Errors
/// If the git history has no such ledger.
pub fn early_releases(
    releases: &str,
    ledger_of: impl Fn(&str) -> Result<String, GitError>,
) -> Result<Vec<String>, GitError> {
    let mut early = Vec::new();
    for line in releases.lines().filter(|line| !line.starts_with('#')) {
        let version = line.split(' ').next().unwrap_or_default();
        if BEFORE_THE_MINIMUMS.contains(&version) {
            continue;
        }
        let short = match read(&ledger_of(line)?) {
            Ok(lines) => shortfalls(&lines),
            Err(error) => vec![error.to_string()],
        };
        if !short.is_empty() {
            let short = short.join("; ");
            early.push(format!(
                "release {version} was recorded before the chaos ledger reached its minimums: {short}"
            ));
        }
    }
    Ok(early)
}

#[cfg(test)]
mod tests {
    use super::super::targets;
    use super::*;

    const ENOUGH: &str = r#"
{"event":"end","batch":"b","tier":"sim-system","seed":1,"seeds":2000,"seconds":360000,"faults":100000}
{"tier":"sim-graphs","seed":1,"seeds":5120}
{"tier":"sim-raft","seed":1,"seeds":20000}
{"tier":"real","seed":1,"leader_kills":1000}
{"tier":"power","seed":1,"power_cuts":300,"loaded_cuts":200,"task_cuts":300}
"#;

    #[test]
    fn a_release_needs_a_ledger_that_reaches_every_minimum() {
        let releases = "# VERSION COMMIT\n0.1.0 aaa\n0.2.0 bbb\n";
        let early = |ledger: &str| {
            early_releases(releases, |line| {
                assert_eq!(line, "0.2.0 bbb", "0.1.0 is older than the minimums");
                Ok(ledger.to_owned())
            })
            .unwrap()
        };
        let enough = [ENOUGH, &targets::enough()].concat();
        assert_eq!(early(&enough), [""; 0]);
        let fewer = enough.replace("\"leader_kills\":1000", "\"leader_kills\":999");
        assert_eq!(
            early(&fewer),
            [
                "release 0.2.0 was recorded before the chaos ledger reached its minimums: leaders of real processes killed: 999, at least 1,000"
            ]
        );
        assert!(early("4")[0].contains("line 1 of the ledger has no known form"));
    }

    #[test]
    fn a_history_without_the_ledger_is_an_error() {
        let absent = |_: &str| {
            Err(GitError::Absent {
                why: "shallow".to_owned(),
            })
        };
        assert_eq!(early_releases("0.1.0 aaa\n", absent).unwrap(), [""; 0]);
        assert!(early_releases("0.2.0 bbb\n", absent).is_err());
    }
}
