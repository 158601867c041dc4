//! `acl set|add|show|check|test`: the rules of access and their groups.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use argosy_master::Expectation;
use argosy_proto::convert;
use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;
use argosy_state::access::{Action, Policy};
use clap::{Args, Subcommand};

use super::{ObjectCommand, calls};
use crate::args::{ConnectionArguments, Format, OutputArguments, WriteArguments};
use crate::exit::{DONE, Failure, VerbResult};
use crate::operator::ClusterClient;
use crate::output::{self, Row, note};

#[derive(Debug, Subcommand)]
pub(crate) enum AclCommand {
    /// Replace all rules and groups by those in a file
    #[command(after_help = format!("Examples:
  argosy acl set rules.acl
  argosy acl set rules.acl --dry-run

{}", syntax()))]
    Set(AclSet),
    /// Add the rules and groups in a file to those in force
    #[command(after_help = "Examples:
  argosy acl add prometheus.acl
  argosy acl add prometheus.acl --dry-run

The file is as of argosy acl set. What is in force already is not repeated, so the command may be
repeated. A change by another command between its read and its write is lost: change rules from one
place.")]
    Add(AclSet),
    /// Show the rules and groups in force, in the form that acl set reads
    #[command(after_help = "Examples:
  argosy acl show > rules.acl
  argosy acl show -o json")]
    Show(AclShow),
    /// Check a file of rules and groups, without a cluster
    #[command(after_help = "Examples:
  argosy acl check rules.acl
  argosy acl check ops.acl

It reports lines that are invalid, rules of groups without members, and a policy that no operator
could replace.")]
    Check(AclCheck),
    /// Test what the rules in force, or those in a file, allow and deny
    #[command(after_help = "Examples:
  argosy acl test expected.acl
  argosy acl test expected.acl --rules rules.acl

The file has one expectation a line; lines that begin with # are comments:
  allowed CALLER ACTION OBJECT
  denied CALLER ACTION OBJECT

CALLER is KIND/NAME or anonymous. OBJECT is *, which is the cluster as a whole, or properties of
one object, such as role:eng user:www-data. argosy acl set --help lists actions and properties. A
task has a role, a framework, an agent and a user; so has what it uses, and also its secret, image
or path. The command prints the expectations that are not met with the rule that decides, and then
exits with 1. It changes nothing. With --rules it calls no cluster.")]
    Test(AclTest),
}

