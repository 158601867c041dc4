//! `offer list`.

use argosy_proto::v1;
use clap::{Args, Subcommand};

use super::{ObjectCommand, calls};
use crate::args::{ConnectionArguments, ListView, OutputArguments};
use crate::exit::VerbResult;
use crate::operator::ClusterClient;
use crate::output::{self, ListLayout};
use crate::watching::{self, PolledRow};

#[derive(Debug, Subcommand)]
pub(crate) enum OfferCommand {
    /// List the open offers
    #[command(after_help = "Examples:
  argosy offer list --watch
  argosy offer list -o ndjson")]
    List(OfferList),
}

#[derive(Debug, Args)]
pub(crate) struct OfferList {
    /// Keep printing a line for each new offer, until Ctrl-C; the end of an offer prints none. The
    /// change feed does not have offers: they are read every second, and those that end before the
    /// next read are not seen
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    view: ListView,
    #[command(flatten)]
    show: OutputArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

impl PolledRow for v1::Offer {
    fn has_changed(&self, former: &Self) -> bool {
        self != former
    }

    fn last(self) -> Option<Self> {
        None
    }
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

async fn list(arguments: &OfferList) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<v1::Offer>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let mut page = operator.offers().await?;
    if arguments.watch {
        let again = async || Ok(operator.offers().await?.offers);
        return watching::poll((format, &layout), page.offers, again).await;
    }
    layout.arrange(&mut page.offers);
    if page.offers.is_empty() && !format.is_json() {
        output::note("no open offers");
    }
    output::list_as(format, &layout, &page, &page.offers)
}
