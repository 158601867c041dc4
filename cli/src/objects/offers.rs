//! `offer list`.

use crate::args::ListArguments;
use crate::exit::VerbResult;
use crate::operator::ClusterClient;
use crate::output;

pub(crate) async fn list(arguments: &ListArguments) -> VerbResult {
    let page = ClusterClient::open(&arguments.reach).offers().await?;
    if page.offers.is_empty() && !arguments.show.output.is_json() {
        output::note("no open offers");
    }
    output::list(arguments.show.output, &page, &page.offers)
}