/// Describes the file.
fn syntax() -> String {
    let actions: Vec<_> = Action::ALL.iter().map(|action| action.as_str()).collect();
    let mut lines = vec!["Actions:".to_owned()];
    for action in actions {
        let fits = lines
            .last()
            .is_some_and(|line| line.len() + action.len() < 99);
        match lines.last_mut() {
            Some(line) if fits => *line = format!("{line} {action}"),
            _ => lines.push(action.to_owned()),
        }
    }
    format!(
        "The file has one rule or group a line; lines that begin with # are comments:
  group NAME = MEMBER MEMBER …
  allow SUBJECT ACTION OBJECT
  deny SUBJECT ACTION OBJECT

A denial takes precedence, and what no rule allows is denied. SUBJECT is group:NAME, KIND/NAME,
KIND/*, anonymous or everyone; the kinds are operator, framework, agent and master. ACTION and
OBJECT may be *. OBJECT is role:ROLE, role:ROLE/% (with the roles below it), framework:ID,
user:NAME, agent:ID, secret:ROLE/NAME, image:PREFIX or host-path:PATH. The groups admin, operator,
viewer and framework:ROLE have rights without rules.

{}",
        lines.join("\n")
    )
}

#[derive(Debug, Args)]
pub(crate) struct AclSet {
    /// File with the rules and groups; - for standard input
    file: PathBuf,
    #[command(flatten)]
    write: WriteArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct AclShow {
    #[command(flatten)]
    show: OutputArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct AclCheck {
    /// File with the rules and groups; - for standard input
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct AclTest {
    /// File with the expectations; - for standard input
    file: PathBuf,
    /// Test the rules and groups in this file, and not those of the cluster
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    #[command(flatten)]
    reach: ConnectionArguments,
}

impl ObjectCommand for AclCommand {
    const ABOUT: &str = "Rules of access: set, add, show, check, test";
    const EXAMPLES: &str = "Examples:
  argosy acl show
  argosy acl set rules.acl";

    fn run(&self) -> VerbResult {
        match self {
            Self::Set(arguments) => calls(set(arguments)),
            Self::Add(arguments) => calls(add(arguments)),
            Self::Show(arguments) => calls(show(arguments)),
            Self::Check(arguments) => check(arguments),
            Self::Test(arguments) => test(arguments),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::Show(arguments) => Some(arguments.show),
            Self::Set(_) | Self::Add(_) | Self::Check(_) | Self::Test(_) => None,
        }
    }
}

impl Row for v1::Policy {
    const HEADINGS: &'static [&'static str] = &["RULES"];
    const WIDE: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![self.rules.len().to_string()]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }

    fn name(&self) -> String {
        "policy".to_owned()
    }
}

/// Reads a file of rules and groups.
fn read(path: &Path) -> Result<Policy, Failure> {
    let (name, text) = read_text(path)?;
    text.parse()
        .map_err(|error| Failure::failed(format!("{name}: {error}")))
}

/// Reads a file or standard input; returns its name and its text.
fn read_text(path: &Path) -> Result<(String, String), Failure> {
    let is_standard_input = path == Path::new("-");
    let text = match is_standard_input {
        true => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map(|_| text)
        }
        false => fs::read_to_string(path),
    };
    let name = match is_standard_input {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    let text = text.map_err(|error| Failure::failed(format!("{name}: {error}")))?;
    Ok((name, text))
}

/// Returns what makes a policy useless, and what is probably a mistake in it.
fn defects(policy: &Policy) -> (Option<String>, Vec<String>) {
    let locked = "it would lock out every operator: keep one in the group admin, or allow it set-access on *";
    let locked = (!policy.may_be_set()).then(|| locked.to_owned());
    let empty = policy.rules.iter().filter(|rule| match &rule.subject {
        argosy_state::access::Subject::Group(name) => policy
            .groups
            .get(name)
            .is_none_or(|members| members.is_empty()),
        _ => false,
    });
    let hints = empty.map(|rule| format!("its group has no members: {rule}"));
    (policy.invalid().or(locked), hints.collect())
}

fn check(arguments: &AclCheck) -> VerbResult {
    let policy = read(&arguments.file)?;
    let (wrong, hints) = defects(&policy);
    hints.iter().for_each(|hint| note(hint));
    match wrong {
        Some(wrong) => Err(Failure::failed(wrong)),
        None => {
            note(&summary(&policy));
            Ok(DONE)
        }
    }
}

fn summary(policy: &Policy) -> String {
    let (rules, groups) = (policy.rules.len(), policy.groups.len());
    let s = |count| if count == 1 { "" } else { "s" };
    format!("{rules} rule{} and {groups} group{}", s(rules), s(groups))
}

async fn set(arguments: &AclSet) -> VerbResult {
    let policy = read(&arguments.file)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    replace(&operator, arguments, &policy, None).await
}

async fn add(arguments: &AclSet) -> VerbResult {
    let additions = read(&arguments.file)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let (present, revision) = policy_in_force(&operator).await?;
    let policy = with(present.clone(), additions);
    if policy == present {
        note("all of it is in force already");
        return Ok(DONE);
    }
    // Otherwise a change that another operator makes in between would be undone.
    replace(&operator, arguments, &policy, Some(revision)).await
}

/// Adds the rules and the members of groups that a policy does not have.
fn with(mut policy: Policy, additions: Policy) -> Policy {
    for rule in additions.rules {
        if !policy.rules.contains(&rule) {
            policy.rules.push(rule);
        }
    }
    for (name, members) in additions.groups {
        policy.groups.entry(name).or_default().extend(members);
    }
    policy
}

/// Returns the policy and its revision, which is 0 if it was never set.
async fn policy_in_force(operator: &ClusterClient) -> Result<(Policy, v1::Revision), Failure> {
    let found = operator.policy().await?;
    let set = v1::SetPolicy {
        rules: found.rules,
        groups: found.groups,
        replaces: None,
    };
    let policy = convert::policy_from(&set).map_err(|error| Failure::of(&error))?;
    Ok((policy, found.revision.unwrap_or_default()))
}

/// Replaces the policy of the cluster, or only that of a revision, unless the new one is useless or
/// would only be shown.
async fn replace(
    operator: &ClusterClient,
    arguments: &AclSet,
    policy: &Policy,
    replaces: Option<v1::Revision>,
) -> VerbResult {
    let (wrong, hints) = defects(policy);
    hints.iter().for_each(|hint| note(hint));
    if let Some(wrong) = wrong {
        return Err(Failure::failed(wrong));
    }
    if arguments.write.dry_run {
        note(&format!("would set {}", summary(policy)));
        return Ok(DONE);
    }
    let set = v1::SetPolicy {
        rules: policy.rules.iter().map(ToString::to_string).collect(),
        groups: policy.groups().map(|group| group.to_string()).collect(),
        replaces,
    };
    let request_id = arguments.write.request_id.as_ref();
    operator
        .write(request_id, Operation::SetPolicy(set))
        .await?;
    note(&format!("set {}", summary(policy)));
    Ok(DONE)
}

async fn show(arguments: &AclShow) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let policy = operator.policy().await?;
    if policy.revision.is_none() {
        note("no rules were set: these are the initial ones");
    }
    match arguments.show.output {
        Format::Table | Format::Wide => {
            let lines = policy.groups.iter().chain(&policy.rules);
            output::print(&lines.map(|line| format!("{line}\n")).collect::<String>())
        }
        format => output::one(format, &policy, &[]),
    }
}

/// Reads a file of expectations; returns its name and at least one.
fn read_expectations(path: &Path) -> Result<(String, Vec<Expectation>), Failure> {
    let (name, text) = read_text(path)?;
    let wrong = |why: String| Err(Failure::failed(format!("{name}: {why}")));
    match Expectation::read_all(&text) {
        Err(error) => wrong(error.to_string()),
        Ok(all) if all.is_empty() => wrong(
            "it has no expectation; write a line such as \"denied anonymous exec *\"".to_owned(),
        ),
        Ok(all) => Ok((name, all)),
    }
}

fn test(arguments: &AclTest) -> VerbResult {
    let (name, expectations) = read_expectations(&arguments.file)?;
    match &arguments.rules {
        Some(rules) => compare(&name, &expectations, &read(rules)?),
        None => calls(test_cluster(arguments, &name, &expectations)),
    }
}

async fn test_cluster(arguments: &AclTest, name: &str, expectations: &[Expectation]) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let (policy, _) = policy_in_force(&operator).await?;
    compare(name, expectations, &policy)
}

/// Prints the expectations that a policy does not meet.
fn compare(name: &str, expectations: &[Expectation], policy: &Policy) -> VerbResult {
    let unmet = unmet(name, expectations, policy);
    output::print(&unmet.concat())?;
    let all = expectations.len();
    let s = if all == 1 { "" } else { "s" };
    match unmet.len() {
        0 => {
            note(&format!("{all} expectation{s} met"));
            Ok(DONE)
        }
        count => Err(Failure::failed(format!(
            "{count} of {all} expectation{s} not met"
        ))),
    }
}

/// Returns one line for each expectation that a policy does not meet.
fn unmet(name: &str, expectations: &[Expectation], policy: &Policy) -> Vec<String> {
    let found = expectations.iter().filter_map(|expectation| {
        let decided = expectation.unmet(policy)?;
        let line = expectation.line;
        Some(format!("{name}:{line}: {expectation}: {decided}\n"))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_locks_out_everyone_and_rules_of_empty_groups_are_found() {
        let defects = |text: &str| defects(&text.parse().unwrap());
        let good = "group admin = operator/*\ngroup ops = operator/bob\nallow group:ops exec *";
        assert_eq!(defects(good), (None, Vec::new()));
        let (wrong, hints) = defects("allow group:ops exec *\nallow operator/alice * *");
        assert_eq!(wrong, None);
        assert_eq!(hints, ["its group has no members: allow group:ops exec *"]);
        let (wrong, _) = defects("group admin =");
        assert!(wrong.unwrap().contains("lock out"));
    }

    #[test]
    fn additions_to_a_policy_are_made_once() {
        let policy = |text: &str| text.parse::<Policy>().unwrap();
        let present = policy("group admin = operator/*\nallow agent/* connect-agent *");
        let additions = "group admin = operator/ci\ngroup viewer = framework/board\n\
            allow framework/prometheus view-metrics *\nallow agent/* connect-agent *";
        let added = with(present, policy(additions));
        let wanted = "group admin = operator/* operator/ci\ngroup viewer = framework/board\n\
            allow agent/* connect-agent *\nallow framework/prometheus view-metrics *\n";
        assert_eq!(added, policy(wanted));
        assert_eq!(with(added.clone(), policy(additions)), added);
    }

    #[test]
    fn expectations_that_are_not_met_are_listed_with_file_and_line() {
        let policy = "allow operator/bob exec role:eng".parse().unwrap();
        let text = "allowed operator/bob exec role:eng\n\ndenied operator/bob exec role:eng\n";
        let expectations = Expectation::read_all(text).unwrap();
        let wanted = "expected.acl:3: denied operator/bob exec role:eng: the rule \"allow operator/bob exec role:eng\" allows it\n";
        assert_eq!(unmet("expected.acl", &expectations, &policy), [wanted]);
        let failure = compare("expected.acl", &expectations, &policy).unwrap_err();
        assert_eq!(failure.code, crate::exit::FailureCode::Failed);
        assert_eq!(failure.message, "1 of 2 expectations not met");
        assert_eq!(
            compare("expected.acl", &expectations[..1], &policy),
            Ok(DONE)
        );
    }

    #[test]
    fn a_file_without_expectations_or_with_an_invalid_line_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        for (text, wanted) in [
            ("# nothing\n\n", "expected.acl: it has no expectation"),
            (
                "denied anonymous exec *\nallow anonymous exec *\n",
                "expected.acl: line 2: ",
            ),
        ] {
            let failure = read_expectations(&write("expected.acl", text)).unwrap_err();
            assert!(failure.message.contains(wanted), "{failure}");
        }
        let absent = read_expectations(&directory.path().join("absent")).unwrap_err();
        assert!(absent.message.contains("absent: "), "{absent}");
    }

    #[test]
    fn the_help_names_every_action_in_narrow_lines() {
        let text = syntax();
        for action in Action::ALL {
            assert!(text.contains(action.as_str()), "{action}");
        }
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }
}
