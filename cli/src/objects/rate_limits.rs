//! `limit set|list|remove`: limits of the rate of calls, by principal, kind or group.

use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;
use argosy_state::access::Subject;
use argosy_state::ids::InvalidId;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{ObjectCommand, calls};
use crate::args::{ConnectionArguments, ListView, OutputArguments, WriteArguments};
use crate::exit::{DONE, VerbResult};
use crate::operator::ClusterClient;
use crate::output::{self, ListLayout, Row, note};

#[derive(Debug, Subcommand)]
pub(crate) enum LimitCommand {
    /// Set the limit of a principal, a kind of principals or a group
    #[command(after_help = "Examples:
  argosy limit set framework/web --rate 200
  argosy limit set 'operator/*' --rate 50 --burst 500")]
    Set(LimitSet),
    /// List the limits
    #[command(after_help = "Examples:
  argosy limit list
  argosy limit list -o json")]
    List(LimitList),
    /// Remove a limit
    #[command(after_help = "Examples:
  argosy limit remove framework/web
  argosy limit remove 'operator/*' --dry-run")]
    Remove(LimitRemove),
}

#[derive(Debug, Args)]
pub(crate) struct LimitSet {
    /// Callers: KIND/NAME, KIND/*, group:NAME, anonymous or everyone
    #[arg(value_parser = subject)]
    subject: Subject,
    /// Calls per second, at most 1000000
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Calls that may come at once, at most 1000000 [default: as many as in a second]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    burst: Option<u32>,
    #[command(flatten)]
    write: WriteArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct LimitList {
    #[command(flatten)]
    view: ListView,
    #[command(flatten)]
    show: OutputArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct LimitRemove {
    /// Callers whose limit is removed, as limit list shows them
    #[arg(value_parser = subject)]
    subject: Subject,
    #[command(flatten)]
    write: WriteArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

fn subject(text: &str) -> Result<Subject, String> {
    text.parse().map_err(|error: InvalidId| error.to_string())
}

impl ObjectCommand for LimitCommand {
    const ABOUT: &str = "Limits of the rate of calls: set, list, remove";
    const EXAMPLES: &str = "Examples:
  argosy limit set framework/web --rate 200
  argosy limit list";

    fn run(&self) -> VerbResult {
        match self {
            Self::Set(arguments) => calls(set(arguments)),
            Self::List(arguments) => calls(list(arguments)),
            Self::Remove(arguments) => calls(remove(arguments)),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::List(arguments) => Some(arguments.show),
            Self::Set(_) | Self::Remove(_) => None,
        }
    }
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    limits: &'a [v1::SubjectLimit],
}

impl Row for v1::SubjectLimit {
    const HEADINGS: &'static [&'static str] = &["SUBJECT", "CALLS/S", "BURST"];
    const WIDE: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        let limit = self.limit.unwrap_or_default();
        vec![
            self.subject.clone(),
            limit.calls_per_second.to_string(),
            limit.burst.to_string(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }

    fn amount(&self, heading: &str) -> Option<i64> {
        let limit = self.limit.unwrap_or_default();
        match heading {
            "CALLS/S" => Some(limit.calls_per_second.into()),
            "BURST" => Some(limit.burst.into()),
            _ => None,
        }
    }

    fn name(&self) -> String {
        self.subject.clone()
    }
}

async fn set(arguments: &LimitSet) -> VerbResult {
    let limit = v1::RateLimit {
        calls_per_second: arguments.rate,
        burst: arguments.burst.unwrap_or(arguments.rate),
    };
    let subject = &arguments.subject;
    let text = format!(
        "limit of {subject}: {} calls/s, burst {}",
        limit.calls_per_second, limit.burst
    );
    let change = (subject, Some(limit), text.as_str());
    write(change, &arguments.write, &arguments.reach).await
}

async fn remove(arguments: &LimitRemove) -> VerbResult {
    let subject = &arguments.subject;
    let change = (subject, None, &*format!("limit of {subject}: none"));
    write(change, &arguments.write, &arguments.reach).await
}

async fn write(
    (subject, limit, text): (&Subject, Option<v1::RateLimit>, &str),
    write: &WriteArguments,
    reach: &ConnectionArguments,
) -> VerbResult {
    let operator = ClusterClient::open(reach)?;
    if write.dry_run {
        note(&format!("would set {text}"));
        return Ok(DONE);
    }
    let set = v1::SetRateLimit {
        subject: subject.to_string(),
        limit,
    };
    let request_id = write.request_id.as_ref();
    operator
        .write(request_id, Operation::SetRateLimit(set))
        .await?;
    note(&format!("set {text}"));
    Ok(DONE)
}

async fn list(arguments: &LimitList) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<v1::SubjectLimit>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let mut limits = operator.rate_limits().await?;
    layout.arrange(&mut limits);
    if limits.is_empty() && !format.is_json() {
        note("no limit is set");
    }
    let page = Page { limits: &limits };
    output::list_as(format, &layout, &page, &limits)
}
