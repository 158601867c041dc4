//! `argosy doctor`: checks whether this host is suitable for masters and agents, or whether a
//! running cluster has anything that an operator should repair. Prints one remedy per line.
//!
//! The checks are read-only, except for one small file where the disk is measured.

mod checks;
mod cluster;
mod disk;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::args::{ClusterArguments, Doctor, Format};
use crate::contexts::ChosenCluster;
use crate::exit::{DONE, Failure, VerbResult};
use crate::objects::two_threads;
use crate::output::{self, Row, palette, visible_line};

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CheckStatus {
    Ok,
    /// It works, with limitations.
    Warning,
    /// It does not work.
    Failed,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) check: &'static str,
    #[serde(rename = "verdict")]
    pub(crate) status: CheckStatus,
    pub(crate) found: String,
    /// The remedy, empty if there is none.
    pub(crate) fix: String,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, CheckStatus::Ok, found, "")
    }

    fn new(
        check: &'static str,
        status: CheckStatus,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            check,
            status,
            found: found.into(),
            fix: fix.into(),
        }
    }
}

impl Row for Finding {
    const HEADINGS: &'static [&'static str] = &["CHECK", "VERDICT", "FOUND", "FIX"];
    const WIDE: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        let status = match self.status {
            CheckStatus::Ok => "ok",
            CheckStatus::Warning => "warning",
            CheckStatus::Failed => "failed",
        };
        vec![
            self.check.to_owned(),
            status.to_owned(),
            self.found.clone(),
            self.fix.clone(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }

    fn name(&self) -> String {
        self.check.to_owned()
    }
}

pub(crate) fn run(arguments: &Doctor) -> VerbResult {
    let named = named_cluster(arguments)?;
    let is_of_cluster = arguments.cluster || named.masters.is_some() || named.context.is_some();
    let findings = match is_of_cluster {
        true => {
            let ChosenCluster { masters, transport } = ChosenCluster::of(&named)?;
            let checking = cluster::all(&masters, arguments.timeout, transport);
            two_threads()?.block_on(checking)?
        }
        false => {
            let directory = arguments.data_dir.clone().unwrap_or_else(default_directory);
            checks::all(&directory)
        }
    };
    match arguments.show.output {
        Format::Table | Format::Wide => output::print(&text(&findings))?,
        Format::Json | Format::Ndjson | Format::Yaml | Format::Name => {
            output::list(arguments.show.output, &findings, &findings)?
        }
    };
    let failed = findings
        .iter()
        .filter(|finding| finding.status == CheckStatus::Failed)
        .count();
    match failed {
        0 => Ok(DONE),
        1 => Err(Failure::failed(
            "1 check failed; the line above names the remedy",
        )),
        count => Err(Failure::failed(format!(
            "{count} checks failed; the lines above name the remedies"
        ))),
    }
}

/// Returns the cluster that the command line names. A context of the environment replaces no check
/// of this host, but has the files of TLS for masters that are named.
///
/// With `--cluster`, masters and context are those of the environment, as for other commands.
fn named_cluster(arguments: &Doctor) -> Result<ClusterArguments, Failure> {
    let mut masters = arguments.masters.clone();
    if arguments.cluster
        && let Ok(list) = std::env::var("ARGOSY_MASTERS")
    {
        let wrong = |why: String| Failure::usage(format!("ARGOSY_MASTERS {list:?}: {why}"));
        masters = Some(crate::parsers::masters(&list).map_err(wrong)?);
    }
    let mut context = arguments.context.clone();
    if (arguments.masters.is_some() || arguments.cluster)
        && context.is_none()
        && let Ok(name) = std::env::var("ARGOSY_CONTEXT")
    {
        let wrong = |why: String| Failure::usage(format!("ARGOSY_CONTEXT {name:?}: {why}"));
        context = Some(name.parse().map_err(wrong)?);
    }
    Ok(ClusterArguments {
        masters,
        context,
        tls: arguments.tls.clone(),
        token_file: arguments.token_file.clone(),
    })
}

/// Returns the default data directory if it exists, else the directory for temporary files.
fn default_directory() -> PathBuf {
    let usual = Path::new("/var/lib/argosy");
    if usual.is_dir() {
        usual.to_owned()
    } else {
        std::env::temp_dir()
    }
}

fn text(findings: &[Finding]) -> String {
    let palette = palette();
    let width = findings
        .iter()
        .map(|finding| finding.check.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let status = match finding.status {
            CheckStatus::Ok => palette.good("ok     "),
            CheckStatus::Warning => palette.warning("warning"),
            CheckStatus::Failed => palette.bad("failed "),
        };
        // Names, addresses and releases come from masters and agents.
        let found = visible_line(&finding.found);
        text.push_str(&format!("{status}  {:width$}  {found}\n", finding.check));
        if !finding.fix.is_empty() {
            let fix = visible_line(&finding.fix);
            text.push_str(&format!("{:7}  {:width$}  → {fix}\n", "", ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        doctor: Doctor,
    }

    #[test]
    fn a_cluster_is_checked_with_the_identity_of_a_token() {
        let words = ["doctor", "--cluster", "--token-file", "ci.token"];
        let named = named_cluster(&Line::parse_from(words).doctor).unwrap();
        assert_eq!(named.token_file, Some("ci.token".into()));
    }

    #[test]
    fn findings_with_escape_sequences_are_shown_on_their_line() {
        let hostile = "0.2\u{1b}[2J\u{202e}\nok  quorum";
        let finding = Finding::new("releases", CheckStatus::Warning, hostile, hostile);
        let text = text(&[finding]);
        let shown = "0.2\\u{1b}[2J\\u{202e}\\nok  quorum\n";
        assert!(text.contains(&format!("releases  {shown}")), "{text:?}");
        assert!(text.contains(&format!("→ {shown}")), "{text:?}");
        assert_eq!(text.lines().count(), 2, "{text:?}");
    }
}
