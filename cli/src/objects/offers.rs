//! `offer list`.

use argosy_proto::v1;
use clap::Subcommand;

use super::{ObjectCommand, calls};
use crate::args::{ListArguments, OutputArguments};
use crate::exit::VerbResult;
use crate::operator::ClusterClient;
use crate::output::{self, ListLayout};

#[derive(Debug, Subcommand)]
pub(crate) enum OfferCommand {
    /// List the open offers
    #[command(after_help = "Examples:
  argosy offer list
  argosy offer list -o ndjson")]
    List(ListArguments),
}

impl ObjectCommand for OfferCommand {
    const ABOUT: &str = "Offers: list";
    const EXAMPLES: &str = "Examples:
  argosy offer list
  argosy offer list -o json";

    fn run(&self) -> VerbResult {
        match self {
            Self::List(arguments) => calls(list(arguments)),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::List(arguments) => Some(arguments.show),
        }
    }
}

pub(crate) async fn list(arguments: &ListArguments) -> VerbResult {
    let layout = ListLayout::new::<v1::Offer>(arguments.show.output, &arguments.view)?;
    let mut page = ClusterClient::open(&arguments.reach).offers().await?;
    layout.arrange(&mut page.offers);
    if page.offers.is_empty() && !arguments.show.output.is_json() {
        output::note("no open offers");
    }
    output::list_as(arguments.show.output, &layout, &page, &page.offers)
}
