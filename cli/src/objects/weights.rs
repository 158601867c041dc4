//! `weight list|set`: the share of a role in the resources, relative to other roles.

use argosy_proto::v1;
use argosy_proto::v1::watch_record::Record;
use argosy_proto::v1::write_operation::Operation;
use argosy_state::ids::Role;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{ObjectCommand, calls};
use crate::args::{ConnectionArguments, ListView, OutputArguments, WriteArguments};
use crate::exit::{DONE, VerbResult};
use crate::operator::ClusterClient;
use crate::output::{self, ListLayout, Row, milli, note};
use crate::parsers::{self, Milli};
use crate::watching::{self, WatchedList};

/// The weight of a role without a record, in thousandths.
const DEFAULT_MILLI: u64 = 1_000;

#[derive(Debug, Subcommand)]
pub(crate) enum WeightCommand {
    /// List the roles whose weight is not 1
    #[command(after_help = "Examples:
  argosy weight list --watch
  argosy weight list -o json")]
    List(WeightList),
    /// Set the weight of a role: with 2, its fair share is twice that of a role with 1
    #[command(after_help = "Examples:
  argosy weight set web 2.5
  argosy weight set batch/nightly 1 --dry-run")]
    Set(WeightSet),
}

#[derive(Debug, Args)]
pub(crate) struct WeightList {
    /// Keep printing a line for each change, until Ctrl-C; the last one of a role shows that its
    /// weight is 1 again
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    view: ListView,
    #[command(flatten)]
    show: OutputArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct WeightSet {
    /// Role, as web or batch/nightly
    #[arg(value_parser = role)]
    role: Role,
    /// Number above 0, at most 1000000, with at most three decimals; 1 is the default
    #[arg(value_parser = parsers::weight, allow_negative_numbers = true)]
    weight: Milli,
    #[command(flatten)]
    write: WriteArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

fn role(text: &str) -> Result<Role, String> {
    Role::new(text).map_err(|error| error.to_string())
}

impl ObjectCommand for WeightCommand {
    const ABOUT: &str = "Weights of roles: list, set";
    const EXAMPLES: &str = "Examples:
  argosy weight list
  argosy weight set web 2.5";

    fn run(&self) -> VerbResult {
        match self {
            Self::List(arguments) => calls(list(arguments)),
            Self::Set(arguments) => calls(set(arguments)),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::List(arguments) => Some(arguments.show),
            Self::Set(_) => None,
        }
    }
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    roles: &'a [v1::RoleWeight],
}

impl Row for v1::RoleWeight {
    const HEADINGS: &'static [&'static str] = &["ROLE", "WEIGHT"];
    const WIDE: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![self.role.clone(), weight_text(self.weight_milli)]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }

    fn amount(&self, heading: &str) -> Option<i64> {
        let weight = (heading == "WEIGHT").then_some(self.weight_milli);
        weight.and_then(|weight| i64::try_from(weight).ok())
    }

    fn name(&self) -> String {
        self.role.clone()
    }
}

fn weight_text(thousandths: u64) -> String {
    milli(i64::try_from(thousandths).unwrap_or(i64::MAX))
}

/// Returns the weight of a record of the change feed. A role without a record has the default.
fn weight_of(record: v1::WatchRecord) -> Option<v1::RoleWeight> {
    match record.record {
        Some(Record::Role(role)) => Some(role),
        None => Some(v1::RoleWeight {
            role: record.id,
            weight_milli: DEFAULT_MILLI,
        }),
        Some(_) => None,
    }
}

async fn list(arguments: &WeightList) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<v1::RoleWeight>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let (mut roles, revision) = operator.weights().await?;
    layout.arrange(&mut roles);
    if arguments.watch {
        let list = WatchedList {
            kind: "role",
            filter: Vec::new(),
            revision,
        };
        let belongs = |role: &v1::RoleWeight| role.weight_milli != DEFAULT_MILLI;
        let shown = (format, &layout);
        return watching::follow(&operator, list, shown, roles, weight_of, belongs).await;
    }
    if roles.is_empty() && !format.is_json() {
        note("every role has the weight 1");
    }
    let page = Page { roles: &roles };
    output::list_as(format, &layout, &page, &roles)
}

async fn set(arguments: &WeightSet) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let role = arguments.role.to_string();
    let wanted = arguments.weight.0.unsigned_abs();
    let (weights, _) = operator.weights().await?;
    let known = weights.iter().find(|weight| weight.role == role);
    let before = known.map_or(DEFAULT_MILLI, |weight| weight.weight_milli);
    let change = format!(
        "weight of {role}: {} instead of {}",
        weight_text(wanted),
        weight_text(before)
    );
    if before == wanted {
        note(&format!(
            "weight of {role}: {} already",
            weight_text(wanted)
        ));
        return Ok(DONE);
    }
    if arguments.write.dry_run {
        note(&format!("would change {change}"));
        return Ok(DONE);
    }
    let order = v1::SetWeight {
        role,
        weight_milli: wanted,
    };
    let request_id = arguments.write.request_id.as_ref();
    operator
        .write(request_id, Operation::SetWeight(order))
        .await?;
    note(&format!("changed {change}"));
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_the_feed_removes_has_the_default_weight() {
        let weight = |record| {
            let of = v1::WatchRecord {
                kind: "role".to_owned(),
                id: "batch".to_owned(),
                record,
            };
            weight_of(of).map(|role| (role.role, role.weight_milli))
        };
        let role = v1::RoleWeight {
            role: "batch".to_owned(),
            weight_milli: 2_500,
        };
        let set = weight(Some(Record::Role(role)));
        assert_eq!(set, Some(("batch".to_owned(), 2_500)));
        assert_eq!(weight(None), Some(("batch".to_owned(), DEFAULT_MILLI)));
        assert_eq!(weight(Some(Record::Agent(v1::Agent::default()))), None);
    }
}
